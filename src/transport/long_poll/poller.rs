//! Who polls, from the first request that has to wait for its answer on: while it waits, and between an answer and the
//! next request. What that one would make anew, were it the same again, is kept for it a moment: whose it is, where the
//! cursors stand, that the user is there. No answer depends on that; a request that differs in a byte is read as the first
//! one was.

use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant, SystemTime};

use hyper::{HeaderMap, StatusCode};

use super::rest::Rest;
use super::said::Said;
use crate::auth::{Identity, Known, Origin, Proof};
use crate::channel::{Rung, Wake};
use crate::close::Fault;
use crate::metrics::{ActiveGuard, Transport};
use crate::transport::http::{Answer, Call, Head, Manner, Place, json, late, problem};
use crate::transport::{Doorbell, Edge, Event, Moment, Subscriptions};

/// Bytes of envelopes in one answer: the next poll comes at once for the rest.
const BATCH_BYTES: usize = 256 * 1024;
/// How long what is kept for the next request outlives an answer: a client that polls in a loop is back in less. Of the
/// 10 s that the user stays for, which begin with the answer, this is a part.
const KEPT: Duration = Duration::from_secs(3);

/// A connection's poll, or what is left of it for the next one.
pub struct Poller {
    who: Arc<Identity>,
    /// What the connection knows its token by.
    proof: Option<Proof>,
    subscriptions: Subscriptions,
    turn: Turn,
    /// The revocations that it has seen.
    seen: u32,
    wait_seconds: u8,
    /// Its request with the next cursor would be the same again, if its head is.
    pub(super) may_repeat: bool,
    /// Where its head has the cursor.
    place: Place,
    head: Option<Head>,
    /// For the page that asks.
    cors: Option<Box<Lines>>,
    door: Doorbell,
}

/// Header lines. A map of them would take 800 bytes.
struct Lines(Vec<u8>);

enum Turn {
    Waits { until: Moment, _active: ActiveGuard },
    Rests { since: Moment },
}

impl Poller {
    pub(super) fn new(
        who: Arc<Identity>,
        subscriptions: Subscriptions,
        door: Doorbell,
        active: ActiveGuard,
        wait_seconds: u8,
    ) -> Self {
        let since = door.edge().bells.now();
        let mut poller = Self {
            who,
            proof: None,
            subscriptions,
            turn: Turn::Rests { since },
            seen: 0,
            wait_seconds,
            may_repeat: false,
            place: 0,
            head: None,
            cors: None,
            door,
        };
        poller.wait(active, SystemTime::now());
        poller
    }

    /// The node that it is on.
    pub fn edge(&self) -> &Arc<Edge> {
        self.door.edge()
    }

    /// Rings for its news.
    pub fn wake(&self) -> &Wake {
        self.subscriptions.wake()
    }

    /// As [`Reader::glance`](crate::channel::Reader::glance).
    pub fn glance(&self) -> usize {
        usize::from(self.rests()) + usize::from(self.cors.is_some()) + self.subscriptions.glance()
    }

    /// Ready when there is something to say, the time is up or the node goes away. Until then nothing is `said`.
    pub fn poll_over(&mut self, context: &mut Context<'_>, said: &mut Said) -> Poll<Result<(), Fault>> {
        while said.is_empty() {
            let leaves = self.edge().drain.has_begun();
            // A bell that rings for something else than news, as it does in the beginning, brings an empty read, and the
            // next turn.
            let rung = if leaves { Rung::News } else { ready!(self.subscriptions.wake().poll_rung(context)) };
            self.door.edge().may_stay(&self.who, &mut self.seen)?;
            self.read(said)?;
            if leaves {
                break;
            }
            // Whose time is up is rung for it, but who had none.
            if let Turn::Waits { until, .. } = self.turn
                && said.is_empty()
                && (rung == Rung::Alarm || self.wait_seconds == 0)
            {
                if until <= self.edge().bells.now() {
                    break;
                }
                self.door.ring_at(until);
            }
        }
        Poll::Ready(Ok(()))
    }

    /// The news that there is, at about `now`. `None` if there is something else to see to, which [`Poller::poll_over`]
    /// does.
    pub fn news(&mut self, now: Instant) -> Option<Said> {
        let edge = self.edge();
        if edge.drain.has_begun() || self.seen != edge.revocations.generation() {
            return None;
        }
        let mut said = Said::default();
        self.read_at(&mut said, now).is_ok().then_some(said)
    }

    pub(super) fn read(&mut self, said: &mut Said) -> Result<(), Fault> {
        self.read_at(said, self.edge().now())
    }

    fn read_at(&mut self, said: &mut Said, now: Instant) -> Result<(), Fault> {
        let edge = self.door.edge();
        let mut oldest = None;
        self.subscriptions.read(edge, &self.who.user_id, BATCH_BYTES, |event, _| {
            if let (Event::Message(message), None) = (&event, oldest) {
                oldest = Some(message.appended);
            }
            said.push(event.json());
        })?;
        if let Some(appended) = oldest {
            edge.metrics.delivered(now.saturating_duration_since(appended));
        }
        Ok(())
    }

    /// The answer, once it is over.
    pub fn answer(&self, said: Said) -> Answer {
        self.count(&said);
        json(StatusCode::OK, said.into_body(|body| self.write_cursor(body)))
    }

