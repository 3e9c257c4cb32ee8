//! The socket of one WebSocket: bytes in both directions, one poll for all that can happen to it. Knows frames, not
//! sessions.

use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use fastwebsockets::OpCode;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::time::timeout;

use super::extensions::Deflate;
use super::frames::{FrameReader, Inbound};
use super::guard;
use super::outbox::Outbox;
use crate::config::Limits;

/// How a connection ended, from the frames' point of view.
#[derive(Debug)]
pub enum Loss {
    /// The client broke RFC 6455; with the code it is to be told.
    Violation(guard::Fault),
    /// The client is gone without a close.
    Eof,
    /// The socket failed.
    Io(io::Error),
}

/// Socket, reader and writer.
#[expect(clippy::box_collection, reason = "a word instead of four for each idle connection")]
pub struct Wire<S> {
    stream: S,
    reader: FrameReader,
    /// To the client.
    pub outbox: Outbox,
    /// From the client, not yet served; nothing while there is nothing, for an idle connection pays for its room.
    arrived: Option<Box<VecDeque<Inbound>>>,
    flushing: bool,
    /// Above this many unwritten bytes nothing more is read: who floods us with pings must take the pongs.
    queue_bytes: u32,
}

/// How much one read takes at most: on the stack, so that an idle connection holds nothing.
const READ_BYTES: usize = 8192;
/// How long the peer may take for its part of the close handshake.
const GOODBYE: Duration = Duration::from_secs(2);

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// Takes over after the handshake; `unread` are bytes that came with it.
    ///
    /// # Errors
    /// What is wrong with those bytes.
    pub fn new(
        stream: S,
        unread: &Bytes,
        limits: &Limits,
        deflate: Option<Deflate>,
    ) -> (Self, Result<(), Loss>) {
        let mut wire = Self {
            stream,
            reader: FrameReader::new(limits.message_bytes, deflate.is_some()),
            outbox: Outbox::new(deflate),
            arrived: None,
            flushing: false,
            queue_bytes: u32::try_from(limits.queue_bytes).unwrap_or(u32::MAX),
        };
        let fed = wire.feed(unread);
        (wire, fed)
    }

    /// Whether something is there to be served.
    pub fn has_arrived(&self) -> bool {
        self.arrived.is_some()
    }

    /// The next to be served.
    pub fn next_arrived(&mut self) -> Option<Inbound> {
        let inbound = self.arrived.as_mut()?.pop_front();
        self.arrived.take_if(|arrived| arrived.is_empty());
        inbound
    }

    /// Whether the client is being listened to: not while it has to take what waits for it.
    pub fn listens(&self) -> bool {
        !self.has_arrived() && self.outbox.len() < self.queue_bytes as usize
    }

    /// Whether what was written last is still on its way out.
    pub fn is_busy(&self) -> bool {
        self.flushing || !self.outbox.is_empty()
    }

    /// Writes `frames`, behind which nothing waits yet; what the socket does not take waits in the outbox.
    ///
    /// # Errors
    /// The socket's.
    pub fn write(&mut self, context: &mut Context<'_>, frames: &[u8]) -> Result<(), Loss> {
        let mut rest = frames;
        while !rest.is_empty() {
            match Pin::new(&mut self.stream).poll_write(context, rest).map_err(Loss::Io)? {
                Poll::Ready(0) => return Err(Loss::Io(io::ErrorKind::WriteZero.into())),
                Poll::Ready(written) => rest = &rest[written..],
                Poll::Pending => {
                    self.outbox.frames(rest);
                    return Ok(());
                }
            }
        }
        // Over TLS the records of the last write may still wait for the socket.
        self.flushing = Pin::new(&mut self.stream).poll_flush(context).map_err(Loss::Io)?.is_pending();
        Ok(())
    }

    /// Whether a message has begun to come and nothing has come whole since.
    pub fn is_amid_message(&self) -> bool {
        !self.has_arrived() && !self.reader.is_between_messages()
    }

    /// What has come, its turn having come as well: no [`Inbound::Deflated`] any more.
    ///
    /// # Errors
    /// What the client did wrong; nothing is read after that.
    pub fn inflated(&mut self, inbound: Inbound) -> Result<Inbound, guard::Fault> {
        match inbound {
            Inbound::Deflated(deflated) => self.reader.inflate(&deflated),
            inbound => Ok(inbound),
        }
    }

    /// [`Wire::poll_flush`] and [`Wire::poll_heard`].
    ///
    /// # Errors
    /// [`Loss`], after which only what has arrived and [`Wire::goodbye`] make sense.
    pub fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Loss>> {
        self.poll_flush(context)?;
        self.poll_heard(context)
    }

    /// Writes what waits, as far as it goes.
    ///
    /// # Errors
    /// As [`Wire::poll_turn`].
    pub fn poll_flush(&mut self, context: &mut Context<'_>) -> Result<(), Loss> {
        if self.is_busy() && self.poll_write(context).map_err(Loss::Io)?.is_pending() {
            self.outbox.settle();
        }
        Ok(())
    }

    /// Reads what came; ready when something was read. Nothing is read while there is something to serve, or more to
    /// write than the queue may hold.
    ///
    /// # Errors
    /// As [`Wire::poll_turn`].
    pub fn poll_heard(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Loss>> {
        if self.listens() { self.poll_read(context) } else { Poll::Pending }
    }

    /// Writes what waits and a close frame, then gives the peer a moment to answer with its own, unless it was the
    /// first (RFC 6455 §7.1.1: the server closes the TCP connection, after the closing handshake). After a violation no
    /// answer counts any more (§7.1.7), so the server ends its side at once.
    pub async fn goodbye(mut self, code: Option<u16>, reason: &str, answered: bool) {
        match code {
            Some(code) => self.outbox.close(code, reason),
            None => self.outbox.control(OpCode::Close, &[]),
        }
        let farewell = async {
            std::future::poll_fn(|context| self.poll_write(context)).await?;
            if self.reader.has_failed() {
                self.stream.shutdown().await?;
                self.wait_for_close().await;
                return Ok(());
            }
            if !answered {
                self.wait_for_close().await;
            }
            self.stream.shutdown().await
        };
        // Whether it got through does not matter any more: the connection ends either way.
        let _: Result<io::Result<()>, _> = timeout(GOODBYE, farewell).await;
    }

    /// Ends a connection whose client has ended its side without a close frame: TLS wants to be told (RFC 8446 §6.1).
    pub async fn hang_up(mut self) {
        let _: Result<io::Result<()>, _> = timeout(GOODBYE, self.stream.shutdown()).await;
    }

    /// Reads on until the peer's close or its end. After a violation what it sends can't be read as frames: it is
    /// thrown away, for a socket that is closed with unread bytes takes the close frame back.
    async fn wait_for_close(&mut self) {
        self.arrived = None;
        loop {
            match std::future::poll_fn(|context| self.poll_read(context)).await {
                Ok(()) | Err(Loss::Violation(_)) => {}
                Err(Loss::Eof | Loss::Io(_)) => return,
            }
            let arrived = self.arrived.take().unwrap_or_default();
            if arrived.iter().any(|inbound| matches!(inbound, Inbound::Close(_))) {
                return;
            }
        }
    }

    fn feed(&mut self, fresh: &[u8]) -> Result<(), Loss> {
        let fed = self.reader.feed(fresh, self.arrived.get_or_insert_default());
        self.arrived.take_if(|arrived| arrived.is_empty());
        fed.map_err(Loss::Violation)
    }

    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outbox.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(context, self.outbox.rest()))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outbox.advance(written);
            self.flushing = true;
        }
        // Over TLS the records of the last write may still wait for the socket.
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        self.flushing = false;
        Poll::Ready(Ok(()))
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Loss>> {
        let mut buffer = [const { MaybeUninit::uninit() }; READ_BYTES];
        let mut buffer = ReadBuf::uninit(&mut buffer);
        ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer)).map_err(Loss::Io)?;
        if buffer.filled().is_empty() {
            return Poll::Ready(Err(Loss::Eof));
        }
        Poll::Ready(self.feed(buffer.filled()))
    }
}
