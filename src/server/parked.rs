//! A connection of HTTP/1 on which somebody waits: an event stream's subscriber, or a poll without an answer yet, or
//! between a poll's answer and the next request nobody. It is all there is of the connection then, beside its socket: no
//! request, no hyper, and no buffer until there is something to write. Begun and followed by `server/http1.rs`, which has
//! hyper read what comes; knows chunks and how a late answer is written, but no events.

use std::io::{self, Write as _};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead as _, AsyncWrite, ReadBuf};
use tokio::time::Sleep;
use tokio_util::either::Either;
use tracing::debug;

use super::connection::{Peer, Stream, finish};
use super::http1::Http1;
use crate::auth::Known;
use crate::channel::{Life, Reader, Waits};
use crate::close::Fault;
use crate::transport::Edge;
use crate::transport::http::{HEAD_BYTES_MAX, Manner};
use crate::transport::long_poll::{Poller, Rest, Said};
use crate::transport::sse::SseBody;

/// What a client may send behind a request that waits before it is read no further (RFC 9112 §9.3.2: it may pipeline).
const UNREAD_BYTES: usize = 8 * 1024;
/// How much one read takes at most: on the stack, so that an idle connection holds nothing.
const READ_BYTES: usize = HEAD_BYTES_MAX;
/// Between looks after a client that is read no further.
const LOOK: Duration = Duration::from_secs(2);
/// Chunks of news that are written for a stream before its task is woken for the rest.
const GIVEN_AT_ONCE: usize = 4;
/// Room for a chunk's size (RFC 9112 §7.1): 8 digits are 4 GB.
const SIZE_BYTES: usize = 10;

/// Who waits, and on what.
pub struct Parked<W> {
    who: W,
    line: Line,
}

/// A client that polls.
pub struct Polling {
    poller: Poller,
    /// What the client has not taken at once.
    unsent: Option<Box<Unsent>>,
}

/// What a connection goes on as.
#[derive(Clone, Copy)]
enum Next {
    /// With a request for hyper.
    Http,
    /// With nobody on it.
    Rest,
    /// Not at all.
    End,
}

/// What came of listening for a request.
enum Heard {
    /// The client is gone.
    Nothing,
    /// The one before, again.
    Again,
    /// Another one, or a part of it.
    Request,
}

/// A stream of events on its way out.
pub struct Events {
    body: SseBody,
    /// What the client has not taken at once.
    unsent: Option<Box<Unsent>>,
}

/// A chunk that is being written.
struct Unsent {
    chunk: Vec<u8>,
    written: usize,
}

/// The connection under it.
pub struct Line {
    peer: Peer,
    stream: Stream,
    manner: Manner,
    /// Said by the last turn of who waits on it.
    next: Next,
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

impl Parked<Events> {
    /// Writes the stream's events from now on, until it or the connection ends, or is free for another request.
    pub fn events(body: SseBody, line: Line) -> Waits {
        let wake = body.wake().clone();
        wake.leave(Box::new(Self { who: Events { body, unsent: None }, line }))
    }

    /// Ready at the end: whether the client has all of it.
    fn poll_end(&mut self, task: &mut Context<'_>) -> Poll<bool> {
        let Self { who: events, line } = self;
        if line.poll_gone(task).is_ready() {
            return Poll::Ready(false);
        }
        loop {
            if let Some(unsent) = &mut events.unsent {
                if ready!(unsent.poll_write(&mut line.stream, task)).is_err() {
                    return Poll::Ready(false);
                }
                events.unsent = None;
            }
            let Some(chunk) = ready!(events.body.poll_chunk(task, SIZE_BYTES)) else {
                return Poll::Ready(true);
            };
            events.write(chunk, line, task);
        }
    }

