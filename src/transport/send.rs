//! `POST /v1/send`: the way up for clients whose way down is an SSE stream or polls. The same envelopes, the same
//! answers as on a WebSocket.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::StatusCode;
use hyper::body::{Body as HttpBody, Incoming as HttpIncoming};
use serde_json::value::RawValue;
use tokio::time::timeout;

use super::Caller;
use super::http::{Answer, Call, json};
use super::session::meter;
use crate::channel::MessageId;
use crate::close::{Fault, Kind};
use crate::envelope::{self, Rejected};
use crate::metrics::Transport;

/// Envelopes in one request.
const ENVELOPES_MAX: usize = 100;
/// A request's body may be this many times `limits.message_bytes`, each envelope in it once.
const BODY_FACTOR: usize = 16;

/// Answers `POST /v1/send`: an array of answers to an array, or to a single envelope that succeeded; a single envelope
/// that failed is an HTTP error.
///
/// # Errors
/// The refusal.
pub async fn send(call: &Call, body: &mut HttpIncoming) -> Result<Answer, Fault> {
    let caller = call.caller(Transport::Http).await?;
    let limits = &call.edge.config.limits;
    let body =
        read_body(body, limits.message_bytes * BODY_FACTOR, call.edge.config.listen.request_timeout).await?;
    let is_array = body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
    let mut answers: Vec<Bytes> = Vec::new();
    let key = idempotency_key(call)?;
    if is_array {
        if key.is_some() {
            return Err(Fault::malformed(
                "Idempotency-Key is for one envelope; in an array each has its message_id",
            ));
        }
        let envelopes: Vec<&RawValue> = serde_json::from_slice(&body)
            .map_err(|error| Fault::malformed(format!("the body is no array of envelopes: {error}")))?;
        if envelopes.len() > ENVELOPES_MAX {
            return Err(Fault::malformed(format!("more than {ENVELOPES_MAX} envelopes in one request")));
        }
        for envelope in envelopes {
            match serve(&caller, envelope.get().as_bytes(), limits.message_bytes, None).await {
                Ok(answer) => answers.extend(answer),
                Err(Rejected { fault, correlation_id }) => {
                    call.edge.metrics.fault(Transport::Http, fault.kind);
                    answers.push(envelope::encode_error(&fault, correlation_id.as_deref()));
                }
            }
        }
    } else {
        let answer =
            serve(&caller, &body, limits.message_bytes, key).await.map_err(|rejected| rejected.fault)?;
        answers.extend(answer);
    }
    call.edge.metrics.sent(Transport::Http, answers.len() as u64);
    let mut body = BytesMut::from(&b"["[..]);
    for (index, answer) in answers.iter().enumerate() {
        if index > 0 {
            body.extend_from_slice(b",");
        }
        body.extend_from_slice(answer);
    }
    body.extend_from_slice(b"]");
    Ok(json(StatusCode::OK, body))
}

/// A request's body, whole.
///
/// # Errors
/// [`Kind::MessageTooLarge`] above `limit` bytes, malformed if it does not come in time or breaks off.
pub async fn read_body(body: &mut HttpIncoming, limit: usize, patience: Duration) -> Result<Bytes, Fault> {
    let too_large = || {
        Fault::new(Kind::MessageTooLarge, format!("the body has more than {limit} bytes"))
            .with_limit("limits.message_bytes")
    };
    // RFC 9110 §10.1.1: with `Expect: 100-continue` the client then need not send it.
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large());
    }
    let read = async {
        let mut whole = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| Fault::malformed(format!("the body broke off: {error}")))?;
            let Ok(data) = frame.into_data() else { continue };
            if whole.len() + data.len() > limit {
                return Err(too_large());
            }
            whole.extend_from_slice(&data);
        }
        Ok(whole.freeze())
    };
    timeout(patience, read).await.map_err(|_| Fault::malformed("the body did not come in time"))?
}

/// The header `Idempotency-Key`, which stands for a missing `message_id`.
///
/// # Errors
/// Malformed, if it could be no `message_id`.
pub fn idempotency_key(call: &Call) -> Result<Option<MessageId>, Fault> {
    let Some(key) = call.head.headers.get("idempotency-key") else { return Ok(None) };
    let key = key.to_str().ok().map(|key| key.trim().trim_matches('"')).and_then(MessageId::parse);
    key.map(Some).ok_or_else(|| Fault::malformed("Idempotency-Key is not 1 to 64 printable characters"))
}

async fn serve(
    caller: &Caller,
    text: &[u8],
    message_bytes: usize,
    key: Option<MessageId>,
) -> Result<Option<Bytes>, Rejected> {
    caller.edge.metrics.received(Transport::Http, 1);
    if text.len() > message_bytes {
        let fault = Fault::new(Kind::MessageTooLarge, format!("a message has at most {message_bytes} bytes"));
        return Err(Rejected { fault: fault.with_limit("limits.message_bytes"), correlation_id: None });
    }
    let mut incoming = envelope::parse(text)?;
    incoming.message_id = incoming.message_id.or(key);
    let correlation_id = incoming.correlation_id.clone();
    let served = match meter(&caller.edge, &caller.who, &incoming.request) {
        Ok(()) => caller.serve(incoming, None, true).await,
        Err(fault) => Err(fault),
    };
    served.map_err(|fault| Rejected { fault, correlation_id })
}
