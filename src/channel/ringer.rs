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

/// Rings channels. [`Ringer::run`] has to run, once or more often.
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

    /// There is news for the watchers of that channel.
    pub(super) fn add(&self, channel: Arc<Channel>, watchers: usize) {
        let mut waiting = self.waiting.lock();
        let is_looked_after = if watchers > FEW {
            waiting.many.push_back(channel);
            false
        } else {
            waiting.few.push_back(channel);
            // Who was told of the first one comes for all; of a crowd a second one takes its part.
            (2..=HELP / FEW).contains(&waiting.few.len())
        };
        drop(waiting);
        if !is_looked_after {
            self.added.notify_one();
        }
    }

    /// Rings what is to be rung, for as long as the node lives.
    ///
    /// # Cancel safety
    /// Whoever has not been woken when it is cancelled is not.
    pub async fn run(&self) {
        let mut slice = Vec::with_capacity(2 * SLICE);
        // Channels whose next round is not due yet, in the order of their news: none waits longer than the gathering for
        // one before it.
        let mut later = VecDeque::new();
        loop {
            if self.fill(&mut slice, &mut later) {
                serve(&slice).await;
                slice.clear();
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
            // There is more, or there may be.
            yield_now().await;
        }
    }

    /// Puts into `slice` who is next: of small channels, then of one large one. False if no channel waits.
    fn fill(&self, slice: &mut Vec<Wake>, later: &mut VecDeque<(Instant, Arc<Channel>)>) -> bool {
        let now = Instant::now();
        while later.front().is_some_and(|(due, _)| *due <= now) {
            self.waiting.lock().many.extend(later.pop_front().map(|(_, channel)| channel));
        }
        let mut has_found = false;
        loop {
            let next = {
                let mut waiting = self.waiting.lock();
                let few = if slice.len() < SLICE { waiting.few.pop_front() } else { None };
                few.map(|channel| (channel, false)).or_else(|| Some((waiting.many.pop_front()?, true)))
            };
            let Some((channel, is_large)) = next else { return has_found };
            has_found = true;
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
            if is_large {
                return true;
            }
        }
    }
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.few.is_empty() && self.many.is_empty()
    }
}

