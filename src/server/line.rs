//! An HTTP/1 connection on which somebody waits, as far as it does not matter who: its client, who may send the next
//! request ahead, or go. Held by who waits (`server/parked.rs`); writes nothing.

use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::time::Sleep;
use tokio_util::either::Either;

use super::connection::{Peer, Stream};
use super::http1::Http1;
use crate::auth::Known;
use crate::transport::Edge;
use crate::transport::http::{HEAD_BYTES_MAX, Manner};

/// What a client may send behind a request that waits before it is read no further (RFC 9112 §9.3.2: it may pipeline).
const UNREAD_BYTES: usize = 8 * 1024;
/// How much one read takes at most: on the stack, so that an idle connection holds nothing.
const READ_BYTES: usize = HEAD_BYTES_MAX;
/// Between looks after a client that is read no further.
const LOOK: Duration = Duration::from_secs(2);
/// What a connection goes on as.
#[derive(Clone, Copy)]
pub enum Next {
    /// With a request for hyper.
    Http,
    /// With nobody on it.
    Rest,
    /// Not at all.
    End,
}

/// What came of listening for a request.
pub enum Heard {
    /// The client is gone.
    Nothing,
    /// The one before, again.
    Again,
    /// Another one, or a part of it.
    Request,
}

/// The connection.
pub struct Line {
    /// Who is at the other end.
    pub peer: Peer,
    /// Where answers go.
    pub stream: Stream,
    /// How the request wants to be answered.
    pub manner: Manner,
    /// Said by the last turn of who waits on it.
    pub next: Next,
    /// What stands behind the request that waits: mostly nothing.
    behind: Option<Box<Behind>>,
}

/// What a client has sent behind a request that waits.
#[derive(Default)]
struct Behind {
    unread: Vec<u8>,
    /// When to look after the client, if it is read no further.
    look: Option<Pin<Box<Sleep>>>,
}

impl Line {
    /// A connection that was taken off hyper with `unread` bytes behind the request of that manner.
    pub fn new(peer: Peer, stream: Stream, unread: &[u8], manner: Manner) -> Self {
        let behind = (!unread.is_empty()).then(|| Behind { unread: unread.to_vec(), look: None });
        Self { peer, stream, manner, next: Next::End, behind: behind.map(Box::new) }
    }

    /// Gives it back. What stands behind the last request is no request.
    pub fn into_http(self, edge: Arc<Edge>, known: Option<Known>) -> Http1 {
        let behind = self.behind.filter(|_| self.manner.persists);
        let unread = behind.map(|behind| behind.unread).unwrap_or_default();
        Http1::again(edge, self.peer, self.stream, unread, known)
    }

    /// Whether something stands behind the request that waits.
    pub fn has_more(&self) -> bool {
        self.behind.is_some()
    }

    /// Ready when the client has sent something, or is gone. Kept is what `takes` does not take.
    pub fn poll_heard(&mut self, task: &mut Context<'_>, takes: impl FnOnce(&[u8]) -> bool) -> Poll<Heard> {
        let mut buffer = [const { MaybeUninit::uninit() }; READ_BYTES];
        let mut buffer = ReadBuf::uninit(&mut buffer);
        let read = ready!(Pin::new(&mut self.stream).poll_read(task, &mut buffer));
        Poll::Ready(if read.is_err() || buffer.filled().is_empty() {
            Heard::Nothing
        } else if takes(buffer.filled()) {
            Heard::Again
        } else {
            self.behind.get_or_insert_default().unread.extend_from_slice(buffer.filled());
            Heard::Request
        })
    }

    /// Ready when the client is gone. Until then keeps what it sends, for later.
    pub fn poll_gone(&mut self, task: &mut Context<'_>) -> Poll<()> {
        loop {
            let room =
                UNREAD_BYTES.saturating_sub(self.behind.as_ref().map_or(0, |behind| behind.unread.len()));
            if room == 0 {
                return self.poll_closed(task);
            }
            let mut buffer = [const { MaybeUninit::uninit() }; READ_BYTES];
            let mut buffer = ReadBuf::uninit(&mut buffer[..room.min(READ_BYTES)]);
            let read = ready!(Pin::new(&mut self.stream).poll_read(task, &mut buffer));
            if read.is_err() || buffer.filled().is_empty() {
                return Poll::Ready(());
            }
            self.behind.get_or_insert_default().unread.extend_from_slice(buffer.filled());
        }
    }

    /// The same for a client that is read no further: its end stands behind what is not read.
    fn poll_closed(&mut self, task: &mut Context<'_>) -> Poll<()> {
        let socket = match &self.stream {
            Either::Left(socket) => socket,
            Either::Right(tls) => tls.socket(),
        };
        let look = &mut self.behind.get_or_insert_default().look;
        let look = look.get_or_insert_with(|| Box::pin(tokio::time::sleep(LOOK)));
        loop {
            ready!(look.as_mut().poll(task));
            if socket.is_closed_by_client() {
                return Poll::Ready(());
            }
            look.as_mut().reset(tokio::time::Instant::now() + LOOK);
        }
    }
}
