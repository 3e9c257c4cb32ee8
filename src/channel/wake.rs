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
    waker: AtomicWaker,
}

impl Wake {
    /// Rings. Costs one atomic swap if it is ringing already.
    pub fn wake(&self) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            self.waker.wake();
        }
    }

    /// Ready once after one or more [`Wake::wake`]s. Only one task may poll it.
    pub fn poll_rung(&self, context: &mut Context<'_>) -> Poll<()> {
        self.waker.register(context.waker());
        // After `register`: a ring between the two is either seen here or wakes the task.
        if self.rung.swap(false, Ordering::AcqRel) { Poll::Ready(()) } else { Poll::Pending }
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
