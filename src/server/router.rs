//! Which endpoint answers a request, and what every answer has in common: CORS, HEAD, Allow.

use std::borrow::Cow;
use std::convert::Infallible;
use std::future::{pending, poll_fn};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use hyper::ext::Protocol;
use hyper::http::HeaderValue;
use hyper::{Method, Request, StatusCode, Version, header};
use parking_lot::Mutex;
use percent_encoding::percent_decode_str;
use tokio::time::timeout;

use super::connection::Context;
use super::websocket_stream;
use crate::channel::ChannelName;
use crate::close::{Fault, Kind};
use crate::demo;
use crate::metrics::Transport;
use crate::transport::http::{self, Answer, Body, Call, Handover, Manner, STALL, typed};
use crate::transport::{long_poll, rest, send, sse, websocket};

/// What is read at most of a refused request's body, and how long that may take.
const REST_BYTES: usize = 1024 * 1024;
const REST: Duration = Duration::from_secs(1);
/// When to ask again what there was no room to answer.
const COME_AGAIN: Duration = Duration::from_secs(1);

/// What a path names.
enum Route {
    /// `*`: the server itself (RFC 9110 §9.3.7).
    Server,
    WebSocket {
        echo: bool,
    },
    Sse,
    Poll,
    Send,
    Tickets,
    Messages(ChannelName),
    Presence(ChannelName),
    Demo(demo::Asset),
    DemoToken,
}

impl Route {
    /// The methods it knows, for `Allow` (RFC 9110 §10.2.1).
    const fn allow(&self, h2: bool) -> &'static str {
        match self {
            Self::WebSocket { .. } if h2 => "CONNECT, OPTIONS",
            Self::WebSocket { .. } => "GET, OPTIONS",
            Self::Sse | Self::Poll | Self::Presence(_) | Self::Demo(_) => "GET, HEAD, OPTIONS",
            Self::Send | Self::Tickets | Self::DemoToken => "POST, OPTIONS",
            Self::Messages(_) | Self::Server => "GET, HEAD, POST, OPTIONS",
        }
    }

    const fn transport(&self) -> Transport {
        match self {
            Self::WebSocket { .. } => Transport::WebSocket,
            Self::Sse => Transport::Sse,
            Self::Poll => Transport::Poll,
            _ => Transport::Http,
        }
    }
}

