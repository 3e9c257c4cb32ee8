//! The life of a connection, from top to bottom: who it is on the network, TLS, HTTP, and what it becomes. One task,
//! from accept to close; its place on the node and in the metrics goes with its socket.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::either::Either;
use tokio_util::task::TaskTracker;
use tracing::{debug, trace};
use uuid::Uuid;

use super::accept::{Places, Room, tune};
use super::http1::Http1;
use super::socket::Socket;
use super::streams::Streams;
use super::tls::{Tls, TlsStream};
use super::{proxy, router};
use crate::auth::Known;
use crate::channel::Life;
use crate::close::Fault;
use crate::metrics::Stage;
use crate::quota::ConnectionQuota;
use crate::transport::Edge;
use crate::transport::http::{InFlight, Slot};

/// A request's head, and what hyper buffers of a body: names of 128 channels fit a query.
pub const HEAD_BYTES: usize = 64 * 1024;
/// Streams of one HTTP/2 connection: a page has few, a proxy in front has many.
const STREAMS_MAX: u32 = 100;
/// Bytes that h2 may hold for one slow HTTP/2 stream.
const STREAM_BYTES: usize = 64 * 1024;
/// Between the end of the last HTTP/2 answer and the word that the connection is over.
const LAST_FRAME: Duration = Duration::from_millis(100);
/// How long a client may take to read the last answer before the socket or stream is closed under it.
pub const LINGER: Duration = Duration::from_secs(1);

/// Plain or TLS.
pub type Stream = Either<Socket, Box<TlsStream<Socket>>>;

/// Who is at the other end, as far as the connection tells.
#[derive(Clone)]
pub struct Peer {
    /// Names the connection in logs, and to a WebSocket client.
    pub id: Uuid,
    /// The client's address.
    pub address: IpAddr,
    /// Bounds how many bad tokens it may present.
    pub guesses: Arc<ConnectionQuota>,
}

/// What requests know of their connection.
pub struct Context {
    /// The node.
    pub edge: Arc<Edge>,
    /// The client.
    pub peer: Peer,
    /// Whether the edge itself ended TLS.
    pub tls: bool,
    /// Whether it speaks HTTP/2.
    pub h2: bool,
    /// Why it is served no more than this.
    pub refusal: Option<Fault>,
    /// What the connection goes on as, left here by the request that asked for it.
    pub slot: Arc<Slot>,
    /// Requests that are being served, and each WebSocket on a stream.
    pub in_flight: Arc<InFlight>,
    /// The last good token.
    pub known: Mutex<Option<Known>>,
    /// Where each WebSocket on a stream takes one of its own: over HTTP/2 only.
    pub places: Option<Places>,
}

impl Context {
    /// Whether the connection lives on only for the answers under way.
    pub fn is_over(&self) -> bool {
        self.h2 && self.edge.drain.has_begun()
    }
}

/// From accept to the first request; over HTTP/2 to the end. Then it lives on as one who asks or waits, in a box of its
/// own: of an idle connection only that and a task of two words are left.
pub async fn connect(
    places: Places,
    tls: Option<Arc<Tls>>,
    room: Room,
    mut tcp: TcpStream,
    peer: SocketAddr,
) -> Option<Life> {
    let id = Uuid::new_v4();
    let edge = &Arc::clone(room.edge());
    let counted = edge.metrics.tcp_opened();
    if let Err(error) = tune(&tcp, edge) {
        debug!(connection = %id, %error, "socket options");
    }
    let patience = edge.config.listen.handshake_timeout;
    let address = match timeout(patience, client_address(edge, &mut tcp, peer)).await {
        Ok(Ok(address)) => address,
        Ok(Err(error)) => return handshake_failed(edge, id, Stage::Proxy, &error),
        Err(_) => return handshake_failed(edge, id, Stage::Proxy, &io::ErrorKind::TimedOut.into()),
    };
    // Before TLS, which is what costs.
    let Ok((place, refusal)) = room.admit(address) else {
        trace!(connection = %id, %address, "dropped: far above its quota");
        return None;
    };
    let socket = Socket::new(tcp, place, counted);
    let (stream, h2) = match tls {
        None => (Either::Left(socket), false),
        Some(tls) => {
            match timeout(patience, TlsStream::accept(tls.server(refusal.is_some()), socket)).await {
                Ok(Ok(stream)) => {
                    edge.metrics.handshake(Stage::Tls, true);
                    let h2 = stream.alpn_protocol() == Some(b"h2");
                    (Either::Right(Box::new(stream)), h2)
                }
                Ok(Err(error)) => return handshake_failed(edge, id, Stage::Tls, &error),
                Err(_) => return handshake_failed(edge, id, Stage::Tls, &io::ErrorKind::TimedOut.into()),
            }
        }
    };
    debug!(connection = %id, %address, h2, "connected");
    let peer = Peer { id, address, guesses: Arc::default() };
    if h2 {
        let tasks = places.tasks.clone();
        let context = Context {
            edge: Arc::clone(edge),
            peer,
            tls: true,
            h2,
            refusal,
            slot: Arc::default(),
            in_flight: Arc::default(),
            known: Mutex::default(),
            places: Some(places),
        };
        serve_http2(stream, Arc::new(context), tasks).await;
        return None;
    }
    let http = Http1::new(Arc::clone(edge), peer, stream, refusal);
    Some(Life::acts(http.run()))
}

async fn client_address(edge: &Edge, tcp: &mut TcpStream, peer: SocketAddr) -> io::Result<IpAddr> {
    if edge.config.listen.proxy_protocol { proxy::read_header(tcp, peer).await } else { Ok(peer.ip()) }
}

async fn serve_http2(stream: Stream, context: Arc<Context>, tasks: TaskTracker) {
    let edge = Arc::clone(&context.edge);
    let heartbeat = &edge.config.heartbeat;
    let service = {
        let context = Arc::clone(&context);
        service_fn(move |request: Request<Incoming>| router::route(Arc::clone(&context), request))
    };
    let connection = http2::Builder::new(Streams::new(&edge, tasks))
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
        debug!(connection = %context.peer.id, %error, "http/2 ends");
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

/// Closes without losing the last answer: a close with unread bytes would reset the connection under it.
pub async fn finish(mut stream: Stream) {
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

fn handshake_failed<T>(edge: &Edge, id: Uuid, stage: Stage, error: &io::Error) -> Option<T> {
    edge.metrics.handshake(stage, false);
    debug!(connection = %id, ?stage, %error, "handshake failed");
    None
}
