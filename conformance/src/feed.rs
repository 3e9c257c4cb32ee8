//! One subscription to some channels, over whichever transport: begun fresh or where another one was cut off, read
//! envelope by envelope with the cursor that came along. Checks that compare transports see only this.

use std::collections::VecDeque;
use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;

use crate::envelope::{self, Position};
use crate::wire::{Connection, Dial, EventStream, Request, ServerSent, Target, WebSocket, WireError};

/// A way to move a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lowercase")]
pub enum Transport {
    /// `GET /v1/ws`
    WebSocket,
    /// `GET /v1/sse`
    Sse,
    /// `GET /v1/poll`
    Poll,
}

/// Where a subscription begins.
#[derive(Clone, Debug)]
pub enum Start {
    /// With the next message; on a WebSocket by `join_room`.
    Fresh,
    /// With the next message, the channels named in the URL.
    FreshByQuery,
    /// Behind a cursor in the URL.
    CursorByQuery(String),
    /// Behind a cursor in `Last-Event-ID`; only on an event stream.
    CursorByHeader(String),
    /// Behind a cursor in each `join_room`; only on a WebSocket.
    CursorByJoin(String),
    /// Behind these positions, one per channel: in each `join_room`, or as `recover=` in the URL.
    Recover(Vec<Position>),
    /// Before the newest messages, as many as that of each channel; by the URL.
    History(usize),
}

/// Who subscribes to what.
#[derive(Clone)]
pub struct Subscription {
    /// The server.
    pub target: Target,
    /// How to connect.
    pub dial: Dial,
    /// Who.
    pub token: String,
    /// To what.
    pub channels: Vec<String>,
    /// How long a poll waits, in seconds.
    pub poll_wait: u32,
}

/// An open subscription.
pub enum Feed {
    /// Over a WebSocket.
    WebSocket(Box<WebSocket>),
    /// Over an event stream.
    Sse(Box<EventStream>),
    /// Over polls on one connection.
    Poll(Box<Polls>),
}

/// One poll after the other.
pub struct Polls {
    connection: Connection,
    token: String,
    path: String,
    start: Option<String>,
    cursor: String,
}

#[derive(Deserialize)]
struct PollBody<'a> {
    #[serde(borrow)]
    messages: Vec<&'a RawValue>,
    cursor: String,
}

impl Transport {
    /// Each of them.
    pub const ALL: [Self; 3] = [Self::WebSocket, Self::Sse, Self::Poll];
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WebSocket => "websocket",
            Self::Sse => "sse",
            Self::Poll => "poll",
        })
    }
}

impl Start {
    /// Its name in reports.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Fresh | Self::FreshByQuery => "fresh",
            Self::CursorByQuery(_) => "cursor=",
            Self::CursorByHeader(_) => "Last-Event-ID",
            Self::CursorByJoin(_) => "join cursor",
            Self::Recover(_) => "recover",
            Self::History(_) => "history=",
        }
    }

    fn query(&self) -> String {
        match self {
            Self::Fresh | Self::FreshByQuery | Self::CursorByHeader(_) => String::new(),
            Self::CursorByQuery(cursor) | Self::CursorByJoin(cursor) => format!("&cursor={cursor}"),
            Self::Recover(positions) => {
                let each: Vec<_> = positions.iter().map(|at| format!("{}:{}", at.epoch, at.seq)).collect();
                format!("&recover={}", each.join(","))
            }
            Self::History(newest) => format!("&history={newest}"),
        }
    }
}

