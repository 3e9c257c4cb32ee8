//! How the log of one channel is kept up: which sequences it has, and what is done about those it has not. A message is
//! appended only behind the one that it names as its predecessor; whatever does not fit is fetched from the stream first.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::message::{self, Stored, Unreadable};
use super::stream::Stream;
use super::subject::Place;
use super::{Counts, Inner};
use crate::bus::BusError;
use crate::channel::{Channel, ChannelName, Epoch, Position, Publication};

/// How long a message may be on its way after its acknowledgement before it is fetched.
const OVERDUE: Duration = Duration::from_millis(150);
/// Pauses between attempts to fetch while the stream does not answer.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// How often a piece of a history is asked for again.
const FETCHES: u32 = 2;

/// One channel's log and what it has got of the stream.
pub(super) struct Feed {
    pub(super) name: ChannelName,
    pub(super) place: Place,
    /// Weak: the hub decides how long a channel lives.
    log: Weak<Channel>,
    state: Mutex<State>,
    /// Told when `seen` rises or the log is opened.
    moved: Notify,
    /// Held while the log is being opened.
    opening: Semaphore,
}

struct State {
    /// Whether the log is whole up to `seen`.
    open: bool,
    epoch: Epoch,
    /// The newest sequence that the log has been given.
    seen: u64,
    /// The stream's sequence up to which this channel is known to have missed nothing.
    clear: u64,
    /// The newest sequence that is known to be there.
    wanted: u64,
    /// Whether somebody is fetching.
    filling: bool,
}

/// What became of a message that came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It is in the log, or will be fetched.
    Yes,
    /// The log has had it, or the stream has begun anew.
    Stale,
    /// Something before it is missing: [`Feed::fill`] is to be run.
    Hole,
}

impl Feed {
    pub(super) fn new(channel: &Arc<Channel>, place: Place) -> Self {
        let state =
            State { open: false, epoch: channel.head().epoch, seen: 0, clear: 0, wanted: 0, filling: false };
        Self {
            name: channel.name().clone(),
            place,
            log: Arc::downgrade(channel),
            state: Mutex::new(state),
            moved: Notify::new(),
            opening: Semaphore::new(1),
        }
    }

    pub(super) fn is_of(&self, channel: &Arc<Channel>) -> bool {
        Weak::as_ptr(&self.log) == Arc::as_ptr(channel)
    }

    pub(super) fn is_open(&self) -> bool {
        self.state.lock().open
    }

    pub(super) fn has(&self, seq: u64) -> bool {
        let state = self.state.lock();
        state.open && state.seen >= seq
    }

    /// The newest sequence that the log has been given.
    pub(super) fn seen(&self) -> u64 {
        self.state.lock().seen
    }

    /// Fills the log from the stream, if it is not open; whether [`Feed::fill`] is to be run after it. The subscription
    /// must be there already: whatever is stored after this has looked comes by it.
    ///
    /// # Errors
    /// [`BusError`] when the stream does not answer.
    ///
    /// # Cancel safety
    /// A cancelled opening has changed nothing.
    pub(super) async fn open(&self, stream: &Stream, counts: &Counts) -> Result<bool, BusError> {
        let _one = self.opening.acquire().await;
        if self.is_open() {
            return Ok(false);
        }
        let epoch = stream.epoch();
        let last = stream.last(&self.place.subject).await?;
        let mut history: Vec<Stored> = Vec::new();
        let (mut leader, mut answers) = (false, 0);
        while let Some(last) = last
            && history.last().map_or(0, |stored| stored.seq) < last
        {
            answers += 1;
            let after = history.last().map_or(0, |stored| stored.seq);
            let mut more = self.fetch(stream, after, leader).await?;
            if more.is_empty() && leader {
                // It was there a moment ago, and its time was over.
                break;
            }
            leader = more.is_empty();
            history.append(&mut more);
        }
        let full = stream.is_full(history.len());
        let dropped = if full || answers > 1 { self.drop_torn(stream, &mut history).await? } else { 0 };
        let bounds = stream.bounds().await?;
        if bounds.epoch != epoch {
            return Err(BusError::unavailable("the stream has begun anew"));
        }
        let floor = match history.first() {
            Some(oldest) if full || dropped > 0 => oldest.seq - 1,
            Some(oldest) => (oldest.seq - 1).min(bounds.first - 1),
            None => (bounds.first - 1).max(dropped),
        };
        let seen = history.last().map_or(floor, |newest| newest.seq).max(last.unwrap_or(0));
        let Some(log) = self.log.upgrade() else { return Ok(false) };
        let read = self.read(epoch, &history, counts);
        let filling = {
            let mut state = self.state.lock();
            restart(&log, Position { epoch, seq: floor }, &read);
            let wanted = state.wanted.max(seen);
            *state = State { open: true, epoch, seen, clear: seen, wanted, filling: wanted > seen };
            state.filling
        };
        log.ring();
        self.moved.notify_waiters();
        Ok(filling)
    }

