//! The long-poll transport: each answer is a function of the cursor it is asked with. Nothing stays on the node but the
//! presence of who polls.

use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use tokio::time::{Instant, timeout_at};

use super::http::{Answer, Call, Opening, json};
use super::{Caller, Doorbell, Subscriptions};
use crate::close::Fault;
use crate::metrics::Transport;
use crate::presence::Lease;

/// How long a poll waits if it does not say, and how long it may say.
const WAIT_SECONDS: u64 = 25;
const WAIT_SECONDS_MAX: u64 = 60;
/// Bytes of envelopes in one answer: the next poll comes at once for the rest.
const BATCH_BYTES: usize = 256 * 1024;

/// Answers `GET /v1/poll`.
///
/// # Errors
/// The refusal.
pub async fn poll(call: &Call) -> Result<Answer, Fault> {
    let (caller, opening) = admit(call).await?;
    let edge = &caller.edge;
    let patience = patience(call.query().number("wait")?);
    let _active = edge.metrics.connection(Transport::Poll);
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
    read(&caller, &mut subscriptions, &mut envelopes)?;
    let mut deadline = Instant::now() + patience;
    if let Some(left) = caller.who.expires_in() {
        // The next poll is then refused.
        deadline = deadline.min(Instant::now() + left);
    }
    let door = Doorbell::new(edge, subscriptions.wake());
    door.belongs_to(&caller.who);
    let mut seen = 0;
    while envelopes.is_empty() {
        // A bell that rings for something else than news brings an empty read, and the next turn.
        let rung = !edge.drain.has_begun() && timeout_at(deadline, subscriptions.wake().rung()).await.is_ok();
        edge.may_stay(&caller.who, &mut seen)?;
        if !rung {
            break;
        }
        read(&caller, &mut subscriptions, &mut envelopes)?;
    }
    edge.metrics.sent(Transport::Poll, envelopes.len() as u64);
    Ok(json(StatusCode::OK, body(&envelopes, &subscriptions.cursor_string(Some(edge.node)))))
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

fn read(caller: &Caller, subscriptions: &mut Subscriptions, envelopes: &mut Vec<Bytes>) -> Result<(), Fault> {
    let mut oldest = None;
    subscriptions.read(&caller.edge, &caller.who.user_id, BATCH_BYTES, |event, _| {
        if let (super::Event::Message(message), None) = (&event, oldest) {
            oldest = Some(message.appended);
        }
        envelopes.push(match event {
            super::Event::Message(message) => message.json.clone(),
            super::Event::Gap(json) => json,
            super::Event::Passing(json) => Bytes::copy_from_slice(json),
        });
    })?;
    if let Some(appended) = oldest {
        caller.edge.metrics.delivered(caller.edge.now().saturating_duration_since(appended));
    }
    Ok(())
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
