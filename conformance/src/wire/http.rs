//! HTTP/1.1 as a client writes and reads it (RFC 9112), one request after the other on one connection. Strict: what
//! the grammar does not allow is the server's fault. Never redirects, retries or decodes a content coding.

use bytes::{Buf as _, Bytes, BytesMut};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{Dial, Stream, Target, WireError};

/// Longest head that is read, in bytes.
const HEAD_MAX: usize = 64 * 1024;
/// Longest body that is collected, in bytes; a stream is read piece by piece and has no end.
const BODY_MAX: usize = 64 * 1024 * 1024;

/// A request to be written.
#[derive(Clone, Debug)]
pub struct Request {
    method: &'static str,
    path: String,
    headers: Vec<(&'static str, String)>,
    body: Option<Vec<u8>>,
}

/// The first part of a response.
#[derive(Clone, Debug)]
pub struct Head {
    /// The status.
    pub status: u16,
    /// The headers, names in lower case.
    pub headers: Vec<(String, String)>,
}

/// Where a body ends (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// After so many bytes more.
    Length(u64),
    /// In chunks; so many bytes of the present one are missing, its line end included.
    Chunked(u64),
    /// With the connection.
    UntilClose,
    /// It has ended.
    Done,
}

/// A whole response.
#[derive(Clone, Debug)]
pub struct Response {
    /// Status and headers.
    pub head: Head,
    /// The body.
    pub body: Bytes,
}

/// One connection.
pub struct Connection {
    pub(super) stream: Stream,
    pub(super) input: BytesMut,
    authority: String,
}

impl Request {
    /// A request without a body.
    pub fn get(path: impl Into<String>) -> Self {
        Self { method: "GET", path: path.into(), headers: Vec::new(), body: None }
    }

    /// A request with a JSON body.
    pub fn post(path: impl Into<String>, body: &Value) -> Self {
        let body = Some(body.to_string().into_bytes());
        Self { method: "POST", path: path.into(), headers: Vec::new(), body }
            .header("content-type", "application/json")
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Shows a token.
    #[must_use]
    pub fn bearer(self, token: &str) -> Self {
        self.header("authorization", format!("Bearer {token}"))
    }

    /// As it goes over the wire.
    pub fn to_bytes(&self, authority: &str) -> Vec<u8> {
        let mut text = format!("{} {} HTTP/1.1\r\nhost: {authority}\r\n", self.method, self.path);
        for (name, value) in &self.headers {
            text.extend([*name, ": ", value, "\r\n"]);
        }
        if let Some(body) = &self.body {
            text.extend(["content-length: ", &body.len().to_string(), "\r\n"]);
        }
        text.push_str("\r\n");
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(self.body.as_deref().unwrap_or_default());
        bytes
    }
}

impl Head {
    /// The value of the first header of that name, given in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    fn framing(&self) -> Result<Framing, WireError> {
        if self.status < 200 || matches!(self.status, 204 | 304) {
            return Ok(Framing::Done);
        }
        match (self.header("transfer-encoding"), self.header("content-length")) {
            // RFC 9112 §6.2: a sender must not send both.
            (Some(_), Some(_)) => Err(WireError::protocol("both Transfer-Encoding and Content-Length")),
            (Some("chunked"), None) => Ok(Framing::Chunked(0)),
            (Some(other), None) => Err(WireError::protocol(format!("Transfer-Encoding: {other}"))),
            (None, Some(length)) => match length.parse() {
                Ok(0) => Ok(Framing::Done),
                Ok(length) => Ok(Framing::Length(length)),
                Err(_) => Err(WireError::protocol(format!("Content-Length: {length}"))),
            },
            (None, None) => Ok(Framing::UntilClose),
        }
    }
}

impl Response {
    /// The body as JSON.
    ///
    /// # Errors
    /// [`WireError::Protocol`] if it is none.
    pub fn json(&self) -> Result<Value, WireError> {
        serde_json::from_slice(&self.body)
            .map_err(|error| WireError::protocol(format!("a body that is no JSON: {error}")))
    }

    /// Goes on only with that status.
    ///
    /// # Errors
    /// [`WireError::Refused`] with any other.
    pub fn expect_status(&self, status: u16) -> Result<(), WireError> {
        if self.head.status == status {
            return Ok(());
        }
        let body = String::from_utf8_lossy(&self.body).chars().take(300).collect();
        Err(WireError::Refused { status: self.head.status, body })
    }
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// Those of the socket and of TLS.
    pub async fn open(target: &Target) -> Result<Self, WireError> {
        Self::dial(target, Dial::default()).await
    }

