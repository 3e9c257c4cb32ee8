//! `raw_fanout`: what a fan-out costs at least. It holds WebSockets and writes each message, framed once, to all of its
//! channel's subscribers with one non-blocking send each, on one thread; what was published at once goes out in one
//! send. No history, no limits, no errors told: a measure for servers, not one of them.

use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context as _;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use memchr::{memchr, memmem};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use sha1::{Digest as _, Sha1};
use socket2::{Domain, Protocol, Socket, Type};

/// Who reads a channel, and what was published there since the last pass.
#[derive(Default)]
struct Channel {
    readers: Vec<usize>,
    batch: Vec<u8>,
}

struct Connection {
    stream: TcpStream,
    /// What it sent and is not whole yet.
    unread: Vec<u8>,
    /// What its socket had no room for.
    unsent: Vec<u8>,
    /// The channel that it reads, and whether the handshake is over.
    channel: Option<String>,
    is_open: bool,
}

#[derive(Default)]
struct Loop {
    connections: Vec<Option<Connection>>,
    channels: HashMap<String, Channel>,
    /// Channels that have a batch.
    busy: Vec<String>,
}

const LISTENER: Token = Token(usize::MAX);
/// RFC 6455 §1.3
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

fn main() -> anyhow::Result<()> {
    let port =
        std::env::args().nth(1).and_then(|port| port.parse().ok()).context("usage: raw_fanout PORT")?;
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
    socket.listen(4096)?;
    socket.set_nonblocking(true)?;
    let mut listener = mio::net::TcpListener::from_std(socket.into());
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut events = Events::with_capacity(4096);
    let (mut state, mut scratch) = (Loop::default(), vec![0; 256 << 10]);
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error.into()),
            _ => {}
        }
        for event in &events {
            if event.token() == LISTENER {
                // What fails to be accepted has gone again.
                while let Ok((stream, _)) = listener.accept() {
                    state.add(stream, poll.registry())?;
                }
            } else {
                state.serve(event.token().0, &mut scratch);
            }
        }
        state.fan_out();
    }
}

impl Loop {
    fn add(&mut self, mut stream: TcpStream, registry: &mio::Registry) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let token = Token(self.connections.len());
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        let (unread, unsent) = (Vec::new(), Vec::new());
        self.connections.push(Some(Connection { stream, unread, unsent, channel: None, is_open: false }));
        Ok(())
    }

    fn serve(&mut self, index: usize, scratch: &mut [u8]) {
        let Some(Some(connection)) = self.connections.get_mut(index) else { return };
        let (mut published, opened) = (Vec::new(), connection.is_open);
        let alive = connection.flush().is_ok() && connection.read(scratch, &mut published).is_ok();
        if connection.is_open
            && !opened
            && let Some(name) = &connection.channel
        {
            self.channels.entry(name.clone()).or_default().readers.push(index);
        }
        if !alive {
            self.remove(index);
        }
        for message in published {
            let Some(end) = memchr(b'\n', &message) else { continue };
            let name = String::from_utf8_lossy(&message[..end]);
            let Some(channel) = self.channels.get_mut(&*name) else { continue };
            if channel.batch.is_empty() {
                self.busy.push(name.into_owned());
            }
            put_frame(&mut channel.batch, &message[end + 1..]);
        }
    }

    fn fan_out(&mut self) {
        for name in std::mem::take(&mut self.busy) {
            let Some(channel) = self.channels.get_mut(&name) else { continue };
            let batch = std::mem::take(&mut channel.batch);
            let mut gone = Vec::new();
            for index in &channel.readers {
                let Some(Some(connection)) = self.connections.get_mut(*index) else { continue };
                if connection.send(&batch).is_err() {
                    gone.push(*index);
                }
            }
            for index in gone {
                self.remove(index);
            }
        }
    }

    fn remove(&mut self, index: usize) {
        let Some(gone) = self.connections[index].take() else { return };
        let Some(name) = gone.channel else { return };
        if let Some(channel) = self.channels.get_mut(&name) {
            channel.readers.retain(|reader| *reader != index);
            if channel.readers.is_empty() {
                self.channels.remove(&name);
            }
        }
    }
}

impl Connection {
    /// The send that all of this is about.
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut sent = 0;
        if self.unsent.is_empty() {
            sent = match self.stream.write(bytes) {
                Ok(sent) => sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(error) => return Err(error),
            };
        }
        self.unsent.extend_from_slice(&bytes[sent..]);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(sent) => drop(self.unsent.drain(..sent)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn read(&mut self, scratch: &mut [u8], published: &mut Vec<Vec<u8>>) -> io::Result<()> {
        loop {
            match self.stream.read(scratch) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.unread.extend_from_slice(&scratch[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
            if !self.is_open {
                self.shake_hands()?;
            }
            if self.is_open {
                self.take_frames(published)?;
            }
        }
        Ok(())
    }

    fn shake_hands(&mut self) -> io::Result<()> {
        let Some(end) = memmem::find(&self.unread, b"\r\n\r\n") else { return Ok(()) };
        let head = String::from_utf8_lossy(&self.unread[..end]).into_owned();
        self.unread.drain(..end + 4);
        let mut lines = head.split("\r\n");
        let path = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
        let key = lines.find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).unwrap_or_default();
        let accept = BASE64_STANDARD.encode(Sha1::digest([key.as_bytes(), GUID].concat()));
        let mut answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
        )
        .into_bytes();
        self.channel = path.strip_prefix("/sub/").map(str::to_owned);
        if self.channel.is_some() {
            put_frame(&mut answer, b"joined");
        }
        self.is_open = true;
        self.send(&answer)
    }

    /// Whole text frames; a client that sends a Close is gone soon anyway, and no other says anything else.
    fn take_frames(&mut self, published: &mut Vec<Vec<u8>>) -> io::Result<()> {
        let mut at = 0;
        while let Some((header, length)) = frame(&self.unread[at..])? {
            let Some(payload) = self.unread.get(at + header..at + header + length) else { break };
            let mask = &self.unread[at + header - 4..at + header];
            if self.unread[at] & 0xf == 1 {
                published
                    .push(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect());
            }
            at += header + length;
        }
        self.unread.drain(..at);
        Ok(())
    }
}

/// Lengths of a client's frame: of its head with the mask, and of its payload (RFC 6455 §5.2).
fn frame(bytes: &[u8]) -> io::Result<Option<(usize, usize)>> {
    let Some(second) = bytes.get(1) else { return Ok(None) };
    Ok(match second & 0x7f {
        127 => return Err(io::Error::other("a message of more than 64 KB")),
        126 => bytes.get(2..4).map(|long| (8, usize::from(u16::from_be_bytes([long[0], long[1]])))),
        short => Some((6, usize::from(short))),
    })
}

/// Puts a whole text frame of the server behind the bytes; a payload of at most 64 KB, as it came.
fn put_frame(into: &mut Vec<u8>, payload: &[u8]) {
    into.push(0x81);
    match u16::try_from(payload.len()).unwrap_or(u16::MAX) {
        short @ ..126 => into.push(short.to_be_bytes()[1]),
        long => {
            into.push(126);
            into.extend(long.to_be_bytes());
        }
    }
    into.extend_from_slice(payload);
}