    /// Some messages after a sequence, asked for more than once: one lost answer must not cost all that came before.
    async fn fetch(&self, stream: &Stream, after: u64, leader: bool) -> Result<Vec<Stored>, BusError> {
        for _ in 0..FETCHES {
            if let Ok(some) = stream.after(&self.place.subject, after, leader).await {
                return Ok(some);
            }
            sleep(RETRY_MIN).await;
        }
        stream.after(&self.place.subject, after, leader).await
    }

    /// Takes out what the stream has dropped while the rest was fetched, in several answers maybe: between such messages
    /// others may be missing; behind the oldest that is still there none is. Returns the last that was taken out, or 0.
    async fn drop_torn(&self, stream: &Stream, fetched: &mut Vec<Stored>) -> Result<u64, BusError> {
        let oldest = stream.after(&self.place.subject, 0, true).await?;
        let oldest = oldest.first().map_or(u64::MAX, |oldest| oldest.seq);
        let whole = fetched.partition_point(|stored| stored.seq < oldest);
        Ok(fetched.drain(..whole).next_back().map_or(0, |torn| torn.seq))
    }

    /// The log is to be opened again: the stream has begun anew.
    pub(super) fn shut(&self) {
        let mut state = self.state.lock();
        state.open = false;
        state.wanted = 0;
    }

    /// A message that came back, with the sequence that the stream had before it on this subject.
    pub(super) fn take(&self, stored: &Stored, before: u64, counts: &Counts) -> Taken {
        let Some(log) = self.log.upgrade() else { return Taken::Yes };
        {
            let mut state = self.state.lock();
            if !state.open {
                state.wanted = state.wanted.max(stored.seq);
                return Taken::Yes;
            }
            if stored.seq <= state.seen {
                return Taken::Stale;
            }
            state.wanted = state.wanted.max(stored.seq);
            if state.filling {
                return Taken::Yes;
            }
            let publication = (before <= state.seen).then(|| self.read_one(state.epoch, stored, counts));
            let Some(Ok(publication)) = publication else {
                // Something is missing, or the message does not tell all of itself: the stream will.
                state.filling = true;
                return Taken::Hole;
            };
            if let Some(publication) = publication {
                log.append(now(), &publication, || stored.seq);
            }
            (state.seen, state.clear) = (stored.seq, stored.seq);
        }
        log.ring();
        self.moved.notify_waiters();
        Taken::Yes
    }

    /// Something up to that sequence is stored. Whether [`Feed::fill`] is to be run for it.
    pub(super) fn want(&self, seq: u64) -> bool {
        let mut state = self.state.lock();
        state.wanted = state.wanted.max(seq);
        let fill = state.open && !state.filling && state.wanted > state.seen;
        state.filling |= fill;
        fill
    }

    /// The stream had no message of this channel after the log's newest when it was at `seq`.
    pub(super) fn clear_up_to(&self, seq: u64, epoch: Epoch) {
        let mut state = self.state.lock();
        if state.open && state.epoch == epoch && !state.filling {
            state.clear = state.clear.max(seq);
        }
    }

    /// Waits until the log has that sequence; fetches it if it does not come by itself in time.
    ///
    /// # Cancel safety
    /// Nothing is lost by cancelling it.
    pub(super) async fn reach(self: &Arc<Self>, inner: &Arc<Inner>, seq: u64) {
        loop {
            let moved = self.moved.notified();
            if self.has(seq) {
                return;
            }
            if timeout(OVERDUE, moved).await.is_err() && self.want(seq) {
                inner.counts.tails.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                inner.fill(self);
            }
        }
    }

    /// Fetches from the stream what is missing, in order. To be run by whoever has set `filling`.
    pub(super) async fn fill(&self, stream: &Stream, counts: &Counts) {
        let mut pause = RETRY_MIN;
        let mut leader = false;
        while let Some((epoch, seen, clear, wanted)) = self.missing() {
            match self.fill_once(stream, counts, (epoch, seen, clear), leader).await {
                Ok(progress) => {
                    pause = RETRY_MIN;
                    if !progress && leader {
                        // The leader has no more: what was announced is gone, or has never been.
                        self.give_up(epoch, seen, wanted);
                    }
                    leader = !progress;
                }
                Err(error) => {
                    debug!(channel = %self.name, %error, "a hole can't be filled yet");
                    sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
                    pause = (pause * 2).min(RETRY_MAX);
                }
            }
        }
    }