async fn serve(slice: &[Wake]) {
    let mut begun = Instant::now();
    for few in slice.chunks(BY_ONE_LOOK) {
        let mut now = Instant::now();
        if now - begun > TURN {
            yield_now().await;
            now = Instant::now();
            begun = now;
        }
        Wake::glance_at(few);
        for wake in few {
            wake.serve(now.into_std());
        }
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
        let gathering = if self.wakes.len() > GATHERS { gathering } else { Duration::ZERO };
        if self.left > 0 && (self.rung >= round || self.begun.is_none()) {
            if let Some(due) = self.begun.map(|begun| begun + gathering)
                && due > now
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
        let end = slice.len() + SLICE;
        while self.left > 0 && self.rung < round && slice.len() < end {
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
mod tests {
    use super::*;
    use crate::channel::{Epoch, Position, Retention, Watch};

    const GATHERING: Duration = Duration::from_millis(4);

    fn watchers(count: usize) -> Watchers {
        let mut watchers = Watchers::default();
        for _ in 0..count {
            watchers.add(Wake::default());
        }
        watchers
    }

    /// What is behind the next slice, and how many are in it.
    fn next(watchers: &mut Watchers, now: Instant) -> (Slice, usize) {
        let mut slice = Vec::new();
        let behind = watchers.next_slice(now, GATHERING, &mut slice);
        for wake in &slice {
            wake.serve(now.into_std());
        }
        (behind, slice.len())
    }

    /// As many slices as it takes; how often it was somebody's turn.
    fn ring_all(watchers: &mut Watchers, now: Instant) -> usize {
        let mut count = 0;
        loop {
            let (behind, served) = next(watchers, now);
            count += served;
            if !matches!(behind, Slice::Before(_)) {
                return count;
            }
        }
    }

    fn has_been_rung(wake: &Wake) -> bool {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        wake.poll_rung(&mut context).is_ready()
    }

    /// A channel of that ringer, and as many bells as watch it.
    fn channel(ringer: &Arc<Ringer>, watchers: usize) -> (Arc<Channel>, Vec<Watch>) {
        let retention = Retention {
            history_size: 1,
            history_bytes: 1,
            history_ttl: Duration::ZERO,
            lag_bytes: 0,
            lag: Duration::ZERO,
        };
        let floor = Position { epoch: Epoch::new(1), seq: 0 };
        let now = std::time::Instant::now();
        let channel = Arc::new(Channel::new("a".parse().unwrap(), retention, ringer, floor, now));
        let watches = (0..watchers).map(|_| channel.watch(&Wake::default())).collect();
        (channel, watches)
    }

    #[test]
    fn small_channels_come_first_and_hold_nobody_up() {
        let (ringer, mut later) = (Arc::new(Ringer::new(GATHERING)), VecDeque::new());
        let large = channel(&ringer, 300);
        let small: Vec<_> = (0..100).map(|_| channel(&ringer, 2)).collect();
        let empty = channel(&ringer, 0);
        for (channel, _) in [&large, &empty].into_iter().chain(&small) {
            channel.ring();
            channel.ring();
        }
        let mut take = || {
            let mut slice = Vec::new();
            ringer.fill(&mut slice, &mut later).then_some(slice.len())
        };
        assert_eq!(take(), Some(SLICE + SLICE), "64 of the small ones, and of the large one its slice");
        small[0].0.ring();
        assert_eq!(take(), Some(36 * 2 + 2 + SLICE));
        assert_eq!(take(), Some(300 - 2 * SLICE));
        assert_eq!(take(), None);
        // The next round of the large one is not due yet; that of a small one is.
        large.0.ring();
        small[0].0.ring();
        assert_eq!([take(), take(), take()], [Some(2), None, None]);
        std::thread::sleep(GATHERING);
        assert_eq!([take(), take()], [Some(SLICE), Some(SLICE)]);
    }

    #[test]
    fn each_is_served_once_for_all_that_has_gathered() {
        let (mut watchers, now) = (watchers(1000), Instant::now());
        assert!(watchers.tell_all());
        assert!(matches!(next(&mut watchers, now), (Slice::Before(_), SLICE)));
        assert_eq!(watchers.wakes.iter().filter(|(_, wake)| has_been_rung(wake)).count(), SLICE);
        // More news: who has been served is to be served again, after those who have not been.
        assert!(!watchers.tell_all());
        let later = now + GATHERING;
        assert_eq!(ring_all(&mut watchers, later), 1000);
        assert!(watchers.wakes.iter().all(|(_, wake)| has_been_rung(wake)));
        assert_eq!(next(&mut watchers, later), (Slice::Last, 0));
    }

    #[test]
    fn rounds_begin_some_milliseconds_apart_and_a_quiet_channel_is_not_held_back() {
        let (mut watchers, now) = (watchers(200), Instant::now());
        watchers.tell_all();
        assert_eq!(ring_all(&mut watchers, now), 200);
        assert!(watchers.tell_all());
        assert_eq!(next(&mut watchers, now), (Slice::NotBefore(now + GATHERING), 0));
        assert_eq!(ring_all(&mut watchers, now + GATHERING), 200);
        watchers.tell_all();
        assert_eq!(ring_all(&mut watchers, now + 2 * GATHERING), 200);
    }

    #[test]
    fn who_is_within_a_round_is_not_held_back_by_news() {
        let (mut watchers, now) = (watchers(300), Instant::now());
        watchers.tell_all();
        assert!(matches!(next(&mut watchers, now), (Slice::Before(_), SLICE)));
        watchers.tell_all();
        assert!(matches!(next(&mut watchers, now), (Slice::Before(_), SLICE)));
    }

    #[test]
    fn a_newcomer_for_whom_the_table_grows_costs_nobody_the_news() {
        for amid in [false, true] {
            let (mut watchers, now) = (watchers(256), Instant::now());
            watchers.wakes.shrink_to_fit();
            watchers.tell_all();
            assert!(matches!(next(&mut watchers, now), (Slice::Before(_), SLICE)));
            if !amid {
                ring_all(&mut watchers, now);
            }
            watchers.tell_all();
            watchers.add(Wake::default());
            assert!(watchers.wakes.capacity() > 256);
            assert!(ring_all(&mut watchers, now + GATHERING) >= 256, "{amid}");
        }
    }

    #[test]
    fn nothing_is_left_of_a_round_whose_watchers_have_all_gone() {
        for gathering in [Duration::ZERO, GATHERING] {
            let (mut watchers, now) = (watchers(200), Instant::now());
            watchers.tell_all();
            ring_all(&mut watchers, now);
            watchers.tell_all();
            watchers.wakes = Slab::new();
            let behind = watchers.next_slice(now, gathering, &mut Vec::new());
            assert_eq!((behind, watchers.left), (Slice::Last, 0));
        }
    }

    #[test]
    fn who_comes_and_goes_meanwhile_does_no_harm() {
        let (mut watchers, now) = (watchers(300), Instant::now());
        watchers.tell_all();
        assert!(matches!(next(&mut watchers, now), (Slice::Before(_), SLICE)));
        for key in 50..300 {
            watchers.wakes.remove(key);
        }
        watchers.wakes.shrink_to_fit();
        for _ in 0..500 {
            watchers.add(Wake::default());
        }
        watchers.tell_all();
        assert_eq!(ring_all(&mut watchers, now + GATHERING), 550);
    }
}
