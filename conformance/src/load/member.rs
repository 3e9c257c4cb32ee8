//! One connection of a load, from its request to its last delivery: bytes in, deliveries counted, heartbeats and next
//! polls out. It reads WebSocket frames, event streams and the answers of polls; whole units only, in place.

use std::borrow::Cow;
use std::time::Duration;

use memchr::memmem;

use super::latency::Histogram;
use super::mark::{Clock, Mark, Marks};
use super::socket::{Got, Socket};
use super::talk::{CLOSE, PING, PONG, Role, Way, frame};
use crate::feed::Transport;

/// What all connections of a herd have seen together.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Connections that stand.
    pub joined: usize,
    /// Connections that could not be made, or ended early.
    pub failed: usize,
    /// Why the first of them did.
    pub first_failure: Option<String>,
    /// Deliveries.
    pub delivered: u64,
    /// Those among them that came again, or after a later one.
    pub again: u64,
    /// Latency from when a message was due.
    pub latencies: Histogram,
}

/// What a herd's connections share.
pub struct Shared {
    /// What they count in.
    pub tally: Tally,
    /// The run's clock.
    pub clock: Clock,
    marks: Marks,
    /// Whether each takes note of where it has come to.
    pub remember: bool,
}

/// A connection.
pub struct Member {
    /// Its socket.
    pub socket: Socket,
    way: Way,
    /// Which of the herd's channels it reads.
    pub channel: usize,
    stage: Stage,
    /// The beginning of a unit whose end has not come.
    pending: Vec<u8>,
    /// Of an event stream, what its chunks held and is no whole event yet.
    text: Vec<u8>,
    /// Where it has come to, if that is remembered.
    pub position: String,
    token: String,
    /// Whether it stands.
    pub joined: bool,
    /// The number of the last message.
    last: u32,
    /// Messages without those that came again.
    pub distinct: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Head,
    Frames,
    Events,
    /// Inside an event stream with chunks (RFC 9112 §7.1); so many bytes of one are to come, with its line's end.
    Chunk(usize),
    Answers,
}

impl Shared {
    /// With nothing counted.
    pub fn new(clock: Clock, remember: bool) -> Self {
        Self { tally: Tally::default(), clock, marks: Marks::default(), remember }
    }
}

impl Member {
    /// A connection that sends its request once it is open.
    pub fn new(mut socket: Socket, way: Way, channel: (usize, &str), token: String, position: &str) -> Self {
        let (channel, name) = channel;
        socket.queue(&way.request(name, &token, position));
        let polls = matches!(way.role, Role::Subscriber(Transport::Poll) | Role::Poster);
        Self {
            socket,
            way,
            channel,
            stage: if polls { Stage::Answers } else { Stage::Head },
            pending: Vec::new(),
            text: Vec::new(),
            position: position.to_owned(),
            // A poll shows it each time.
            token: if polls { token } else { String::new() },
            joined: false,
            last: 0,
            distinct: 0,
        }
    }

    /// Writes what waits and reads what is there.
    ///
    /// # Errors
    /// In words, when the connection is no more.
    pub fn turn(
        &mut self,
        ended: bool,
        name: &str,
        scratch: &mut [u8],
        shared: &mut Shared,
    ) -> Result<(), String> {
        self.flush(shared)?;
        loop {
            let got = self.socket.read(scratch).map_err(|error| error.to_string())?;
            let count = match got {
                Got::Some(count) | Got::Last(count) => count,
                Got::Nothing => break,
                Got::End => return Err("the server ended the connection".into()),
            };
            let now = shared.clock.now();
            self.take(&scratch[..count], now, name, shared)?;
            if matches!(got, Got::Last(_)) && !ended {
                break;
            }
        }
        if self.joined && self.socket.is_flushed() { Ok(()) } else { self.flush(shared) }
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// In words, when the connection is no more.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.socket.queue(bytes);
        self.socket.flush().map_err(|error| error.to_string())
    }

    fn flush(&mut self, shared: &mut Shared) -> Result<(), String> {
        self.socket.flush().map_err(|error| error.to_string())?;
        if !self.joined && self.way.stands_unanswered() && self.socket.is_open() && self.socket.is_flushed() {
            self.stand(shared);
        }
        Ok(())
    }

    fn stand(&mut self, shared: &mut Shared) {
        if !self.joined {
            self.joined = true;
            shared.tally.joined += 1;
        }
    }

    fn take(&mut self, bytes: &[u8], now: u64, name: &str, shared: &mut Shared) -> Result<(), String> {
        let mut whole = std::mem::take(&mut self.pending);
        let mut input = if whole.is_empty() {
            bytes
        } else {
            whole.extend_from_slice(bytes);
            &whole
        };
        while !input.is_empty() {
            let used = match self.stage {
                Stage::Head => self.head(input, name, shared)?,
                Stage::Frames => self.frame(input, now, name, shared)?,
                Stage::Events => self.event(input, now, name, shared)?,
                Stage::Chunk(left) => self.chunk(input, left, now, name, shared)?,
                Stage::Answers => self.answer(input, now, name, shared)?,
            };
            if used == 0 {
                self.pending = input.to_vec();
                break;
            }
            input = &input[used..];
        }
        Ok(())
    }

