//! The long-poll transport: each answer is a function of the cursor it is asked with. Nothing stays on the node but the
//! presence of who polls, and on its connection what the next request may save.

mod poller;
mod rest;
mod said;

use bytes::Bytes;
use hyper::StatusCode;

use super::http::{Answer, Call, Opening, Query, json};
use super::{Caller, Doorbell, Subscriptions};
use crate::close::Fault;
use crate::metrics::Transport;
use crate::presence::Lease;

pub use poller::Poller;
pub use rest::Rest;
pub use said::Said;

/// How long a poll waits if it does not say, and how long it may say.
const WAIT_SECONDS: u8 = 25;
const WAIT_SECONDS_MAX: u8 = 60;

/// Begins to answer `GET /v1/poll`; with what there is to say at once.
///
/// # Errors
/// The refusal.
pub async fn poll(call: &Call) -> Result<(Poller, Said), Fault> {
    let query = call.query();
    let (caller, opening) = admit(call, &query).await?;
    let wait_seconds = wait_seconds(query.number("wait")?);
    let active = caller.edge.metrics.connection(Transport::Poll);
    let mut subscriptions = Subscriptions::new();
    // Who comes with a cursor for a channel knows already where it stands.
    // Boxed, or all that a join may wait for would be moved around with the request.
    let envelopes = Box::pin(caller.join_again(&mut subscriptions, &opening, Lease::Poll)).await?;
    subscriptions.turn_by_cursors();
    let Caller { edge, who, .. } = caller;
    let door = Doorbell::new(&edge, subscriptions.wake());
    door.belongs_to(&who);
    let mut poller = Poller::new(who, subscriptions, door, active, wait_seconds);
    poller.may_repeat = may_repeat(call, &query);
    let mut said = Said::default();
    if !envelopes.is_empty() {
        for envelope in &envelopes {
            said.push(envelope);
        }
        // Else it is read when it waits: a join rings.
        poller.read(&mut said)?;
    }
    Ok((poller, said))
}

/// How many seconds to wait, if so many were asked for.
fn wait_seconds(wait: Option<u64>) -> u8 {
    wait.map_or(WAIT_SECONDS, |wait| u8::try_from(wait).unwrap_or(u8::MAX)).min(WAIT_SECONDS_MAX)
}

/// Whether its request with the next cursor would be the same again: a ticket is used up, and another place for the cursor
/// would win over the query.
fn may_repeat(call: &Call, query: &Query<'_>) -> bool {
    query.all("cursor").count() == 1 && query.get("ticket").is_none() && !call.has_last_event_id()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_poll_waits_25_seconds_unless_told_and_60_at_most() {
        for (wait, seconds) in
            [(None, 25), (Some(0), 0), (Some(60), 60), (Some(61), 60), (Some(256), 60), (Some(u64::MAX), 60)]
        {
            assert_eq!(wait_seconds(wait), seconds, "{wait:?}");
        }
    }
}
