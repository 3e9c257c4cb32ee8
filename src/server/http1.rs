//! HTTP/1 on a connection: hyper serves one request after another, until the connection ends or somebody has to wait on
//! it. Then it is taken off hyper, and comes back here when there is an answer, or another request to read.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{self, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use futures_util::FutureExt as _;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};
use tokio_util::either::Either;
use tracing::debug;

use super::connection::{Context, HEAD_BYTES, Peer, Stream, finish};
use super::line::Line;
use super::parked::Parked;
use super::router;
use crate::auth::Known;
use crate::channel::Life;
use crate::close::Fault;
use crate::config;
use crate::metrics::Stage;
use crate::transport::Edge;
use crate::transport::http::{Handover, InFlight, Slot};
use crate::transport::websocket::{self, Session, Upgrade};

/// A connection whose next bytes are requests.
pub struct Http1 {
    edge: Arc<Edge>,
    peer: Peer,
    stream: Stream,
    /// Why it is served no more than this.
    refusal: Option<Fault>,
    /// What was read of it already.
    ahead: Bytes,
    /// The last good token.
    known: Option<Known>,
    is_new: bool,
}

impl Http1 {
    /// A connection that has just begun.
    pub fn new(edge: Arc<Edge>, peer: Peer, stream: Stream, refusal: Option<Fault>) -> Self {
        Self { edge, peer, stream, refusal, ahead: Bytes::new(), known: None, is_new: true }
    }

    /// One that somebody has waited on; `unread` is what has come meanwhile, `known` the last good token.
    pub fn again(edge: Arc<Edge>, peer: Peer, stream: Stream, unread: Vec<u8>, known: Option<Known>) -> Self {
        Self { edge, peer, stream, refusal: None, ahead: unread.into(), known, is_new: false }
    }

    /// Serves requests until the connection ends, or is to go on as something else.
    pub async fn run(self) -> Option<Life> {
        let Self { edge, peer, stream, refusal, ahead, known, is_new } = self;
        let context = Arc::new(Context {
            edge,
            peer,
            tls: matches!(stream, Either::Right(_)),
            h2: false,
            refusal,
            slot: Arc::default(),
            in_flight: Arc::default(),
            known: Mutex::new(known),
            places: None,
        });
        let edge = &context.edge;
        let first = edge.heads.of(&ahead);
        let mut patience =
            Patience::new(&edge.config.listen, &context.in_flight, is_new || !ahead.is_empty());
        let heard = Heard { stream, ahead, signs: Arc::clone(&patience.signs) };
        let (result, heard, unread) = serve(&context, heard, &mut patience).await;
        if let Err(error) = &result {
            edge.metrics.handshake(Stage::Http, false);
            debug!(connection = %context.peer.id, %error, "http/1.1 ends");
        }
        // Before the goodbye: who was about to wait is gone.
        let handover = context.slot.take().filter(|_| matches!(result, Ok(true)));
        let stream = heard.stream;
        let (waiting, manner) = match handover {
            None => {
                finish(stream).await;
                return None;
            }
            Some(Handover::WebSocket(upgrade)) => {
                return open_websocket(edge, *upgrade, stream, unread).await;
            }
            Some(Handover::Events(events, manner)) => (Either::Left(events), manner),
            Some(Handover::Poll(mut poller, said, manner)) => {
                // All that was there was one head: that of the request which this one is.
                let is_all = unread.is_empty() && context.in_flight.begun() == 1;
                if let Some(head) = first.filter(|_| is_all && manner.persists && !manner.is_old) {
                    poller.remember(head);
                }
                (Either::Right((poller, said)), manner)
            }
        };
        let line = Line::new(context.peer.clone(), stream, &unread, manner);
        Some(Life::Waits(match waiting {
            Either::Left(events) => Parked::events(*events, line),
            Either::Right((poller, said)) => Parked::poll(*poller, said, line),
        }))
    }
}

