//! One subscriber that never stays: it opens a session on some transport, reads for a while, is cut off in the
//! middle of something, and comes back on another one where its own records end. Its cursor is only ever that of
//! envelopes it has parsed to their end; whatever lay unread in a socket is gone, as for a client that crashed.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{CATCH_UP, Finish, Violations, publisher};
use crate::envelope::{self, Delivered, Joined, Said};
use crate::feed::{Feed, Start, Subscription, Transport};
use crate::ledger::{Entry, Ledger};
use crate::wire::{Dial, Target, WireError};

/// How long the first session may take to be joined. Only who never is waits for so long.
const JOIN: Duration = Duration::from_mins(1);

pub(super) struct Subscriber {
    subscription: Subscription,
    /// The channels' places in the plan, in the order of the subscription.
    channels: Vec<usize>,
    ledgers: Vec<Ledger>,
    /// A cursor that stands exactly where the ledgers do.
    cursor: Option<String>,
    before: Option<Transport>,
    /// How many envelopes more it will read before it crashes, whatever else has arrived with them.
    crash_after: Option<u32>,
    rng: StdRng,
    name: String,
    tally: Tally,
}

/// What a subscriber counts.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) sessions: u64,
    pub(super) switches: BTreeMap<(Transport, Transport), u64>,
    pub(super) resumed: BTreeMap<&'static str, u64>,
    pub(super) cuts: BTreeMap<&'static str, u64>,
    pub(super) violations: Violations,
}

#[derive(Deserialize)]
struct Data {
    n: u64,
}

