//! An event stream as a browser parses it (WHATWG HTML §9.2.6), comments and `retry` shown as well. An event counts
//! as received once its blank line is there; what a cut leaves unfinished never was.

use bytes::{Buf as _, BytesMut};

use super::{Connection, Dial, Framing, Head, Request, Target, WireError};

/// What a server says on an event stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerSent {
    /// An event with data.
    Event {
        /// Its `id`, if it has one of its own.
        id: Option<String>,
        /// Its `event` field; none in this protocol.
        event: Option<String>,
        /// Its data.
        data: String,
    },
    /// When to come again, in milliseconds.
    Retry(u64),
    /// A comment: somebody is there.
    Comment(String),
}

/// An open event stream.
pub struct EventStream {
    /// Status and headers of the response.
    pub head: Head,
    connection: Connection,
    framing: Framing,
    parser: Parser,
    retry_ms: Option<u64>,
}

#[derive(Default)]
struct Parser {
    text: BytesMut,
    id: Option<String>,
    event: Option<String>,
    data: Option<String>,
}

impl EventStream {
    /// Connects and asks for the stream.
    ///
    /// # Errors
    /// [`WireError`]; any status but 200 is [`WireError::Refused`].
    pub async fn open(target: &Target, dial: Dial, request: &Request) -> Result<Self, WireError> {
        let mut connection = Connection::dial(target, dial).await?;
        connection.send(&request.clone().header("accept", "text/event-stream")).await?;
        let (head, mut framing) = connection.head().await?;
        if head.status != 200 {
            let body = connection.piece(&mut framing).await?.unwrap_or_default();
            let body = String::from_utf8_lossy(&body).into_owned();
            return Err(WireError::Refused { status: head.status, body });
        }
        let kind = head.header("content-type").unwrap_or_default();
        if !kind.starts_with("text/event-stream") {
            return Err(WireError::protocol(format!("an event stream of type {kind:?}")));
        }
        Ok(Self { head, connection, framing, parser: Parser::default(), retry_ms: None })
    }

    /// The next thing the server says; `None` at the end of the stream.
    ///
    /// # Errors
    /// [`WireError`].
    ///
    /// # Cancel safety
    /// Nothing is lost: what was read stays in the buffers.
    pub async fn next(&mut self) -> Result<Option<ServerSent>, WireError> {
        loop {
            if let Some(said) = self.parser.next()? {
                if let ServerSent::Retry(ms) = said {
                    self.retry_ms = Some(ms);
                }
                return Ok(Some(said));
            }
            let Some(piece) = self.connection.piece(&mut self.framing).await? else { return Ok(None) };
            self.parser.text.extend_from_slice(&piece);
        }
    }

    /// When the server wants to be asked again once the stream has ended, in milliseconds: what it said last.
    pub fn retry_ms(&self) -> Option<u64> {
        self.retry_ms
    }

    /// Gives the bytes below away; what was read and not used is lost, as in a cut.
    pub fn into_connection(self) -> Connection {
        self.connection
    }
}

impl Parser {
    fn next(&mut self) -> Result<Option<ServerSent>, WireError> {
        while let Some(line) = self.line()? {
            if line.is_empty() {
                let (id, event) = (self.id.take(), self.event.take());
                if let Some(data) = self.data.take() {
                    return Ok(Some(ServerSent::Event { id, event, data }));
                }
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((&line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "" => return Ok(Some(ServerSent::Comment(value.to_owned()))),
                "data" => match &mut self.data {
                    Some(data) => data.extend(["\n", value]),
                    none => *none = Some(value.to_owned()),
                },
                "id" => self.id = Some(value.to_owned()),
                "event" => self.event = Some(value.to_owned()),
                "retry" => {
                    let wait = value.parse().map_err(|_| WireError::protocol(format!("retry: {value}")))?;
                    return Ok(Some(ServerSent::Retry(wait)));
                }
                other => return Err(WireError::protocol(format!("a field {other:?} in an event stream"))),
            }
        }
        Ok(None)
    }

    /// A line without its end, which is LF, CR LF or CR; a CR at the very end waits for what follows.
    fn line(&mut self) -> Result<Option<String>, WireError> {
        let Some(end) = self.text.iter().position(|byte| matches!(byte, b'\n' | b'\r')) else {
            return Ok(None);
        };
        let length = match (self.text[end], self.text.get(end + 1)) {
            (b'\r', None) => return Ok(None),
            (b'\r', Some(b'\n')) => 2,
            _ => 1,
        };
        let line = std::str::from_utf8(&self.text[..end])
            .map_err(|_| WireError::protocol("an event stream that is no UTF-8"))?
            .to_owned();
        self.text.advance(end + length);
        Ok(Some(line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pieces: &[&str]) -> Vec<ServerSent> {
        let mut parser = Parser::default();
        let mut said = Vec::new();
        for piece in pieces {
            parser.text.extend_from_slice(piece.as_bytes());
            while let Some(next) = parser.next().unwrap() {
                said.push(next);
            }
        }
        said
    }

    #[test]
    fn events_comments_and_retries_are_told_apart() {
        let event = |id: Option<&str>, data: &str| ServerSent::Event {
            id: id.map(str::to_owned),
            event: None,
            data: data.to_owned(),
        };
        let said = parse(&[
            "retry: 50\n",
            "\ndata: a\r\nid: 1",
            "\r",
            "\n\r\n: x\n\ndata:b\ndata\n\nid: 2\n\ndata: c",
        ]);
        let comment = ServerSent::Comment("x".to_owned());
        assert_eq!(said, [ServerSent::Retry(50), event(Some("1"), "a"), comment, event(None, "b\n")]);
    }

    #[test]
    fn an_unfinished_event_never_was() {
        assert_eq!(parse(&["data: a\nid: 7\n"]), []);
    }
}
