//! One client: it follows a few channels, stays at a node for a while over some transport, goes to another with
//! whatever its records hold, and does the same after any error, with a pause that grows and is never the same. It
//! follows the server's advice about when to come again. At the end it catches up, and then stays or goes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::board::Return;
use super::publisher::kind;
use super::records::Records;
use super::{Phase, Stage};
use crate::feed::{Feed, Subscription, Transport};
use crate::wire::{Dial, WireError};

/// How long it may take to be joined, before another node is tried.
const JOIN: Duration = Duration::from_secs(5);
/// How long a session may be without anything before the node counts as gone, at least; each client has its own. A
/// channel has several messages a second, but none while the bus elects a leader.
const SILENCE: Duration = Duration::from_secs(8);
/// Pauses after errors grow from the first to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));
/// How long sessions last, on an average.
const STAY_SECONDS: f64 = 12.0;
/// How often somebody polls at most; who polls at once again gets one message an answer.
const POLL_PAUSE: Duration = Duration::from_millis(150);

pub(super) struct Client {
    pub(super) records: Records,
    /// Sessions that it has had.
    pub(super) sessions: u64,
    /// How often it changed the node.
    pub(super) moves: u64,
    /// Its number.
    pub(super) index: usize,
    stage: Arc<Stage>,
    subscription: Subscription,
    node: usize,
    transport: Transport,
    failures: u32,
    told: Option<(Instant, Duration)>,
    rng: StdRng,
}

/// How a session ended.
enum End {
    /// It has had enough of it.
    Moved,
    /// Something failed; come again after that time, if the server has said one.
    Failed(String, Option<Duration>),
}

impl Client {
    pub(super) fn new(stage: &Arc<Stage>, index: usize, channels: &[usize], seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let names: Vec<String> = channels.iter().map(|index| stage.channels[*index].clone()).collect();
        let node = rng.random_range(0..stage.targets.len());
        let subscription = Subscription {
            target: stage.targets[node].clone(),
            dial: Dial::default(),
            token: stage.targets[node].tokens.user(&stage.user(index)),
            channels: names.clone(),
            poll_wait: rng.random_range(2..8),
        };
        Self {
            records: Records::new(names),
            sessions: 0,
            moves: 0,
            index,
            stage: Arc::clone(stage),
            subscription,
            node,
            transport: Transport::ALL[index % 3],
            failures: 0,
            told: None,
            rng,
        }
    }

    /// Moves about while the run lasts, catches up, and then stays connected or leaves.
    pub(super) async fn run(mut self, mut phase: watch::Receiver<Phase>) -> Self {
        while *phase.borrow() == Phase::Run {
            self.roam(&mut phase).await;
        }
        let mut feed = self.catch_up(&mut phase).await;
        feed = self.remain(feed, Phase::Leave, &mut phase).await;
        if super::stays(self.index) {
            feed = self.remain(feed, Phase::End, &mut phase).await;
        }
        if let Some(feed) = feed {
            self.cut(feed);
        }
        reached(&mut phase, Phase::End).await;
        self
    }

    fn stay(&mut self) -> Duration {
        // Exponential: at any moment a client is as likely to go as at any other.
        let uniform: f64 = self.rng.random_range(1e-3..1.0);
        Duration::from_secs_f64((-uniform.ln() * STAY_SECONDS).min(60.0))
    }

    /// One session, and the pause behind it.
    async fn roam(&mut self, phase: &mut watch::Receiver<Phase>) {
        self.records.forget_a_half_join();
        let stay = self.stay();
        let end = match self.open().await {
            Ok(mut feed) => {
                let end = self.follow(&mut feed, stay, phase).await;
                self.cut(feed);
                end
            }
            Err(error) => failed(&error, None),
        };
        self.stage.board.stands_at(self.index, None);
        let End::Failed(what, hint) = end else { return self.choose() };
        self.stage.board.error(format!("{}: {what}", self.transport));
        if let Some(hint) = hint {
            self.told = Some((Instant::now(), hint));
        }
        let most = BACKOFF.0.saturating_mul(1 << self.failures.min(10)).min(BACKOFF.1);
        let pause = hint.unwrap_or_else(|| most.mul_f64(self.rng.random_range(0.5..1.0)));
        self.failures += 1;
        self.choose();
        let _ = timeout(pause, reached(phase, Phase::CatchUp)).await;
    }

