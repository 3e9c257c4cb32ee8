//! Answers over HTTP: JSON, problem details (RFC 9457), and the one body type of every answer.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use hyper::http::HeaderValue;
use hyper::{HeaderMap, Response, StatusCode, header};
use serde::ser::{Serialize, SerializeMap as _, Serializer};

use super::{Call, Handover, Manner, Serving, Slot, Stall};
use crate::close::{Fault, Kind};
use crate::envelope;
use crate::transport::sse::SseBody;

/// Bytes of a finished answer that are given to an HTTP/2 stream at once: a frame (RFC 9113 §4.2). The rest waits
/// here, where it can be dropped, until the client has room.
const PIECE_BYTES: usize = 16 * 1024;

/// Any answer.
pub type Answer = Response<Body>;

/// The body of an answer, and the request that it ends.
pub struct Body {
    content: Content,
    serving: Option<Serving>,
    stall: Option<Arc<Stall>>,
    /// Where a stream goes when hyper has its head.
    slot: Option<(Arc<Slot>, Manner)>,
}

/// What a body holds.
pub enum Content {
    /// Finished bytes.
    Full(Option<Bytes>),
    /// A stream of events, and what it opens with.
    Events(Option<Bytes>, Box<SseBody>),
    /// It was a stream, which the connection has now.
    HandedOver,
}

impl Body {
    /// No bytes.
    pub const EMPTY: Self = Self { content: Content::Full(None), serving: None, stall: None, slot: None };

    /// Counts as being served until this body has ended.
    pub fn set_serving(&mut self, serving: Serving) {
        self.serving = Some(serving);
    }

    /// Gives its bytes away piece by piece, and notes in `stall` when one waits for the client.
    pub fn set_stall(&mut self, stall: Arc<Stall>) {
        self.stall = Some(stall);
        self.count_waiting();
    }

    /// A stream of events is handed over once its first bytes are written: what goes on is the connection's.
    pub fn hand_over(&mut self, slot: Arc<Slot>, manner: Manner) {
        self.slot = Some((slot, manner));
    }

    fn count_waiting(&mut self) {
        if let (Content::Full(bytes), Some(serving)) = (&self.content, &mut self.serving) {
            serving.set_waiting(bytes.as_ref().map_or(0, Bytes::len));
        }
    }

    /// The bytes of an answer that is not streamed, to be written elsewhere.
    pub fn take_finished(&mut self) -> Bytes {
        match &mut self.content {
            Content::Full(bytes) => bytes.take().unwrap_or_default(),
            Content::Events(..) | Content::HandedOver => Bytes::new(),
        }
    }

    /// Takes the bytes away: RFC 9110 §9.3.2, a `HEAD`.
    pub fn withhold(&mut self) {
        self.content = Content::Full(None);
    }
}

impl From<Content> for Body {
    fn from(content: Content) -> Self {
        Self { content, serving: None, stall: None, slot: None }
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        if let Some(stall) = &this.stall {
            stall.end();
        }
        let chunk = match &mut this.content {
            Content::Full(bytes) if this.stall.is_some() => Poll::Ready(take_piece(bytes)),
            Content::Full(bytes) => Poll::Ready(bytes.take()),
            Content::Events(first, _) if first.is_some() => Poll::Ready(first.take()),
            Content::Events(_, events) if this.slot.is_none() => {
                events.poll_chunk(context, 0).map(|chunk| chunk.map(Bytes::from))
            }
            Content::Events(..) => {
                let was = std::mem::replace(&mut this.content, Content::HandedOver);
                if let (Content::Events(_, events), Some((slot, manner))) = (was, this.slot.take()) {
                    slot.leave(Handover::Events(events, manner));
                }
                Poll::Pending
            }
            Content::HandedOver => Poll::Pending,
        };
        if let (Poll::Ready(Some(_)), Some(stall)) = (&chunk, &this.stall) {
            stall.begin();
            this.count_waiting();
        }
        chunk.map(|chunk| chunk.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Full(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Content::Events(..) | Content::HandedOver => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Full(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Content::Events(..) | Content::HandedOver => SizeHint::default(),
        }
    }
}

fn take_piece(bytes: &mut Option<Bytes>) -> Option<Bytes> {
    match bytes {
        Some(rest) if rest.len() > PIECE_BYTES => Some(rest.split_to(PIECE_BYTES)),
        _ => bytes.take(),
    }
}

/// An answer with that JSON.
pub fn json(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    typed(status, "application/json", body.into())
}

/// An answer of that type. Nothing that the edge says may be kept by a cache.
pub fn typed(status: StatusCode, content_type: &'static str, body: Bytes) -> Answer {
    let mut answer = Response::new(Content::Full(Some(body)).into());
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

/// A refusal as problem details (RFC 9457 §3), with the `error` payload's members beside `title` and `status`.
///
/// # Panics
/// Never: a fault is JSON.
pub fn problem(fault: &Fault) -> Answer {
    let status = StatusCode::from_u16(fault.kind.status()).expect("the catalogue has real statuses");
    let body = serde_json::to_vec(&Problem(fault)).expect("a fault is JSON");
    let mut answer = typed(status, "application/problem+json", body.into());
    write_fault_headers(fault, answer.headers_mut());
    answer
}

/// A temporary refusal to an `EventSource`: 200, when to come again, the error, the end. Any other status would make
/// it give up for good (WHATWG HTML §9.2.2).
pub fn refusal_stream(fault: &Fault) -> Answer {
    let retry = fault.retry_after_ms().unwrap_or(3000);
    let mut body = format!("retry: {retry}\n\ndata: ").into_bytes();
    body.extend_from_slice(&envelope::encode_error(fault, None));
    body.extend_from_slice(b"\n\n");
    let mut answer = typed(StatusCode::OK, "text/event-stream", body.into());
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    answer
}

impl Call {
    /// The refusal as this client can make use of it, counted.
    pub fn refuse(&self, transport: crate::metrics::Transport, fault: &Fault) -> Answer {
        self.edge.metrics.fault(transport, fault.kind);
        let temporary = fault.kind.is_temporary() && fault.kind != Kind::Internal;
        let stream = transport == crate::metrics::Transport::Sse && self.wants_event_stream();
        if temporary && stream { refusal_stream(fault) } else { problem(fault) }
    }
}

fn write_fault_headers(fault: &Fault, headers: &mut HeaderMap) {
    if let Some(wait) = fault.retry_after {
        // RFC 9110 §10.2.3: whole seconds, so rounded up.
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    }
    match fault.kind {
        // RFC 6750 §3.
        Kind::AuthenticationRequired => {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        Kind::AuthenticationFailed | Kind::Revoked => {
            let challenge = HeaderValue::from_static("Bearer error=\"invalid_token\"");
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        // RFC 9110 §15.5.22, RFC 6455 §4.2.2.
        Kind::UpgradeRequired => {
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        }
        _ => {}
    }
}

struct Problem<'a>(&'a Fault);

impl Serialize for Problem<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("title", self.0.kind.title())?;
        map.serialize_entry("status", &self.0.kind.status())?;
        self.0.serialize_members(&mut map)?;
        map.end()
    }
}
