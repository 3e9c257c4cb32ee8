//! A connection whose poll was answered, once nothing of that poll is left: it waits for the next request, whatever that
//! will be.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use crate::auth::Known;
use crate::channel::Wake;
use crate::transport::{Doorbell, Edge, Moment};

/// Nobody, for the time being.
pub struct Rest {
    wake: Wake,
    until: Moment,
    known: Option<Known>,
    /// Set as it was for the poll, if that is earlier: most often the next request is there long before.
    door: Doorbell,
}

impl Rest {
    /// One that has begun then.
    pub(super) fn new(door: Doorbell, wake: Wake, since: Moment, known: Option<Known>) -> Self {
        let until = since + door.edge().config.listen.idle_timeout;
        let mut rest = Self { wake, until, known, door };
        rest.door.ring_by(until);
        rest
    }

    /// Rings for it.
    pub fn wake(&self) -> &Wake {
        &self.wake
    }

    /// Ready when it has lasted too long, or the node goes away.
    pub fn poll_over(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while !self.door.edge().drain.has_begun() {
            ready!(self.wake.poll_rung(context));
            if self.until <= self.door.edge().bells.now() {
                break;
            }
            self.door.ring_at(self.until);
        }
        Poll::Ready(())
    }

    /// The node, and the last good token: for the next request.
    pub fn end(self) -> (Arc<Edge>, Option<Known>) {
        (Arc::clone(self.door.edge()), self.known)
    }
}
