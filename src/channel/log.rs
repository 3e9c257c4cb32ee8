//! The bounded log behind a channel: messages in order, and beside them the passing envelopes (typing, presence) that
//! only live cursors see. Only [`super::Channel`] touches it, under its lock.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Epoch, Message, Position};

/// What a log keeps. A message stays while history wants it, or while a live subscriber may still be on its way to it.
#[derive(Clone, Debug)]
pub struct Retention {
    /// Messages for history and recovery.
    pub history_size: usize,
    /// Bytes for history and recovery.
    pub history_bytes: usize,
    /// How long for history and recovery.
    pub history_ttl: Duration,
    /// How far, in bytes, a live subscriber may lag.
    pub lag_bytes: usize,
    /// How long a live subscriber may lag.
    pub lag: Duration,
}

/// Who sees a passing envelope.
#[derive(Clone, Debug)]
pub enum Audience {
    /// All users but this one.
    OthersThan(Arc<str>),
    /// Those who joined with `presence: true`.
    PresenceWatchers,
}

/// A passing envelope.
#[derive(Debug)]
pub(super) struct Passing {
    pub(super) shown: Instant,
    pub(super) audience: Audience,
    pub(super) json: Bytes,
}

/// Passing envelopes a channel holds at most: a burst of joins is one screenful; more is told as a new list.
const PASSING_MAX: usize = 256;
/// How long a passing envelope is news.
const PASSING_TTL: Duration = Duration::from_secs(10);

pub(super) struct Log {
    epoch: Epoch,
    /// Nothing at or below it is held.
    floor: u64,
    /// Where the log was begun anew: what is missing up to here was not missed for being slow.
    begun: u64,
    /// It is known to have all up to there, if that is beyond its newest message.
    whole: u64,
    pub(super) messages: VecDeque<Arc<Message>>,
    bytes: usize,
    pub(super) passing: VecDeque<Passing>,
    /// How many passing envelopes were dropped: the number of the first in `passing`.
    pub(super) passed: u64,
}

impl Log {
    pub(super) fn new(epoch: Epoch, floor: u64) -> Self {
        let (messages, passing) = (VecDeque::new(), VecDeque::new());
        Self { epoch, floor, begun: floor, whole: floor, messages, bytes: 0, passing, passed: 0 }
    }

    /// Without messages, after `floor`. Passing envelopes stay.
    pub(super) fn restart(&mut self, floor: Position) {
        self.messages = VecDeque::new();
        (self.epoch, self.floor, self.begun, self.bytes) = (floor.epoch, floor.seq, floor.seq, 0);
        self.whole = floor.seq;
    }

    pub(super) fn reach(&mut self, whole: Position) {
        if whole.epoch == self.epoch {
            self.whole = self.whole.max(whole.seq);
        }
    }

    /// The last position up to which it has all there is.
    pub(super) fn whole(&self) -> u64 {
        self.whole.max(self.head().seq)
    }

    pub(super) fn begun(&self) -> u64 {
        self.begun
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub(super) fn floor(&self) -> u64 {
        self.floor
    }

    pub(super) fn head(&self) -> Position {
        Position { epoch: self.epoch, seq: self.messages.back().map_or(self.floor, |newest| newest.seq) }
    }

    /// The oldest `seq` that is held or, when none is, the lowest that the next message can have.
    pub(super) fn first_held(&self) -> u64 {
        self.messages.front().map_or(self.floor + 1, |oldest| oldest.seq)
    }

    /// Where in `messages` those begin that are above `seq`. Most who ask have all but the newest.
    pub(super) fn first_after(&self, seq: u64) -> usize {
        match self.messages.back() {
            Some(newest) if newest.prev <= seq && seq < newest.seq => self.messages.len() - 1,
            _ => self.messages.partition_point(|message| message.seq <= seq),
        }
    }

    /// The number that the next passing envelope gets.
    pub(super) fn passing_end(&self) -> u64 {
        self.passed + self.passing.len() as u64
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.passing.is_empty()
    }

    pub(super) fn push(&mut self, message: Arc<Message>, retention: &Retention) {
        let now = message.appended;
        self.bytes += message.cost();
        self.messages.push_back(message);
        self.trim(now, retention);
    }

    pub(super) fn show(&mut self, now: Instant, audience: Audience, json: Bytes) {
        self.passing.push_back(Passing { shown: now, audience, json });
        self.trim_passing(now);
    }

    pub(super) fn trim(&mut self, now: Instant, retention: &Retention) {
        while let Some(oldest) = self.messages.front() {
            let age = now.saturating_duration_since(oldest.appended);
            let for_history = self.messages.len() <= retention.history_size
                && self.bytes <= retention.history_bytes
                && age <= retention.history_ttl;
            let for_laggards = self.bytes <= retention.lag_bytes && age <= retention.lag;
            // The newest is kept whatever its size: else nobody could ever be given it.
            let newest = self.messages.len() == 1 && age <= retention.lag;
            if for_history || for_laggards || newest {
                break;
            }
            self.bytes -= oldest.cost();
            self.floor = oldest.seq;
            self.messages.pop_front();
        }
        if self.messages.capacity() > 4 * self.messages.len() + 16 {
            self.messages.shrink_to(2 * self.messages.len());
        }
        self.trim_passing(now);
    }

    fn trim_passing(&mut self, now: Instant) {
        while let Some(oldest) = self.passing.front()
            && (self.passing.len() > PASSING_MAX || now.saturating_duration_since(oldest.shown) > PASSING_TTL)
        {
            self.passing.pop_front();
            self.passed += 1;
        }
        if self.passing.is_empty() {
            self.passing.shrink_to_fit();
        }
    }
}