    /// Connects in a particular way.
    ///
    /// # Errors
    /// Those of the socket and of TLS.
    pub async fn dial(target: &Target, dial: Dial) -> Result<Self, WireError> {
        let stream = target.connect(dial).await?;
        Ok(Self { stream, input: BytesMut::new(), authority: target.authority() })
    }

    /// The bytes below.
    pub fn stream(&mut self) -> &mut Stream {
        &mut self.stream
    }

    /// Whether everything that has come was made use of.
    pub fn has_read_all(&self) -> bool {
        self.input.is_empty()
    }

    /// Gives the bytes below away; what was read and not used is lost, as in a cut.
    pub fn into_stream(self) -> Stream {
        self.stream
    }

    /// Gives the bytes below away, with those that were read already.
    pub fn into_parts(self) -> (Stream, BytesMut) {
        (self.stream, self.input)
    }

    /// Writes a request.
    ///
    /// # Errors
    /// Those of the socket.
    pub async fn send(&mut self, request: &Request) -> Result<(), WireError> {
        let bytes = request.to_bytes(&self.authority);
        self.stream.write_all(&bytes).await?;
        self.stream.flush().await?;
        Ok(())
    }

    /// Writes a request and reads its whole response.
    ///
    /// # Errors
    /// [`WireError`], whatever the status is not.
    pub async fn exchange(&mut self, request: &Request) -> Result<Response, WireError> {
        self.send(request).await?;
        self.response().await
    }

    /// Reads a whole response.
    ///
    /// # Errors
    /// [`WireError`], whatever the status is not.
    pub async fn response(&mut self) -> Result<Response, WireError> {
        let (head, mut framing) = self.head().await?;
        let mut body = BytesMut::new();
        while let Some(piece) = self.piece(&mut framing).await? {
            body.extend_from_slice(&piece);
            if body.len() > BODY_MAX {
                return Err(WireError::protocol("a body without measure"));
            }
        }
        Ok(Response { head, body: body.freeze() })
    }

    /// Reads the head of a response.
    ///
    /// # Errors
    /// [`WireError`].
    ///
    /// # Cancel safety
    /// Nothing is lost: what was read stays in the buffer.
    pub async fn head(&mut self) -> Result<(Head, Framing), WireError> {
        loop {
            if let Some(end) = find(&self.input, b"\r\n\r\n") {
                let text = self.input.split_to(end + 4);
                let head = parse_head(&text[..end])?;
                let framing = head.framing()?;
                return Ok((head, framing));
            }
            if self.input.len() > HEAD_MAX {
                return Err(WireError::protocol("a head without end"));
            }
            self.fill("inside a response's head").await?;
        }
    }

    /// Reads the next piece of a body; `None` at its end.
    ///
    /// # Errors
    /// [`WireError`].
    ///
    /// # Cancel safety
    /// Nothing is lost: what was read stays in the buffer.
    pub async fn piece(&mut self, framing: &mut Framing) -> Result<Option<Bytes>, WireError> {
        loop {
            if *framing == Framing::Done {
                return Ok(None);
            }
            if let Some(piece) = self.take_piece(framing)? {
                return Ok(Some(piece));
            }
            if *framing == Framing::Done {
                continue;
            }
            if *framing == Framing::UntilClose {
                self.input.reserve(8192);
                if self.stream.read_buf(&mut self.input).await? == 0 {
                    *framing = Framing::Done;
                }
                continue;
            }
            self.fill("inside a body").await?;
        }
    }

    fn take_piece(&mut self, framing: &mut Framing) -> Result<Option<Bytes>, WireError> {
        match *framing {
            Framing::Done => Ok(None),
            Framing::UntilClose => Ok((!self.input.is_empty()).then(|| self.input.split().freeze())),
            Framing::Length(missing) => {
                let here = self.input.len().min(usize::try_from(missing).unwrap_or(usize::MAX));
                let left = missing - here as u64;
                *framing = if left == 0 { Framing::Done } else { Framing::Length(left) };
                Ok((here > 0).then(|| self.input.split_to(here).freeze()))
            }
            Framing::Chunked(_) => self.take_chunk(framing),
        }
    }

