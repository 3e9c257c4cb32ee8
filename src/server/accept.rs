//! Who gets in: the loop that accepts connections, and the bounds on how many there may be.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::connection;
use super::tls::Tls;
use crate::close::{Fault, Kind};
use crate::quota::{Admission, IpPermit};
use crate::transport::Edge;

/// Connections above `listen.max_connections` that are told so before they are closed; beyond them it is just closed.
const OVERFLOW: usize = 64;
/// After an accept that failed for want of resources: until something has been given back.
const BACKOFF: Duration = Duration::from_millis(100);

/// Bytes that the kernel takes of one connection beyond what is on its way.
const UNSENT_BYTES: u32 = 128 * 1024;

/// The places that this node has for connections: `listen.max_connections`, and a few to say no in.
#[derive(Clone)]
pub struct Places {
    free: Arc<Semaphore>,
    overflow: Arc<Semaphore>,
    /// Their tasks: the drain waits for them.
    pub tasks: TaskTracker,
}

/// Room for one connection; given back when it is dropped.
pub struct Room {
    /// It is beyond what the node may hold: the connection is told so and closed.
    pub overflow: bool,
    /// The place itself.
    pub permit: OwnedSemaphorePermit,
}

impl Places {
    /// So many, all of them free.
    pub fn new(max_connections: usize, tasks: TaskTracker) -> Self {
        let free = Arc::new(Semaphore::new(max_connections.min(Semaphore::MAX_PERMITS)));
        Self { free, overflow: Arc::new(Semaphore::new(OVERFLOW)), tasks }
    }

    /// Takes one; `None` when there is none left even to say no in.
    pub fn take(&self) -> Option<Room> {
        let permit = |places: &Arc<Semaphore>| Arc::clone(places).try_acquire_owned().ok();
        let granted = permit(&self.free).map(|permit| Room { overflow: false, permit });
        granted.or_else(|| permit(&self.overflow).map(|permit| Room { overflow: true, permit }))
    }
}

/// Whether somebody of that address who has `room` is served: with what holds the address's place, and the refusal to
/// serve instead.
///
/// # Errors
/// The address is not even to be answered; with the reason why.
pub fn admit(edge: &Edge, address: IpAddr, room: &Room) -> Result<(IpPermit, Option<Fault>), Fault> {
    let (permit, refusal) = match edge.quotas.connect(address) {
        Admission::Admitted(permit) => (permit, None),
        Admission::Refused(permit, fault) => (permit, Some(fault)),
        Admission::Dropped(fault) => return Err(fault),
    };
    Ok((permit, if room.overflow { Some(overloaded()) } else { refusal }))
}

/// Every place is taken.
pub fn overloaded() -> Fault {
    Fault::new(Kind::Overloaded, "this node has as many connections as it may")
        .with_limit("listen.max_connections")
        .with_retry_after(Duration::from_secs(5))
}

/// Accepts until the drain begins, a task per connection.
pub async fn accept_loop(edge: Arc<Edge>, listener: TcpListener, tls: Option<Arc<Tls>>, tasks: TaskTracker) {
    let places = Places::new(edge.config.listen.max_connections, tasks);
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
        let Some(room) = places.take() else { continue };
        let connection = connection::run(Arc::clone(&edge), tls.clone(), tcp, peer, room, places.clone());
        places.tasks.spawn(connection);
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
