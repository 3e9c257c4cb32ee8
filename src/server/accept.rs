//! Who gets in: the loop that accepts connections, and the bounds on how many there may be.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::connection;
use super::tls::Tls;
use crate::channel::Life;
use crate::close::{Fault, Kind};
use crate::quota::{Admission, Network};
use crate::transport::Edge;

/// Connections above `listen.max_connections` that are told so before they are closed; beyond them it is just closed.
const OVERFLOW: usize = 64;
/// After an accept that failed for want of resources: until something has been given back.
const BACKOFF: Duration = Duration::from_millis(100);

/// Bytes that the kernel takes of one connection beyond what is on its way.
const UNSENT_BYTES: u32 = 128 * 1024;

/// The places that this node has for connections: `listen.max_connections`, and a few to say no in. Cheap to clone.
#[derive(Clone)]
pub struct Places {
    served: Arc<Pool>,
    refused: Arc<Pool>,
    /// Their tasks: the drain waits for them.
    pub tasks: TaskTracker,
}

struct Pool {
    edge: Arc<Edge>,
    free: Semaphore,
}

/// Room for a connection, whoever that will be; given back when it is dropped.
pub struct Room {
    seat: Seat,
    /// It is beyond what the node may hold: the connection is told so and closed.
    overflow: bool,
}

/// A connection's place on the node, and among those of its address; given back when it is dropped. Two words, which each
/// connection keeps.
pub struct Place {
    seat: Seat,
    network: Network,
}

/// One of a pool, which it goes back to.
struct Seat(Arc<Pool>);

impl Places {
    /// As many as that node may have, all of them free.
    pub fn new(edge: &Arc<Edge>, tasks: TaskTracker) -> Self {
        let pool = |size: usize| {
            let free = Semaphore::new(size.min(Semaphore::MAX_PERMITS));
            Arc::new(Pool { edge: Arc::clone(edge), free })
        };
        Self { served: pool(edge.config.listen.max_connections), refused: pool(OVERFLOW), tasks }
    }

    /// Takes one; `None` when there is none left even to say no in.
    pub fn take(&self) -> Option<Room> {
        let served = Seat::of(&self.served).map(|seat| Room { seat, overflow: false });
        served.or_else(|| Some(Room { seat: Seat::of(&self.refused)?, overflow: true }))
    }
}

impl Seat {
    fn of(pool: &Arc<Pool>) -> Option<Self> {
        pool.free.try_acquire().ok()?.forget();
        Some(Self(Arc::clone(pool)))
    }
}

impl Room {
    /// The node.
    pub fn edge(&self) -> &Arc<Edge> {
        &self.seat.0.edge
    }

    /// Whether somebody of that address is served in it: with the place that it has then, and the refusal to serve instead.
    ///
    /// # Errors
    /// The address is not even to be answered; with the reason why.
    pub fn admit(self, address: IpAddr) -> Result<(Place, Option<Fault>), Fault> {
        let network = Network::of(address);
        let refusal = match self.edge().quotas.connect(network) {
            Admission::Admitted => None,
            Admission::Refused(fault) => Some(fault),
            Admission::Dropped(fault) => return Err(fault),
        };
        let place = Place { seat: self.seat, network };
        Ok((place, if self.overflow { Some(overloaded()) } else { refusal }))
    }
}

impl Place {
    /// The node.
    pub fn edge(&self) -> &Arc<Edge> {
        &self.seat.0.edge
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.free.add_permits(1);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.edge().quotas.disconnect(self.network);
    }
}

/// Every place is taken.
pub fn overloaded() -> Fault {
    Fault::new(Kind::Overloaded, "this node has as many connections as it may")
        .with_limit("listen.max_connections")
        .with_retry_after(Duration::from_secs(5))
}

/// Accepts until the drain begins, a task per connection.
pub async fn accept_loop(edge: Arc<Edge>, listener: TcpListener, tls: Option<Arc<Tls>>, tasks: TaskTracker) {
    let places = Places::new(&edge, tasks);
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
        let connection = connection::connect(places.clone(), tls.clone(), room, tcp, peer);
        places.tasks.spawn(Life::acts(connection));
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