/// Answers one request.
///
/// # Errors
/// Never: what goes wrong is an answer.
pub async fn route(context: Arc<Context>, request: Request<Incoming>) -> Result<Answer, Infallible> {
    let serving = context.in_flight.begin();
    let (head, mut body) = request.into_parts();
    let mut call = Call {
        edge: Arc::clone(&context.edge),
        head,
        address: context.peer.address,
        connection: context.peer.id,
        tls: context.tls,
        refusal: context.refusal.clone(),
        guesses: Arc::clone(&context.peer.guesses),
        known: Mutex::new(context.known.lock().clone()),
    };
    let well_formed = http::check(&call.head);
    let is_formed = well_formed.is_ok();
    let mut answer = match well_formed.and_then(|()| find(&call)) {
        Ok(route) if context.is_over() => call.refuse(route.transport(), &going_away(&context)),
        Ok(route) if call.head.method == Method::OPTIONS => options(&call, &route, context.h2),
        Ok(route) => match dispatch(&context, &mut call, &route, &mut body).await {
            Ok(answer) => answer,
            Err(fault) => {
                let mut answer = call.refuse(route.transport(), &fault);
                if fault.kind == Kind::MethodNotAllowed {
                    answer
                        .headers_mut()
                        .insert(header::ALLOW, HeaderValue::from_static(route.allow(context.h2)));
                }
                answer
            }
        },
        Err(fault) => call.refuse(Transport::Http, &fault),
    };
    if context.h2 && !answer.status().is_success() && sends_unasked(&call) {
        Box::pin(take_in_rest(&mut body)).await;
    }
    if call.head.method != Method::OPTIONS {
        call.origin().write_cors(answer.headers_mut());
    }
    if call.head.method == Method::HEAD {
        withhold_body(&mut answer);
    }
    if !is_formed && call.head.version < Version::HTTP_2 {
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    answer.body_mut().set_serving(serving);
    if let Some(known) = call.known.into_inner() {
        *context.known.lock() = Some(known);
    }
    if !context.h2 {
        let manner = Manner::of(&call.head, !body.is_end_stream());
        answer.body_mut().hand_over(Arc::clone(&context.slot), manner);
    }
    // Only an HTTP/2 stream has a task of its own, and one to watch over it.
    if let Ok(stall) = STALL.try_with(Arc::clone) {
        answer.body_mut().set_stall(stall);
    }
    Ok(answer)
}

async fn dispatch(
    context: &Arc<Context>,
    call: &mut Call,
    route: &Route,
    body: &mut Incoming,
) -> Result<Answer, Fault> {
    if let (Route::Poll, &Method::GET) = (route, &call.head.method) {
        let manner = Manner::of(&call.head, !body.is_end_stream());
        return poll(context, call, manner).await;
    }
    // Boxed: polls are many, and what the others need would be a part of the future of each.
    Box::pin(dispatch_others(context, call, route, body)).await
}

async fn dispatch_others(
    context: &Arc<Context>,
    call: &mut Call,
    route: &Route,
    body: &mut Incoming,
) -> Result<Answer, Fault> {
    let method = call.head.method.clone();
    let reads = method == Method::GET || method == Method::HEAD;
    match route {
        Route::WebSocket { echo } if context.h2 && method == Method::CONNECT => {
            websocket_stream::open(context, call, *echo).await
        }
        Route::WebSocket { .. } if context.h2 && method == Method::GET => {
            let how = "over HTTP/2 a WebSocket is an extended CONNECT (RFC 8441)";
            Err(Fault::new(Kind::MethodNotAllowed, how))
        }
        Route::WebSocket { echo } if method == Method::GET => {
            let mut handshake = Request::from_parts(call.head.clone(), ());
            let (answer, upgrade) = websocket::accept(call, &mut handshake, *echo).await;
            if let Some(upgrade) = upgrade {
                context.slot.leave(Handover::WebSocket(Box::new(upgrade)));
            }
            Ok(answer)
        }
        Route::Sse if method == Method::GET => sse::open(call).await,
        Route::Sse if method == Method::HEAD => sse::head(call).await,
        Route::Poll if method == Method::HEAD => long_poll::head(call).await,
        Route::Send if method == Method::POST => send::send(call, body).await,
        Route::Tickets if method == Method::POST => rest::ticket(call).await,
        Route::Messages(channel) if reads => {
            room(context).await?;
            rest::history(call, channel).await
        }
        Route::Messages(channel) if method == Method::POST => rest::publish(call, channel, body).await,
        Route::Presence(channel) if reads => rest::presence(call, channel).await,
        Route::Demo(asset) if reads => call.refusal.clone().map_or_else(|| Ok(page(asset)), Err),
        Route::DemoToken if method == Method::POST => rest::demo_token(call, body).await,
        _ => Err(Fault::new(Kind::MethodNotAllowed, format!("this resource does not know {method}"))),
    }
}

/// Answers a poll. In HTTP/1 its connection does, which ends this future with its request: it may have to wait, and the
/// next one is most often the same again.
async fn poll(context: &Context, call: &Call, manner: Manner) -> Result<Answer, Fault> {
    if context.h2 {
        Box::pin(room(context)).await?;
    }
    let (mut poller, mut said) = long_poll::poll(call).await?;
    if context.h2 {
        poll_fn(|task| poller.poll_over(task, &mut said)).await?;
        return Ok(poller.answer(said));
    }
    let at_once = poll_fn(|task| Poll::Ready(poller.poll_over(task, &mut said))).await;
    let said = match at_once {
        Poll::Ready(over) => over.map(|()| Some(said))?,
        Poll::Pending => None,
    };
    poller.leave(call);
    context.slot.leave(Handover::Poll(Box::new(poller), said, manner));
    pending().await
}

/// Waits with what may be a large answer until the client has taken enough of those before it. In HTTP/1 each waits for
/// the one before it anyway.
async fn room(context: &Context) -> Result<(), Fault> {
    if !context.h2 {
        return Ok(());
    }
    let limits = &context.edge.config.limits;
    timeout(limits.write_timeout, context.in_flight.room(limits.queue_bytes)).await.map_err(|_| {
        let why = "answers before this one on the same connection are not taken";
        Fault::new(Kind::Overloaded, why).with_limit("limits.queue_bytes").with_retry_after(COME_AGAIN)
    })
}

/// Whether the client sends its body whatever it is answered: not after `CONNECT`, nor before a 100 (RFC 9110 §10.1.1).
fn sends_unasked(call: &Call) -> bool {
    call.head.method != Method::CONNECT && !call.head.headers.contains_key(header::EXPECT)
}

/// Reads what a refused request still sends, within reason: a stream that is reset because of an unread body takes its
/// answer with it in some clients (RFC 9113 §8.1 would have them keep it).
async fn take_in_rest(body: &mut Incoming) {
    let rest = async {
        let mut left = REST_BYTES;
        while let Some(Ok(frame)) = body.frame().await {
            let Some(less) = left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) else { return };
            left = less;
        }
    };
    // Whoever needs longer is answered all the same.
    let _: Result<(), _> = timeout(REST, rest).await;
}

