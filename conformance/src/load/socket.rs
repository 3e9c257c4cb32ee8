//! A connection that never waits, plain or TLS: thousands of them are read by one thread, with one system call for
//! what has arrived. Used by the load tool alone; it repairs nothing and knows no protocol above TLS.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use socket2::{Domain, Protocol, SockRef, Socket as Socket2, Type};
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, HandshakeKind};

/// Where a server listens.
#[derive(Clone)]
pub struct Address {
    /// Its address.
    pub addr: SocketAddr,
    /// How to trust it, if it speaks TLS.
    pub tls: Option<Arc<ClientConfig>>,
}

/// A connection.
pub struct Socket {
    tcp: TcpStream,
    tls: Option<Box<ClientConnection>>,
    /// What is not written yet, below TLS nothing.
    unsent: Vec<u8>,
    connected: bool,
}

/// What a read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Got {
    /// So many bytes, and there may be more.
    Some(usize),
    /// So many bytes, and no more for now.
    Last(usize),
    /// Nothing for now.
    Nothing,
    /// The server has ended its side.
    End,
}

impl Socket {
    /// Begins to connect from that address, and registers for all that will happen to it.
    ///
    /// # Errors
    /// Those of the socket, among them that there is no free port or descriptor.
    ///
    /// # Panics
    /// Never: the server's name is a good one.
    pub fn connect(to: &Address, source: Ipv4Addr, registry: &Registry, token: Token) -> io::Result<Self> {
        let socket = Socket2::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        socket.bind(&SocketAddr::new(IpAddr::V4(source), 0).into())?;
        match socket.connect(&to.addr.into()) {
            Err(error) if !in_progress(&error) => return Err(error),
            _ => {}
        }
        let mut tcp = TcpStream::from_std(socket.into());
        registry.register(&mut tcp, token, Interest::READABLE | Interest::WRITABLE)?;
        let tls = to.tls.as_ref().map(|config| {
            let name = ServerName::try_from("localhost").expect("it is a name");
            let mut tls = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
            tls.set_buffer_limit(None);
            Ok::<_, io::Error>(Box::new(tls))
        });
        Ok(Self { tcp, tls: tls.transpose()?, unsent: Vec::new(), connected: false })
    }

    /// Puts bytes behind those that are not written yet.
    pub fn queue(&mut self, bytes: &[u8]) {
        self.unsent.extend_from_slice(bytes);
    }

    /// How much was queued and is not written, above TLS.
    pub fn queued_bytes(&self) -> usize {
        self.unsent.len()
    }

    /// Whether all of it is written.
    pub fn is_flushed(&self) -> bool {
        self.unsent.is_empty() && self.tls.as_ref().is_none_or(|tls| !tls.wants_write())
    }

    /// Writes as much as fits. To be called after [`Socket::queue`] and when the socket is writable.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn flush(&mut self) -> io::Result<()> {
        if !self.connected {
            if let Some(error) = self.tcp.take_error()? {
                return Err(error);
            }
            match self.tcp.peer_addr() {
                Ok(_) => self.connected = true,
                Err(error) if error.kind() == io::ErrorKind::NotConnected => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        let Some(tls) = &mut self.tls else {
            while !self.unsent.is_empty() {
                match (&self.tcp).write(&self.unsent) {
                    Ok(written) => drop(self.unsent.drain(..written)),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                    Err(error) => return Err(error),
                }
            }
            // Thousands are idle: none keeps what it will not need again.
            self.unsent = Vec::new();
            return Ok(());
        };
        if !self.unsent.is_empty() && !tls.is_handshaking() {
            tls.writer().write_all(&std::mem::take(&mut self.unsent))?;
        }
        while tls.wants_write() {
            match tls.write_tls(&mut self.tcp) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads what has arrived. To be called until there is nothing more, when the socket is readable: that is told once.
    ///
    /// # Errors
    /// Those of the socket and of TLS.
    pub fn read(&mut self, into: &mut [u8]) -> io::Result<Got> {
        let Some(tls) = &mut self.tls else {
            return match (&self.tcp).read(into) {
                Ok(0) => Ok(Got::End),
                // epoll(7): a stream that gave less than was asked for is empty.
                Ok(count) if count < into.len() => Ok(Got::Last(count)),
                Ok(count) => Ok(Got::Some(count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Got::Nothing),
                Err(error) => Err(error),
            };
        };
        loop {
            match tls.reader().read(into) {
                Ok(0) => return Ok(Got::End),
                Ok(count) => return Ok(Got::Some(count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            match tls.read_tls(&mut self.tcp) {
                Ok(0) => return Ok(Got::End),
                Ok(_) => {
                    tls.process_new_packets().map_err(io::Error::other)?;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // The handshake's next flight, or what waited for its end.
                    self.flush()?;
                    return Ok(Got::Nothing);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// How the TLS handshake went, once it is over.
    pub fn handshake(&self) -> Option<HandshakeKind> {
        self.tls.as_ref().filter(|tls| !tls.is_handshaking())?.handshake_kind()
    }

    /// Whether bytes can be sent and read: connected, and through the TLS handshake.
    pub fn is_open(&self) -> bool {
        self.connected && self.tls.as_ref().is_none_or(|tls| !tls.is_handshaking())
    }

    /// Drops it with a reset, which leaves no port waiting.
    pub fn reset(self) {
        // Without the option it ends with a FIN: slower, no worse.
        let _ = SockRef::from(&self.tcp).set_linger(Some(std::time::Duration::ZERO));
    }
}

fn in_progress(error: &io::Error) -> bool {
    /// `EINPROGRESS` on Linux, which the standard library has no stable name for.
    const IN_PROGRESS: i32 = 115;
    error.raw_os_error() == Some(IN_PROGRESS) || error.kind() == io::ErrorKind::WouldBlock
}
