//! What a connection's task is: it acts, or it waits. Who waits is left with its bell, in a box that holds all there is of
//! it; the task itself is two words then, so that an idle connection pays for no more.
//!
//! ```text
//!           ┌─────────── Reader::go_on ◀───────────┐
//!           ▼                                      │
//!         acts ────────── Wake::leave ──────────▶ waits       its turn: whatever it waits for, and news
//!           │                                      ▲
//!           ▼                                      └───────── Wake::serve: news, and its task sleeps on
//!        the end
//! ```

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use super::Wake;

/// A subscriber, as far as whoever rings for it and the task that it waits in need to know it.
///
/// [`Reader::give`] and [`Reader::poll_turn`] are called under its bell's lock: nothing may be left with that bell in
/// there, nor what was left there be dropped. [`Reader::go_on`] is called outside of it.
pub trait Reader: Send {
    /// Gives it the news of its channels, at about `now`, as its task would. Must not wait, and is no place for anything
    /// but news: whether its task has to be woken, for that or for what is left.
    fn give(&mut self, now: Instant) -> bool;

    /// Looks at what [`Reader::give`] will look at, and does nothing: it is anywhere in memory and in no cache, and who is
    /// about to serve many waits for it but once if all are looked at before. Must not panic; what it returns means nothing.
    fn glance(&self) -> usize;

    /// A turn of its task, with the news and all else that it waits for: ready when there is something to do that its
    /// place here is too small for.
    fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<()>;

    /// Does that.
    fn go_on(self: Box<Self>) -> Life;
}

/// The future of a connection's task; two words.
#[must_use]
pub enum Life {
    /// Does something, and then something else or nothing any more.
    Acts(Pin<Box<dyn Future<Output = Option<Life>> + Send>>),
    /// Waits.
    Waits(Waits),
}

/// A subscriber that waits, left with its bell, or nobody any more. Dropping it drops the subscriber.
#[must_use]
pub struct Waits(Option<Wake>);

impl Life {
    /// One that begins with that.
    pub fn acts(act: impl Future<Output = Option<Self>> + Send + 'static) -> Self {
        Self::Acts(Box::pin(act))
    }
}

impl Future for Life {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let next = match &mut *self {
                Self::Acts(act) => ready!(act.as_mut().poll(context)),
                Self::Waits(waits) => ready!(waits.poll_turn(context)),
            };
            match next {
                Some(next) => *self = next,
                None => return Poll::Ready(()),
            }
        }
    }
}

impl Waits {
    pub(super) fn at(wake: Wake) -> Self {
        Self(Some(wake))
    }

    /// Ready when it has waited enough: what it goes on with; nothing if giving it news has panicked.
    fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<Option<Life>> {
        let Some(wake) = &self.0 else { return Poll::Ready(None) };
        let mut left = wake.reader().lock();
        let Some(reader) = left.as_mut() else { return Poll::Ready(None) };
        ready!(reader.poll_turn(context));
        let reader = left.take();
        drop(left);
        // Before it goes on: it may be left there again.
        self.0 = None;
        Poll::Ready(reader.map(Reader::go_on))
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        // Not under the lock: what it holds may be the last of this bell.
        let reader = self.0.as_ref().and_then(|wake| wake.reader().lock().take());
        drop(reader);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::Arc;

    use futures_util::FutureExt as _;

    use super::*;

    /// Counts how often it is given news, and by its own task's turns.
    struct Counter {
        given: usize,
        wants_task: bool,
        /// Rings it.
        wake: Wake,
        /// What it was given when it went on, or that it is gone.
        went_on: Arc<parking_lot::Mutex<Option<usize>>>,
    }

    impl Reader for Counter {
        fn give(&mut self, _: Instant) -> bool {
            self.given += 1;
            assert!(self.given < 3, "a fault of its own");
            self.wants_task
        }

        fn glance(&self) -> usize {
            self.given
        }

        fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<()> {
            self.wake.poll_rung(context).map(|_| ())
        }

        fn go_on(self: Box<Self>) -> Life {
            *self.went_on.lock() = Some(self.given);
            let wake = self.wake.clone();
            if self.given < 2 { Life::Waits(wake.leave(self)) } else { Life::acts(async { None }) }
        }
    }

    fn waiting(wants_task: bool, given: usize) -> (Life, Wake, Arc<parking_lot::Mutex<Option<usize>>>) {
        let (wake, went_on) = (Wake::default(), Arc::default());
        let counter = Counter { given, wants_task, wake: wake.clone(), went_on: Arc::clone(&went_on) };
        let life = Life::Waits(wake.clone().leave(Box::new(counter)));
        (life, wake, went_on)
    }

    async fn is_waiting(life: &mut Life) -> bool {
        poll_fn(|task| Poll::Ready(life.poll_unpin(task))).await.is_pending()
    }

    #[tokio::test]
    async fn who_waits_is_given_news_and_its_task_sleeps_on() {
        let (mut life, wake, went_on) = waiting(false, 0);
        for _ in 0..2 {
            assert!(is_waiting(&mut life).await);
            wake.serve(Instant::now());
        }
        assert!(is_waiting(&mut life).await);
        assert_eq!(*went_on.lock(), None);
        wake.wake();
        life.await;
        assert_eq!(*went_on.lock(), Some(2));
    }

    #[tokio::test]
    async fn who_has_more_to_do_is_woken_and_waits_again() {
        let (mut life, wake, went_on) = waiting(true, 0);
        wake.serve(Instant::now());
        assert!(is_waiting(&mut life).await);
        assert_eq!(*went_on.lock(), Some(1));
        wake.serve(Instant::now());
        life.await;
        assert_eq!(*went_on.lock(), Some(2));
        // Nobody is there to be given anything.
        wake.serve(Instant::now());
        assert_eq!(Arc::strong_count(&went_on), 1);
    }

    #[tokio::test]
    async fn a_fault_in_one_ends_that_one() {
        let (life, wake, went_on) = waiting(false, 2);
        wake.serve(Instant::now());
        assert_eq!(Arc::strong_count(&went_on), 1);
        life.await;
        assert_eq!(*went_on.lock(), None);
    }

    #[test]
    fn who_is_cancelled_while_it_waits_is_dropped() {
        let (life, wake, went_on) = waiting(false, 0);
        drop(life);
        assert_eq!((Arc::strong_count(&went_on), wake.holders()), (1, 1));
    }

    #[test]
    fn a_life_is_two_words() {
        assert_eq!(size_of::<Life>(), 2 * size_of::<usize>());
    }
}
