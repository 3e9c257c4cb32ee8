//! A WebSocket on one stream of an HTTP/2 connection (RFC 8441). To quotas, drain and metrics it is a connection like
//! any other, with a place and a task of its own and the same session; only its socket is a stream. It never ends the
//! TCP connection, which the client has for other things, too.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Task, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::DropGuard;
use tracing::debug;
use uuid::Uuid;

use super::accept::{Place, overloaded};
use super::connection::Context;
use super::socket::WriteClock;
use super::streams::LET_GO;
use crate::channel::Life;
use crate::close::Fault;
use crate::metrics::Stage;
use crate::transport::Edge;
use crate::transport::http::{Answer, Call, Serving};
use crate::transport::websocket::{self, Session, Upgrade};

/// What hyper is given in one write, which it copies whole. It holds three of them, and h2 holds 64 KB and one more:
/// 128 KB that a client does not take, beside `limits.queue_bytes`. That is what the kernel may hold for a socket.
const WRITE_BYTES: usize = 16 * 1024;

/// Answers an extended `CONNECT`, and begins the session that its stream becomes.
///
/// # Errors
/// There is no place for it, not even to be told so over a WebSocket.
///
/// # Panics
/// Never: hyper serves a request in its stream's task, which [`Streams`](super::streams::Streams) has begun.
pub async fn open(context: &Arc<Context>, call: &mut Call, echo: bool) -> Result<Answer, Fault> {
    let edge = &context.edge;
    let places = context.places.as_ref().ok_or_else(overloaded)?;
    let room = places.take().ok_or_else(overloaded)?;
    let (place, refusal) = room.admit(context.peer.address)?;
    call.refusal = refusal;
    call.connection = Uuid::new_v4();
    let (answer, upgrade) = websocket::accept_stream(call, echo).await;
    let on_upgrade = call.head.extensions.remove::<OnUpgrade>();
    if let (Some(upgrade), Some(on_upgrade)) = (upgrade, on_upgrade) {
        debug!(connection = %upgrade.client_id, on = %context.peer.id, address = %context.peer.address, "a stream");
        let let_go = LET_GO.with(Clone::clone).drop_guard();
        let held = Held { _let_go: let_go, _place: place, _serving: context.in_flight.begin() };
        places.tasks.spawn(Life::acts(begin(Arc::clone(edge), on_upgrade, upgrade, held)));
    }
    Ok(answer)
}

/// What a stream's WebSocket holds until it ends.
struct Held {
    _let_go: DropGuard,
    _place: Place,
    /// The TCP connection is neither idle nor drained as long as this is.
    _serving: Serving,
}

/// From the answer on; all of it, if it is `/echo`.
async fn begin(edge: Arc<Edge>, on_upgrade: OnUpgrade, upgrade: Upgrade, held: Held) -> Option<Life> {
    let upgraded = match on_upgrade.await {
        Ok(upgraded) => upgraded,
        Err(error) => {
            edge.metrics.handshake(Stage::WebSocket, false);
            debug!(connection = %upgrade.client_id, %error, "the stream was gone before its answer");
            return None;
        }
    };
    edge.metrics.handshake(Stage::WebSocket, true);
    let stream = Stream::new(TokioIo::new(upgraded), edge.config.limits.write_timeout, Box::new(held));
    if upgrade.echo {
        websocket::echo(&edge, stream, Bytes::new(), upgrade).await;
        return None;
    }
    Some(Session::begin(&edge, upgrade, stream, &Bytes::new()))
}

/// A stream, with the bounds and the clock of a socket.
struct Stream<S = TokioIo<Upgraded>> {
    io: S,
    clock: WriteClock,
    write_timeout: Duration,
    /// As long as the stream is there.
    _held: Box<dyn Send>,
}

impl<S> Stream<S> {
    fn new(io: S, write_timeout: Duration, held: Box<dyn Send>) -> Self {
        Self { io, clock: WriteClock::default(), write_timeout, _held: held }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        task: &mut Task<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(task, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(self: Pin<&mut Self>, task: &mut Task<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let piece = &bytes[..bytes.len().min(WRITE_BYTES)];
        let write = Pin::new(&mut this.io).poll_write(task, piece);
        this.clock.watch(task, write, || this.write_timeout)
    }

    fn poll_flush(self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // Waits until hyper has room for another piece, so it can be stuck as well.
        let flush = Pin::new(&mut this.io).poll_flush(task);
        this.clock.watch(task, flush, || this.write_timeout)
    }

    fn poll_shutdown(self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(task)
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, poll_fn};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
    use tokio::time::Instant;
    use tokio_util::sync::CancellationToken;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(10);

    fn stream(holds: usize) -> (Stream<DuplexStream>, DuplexStream, CancellationToken) {
        let let_go = CancellationToken::new();
        let (ours, theirs) = duplex(holds);
        (Stream::new(ours, TIMEOUT, Box::new(let_go.clone().drop_guard())), theirs, let_go)
    }

    #[tokio::test(start_paused = true)]
    async fn one_write_is_no_more_than_a_piece() {
        let (mut stream, _theirs, _) = stream(1024 * 1024);
        let bytes = vec![0; 100_000];
        let written = poll_fn(|task| Pin::new(&mut stream).poll_write(task, &bytes)).await.unwrap();
        assert_eq!(written, WRITE_BYTES);
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_nobody_takes_fails_in_time() {
        let (mut stream, mut theirs, let_go) = stream(WRITE_BYTES);
        stream.write_all(&[0; WRITE_BYTES]).await.unwrap();
        let began = Instant::now();
        let bytes = vec![0; 10 * WRITE_BYTES];
        // Every piece that is taken is progress.
        let slow = async {
            for _ in 0..3 {
                tokio::time::sleep(TIMEOUT / 2).await;
                theirs.read_exact(&mut [0; WRITE_BYTES]).await.unwrap();
            }
            pending::<()>().await;
        };
        let error = tokio::select! {
            result = stream.write_all(&bytes) => result.unwrap_err(),
            () = slow => unreachable!(),
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed().as_secs(), (TIMEOUT * 5 / 2).as_secs(), "after the last progress");
        assert!(!let_go.is_cancelled());
        drop(stream);
        assert!(let_go.is_cancelled());
    }
}
