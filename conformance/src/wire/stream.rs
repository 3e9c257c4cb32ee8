//! A byte stream to the edge, plain or TLS, with the rough ends that a well-behaved client never shows: a reset
//! instead of a goodbye, a tiny receive buffer, another source address.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::edge::Minter;

/// Where to connect, and who signs for us.
#[derive(Clone)]
pub struct Target {
    /// The server's address.
    pub addr: SocketAddr,
    /// Mints tokens that this server accepts.
    pub tokens: Minter,
    tls: Option<TlsConnector>,
}

/// How to connect.
#[derive(Clone, Copy, Debug, Default)]
pub struct Dial {
    /// The loopback address to connect from. One has some 28,000 ports, so many connections need several.
    pub source: Option<Ipv4Addr>,
    /// The socket's receive buffer, in bytes; a small one makes the server feel a slow reader soon.
    pub receive_buffer: Option<u32>,
}

/// A connection's bytes.
pub enum Stream {
    /// TCP alone.
    Plain(TcpStream),
    /// TLS over it.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Target {
    /// A server on plain TCP.
    pub fn plain(addr: SocketAddr, tokens: Minter) -> Self {
        Self { addr, tokens, tls: None }
    }

    /// The same behind TLS.
    #[must_use]
    pub fn with_tls(self, tls: TlsConnector) -> Self {
        Self { tls: Some(tls), ..self }
    }

    /// The same, offering that protocol alone in the TLS handshake (RFC 7301); as it is, if it's plain.
    #[must_use]
    pub fn offering(mut self, protocol: &str) -> Self {
        if let Some(tls) = &mut self.tls {
            let mut config = ClientConfig::clone(tls.config());
            config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
            *tls = TlsConnector::from(Arc::new(config));
        }
        self
    }

    /// Its TLS client, if it speaks TLS.
    pub fn tls(&self) -> Option<&TlsConnector> {
        self.tls.as_ref()
    }

    /// What `Host` says.
    pub fn authority(&self) -> String {
        format!("localhost:{}", self.addr.port())
    }

    /// Connects, with the TLS handshake.
    ///
    /// # Errors
    /// Those of the socket and of TLS.
    ///
    /// # Panics
    /// Never: the server's name is a good one.
    pub async fn connect(&self, dial: Dial) -> io::Result<Stream> {
        let tcp = self.connect_tcp(dial).await?;
        let Some(tls) = &self.tls else { return Ok(Stream::Plain(tcp)) };
        let name = ServerName::try_from("localhost").expect("it is a name");
        Ok(Stream::Tls(Box::new(tls.connect(name, tcp).await?)))
    }

    /// Connects below TLS.
    ///
    /// # Errors
    /// Those of the socket.
    pub async fn connect_tcp(&self, dial: Dial) -> io::Result<TcpStream> {
        let socket = if self.addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(bytes) = dial.receive_buffer {
            socket.set_recv_buffer_size(bytes)?;
        }
        if let Some(source) = dial.source {
            socket.bind(SocketAddr::new(IpAddr::V4(source), 0))?;
        }
        let tcp = socket.connect(self.addr).await?;
        tcp.set_nodelay(true)?;
        Ok(tcp)
    }
}

impl Stream {
    /// The socket below.
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.get_ref().0,
        }
    }

    /// Drops the connection with a reset, as a host that has lost power and come back would.
    pub fn reset(self) {
        // Without the option the drop sends FIN, or RST if something is unread: a cut either way.
        let _ = self.tcp().set_zero_linger();
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}
