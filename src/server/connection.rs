//! The life of a connection, from top to bottom: who it is on the network, TLS, HTTP, and what it becomes. One task,
//! from accept to close, so that its permits, its place in the drain and its metrics are held by one scope.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{self, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, timeout};
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;
use tracing::{debug, trace};
use uuid::Uuid;

use super::accept::{Places, Room, admit, tune};
use super::socket::Socket;
use super::streams::Streams;
use super::tls::Tls;
use super::{proxy, router};
use crate::close::Fault;
use crate::config;
use crate::metrics::{Stage, TcpGuard};
use crate::quota::{ConnectionQuota, IpPermit};
use crate::transport::Edge;
use crate::transport::http::InFlight;
use crate::transport::websocket::{self, Session, Upgrade};

/// A request's head, and what hyper buffers of a body: names of 128 channels fit a query.
const HEAD_BYTES: usize = 64 * 1024;
/// Streams of one HTTP/2 connection: a page has few, a proxy in front has many.
const STREAMS_MAX: u32 = 100;
/// Bytes that h2 may hold for one slow HTTP/2 stream.
const STREAM_BYTES: usize = 64 * 1024;
/// Between the end of the last HTTP/2 answer and the word that the connection is over.
const LAST_FRAME: Duration = Duration::from_millis(100);
/// Between looks after a client that hyper does not look after.
const LOOK: Duration = Duration::from_secs(2);
/// How long a client may take to read the last answer before the socket or stream is closed under it.
pub const LINGER: Duration = Duration::from_secs(1);

/// Plain or TLS.
type Stream = Either<Socket, Box<TlsStream<Socket>>>;

/// What requests know of their connection.
pub struct Context {
    /// The node.
    pub edge: Arc<Edge>,
    /// Names the connection in logs, and to a WebSocket client.
    pub id: Uuid,
    /// The client's address.
    pub address: IpAddr,
    /// Whether the edge itself ended TLS.
    pub tls: bool,
    /// Whether it speaks HTTP/2.
    pub h2: bool,
    /// Why it is served no more than this.
    pub refusal: Option<Fault>,
    /// Bounds how many bad tokens it may present.
    pub guesses: Arc<ConnectionQuota>,
    /// What the connection becomes, left here by the request that asked for it.
    pub upgrade: Mutex<Option<Upgrade>>,
    /// Requests that are being served, and each WebSocket on a stream.
    pub in_flight: Arc<InFlight>,
    /// Where each WebSocket on a stream takes one of its own.
    pub places: Places,
}

impl Context {
    /// Whether the connection lives on only for the answers under way.
    pub fn is_over(&self) -> bool {
        self.h2 && self.edge.drain.has_begun()
    }
}

/// Serves one connection until it ends.
///
/// Not an `async fn`: its arguments would be part of the task for as long as that lives. Boxed are the phases before a
/// WebSocket, which need most; of an idle WebSocket only its session and this future are left.
pub fn run(
    edge: Arc<Edge>,
    tls: Option<Arc<Tls>>,
    tcp: TcpStream,
    peer: SocketAddr,
    room: Room,
    places: Places,
) -> impl Future<Output = ()> + Send {
    let connect = Box::pin(connect(edge, tls, tcp, peer, room, places));
    async move {
        let Some(connected) = connect.await else { return };
        connected.session.run().await;
    }
}

/// A WebSocket's session, and what its connection holds until it ends.
struct Connected {
    session: Box<Session<Stream>>,
    _held: (TcpGuard, IpPermit, OwnedSemaphorePermit),
}

