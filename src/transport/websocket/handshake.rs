//! The opening handshake (RFC 6455 §4.2). A browser's page never sees why a handshake was refused, so who may not come
//! in is let in, told why, and closed.

use std::sync::Arc;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use hyper::Request;
use hyper::ext::Protocol;
use hyper::http::HeaderValue;
use hyper::{Response, Version, header};
use uuid::Uuid;

use super::extensions::{self, Deflate};
use crate::auth::Identity;
use crate::close::{Fault, Kind};
use crate::config::AuthMode;
use crate::transport::http::{Answer, Body, Call, Opening};

/// The subprotocol of this version.
pub const SUBPROTOCOL: &str = "tidegate.v1.json";

/// What the connection's task goes on with after the handshake.
pub struct Upgrade {
    /// Names the connection, in logs and to its client.
    pub client_id: Uuid,
    /// Who it is: nobody yet, or the refusal to tell before closing.
    pub who: Result<Option<Arc<Identity>>, Fault>,
    /// What the query asks to join.
    pub opening: Result<Opening, Fault>,
    /// How messages are compressed, if they are.
    pub deflate: Option<Deflate>,
    /// It is `/echo`.
    pub echo: bool,
}

/// Answers a request for a WebSocket; with [`Upgrade`] if it becomes one.
pub async fn accept<B>(call: &Call, request: &mut Request<B>, echo: bool) -> (Answer, Option<Upgrade>) {
    if !fastwebsockets::upgrade::is_upgrade_request(request) {
        let fault = Fault::new(Kind::UpgradeRequired, "this resource speaks WebSocket only");
        return (call.refuse(crate::metrics::Transport::WebSocket, &fault), None);
    }
    if call.head.version < Version::HTTP_11 || !has_key(call) {
        let fault =
            Fault::malformed("a WebSocket handshake is HTTP/1.1 and has one Sec-WebSocket-Key of 16 bytes");
        return (call.refuse(crate::metrics::Transport::WebSocket, &fault), None);
    }
    let switching = match fastwebsockets::upgrade::upgrade(&mut *request) {
        // The future is not needed: the connection's task takes the stream off hyper itself.
        Ok((switching, _)) => switching,
        Err(error) => {
            let fault = match error {
                fastwebsockets::WebSocketError::InvalidSecWebsocketVersion => {
                    Fault::new(Kind::UpgradeRequired, "Sec-WebSocket-Version must be 13")
                }
                other => Fault::malformed(format!("not a WebSocket handshake: {other}")),
            };
            return (call.refuse(crate::metrics::Transport::WebSocket, &fault), None);
        }
    };
    let mut answer = Response::new(Body::EMPTY);
    *answer.status_mut() = switching.status();
    *answer.headers_mut() = switching.headers().clone();
    agree(call, answer, echo).await
}

/// Answers an extended `CONNECT`, the handshake of HTTP/2 (RFC 8441 §5): `:protocol` and the status stand for what
/// `Upgrade`, `Connection`, `Sec-WebSocket-Key` and `-Accept` say over HTTP/1.1. The rest is the same.
pub async fn accept_stream(call: &Call, echo: bool) -> (Answer, Option<Upgrade>) {
    let refuse = |fault: &Fault| call.refuse(crate::metrics::Transport::WebSocket, fault);
    let protocol = call.head.extensions.get::<Protocol>();
    if !protocol.is_some_and(|protocol| protocol.as_str().eq_ignore_ascii_case("websocket")) {
        // RFC 9220 §3, which says for both versions what RFC 8441 left open.
        return (refuse(&Fault::new(Kind::NotImplemented, "the one :protocol here is websocket")), None);
    }
    let mut versions = call.head.headers.get_all(header::SEC_WEBSOCKET_VERSION).iter();
    if (versions.next().map(HeaderValue::as_bytes), versions.next()) != (Some(b"13"), None) {
        // RFC 6455 §4.2.2, but not its 426: HTTP/2 knows no Upgrade (RFC 9113 §8.6).
        let mut answer = refuse(&Fault::malformed("Sec-WebSocket-Version must be 13"));
        answer.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        return (answer, None);
    }
    agree(call, Response::new(Body::EMPTY), echo).await
}

/// What both handshakes have in common: who comes for what, and what `answer` says to the offers.
async fn agree(call: &Call, mut answer: Answer, echo: bool) -> (Answer, Option<Upgrade>) {
    let Ok(deflate) = deflate(call) else {
        let fault = Fault::malformed("Sec-WebSocket-Extensions is no list of extensions");
        return (call.refuse(crate::metrics::Transport::WebSocket, &fault), None);
    };
    let who = who(call).await;
    // Who is refused is not worth the reading of what it wants.
    let opening = if who.is_ok() { call.opening() } else { Ok(Opening::default()) };
    if offers_subprotocol(call) {
        let chosen = HeaderValue::from_static(SUBPROTOCOL);
        answer.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, chosen);
    }
    if let Some(deflate) = deflate {
        answer.headers_mut().insert(header::SEC_WEBSOCKET_EXTENSIONS, deflate.answer());
    }
    (answer, Some(Upgrade { client_id: call.connection, who, opening, deflate, echo }))
}

async fn who(call: &Call) -> Result<Option<Arc<Identity>>, Fault> {
    match (call.identify().await?, call.edge.config.auth.mode) {
        (None, AuthMode::Optional) => Ok(Some(Arc::new(Identity::guest_of_connection()))),
        (who, _) => Ok(who),
    }
}

fn deflate(call: &Call) -> Result<Option<Deflate>, extensions::Malformed> {
    let compression = &call.edge.config.compression;
    let agreed = extensions::negotiate(&call.head.headers, compression.min_bytes)?;
    Ok(agreed.filter(|_| compression.enabled))
}

/// Takes a key whose last bits are not zero: that of RFC 6455 §4.1's own example is one.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

/// RFC 6455 §4.2.1: a key that is 16 bytes in base64.
fn has_key(call: &Call) -> bool {
    let mut keys = call.head.headers.get_all(header::SEC_WEBSOCKET_KEY).iter();
    let (Some(key), None) = (keys.next(), keys.next()) else { return false };
    BASE64.decode(key).is_ok_and(|key| key.len() == 16)
}

fn offers_subprotocol(call: &Call) -> bool {
    let offers = call.head.headers.get_all(header::SEC_WEBSOCKET_PROTOCOL);
    let mut names = offers.iter().filter_map(|offer| offer.to_str().ok()).flat_map(|offer| offer.split(','));
    names.any(|name| name.trim() == SUBPROTOCOL)
}
