//! A TCP link on loopback that can be cut: it stands between an edge and NATS, forwards bytes, and stops to when told.
//! What was under way when it went silent arrives after all when it is restored, as with a cable that was out for a
//! while. It never looks into what it forwards.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What a link does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It forwards.
    Through,
    /// It forwards nothing and says nothing: connections stay, new ones get as far as their handshake with the kernel.
    Silent,
    /// Its connections are ended, and new ones as soon as they are there.
    Refusing,
}

/// A link to one address. Dropping it ends all its connections.
pub struct Link {
    addr: SocketAddr,
    upstream: SocketAddr,
    state: watch::Sender<State>,
    forwarded: Arc<AtomicU64>,
    _work: JoinSet<()>,
}

const BUFFER_BYTES: usize = 64 * 1024;

impl Link {
    /// A link to that address, which need not be there yet.
    ///
    /// # Errors
    /// When there is no free port.
    pub async fn to(upstream: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        let (state, follow) = watch::channel(State::Through);
        let forwarded = Arc::<AtomicU64>::default();
        let mut work = JoinSet::new();
        work.spawn(accept(listener, upstream, follow, Arc::clone(&forwarded)));
        Ok(Self { addr, upstream, state, forwarded, _work: work })
    }

    /// Where to connect instead.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where it leads.
    pub fn upstream(&self) -> SocketAddr {
        self.upstream
    }

    /// What it does from now on.
    pub fn set(&self, state: State) {
        self.state.send_replace(state);
    }

    /// Forwards again.
    pub fn restore(&self) {
        self.set(State::Through);
    }

    /// Bytes that it has forwarded, both ways together.
    pub fn forwarded_bytes(&self) -> u64 {
        self.forwarded.load(Ordering::Relaxed)
    }
}

async fn accept(
    listener: TcpListener,
    upstream: SocketAddr,
    state: watch::Receiver<State>,
    forwarded: Arc<AtomicU64>,
) {
    let mut connections = JoinSet::new();
    loop {
        // An accept that fails (no descriptors left) ends the link, and with it what depends on it: better than to
        // go on with a check that is cut in a way that it does not know of.
        let Ok((near, _)) = listener.accept().await else { return };
        connections.spawn(connection(near, upstream, state.clone(), Arc::clone(&forwarded)));
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(
    near: TcpStream,
    upstream: SocketAddr,
    mut state: watch::Receiver<State>,
    forwarded: Arc<AtomicU64>,
) {
    if !may_pass(&mut state).await {
        return;
    }
    let Ok(far) = TcpStream::connect(upstream).await else { return };
    if near.set_nodelay(true).is_err() || far.set_nodelay(true).is_err() {
        return;
    }
    let (near_in, near_out) = near.into_split();
    let (far_in, far_out) = far.into_split();
    // Whichever ends first, ends the connection: nobody here speaks on behind half a goodbye.
    tokio::select! {
        () = pump(near_in, far_out, state.clone(), &forwarded) => {}
        () = pump(far_in, near_out, state, &forwarded) => {}
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut state: watch::Receiver<State>,
    forwarded: &AtomicU64,
) {
    let mut buffer = vec![0; BUFFER_BYTES];
    while may_pass(&mut state).await {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            _ = state.changed() => continue,
        };
        let Ok(count @ 1..) = read else { return };
        // It may have been cut while this was read.
        if !may_pass(&mut state).await || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
        forwarded.fetch_add(count as u64, Ordering::Relaxed);
    }
}

/// Waits while the link is silent; whether it forwards then.
async fn may_pass(state: &mut watch::Receiver<State>) -> bool {
    let now = state.wait_for(|state| *state != State::Silent).await;
    now.is_ok_and(|state| *state == State::Through)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_secs(5);
    const A_WHILE: Duration = Duration::from_millis(100);

    /// An echo, and a connection to it through a link.
    async fn echo() -> (Link, TcpStream, JoinSet<()>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let link = Link::to(listener.local_addr().unwrap()).await.unwrap();
        let mut work = JoinSet::new();
        work.spawn(async move {
            let mut each = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let (mut from, mut to) = socket.into_split();
                each.spawn(async move { tokio::io::copy(&mut from, &mut to).await });
            }
        });
        let socket = TcpStream::connect(link.addr()).await.unwrap();
        (link, socket, work)
    }

    async fn answer(socket: &mut TcpStream) -> io::Result<u8> {
        let mut byte = [0];
        timeout(SOON, socket.read_exact(&mut byte)).await??;
        Ok(byte[0])
    }

    #[tokio::test]
    async fn what_was_said_into_a_silent_link_arrives_when_it_is_restored() {
        let (link, mut socket, _work) = echo().await;
        socket.write_all(b"a").await.unwrap();
        assert_eq!(answer(&mut socket).await.unwrap(), b'a');
        link.set(State::Silent);
        socket.write_all(b"b").await.unwrap();
        let mut byte = [0];
        assert!(timeout(A_WHILE, socket.read(&mut byte)).await.is_err(), "a silent link forwards");
        // A new connection is taken by the kernel and hears nothing either.
        let mut later = TcpStream::connect(link.addr()).await.unwrap();
        later.write_all(b"c").await.unwrap();
        assert!(timeout(A_WHILE, later.read(&mut byte)).await.is_err());
        link.restore();
        assert_eq!(answer(&mut socket).await.unwrap(), b'b');
        assert_eq!(answer(&mut later).await.unwrap(), b'c');
        assert_eq!(link.forwarded_bytes(), 6);
    }

    #[tokio::test]
    async fn a_refusing_link_ends_what_it_has_and_whatever_comes() {
        let (link, mut socket, _work) = echo().await;
        socket.write_all(b"a").await.unwrap();
        assert_eq!(answer(&mut socket).await.unwrap(), b'a');
        link.set(State::Refusing);
        assert!(answer(&mut socket).await.is_err(), "a connection outlived the cut");
        if let Ok(mut new) = TcpStream::connect(link.addr()).await {
            assert!(answer(&mut new).await.is_err(), "a new one was served");
        }
        link.restore();
        let mut new = TcpStream::connect(link.addr()).await.unwrap();
        new.write_all(b"d").await.unwrap();
        assert_eq!(answer(&mut new).await.unwrap(), b'd');
    }
}
