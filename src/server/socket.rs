//! A client's TCP socket with a clock on its writes: one that makes no progress for `limits.write_timeout` fails, so
//! that no stuck client is kept, whatever transport or TLS stands above. A stream of HTTP/2 has the same clock.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::FutureExt as _;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::coop::poll_proceed;
use tokio::time::Sleep;

use super::accept::Place;
use crate::metrics::TcpGuard;

/// The socket, and the place that it has on the node.
pub struct Socket {
    tcp: TcpStream,
    clock: WriteClock,
    place: Place,
    _counted: TcpGuard,
}

impl Socket {
    /// Watches over the writes of `tcp`.
    pub fn new(tcp: TcpStream, place: Place, counted: TcpGuard) -> Self {
        Self { tcp, clock: WriteClock::default(), place, _counted: counted }
    }

    /// Whether the client has closed its sending side, or all of it, be it behind bytes that nobody reads. No system
    /// call: the runtime has been told (`EPOLLRDHUP`). A close behind more bytes than the kernel takes in is not seen.
    pub fn is_closed_by_client(&self) -> bool {
        let ready = self.tcp.ready(Interest::READABLE).now_or_never();
        ready.is_some_and(|ready| ready.is_ok_and(tokio::io::Ready::is_read_closed))
    }
}

/// The clock: how long writes have been making no progress.
#[derive(Default)]
pub struct WriteClock {
    /// Runs only while a write waits, so that an idle connection has no timer.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl WriteClock {
    /// Whether a write waits.
    fn runs(&self) -> bool {
        self.stalled.is_some()
    }

    /// `write`, or the failure that it becomes after waiting for that long.
    pub fn watch<T>(
        &mut self,
        context: &mut Context<'_>,
        write: Poll<io::Result<T>>,
        write_timeout: impl FnOnce() -> Duration,
    ) -> Poll<io::Result<T>> {
        if write.is_ready() {
            self.stalled = None;
            return write;
        }
        let clock = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(write_timeout())));
        clock.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_read(context, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        // Mostly there is room. Whether there is, the runtime keeps anywhere in memory: to try costs less than to ask.
        if !this.clock.runs() {
            let budget = ready!(poll_proceed(context));
            let sent = SockRef::from(&this.tcp).send(bytes);
            if !sent.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
                budget.made_progress();
                return Poll::Ready(sent);
            }
        }
        let write = Pin::new(&mut this.tcp).poll_write(context, bytes);
        this.clock.watch(context, write, || this.place.edge().config.limits.write_timeout)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let write = Pin::new(&mut this.tcp).poll_write_vectored(context, slices);
        this.clock.watch(context, write, || this.place.edge().config.limits.write_timeout)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_shutdown(context)
    }
}