    /// Can do without its request from now on.
    pub fn leave(&mut self, call: &Call) {
        self.proof = call
            .known
            .lock()
            .as_ref()
            .filter(|known| Arc::ptr_eq(&known.who, &self.who))
            .map(|known| known.proof);
        let origin = call.origin();
        if origin != Origin::None {
            let mut headers = HeaderMap::new();
            origin.write_cors(&mut headers);
            self.cors = Some(Box::new(Lines(late::lines(&headers))));
        }
    }

    /// All of its request was that head: the next one may be known by it.
    pub fn remember(&mut self, (head, place): (Head, Place)) {
        if self.may_repeat && (self.proof.is_some() || self.who.is_guest()) {
            (self.head, self.place) = (Some(head), place);
        }
    }

    /// The answer to a request that is there no more, or the refusal, head and all; and where in the bytes it begins.
    pub fn late_answer(&mut self, over: Result<Said, Box<Fault>>, manner: Manner) -> (Vec<u8>, usize) {
        let cors = self.cors.as_ref().map_or(late::NO_ORIGIN_LINES, |lines| &lines.0);
        match over {
            Ok(said) => {
                self.count(&said);
                let mut answer = said.finish(|body| self.write_cursor(body));
                let begin = late::put_head(&mut answer, StatusCode::OK, [late::JSON_LINES, cors], manner);
                (answer, begin)
            }
            Err(fault) => {
                self.edge().metrics.fault(Transport::Poll, fault.kind);
                let (refusal, mut body) = problem(&fault).into_parts();
                let mut answer = vec![0; late::ROOM_BYTES];
                answer.extend_from_slice(&body.take_finished());
                let lines = late::lines(&refusal.headers);
                let begin = late::put_head(&mut answer, refusal.status, [&lines, cors], manner);
                // What it stands for is not what it was.
                self.head = None;
                (answer, begin)
            }
        }
    }

    /// Whether it may wait again, now that it is answered, without being asked for from the start.
    pub fn is_known(&self) -> bool {
        self.head.is_some()
    }

    /// Whether it waits for nothing but the next request.
    pub fn rests(&self) -> bool {
        matches!(self.turn, Turn::Rests { .. })
    }

    /// Has been answered.
    pub fn rest(&mut self) {
        let since = self.edge().bells.now();
        self.turn = Turn::Rests { since };
        if self.is_known() {
            // What comes is looked for with the next request.
            self.subscriptions.wake().hush();
            self.door.ring_by(since + KEPT.min(self.door.edge().config.listen.idle_timeout));
        }
    }

    /// Ready when nothing is kept any more: it has lasted long enough, or the node goes away.
    pub fn poll_left(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Turn::Rests { since } = self.turn else { return Poll::Pending };
        while !self.edge().drain.has_begun() {
            ready!(self.subscriptions.wake().poll_alarm(context));
            let until = since + KEPT.min(self.edge().config.listen.idle_timeout);
            if until <= self.edge().bells.now() {
                break;
            }
            self.door.ring_at(until);
        }
        Poll::Ready(())
    }

    /// Whether that is its request again, with the cursor of the last answer, and nothing has changed that could make the
    /// answer another one; then it waits. What can change is asked for anew. Whatever is in doubt is said by who reads the
    /// request as if it were the first.
    pub fn waits_again(&mut self, request: &[u8]) -> bool {
        let Some(head) = self.head else { return false };
        let edge = self.door.edge();
        let now = SystemTime::now();
        let is_same = self
            .subscriptions
            .with_cursor(Some(edge.node), |cursor| edge.heads.is_again(head, self.place, request, cursor));
        let stands = is_same
            && !edge.drain.has_begun()
            && self.proof.as_ref().is_none_or(|proof| edge.authenticator.still_good(&self.who, proof, now))
            && edge.may_stay(&self.who, &mut self.seen).is_ok()
            && self.subscriptions.are_whole()
            // Last: it counts.
            && edge.quotas.of(&self.who).request().is_ok();
        if stands {
            self.subscriptions.turn_by_cursors();
            let active = edge.metrics.connection(Transport::Poll);
            self.wait(active, now);
        }
        stands
    }

    /// Leaves its channels; what it knows of its connection is for the next request.
    pub fn into_rest(self) -> Rest {
        let Self { who, proof, mut subscriptions, turn, door, .. } = self;
        let now = door.edge().bells.now();
        let since = match turn {
            Turn::Rests { since } => since,
            Turn::Waits { .. } => now,
        };
        subscriptions.have_been_left_for(now - since);
        let wake = subscriptions.wake().clone();
        Rest::new(door, wake, since, proof.map(|proof| Known { who, proof }))
    }

    fn wait(&mut self, active: ActiveGuard, now: SystemTime) {
        let patience = Duration::from_secs(self.wait_seconds.into());
        // A token that runs out ends the wait: the next poll is then refused.
        let patience = self.who.expires_after(now).map_or(patience, |left| left.min(patience));
        let until = self.edge().bells.now() + patience;
        self.door.ring_by(until);
        self.turn = Turn::Waits { until, _active: active };
    }

    fn count(&self, said: &Said) {
        self.edge().metrics.sent(Transport::Poll, said.envelopes());
    }

    fn write_cursor(&self, body: &mut Vec<u8>) {
        self.subscriptions.with_cursor(Some(self.edge().node), |cursor| body.extend_from_slice(cursor));
    }
}
