//! One event stream of an edge with every byte of its body kept: what was written stands beside what a client makes of
//! it. For checks of the bytes themselves; whoever wants only envelopes takes [`super::EventStream`].

use std::collections::VecDeque;

use tokio::io::AsyncReadExt as _;

use super::event_source::{self, Dispatched, EventSource, Line};
use super::{Connection, Dial, Framing, Head, Request, Target, WireError};

/// An open stream, or the answer that came instead of one.
pub struct RawEvents {
    /// Status and headers of the response.
    pub head: Head,
    /// The body so far, its chunks joined.
    pub body: Vec<u8>,
    /// What a client knows by now.
    pub source: EventSource,
    connection: Connection,
    framing: Framing,
    dispatched: VecDeque<Dispatched>,
}

/// What this protocol writes between two blank lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written<'a> {
    /// When to come again, in milliseconds.
    Retry(u64),
    /// Somebody is there.
    Comment,
    /// An envelope.
    Envelope {
        /// The cursor behind it, if it moves the cursor.
        id: Option<&'a str>,
        /// Its bytes.
        json: &'a str,
    },
}

impl RawEvents {
    /// Asks for a stream on a connection of its own, with `Accept: text/event-stream`. Any answer will do.
    ///
    /// # Errors
    /// [`WireError`].
    pub async fn open(target: &Target, request: &Request) -> Result<Self, WireError> {
        Self::reopen(target, request, EventSource::default()).await
    }

    /// The same as a client would that has been here before: behind its last event id.
    ///
    /// # Errors
    /// [`WireError`].
    pub async fn reopen(
        target: &Target,
        request: &Request,
        mut source: EventSource,
    ) -> Result<Self, WireError> {
        source.reconnect();
        let mut request = request.clone().header("accept", "text/event-stream");
        if !source.last_event_id().is_empty() {
            request = request.header("last-event-id", source.last_event_id());
        }
        let mut connection = Connection::dial(target, Dial::default()).await?;
        connection.send(&request).await?;
        Self::of(connection, source).await
    }

    /// The stream that answers what was written to that connection.
    ///
    /// # Errors
    /// [`WireError`].
    pub async fn of(mut connection: Connection, source: EventSource) -> Result<Self, WireError> {
        let (head, framing) = connection.head().await?;
        Ok(Self { head, body: Vec::new(), source, connection, framing, dispatched: VecDeque::new() })
    }

    /// The next event with data; `None` at the proper end of the body.
    ///
    /// # Errors
    /// [`WireError`].
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn next(&mut self) -> Result<Option<Dispatched>, WireError> {
        loop {
            if let Some(event) = self.dispatched.pop_front() {
                return Ok(Some(event));
            }
            if !self.more().await? {
                return Ok(None);
            }
        }
    }

    /// Reads on, whatever it is; `false` at the proper end of the body.
    ///
    /// # Errors
    /// [`WireError`].
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn more(&mut self) -> Result<bool, WireError> {
        let Some(piece) = self.connection.piece(&mut self.framing).await? else { return Ok(false) };
        self.body.extend_from_slice(&piece);
        self.dispatched.extend(self.source.feed(&piece));
        Ok(true)
    }

    /// Reads to the proper end of the body.
    ///
    /// # Errors
    /// [`WireError`].
    pub async fn read_to_end(&mut self) -> Result<(), WireError> {
        while self.more().await? {}
        Ok(())
    }

    /// What the server sends behind the end of the body, until it closes the connection.
    ///
    /// # Errors
    /// Those of the socket.
    pub async fn after_end(&mut self) -> Result<Vec<u8>, WireError> {
        let mut rest = self.connection.input.split().to_vec();
        self.connection.stream.read_to_end(&mut rest).await?;
        Ok(rest)
    }
}

/// Takes the body of a stream apart as strictly as this protocol writes it: no byte order mark, LF alone, whole events
/// only, each of them one of [`Written`].
///
/// # Errors
/// [`WireError::Protocol`] with the first event that is none of these.
pub fn written(body: &[u8]) -> Result<Vec<Written<'_>>, WireError> {
    let stream = event_source::parse(body)
        .map_err(|error| WireError::protocol(format!("an event stream: {error}")))?;
    if stream.bom {
        return Err(WireError::protocol("a byte order mark"));
    }
    if stream.line_ends.cr + stream.line_ends.crlf > 0 {
        return Err(WireError::protocol(format!("line ends: {:?}", stream.line_ends)));
    }
    if !stream.unfinished.is_empty() {
        let rest = String::from_utf8_lossy(stream.unfinished);
        return Err(WireError::protocol(format!("an event without its blank line: {rest:?}")));
    }
    stream.events.iter().map(|event| one(event)).collect()
}

fn one<'a>(event: &[Line<'a>]) -> Result<Written<'a>, WireError> {
    let bad = |what: &str| Err(WireError::protocol(format!("{what}: {event:?}")));
    let (id, json) = match *event {
        [Line::Comment(_)] => return Ok(Written::Comment),
        [Line::Field { name: "retry", value }] => match value.parse() {
            Ok(ms) if value.bytes().all(|byte| byte.is_ascii_digit()) => return Ok(Written::Retry(ms)),
            _ => return bad("a retry"),
        },
        [Line::Field { name: "data", value }] => (None, value),
        [Line::Field { name: "id", value: id }, Line::Field { name: "data", value }] => (Some(id), value),
        _ => return bad("an event of another form"),
    };
    // RFC 3986 §2.3: what goes into URLs and headers as it is.
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    if id.is_some_and(|id| id.is_empty() || !id.bytes().all(safe)) {
        return bad("an id that is no cursor");
    }
    match serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(json) {
        Ok(_) => Ok(Written::Envelope { id, json }),
        Err(_) => bad("data that is no envelope"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_four_forms_and_no_others() {
        let all = written(b"retry: 5\n\ndata: {}\n\nid: a-_1\ndata: {\"a\":\"\\n\"}\n\n:\n\n").unwrap();
        let json = "{\"a\":\"\\n\"}";
        let wanted = [
            Written::Retry(5),
            Written::Envelope { id: None, json: "{}" },
            Written::Envelope { id: Some("a-_1"), json },
            Written::Comment,
        ];
        assert_eq!(all, wanted);
        for bad in [
            "\u{feff}:\n\n",
            ":\r\n\r\n",
            ":\n",
            ":\n\n\n",
            "retry: +5\n\n",
            "event: message\ndata: {}\n\n",
            "data: {}\ndata: {}\n\n",
            "data: {}\nid: a\n\n",
            "id: a\n\n",
            "id: \ndata: {}\n\n",
            "id: a b\ndata: {}\n\n",
            "data: []\n\n",
            "data: {\n\n",
            ": x\ndata: {}\n\n",
        ] {
            assert!(written(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