/// Has hyper serve until there is no more to do for it: whether that is in order, and the stream with what was read of
/// it and not served.
async fn serve(
    context: &Arc<Context>,
    heard: Heard,
    patience: &mut Patience,
) -> (hyper::Result<bool>, Heard, Bytes) {
    let routed = Arc::clone(context);
    let service =
        service_fn(move |request: Request<Incoming>| Box::pin(router::route(Arc::clone(&routed), request)));
    let mut connection = http1::Builder::new()
        // Ours, for which it needs no timer: hyper's runs while a kept-alive connection waits for its next request, too.
        .header_read_timeout(None)
        .max_buf_size(HEAD_BYTES)
        .keep_alive(context.refusal.is_none())
        .serve_connection(TokioIo::new(heard), service);
    let mut draining = pin!(context.edge.drain.token().cancelled().fuse());
    let mut told = false;
    let result = std::future::poll_fn(|task| {
        loop {
            match connection.poll_without_shutdown(task) {
                Poll::Ready(result) => return Poll::Ready(result.map(|()| true)),
                Poll::Pending if patience.signs.is_free(&context.slot) => return Poll::Ready(Ok(true)),
                Poll::Pending => {}
            }
            // After hyper's turn: one that is told before it has read anything ends at once, whatever has come already.
            if told || draining.as_mut().poll_unpin(task).is_pending() {
                return patience.poll_over(task).map(|()| Ok(false));
            }
            told = true;
            Pin::new(&mut connection).graceful_shutdown();
        }
    })
    .await;
    // A request that waits is dropped with hyper, and so is all that it held.
    let parts = connection.into_parts();
    let mut heard = parts.io.into_inner();
    let ahead = std::mem::take(&mut heard.ahead);
    let unread = match (parts.read_buf.is_empty(), ahead.is_empty()) {
        // An empty `Bytes` of hyper's buffer would keep the whole buffer.
        (true, _) => ahead,
        (false, true) => parts.read_buf,
        (false, false) => [parts.read_buf, ahead].concat().into(),
    };
    (result, heard, unread)
}

async fn open_websocket(edge: &Arc<Edge>, upgrade: Upgrade, stream: Stream, unread: Bytes) -> Option<Life> {
    edge.metrics.handshake(Stage::WebSocket, true);
    if upgrade.echo {
        websocket::echo(edge, stream, unread, upgrade).await;
        return None;
    }
    Some(Session::begin(edge, upgrade, stream, &unread))
}

/// How long a connection may be without a request, and how long one may take to come.
struct Patience {
    idle: Duration,
    request: Duration,
    in_flight: Arc<InFlight>,
    signs: Arc<Signs>,
    /// Requests so far.
    begun: usize,
    /// Within a request's head, or before the first.
    in_head: bool,
    /// None before the first look.
    until: Option<Instant>,
    /// Made when something is waited for: most often what has come is a whole request.
    sleep: Option<Pin<Box<Sleep>>>,
}

/// What the stream under hyper notes.
#[derive(Default)]
struct Signs {
    /// Bytes have come since the last look.
    heard: AtomicBool,
    /// All that was written is on its way.
    flushed: AtomicBool,
}

impl Signs {
    /// Whether somebody waits on the connection and hyper has nothing left to write before that: at the end of its
    /// turns it has tried to write all it has.
    fn is_free(&self, slot: &Slot) -> bool {
        self.flushed.load(Ordering::Relaxed) && slot.has_waiting()
    }
}

impl Patience {
    fn new(listen: &config::Listen, in_flight: &Arc<InFlight>, in_head: bool) -> Self {
        Self {
            idle: listen.idle_timeout,
            request: listen.request_timeout,
            in_flight: Arc::clone(in_flight),
            signs: Arc::default(),
            begun: 0,
            in_head,
            until: None,
            sleep: None,
        }
    }

    /// Ready when it is over. To be polled after the connection.
    fn poll_over(&mut self, task: &mut task::Context<'_>) -> Poll<()> {
        let heard = self.signs.heard.swap(false, Ordering::Relaxed);
        let begun = self.in_flight.begun();
        if begun != self.begun || !self.in_flight.is_empty() {
            // A request has come, and its own deadlines run; or it has been answered already.
            self.begun = begun;
            self.in_head = false;
            self.set(self.idle);
        } else if heard && !self.in_head {
            self.in_head = true;
            self.set(self.request);
        }
        let first = if self.in_head { self.request } else { self.idle };
        let until = *self.until.get_or_insert_with(|| Instant::now() + first);
        self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until))).as_mut().poll(task)
    }

    fn set(&mut self, time: Duration) {
        let until = Instant::now() + time;
        self.until = Some(until);
        if let Some(sleep) = &mut self.sleep {
            sleep.as_mut().reset(until);
        }
    }
}

/// A stream that notes what its client does, with what was read of it already in front.
struct Heard {
    stream: Stream,
    ahead: Bytes,
    signs: Arc<Signs>,
}

impl AsyncRead for Heard {
    fn poll_read(
        self: Pin<&mut Self>,
        task: &mut task::Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.ahead.is_empty() {
            let length = this.ahead.len().min(buffer.remaining());
            buffer.put_slice(&this.ahead[..length]);
            this.ahead.advance(length);
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(task, buffer);
        if buffer.filled().len() > before {
            this.signs.heard.store(true, Ordering::Relaxed);
        }
        read
    }
}

impl AsyncWrite for Heard {
    fn poll_write(
        self: Pin<&mut Self>,
        task: &mut task::Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.signs.flushed.store(false, Ordering::Relaxed);
        Pin::new(&mut self.get_mut().stream).poll_write(task, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        task: &mut task::Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.signs.flushed.store(false, Ordering::Relaxed);
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(task, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, task: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.stream).poll_flush(task))?;
        this.signs.flushed.store(true, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, task: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(task)
    }
}
