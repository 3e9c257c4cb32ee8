//! How each server is spoken to: the request that opens a connection, what follows it, how a subscription is known to
//! stand, how a message is published. One table for Tidegate and the servers it is measured beside, so that all of
//! them are asked for the same thing. Only what a load needs; `wire` is the place for strictness.

use std::fmt::Write as _;

use memchr::memmem;
use serde::{Deserialize, Serialize};

use crate::feed::Transport;

/// A server under load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
#[value(rename_all = "kebab-case")]
pub enum Kind {
    /// This project's.
    Tidegate,
    /// A loop of non-blocking sends of a ready frame: the physical limit.
    Raw,
    /// `uWebSockets`, through the Python package `socketify`.
    #[serde(rename = "uwebsockets")]
    #[value(name = "uwebsockets")]
    UWebSockets,
    /// `ws` on Node.
    Ws,
    /// `Socket.IO` on Node.
    SocketIo,
    /// nats-server's own WebSocket listener, without JetStream.
    Nats,
    /// nginx with the Nchan module.
    Nchan,
}

/// What a connection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Reads a channel.
    Subscriber(Transport),
    /// Writes to channels, over a WebSocket.
    Publisher,
    /// Writes to channels with `POST`s on one connection.
    Poster,
}

/// One kind of connection to one kind of server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// To which server.
    pub kind: Kind,
    /// For what.
    pub role: Role,
}

impl Kind {
    /// Each of them, in the order of reports.
    pub const ALL: [Self; 7] =
        [Self::Raw, Self::Tidegate, Self::UWebSockets, Self::Nchan, Self::Ws, Self::SocketIo, Self::Nats];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tidegate => "Tidegate",
            Self::Raw => "raw send loop",
            Self::UWebSockets => "uWebSockets",
            Self::Ws => "ws",
            Self::SocketIo => "Socket.IO",
            Self::Nats => "nats-server",
            Self::Nchan => "Nchan",
        }
    }

    /// Whether it can be reached that way at all.
    pub fn speaks(self, transport: Transport, tls: bool) -> bool {
        match self {
            Self::Tidegate | Self::Nchan => true,
            Self::Raw => transport == Transport::WebSocket && !tls,
            Self::UWebSockets | Self::Ws | Self::SocketIo | Self::Nats => transport == Transport::WebSocket,
        }
    }
}

