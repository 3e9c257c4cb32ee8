//! The long-poll transport: each answer is a function of the cursor it is asked with. Nothing stays on the node but the
//! presence of who polls.

use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::{HeaderMap, StatusCode};

use super::http::{Answer, Call, Manner, Opening, Query, json, late, problem};
use super::{Caller, Doorbell, Edge, Event, Moment, Subscriptions};
use crate::auth::{Identity, Known, Origin, Proof};
use crate::channel::Wake;
use crate::close::Fault;
use crate::metrics::{ActiveGuard, Transport};
use crate::presence::Lease;

/// How long a poll waits if it does not say, and how long it may say.
const WAIT_SECONDS: u64 = 25;
const WAIT_SECONDS_MAX: u64 = 60;
/// Bytes of envelopes in one answer: the next poll comes at once for the rest.
const BATCH_BYTES: usize = 256 * 1024;

/// Begins to answer `GET /v1/poll`.
///
/// # Errors
/// The refusal.
pub async fn poll(call: &Call) -> Result<Waiting, Fault> {
    let query = call.query();
    let (caller, opening) = admit(call, &query).await?;
    let patience = patience(query.number("wait")?);
    let edge = &caller.edge;
    let active = edge.metrics.connection(Transport::Poll);
    let mut subscriptions = Subscriptions::new();
    // Who comes with a cursor for a channel knows already where it stands.
    // Boxed, or all that a join may wait for would be moved around with the request.
    let mut envelopes = Box::pin(caller.join_again(&mut subscriptions, &opening, Lease::Poll)).await?;
    subscriptions.turn_by_cursors();
    let Caller { edge, who, .. } = caller;
    // A token that runs out ends the wait: the next poll is then refused.
    let patience = who.expires_in().map_or(patience, |left| left.min(patience));
    let mut door = Doorbell::new(&edge, subscriptions.wake());
    door.belongs_to(&who);
    let deadline = edge.bells.now() + patience;
    door.ring_at(deadline);
    if !envelopes.is_empty() {
        // Else it is read when it waits: a join rings.
        read(&edge, &who, &mut subscriptions, &mut envelopes)?;
    }
    let envelopes = envelopes.into();
    Ok(Waiting {
        edge,
        who,
        proof: None,
        subscriptions,
        envelopes,
        deadline,
        seen: 0,
        cors: None,
        door,
        _active: active,
    })
}

/// Header lines. A map of them would take 800 bytes.
struct Lines(Vec<u8>);

/// A poll on its way to an answer.
pub struct Waiting {
    edge: Arc<Edge>,
    who: Arc<Identity>,
    /// What the connection knows its token by.
    proof: Option<Proof>,
    subscriptions: Subscriptions,
    /// What there is to say: nothing while it waits.
    envelopes: Box<[Bytes]>,
    deadline: Moment,
    /// The revocations that it has seen.
    seen: u32,
    /// For the page that asks.
    cors: Option<Box<Lines>>,
    door: Doorbell,
    _active: ActiveGuard,
}

impl Waiting {
    /// The node that it is on.
    pub fn edge(&self) -> &Arc<Edge> {
        &self.edge
    }

