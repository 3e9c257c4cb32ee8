//! How many requests of a connection are being served, their bodies included: who waits for the last of them closes at
//! the right moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// The requests of one connection.
#[derive(Debug, Default)]
pub struct InFlight {
    count: AtomicUsize,
    begun: AtomicUsize,
    none_left: Notify,
}

/// One request; dropped when its answer's body has ended.
#[derive(Debug)]
pub struct Serving(Arc<InFlight>);

impl InFlight {
    /// Counts one more.
    pub fn begin(self: &Arc<Self>) -> Serving {
        self.count.fetch_add(1, Ordering::AcqRel);
        self.begun.fetch_add(1, Ordering::AcqRel);
        Serving(Arc::clone(self))
    }

    /// How many there have been.
    pub fn begun(&self) -> usize {
        self.begun.load(Ordering::Acquire)
    }

    /// Whether none is being served.
    pub fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// Ends each time that the last of them has.
    ///
    /// # Cancel safety
    /// Cancel safe; an end that nobody waited for is seen by the next call.
    pub async fn none_left(&self) {
        self.none_left.notified().await;
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.none_left.notify_one();
        }
    }
}
