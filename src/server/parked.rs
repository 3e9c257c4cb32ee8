//! A connection of HTTP/1 on which somebody waits: an event stream's subscriber, or a poll without an answer yet, or
//! between a poll's answer and the next request nobody. It is all there is of the connection then, beside its socket: no
//! request, no hyper, and no buffer until there is something to write. Begun and followed by `server/http1.rs`, which has
//! hyper read what comes; knows chunks and how a late answer is written, but no events. What is under it is a [`Line`].

use std::io::{self, Write as _};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Instant;

use tokio::io::AsyncWrite;
use tracing::debug;

use super::connection::finish;
use super::line::{Heard, Line, Next};
use crate::channel::{Life, Reader, Waits};
use crate::close::Fault;
use crate::transport::long_poll::{Poller, Rest, Said};
use crate::transport::sse::SseBody;

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
        usize::from(self.who.unsent.is_some()) + usize::from(self.line.has_more()) + self.who.body.glance()
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
        if self.line.has_more() {
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
        let goes_on = self.line.manner.persists && !self.line.has_more() && poller.is_known();
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
        usize::from(self.who.unsent.is_some()) + usize::from(self.line.has_more()) + self.who.poller.glance()
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