    /// The head of the answer to the request that opened it.
    fn head(&mut self, input: &[u8], name: &str, shared: &mut Shared) -> Result<usize, String> {
        let Some(head) = Head::read(input)? else { return Ok(0) };
        let events = self.way.role == Role::Subscriber(Transport::Sse);
        if head.status != if events { 200 } else { 101 } {
            return Err(format!("status {}", head.status));
        }
        self.stage = match (events, head.chunked) {
            (false, _) => Stage::Frames,
            (true, false) => Stage::Events,
            (true, true) => Stage::Chunk(0),
        };
        let greeting = self.way.greeting(name, &self.position);
        self.socket.queue(&greeting);
        if self.way.stands_with_the_head() {
            self.stand(shared);
        }
        Ok(head.bytes)
    }

    /// RFC 6455 §5.2
    fn frame(&mut self, input: &[u8], now: u64, name: &str, shared: &mut Shared) -> Result<usize, String> {
        let Some(second) = input.get(1) else { return Ok(0) };
        let (header, length) = match second {
            126 => match input.get(2..4) {
                Some(long) => (4, usize::from(u16::from_be_bytes([long[0], long[1]]))),
                None => return Ok(0),
            },
            127 => match input[2..].first_chunk::<8>() {
                Some(long) => {
                    (10, usize::try_from(u64::from_be_bytes(*long)).map_err(|_| "a frame of exabytes")?)
                }
                None => return Ok(0),
            },
            short @ 0..=125 => (2, usize::from(*short)),
            128.. => return Err("a masked frame".into()),
        };
        let Some(payload) = input.get(header..header + length) else { return Ok(0) };
        match input[0] & 0xf {
            PING => self.socket.queue(&frame(PONG, payload)),
            PONG => {}
            CLOSE => {
                let code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
                let reason = String::from_utf8_lossy(payload.get(2..).unwrap_or_default());
                return Err(format!("closed with {code:?} {reason}"));
            }
            _ => self.payload(payload, now, name, shared)?,
        }
        Ok(header + length)
    }

    /// One event (WHATWG HTML §9.2), with the empty line behind it.
    fn event(&mut self, input: &[u8], now: u64, name: &str, shared: &mut Shared) -> Result<usize, String> {
        let Some(length) = memmem::find(input, b"\n\n") else { return Ok(0) };
        self.payload(&input[..length], now, name, shared)?;
        Ok(length + 2)
    }

    fn chunk(
        &mut self,
        input: &[u8],
        left: usize,
        now: u64,
        name: &str,
        shared: &mut Shared,
    ) -> Result<usize, String> {
        if left == 0 {
            let Some(line) = memmem::find(input, b"\r\n") else { return Ok(0) };
            let size = chunk_size(&input[..line])?;
            if size == 0 {
                return Err("the server ended the event stream".into());
            }
            self.stage = Stage::Chunk(size + 2);
            return Ok(line + 2);
        }
        let used = left.min(input.len());
        // The last two bytes of a chunk are its line's end.
        let data = used.min(left.saturating_sub(2));
        self.text.extend_from_slice(&input[..data]);
        self.stage = Stage::Chunk(left - used);
        let text = std::mem::take(&mut self.text);
        let mut rest = &text[..];
        loop {
            match self.event(rest, now, name, shared)? {
                0 => break,
                length => rest = &rest[length..],
            }
        }
        self.text = rest.to_vec();
        Ok(used)
    }

    /// One whole answer to a poll; the next poll follows.
    fn answer(&mut self, input: &[u8], now: u64, name: &str, shared: &mut Shared) -> Result<usize, String> {
        let Some(head) = Head::read(input)? else { return Ok(0) };
        let Some((body, used)) = head.body(input)? else { return Ok(0) };
        match head.status {
            200 => self.payload(&body, now, name, shared)?,
            // Nothing came in the time that the server gives a poll.
            204 | 304 | 408 => {}
            // A publication was taken, with or without somebody to read it.
            201 | 202 if self.way.role == Role::Poster => return Ok(used),
            status => return Err(format!("status {status}")),
        }
        if let (Some(modified), Some(etag)) = (head.modified, head.etag) {
            self.position = format!("{modified}\n{etag}");
        } else if let Some(position) = self.way.position(&body) {
            self.position = position;
        }
        self.stand(shared);
        self.socket.queue(&self.way.request(name, &self.token, &self.position));
        Ok(used)
    }

