//! The moments that a WebSocket lives by: when something is due, and what was heard when. Its doorbell rings for the
//! next of them.

use std::time::Duration;

use crate::config::Heartbeat;
use crate::transport::{Edge, Moment};

/// The moments that a connection lives by.
pub struct Clock {
    /// The last time anything was heard.
    pub heard: Moment,
    /// When the next ping is due.
    pub ping_due: Moment,
    /// A ping is out since then.
    pub pinged: Option<Moment>,
    /// A message has begun to come since then.
    pub amid: Option<Moment>,
    /// A token, or a new one, has to be there by then.
    pub token_due: Option<Moment>,
    /// A drain has begun: when to go, and when the client is to come back.
    pub leave: Option<Box<(Moment, Duration)>>,
}

impl Clock {
    /// The clock of a connection that begins now.
    pub fn new(edge: &Edge) -> Self {
        let now = edge.bells.now();
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
    pub fn next(&self, edge: &Edge) -> Moment {
        let dead = self.pinged.map(|at| at + edge.config.heartbeat.timeout);
        let leave = self.leave.as_ref().map(|leave| leave.0);
        let amid =
            self.amid.map(|since| since + edge.config.heartbeat.interval + edge.config.heartbeat.timeout);
        let others = [dead, leave, amid, self.token_due];
        others.into_iter().flatten().fold(self.ping_due, Moment::min)
    }

    /// Whether the client is to be taken for dead now; `listens` whether it could be heard at all.
    pub fn is_dead(&mut self, now: Moment, heartbeat: &Heartbeat, listens: bool) -> bool {
        match self.pinged {
            Some(at) if self.heard >= at => self.pinged = None,
            Some(at) if at + heartbeat.timeout <= now => {
                // Who has to take what waits for it can't be heard; its writes have a deadline of their own.
                if listens {
                    return true;
                }
                self.pinged = None;
            }
            _ => {}
        }
        // A byte now and then is no life, either.
        self.amid.is_some_and(|since| since + heartbeat.interval + heartbeat.timeout <= now)
    }
}