    async fn end(self: Box<Self>) -> Option<Life> {
        let Self { who: events, line } = *self;
        let edge = Arc::clone(events.body.edge());
        // Given back before the goodbye, which may take a while.
        drop(events);
        // RFC 9112 §9.3: without chunks the end of the connection is the end of the stream.
        let persists = line.manner.persists && !line.manner.is_old && !edge.drain.has_begun();
        if let Next::Http = line.next
            && persists
        {
            return Some(Life::acts(line.into_http(edge, None).run()));
        }
        finish(line.stream).await;
        None
    }
}

impl Reader for Parked<Events> {
    fn give(&mut self, now: Instant) -> bool {
        let Self { who: events, line } = self;
        if events.unsent.is_some() {
            return true;
        }
        for _ in 0..GIVEN_AT_ONCE {
            match events.body.news(SIZE_BYTES, now) {
                Some(chunk) if chunk.is_empty() => return false,
                Some(chunk) => {
                    // Whoever is woken for room in the socket asks for it again first, with its own waker.
                    if !events.write(chunk, line, &mut Context::from_waker(Waker::noop())) {
                        return true;
                    }
                }
                None => return true,
            }
        }
        true
    }

    fn glance(&self) -> usize {
        usize::from(self.who.unsent.is_some())
            + usize::from(self.line.behind.is_some())
            + self.who.body.glance()
    }

    fn poll_turn(&mut self, task: &mut Context<'_>) -> Poll<()> {
        self.line.next = if ready!(self.poll_end(task)) { Next::Http } else { Next::End };
        Poll::Ready(())
    }

    fn go_on(self: Box<Self>) -> Life {
        Life::acts(self.end())
    }
}

impl Events {
    /// Writes what the stream has given: whether all of it is on its way. What is not is kept, to be tried again.
    fn write(&mut self, chunk: Vec<u8>, line: &mut Line, task: &mut Context<'_>) -> bool {
        let mut next = Unsent { chunk, written: SIZE_BYTES };
        if !line.manner.is_old {
            next.written = as_chunk(&mut next.chunk, self.body.has_ended());
        }
        if matches!(next.poll_write(&mut line.stream, task), Poll::Ready(Ok(()))) {
            return true;
        }
        next.chunk.shrink_to_fit();
        self.unsent = Some(Box::new(next));
        false
    }
}

impl Parked<Polling> {
    /// Waits for the poll's answer from now on, or writes what is `said`; and waits again for who asks again.
    pub fn poll(poller: Poller, said: Option<Said>, line: Line) -> Waits {
        let wake = poller.wake().clone();
        let mut parked = Box::new(Self { who: Polling { poller, unsent: None }, line });
        if let Some(said) = said {
            let answer = parked.answer(Ok(said));
            parked.who.unsent = Some(Box::new(answer));
        }
        wake.leave(parked)
    }

    /// Ready when the connection goes on as something else. From one answer to the next all of it is done here, and
    /// nothing is made for it but the answer.
    fn poll_next(&mut self, task: &mut Context<'_>) -> Poll<Next> {
        loop {
            if let Some(answer) = &mut self.who.unsent {
                let written = ready!(answer.poll_write(&mut self.line.stream, task));
                self.who.unsent = None;
                if let Some(next) = self.next(&written) {
                    return Poll::Ready(next);
                }
            }
            if self.who.poller.rests() {
                let poller = &mut self.who.poller;
                match self.line.poll_heard(task, |request| poller.waits_again(request)) {
                    Poll::Ready(Heard::Nothing) => return Poll::Ready(Next::End),
                    Poll::Ready(Heard::Request) => return Poll::Ready(Next::Http),
                    Poll::Ready(Heard::Again) => {}
                    Poll::Pending => return poller.poll_left(task).map(|()| Next::Rest),
                }
            }
            let mut said = Said::default();
            let Poll::Ready(over) = self.who.poller.poll_over(task, &mut said) else {
                return self.line.poll_gone(task).map(|()| Next::End);
            };
            let mut answer = self.answer(over.map(|()| said).map_err(Box::new));
            match answer.poll_write(&mut self.line.stream, task) {
                Poll::Ready(written) => {
                    if let Some(next) = self.next(&written) {
                        return Poll::Ready(next);
                    }
                }
                Poll::Pending => {
                    answer.chunk.shrink_to_fit();
                    self.who.unsent = Some(Box::new(answer));
                    return Poll::Pending;
                }
            }
        }
    }

