//! Where a new cursor begins (live, in history, or where another one ended), and pages of history.

use std::sync::Arc;
use std::time::Instant;

use super::log::Log;
use super::{Channel, Cursor, Gap, GapReason, Message, Position};

/// Where a subscriber wants to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// With the next message.
    Live,
    /// With the newest `n` messages of history.
    History(usize),
    /// After this position. `None` where the client named an epoch that no log can have.
    After(Option<Position>),
}

/// A page of history, oldest first.
#[derive(Debug)]
pub struct Page {
    /// The log's epoch and head.
    pub head: Position,
    /// Its messages.
    pub messages: Vec<Arc<Message>>,
    /// Whether there are later ones.
    pub more: bool,
}

impl Channel {
    /// A cursor that begins there, and the gap if that place is not held any more: the cursor then stands before
    /// the oldest that is.
    pub fn begin(&self, resume: Resume, now: Instant) -> (Cursor, Option<Gap>) {
        self.touch(now);
        let log = self.log.read();
        let head = log.head();
        match resume {
            Resume::Live | Resume::History(0) => (Cursor::at(&log, head.seq), None),
            Resume::History(newest) => {
                let first = self.history_start(&log, now).max(log.messages.len().saturating_sub(newest));
                let seq = log.messages.get(first).map_or(head.seq, |message| message.prev.max(log.floor()));
                (Cursor::at(&log, seq), None)
            }
            Resume::After(Some(asked)) if asked.epoch == log.epoch() && asked.seq <= log.whole() => {
                if asked.seq >= log.floor() {
                    (Cursor::at(&log, asked.seq), None)
                } else {
                    lost(&log, GapReason::Expired)
                }
            }
            Resume::After(_) => lost(&log, GapReason::EpochChanged),
        }
    }

    /// Up to `limit` messages of history after `seq`, at most about `budget` bytes of them but at least one.
    pub fn history(&self, after: u64, limit: usize, budget: usize, now: Instant) -> Page {
        self.touch(now);
        let log = self.log.read();
        let first =
            self.history_start(&log, now).max(log.messages.partition_point(|message| message.seq <= after));
        let mut messages = Vec::new();
        let mut bytes = 0;
        let mut more = false;
        for message in log.messages.range(first..) {
            if messages.len() >= limit || (bytes > 0 && bytes + message.json.len() > budget) {
                more = true;
                break;
            }
            bytes += message.json.len();
            messages.push(Arc::clone(message));
        }
        Page { head: log.head(), messages, more }
    }

    /// Index of the first message that counts as history: the log may hold older ones for laggards.
    fn history_start(&self, log: &Log, now: Instant) -> usize {
        let retention = &self.retention;
        let by_count = log.messages.len().saturating_sub(retention.history_size);
        let by_age = log.messages.partition_point(|message| {
            now.saturating_duration_since(message.appended) > retention.history_ttl
        });
        by_count.max(by_age)
    }
}

fn lost(log: &Log, reason: GapReason) -> (Cursor, Option<Gap>) {
    let first = Position { epoch: log.epoch(), seq: log.first_held() };
    (Cursor::at(log, log.floor()), Some(Gap { first, reason }))
}
