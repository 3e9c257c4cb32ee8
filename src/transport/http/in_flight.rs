//! How many requests of a connection are being served, their bodies included: who waits for the last of them closes at
//! the right moment. And how many bytes of finished answers wait for its client, which bounds how many more are made.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// The requests of one connection.
#[derive(Debug, Default)]
pub struct InFlight {
    count: AtomicUsize,
    begun: AtomicUsize,
    none_left: Notify,
    /// Bytes of answers that are finished and not yet given to the connection.
    waiting_bytes: AtomicUsize,
    taken: Notify,
}

/// One request; dropped when its answer's body has ended.
#[derive(Debug)]
pub struct Serving {
    in_flight: Arc<InFlight>,
    waiting_bytes: usize,
}

impl InFlight {
    /// Counts one more.
    pub fn begin(self: &Arc<Self>) -> Serving {
        self.count.fetch_add(1, Ordering::AcqRel);
        self.begun.fetch_add(1, Ordering::AcqRel);
        Serving { in_flight: Arc::clone(self), waiting_bytes: 0 }
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

    /// Ends when fewer than `most` bytes of answers wait for the client. An answer that is made without a pause after it
    /// is one of as many above that as there are threads.
    pub async fn room(&self, most: usize) {
        loop {
            let mut taken = pin!(self.taken.notified());
            // Before the look: what is taken in between is not missed.
            taken.as_mut().enable();
            if self.waiting_bytes.load(Ordering::Acquire) < most {
                return;
            }
            taken.await;
        }
    }
}

impl Serving {
    /// So many bytes of the answer are finished and wait.
    pub fn set_waiting(&mut self, bytes: usize) {
        let before = std::mem::replace(&mut self.waiting_bytes, bytes);
        let total = &self.in_flight.waiting_bytes;
        if bytes >= before {
            total.fetch_add(bytes - before, Ordering::AcqRel);
        } else {
            total.fetch_sub(before - bytes, Ordering::AcqRel);
            self.in_flight.taken.notify_waiters();
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.set_waiting(0);
        if self.in_flight.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.in_flight.none_left.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn there_is_room_again_when_something_was_taken() {
        let in_flight = Arc::<InFlight>::default();
        let (mut first, mut second) = (in_flight.begin(), in_flight.begin());
        first.set_waiting(60);
        assert!(in_flight.room(100).now_or_never().is_some());
        second.set_waiting(60);
        let mut room = pin!(in_flight.room(100));
        assert!(room.as_mut().now_or_never().is_none());
        first.set_waiting(50);
        assert!(room.as_mut().now_or_never().is_none());
        drop(second);
        assert!(room.now_or_never().is_some());
    }
}
