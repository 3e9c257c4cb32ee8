//! The SSE transport (WHATWG HTML §9.2): one stream of events, each an envelope, its `id` the cursor after it.

use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use hyper::http::HeaderValue;
use hyper::{Response, Version, header};

use super::http::{Answer, Body, Call, Content, Opening};
use super::{Caller, Doorbell, Edge, Event, Moment, Subscriptions};
use crate::auth::Identity;
use crate::channel::Wake;
use crate::close::{Fault, Kind};
use crate::envelope;
use crate::metrics::{ActiveGuard, Transport};
use crate::presence::Lease;

/// Between comments: proxies cut streams that are silent for 30 s.
const COMMENT_INTERVAL: Duration = Duration::from_secs(15);
/// How long an `EventSource` waits before it reconnects.
const RETRY_MS: u64 = 2000;
/// Bytes read from cursors into one chunk.
const BATCH_BYTES: usize = 16 * 1024;

/// Answers `GET /v1/sse`.
///
/// # Errors
/// The refusal.
pub async fn open(call: &Call) -> Result<Answer, Fault> {
    let (caller, opening) = admit(call).await?;
    let mut subscriptions = Subscriptions::new();
    let mut first = format!("retry: {RETRY_MS}\n\n").into_bytes();
    push_event(&mut first, 0, None, &Caller::established(&caller.edge, caller.client_id, Some(&caller.who)));
    let joined = caller.join_all(&mut subscriptions, &opening, Lease::Stream).await;
    let cursor = subscriptions.cursor_string(None);
    for joined in joined {
        push_event(&mut first, 0, Some(cursor.as_bytes()), &joined?);
    }
    caller.edge.metrics.sent(Transport::Sse, 1 + opening.joins.len() as u64);
    let body = Content::Events(Some(first.into()), Box::new(SseBody::new(caller, subscriptions)));
    Ok(answer(call, body.into()))
}

/// Answers `HEAD /v1/sse`: what a `GET` would be told, without a subscription and without being present.
///
/// # Errors
/// The refusal.
pub async fn head(call: &Call) -> Result<Answer, Fault> {
    let (caller, opening) = admit(call).await?;
    opening.joins.iter().try_for_each(|join| caller.may_join(&join.channel))?;
    Ok(answer(call, Body::EMPTY))
}

/// Who asks, and for what.
async fn admit(call: &Call) -> Result<(Caller, Opening), Fault> {
    let caller = call.caller(Transport::Sse).await?;
    caller.edge.quotas.of(&caller.who).request()?;
    let opening = call.opening()?;
    if opening.joins.is_empty() {
        return Err(Fault::malformed("the query names no channels, e.g. ?channels=chat:lobby"));
    }
    Ok((caller, opening))
}

fn answer(call: &Call, body: Body) -> Answer {
    let mut answer = Response::new(body);
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    // nginx and those who follow it would hold events back.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    if call.head.version == Version::HTTP_10 {
        // RFC 9112 §9.3: what has no length ends with its connection. Hyper keeps alive what says 1.1.
        *answer.version_mut() = Version::HTTP_10;
    }
    answer
}

/// The stream of one subscriber, behind what it opens with.
pub struct SseBody {
    who: Arc<Identity>,
    subscriptions: Subscriptions,
    comment_due: Moment,
    expires: Option<Moment>,
    /// How it ends, once something is known of that.
    parting: Option<Box<Parting>>,
    ended: bool,
    /// The revocations that it has seen.
    seen: u32,
    door: Doorbell,
    _active: ActiveGuard,
}

/// How a stream ends.
#[derive(Default)]
struct Parting {
    /// A drain has begun: when to go, and when the client is to come back.
    leave: Option<(Moment, Duration)>,
    /// Why it ends, found when it was given news.
    fault: Option<Fault>,
}

impl SseBody {
    fn new(caller: Caller, subscriptions: Subscriptions) -> Self {
        let Caller { edge, who, .. } = caller;
        let now = edge.bells.now();
        let expires = who.expires_in().map(|left| now + left);
        let door = Doorbell::new(&edge, subscriptions.wake());
        door.belongs_to(&who);
        Self {
            who,
            subscriptions,
            comment_due: now + COMMENT_INTERVAL,
            expires,
            parting: None,
            ended: false,
            seen: 0,
            door,
            _active: edge.metrics.connection(Transport::Sse),
        }
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
        usize::from(self.ended) + usize::from(self.parting.is_some()) + self.subscriptions.glance()
    }