impl Feed {
    /// Opens a subscription. What the server then says, `room_joined`s included, comes from [`Feed::next`].
    ///
    /// # Errors
    /// [`WireError`].
    pub async fn open(
        subscription: &Subscription,
        transport: Transport,
        start: &Start,
    ) -> Result<Self, WireError> {
        let Subscription { target, dial, token, channels, poll_wait } = subscription;
        let list = channels.join(",");
        match transport {
            Transport::WebSocket => {
                let by_query =
                    matches!(start, Start::FreshByQuery | Start::CursorByQuery(_) | Start::History(_));
                let path = if by_query {
                    format!("/v1/ws?channels={list}{}", start.query())
                } else {
                    "/v1/ws".into()
                };
                let mut socket = WebSocket::open(target, *dial, &path, token).await?;
                if !by_query {
                    join_all(&mut socket, channels, start).await?;
                }
                Ok(Self::WebSocket(Box::new(socket)))
            }
            Transport::Sse => {
                let path = format!("/v1/sse?channels={list}{}", start.query());
                let mut request = Request::get(path).bearer(token);
                if let Start::CursorByHeader(cursor) = start {
                    request = request.header("last-event-id", cursor.as_str());
                }
                Ok(Self::Sse(Box::new(EventStream::open(target, *dial, &request).await?)))
            }
            Transport::Poll => Ok(Self::Poll(Box::new(Polls {
                connection: Connection::dial(target, *dial).await?,
                token: token.clone(),
                path: format!("/v1/poll?channels={list}&wait={poll_wait}"),
                start: Some(start.query()),
                cursor: String::new(),
            }))),
        }
    }

    /// Puts what comes next behind `envelopes` and returns the cursor behind all of it, where the transport tells one.
    ///
    /// # Errors
    /// [`WireError`]; the end of the stream is one too.
    ///
    /// # Cancel safety
    /// On a WebSocket and an event stream nothing is lost. A poll that is cancelled is over: drop the feed.
    pub async fn next(&mut self, envelopes: &mut VecDeque<Bytes>) -> Result<Option<String>, WireError> {
        match self {
            Self::WebSocket(socket) => {
                envelopes.push_back(socket.text().await?);
                Ok(None)
            }
            Self::Sse(events) => loop {
                match events.next().await? {
                    None => return Err(WireError::Ended("at the end of an event stream")),
                    Some(ServerSent::Event { event: Some(event), .. }) => {
                        return Err(WireError::Protocol(format!("an event field: {event}")));
                    }
                    Some(ServerSent::Event { id, data, .. }) => {
                        envelopes.push_back(data.into());
                        return Ok(id);
                    }
                    Some(ServerSent::Retry(_) | ServerSent::Comment(_)) => {}
                }
            },
            Self::Poll(polls) => polls.next(envelopes).await.map(Some),
        }
    }

    /// When an event stream wants to be asked again once it has ended, in milliseconds.
    pub fn retry_ms(&self) -> Option<u64> {
        match self {
            Self::Sse(events) => events.retry_ms(),
            Self::WebSocket(_) | Self::Poll(_) => None,
        }
    }

    /// Ends it without a goodbye: with a reset, or by dropping the socket.
    pub fn cut(self, reset: bool) {
        let stream = match self {
            Self::WebSocket(socket) => socket.into_stream(),
            Self::Sse(events) => events.into_connection().into_stream(),
            Self::Poll(polls) => polls.connection.into_stream(),
        };
        if reset {
            stream.reset();
        }
    }
}

impl Polls {
    async fn next(&mut self, envelopes: &mut VecDeque<Bytes>) -> Result<String, WireError> {
        let path = match self.start.take() {
            Some(start) => format!("{}{start}", self.path),
            None => format!("{}&cursor={}", self.path, self.cursor),
        };
        let response = self.connection.exchange(&Request::get(path).bearer(&self.token)).await?;
        response.expect_status(200)?;
        let body: PollBody<'_> = serde_json::from_slice(&response.body)
            .map_err(|error| WireError::Protocol(format!("a poll's body: {error}")))?;
        envelopes
            .extend(body.messages.iter().map(|envelope| Bytes::copy_from_slice(envelope.get().as_bytes())));
        self.cursor.clone_from(&body.cursor);
        Ok(body.cursor)
    }
}

async fn join_all(socket: &mut WebSocket, channels: &[String], start: &Start) -> Result<(), WireError> {
    for (index, channel) in channels.iter().enumerate() {
        let start = match start {
            Start::Recover(positions) => {
                let Position { epoch, seq } = &positions[index];
                json!({"recover": {"epoch": epoch, "seq": seq}})
            }
            Start::CursorByJoin(cursor) | Start::CursorByHeader(cursor) => json!({"cursor": cursor}),
            _ => json!({}),
        };
        socket.send(&envelope::join(channel, start)).await?;
    }
    Ok(())
}
