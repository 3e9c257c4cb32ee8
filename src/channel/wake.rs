//! How a connection hears that one of its channels has news: one bell per connection, however many channels it watches.
//! A wake says "look", never what; many appends may become one wake. Who has nothing to do but wait leaves itself with its
//! bell: the ringer then gives it its news there and then, and its task sleeps on.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use atomic_waker::AtomicWaker;
use parking_lot::Mutex;

use super::ringer::BY_ONE_LOOK;
use super::{Channel, Reader, Waits};

/// The bell of one connection; whoever has a clone may ring. Without a count of weak references, which nobody has, it is
/// one line of the cache: who is served waits for little else.
#[derive(Clone, Default)]
pub struct Wake(triomphe::Arc<Bell>);

#[derive(Default)]
struct Bell {
    rung: AtomicBool,
    alarm: AtomicBool,
    waker: AtomicWaker,
    /// Locked while its task looks, or somebody gives it news.
    reader: Mutex<Option<Box<dyn Reader>>>,
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
    /// What is allocated for it.
    pub const BLOCK: usize = size_of::<usize>() + size_of::<Bell>();

    /// Rings. Costs one atomic swap if it is ringing already.
    pub fn wake(&self) {
        if !self.0.rung.swap(true, Ordering::AcqRel) {
            self.0.waker.wake();
        }
    }

    /// Whether it rings and nobody has come yet.
    pub(super) fn is_rung(&self) -> bool {
        self.0.rung.load(Ordering::Relaxed)
    }

    /// Has all that serving a few will look at come from memory together.
    pub(super) fn glance_at(few: &[Self]) {
        // Each lock waits for the memory that was asked for before it, so first all are taken, then all are looked at.
        let left: [_; BY_ONE_LOOK] = std::array::from_fn(|index| few.get(index)?.0.reader.try_lock());
        let readers = left.iter().flatten().filter_map(|left| left.as_ref());
        std::hint::black_box(readers.fold(0, |seen: usize, reader| seen.wrapping_add(reader.glance())));
    }

    /// Gives who waits with this bell its news at once, which is at about `now`; wakes its task if there is more to do than
    /// that, or if it does not wait here.
    pub fn serve(&self, now: Instant) {
        // Locked it is by its task, which may have looked already.
        if let Some(mut reader) = self.0.reader.try_lock()
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
        if !self.0.alarm.swap(true, Ordering::AcqRel) {
            self.0.waker.wake();
        }
    }

    /// Leaves `reader` here, to wait.
    pub fn leave(self, reader: Box<dyn Reader>) -> Waits {
        *self.reader().lock() = Some(reader);
        Waits::at(self)
    }

    /// How many clones there are.
    #[cfg(test)]
    pub(super) fn holders(&self) -> usize {
        triomphe::Arc::strong_count(&self.0)
    }

    pub(super) fn reader(&self) -> &Mutex<Option<Box<dyn Reader>>> {
        &self.0.reader
    }

    /// From now on [`Wake::wake`] wakes nobody, until [`Wake::poll_rung`] says that it has rung: for who will look anyway.
    pub fn hush(&self) {
        self.0.rung.store(true, Ordering::Release);
    }

    /// Ready once after one or more [`Wake::wake`]s, and once after one or more [`Wake::alarm`]s. Only one task may poll it.
    pub fn poll_rung(&self, context: &mut Context<'_>) -> Poll<Rung> {
        self.0.waker.register(context.waker());
        // After `register`: a ring between the two is either seen here or wakes the task. Loaded first: most often there
        // was no alarm, and a load leaves the line to be read by the other cores.
        if self.0.alarm.load(Ordering::Relaxed) && self.0.alarm.swap(false, Ordering::AcqRel) {
            return Poll::Ready(Rung::Alarm);
        }
        if self.0.rung.swap(false, Ordering::AcqRel) { Poll::Ready(Rung::News) } else { Poll::Pending }
    }

    /// Ready once after one or more [`Wake::alarm`]s; what was rung for besides is left for [`Wake::poll_rung`]. Only the
    /// same task may poll it.
    pub fn poll_alarm(&self, context: &mut Context<'_>) -> Poll<()> {
        self.0.waker.register(context.waker());
        if self.0.alarm.swap(false, Ordering::AcqRel) { Poll::Ready(()) } else { Poll::Pending }
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
        f.debug_struct("Wake")
            .field("rung", &self.0.rung)
            .field("alarm", &self.0.alarm)
            .finish_non_exhaustive()
    }
}

/// While it lives, whoever waits with the connection's [`Wake`] hears of the channel's appends.
#[derive(Debug)]
pub struct Watch {
    channel: Arc<Channel>,
    key: usize,
}

impl Watch {
    /// Its place among the channel's watchers: a key beside each.
    pub const PLACE_BYTES: usize = size_of::<Wake>() + size_of::<usize>();

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
    use super::*;

    #[test]
    fn a_bell_is_one_line_of_the_cache() {
        const { assert!(Wake::BLOCK <= 64) }
    }
}
