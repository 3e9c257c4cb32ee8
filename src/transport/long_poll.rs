//! The long-poll transport: each answer is a function of the cursor it is asked with. Nothing stays on the node but the
//! presence of who polls.

use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{HeaderMap, StatusCode};

use super::http::{Answer, Call, Opening, json, problem};
use super::{Caller, Doorbell, Edge, Event, Moment, Subscriptions};
use crate::auth::Origin;
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
    let (caller, opening) = admit(call).await?;
    let edge = Arc::clone(&caller.edge);
    let patience = patience(call.query().number("wait")?);
    let active = edge.metrics.connection(Transport::Poll);
    let mut subscriptions = Subscriptions::new();
    let joined = caller.join_all(&mut subscriptions, &opening, Lease::Poll).await;
    let mut envelopes = Vec::new();
    for (join, joined) in opening.joins.iter().zip(joined) {
        let joined = joined?;
        // Who comes with a cursor for it knows already where it stands.
        if opening.cursor.as_ref().is_none_or(|cursor| cursor.place(&join.channel).is_none()) {
            envelopes.push(joined);
        }
    }
    subscriptions.turn_by_cursors();
    // A token that runs out ends the wait: the next poll is then refused.
    let patience = caller.who.expires_in().map_or(patience, |left| left.min(patience));
    let mut door = Doorbell::new(&edge, subscriptions.wake());
    door.belongs_to(&caller.who);
    let deadline = edge.bells.now() + patience;
    door.ring_at(deadline);
    read(&caller, &mut subscriptions, &mut envelopes)?;
    Ok(Waiting {
        subscriptions,
        envelopes: envelopes.into(),
        deadline,
        seen: 0,
        owed: None,
        caller,
        _door: door,
        _active: active,
    })
}

/// Headers for the page that asks. A map of them would take 800 bytes.
struct Owed(Vec<(HeaderName, HeaderValue)>);

/// A poll on its way to an answer.
pub struct Waiting {
    caller: Caller,
    subscriptions: Subscriptions,
    /// What there is to say: nothing while it waits.
    envelopes: Box<[Bytes]>,
    deadline: Moment,
    /// The revocations that it has seen.
    seen: u32,
    owed: Option<Box<Owed>>,
    _door: Doorbell,
    _active: ActiveGuard,
}

impl Waiting {
    /// The node that it is on.
    pub fn edge(&self) -> &Arc<Edge> {
        &self.caller.edge
    }

    /// Ready when there is something to say, the time is up or the node goes away.
    pub fn poll_answer(&mut self, context: &mut Context<'_>) -> Poll<Result<Answer, Fault>> {
        while self.envelopes.is_empty() {
            let edge = &self.caller.edge;
            let over = edge.drain.has_begun() || self.deadline <= edge.bells.now();
            // A bell that rings for something else than news brings an empty read, and the next turn.
            if !over {
                ready!(self.subscriptions.wake().poll_rung(context));
            }
            self.caller.edge.may_stay(&self.caller.who, &mut self.seen)?;
            if over {
                break;
            }
            let mut envelopes = Vec::new();
            read(&self.caller, &mut self.subscriptions, &mut envelopes)?;
            self.envelopes = envelopes.into();
        }
        let edge = &self.caller.edge;
        edge.metrics.sent(Transport::Poll, self.envelopes.len() as u64);
        let cursor = self.subscriptions.cursor_string(Some(edge.node));
        Poll::Ready(Ok(json(StatusCode::OK, body(&self.envelopes, &cursor))))
    }

    /// Can do without its request from now on.
    pub fn leave(&mut self, call: &Call) {
        let mut owed = HeaderMap::new();
        call.origin().write_cors(&mut owed);
        if owed.len() > 1 {
            let named = |(name, value): (Option<HeaderName>, _)| name.map(|name| (name, value));
            // Each name of them stands there once.
            self.owed = Some(Box::new(Owed(owed.into_iter().filter_map(named).collect())));
        }
    }

    /// The answer to a request that is there no more, or the refusal, with all its headers.
    pub fn poll_late_answer(&mut self, context: &mut Context<'_>) -> Poll<Answer> {
        let mut answer = ready!(self.poll_answer(context)).unwrap_or_else(|fault| {
            self.caller.edge.metrics.fault(Transport::Poll, fault.kind);
            problem(&fault)
        });
        match self.owed.take() {
            Some(owed) => answer.headers_mut().extend(owed.0),
            None => Origin::None.write_cors(answer.headers_mut()),
        }
        Poll::Ready(answer)
    }
}

fn read(caller: &Caller, subscriptions: &mut Subscriptions, envelopes: &mut Vec<Bytes>) -> Result<(), Fault> {
    let mut oldest = None;
    subscriptions.read(&caller.edge, &caller.who.user_id, BATCH_BYTES, |event, _| {
        if let (Event::Message(message), None) = (&event, oldest) {
            oldest = Some(message.appended);
        }
        envelopes.push(match event {
            Event::Message(message) => message.json.clone(),
            Event::Gap(json) => json,
            Event::Passing(json) => Bytes::copy_from_slice(json),
        });
    })?;
    if let Some(appended) = oldest {
        caller.edge.metrics.delivered(caller.edge.now().saturating_duration_since(appended));
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
    let (caller, opening) = admit(call).await?;
    call.query().number("wait")?;
    opening.joins.iter().try_for_each(|join| caller.may_join(&join.channel))?;
    Ok(json(StatusCode::OK, Bytes::new()))
}

/// Who asks, and for what.
async fn admit(call: &Call) -> Result<(Caller, Opening), Fault> {
    let caller = call.caller(Transport::Poll).await?;
    caller.edge.quotas.of(&caller.who).request()?;
    let opening = call.opening()?;
    if opening.joins.is_empty() {
        return Err(Fault::malformed("the query names no channels, e.g. ?channels=chat:lobby"));
    }
    Ok((caller, opening))
}

fn body(envelopes: &[Bytes], cursor: &str) -> Vec<u8> {
    let length: usize = envelopes.iter().map(|envelope| envelope.len() + 1).sum();
    let mut body = Vec::with_capacity(length + cursor.len() + 32);
    body.extend_from_slice(b"{\"messages\":[");
    for (index, envelope) in envelopes.iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        body.extend_from_slice(envelope);
    }
    // A cursor is base64url: nothing in it needs escaping.
    body.extend_from_slice(b"],\"cursor\":\"");
    body.extend_from_slice(cursor.as_bytes());
    body.extend_from_slice(b"\"}");
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_poll_waits_25_seconds_unless_told_and_60_at_most() {
        for (wait, seconds) in
            [(None, 25), (Some(0), 0), (Some(60), 60), (Some(61), 60), (Some(u64::MAX), 60)]
        {
            assert_eq!(patience(wait), Duration::from_secs(seconds), "{wait:?}");
        }
    }
}