    /// Another node, or the same, and any transport.
    fn choose(&mut self) {
        let before = self.node;
        self.node = self.rng.random_range(0..self.stage.targets.len());
        if self.failures > 0 && self.node == before {
            self.node = (self.node + 1) % self.stage.targets.len();
        }
        self.moves += u64::from(self.node != before);
        self.subscription.target = self.stage.targets[self.node].clone();
        self.transport = *Transport::ALL.choose(&mut self.rng).expect("there are three");
    }

    async fn open(&mut self) -> Result<Feed, WireError> {
        self.sessions += 1;
        let starts = self.records.starts(self.transport);
        let start = starts.choose(&mut self.rng).expect("there is one at least");
        timeout(JOIN, Feed::open(&self.subscription, self.transport, start))
            .await
            .unwrap_or(Err(WireError::Timeout))
    }

    /// Reads until it is time to go, or something else ends it.
    async fn follow(&mut self, feed: &mut Feed, stay: Duration, phase: &mut watch::Receiver<Phase>) -> End {
        let until = Instant::now() + stay;
        let silence = SILENCE.mul_f64(self.rng.random_range(1.0..1.8));
        let wanted = self.subscription.channels.len();
        let mut joined = 0;
        let mut envelopes = VecDeque::new();
        loop {
            let patience = if joined < wanted { JOIN } else { silence };
            let left = until.saturating_duration_since(Instant::now());
            let next = tokio::select! {
                next = timeout(patience.min(left), feed.next(&mut envelopes)) => next,
                () = reached(phase, Phase::CatchUp) => return End::Moved,
            };
            let taken = match next {
                Err(_) if left <= patience => return End::Moved,
                Err(_) if joined < wanted => return End::Failed("no room_joined".to_owned(), None),
                Err(_) => return End::Failed("silence".to_owned(), None),
                Ok(Err(error)) => return self.broken(&error, feed),
                Ok(Ok(cursor)) => self.records.take(self.transport, &mut envelopes, cursor),
            };
            let taken = match taken {
                Ok(taken) => taken,
                Err(error) => return self.broken(&error, feed),
            };
            if let Some(refusal) = taken.refused {
                if refusal.code != 1013 {
                    self.records.violations.add(format!("client {}: {refusal:?}", self.index));
                }
                let hint = refusal.retry_after_ms.map(Duration::from_millis);
                return End::Failed(format!("error {}", refusal.code), hint);
            }
            self.note(taken.messages);
            joined += taken.joined;
            if joined >= wanted || self.transport == Transport::Poll {
                // A poll that goes on has no room_joined: its cursor says that it has.
                joined = wanted;
                self.arrived();
            }
            if self.transport == Transport::Poll {
                sleep(POLL_PAUSE.mul_f64(self.rng.random_range(0.5..1.5))).await;
            }
        }
    }

    fn arrived(&mut self) {
        self.failures = 0;
        self.stage.board.stands_at(self.index, Some(self.node));
        if let Some((told, hint)) = self.told.take() {
            self.stage.board.came_back(Return { hint, after: told.elapsed(), told });
        }
    }

    fn note(&self, messages: u64) {
        let last = self.records.ledgers().iter().map(crate::ledger::Ledger::last);
        self.stage.board.read(self.index, messages, last);
    }