/// From accept to the end of HTTP: of the connection, unless it becomes a WebSocket.
async fn connect(
    edge: Arc<Edge>,
    tls: Option<Arc<Tls>>,
    tcp: TcpStream,
    peer: SocketAddr,
    room: Room,
    places: Places,
) -> Option<Connected> {
    let id = Uuid::new_v4();
    let counted = edge.metrics.tcp_opened();
    if let Err(error) = tune(&tcp, &edge) {
        debug!(connection = %id, %error, "socket options");
    }
    let mut socket = Socket::new(tcp, edge.config.limits.write_timeout);
    let patience = edge.config.listen.handshake_timeout;
    let address = match timeout(patience, client_address(&edge, &mut socket, peer)).await {
        Ok(Ok(address)) => address,
        Ok(Err(error)) => return handshake_failed(&edge, id, Stage::Proxy, &error),
        Err(_) => return handshake_failed(&edge, id, Stage::Proxy, &io::ErrorKind::TimedOut.into()),
    };
    // Before TLS, which is what costs.
    let Ok((permit, refusal)) = admit(&edge, address, &room) else {
        trace!(connection = %id, %address, "dropped: far above its quota");
        return None;
    };
    let (stream, h2) = match tls {
        None => (Either::Left(socket), false),
        Some(tls) => match timeout(patience, tls.acceptor(refusal.is_some()).accept(socket)).await {
            Ok(Ok(stream)) => {
                edge.metrics.handshake(Stage::Tls, true);
                let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                (Either::Right(Box::new(stream)), h2)
            }
            Ok(Err(error)) => return handshake_failed(&edge, id, Stage::Tls, &error),
            Err(_) => return handshake_failed(&edge, id, Stage::Tls, &io::ErrorKind::TimedOut.into()),
        },
    };
    debug!(connection = %id, %address, h2, "connected");
    let context = Arc::new(Context {
        edge: Arc::clone(&edge),
        id,
        address,
        tls: matches!(stream, Either::Right(_)),
        h2,
        refusal,
        guesses: Arc::default(),
        upgrade: Mutex::new(None),
        in_flight: Arc::default(),
        places,
    });
    if h2 {
        serve_http2(stream, context).await;
        return None;
    }
    let (upgrade, stream, unread) = serve_http1(stream, context).await?;
    edge.metrics.handshake(Stage::WebSocket, true);
    if upgrade.echo {
        websocket::echo(&edge, stream, unread, upgrade).await;
        return None;
    }
    let session = Session::begin(&edge, upgrade, stream, &unread);
    Some(Connected { session, _held: (counted, permit, room.permit) })
}

async fn client_address(edge: &Edge, socket: &mut Socket, peer: SocketAddr) -> io::Result<IpAddr> {
    if edge.config.listen.proxy_protocol {
        proxy::read_header(socket.tcp_mut(), peer).await
    } else {
        Ok(peer.ip())
    }
}

/// HTTP/1.1 until the connection ends or becomes a WebSocket.
async fn serve_http1(stream: Stream, context: Arc<Context>) -> Option<(Upgrade, Stream, Bytes)> {
    let edge = Arc::clone(&context.edge);
    let service =
        service_fn(|request: Request<Incoming>| router::route(Arc::clone(&context), request).boxed());
    let mut patience = Patience::new(&edge.config.listen, &context.in_flight);
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // Ours: hyper's runs while a kept-alive connection waits for its next request, too.
        .header_read_timeout(None)
        .max_buf_size(HEAD_BYTES)
        .keep_alive(context.refusal.is_none())
        .serve_connection(TokioIo::new(Heard { stream, signs: Arc::clone(&patience.signs) }), service);
    let mut draining = pin!(edge.drain.token().cancelled().fuse());
    let mut told = false;
    let result = std::future::poll_fn(|task| {
        if !told && draining.as_mut().poll_unpin(task).is_ready() {
            told = true;
            Pin::new(&mut connection).graceful_shutdown();
        }
        match connection.poll_without_shutdown(task) {
            Poll::Ready(result) => Poll::Ready(result.map(|()| true)),
            Poll::Pending => patience.poll_over(task).map(|()| Ok(false)),
        }
    })
    .await;
    if let Err(error) = &result {
        edge.metrics.handshake(Stage::Http, false);
        debug!(connection = %context.id, %error, "http/1.1 ends");
    }
    let parts = connection.into_parts();
    let stream = parts.io.into_inner().stream;
    let upgrade = context.upgrade.lock().take();
    if let (Ok(true), Some(upgrade)) = (result, upgrade) {
        // An empty `Bytes` of hyper's buffer would keep the whole buffer.
        let unread = if parts.read_buf.is_empty() { Bytes::new() } else { parts.read_buf };
        return Some((upgrade, stream, unread));
    }
    finish(stream).await;
    None
}

