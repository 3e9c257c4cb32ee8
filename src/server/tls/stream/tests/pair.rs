//! Both ends of a connection, moved by hand: the client is rustls' own, the socket does what the test says, and no poll
//! happens by itself.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};

use futures_util::task::noop_waker_ref;
use rcgen::{CertifiedKey, KeyPair};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::server::UnbufferedServerConnection;
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, Error, RootCertStore, ServerConfig, SupportedProtocolVersion,
};

use super::super::TlsStream;

/// A socket moved by hand.
#[derive(Default)]
pub struct Hand {
    /// Each is what one read finds; an empty one is the end.
    pub reads: VecDeque<Vec<u8>>,
    /// Read without anything to be found.
    pub waits: usize,
    /// What was written, each at once.
    pub writes: Vec<Vec<u8>>,
    /// How much of it is taken.
    pub room: usize,
    pub is_shut: bool,
}

/// A client, and what it has been sent.
pub struct Pair {
    pub client: ClientConnection,
    pub server: TlsStream<Hand>,
    /// Plaintext, not yet asked for.
    heard: Vec<u8>,
}

static KEY: LazyLock<CertifiedKey<KeyPair>> =
    LazyLock::new(|| rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap());

pub fn server(versions: &[&'static SupportedProtocolVersion]) -> ServerConfig {
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(KEY.signing_key.serialize_der()));
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![KEY.cert.der().clone()], key)
        .unwrap();
    config.ticketer = aws_lc_rs::Ticketer::new().unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}

pub fn client(versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(KEY.cert.der().clone()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.enable_secret_extraction = true;
    config
}

impl Pair {
    pub fn begin(server: ServerConfig, client: &Arc<ClientConfig>) -> Self {
        let client = ClientConnection::new(Arc::clone(client), "localhost".try_into().unwrap()).unwrap();
        let tls = UnbufferedServerConnection::new(Arc::new(server)).unwrap();
        let socket = Hand { room: usize::MAX, ..Hand::default() };
        let server =
            TlsStream { socket, tls, left: None, is_over: false, has_failed: false, has_ended: false };
        Self { client, server, heard: Vec::new() }
    }

    /// After a handshake.
    pub fn new(version: &'static SupportedProtocolVersion) -> Self {
        let mut pair = Self::begin(server(&[version]), &Arc::new(client(&[version])));
        pair.handshake(usize::MAX).unwrap();
        pair
    }

    /// With the client's bytes in pieces of that length.
    pub fn handshake(&mut self, length: usize) -> io::Result<()> {
        let task = &mut Context::from_waker(noop_waker_ref());
        loop {
            let sent = self.said();
            self.server.socket.reads.extend(sent.chunks(length).map(<[u8]>::to_vec));
            let done = self.server.poll_handshake(task);
            let heard = self.hear();
            match done {
                Poll::Ready(done) => return done.and(heard.map_err(io::Error::other)),
                Poll::Pending if sent.is_empty() => panic!("nobody has anything to say"),
                Poll::Pending => {}
            }
        }
    }

    /// What the client has to send.
    pub fn said(&mut self) -> Vec<u8> {
        let mut said = Vec::new();
        while self.client.wants_write() {
            self.client.write_tls(&mut said).unwrap();
        }
        said
    }

    /// What `plaintext` is in records of the client.
    pub fn records(&mut self, plaintext: &[u8]) -> Vec<u8> {
        self.client.writer().write_all(plaintext).unwrap();
        self.said()
    }

    /// Has the client take in what the server has written.
    pub fn hear(&mut self) -> Result<(), Error> {
        for write in self.server.socket.writes.drain(..) {
            let mut bytes = &write[..];
            while !bytes.is_empty() {
                self.client.read_tls(&mut bytes).unwrap();
                self.client.process_new_packets()?;
                // It fails when there is no more.
                let _: io::Result<usize> = self.client.reader().read_to_end(&mut self.heard);
            }
        }
        Ok(())
    }

    /// What the client has heard.
    pub fn heard(&mut self) -> Vec<u8> {
        self.hear().unwrap();
        std::mem::take(&mut self.heard)
    }

    pub fn read(&mut self, most: usize) -> Poll<io::Result<Vec<u8>>> {
        let mut buffer = vec![0; most];
        let mut buffer = ReadBuf::new(&mut buffer);
        let task = &mut Context::from_waker(noop_waker_ref());
        let read = Pin::new(&mut self.server).poll_read(task, &mut buffer);
        read.map_ok(|()| buffer.filled().to_vec())
    }

    pub fn reads(&mut self, most: usize) -> Vec<u8> {
        let Poll::Ready(Ok(plaintext)) = self.read(most) else { panic!("nothing to read") };
        plaintext
    }

    pub fn fails(&mut self) -> io::ErrorKind {
        let Poll::Ready(Err(error)) = self.read(1) else { panic!("nothing has failed") };
        error.kind()
    }

    pub fn poll<T>(&mut self, poll: impl FnOnce(Pin<&mut TlsStream<Hand>>, &mut Context<'_>) -> T) -> T {
        poll(Pin::new(&mut self.server), &mut Context::from_waker(noop_waker_ref()))
    }

    pub fn write(&mut self, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll(|server, task| server.poll_write(task, bytes))
    }

    pub fn wrote(&mut self, bytes: &[u8]) {
        assert!(matches!(self.write(bytes), Poll::Ready(Ok(length)) if length == bytes.len()));
    }
}

impl AsyncRead for Hand {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(read) = self.reads.pop_front() else {
            self.waits += 1;
            return Poll::Pending;
        };
        buffer.put_slice(&read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Hand {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let length = bytes.len().min(self.room);
        if length == 0 {
            return Poll::Pending;
        }
        self.room -= length;
        self.writes.push(bytes[..length].to_vec());
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.is_shut = true;
        Poll::Ready(Ok(()))
    }
}