    /// The end of a feed: expected where servers are killed, but not everything is.
    fn broken(&mut self, error: &WireError, feed: &Feed) -> End {
        let expected = match error {
            WireError::Io(_) | WireError::Ended(_) | WireError::Timeout => true,
            WireError::Closed { code, .. } => matches!(code, Some(1012 | 1013)),
            WireError::Refused { status, .. } => *status == 503,
            WireError::Protocol(_) => false,
        };
        if !expected {
            self.records.violations.add(format!("client {} on {}: {error}", self.index, self.transport));
        }
        failed(error, feed.retry_ms())
    }

    fn is_behind(&self, heads: &[u64]) -> bool {
        let wanted = self.stage.channels_of[self.index].iter().map(|channel| heads[*channel]);
        let has = self.records.ledgers().iter().map(crate::ledger::Ledger::last);
        !self.records.is_joined() || has.zip(wanted).any(|(last, head)| last < head)
    }

    /// More sessions, until everything is there; the last one stays open. Without one if there was no time.
    async fn catch_up(&mut self, phase: &mut watch::Receiver<Phase>) -> Option<Feed> {
        let heads = self.stage.board.heads();
        while *phase.borrow() < Phase::Leave {
            self.records.forget_a_half_join();
            self.choose();
            if self.transport == Transport::Poll && super::stays(self.index) {
                // Who polls is not there all the time.
                self.transport = Transport::WebSocket;
            }
            let all = timeout(super::CATCH_UP, self.read_up_to(&heads)).await;
            match all.unwrap_or(Err(WireError::Timeout)) {
                Ok(feed) => return Some(feed),
                Err(error) => self.stage.board.error(format!("catching up: {}", kind(&error))),
            }
            sleep(BACKOFF.1.mul_f64(self.rng.random())).await;
        }
        None
    }

    async fn read_up_to(&mut self, heads: &[u64]) -> Result<Feed, WireError> {
        let mut feed = self.open().await?;
        let (mut envelopes, mut joined) = (VecDeque::new(), 0);
        while self.is_behind(heads) || joined < self.subscription.channels.len() {
            let cursor = feed.next(&mut envelopes).await?;
            let taken = self.records.take(self.transport, &mut envelopes, cursor)?;
            joined += taken.joined;
            if self.transport == Transport::Poll {
                joined = self.subscription.channels.len();
            }
            if let Some(refusal) = taken.refused {
                return Err(WireError::Protocol(format!("{refusal:?}")));
            }
            self.note(taken.messages);
        }
        self.stage.board.stands_at(self.index, Some(self.node));
        Ok(feed)
    }

    /// Stays connected until that phase: nothing more is to come, and nothing may end it.
    async fn remain(
        &mut self,
        feed: Option<Feed>,
        until: Phase,
        phase: &mut watch::Receiver<Phase>,
    ) -> Option<Feed> {
        let mut feed = feed?;
        let mut envelopes = VecDeque::new();
        loop {
            let next = tokio::select! {
                next = feed.next(&mut envelopes) => next,
                () = reached(phase, until) => return Some(feed),
            };
            match next.and_then(|cursor| self.records.take(self.transport, &mut envelopes, cursor)) {
                Ok(taken) => self.note(taken.messages),
                Err(error) => {
                    let what = format!("client {}, while nothing happens: {error}", self.index);
                    self.records.violations.add(what);
                    return None;
                }
            }
        }
    }

    fn cut(&mut self, feed: Feed) {
        feed.cut(self.rng.random_bool(0.5));
    }
}

/// Waits for that phase; a run that is gone has reached them all.
async fn reached(phase: &mut watch::Receiver<Phase>, wanted: Phase) {
    let _ = phase.wait_for(|now| *now >= wanted).await;
}

/// What the server advises stands in the close of a WebSocket and in the `retry:` of an event stream.
fn failed(error: &WireError, retry_ms: Option<u64>) -> End {
    let hint = match error {
        WireError::Closed { reason, .. } => {
            reason.strip_prefix("restart;retry=").and_then(|ms| ms.parse().ok())
        }
        WireError::Ended(_) => retry_ms,
        _ => None,
    };
    End::Failed(kind(error), hint.map(Duration::from_millis))
}