    /// RFC 9112 §7.1. The two bytes of a chunk's line end count as missing with it.
    fn take_chunk(&mut self, framing: &mut Framing) -> Result<Option<Bytes>, WireError> {
        let Framing::Chunked(missing) = framing else { return Ok(None) };
        if *missing == 0 {
            let Some(end) = find(&self.input, b"\r\n") else { return Ok(None) };
            let size = chunk_size(&self.input[..end])?;
            if size == 0 {
                // The trailers' end; this server has no use for trailers.
                if self.input.len() < end + 4 {
                    return Ok(None);
                }
                if &self.input[end + 2..end + 4] != b"\r\n" {
                    return Err(WireError::protocol("trailers, or no line end after the last chunk"));
                }
                self.input.advance(end + 4);
                *framing = Framing::Done;
                return Ok(None);
            }
            self.input.advance(end + 2);
            *missing = size + 2;
        }
        if *missing > 2 {
            let here = self.input.len().min(usize::try_from(*missing - 2).unwrap_or(usize::MAX));
            *missing -= here as u64;
            if here > 0 {
                return Ok(Some(self.input.split_to(here).freeze()));
            }
        } else if self.input.len() >= 2 {
            if &self.input[..2] != b"\r\n" {
                return Err(WireError::protocol("no line end after a chunk"));
            }
            self.input.advance(2);
            *missing = 0;
            return self.take_chunk(framing);
        }
        Ok(None)
    }

    /// Reads more. Cancel safe, as `read_buf` is.
    pub(super) async fn fill(&mut self, place: &'static str) -> Result<(), WireError> {
        self.input.reserve(8192);
        match self.stream.read_buf(&mut self.input).await? {
            0 => Err(WireError::Ended(place)),
            _ => Ok(()),
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

fn chunk_size(line: &[u8]) -> Result<u64, WireError> {
    let text = std::str::from_utf8(line).unwrap_or_default();
    let digits = text.split(';').next().unwrap_or_default();
    u64::from_str_radix(digits, 16).map_err(|_| WireError::protocol(format!("a chunk of size {text:?}")))
}

fn parse_head(bytes: &[u8]) -> Result<Head, WireError> {
    let bad = |what: &str| WireError::protocol(format!("{what}: {:?}", String::from_utf8_lossy(bytes)));
    let text = std::str::from_utf8(bytes).map_err(|_| bad("a head that is no UTF-8"))?;
    let mut lines = text.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 "));
    let status = status.and_then(|rest| rest.split(' ').next()).filter(|digits| digits.len() == 3);
    let status = status.and_then(|digits| digits.parse().ok()).ok_or_else(|| bad("no status line"))?;
    let headers = lines.map(|line| {
        let (name, value) = line.split_once(':').ok_or_else(|| bad("a line that is no header"))?;
        // RFC 9112 §5.1: no whitespace between name and colon.
        if name.is_empty() || name.contains([' ', '\t']) {
            return Err(bad("a header's name"));
        }
        Ok((name.to_ascii_lowercase(), value.trim_matches([' ', '\t']).to_owned()))
    });
    Ok(Head { status, headers: headers.collect::<Result<_, _>>()? })
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn fed(bytes: &'static [u8]) -> Connection {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        server.write_all(bytes).await.unwrap();
        Connection { stream: Stream::Plain(client), input: BytesMut::new(), authority: String::new() }
    }

    #[tokio::test]
    async fn bodies_end_where_they_say() {
        let length = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 204 No Content\r\n\r\n";
        let mut connection = fed(length).await;
        assert_eq!(&connection.response().await.unwrap().body[..], b"abc");
        assert_eq!(connection.response().await.unwrap().head.status, 204);

        let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\nrest";
        let mut connection = fed(chunked).await;
        assert_eq!(&connection.response().await.unwrap().body[..], b"abc0123456789");
        assert_eq!(&connection.input[..], b"rest");

        let mut connection = fed(b"HTTP/1.1 200 OK\r\n\r\nabc").await;
        assert_eq!(&connection.response().await.unwrap().body[..], b"abc");
    }

    #[tokio::test]
    async fn what_the_grammar_forbids_is_said() {
        for bad in [
            &b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 1\r\n\r\n0\r\n\r\n"[..],
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nx\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nabc\r\n",
            b"HTTP/1.0 200 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nx : y\r\n\r\n",
        ] {
            let answer = fed(bad).await.response().await;
            assert!(matches!(answer, Err(WireError::Protocol(_))), "{answer:?}");
        }
        let cut = fed(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabc").await.response().await;
        assert!(matches!(cut, Err(WireError::Ended(_))), "{cut:?}");
    }
}