    /// Ready when there is something to say, the time is up or the node goes away.
    pub fn poll_over(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        while self.envelopes.is_empty() {
            let edge = &self.edge;
            let leaves = edge.drain.has_begun();
            // A bell that rings for something else than news, as it does in the beginning, brings an empty read, and the
            // next turn.
            if !leaves {
                ready!(self.subscriptions.wake().poll_rung(context));
            }
            edge.may_stay(&self.who, &mut self.seen)?;
            let mut envelopes = Vec::new();
            read(edge, &self.who, &mut self.subscriptions, &mut envelopes)?;
            self.envelopes = envelopes.into();
            if leaves || self.deadline <= edge.bells.now() {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// The answer, once it is over.
    pub fn answer(&mut self) -> Answer {
        let cursor = self.said();
        let mut body = Vec::with_capacity(body_bytes(&self.envelopes, &cursor));
        write_body(&mut body, &self.envelopes, &cursor);
        json(StatusCode::OK, body)
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

    /// The answer to a request that is there no more, or the refusal, head and all.
    pub fn late_answer(&mut self, over: Result<(), Box<Fault>>, manner: Manner) -> Vec<u8> {
        let cors = self.cors.take();
        let cors = cors.as_ref().map_or(late::NO_ORIGIN_LINES, |lines| &lines.0);
        if let Err(fault) = over {
            self.edge.metrics.fault(Transport::Poll, fault.kind);
            let (refusal, mut body) = problem(&fault).into_parts();
            let body = body.take_finished();
            let mut answer =
                late::head(refusal.status, [&late::lines(&refusal.headers), cors], manner, body.len());
            answer.extend_from_slice(&body);
            return answer;
        }
        let cursor = self.said();
        let length = body_bytes(&self.envelopes, &cursor);
        let mut answer = late::head(StatusCode::OK, [late::JSON_LINES, cors], manner, length);
        write_body(&mut answer, &self.envelopes, &cursor);
        answer
    }

    /// Leaves its channels; what it knows of its connection is for the next request.
    pub fn rest(self) -> Rest {
        let Self { edge, who, proof, subscriptions, deadline, mut door, .. } = self;
        let wake = Arc::clone(subscriptions.wake());
        let until = edge.bells.now() + edge.config.listen.idle_timeout;
        if until < deadline {
            door.ring_at(until);
        }
        Rest { edge, wake, until, known: proof.map(|proof| Known { who, proof }), door }
    }

    /// Counts what is said; the cursor after it.
    fn said(&self) -> String {
        self.edge.metrics.sent(Transport::Poll, self.envelopes.len() as u64);
        self.subscriptions.cursor_string(Some(self.edge.node))
    }
}

/// A connection whose poll was answered, before its next request.
pub struct Rest {
    edge: Arc<Edge>,
    wake: Arc<Wake>,
    until: Moment,
    known: Option<Known>,
    /// Set as it was for the poll: most often the next request is there long before that.
    door: Doorbell,
}

impl Rest {
    /// Begins now: until then the answer was on its way.
    pub fn begin(&mut self) {
        self.until = self.edge.bells.now() + self.edge.config.listen.idle_timeout;
    }

    /// Ready when it has lasted too long, or the node goes away.
    pub fn poll_over(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while !self.edge.drain.has_begun() {
            ready!(self.wake.poll_rung(context));
            if self.until <= self.edge.bells.now() {
                break;
            }
            self.door.ring_at(self.until);
        }
        Poll::Ready(())
    }

    /// The node, and the last good token: for the next request.
    pub fn end(self) -> (Arc<Edge>, Option<Known>) {
        (self.edge, self.known)
    }
}

fn read(
    edge: &Edge,
    who: &Identity,
    subscriptions: &mut Subscriptions,
    envelopes: &mut Vec<Bytes>,
) -> Result<(), Fault> {
    let mut oldest = None;
    subscriptions.read(edge, &who.user_id, BATCH_BYTES, |event, _| {
        if let (Event::Message(message), None) = (&event, oldest) {
            oldest = Some(message.appended);
        }
        if envelopes.is_empty() {
            // Most often there is one; it goes into a block of its size.
            envelopes.reserve_exact(1);
        }
        envelopes.push(match event {
            Event::Message(message) => message.json.clone(),
            Event::Gap(json) => json,
            Event::Passing(json) => Bytes::copy_from_slice(json),
        });
    })?;
    if let Some(appended) = oldest {
        edge.metrics.delivered(edge.now().saturating_duration_since(appended));
    }
    Ok(())
}

/// How long to wait, if so many seconds were asked for.
fn patience(wait: Option<u64>) -> Duration {
    Duration::from_secs(wait.unwrap_or(WAIT_SECONDS).min(WAIT_SECONDS_MAX))
}

/// Answers `HEAD /v1/poll` at once, whatever its cursor: what a `GET` would be told, without being present.
///
/// # Errors
/// The refusal.
pub async fn head(call: &Call) -> Result<Answer, Fault> {
    let query = call.query();
    let (caller, opening) = admit(call, &query).await?;
    query.number("wait")?;
    opening.joins.iter().try_for_each(|join| caller.may_join(&join.channel))?;
    Ok(json(StatusCode::OK, Bytes::new()))
}

/// Who asks, and for what.
async fn admit(call: &Call, query: &Query<'_>) -> Result<(Caller, Opening), Fault> {
    let caller = call.caller(Transport::Poll).await?;
    caller.edge.quotas.of(&caller.who).request()?;
    let opening = call.opening_of(query)?;
    if opening.joins.is_empty() {
        return Err(Fault::malformed("the query names no channels, e.g. ?channels=chat:lobby"));
    }
    Ok((caller, opening))
}

const BEGIN: &[u8] = b"{\"messages\":[";
const BETWEEN: &[u8] = b"],\"cursor\":\"";
const END: &[u8] = b"\"}";

fn body_bytes(envelopes: &[Bytes], cursor: &str) -> usize {
    let commas = envelopes.len().saturating_sub(1);
    let all: usize = envelopes.iter().map(Bytes::len).sum();
    BEGIN.len() + all + commas + BETWEEN.len() + cursor.len() + END.len()
}

fn write_body(body: &mut Vec<u8>, envelopes: &[Bytes], cursor: &str) {
    body.extend_from_slice(BEGIN);
    for (index, envelope) in envelopes.iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        body.extend_from_slice(envelope);
    }
    // A cursor is base64url: nothing in it needs escaping.
    for part in [BETWEEN, cursor.as_bytes(), END] {
        body.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_as_long_as_it_says() {
        for (envelopes, expected) in [
            (vec![], r#"{"messages":[],"cursor":"c"}"#),
            (vec!["{}"], r#"{"messages":[{}],"cursor":"c"}"#),
            (vec!["1", "22", "3"], r#"{"messages":[1,22,3],"cursor":"c"}"#),
        ] {
            let envelopes: Vec<_> = envelopes.into_iter().map(Bytes::from).collect();
            let mut body = Vec::new();
            write_body(&mut body, &envelopes, "c");
            assert_eq!(std::str::from_utf8(&body).unwrap(), expected);
            assert_eq!(body_bytes(&envelopes, "c"), expected.len());
        }
    }

    #[test]
    fn a_poll_waits_25_seconds_unless_told_and_60_at_most() {
        for (wait, seconds) in
            [(None, 25), (Some(0), 0), (Some(60), 60), (Some(61), 60), (Some(u64::MAX), 60)]
        {
            assert_eq!(patience(wait), Duration::from_secs(seconds), "{wait:?}");
        }
    }
}