impl Way {
    /// The request that opens the connection; `position` is where an earlier one had come to, or empty.
    pub fn request(self, channel: &str, token: &str, position: &str) -> Vec<u8> {
        if self.role == Role::Poster {
            return Vec::new();
        }
        let path = self.path(channel, position);
        let mut head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n");
        let mut field = |name: &str, value: &str| {
            write!(head, "{name}: {value}\r\n").expect("a String takes all");
        };
        if !token.is_empty() {
            field("Authorization", &format!("Bearer {token}"));
        }
        match self.role {
            Role::Publisher | Role::Subscriber(Transport::WebSocket) => {
                field("Connection", "Upgrade");
                field("Upgrade", "websocket");
                field("Sec-WebSocket-Version", "13");
                field("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
            }
            Role::Subscriber(Transport::Sse) => {
                field("Accept", "text/event-stream");
                if !position.is_empty() {
                    field("Last-Event-ID", position);
                }
            }
            Role::Subscriber(Transport::Poll) => {
                if let Some((modified, etag)) = position.split_once('\n') {
                    field("If-Modified-Since", modified);
                    field("If-None-Match", etag);
                }
            }
            Role::Poster => {}
        }
        head.push_str("\r\n");
        head.into_bytes()
    }

    fn path(self, channel: &str, position: &str) -> String {
        match (self.kind, self.role) {
            (Kind::Tidegate, Role::Publisher | Role::Poster) => "/v1/ws".to_owned(),
            (Kind::Tidegate, Role::Subscriber(transport)) => match transport {
                // A position on a WebSocket is told in `join_room`.
                Transport::WebSocket if !position.is_empty() => "/v1/ws".to_owned(),
                Transport::WebSocket => format!("/v1/ws?channels={channel}"),
                Transport::Sse => format!("/v1/sse?channels={channel}"),
                Transport::Poll if position.is_empty() => format!("/v1/poll?channels={channel}"),
                Transport::Poll => format!("/v1/poll?channels={channel}&wait=60&cursor={position}"),
            },
            (Kind::SocketIo, _) => "/socket.io/?EIO=4&transport=websocket".to_owned(),
            (Kind::Nats, _) => "/".to_owned(),
            (Kind::Nchan, Role::Subscriber(transport)) => format!("/{transport}/{channel}"),
            (_, Role::Publisher | Role::Poster) => format!("/pub/{channel}"),
            (_, Role::Subscriber(_)) => format!("/sub/{channel}"),
        }
    }

    /// What is sent right after a handshake, in frames.
    pub fn greeting(self, channel: &str, position: &str) -> Vec<u8> {
        match (self.kind, self.role) {
            (Kind::Tidegate, Role::Subscriber(Transport::WebSocket)) => {
                let Some((epoch, seq)) = position.split_once('\n') else { return Vec::new() };
                frame(
                    TEXT,
                    format!(
                        r#"{{"type":"join_room","payload":{{"channel":"{channel}","recover":{{"epoch":"{epoch}","seq":{seq}}}}}}}"#
                    )
                    .as_bytes(),
                )
            }
            (Kind::SocketIo, _) => frame(TEXT, b"40"),
            (Kind::Nats, role) => {
                let mut text = r#"CONNECT {"verbose":false,"pedantic":false,"tls_required":false,"lang":"load","version":"1","protocol":1,"echo":false}"#.to_owned();
                text.push_str("\r\n");
                if role != Role::Publisher {
                    // A String takes all.
                    let _ = write!(text, "SUB {channel} 1\r\n");
                }
                text.push_str("PING\r\n");
                frame(BINARY, text.as_bytes())
            }
            _ => Vec::new(),
        }
    }

    /// Whether the sent request is all that can be known of a subscription until its first message.
    pub fn stands_unanswered(self) -> bool {
        let polls_nchan = self.kind == Kind::Nchan && self.role == Role::Subscriber(Transport::Poll);
        polls_nchan || self.role == Role::Poster
    }

    /// Whether the answer's head already says that all stands: where nothing else is ever said.
    pub fn stands_with_the_head(self) -> bool {
        match self.kind {
            // Both have a handshake of their own on top.
            Kind::Nats | Kind::SocketIo => false,
            Kind::Nchan => true,
            _ => self.role == Role::Publisher,
        }
    }

    /// Whether this payload says that the connection stands.
    pub fn stands(self, payload: &[u8]) -> bool {
        match (self.kind, self.role) {
            (Kind::Tidegate, _) => contains(payload, b"\"type\":\"room_joined\""),
            (Kind::Nats, _) => contains(payload, b"PONG"),
            (Kind::SocketIo, Role::Publisher) => payload.starts_with(b"40"),
            (Kind::SocketIo, _) => payload.starts_with(b"430"),
            _ => payload == b"joined",
        }
    }

    /// What a payload has to be answered with, in frames: heartbeats of the server's own, and steps of its handshake.
    pub fn reply(self, channel: &str, payload: &[u8]) -> Option<Vec<u8>> {
        match self.kind {
            Kind::SocketIo if payload == b"2" => Some(frame(TEXT, b"3")),
            Kind::SocketIo if payload.starts_with(b"40") && self.role != Role::Publisher => {
                Some(frame(TEXT, format!("420[\"join\",\"{channel}\"]").as_bytes()))
            }
            Kind::Nats if contains(payload, b"PING\r\n") => Some(frame(BINARY, b"PONG\r\n")),
            _ => None,
        }
    }

    /// What the server complains about, in a payload without a message.
    pub fn complaint(self, payload: &[u8]) -> Option<String> {
        let complains = match self.kind {
            Kind::Tidegate => {
                contains(payload, b"\"type\":\"error\"") || contains(payload, b"\"type\":\"gap\"")
            }
            Kind::Nats => payload.starts_with(b"-ERR") || contains(payload, b"\r\n-ERR"),
            Kind::SocketIo => payload.starts_with(b"44") || payload == b"41",
            _ => false,
        };
        complains.then(|| String::from_utf8_lossy(&payload[..payload.len().min(300)]).into_owned())
    }

    /// One message, as it goes over a publisher's connection.
    pub fn publication(self, channel: &str, data: &str) -> Vec<u8> {
        match self.kind {
            Kind::Tidegate => frame(
                TEXT,
                format!(r#"{{"type":"message","payload":{{"channel":"{channel}","data":{data}}}}}"#)
                    .as_bytes(),
            ),
            Kind::SocketIo => frame(TEXT, format!("42[\"pub\",\"{channel}\",{data}]").as_bytes()),
            Kind::Nats => frame(BINARY, format!("PUB {channel} {}\r\n{data}\r\n", data.len()).as_bytes()),
            Kind::Nchan if self.role == Role::Poster => format!(
                "POST /pub/{channel} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{data}",
                data.len()
            )
            .into_bytes(),
            // A WebSocket publisher of Nchan's has the channel in its URL.
            Kind::Nchan => frame(TEXT, data.as_bytes()),
            Kind::Raw | Kind::UWebSockets | Kind::Ws => frame(TEXT, format!("{channel}\n{data}").as_bytes()),
        }
    }

    /// How one connection publishes to that many channels of a server.
    pub fn publisher(kind: Kind, channels: usize) -> Self {
        let role = if kind == Kind::Nchan && channels > 1 { Role::Poster } else { Role::Publisher };
        Self { kind, role }
    }

    /// Where a subscriber has come to, from what was delivered to it, if that tells.
    pub fn position(self, payload: &[u8]) -> Option<String> {
        let text = std::str::from_utf8(payload).ok()?;
        match (self.kind, self.role) {
            (Kind::Tidegate, Role::Subscriber(Transport::WebSocket)) => {
                let epoch = after(text, "\"epoch\":\"")?.split('"').next()?;
                let seq = after(text, "\"seq\":")?.split([',', '}']).next()?;
                Some(format!("{epoch}\n{seq}"))
            }
            (_, Role::Subscriber(Transport::Sse)) => {
                let id = text.lines().find_map(|line| line.strip_prefix("id:"))?;
                Some(id.trim().to_owned())
            }
            // The last one in the body is the answer's own.
            (Kind::Tidegate, Role::Subscriber(Transport::Poll)) => {
                let (_, cursor) = text.rsplit_once("\"cursor\":\"")?;
                Some(cursor.split('"').next()?.to_owned())
            }
            _ => None,
        }
    }
}

pub(super) const TEXT: u8 = 0x1;
pub(super) const BINARY: u8 = 0x2;
pub(super) const CLOSE: u8 = 0x8;
pub(super) const PING: u8 = 0x9;
pub(super) const PONG: u8 = 0xa;

/// A client's frame, whole (RFC 6455 §5.2). Its mask is zero, which the server takes off like any other.
pub fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(payload.len() + 14);
    frame.push(0x80 | opcode);
    match payload.len() {
        short @ ..126 => frame.push(0x80 | short.to_le_bytes()[0]),
        long => {
            // 126 and 127 with the mask bit.
            if let Ok(long) = u16::try_from(long) {
                frame.push(0xfe);
                frame.extend(long.to_be_bytes());
            } else {
                frame.push(0xff);
                frame.extend((long as u64).to_be_bytes());
            }
        }
    }
    frame.extend([0; 4]);
    frame.extend_from_slice(payload);
    frame
}

fn contains(payload: &[u8], what: &[u8]) -> bool {
    memmem::find(payload, what).is_some()
}

fn after<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.split_once(key).map(|(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn reads(kind: Kind, transport: Transport) -> Way {
        Way { kind, role: Role::Subscriber(transport) }
    }

    #[test]
    fn a_position_is_found_and_comes_back_in_the_next_request() {
        let message = br#"{"type":"message","payload":{"channel":"c","seq":7,"epoch":"e1"},"metadata":{}}"#;
        let way = reads(Kind::Tidegate, Transport::WebSocket);
        let position = way.position(message).unwrap();
        assert_eq!(position, "e1\n7");
        let greeting = String::from_utf8_lossy(&way.greeting("c", &position)).into_owned();
        assert!(greeting.contains(r#""recover":{"epoch":"e1","seq":7}"#));

        let way = reads(Kind::Nchan, Transport::Sse);
        let position = way.position(b"id: 17:3\ndata: x").unwrap();
        let request = String::from_utf8(way.request("c", "", &position)).unwrap();
        assert!(request.contains("\r\nLast-Event-ID: 17:3\r\n"));

        let way = reads(Kind::Tidegate, Transport::Poll);
        let body = br#"{"messages":[{"payload":{"cursor":"first"}}],"cursor":"last"}"#;
        assert_eq!(way.position(body).as_deref(), Some("last"));
        let request =
            String::from_utf8(reads(Kind::Nchan, Transport::Poll).request("c", "", "day\ntag")).unwrap();
        assert!(request.contains("If-Modified-Since: day\r\nIf-None-Match: tag\r\n"));
    }

    #[test]
    fn frames_have_each_form_of_length() {
        for (length, head) in [(125, 6), (126, 8), (65_535, 8), (65_536, 14)] {
            let frame = frame(TEXT, &vec![b'x'; length]);
            assert_eq!((frame.len(), frame[0]), (length + head, 0x81));
        }
        assert_eq!(frame(PONG, b"ab"), [0x8a, 0x82, 0, 0, 0, 0, b'a', b'b']);
    }
}