async fn serve_http2(stream: Stream, context: Arc<Context>) {
    let edge = Arc::clone(&context.edge);
    let heartbeat = &edge.config.heartbeat;
    let service = {
        let context = Arc::clone(&context);
        service_fn(move |request: Request<Incoming>| router::route(Arc::clone(&context), request))
    };
    let connection = http2::Builder::new(Streams::new(&edge, context.places.tasks.clone()))
        .timer(TokioTimer::new())
        // RFC 8441 §3: browsers then open WebSockets on a connection that they have.
        .enable_connect_protocol()
        .keep_alive_interval(heartbeat.interval)
        .keep_alive_timeout(heartbeat.timeout)
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(u32::try_from(HEAD_BYTES).expect("64 KB"))
        .max_send_buf_size(STREAM_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = last_answer(&context) => {
            connection.as_mut().graceful_shutdown();
            timeout(LINGER, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = result {
        debug!(connection = %context.id, %error, "http/2 ends");
    }
}

/// Ends when an HTTP/2 connection should be told to go: once nothing is under way on it, and it is being drained or
/// has been idle. Not before, since some clients take the news for the end of their streams.
async fn last_answer(context: &Context) {
    let drain = &context.edge.drain;
    let mut idle = context.in_flight.is_empty();
    loop {
        let waited = tokio::select! {
            () = context.in_flight.none_left() => false,
            () = drain.token().cancelled(), if !drain.has_begun() => false,
            () = tokio::time::sleep(context.edge.config.listen.idle_timeout) => true,
        };
        if !context.in_flight.is_empty() {
            idle = false;
            continue;
        }
        if drain.has_begun() || (waited && idle) {
            // The last answer's final frame is still on its way through hyper.
            return tokio::time::sleep(LAST_FRAME).await;
        }
        idle = true;
    }
}

/// How long an HTTP/1.1 connection may be without a request, how long one may take to come, and how long it is served
/// for a client that has gone.
struct Patience {
    idle: Duration,
    request: Duration,
    in_flight: Arc<InFlight>,
    signs: Arc<Signs>,
    /// Requests so far.
    begun: usize,
    /// Within a request's head, or before the first.
    in_head: bool,
    /// The request that is being served while nobody waits for its client.
    unwatched: Option<usize>,
    sleep: Pin<Box<Sleep>>,
}

/// What the stream under hyper notes of its client.
#[derive(Default)]
struct Signs {
    /// Bytes have come since the last look.
    heard: AtomicBool,
    /// Hyper does not wait for more: it has bytes behind the request that it serves, and reads on only when that is
    /// answered. Until then it sees no end of the client either.
    unwatched: AtomicBool,
    /// The client has closed, which is looked for only while it is unwatched.
    closed: AtomicBool,
}

impl Patience {
    fn new(listen: &config::Listen, in_flight: &Arc<InFlight>) -> Self {
        Self {
            idle: listen.idle_timeout,
            request: listen.request_timeout,
            in_flight: Arc::clone(in_flight),
            signs: Arc::default(),
            begun: 0,
            in_head: true,
            unwatched: None,
            sleep: Box::pin(tokio::time::sleep(listen.request_timeout)),
        }
    }

    /// Ready when it is over. To be polled after the connection.
    fn poll_over(&mut self, task: &mut task::Context<'_>) -> Poll<()> {
        let heard = self.signs.heard.swap(false, Ordering::Relaxed);
        let begun = self.in_flight.begun();
        let serving = begun != self.begun || !self.in_flight.is_empty();
        // RFC 9112 §9.3.2: a client may pipeline, so that this is no fault of its own.
        let unwatched = (serving && self.signs.unwatched.load(Ordering::Relaxed)).then_some(begun);
        let before = std::mem::replace(&mut self.unwatched, unwatched);
        if serving || before.is_some() {
            // A request has come, and its own deadlines run; or it has been answered already.
            self.begun = begun;
            self.in_head = false;
            // Not put off by what wakes the connection meanwhile.
            let looks_go_on = unwatched.is_some() && unwatched == before;
            if !looks_go_on {
                let patience = if unwatched.is_some() { LOOK } else { self.idle };
                self.sleep.as_mut().reset(Instant::now() + patience);
            }
        } else if heard && !self.in_head {
            self.in_head = true;
            self.sleep.as_mut().reset(Instant::now() + self.request);
        }
        loop {
            ready!(self.sleep.as_mut().poll(task));
            if self.unwatched.is_none() || self.signs.closed.load(Ordering::Relaxed) {
                return Poll::Ready(());
            }
            self.sleep.as_mut().reset(Instant::now() + LOOK);
        }
    }
}

/// A stream that notes what its client does.
struct Heard {
    stream: Stream,
    signs: Arc<Signs>,
}

impl Heard {
    fn is_closed_by_client(&self) -> bool {
        match &self.stream {
            Either::Left(socket) => socket.is_closed_by_client(),
            Either::Right(tls) => tls.get_ref().0.is_closed_by_client(),
        }
    }
}

impl AsyncRead for Heard {
    fn poll_read(
        self: Pin<&mut Self>,
        task: &mut task::Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(task, buffer);
        if buffer.filled().len() > before {
            this.signs.heard.store(true, Ordering::Relaxed);
        }
        this.signs.unwatched.store(read.is_ready(), Ordering::Relaxed);
        read
    }
}

impl AsyncWrite for Heard {
    fn poll_write(
        self: Pin<&mut Self>,
        task: &mut task::Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(task, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        task: &mut task::Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(task, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Hyper does so at the end of each turn, or waits for a write, whose clock runs.
    fn poll_flush(self: Pin<&mut Self>, task: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.signs.unwatched.load(Ordering::Relaxed) && this.is_closed_by_client() {
            this.signs.closed.store(true, Ordering::Relaxed);
        }
        Pin::new(&mut this.stream).poll_flush(task)
    }

    fn poll_shutdown(self: Pin<&mut Self>, task: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(task)
    }
}

/// Closes without losing the last answer: a close with unread bytes would reset the connection under it.
async fn finish(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let linger = async {
        stream.shutdown().await?;
        let mut sink = [0; 4096];
        // Bounded by time and by what a client can send in it.
        while stream.read(&mut sink).await? > 0 {}
        io::Result::Ok(())
    };
    // The connection ends either way.
    let _: Result<io::Result<()>, _> = timeout(LINGER, Box::pin(linger)).await;
}

fn handshake_failed(edge: &Edge, id: Uuid, stage: Stage, error: &io::Error) -> Option<Connected> {
    edge.metrics.handshake(stage, false);
    debug!(connection = %id, ?stage, %error, "handshake failed");
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The task of an idle WebSocket: with what tokio and the tracker add, and rounded up to pairs of cache lines as tokio
    /// aligns it, 256 bytes.
    #[test]
    fn a_connections_task_stays_small() {
        type Run<F> = fn(Arc<Edge>, Option<Arc<Tls>>, TcpStream, SocketAddr, Room, Places) -> F;
        fn size_of_future<F>(_: Run<F>) -> usize {
            size_of::<F>()
        }
        assert!(size_of_future(run) <= 144, "{}", size_of_future(run));
    }
}