fn find(call: &Call) -> Result<Route, Fault> {
    let config = &call.edge.config;
    if call.head.method == Method::CONNECT && call.head.extensions.get::<Protocol>().is_none() {
        // RFC 9110 §9.3.6, §15.6.2: whatever it names.
        return Err(Fault::new(Kind::NotImplemented, "this is no proxy"));
    }
    let path = call.head.uri.path();
    let not_found = || Fault::new(Kind::NotFound, "no such resource");
    match path {
        "*" => Ok(Route::Server),
        "/v1/ws" => Ok(Route::WebSocket { echo: false }),
        "/echo" if config.conformance.echo => Ok(Route::WebSocket { echo: true }),
        "/v1/sse" => Ok(Route::Sse),
        "/v1/poll" => Ok(Route::Poll),
        "/v1/send" => Ok(Route::Send),
        "/v1/tickets" => Ok(Route::Tickets),
        "/demo/token" if config.development => Ok(Route::DemoToken),
        _ if config.development && demo::asset(path).is_some() => {
            demo::asset(path).map(Route::Demo).ok_or_else(not_found)
        }
        _ => {
            let rest = path.strip_prefix("/v1/channels/").ok_or_else(not_found)?;
            // A name may hold slashes: what counts is the last segment.
            if let Some(name) = rest.strip_suffix("/messages") {
                channel(name).map(Route::Messages)
            } else if let Some(name) = rest.strip_suffix("/presence") {
                channel(name).map(Route::Presence)
            } else {
                Err(not_found())
            }
        }
    }
}

fn channel(segment: &str) -> Result<ChannelName, Fault> {
    let name: Cow<'_, str> = percent_decode_str(segment)
        .decode_utf8()
        .map_err(|_| Fault::malformed("the path's channel is not UTF-8"))?;
    name.parse().map_err(|error: crate::channel::NameError| Fault::malformed(error.to_string()))
}

/// `OPTIONS`: a preflight (WHATWG Fetch §4.8), or a question for `Allow`.
fn options(call: &Call, route: &Route, h2: bool) -> Answer {
    let mut answer = Answer::new(Body::EMPTY);
    *answer.status_mut() = StatusCode::NO_CONTENT;
    let origin = call.origin();
    if let Err(fault) = origin.admit() {
        return call.refuse(route.transport(), &fault);
    }
    answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static(route.allow(h2)));
    origin.write_preflight(answer.headers_mut());
    answer
}

fn page(asset: &demo::Asset) -> Answer {
    let mut answer = typed(StatusCode::OK, asset.content_type, asset.body.into());
    let policy = HeaderValue::from_static(demo::CONTENT_SECURITY_POLICY);
    answer.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    answer
}

/// RFC 9110 §9.3.2: the headers of a GET, without its body.
fn withhold_body(answer: &mut Answer) {
    // Where there is nothing to withhold nobody has asked for what a GET would say: its length is left out.
    if let Some(length) = answer.body().size_hint().exact().filter(|length| *length > 0) {
        answer.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    answer.body_mut().withhold();
}

/// What a request on a connection that is only kept for the answers under way gets.
fn going_away(context: &Context) -> Fault {
    let (_, retry) = context.edge.drain.spread();
    Fault::new(Kind::Restart, "this node is being restarted").with_retry_after(retry)
}
