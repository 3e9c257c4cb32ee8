//! One connection's TLS: plaintext is read and written, records go over the socket. Over rustls' unbuffered interface, so
//! that a connection at rest holds its keys and no buffer: all bytes pass through buffers of the thread, and only what
//! can't go on yet is left with the connection. Begun by `server/connection.rs`; of certificates and of what is carried
//! it knows nothing.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::thread::LocalKey;

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use tokio_rustls::rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, InsufficientSizeError, UnbufferedStatus,
    WriteTraffic,
};
use tokio_rustls::rustls::{Error, ServerConfig};

/// How much one read of the socket takes at most: the largest record of TLS 1.3 with its head (RFC 8446 §5.2).
const READ_BYTES: usize = 5 + 16 * 1024 + 256;
/// How much plaintext one write takes at most: four records, and what a client holds that takes nothing.
const WRITE_BYTES: usize = 64 * 1024;
/// What may be kept of a handshake message that is not whole. Behind the handshake none is larger than a record.
const INCOMING_BYTES: usize = 64 * 1024;

/// What is asked to encrypt.
type Traffic<'a> = WriteTraffic<'a, ServerConnectionData>;
/// A buffer of the thread.
type Lent = LocalKey<Cell<Vec<u8>>>;

// None grows beyond what the constants above let through at once, and a server's own handshake messages.
thread_local! {
    static INCOMING: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static OUTGOING: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static GATHERED: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A socket under TLS, the handshake done.
///
/// What was written is on its way to the client only after a flush, as a [`tokio::io::BufWriter`] has it.
pub struct TlsStream<S> {
    socket: S,
    tls: UnbufferedServerConnection,
    /// Mostly nothing.
    left: Option<Box<Left>>,
    /// The client has said that nothing more comes (RFC 8446 §6.1).
    is_over: bool,
    /// What comes can't be read any more.
    has_failed: bool,
    /// Nothing more is written: the client has been told so, or a write has failed.
    has_ended: bool,
}

/// What is left between two polls.
#[derive(Default)]
struct Left {
    /// Of a record, or of a handshake message, that is not whole. Where it begins counts: rustls has seen it already.
    incoming: Box<[u8]>,
    /// For the next read.
    plaintext: Bytes,
    /// Records that the socket has not taken.
    outgoing: Bytes,
    /// Why nothing comes behind the plaintext.
    failure: Option<io::Error>,
}

/// Records on their way to the socket.
struct Outgoing<'a> {
    buffer: &'a mut Vec<u8>,
    filled: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream<S> {
    /// Ends the handshake with a client that has just connected, tickets included.
    ///
    /// # Errors
    /// The socket's; [`io::ErrorKind::InvalidData`] if the client could not be agreed with, which it was told.
    pub async fn accept(config: Arc<ServerConfig>, socket: S) -> io::Result<Self> {
        let tls = UnbufferedServerConnection::new(config).map_err(io::Error::other)?;
        let mut stream =
            Self { socket, tls, left: None, is_over: false, has_failed: false, has_ended: false };
        std::future::poll_fn(|context| stream.poll_handshake(context)).await?;
        Ok(stream)
    }

    /// The application protocol that was agreed on (RFC 7301).
    pub fn alpn_protocol(&self) -> Option<&[u8]> {
        self.tls.alpn_protocol()
    }

    /// The socket.
    pub fn socket(&self) -> &S {
        &self.socket
    }

    fn poll_handshake(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if let Some(failure) = self.left.as_mut().and_then(|left| left.failure.take()) {
                return Poll::Ready(Err(failure));
            }
            ready!(self.poll_send(context))?;
            if !self.tls.is_handshaking() {
                return Pin::new(&mut self.socket).poll_flush(context);
            }
            ready!(self.poll_receive(context, &mut ReadBuf::new(&mut [])))?;
        }
    }

    /// Reads the socket once and takes in what has come: plaintext first to `buffer`, then to what is left. Ready
    /// without any if other records came, or a failure, which is left as well.
    ///
    /// # Errors
    /// The socket's, and its end before TLS's own.
    fn poll_receive(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        lend(&INCOMING, |incoming| {
            let before = self.left.as_ref().map_or(0, |left| left.incoming.len());
            if incoming.len() < before + READ_BYTES {
                incoming.resize(before + READ_BYTES, 0);
            }
            let mut fresh = ReadBuf::new(&mut incoming[before..before + READ_BYTES]);
            ready!(Pin::new(&mut self.socket).poll_read(context, &mut fresh))?;
            let length = before + fresh.filled().len();
            if length == before {
                // A client that is done says so (RFC 8446 §6.1); who was cut off must not pass for one.
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            if let Some(left) = &mut self.left {
                incoming[..before].copy_from_slice(&std::mem::take(&mut left.incoming));
            }
            self.take_in(context, &mut incoming[..length], buffer);
            Poll::Ready(Ok(()))
        })
    }

    fn take_in(&mut self, context: &mut Context<'_>, incoming: &mut [u8], buffer: &mut ReadBuf<'_>) {
        lend(&OUTGOING, |lent| {
            let mut outgoing = Outgoing { buffer: lent, filled: 0 };
            let mut later = Vec::new();
            let arrived = |plaintext: &[u8]| {
                let (now, rest) = plaintext.split_at(plaintext.len().min(buffer.remaining()));
                buffer.put_slice(now);
                later.extend_from_slice(rest);
            };
            let settled = self.settle(incoming, arrived, &mut outgoing, |_, _| Ok(()));
            let most = if self.tls.is_handshaking() { INCOMING_BYTES } else { READ_BYTES };
            let failure = match settled {
                // Nothing counts behind the client's end.
                Ok(_) if self.is_over => None,
                Ok(used) if incoming.len() - used > most => Some(io::ErrorKind::InvalidData.into()),
                Ok(used) => {
                    if used < incoming.len() {
                        self.left.get_or_insert_default().incoming = incoming[used..].into();
                    }
                    None
                }
                Err(error) => {
                    self.say_why(&mut outgoing);
                    Some(io::Error::new(io::ErrorKind::InvalidData, error))
                }
            };
            if !later.is_empty() {
                self.left.get_or_insert_default().plaintext = later.into_boxed_slice().into();
            }
            let sent = self.send(context, outgoing.records());
            // Who writes next will be told.
            self.has_ended |= failure.is_some() || sent.is_err();
            if failure.is_some() {
                self.has_failed = true;
                self.left.get_or_insert_default().failure = failure;
            }
        });
        self.tidy();
    }

    /// Has rustls take in the whole records at the head of `incoming`, and say what it has to; `write` is called when it
    /// may be written. How much was taken in.
    fn settle(
        &mut self,
        incoming: &mut [u8],
        mut arrived: impl FnMut(&[u8]),
        outgoing: &mut Outgoing<'_>,
        write: impl FnOnce(Traffic<'_>, &mut Outgoing<'_>) -> Result<(), Error>,
    ) -> Result<usize, Error> {
        let mut used = 0;
        loop {
            let UnbufferedStatus { mut discard, state } = self.tls.process_tls_records(&mut incoming[used..]);
            match state? {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        arrived(record.payload);
                        discard += record.discard;
                    }
                }
                ConnectionState::EncodeTlsData(mut message) => outgoing.put_message(&mut message)?,
                // It is ours to send now.
                ConnectionState::TransmitTlsData(messages) => messages.done(),
                ConnectionState::PeerClosed => self.is_over = true,
                ConnectionState::WriteTraffic(traffic) => {
                    write(traffic, outgoing)?;
                    return Ok(used + discard);
                }
                ConnectionState::BlockedHandshake | ConnectionState::Closed => return Ok(used + discard),
                // What comes before the handshake is done is not asked for, and so refused by rustls.
                state => return Err(Error::General(format!("unexpected: {state:?}"))),
            }
            used += discard;
        }
    }

    /// Puts out the alert that rustls has queued with a failure. What has come is not shown to it again.
    fn say_why(&mut self, outgoing: &mut Outgoing<'_>) {
        while self.tls.wants_write() {
            let UnbufferedStatus { state: Ok(ConnectionState::EncodeTlsData(mut alert)), .. } =
                self.tls.process_tls_records(&mut [])
            else {
                return;
            };
            if outgoing.put_message(&mut alert).is_err() {
                return;
            }
        }
    }

    /// Has `encrypt` make records and sends them.
    ///
    /// # Errors
    /// The socket's; [`io::ErrorKind::Other`] if the keys are worn out. Nothing can be written after one.
    fn write(
        &mut self,
        context: &mut Context<'_>,
        mut encrypt: impl FnMut(&mut Traffic<'_>, &mut [u8]) -> Result<usize, EncryptError>,
    ) -> io::Result<()> {
        let mut incoming =
            self.left.as_mut().map(|left| std::mem::take(&mut left.incoming)).unwrap_or_default();
        let written = lend(&OUTGOING, |lent| {
            let mut outgoing = Outgoing { buffer: lent, filled: 0 };
            let settled = self.settle(
                &mut incoming,
                |_| debug_assert!(false, "whole records were taken in when they came"),
                &mut outgoing,
                |mut traffic, outgoing| {
                    outgoing.put(|room| match encrypt(&mut traffic, room) {
                        Err(EncryptError::InsufficientSize(short)) => Err(Some(short)),
                        encrypted => encrypted.map_err(|_| None),
                    })
                },
            );
            if settled.is_err() {
                self.say_why(&mut outgoing);
            }
            let sent = self.send(context, outgoing.records());
            settled.map_err(io::Error::other).and(sent)
        });
        self.has_ended |= written.is_err();
        if !incoming.is_empty() {
            self.left.get_or_insert_default().incoming = incoming;
        }
        written
    }

    /// Sends `records`; what the socket does not take is left.
    fn send(&mut self, context: &mut Context<'_>, records: &[u8]) -> io::Result<()> {
        let mut rest = records;
        let waiting = self.left.as_ref().map_or(&[][..], |left| &left.outgoing);
        while waiting.is_empty() && !rest.is_empty() {
            match Pin::new(&mut self.socket).poll_write(context, rest)? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(length) => rest = &rest[length..],
                Poll::Pending => break,
            }
        }
        if !rest.is_empty() {
            let waiting = [waiting, rest].concat();
            self.left.get_or_insert_default().outgoing = waiting.into();
        }
        Ok(())
    }

    /// Ready when the socket has taken all records.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(left) = self.left.as_mut().filter(|left| !left.outgoing.is_empty()) {
            match ready!(Pin::new(&mut self.socket).poll_write(context, &left.outgoing))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                length => left.outgoing.advance(length),
            }
            self.tidy();
        }
        Poll::Ready(Ok(()))
    }

    /// Gives back the memory of what has gone on.
    fn tidy(&mut self) {
        let Some(left) = &mut self.left else { return };
        for bytes in [&mut left.plaintext, &mut left.outgoing] {
            if bytes.is_empty() {
                *bytes = Bytes::new();
            }
        }
        let is_empty = left.incoming.is_empty() && left.plaintext.is_empty() && left.outgoing.is_empty();
        self.left.take_if(|left| is_empty && left.failure.is_none());
    }
}

