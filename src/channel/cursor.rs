//! A subscriber's place in a channel, and the one read by which history, recovery and live delivery all happen.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::log::{Audience, Log};
use super::{Channel, Epoch, Message, Position};

/// Where a subscriber stands. Plain data: it holds nothing back, and a log may run away from it.
#[derive(Clone, Copy, Debug)]
pub struct Cursor {
    pub(super) epoch: Epoch,
    /// The last message that was read.
    pub(super) seq: u64,
    /// The number of the next passing envelope.
    pub(super) passing: u64,
    /// The channel's version when there was nothing more to read.
    pub(super) version: u64,
}

/// Who looks, as far as passing envelopes care.
#[derive(Clone, Copy, Debug)]
pub struct Viewer<'a> {
    /// The subscriber's user.
    pub user_id: &'a str,
    /// Whether it asked for `presence_update`s.
    pub presence: bool,
}

/// One thing read, in order.
#[derive(Clone, Copy, Debug)]
pub enum Item<'a> {
    /// A stored message; the cursor now stands on it.
    Message(&'a Arc<Message>),
    /// The JSON of a passing envelope.
    Passing(&'a [u8]),
}

/// What a read ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Whether there is more to read now.
    pub more: bool,
    /// Whether passing envelopes were lost to this cursor, so that its presence list is no longer right.
    pub missed_passing: bool,
}

/// Why messages are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapReason {
    /// They are no longer held.
    Expired,
    /// The log was lost and begun again.
    EpochChanged,
    /// They went by before this subscriber came for them.
    SlowConsumer,
}

impl GapReason {
    /// As the `gap` envelope says it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::EpochChanged => "epoch_changed",
            Self::SlowConsumer => "slow_consumer",
        }
    }
}

/// Messages that a cursor needed are not there. To be told to the subscriber, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the log no longer holds what the cursor needs ({reason:?}); it goes on from {first:?}")]
pub struct Gap {
    /// The first position that is held, or that the next message can have when none is.
    pub first: Position,
    /// Why.
    pub reason: GapReason,
}

impl Cursor {
    /// The position of the last message that was read.
    pub fn position(&self) -> Position {
        Position { epoch: self.epoch, seq: self.seq }
    }

    /// The number of the next passing envelope, for a poll that goes on where the last one ended.
    pub fn passing(&self) -> u64 {
        self.passing
    }

    /// Whether it has read the same stored messages as `other` in the same channel.
    pub fn stands_beside(&self, other: &Self) -> bool {
        (self.epoch, self.seq) == (other.epoch, other.seq)
    }

    /// Goes on with passing envelopes from there: what a cursor string of this very log has kept.
    #[must_use]
    pub fn with_passing(self, passing: u64) -> Self {
        Self { passing: passing.min(self.passing), ..self }
    }

    pub(super) fn at(log: &Log, seq: u64) -> Self {
        Self { epoch: log.epoch(), seq, passing: log.passing_end(), version: u64::MAX }
    }
}

impl Channel {
    /// Counts what was ever appended or shown: as long as it is the same, reads give the same.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Whether a read could find something. Costs one atomic load.
    pub fn has_news(&self, cursor: &Cursor) -> bool {
        self.version() != cursor.version
    }

    /// Whether all is held that lies after the cursor.
    pub fn holds(&self, cursor: &Cursor) -> bool {
        let log = self.log.read();
        cursor.epoch == log.epoch() && cursor.seq >= log.floor()
    }

    /// Gives `take` what lies after the cursor, in order, and moves the cursor behind it, until about `budget` bytes
    /// are given or nothing is left. At least one item is given if there is one.
    ///
    /// # Errors
    /// [`Gap`] if the log has run away from the cursor; the cursor then stands before the oldest that is held.
    pub fn read(
        &self,
        cursor: &mut Cursor,
        viewer: Viewer<'_>,
        budget: usize,
        mut take: impl FnMut(Item<'_>),
    ) -> Result<Batch, Gap> {
        // Before the log is looked at: what is appended after this makes the versions differ.
        let version = self.version();
        let log = self.log.read();
        if cursor.epoch != log.epoch() || cursor.seq < log.floor() {
            let reason = match cursor.epoch == log.epoch() {
                false => GapReason::EpochChanged,
                true if cursor.seq < log.begun() => GapReason::Expired,
                true => GapReason::SlowConsumer,
            };
            let first = Position { epoch: log.epoch(), seq: log.first_held() };
            *cursor = Cursor::at(&log, log.floor());
            return Err(Gap { first, reason });
        }
        let mut given = 0;
        if log.head().seq > cursor.seq {
            for message in log.messages.range(log.first_after(cursor.seq)..) {
                if given >= budget {
                    return Ok(Batch { more: true, missed_passing: false });
                }
                take(Item::Message(message));
                given += message.json.len();
                cursor.seq = message.seq;
            }
        }
        let missed_passing = cursor.passing < log.passed && viewer.presence;
        let skip = cursor.passing.saturating_sub(log.passed);
        cursor.passing = log.passing_end();
        for passing in log.passing.iter().skip(usize::try_from(skip).unwrap_or(usize::MAX)) {
            let visible = match &passing.audience {
                Audience::OthersThan(user_id) => **user_id != *viewer.user_id,
                Audience::PresenceWatchers => viewer.presence && !missed_passing,
            };
            if visible {
                take(Item::Passing(&passing.json));
            }
        }
        cursor.version = version;
        Ok(Batch { more: false, missed_passing })
    }
}
