//! Who brings news to the subscribers: slice by slice, each channel in its turn, small ones first, and between two slices
//! everybody else has theirs. So a channel with 100,000 members does not hold up one with two, and whoever is served is
//! given all that was appended meanwhile. Who waits is given it without its task being woken; others are woken.
//!
//! ```text
//!    watchers   0 ──────────▶ next ─────────────────── n        an append while it turns: once round from where it is
//!               served already│ still to be served              so that each is served once for all that has gathered
//! ```

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

use super::{Channel, Wake};
use slab::Slab;

/// Channels with up to so many watchers come before those with more.
const FEW: usize = 8;
/// Channels with more watchers gather what is appended for up to the gathering's time.
const GATHERS: usize = 128;
/// How many are taken at once: about a millisecond, if each is sent a message.
const SLICE: usize = 128;
/// After so long everybody else has a turn: with a backlog each is sent many messages.
const TURN: Duration = Duration::from_millis(1);
/// How many are served by one look at the clock, and at what they need.
pub(super) const BY_ONE_LOOK: usize = 8;
/// While more are still to be served another thread helps. Fewer are a matter of a few milliseconds, in which two threads
/// would mostly be in each other's way.
const HELP: usize = 512;
/// For each so many small channels that wait another thread is called.
const CROWD: usize = 64;

/// Rings channels. [`Ringer::run`] has to run, best once for each core.
#[derive(Debug, Default)]
pub struct Ringer {
    /// Rounds of one channel begin at least so far apart: what is appended in between is written at once, and a channel
    /// that is quieter than that is never held back.
    gathering: Duration,
    waiting: Mutex<Waiting>,
    added: Notify,
}

/// Channels that are to be rung, each in the order of their news.
#[derive(Debug, Default)]
struct Waiting {
    /// With few watchers.
    few: VecDeque<Arc<Channel>>,
    /// With many.
    many: VecDeque<Arc<Channel>>,
}

/// The watchers of a channel, and how far the round has come that wakes them.
#[derive(Debug, Default)]
pub(super) struct Watchers {
    pub(super) wakes: Slab<Wake>,
    /// The key that is rung next.
    next: usize,
    /// Keys that are still to be rung; 0 while nobody is.
    left: usize,
    /// Keys that have been rung since `begun`.
    rung: usize,
    /// When the last round began.
    begun: Option<Instant>,
}

impl Ringer {
    /// A ringer whose rounds of one channel begin at least so far apart.
    pub fn new(gathering: Duration) -> Self {
        Self { gathering, ..Self::default() }
    }

    /// There is news for that channel, which has so many watchers.
    pub(super) fn add(&self, channel: Arc<Channel>, watchers: usize) {
        let mut waiting = self.waiting.lock();
        let calls = if watchers > FEW {
            waiting.many.push_back(channel);
            true
        } else {
            waiting.few.push_back(channel);
            // Who is called for the first one comes for those behind it, too.
            waiting.few.len() % CROWD == 1
        };
        drop(waiting);
        if calls {
            self.added.notify_one();
        }
    }

    /// Rings what is to be rung, for as long as the node lives.
    ///
    /// # Cancel safety
    /// Whoever has not been woken when it is cancelled is not.
    pub async fn run(&self) {
        let (mut few, mut slice) = (Vec::with_capacity(BY_ONE_LOOK + FEW), Vec::with_capacity(SLICE));
        // Channels whose next round is not due yet, in the order of their news: none waits longer than the gathering for
        // one before it.
        let mut later = VecDeque::new();
        loop {
            let has_small = self.serve_small(&mut few);
            let has_large = self.next_large(&mut slice, &mut later);
            let mut begun = Instant::now();
            for some in slice.chunks(BY_ONE_LOOK) {
                let mut now = Instant::now();
                if now - begun > TURN {
                    yield_now().await;
                    self.serve_small(&mut few);
                    now = Instant::now();
                    begun = now;
                }
                serve(some, now);
            }
            slice.clear();
            if has_small || has_large {
                if self.waiting.lock().is_empty() {
                    continue;
                }
            } else {
                let mut added = pin!(self.added.notified());
                if !added.as_mut().enable() {
                    let due = later.front().map(|(due, _)| *due);
                    tokio::select! {
                        () = added => {}
                        () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
                    }
                    continue;
                }
            }
            // There is more, or somebody called meanwhile: however often that is, others have their turns.
            yield_now().await;
        }
    }