    /// Where to go on; `None`, and nobody fills any longer, if the log has all or is not needed.
    fn missing(&self) -> Option<(Epoch, u64, u64, u64)> {
        let mut state = self.state.lock();
        let done = !state.open || state.seen >= state.wanted || self.log.strong_count() == 0;
        if done {
            state.filling = false;
            return None;
        }
        Some((state.epoch, state.seen, state.clear, state.wanted))
    }

    async fn fill_once(
        &self,
        stream: &Stream,
        counts: &Counts,
        (epoch, seen, clear): (Epoch, u64, u64),
        leader: bool,
    ) -> Result<bool, BusError> {
        let mut fetched = stream.after(&self.place.subject, seen, leader).await?;
        if fetched.is_empty() {
            return Ok(false);
        }
        // After the fetch, and each time: a busy channel with a short history goes on dropping meanwhile.
        let dropped = stream.may_have_dropped(&self.place.subject, seen, clear).await?;
        if dropped {
            self.drop_torn(stream, &mut fetched).await?;
        }
        let Some(oldest) = fetched.first() else { return Ok(true) };
        let Some(log) = self.log.upgrade() else { return Ok(true) };
        let read = self.read(epoch, &fetched, counts);
        {
            let mut state = self.state.lock();
            if !state.open || state.epoch != epoch || state.seen != seen {
                return Ok(true);
            }
            if dropped {
                warn!(channel = %self.name, after = seen, "the stream no longer has what this node has missed");
                counts.lost.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                restart(&log, Position { epoch, seq: oldest.seq - 1 }, &read);
            } else {
                for (publication, seq, _) in &read {
                    log.append(now(), publication, || *seq);
                }
            }
            let newest = fetched.last().map_or(seen, |newest| newest.seq);
            (state.seen, state.clear) = (newest, newest);
        }
        counts.filled.fetch_add(fetched.len() as u64, std::sync::atomic::Ordering::Relaxed);
        log.ring();
        self.moved.notify_waiters();
        Ok(true)
    }

    /// Not if more was announced since the stream was asked.
    fn give_up(&self, epoch: Epoch, seen: u64, wanted: u64) {
        let mut state = self.state.lock();
        if state.epoch == epoch && state.seen == seen && state.wanted == wanted {
            state.wanted = seen;
        }
    }

    fn read(&self, epoch: Epoch, stored: &[Stored], counts: &Counts) -> Vec<(Publication, u64, Instant)> {
        let now = now();
        let one = |stored: &Stored| {
            let publication = self.read_one(epoch, stored, counts).ok().flatten()?;
            // A machine that is younger than the message counts it as new.
            let appended = now.checked_sub(message::age(stored)).unwrap_or(now);
            Some((publication, stored.seq, appended))
        };
        stored.iter().filter_map(one).collect()
    }

    /// `None` for what is no message of a channel, on any node.
    fn read_one(
        &self,
        epoch: Epoch,
        stored: &Stored,
        counts: &Counts,
    ) -> Result<Option<Publication>, Unreadable> {
        match message::decode(&self.name, epoch, stored) {
            Ok(publication) => Ok(Some(publication)),
            Err(error @ Unreadable::Body(_)) => {
                counts.unreadable.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                warn!(channel = %self.name, seq = stored.seq, "a message on NATS is passed over: {error}");
                Ok(None)
            }
            Err(error @ Unreadable::Time) => Err(error),
        }
    }
}