impl Outgoing<'_> {
    fn records(&self) -> &[u8] {
        &self.buffer[..self.filled]
    }

    /// Has `encode` write behind what is there already, again if it says how much room it needs.
    fn put(
        &mut self,
        mut encode: impl FnMut(&mut [u8]) -> Result<usize, Option<InsufficientSizeError>>,
    ) -> Result<(), Error> {
        loop {
            match encode(&mut self.buffer[self.filled..]) {
                Ok(length) => {
                    self.filled += length;
                    return Ok(());
                }
                Err(Some(short)) => self.buffer.resize(self.filled + short.required_size, 0),
                Err(None) => return Err(Error::EncryptError),
            }
        }
    }

    fn put_message(&mut self, message: &mut EncodeTlsData<'_, ServerConnectionData>) -> Result<(), Error> {
        self.put(|room| match message.encode(room) {
            Err(EncodeError::InsufficientSize(short)) => Err(Some(short)),
            encoded => encoded.map_err(|_| None),
        })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        while buffer.remaining() > 0 {
            if let Some(left) = &mut this.left {
                let length = left.plaintext.len().min(buffer.remaining());
                buffer.put_slice(&left.plaintext.split_to(length));
                let failure = left.failure.take_if(|_| buffer.filled().len() == before);
                this.tidy();
                if let Some(failure) = failure {
                    return Poll::Ready(Err(failure));
                }
            }
            if buffer.filled().len() > before || this.is_over {
                break;
            }
            if this.has_failed {
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
            ready!(this.poll_receive(context, buffer))?;
            if buffer.filled().len() > before {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_send(context))?;
        if this.has_ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let bytes = &bytes[..bytes.len().min(WRITE_BYTES)];
        this.write(context, |traffic, room| traffic.encrypt(bytes, room))?;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_send(context))?;
        // One record for all of them: rustls encrypts what is in one piece.
        lend(&GATHERED, |gathered| {
            gathered.clear();
            for slice in slices {
                let length = slice.len().min(WRITE_BYTES - gathered.len());
                gathered.extend_from_slice(&slice[..length]);
            }
            self.poll_write(context, gathered)
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send(context))?;
        Pin::new(&mut this.socket).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.has_ended {
            this.has_ended = true;
            // RFC 8446 §6.1: before the socket ends.
            #[expect(
                clippy::redundant_closure_for_method_calls,
                reason = "the method is of one lifetime, this of all"
            )]
            this.write(context, |traffic, room| traffic.queue_close_notify(room))?;
        }
        ready!(this.poll_send(context))?;
        match ready!(Pin::new(&mut this.socket).poll_shutdown(context)) {
            // Gone already.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            ended => Poll::Ready(ended),
        }
    }
}

/// Lends a buffer of the thread.
fn lend<T>(buffer: &'static Lent, use_it: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    let mut lent = buffer.take();
    let result = use_it(&mut lent);
    buffer.set(lent);
    result
}

#[cfg(test)]
mod tests;