    /// Serves the watchers of small channels for a turn, a `few` at once. False if none waits.
    fn serve_small(&self, few: &mut Vec<Wake>) -> bool {
        let begun = Instant::now();
        let (mut now, mut has_served) = (begun, false);
        while now - begun < TURN {
            while few.len() < BY_ONE_LOOK
                && let Some(channel) = self.pop(|waiting| &mut waiting.few)
            {
                has_served = true;
                let behind = channel.next_slice(now, Duration::ZERO, few);
                // It may have grown.
                if behind != Slice::Last {
                    self.waiting.lock().many.push_back(channel);
                }
            }
            if few.is_empty() {
                break;
            }
            for some in few.chunks(BY_ONE_LOOK) {
                serve(some, now);
            }
            few.clear();
            now = Instant::now();
        }
        has_served
    }

    /// Puts those into `slice` who are next of the large channels. False if none waits.
    fn next_large(&self, slice: &mut Vec<Wake>, later: &mut VecDeque<(Instant, Arc<Channel>)>) -> bool {
        let now = Instant::now();
        while later.front().is_some_and(|(due, _)| *due <= now) {
            self.waiting.lock().many.extend(later.pop_front().map(|(_, channel)| channel));
        }
        let Some(channel) = self.pop(|waiting| &mut waiting.many) else { return false };
        match channel.next_slice(now, self.gathering, slice) {
            Slice::Last => {}
            Slice::Before(left) => {
                self.waiting.lock().many.push_back(channel);
                if left > HELP {
                    self.added.notify_one();
                }
            }
            Slice::NotBefore(due) => later.push_back((due, channel)),
        }
        true
    }

    fn pop(&self, queue: impl FnOnce(&mut Waiting) -> &mut VecDeque<Arc<Channel>>) -> Option<Arc<Channel>> {
        queue(&mut self.waiting.lock()).pop_front()
    }
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.few.is_empty() && self.many.is_empty()
    }
}

fn serve(few: &[Wake], now: Instant) {
    Wake::glance_at(few);
    for wake in few {
        wake.serve(now.into_std());
    }
}

/// What is behind a slice.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Slice {
    /// Nothing.
    Last,
    /// So many others, or a few less.
    Before(usize),
    /// The round before has just begun.
    NotBefore(Instant),
}

impl Watchers {
    /// There is news for all of them. Whether the ringer has to be told.
    pub(super) fn tell_all(&mut self) -> bool {
        if self.wakes.is_empty() {
            return false;
        }
        let begins = self.left == 0;
        self.left = self.wakes.capacity();
        begins
    }

    /// From now on that one is woken as well. Who comes during a round may make it longer, but nobody is left out for it.
    pub(super) fn add(&mut self, wake: Wake) -> usize {
        let before = self.wakes.capacity();
        let key = self.wakes.insert(wake);
        if self.left > 0 {
            self.left += self.wakes.capacity() - before;
        }
        key
    }

    /// Adds those to `slice` who are next.
    pub(super) fn next_slice(&mut self, now: Instant, gathering: Duration, slice: &mut Vec<Wake>) -> Slice {
        let round = self.wakes.capacity();
        // The table may have shrunk since.
        self.left = self.left.min(round);
        if self.left > 0 && (self.rung >= round || self.begun.is_none()) {
            if let Some(due) = self.begun.map(|begun| begun + gathering)
                && due > now
                && self.wakes.len() > GATHERS
            {
                return Slice::NotBefore(due);
            }
            (self.begun, self.rung) = (Some(now), 0);
        }
        // They are anywhere in memory. Looked at before they are counted, whose locks wait for each other, they come together.
        let count = self.left.min(round.saturating_sub(self.rung)).min(SLICE);
        let ahead = (self.next..round).chain(0..self.next).take(count);
        std::hint::black_box(
            ahead.filter_map(|key| self.wakes.get(key)).filter(|wake| wake.is_rung()).count(),
        );
        while self.left > 0 && self.rung < round && slice.len() < SLICE {
            if self.next >= round {
                self.next = 0;
            }
            slice.extend(self.wakes.get(self.next).cloned());
            self.next += 1;
            self.left -= 1;
            self.rung += 1;
        }
        if self.left > 0 {
            return Slice::Before(self.left);
        }
        self.rung = usize::MAX;
        Slice::Last
    }
}

#[cfg(test)]
mod tests;