fn restart(log: &Channel, floor: Position, history: &[(Publication, u64, Instant)]) {
    log.restart(
        floor,
        history.iter().map(|(publication, seq, appended)| (publication, *seq, *appended)),
        now(),
    );
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
mod tests {
    use async_nats::HeaderMap;

    use super::*;
    use crate::bus::nats::subject::Group;
    use crate::channel::{GapReason, Resume, Retention};

    const EPOCH: Epoch = Epoch::new(3);

    fn channel() -> Arc<Channel> {
        let retention = Retention {
            history_size: 100,
            history_bytes: usize::MAX,
            history_ttl: Duration::from_mins(10),
            lag_bytes: 0,
            lag: Duration::ZERO,
        };
        Arc::new(Channel::new(
            "chat:a".parse().unwrap(),
            retention,
            &Arc::default(),
            Position { epoch: EPOCH, seq: 0 },
            now(),
        ))
    }

    /// A feed whose log is open and has all up to 10.
    fn open(channel: &Arc<Channel>) -> Feed {
        let place = Place { subject: "s".to_owned(), shard: 0, group: Group::Bucket(0) };
        let feed = Feed::new(channel, place);
        restart(channel, Position { epoch: EPOCH, seq: 10 }, &[]);
        *feed.state.lock() =
            State { open: true, epoch: EPOCH, seen: 10, clear: 10, wanted: 10, filling: false };
        feed
    }

    fn stored(seq: u64, body: &'static str) -> Stored {
        let time = Some(std::time::SystemTime::now());
        Stored { seq, time, headers: HeaderMap::new(), payload: body.into() }
    }

    fn held(channel: &Channel) -> Vec<u64> {
        channel.history(0, 100, usize::MAX, now()).messages.iter().map(|message| message.seq).collect()
    }

    #[test]
    fn what_follows_is_appended_and_nothing_else_is() {
        let (channel, counts) = (channel(), Counts::default());
        let feed = open(&channel);
        assert_eq!(feed.take(&stored(12, "1"), 9, &counts), Taken::Yes, "9 was before the log");
        assert_eq!(feed.take(&stored(15, "1"), 12, &counts), Taken::Yes);
        assert_eq!(feed.take(&stored(15, "1"), 12, &counts), Taken::Stale);
        assert_eq!(feed.take(&stored(11, "1"), 10, &counts), Taken::Stale);
        assert_eq!(feed.take(&stored(20, "1"), 17, &counts), Taken::Hole);
        assert_eq!(feed.take(&stored(21, "1"), 20, &counts), Taken::Yes, "to be fetched with the others");
        assert_eq!(held(&channel), [12, 15]);
        assert_eq!(feed.missing(), Some((EPOCH, 15, 15, 21)));
        assert!(!feed.want(22), "one fetches already");
        assert_eq!(feed.state.lock().wanted, 22);
    }

    #[test]
    fn what_is_no_json_is_passed_over_and_leaves_no_hole() {
        let (channel, counts) = (channel(), Counts::default());
        let feed = open(&channel);
        assert_eq!(feed.take(&stored(11, "{"), 10, &counts), Taken::Yes);
        assert_eq!(feed.take(&stored(12, "1"), 11, &counts), Taken::Yes);
        assert_eq!(held(&channel), [12]);
        assert_eq!(counts.unreadable.load(std::sync::atomic::Ordering::Relaxed), 1);
    }

    #[test]
    fn what_does_not_tell_its_time_is_fetched() {
        let (channel, counts) = (channel(), Counts::default());
        let feed = open(&channel);
        let message = Stored { time: None, ..stored(11, "1") };
        assert_eq!(feed.take(&message, 10, &counts), Taken::Hole);
        assert_eq!(held(&channel), [0; 0]);
    }

    #[test]
    fn what_comes_before_the_log_is_open_is_remembered() {
        let (channel, counts) = (channel(), Counts::default());
        let feed = open(&channel);
        feed.shut();
        assert_eq!(feed.take(&stored(30, "1"), 29, &counts), Taken::Yes);
        assert_eq!((feed.state.lock().wanted, held(&channel)), (30, vec![]));
        assert_eq!(feed.missing(), None, "whoever opens it fetches");
    }

    #[test]
    fn what_was_announced_and_is_nowhere_is_given_up() {
        let (channel, counts) = (channel(), Counts::default());
        let feed = open(&channel);
        assert!(feed.want(40));
        assert_eq!(feed.take(&stored(45, "1"), 44, &counts), Taken::Yes);
        feed.give_up(EPOCH, 10, 40);
        assert_eq!(feed.missing(), Some((EPOCH, 10, 10, 45)), "what has come meanwhile is still fetched");
        feed.give_up(EPOCH, 10, 45);
        assert_eq!(feed.missing(), None);
        assert_eq!(feed.take(&stored(46, "1"), 10, &counts), Taken::Yes);
    }

    #[test]
    fn a_channel_that_nobody_has_is_not_kept_alive() {
        let channel = channel();
        let (feed, counts) = (open(&channel), Counts::default());
        assert!(feed.is_of(&channel) && !feed.is_of(&self::channel()));
        drop(channel);
        assert_eq!(feed.take(&stored(11, "1"), 10, &counts), Taken::Yes);
        assert!(feed.want(50));
        assert_eq!(feed.missing(), None);
    }

    #[test]
    fn a_log_that_is_begun_anew_tells_its_cursors_so() {
        let channel = channel();
        let _feed = open(&channel);
        let (mut cursor, _) = channel.begin(Resume::Live, now());
        restart(&channel, Position { epoch: EPOCH, seq: 50 }, &[]);
        let viewer = crate::channel::Viewer { user_id: "a", presence: false };
        let gap = channel.read(&mut cursor, viewer, 1000, |_| {}).unwrap_err();
        assert_eq!((gap.reason, gap.first.seq), (GapReason::Expired, 51), "it was not slow");
        restart(&channel, Position { epoch: Epoch::new(4), seq: 0 }, &[]);
        let gap = channel.read(&mut cursor, viewer, 1000, |_| {}).unwrap_err();
        assert_eq!(gap.reason, GapReason::EpochChanged);
    }
}