    /// What a server says, without its framing.
    fn payload(&mut self, payload: &[u8], now: u64, name: &str, shared: &mut Shared) -> Result<(), String> {
        let Shared { tally, marks, .. } = shared;
        let found = marks.each(payload, |mark| self.count(mark, now, tally));
        if found == 0 {
            if let Some(reply) = self.way.reply(name, payload) {
                self.socket.queue(&reply);
            }
            if let Some(complaint) = self.way.complaint(payload) {
                return Err(complaint);
            }
            if !self.joined && self.way.stands(payload) {
                self.stand(shared);
            }
        }
        if shared.remember
            && let Some(position) = self.way.position(payload)
        {
            self.position = position;
        }
        Ok(())
    }

    fn count(&mut self, mark: Mark, now: u64, tally: &mut Tally) {
        tally.delivered += 1;
        if mark.number > self.last {
            self.last = mark.number;
            self.distinct += 1;
        } else {
            tally.again += 1;
        }
        tally.latencies.record(Duration::from_micros(now.saturating_sub(mark.due)));
    }
}

/// The body of an answer, and how long head and body are together.
type Body<'a> = (Cow<'a, [u8]>, usize);

/// The head of an HTTP answer, as far as a load needs it.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    bytes: usize,
    length: Option<usize>,
    chunked: bool,
    modified: Option<String>,
    etag: Option<String>,
}

impl Head {
    fn read(input: &[u8]) -> Result<Option<Self>, String> {
        let Some(end) = memmem::find(input, b"\r\n\r\n") else { return Ok(None) };
        let text = String::from_utf8_lossy(&input[..end]);
        let mut lines = text.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let status = status.ok_or_else(|| format!("no status in {text:?}"))?;
        let mut head =
            Self { status, bytes: end + 4, length: None, chunked: false, modified: None, etag: None };
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            match name.to_ascii_lowercase().as_str() {
                "content-length" => head.length = value.parse().ok(),
                "transfer-encoding" => head.chunked = value.eq_ignore_ascii_case("chunked"),
                "last-modified" => head.modified = Some(value.to_owned()),
                "etag" => head.etag = Some(value.to_owned()),
                _ => {}
            }
        }
        Ok(Some(head))
    }

    /// Nothing while it is not whole.
    fn body<'a>(&self, input: &'a [u8]) -> Result<Option<Body<'a>>, String> {
        if matches!(self.status, 204 | 304) {
            return Ok(Some((Vec::new().into(), self.bytes)));
        }
        if !self.chunked {
            let length = self.length.ok_or("an answer without a length")?;
            let end = self.bytes + length;
            return Ok(input.get(self.bytes..end).map(|body| (body.into(), end)));
        }
        let (mut body, mut at) = (Vec::new(), self.bytes);
        loop {
            let Some(line) = memmem::find(&input[at..], b"\r\n") else { return Ok(None) };
            let size = chunk_size(&input[at..at + line])?;
            let begin = at + line + 2;
            let Some(data) = input.get(begin..begin + size) else { return Ok(None) };
            if input.len() < begin + size + 2 {
                return Ok(None);
            }
            body.extend_from_slice(data);
            at = begin + size + 2;
            if size == 0 {
                return Ok(Some((body.into(), at)));
            }
        }
    }
}

/// RFC 9112 §7.1: hexadecimal, before any extension.
fn chunk_size(line: &[u8]) -> Result<usize, String> {
    let text = std::str::from_utf8(line).ok().and_then(|line| line.split(';').next());
    let size = text.and_then(|size| usize::from_str_radix(size.trim(), 16).ok());
    size.filter(|size| *size < 1 << 30).ok_or_else(|| format!("a chunk of size {line:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_when_they_are_whole() {
        let plain =
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nETag: \"a\"\r\nLast-Modified: now\r\n\r\nabcHTTP";
        let head = Head::read(plain).unwrap().unwrap();
        assert_eq!(
            (head.status, head.etag.as_deref(), head.modified.as_deref()),
            (200, Some("\"a\""), Some("now"))
        );
        let (body, used) = head.body(plain).unwrap().unwrap();
        assert_eq!((&body[..], &plain[used..]), (&b"abc"[..], &b"HTTP"[..]));
        assert_eq!(head.body(&plain[..used - 1]).unwrap(), None);

        let chunked =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n2\r\nab\r\n1;x=y\r\nc\r\n0\r\n\r\nHTTP";
        let head = Head::read(chunked).unwrap().unwrap();
        let (body, used) = head.body(chunked).unwrap().unwrap();
        assert_eq!((&body[..], &chunked[used..]), (&b"abc"[..], &b"HTTP"[..]));
        for cut in head.bytes..used {
            assert_eq!(head.body(&chunked[..cut]).unwrap(), None, "{cut}");
        }
        assert!(
            Head::read(b"HTTP/1.1 200 OK\r\n").unwrap().is_none() && Head::read(b"SMTP\r\n\r\n").is_err()
        );
        assert!(chunk_size(b"zz").is_err() && chunk_size(b"7fffffff").is_err());
    }
}
