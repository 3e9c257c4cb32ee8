//! How a connection hears that one of its channels has news: one bell per connection, however many channels it watches.
//! A wake says "look", never what; many appends may become one wake. Who has nothing to do but wait leaves itself with its
//! bell: whoever rings for many then gives each its news there and then, and its task sleeps on.

use std::any::Any;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use atomic_waker::AtomicWaker;
use parking_lot::Mutex;

use super::Channel;

/// The bell of one connection.
#[derive(Default)]
pub struct Wake {
    rung: AtomicBool,
    alarm: AtomicBool,
    waker: AtomicWaker,
    /// Locked while its task looks, or somebody gives it news.
    reader: Mutex<Option<Box<dyn Reader>>>,
}

/// A subscriber, as far as whoever rings for it needs to know it.
pub trait Reader: Any + Send {
    /// Gives it the news of its channels, at about `now`, as its task would. Must not wait, and is no place for anything
    /// but news: whether its task has to be woken, for that or for what is left.
    fn give(&mut self, now: Instant) -> bool;
}

/// A subscriber that waits, left with its bell until `poll` is ready.
///
/// Dropping it drops the subscriber.
#[must_use]
pub struct Waits<R, F> {
    wake: Arc<Wake>,
    poll: F,
    reader: PhantomData<fn() -> R>,
}

/// What it rang for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rung {
    /// News in a channel, or anything else that who is rung has to look for.
    News,
    /// A moment has come.
    Alarm,
}

impl Wake {
    /// Rings. Costs one atomic swap if it is ringing already.
    pub fn wake(&self) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            self.waker.wake();
        }
    }

    /// Gives who waits with this bell its news at once, which is at about `now`; wakes its task if there is more to do than
    /// that, or if it does not wait here.
    pub fn serve(&self, now: Instant) {
        // Locked it is by its task, which may have looked already.
        if let Some(mut reader) = self.reader.try_lock()
            && let Some(waits) = reader.as_mut()
        {
            // A panic ends that subscriber, as one of its task would, and not whoever rings for all.
            match catch_unwind(AssertUnwindSafe(|| waits.give(now))) {
                Ok(false) => return,
                Ok(true) => {}
                Err(_) => {
                    let broken = reader.take();
                    drop(reader);
                    tracing::error!("a subscriber panicked when it was given news, and ends");
                    // What is left of it may do so again.
                    let _ = catch_unwind(AssertUnwindSafe(|| drop(broken)));
                }
            }
        }
        self.wake();
    }

    /// Rings for something that can't wait until who is busy has time for news: a moment has come.
    pub fn alarm(&self) {
        if !self.alarm.swap(true, Ordering::AcqRel) {
            self.waker.wake();
        }
    }

    /// Leaves `reader` here, whose task polls it by `poll`, until that is ready.
    pub fn leave<R, T, F>(self: Arc<Self>, reader: Box<R>, poll: F) -> Waits<R, F>
    where
        R: Reader,
        F: FnMut(&mut R, &mut Context<'_>) -> Poll<T> + Unpin,
    {
        *self.reader.lock() = Some(reader);
        Waits { wake: self, poll, reader: PhantomData }
    }

    /// From now on [`Wake::wake`] wakes nobody, until [`Wake::poll_rung`] says that it has rung: for who will look anyway.
    pub fn hush(&self) {
        self.rung.store(true, Ordering::Release);
    }

    /// Ready once after one or more [`Wake::wake`]s, and once after one or more [`Wake::alarm`]s. Only one task may poll it.
    pub fn poll_rung(&self, context: &mut Context<'_>) -> Poll<Rung> {
        self.waker.register(context.waker());
        // After `register`: a ring between the two is either seen here or wakes the task. Loaded first: most often there
        // was no alarm, and a load leaves the line to be read by the other cores.
        if self.alarm.load(Ordering::Relaxed) && self.alarm.swap(false, Ordering::AcqRel) {
            return Poll::Ready(Rung::Alarm);
        }
        if self.rung.swap(false, Ordering::AcqRel) { Poll::Ready(Rung::News) } else { Poll::Pending }
    }

    /// Ready once after one or more [`Wake::alarm`]s; what was rung for besides is left for [`Wake::poll_rung`]. Only the
    /// same task may poll it.
    pub fn poll_alarm(&self, context: &mut Context<'_>) -> Poll<()> {
        self.waker.register(context.waker());
        if self.alarm.swap(false, Ordering::AcqRel) { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Waits for news.
    ///
    /// # Cancel safety
    /// Cancel safe: the flag is taken only by the poll that returns.
    pub async fn rung(&self) {
        std::future::poll_fn(|context| self.poll_rung(context)).await;
    }
}

impl std::fmt::Debug for Wake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wake").field("rung", &self.rung).field("alarm", &self.alarm).finish_non_exhaustive()
    }
}