impl Subscriber {
    pub(super) fn new(target: &Target, index: usize, names: &[String], seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        // One channel makes a WebSocket's cursor usable elsewhere; all of them make long cursors.
        let count = match index % 5 {
            0 => 1,
            1 => names.len(),
            _ => rng.random_range(1..=names.len().min(4)),
        };
        let all: Vec<usize> = (0..names.len()).collect();
        let channels: Vec<usize> = all.sample(&mut rng, count).copied().collect();
        let name = format!("subscriber-{index}");
        let subscription = Subscription {
            target: target.clone(),
            dial: Dial::default(),
            token: target.tokens.user(&name),
            channels: channels.iter().map(|index| names[*index].clone()).collect(),
            poll_wait: rng.random_range(1..20),
        };
        let ledgers = channels.iter().map(|_| Ledger::default()).collect();
        Self {
            subscription,
            channels,
            ledgers,
            cursor: None,
            before: None,
            crash_after: None,
            rng,
            name,
            tally: Tally::default(),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Its records, by the channel's place in the plan.
    pub(super) fn ledgers(&self) -> impl Iterator<Item = (usize, &Ledger)> {
        self.channels.iter().copied().zip(&self.ledgers)
    }

    pub(super) fn into_tally(self) -> Tally {
        self.tally
    }

    /// Switches until it's told the end, then stays until it has everything.
    pub(super) async fn run(mut self, mut finish: watch::Receiver<Option<Finish>>) -> Self {
        loop {
            let ending = finish.borrow().clone();
            if let Some(last) = ending {
                self.catch_up(&last).await;
                return self;
            }
            let span = self.span();
            let (transport, start) = self.choose();
            // One in four goes down in the middle of what a single read has brought: between two events of one
            // packet, or halfway through a poll's answer.
            let crashes = self.is_joined() && self.rng.random_bool(0.25);
            self.crash_after = crashes.then(|| self.rng.random_range(1..12));
            self.session(transport, &start, span, &mut finish).await;
            self.crash_after = None;
            let most = if self.rng.random_bool(0.05) { 2_000 } else { 150 };
            let pause = Duration::from_millis(self.rng.random_range(0..most));
            // The end of the run ends a pause, too.
            let _ = timeout(pause, finish.wait_for(Option::is_some)).await;
        }
    }

    /// Most sessions are short, some do not even get through their handshake.
    fn span(&mut self) -> Duration {
        let ms = match self.rng.random_range(0..10) {
            0 => self.rng.random_range(0..3),
            1..=3 => self.rng.random_range(3..60),
            4..=8 => self.rng.random_range(60..1_500),
            _ => self.rng.random_range(1_500..5_000),
        };
        Duration::from_millis(ms)
    }

    fn choose(&mut self) -> (Transport, Start) {
        let transport = *Transport::ALL.choose(&mut self.rng).expect("there are three");
        if !self.is_joined() {
            let by_query = self.rng.random_bool(0.5);
            return (transport, if by_query { Start::FreshByQuery } else { Start::Fresh });
        }
        let positions = self.ledgers.iter().filter_map(Ledger::position).collect();
        let mut ways = vec![Start::Recover(positions)];
        if let Some(cursor) = &self.cursor {
            let cursor = || cursor.clone();
            ways.push(Start::CursorByQuery(cursor()));
            match transport {
                Transport::WebSocket => ways.push(Start::CursorByJoin(cursor())),
                Transport::Sse => ways.push(Start::CursorByHeader(cursor())),
                Transport::Poll => {}
            }
        }
        (transport, ways.choose(&mut self.rng).expect("there is one at least").clone())
    }

    fn is_joined(&self) -> bool {
        self.ledgers.iter().all(|ledger| ledger.joined_at().is_some())
    }

    fn count(&mut self, transport: Transport, start: &Start) {
        self.tally.sessions += 1;
        *self.tally.resumed.entry(start.name()).or_default() += 1;
        if let Some(before) = self.before.replace(transport) {
            *self.tally.switches.entry((before, transport)).or_default() += 1;
        }
    }

    /// One session, cut after `span`. The very first goes on until it is joined, for else it would have no cursor.
    async fn session(
        &mut self,
        transport: Transport,
        start: &Start,
        span: Duration,
        finish: &mut watch::Receiver<Option<Finish>>,
    ) {
        self.count(transport, start);
        let joined = self.is_joined();
        let begun = Instant::now();
        let cut = begun + if joined { span } else { span.max(JOIN) };
        let mut feed = match timeout_at(cut, Feed::open(&self.subscription, transport, start)).await {
            Ok(Ok(feed)) => feed,
            Ok(Err(error)) => return self.violation(transport, start, &error),
            Err(_) => return self.cut("in the handshake"),
        };
        let mut envelopes = VecDeque::new();
        loop {
            let until = if self.is_joined() { begun + span } else { cut };
            let next = tokio::select! {
                next = timeout_at(until, feed.next(&mut envelopes)) => next,
                // A subscriber that has not joined yet must do so first.
                _ = finish.wait_for(Option::is_some), if self.is_joined() => break,
            };
            match next {
                Err(_) => break,
                Ok(Err(error)) => return self.violation(transport, start, &error),
                Ok(Ok(cursor)) => {
                    if let Err(error) = self.absorb(transport, &mut envelopes, cursor) {
                        return self.violation(transport, start, &error);
                    }
                    if self.crash_after == Some(0) {
                        let reset = self.rng.random_bool(0.5);
                        feed.cut(reset);
                        return self.cut("between two envelopes");
                    }
                }
            }
        }
        if !self.is_joined() {
            return self.violation(transport, start, &WireError::Timeout);
        }
        let stalled = self.rng.random_bool(0.25);
        if stalled {
            // Whatever comes now is delivered to a socket that nobody reads any more.
            sleep(Duration::from_millis(self.rng.random_range(20..400))).await;
        }
        let reset = self.rng.random_bool(0.5);
        feed.cut(reset);
        self.cut(match (stalled, reset) {
            (true, true) => "unread, by a reset",
            (true, false) => "unread, by a close",
            (false, true) => "by a reset",
            (false, false) => "by a close",
        });
    }

    /// A last session, until everything up to the last positions is there.
    async fn catch_up(&mut self, last: &[u64]) {
        let (transport, start) = self.choose();
        self.count(transport, &start);
        *self.tally.cuts.entry("at the end").or_default() += 1;
        let work = async {
            let mut feed = Feed::open(&self.subscription, transport, &start).await?;
            let mut envelopes = VecDeque::new();
            while !self.is_joined() || self.ledgers().any(|(channel, ledger)| ledger.last() < last[channel]) {
                let cursor = feed.next(&mut envelopes).await?;
                self.absorb(transport, &mut envelopes, cursor)?;
            }
            Ok(())
        };
        let ended = timeout(CATCH_UP, work).await.unwrap_or(Err(WireError::Timeout));
        if let Err(error) = ended {
            self.violation(transport, &start, &error);
        }
    }

    fn cut(&mut self, how: &'static str) {
        *self.tally.cuts.entry(how).or_default() += 1;
    }

    /// The server did something that it may not; the subscriber goes on with its next session.
    fn violation(&mut self, transport: Transport, start: &Start, error: &WireError) {
        self.cut("by the server");
        self.tally.violations.add(format!("{} on {transport}, {start:?}: {error}", self.name));
    }

    /// Takes note of what has come whole, and of the cursor behind it.
    fn absorb(
        &mut self,
        transport: Transport,
        envelopes: &mut VecDeque<Bytes>,
        cursor: Option<String>,
    ) -> Result<(), WireError> {
        let mut moved = false;
        while let Some(text) = envelopes.pop_front() {
            if let Some(left) = &mut self.crash_after {
                if *left == 0 {
                    // The rest of a poll's answer was never read, so its cursor is not ours.
                    self.cursor = None;
                    return Ok(());
                }
                *left -= 1;
            }
            match envelope::read(&text)? {
                Said::Joined(joined) => self.joined(transport, joined)?,
                Said::Message(message) => {
                    moved = true;
                    self.message(&message)?;
                }
                Said::Gap(gap) => {
                    let index = self.index(&gap.channel)?;
                    self.ledgers[index].gap(gap.first.seq);
                    self.tally.violations.add(format!("{}: a gap that need not be: {gap:?}", self.name));
                }
                Said::Error(error) => return Err(WireError::Protocol(format!("{error:?}"))),
                Said::Ack(_) | Said::Other(_) => {}
            }
        }
        match cursor {
            Some(cursor) => self.cursor = Some(cursor),
            None if !moved => {}
            // A WebSocket's messages carry no cursor: positions alone are right from now on.
            None if transport == Transport::WebSocket => self.cursor = None,
            None => return Err(WireError::Protocol("a message on an event stream without id".to_owned())),
        }
        Ok(())
    }

    fn joined(&mut self, transport: Transport, joined: Joined) -> Result<(), WireError> {
        let index = self.index(&joined.channel)?;
        // On a WebSocket the cursor of one room_joined is known to stand for one channel only.
        if transport == Transport::WebSocket && self.channels.len() == 1 {
            self.cursor = Some(joined.cursor);
        }
        let noted = self.ledgers[index].join(joined.position, joined.recovered);
        noted.map_err(|problem| WireError::Protocol(format!("{}: {problem}", joined.channel)))
    }

    fn message(&mut self, message: &Delivered<'_>) -> Result<(), WireError> {
        let index = self.index(&message.channel)?;
        let data: Data = serde_json::from_str(message.data.get())
            .map_err(|_| WireError::Protocol(format!("data that nobody sent: {}", message.data)))?;
        if message.message_id != publisher::message_id(&message.channel, data.n) {
            self.tally
                .violations
                .add(format!("{}: message {} named {}", self.name, data.n, message.message_id));
        }
        let entry = Entry { n: data.n, seq: message.seq };
        if let Err(problem) = self.ledgers[index].message(&message.epoch, message.prev, entry) {
            self.tally.violations.add(format!("{} in {}: {problem}", self.name, message.channel));
        }
        Ok(())
    }

    fn index(&self, channel: &str) -> Result<usize, WireError> {
        let found = self.subscription.channels.iter().position(|name| name == channel);
        found.ok_or_else(|| WireError::Protocol(format!("something about {channel}, which was not joined")))
    }
}
