//! A channel is a log of messages encoded once; a subscriber is a cursor into it. No I/O here, no HTTP, no bus.
//!
//! ```text
//!              floor                                 head
//!                │                                    │
//!   trimmed …    │  m41   m44   m45   m46   m50   m51 │      append ◀── bus
//!                └────────────▲───────────▲───────────┘
//!                          cursor A    cursor B              read ──▶ transport
//! ```

mod cursor;
mod history;
mod log;
mod message;
pub mod name;
mod position;
mod ringer;
mod waits;
mod wake;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

pub use cursor::{Batch, Cursor, Gap, GapReason, Item, Viewer};
pub use history::{Page, Resume};
pub use log::{Audience, Retention};
pub use message::{Message, MessageId, Publication, metadata_timestamp};
pub use name::{ChannelName, NameError};
pub use position::{Epoch, EpochError, MAX_SEQ, Position};
pub use ringer::Ringer;
pub use waits::{Life, Reader, Waits};
pub use wake::{Rung, Wake, Watch};

use log::Log;
use ringer::{Slice, Watchers};

/// How long a channel without history outlives its last subscriber: polls come and go.
const LINGER: Duration = Duration::from_mins(1);

/// One channel on this node: its log, and who wants to hear of news in it.
pub struct Channel {
    name: ChannelName,
    retention: Retention,
    log: RwLock<Log>,
    /// Counts all that was ever appended, so that a cursor can see without a lock that there is nothing new.
    version: AtomicU64,
    /// When somebody last read from it, in seconds after `created`.
    touched: AtomicU64,
    created: Instant,
    watchers: Mutex<Watchers>,
    ringer: Arc<Ringer>,
}

impl Channel {
    /// An empty channel whose log begins after `floor`: nothing at or below that position is held. `ringer` brings
    /// the news to its watchers.
    pub fn new(
        name: ChannelName,
        retention: Retention,
        ringer: &Arc<Ringer>,
        floor: Position,
        now: Instant,
    ) -> Self {
        Self {
            name,
            retention,
            log: RwLock::new(Log::new(floor.epoch, floor.seq)),
            version: AtomicU64::new(0),
            touched: AtomicU64::new(0),
            created: now,
            watchers: Mutex::default(),
            ringer: Arc::clone(ringer),
        }
    }

    /// Its name.
    pub fn name(&self) -> &ChannelName {
        &self.name
    }

    /// What it keeps.
    pub fn retention(&self) -> &Retention {
        &self.retention
    }

    /// Where the next message will be appended: the position of the newest one.
    pub fn head(&self) -> Position {
        self.log.read().head()
    }

    /// Appends a publication. The bus then calls [`Channel::ring`], once it holds no lock.
    ///
    /// `next_seq` runs under the log's lock, so that the order of positions is the order of the log.
    ///
    /// # Panics
    /// If the new position isn't above the head: a bus that did so would break every cursor.
    pub fn append(
        &self,
        now: Instant,
        publication: &Publication,
        next_seq: impl FnOnce() -> u64,
    ) -> Arc<Message> {
        let message = {
            let mut log = self.log.write();
            let head = log.head();
            let seq = next_seq();
            assert!(seq > head.seq && seq <= MAX_SEQ, "a bus gives strictly rising positions");
            let position = Position { epoch: head.epoch, seq };
            let message = Arc::new(Message::encode(publication, position, head.seq, now));
            log.push(Arc::clone(&message), &self.retention);
            message
        };
        self.version.fetch_add(1, Ordering::Release);
        message
    }

    /// Begins the log anew: `floor` is where, nothing at or below it is held, and `history` what there is already, each
    /// with its `seq` and since when it is there. Cursors of another epoch or from below the floor will be told of a gap.
    /// The bus then calls [`Channel::ring`].
    pub fn restart<'a>(
        &self,
        floor: Position,
        history: impl Iterator<Item = (&'a Publication, u64, Instant)>,
        now: Instant,
    ) {
        let mut log = self.log.write();
        log.restart(floor);
        for (publication, seq, appended) in history {
            let prev = log.head().seq;
            let position = Position { epoch: floor.epoch, seq };
            log.push(Arc::new(Message::encode(publication, position, prev, appended)), &self.retention);
        }
        log.trim(now, &self.retention);
        drop(log);
        self.version.fetch_add(1, Ordering::Release);
    }

    /// The log has all there is up to that position, though its newest message may stand far before it: who was told of
    /// that position elsewhere has missed nothing.
    pub fn reach(&self, whole: Position) {
        self.log.write().reach(whole);
    }

    /// Shows `json`, an envelope, to those whose cursor is live: typing, presence. Never stored, no position.
    pub fn show(self: &Arc<Self>, now: Instant, audience: Audience, json: Bytes) {
        self.log.write().show(now, audience, json);
        self.version.fetch_add(1, Ordering::Release);
        self.ring();
    }

    /// Drops what the retention no longer allows.
    pub fn trim(&self, now: Instant) {
        self.log.write().trim(now, &self.retention);
    }

    /// Bytes that the log holds, with its own cost per message.
    pub fn held_bytes(&self) -> usize {
        self.log.read().bytes()
    }

    /// Whether nobody needs it: nobody watches it, nor has for a while, and what it holds, if anything, is but a copy of
    /// what others keep.
    pub fn is_idle(&self, now: Instant, is_copy: bool) -> bool {
        let touched = self.created + Duration::from_secs(self.touched.load(Ordering::Relaxed));
        let linger = if is_copy { LINGER } else { self.retention.history_ttl.max(LINGER) };
        now.saturating_duration_since(touched) > linger
            && (is_copy || self.log.read().is_empty())
            && self.watchers.lock().wakes.is_empty()
    }

    /// How many connections watch it.
    pub fn watchers(&self) -> usize {
        self.watchers.lock().wakes.len()
    }

    /// From now on `wake` is served or woken after every append, until the guard is dropped.
    pub fn watch(self: &Arc<Self>, wake: &Wake) -> Watch {
        let key = self.watchers.lock().add(wake.clone());
        Watch::new(Arc::clone(self), key)
    }

    fn unwatch(&self, key: usize) {
        self.touch(tokio::time::Instant::now().into_std());
        let watchers = &mut self.watchers.lock().wakes;
        watchers.remove(key);
        if watchers.is_empty() || watchers.capacity() > 4 * watchers.len() + 64 {
            watchers.shrink_to_fit();
        }
    }

    fn touch(&self, now: Instant) {
        self.touched.store(now.saturating_duration_since(self.created).as_secs(), Ordering::Relaxed);
    }

    /// Has the ringer bring every watcher the news.
    pub fn ring(self: &Arc<Self>) {
        let (begins, count) = {
            let mut watchers = self.watchers.lock();
            (watchers.tell_all(), watchers.wakes.len())
        };
        if begins {
            self.ringer.add(Arc::clone(self), count);
        }
    }

    fn next_slice(&self, now: tokio::time::Instant, gathering: Duration, slice: &mut Vec<Wake>) -> Slice {
        self.watchers.lock().next_slice(now, gathering, slice)
    }
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channel")
            .field("name", &self.name)
            .field("head", &self.head())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