    fn answer(&mut self, over: Result<Said, Box<Fault>>) -> Unsent {
        let Polling { poller, .. } = &mut self.who;
        self.line.manner.persists &= !poller.edge().drain.has_begun();
        let (chunk, written) = poller.late_answer(over, self.line.manner);
        Unsent { chunk, written }
    }

    /// What comes behind an answer; `None` if that may be the same poll again.
    fn next(&mut self, written: &io::Result<()>) -> Option<Next> {
        if let Err(error) = written {
            debug!(connection = %self.line.peer.id, %error, "a late answer was not taken");
        }
        self.who.poller.rest();
        if written.is_err() || !self.line.manner.persists {
            return Some(Next::End);
        }
        if self.line.behind.is_some() {
            return Some(Next::Http);
        }
        (!self.who.poller.is_known()).then_some(Next::Rest)
    }

    async fn end(self: Box<Self>) -> Option<Life> {
        let Self { who: Polling { poller, .. }, line } = *self;
        let rest = Parked { who: poller.into_rest(), line };
        match rest.line.next {
            Next::Http => Some(rest.next()),
            // Without hyper, whose buffers and state are as large as all the rest, until there is something for it to read.
            Next::Rest => Some(Life::Waits(rest.who.wake().clone().leave(Box::new(rest)))),
            Next::End => {
                rest.finish().await;
                None
            }
        }
    }
}

impl Parked<Rest> {
    /// Has hyper read what has come.
    fn next(self) -> Life {
        let Self { who: rest, line } = self;
        let (edge, known) = rest.end();
        Life::acts(line.into_http(edge, known).run())
    }

    async fn finish(self) {
        let Self { who: rest, line } = self;
        drop(rest);
        finish(line.stream).await;
    }
}

impl Reader for Parked<Rest> {
    fn give(&mut self, _: Instant) -> bool {
        // It has no channels: whatever it is rung for is its task's.
        true
    }

    fn glance(&self) -> usize {
        0
    }

    fn poll_turn(&mut self, task: &mut Context<'_>) -> Poll<()> {
        self.line.next = match self.line.poll_heard(task, |_| false) {
            Poll::Ready(Heard::Request) => Next::Http,
            Poll::Ready(Heard::Nothing | Heard::Again) => Next::End,
            Poll::Pending => ready!(self.who.poll_over(task).map(|()| Next::End)),
        };
        Poll::Ready(())
    }

    fn go_on(self: Box<Self>) -> Life {
        if let Next::Http = self.line.next {
            return self.next();
        }
        Life::acts(async move {
            self.finish().await;
            None
        })
    }
}

impl Reader for Parked<Polling> {
    fn give(&mut self, now: Instant) -> bool {
        let Polling { poller, unsent } = &mut self.who;
        if poller.rests() && unsent.is_none() {
            // What comes is looked for with the next request.
            return false;
        }
        let goes_on = self.line.manner.persists && self.line.behind.is_none() && poller.is_known();
        if !goes_on || unsent.is_some() {
            return true;
        }
        let Some(said) = poller.news(now) else { return true };
        if said.is_empty() {
            return false;
        }
        let mut answer = self.answer(Ok(said));
        // Whoever is woken for room in the socket asks for it again first, with its own waker.
        let written = answer.poll_write(&mut self.line.stream, &mut Context::from_waker(Waker::noop()));
        if matches!(written, Poll::Ready(Ok(()))) {
            return self.next(&Ok(())).is_some();
        }
        self.who.unsent = Some(Box::new(answer));
        true
    }

    fn glance(&self) -> usize {
        usize::from(self.who.unsent.is_some())
            + usize::from(self.line.behind.is_some())
            + self.who.poller.glance()
    }

    fn poll_turn(&mut self, task: &mut Context<'_>) -> Poll<()> {
        self.line.next = ready!(self.poll_next(task));
        Poll::Ready(())
    }

