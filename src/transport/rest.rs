//! Channels as HTTP resources, for backends and curl: history, publish, presence; and tickets.

use std::time::{Duration, SystemTime};

use hyper::StatusCode;
use hyper::body::Incoming as HttpIncoming;
use serde_json::value::RawValue;

use super::http::{Answer, Call, json};
use super::send::{idempotency_key, read_body};
use super::session::{ack, history_page};
use crate::auth::{self, TICKET_LIFETIME};
use crate::channel::ChannelName;
use crate::close::{Fault, Kind};
use crate::envelope::{HISTORY_LIMIT_MAX, json_data};
use crate::metrics::Transport;

const DEMO_TOKEN_LIFETIME: Duration = Duration::from_hours(1);

/// `GET /v1/channels/{channel}/messages`.
///
/// # Errors
/// The refusal.
pub async fn history(call: &Call, channel: &ChannelName) -> Result<Answer, Fault> {
    let caller = call.caller(Transport::Http).await?;
    caller.edge.quotas.of(&caller.who).request()?;
    let query = call.query();
    let after = query.number("after")?.unwrap_or(0);
    let limit = usize::try_from(query.number("limit")?.unwrap_or(100)).unwrap_or(usize::MAX);
    if !(1..=HISTORY_LIMIT_MAX).contains(&limit) {
        return Err(Fault::malformed(format!("limit is not 1 to {HISTORY_LIMIT_MAX}")));
    }
    let page = caller.history(channel, after, limit).await?;
    Ok(payload(StatusCode::OK, &history_page(channel, &page)))
}

/// `POST /v1/channels/{channel}/messages`.
///
/// # Errors
/// The refusal.
pub async fn publish(call: &Call, channel: &ChannelName, body: &mut HttpIncoming) -> Result<Answer, Fault> {
    let caller = call.caller(Transport::Http).await?;
    let rates = &caller.edge.quotas;
    let config = &caller.edge.config;
    let body = read_body(body, config.limits.message_bytes, config.listen.request_timeout).await?;
    caller.edge.metrics.received(Transport::Http, 1);
    rates.of(&caller.who).message()?;
    let data: &RawValue = serde_json::from_slice(&body)
        .map_err(|error| Fault::malformed(format!("the body is the message's data, as JSON: {error}")))?;
    let accepted = caller.publish(channel, json_data(data)?, idempotency_key(call)?).await?;
    Ok(payload(StatusCode::CREATED, &ack(channel, accepted)))
}

/// `GET /v1/channels/{channel}/presence`.
///
/// # Errors
/// The refusal.
pub async fn presence(call: &Call, channel: &ChannelName) -> Result<Answer, Fault> {
    let caller = call.caller(Transport::Http).await?;
    caller.edge.quotas.of(&caller.who).request()?;
    Ok(payload(StatusCode::OK, &caller.presence(channel)?))
}

/// `POST /v1/tickets`: a token becomes something that may stand in a URL.
///
/// # Errors
/// The refusal.
pub async fn ticket(call: &Call) -> Result<Answer, Fault> {
    let needed =
        || Fault::new(Kind::AuthenticationRequired, "a ticket is made of a token: Authorization: Bearer");
    // Not of another ticket: one that leaked would then be good for ever.
    if call.query().get("ticket").is_some() {
        return Err(needed());
    }
    let who = call.identify().await?.ok_or_else(needed)?;
    call.edge.quotas.of(&who).request()?;
    let ticket = call.edge.tickets.issue(who)?;
    let expires_in = TICKET_LIFETIME.as_secs();
    Ok(payload(StatusCode::OK, &serde_json::json!({ "ticket": ticket, "expires_in": expires_in })))
}

/// `POST /demo/token`, in development mode only: `{"name": ...}` becomes a token of that user.
///
/// # Errors
/// The refusal.
pub async fn demo_token(call: &Call, body: &mut HttpIncoming) -> Result<Answer, Fault> {
    #[derive(serde::Deserialize)]
    struct Wish {
        name: String,
    }
    call.origin().admit()?;
    if let Some(refusal) = &call.refusal {
        return Err(refusal.clone());
    }
    let config = &call.edge.config;
    let secret = config.auth.hs256_secret.as_deref().filter(|_| config.development);
    let secret =
        secret.ok_or_else(|| Fault::new(Kind::NotFound, "tokens are made in development mode only"))?;
    let body = read_body(body, 1024, config.listen.request_timeout).await?;
    let wish: Wish = serde_json::from_slice(&body).map_err(|error| Fault::malformed(error.to_string()))?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let claims = serde_json::json!({ "sub": wish.name, "exp": (now + DEMO_TOKEN_LIFETIME).as_secs() });
    let token = auth::sign(secret, &claims).map_err(|error| Fault::new(Kind::Internal, error.to_string()))?;
    // A name that no token may have is refused here, not at its first use.
    call.edge.authenticator.verify(&token).map_err(|error| Fault::malformed(error.to_string()))?;
    let expires_in = DEMO_TOKEN_LIFETIME.as_secs();
    Ok(payload(StatusCode::OK, &serde_json::json!({ "token": token, "expires_in": expires_in })))
}

fn payload(status: StatusCode, payload: &impl serde::Serialize) -> Answer {
    json(status, serde_json::to_vec(payload).expect("payloads are JSON"))
}