    /// Whether all of it was given.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// The next bytes of the stream, behind `lead` bytes for the caller's own; `None` at its end.
    pub fn poll_chunk(&mut self, context: &mut Context<'_>, lead: usize) -> Poll<Option<Vec<u8>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        loop {
            // Before there is more to read, which under load there always is.
            if self.leave().is_none() && self.door.edge().drain.has_begun() {
                let (leave, retry) = self.door.edge().drain.spread();
                let leave = self.door.edge().bells.now() + leave;
                self.parting.get_or_insert_default().leave = Some((leave, retry));
            }
            match self.next(lead) {
                Ok(chunk) if !chunk.is_empty() => return Poll::Ready(Some(chunk)),
                Ok(_) => {}
                Err(fault) => return Poll::Ready(Some(self.end(&fault, lead))),
            }
            let due = [self.expires, self.leave().map(|leave| leave.0)];
            self.door.ring_at(due.into_iter().flatten().fold(self.comment_due, Moment::min));
            ready!(self.subscriptions.wake().poll_rung(context));
        }
    }

    /// The news that there is, at about `now`, behind `lead` bytes; no bytes if there is none. `None` if there is something
    /// else to see to, which [`SseBody::poll_chunk`] does. Whose time is up is given news until its bell has rung.
    pub fn news(&mut self, lead: usize, now: Instant) -> Option<Vec<u8>> {
        let edge = self.door.edge();
        let is_called = edge.drain.has_begun() && self.leave().is_none();
        if self.ended || is_called || self.seen != edge.revocations.generation() {
            return None;
        }
        self.read(lead, now).map_err(|fault| self.parting.get_or_insert_default().fault = Some(fault)).ok()
    }

    fn leave(&self) -> Option<(Moment, Duration)> {
        self.parting.as_ref().and_then(|parting| parting.leave)
    }

    /// What there is now; no bytes if there is nothing.
    fn next(&mut self, lead: usize) -> Result<Vec<u8>, Fault> {
        if let Some(fault) = self.parting.as_mut().and_then(|parting| parting.fault.take()) {
            return Err(fault);
        }
        self.door.edge().may_stay(&self.who, &mut self.seen)?;
        if self.tick()? {
            let mut chunk = vec![0; lead];
            chunk.extend_from_slice(b":\n\n");
            return Ok(chunk);
        }
        self.read(lead, self.door.edge().now())
    }

    fn read(&mut self, lead: usize, now: Instant) -> Result<Vec<u8>, Fault> {
        let mut chunk = Vec::new();
        let edge = self.door.edge();
        let (mut count, mut oldest) = (0, None);
        self.subscriptions.read(edge, &self.who.user_id, BATCH_BYTES, |event, moment| {
            let json = event.json();
            match event {
                Event::Passing(_) => push_event(&mut chunk, lead, None, json),
                Event::Message(_) | Event::Gap(_) => {
                    moment.with_cursor(|cursor| push_event(&mut chunk, lead, Some(cursor), json));
                }
            }
            count += 1;
            if let (Event::Message(message), None) = (&event, oldest) {
                oldest = Some(message.appended);
            }
        })?;
        edge.metrics.sent(Transport::Sse, count);
        if let Some(appended) = oldest {
            edge.metrics.delivered(now.saturating_duration_since(appended));
        }
        Ok(chunk)
    }

    /// Whether a comment is due.
    fn tick(&mut self) -> Result<bool, Fault> {
        let now = self.door.edge().bells.now();
        if let Some((at, retry)) = self.leave()
            && at <= now
        {
            return Err(Fault::new(Kind::Restart, "this node is being restarted").with_retry_after(retry));
        }
        if self.expires.is_some_and(|at| at <= now) {
            return Err(Fault::new(Kind::AuthenticationFailed, "the token has expired"));
        }
        let is_due = self.comment_due <= now;
        if is_due {
            self.comment_due = now + COMMENT_INTERVAL;
        }
        Ok(is_due)
    }

    /// The last chunk. A restart is only a `retry:`; everything else is told.
    fn end(&mut self, fault: &Fault, lead: usize) -> Vec<u8> {
        self.ended = true;
        let metrics = &self.door.edge().metrics;
        metrics.closed(Transport::Sse, fault.kind.code(), fault.kind.reason());
        let mut chunk = vec![0; lead];
        if let Some(ms) = fault.retry_after_ms() {
            chunk.extend_from_slice(format!("retry: {ms}\n\n").as_bytes());
        }
        if fault.kind != Kind::Restart {
            metrics.fault(Transport::Sse, fault.kind);
            push_event(&mut chunk, lead, None, &envelope::encode_error(fault, None));
        }
        chunk
    }
}

/// One event (WHATWG HTML §9.2.6), behind `lead` bytes if it is the first. Envelopes are one line, so `data` is one field.
fn push_event(chunk: &mut Vec<u8>, lead: usize, id: Option<&[u8]>, json: &[u8]) {
    if chunk.is_empty() {
        // Mostly it remains the only one: one allocation, the caller's last bytes included.
        chunk.reserve(lead + id.map_or(0, <[u8]>::len) + json.len() + 16);
        chunk.resize(lead, 0);
    }
    if let Some(id) = id {
        chunk.extend_from_slice(b"id: ");
        chunk.extend_from_slice(id);
        chunk.push(b'\n');
    }
    chunk.extend_from_slice(b"data: ");
    chunk.extend_from_slice(json);
    chunk.extend_from_slice(b"\n\n");
}
