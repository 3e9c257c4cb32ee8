//! How a connection's task hears that one of its channels has news: one flag and one waker per connection, however
//! many channels it watches. A wake says "look", never what; many appends may become one wake.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use atomic_waker::AtomicWaker;

use super::Channel;

/// The bell of one connection.
#[derive(Debug, Default)]
pub struct Wake {
    rung: AtomicBool,
    alarm: AtomicBool,
    waker: AtomicWaker,
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

    /// Rings for something that can't wait until who is busy has time for news: a moment has come.
    pub fn alarm(&self) {
        if !self.alarm.swap(true, Ordering::AcqRel) {
            self.waker.wake();
        }
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
