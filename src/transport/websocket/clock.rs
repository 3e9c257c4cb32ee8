//! The moments that a WebSocket lives by: when something is due, and what was heard when. One timer serves them all.

use std::time::Duration;

use tokio::time::Instant;

use crate::transport::Edge;

/// The moments that a connection lives by.
pub struct Clock {
    /// The last time anything was heard.
    pub heard: Instant,
    /// When the next ping is due.
    pub ping_due: Instant,
    /// A ping is out since then.
    pub pinged: Option<Instant>,
    /// A message has begun to come since then.
    pub amid: Option<Instant>,
    /// A token, or a new one, has to be there by then.
    pub token_due: Option<Instant>,
    /// A drain has begun: when to go, and when the client is to come back.
    pub leave: Option<Box<(Instant, Duration)>>,
}

impl Clock {
    /// The clock of a connection that begins now.
    pub fn new(edge: &Edge, now: Instant) -> Self {
        Self {
            heard: now,
            ping_due: now + edge.config.heartbeat.interval,
            pinged: None,
            amid: None,
            token_due: Some(now + edge.config.auth.timeout),
            leave: None,
        }
    }

    /// The next moment at which something is due.
    pub fn next(&self, edge: &Edge) -> Instant {
        let dead = self.pinged.map(|at| at + edge.config.heartbeat.timeout);
        let leave = self.leave.as_ref().map(|leave| leave.0);
        let amid =
            self.amid.map(|since| since + edge.config.heartbeat.interval + edge.config.heartbeat.timeout);
        let others = [dead, leave, amid, self.token_due];
        others.into_iter().flatten().fold(self.ping_due, Instant::min)
    }
}