impl<R: Reader, T, F: FnMut(&mut R, &mut Context<'_>) -> Poll<T> + Unpin> Future for Waits<R, F> {
    /// The subscriber, and what its turn came to; nothing if giving it news has panicked.
    type Output = Option<(Box<R>, T)>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let mut left = this.wake.reader.lock();
        let reader: Option<&mut dyn Any> = left.as_deref_mut().map(|reader| reader as _);
        let Some(reader) = reader.and_then(<dyn Any>::downcast_mut) else { return Poll::Ready(None) };
        let turn = ready!((this.poll)(reader, context));
        let reader = left.take().map(|reader| reader as Box<dyn Any>);
        Poll::Ready(reader.and_then(|reader| reader.downcast().ok()).map(|reader| (reader, turn)))
    }
}

impl<R, F> Drop for Waits<R, F> {
    fn drop(&mut self) {
        // Not under the lock: what it holds may be the last of this bell.
        let reader = self.wake.reader.lock().take();
        drop(reader);
    }
}

/// While it lives, the channel's appends ring the connection's [`Wake`].
#[derive(Debug)]
pub struct Watch {
    channel: Arc<Channel>,
    key: usize,
}

impl Watch {
    /// Its place among the channel's watchers: a key beside each.
    pub const PLACE_BYTES: usize = size_of::<Arc<Wake>>() + size_of::<usize>();

    pub(super) fn new(channel: Arc<Channel>, key: usize) -> Self {
        Self { channel, key }
    }

    /// The channel that is watched.
    pub fn channel(&self) -> &Arc<Channel> {
        &self.channel
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.channel.unwatch(self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures_util::FutureExt as _;

    use super::*;

    /// Counts how often it is given news, and by its own task's turns.
    struct Counter {
        given: usize,
        wants_task: bool,
        /// Rings it.
        wake: Arc<Wake>,
        /// Known to be dropped when it is the last.
        _alive: Arc<()>,
    }

    impl Reader for Counter {
        fn give(&mut self, _: Instant) -> bool {
            self.given += 1;
            assert!(self.given < 3, "a fault of its own");
            self.wants_task
        }
    }

    impl Counter {
        fn new(wants_task: bool) -> (Box<Self>, Arc<Wake>, Arc<()>) {
            let (wake, alive) = (Arc::<Wake>::default(), Arc::new(()));
            let counter = Self { given: 0, wants_task, wake: Arc::clone(&wake), _alive: Arc::clone(&alive) };
            (Box::new(counter), wake, alive)
        }

        fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<usize> {
            self.wake.poll_rung(context).map(|_| self.given)
        }
    }

    #[tokio::test]
    async fn who_waits_is_given_news_and_its_task_sleeps_on() {
        let (counter, wake, _) = Counter::new(false);
        let mut waits = Arc::clone(&wake).leave(counter, Counter::poll_turn);
        for _ in 0..2 {
            assert!(poll_fn(|task| Poll::Ready(waits.poll_unpin(task))).await.is_pending());
            wake.serve(Instant::now());
        }
        assert!(poll_fn(|task| Poll::Ready(waits.poll_unpin(task))).await.is_pending());
        wake.wake();
        assert_eq!(waits.await.unwrap().1, 2);
    }

    #[tokio::test]
    async fn who_has_more_to_do_is_woken() {
        let (counter, wake, _) = Counter::new(true);
        let waits = Arc::clone(&wake).leave(counter, Counter::poll_turn);
        wake.serve(Instant::now());
        let (counter, given) = waits.await.unwrap();
        assert_eq!(given, 1);
        // Nobody is there to be given anything: whoever comes back looks.
        wake.serve(Instant::now());
        assert_eq!(counter.given, 1);
        assert_eq!(wake.leave(counter, Counter::poll_turn).await.unwrap().1, 1);
    }

    #[tokio::test]
    async fn a_fault_in_one_ends_that_one() {
        let (mut counter, wake, alive) = Counter::new(false);
        counter.given = 2;
        let waits = Arc::clone(&wake).leave(counter, Counter::poll_turn);
        wake.serve(Instant::now());
        assert_eq!(Arc::strong_count(&alive), 1);
        assert!(waits.await.is_none());
    }

    #[test]
    fn who_is_cancelled_while_it_waits_is_dropped() {
        let (counter, wake, alive) = Counter::new(false);
        drop(Arc::clone(&wake).leave(counter, Counter::poll_turn));
        assert_eq!((Arc::strong_count(&alive), Arc::strong_count(&wake)), (1, 1));
    }
}