    fn go_on(self: Box<Self>) -> Life {
        Life::acts(self.end())
    }
}

impl Unsent {
    /// Ready when all of it is on its way.
    fn poll_write<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        task: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let mut stream = Pin::new(stream);
        while self.written < self.chunk.len() {
            match ready!(stream.as_mut().poll_write(task, &self.chunk[self.written..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.written += written,
            }
        }
        // Over TLS the records of the last write may still wait for the socket.
        stream.poll_flush(task)
    }
}

impl Line {
    /// A connection that was taken off hyper with `unread` bytes behind the request of that manner.
    pub fn new(peer: Peer, stream: Stream, unread: &[u8], manner: Manner) -> Self {
        let behind = (!unread.is_empty()).then(|| Behind { unread: unread.to_vec(), look: None });
        Self { peer, stream, manner, next: Next::End, behind: behind.map(Box::new) }
    }

    /// Gives it back. What stands behind the last request is no request.
    fn into_http(self, edge: Arc<Edge>, known: Option<Known>) -> Http1 {
        let behind = self.behind.filter(|_| self.manner.persists);
        let unread = behind.map(|behind| behind.unread).unwrap_or_default();
        Http1::again(edge, self.peer, self.stream, unread, known)
    }

    /// Ready when the client has sent something, or is gone. Kept is what `takes` does not take.
    fn poll_heard(&mut self, task: &mut Context<'_>, takes: impl FnOnce(&[u8]) -> bool) -> Poll<Heard> {
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
    fn poll_gone(&mut self, task: &mut Context<'_>) -> Poll<()> {
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

/// Makes a chunk (RFC 9112 §7.1) of what stands behind the room for its size, the last one if that `is_last`; returns
/// where it begins.
fn as_chunk(chunk: &mut Vec<u8>, is_last: bool) -> usize {
    let mut size = [0; SIZE_BYTES];
    let mut rest = &mut size[..];
    write!(rest, "{:x}\r\n", chunk.len() - SIZE_BYTES).expect("a chunk has less than 4 GB");
    let length = SIZE_BYTES - rest.len();
    chunk[SIZE_BYTES - length..SIZE_BYTES].copy_from_slice(&size[..length]);
    chunk.extend_from_slice(if is_last { b"\r\n0\r\n\r\n" } else { b"\r\n" });
    SIZE_BYTES - length
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[test]
    fn a_chunk_says_its_size_and_the_last_one_that_it_is() {
        for (bytes, is_last, expected) in [
            (&b":\n\n"[..], false, "3\r\n:\n\n\r\n".to_owned()),
            (&b"retry: 1\n\n"[..], true, "a\r\nretry: 1\n\n\r\n0\r\n\r\n".to_owned()),
            (&[b'x'; 0x1234][..], false, format!("1234\r\n{}\r\n", "x".repeat(0x1234))),
        ] {
            let mut chunk = [&[0; SIZE_BYTES], bytes].concat();
            let begin = as_chunk(&mut chunk, is_last);
            assert_eq!(std::str::from_utf8(&chunk[begin..]).unwrap(), expected);
        }
    }

    #[tokio::test]
    async fn what_is_taken_in_pieces_arrives_whole() {
        let chunk: Vec<u8> = (0..=255).cycle().take(10_000).collect();
        let (mut client, mut server) = tokio::io::duplex(7);
        let mut unsent = Unsent { chunk: chunk.clone(), written: SIZE_BYTES };
        let mut read = vec![0; chunk.len() - SIZE_BYTES];
        let write = std::future::poll_fn(|task| unsent.poll_write(&mut server, task));
        let (written, all) = tokio::join!(write, client.read_exact(&mut read));
        written.unwrap();
        all.unwrap();
        assert_eq!(read, chunk[SIZE_BYTES..]);
        drop(client);
        unsent.written = 0;
        assert!(std::future::poll_fn(|task| unsent.poll_write(&mut server, task)).await.is_err());
    }

    /// The largest part of an idle subscriber that is ours: the allocator has no size between 256 and 320. With debug
    /// assertions a socket is a word larger.
    #[test]
    fn who_waits_fits_its_size_class() {
        let sizes = [size_of::<Parked<Events>>(), size_of::<Parked<Polling>>(), size_of::<Parked<Rest>>()];
        assert!(sizes.iter().all(|size| size - 8 * usize::from(cfg!(debug_assertions)) <= 256), "{sizes:?}");
    }
}
