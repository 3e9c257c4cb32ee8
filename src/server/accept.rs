//! Who gets in: the loop that accepts connections, and the bounds on how many there may be.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::connection;
use super::tls::Tls;
use crate::transport::Edge;

/// Connections above `listen.max_connections` that are told so before they are closed; beyond them it is just closed.
const OVERFLOW: usize = 64;
/// After an accept that failed for want of resources: until something has been given back.
const BACKOFF: Duration = Duration::from_millis(100);

/// Bytes that the kernel takes of one connection beyond what is on its way.
const UNSENT_BYTES: u32 = 128 * 1024;

/// Room for one connection; given back when it is dropped.
pub struct Room {
    /// It is beyond what the node may hold: the connection is told so and closed.
    pub overflow: bool,
    /// The place itself.
    pub permit: OwnedSemaphorePermit,
}

/// Accepts until the drain begins, a task per connection.
pub async fn accept_loop(edge: Arc<Edge>, listener: TcpListener, tls: Option<Arc<Tls>>, tasks: TaskTracker) {
    let room = Arc::new(Semaphore::new(edge.config.listen.max_connections.min(Semaphore::MAX_PERMITS)));
    let overflow = Arc::new(Semaphore::new(OVERFLOW));
    loop {
        let (tcp, peer) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    pause_after(&error).await;
                    continue;
                }
            },
            () = edge.drain.token().cancelled() => return,
        };
        let permit = |room: &Arc<Semaphore>| Arc::clone(room).try_acquire_owned().ok();
        let granted = permit(&room).map(|permit| Room { overflow: false, permit });
        let room = granted.or_else(|| permit(&overflow).map(|permit| Room { overflow: true, permit }));
        let Some(room) = room else { continue };
        let connection = connection::run(Arc::clone(&edge), tls.clone(), tcp, peer, room, tasks.clone());
        tasks.spawn(connection);
    }
}

/// Options that every accepted socket gets.
pub fn tune(tcp: &TcpStream, edge: &Edge) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let heartbeat = &edge.config.heartbeat;
    // A peer that is gone without a word is noticed by what was sent to it (RFC 5482).
    let socket = socket2::SockRef::from(tcp);
    socket.set_tcp_user_timeout(Some(heartbeat.interval + heartbeat.timeout))?;
    // What a slow reader has not been sent yet stays a position in a log, not bytes in the kernel.
    socket.set_tcp_notsent_lowat(UNSENT_BYTES)
}

async fn pause_after(error: &io::Error) {
    // The client went away before it was accepted: nothing is wrong here.
    if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
        return;
    }
    warn!(%error, "accept failed; trying again in {BACKOFF:?}");
    tokio::time::sleep(BACKOFF).await;
}

/// A listening socket with a queue that survives a reconnect storm.
///
/// # Errors
/// Those of bind and listen.
pub fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let domain = socket2::Domain::for_address(addr);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    // The kernel cuts it to net.core.somaxconn.
    socket.listen(4096)?;
    TcpListener::from_std(socket.into())
}
