//! Requests that no client library would write, judged by what comes back. Behind each a harmless request is written
//! that ends the connection, so the whole answer is a sequence of statuses: it shows where the server thinks that one
//! request ends and the next begins, and that it went no further where it should not.

use std::fmt::Write as _;
use std::sync::LazyLock;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::time::{Instant, timeout_at};

use crate::wire::{Connection, Response, Target, WireError};

/// What the checks post, and the only thing they ever let the server publish.
pub const BODY: &str = "12345";
/// How long the server may take for all answers of a connection.
const MOST: Duration = Duration::from_secs(10);

/// A request, and the sequences of statuses that are right for it. The last of a sequence is the harmless request's
/// own 200, unless the server must not have read it.
pub struct Shape {
    /// What is strange about it, and where that stands.
    pub name: String,
    /// As it goes over the wire.
    pub bytes: Vec<u8>,
    /// Any of them.
    pub right: &'static [&'static [u16]],
}

/// What came back until the connection ended.
#[derive(Debug)]
pub struct Answers {
    /// Whole responses, interim ones included.
    pub responses: Vec<Response>,
    /// Whether the server ended the connection, in time.
    pub ended: bool,
}

impl Shape {
    /// A request that is written as it is.
    pub fn new(name: impl Into<String>, bytes: impl Into<Vec<u8>>, right: &'static [&'static [u16]]) -> Self {
        Self { name: name.into(), bytes: bytes.into(), right }
    }
}

impl Answers {
    /// Their statuses.
    pub fn statuses(&self) -> Vec<u16> {
        self.responses.iter().map(|response| response.head.status).collect()
    }
}

/// Where the checks of this process post, guests among them, and where nobody ever joins.
pub fn channel() -> &'static str {
    static CHANNEL: LazyLock<String> = LazyLock::new(own_channel);
    &CHANNEL
}

/// A new channel that guests may join and send to, so that a request is nothing but what its check is about.
pub fn own_channel() -> String {
    format!("open:{:x}", rand::random::<u64>())
}

/// A publish with these header lines, each with its line end, and this body, in whatever framing.
pub fn post(headers: &str, body: &str) -> String {
    format!("POST /v1/channels/{}/messages HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n{body}", channel())
}

/// A question with these header lines, each with its line end.
pub fn get(headers: &str) -> String {
    format!("GET /v1/channels/{}/presence HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n", channel())
}

/// The harmless request.
pub fn last() -> String {
    get("connection: close\r\n")
}

/// Writes the bytes to a connection of their own and reads until the server ends it, or until it is overdue.
///
/// # Errors
/// [`WireError`] when the answers are no HTTP/1.1.
pub async fn say(target: &Target, bytes: &[u8]) -> Result<Answers, WireError> {
    say_within(target, bytes, MOST).await
}

/// [`say`], waiting no longer than told.
///
/// # Errors
/// [`WireError`] when the answers are no HTTP/1.1.
pub async fn say_within(target: &Target, bytes: &[u8], most: Duration) -> Result<Answers, WireError> {
    let mut connection = Connection::open(target).await?;
    // The server may have had enough before it has it all; its answer says so.
    let _ = connection.stream().write_all(bytes).await;
    let _ = connection.stream().flush().await;
    let end = Instant::now() + most;
    let mut responses = Vec::new();
    loop {
        match timeout_at(end, connection.response()).await {
            Err(_) => return Ok(Answers { responses, ended: false }),
            Ok(Ok(response)) => responses.push(response),
            Ok(Err(WireError::Ended(_) | WireError::Io(_))) if connection.has_read_all() => {
                return Ok(Answers { responses, ended: true });
            }
            Ok(Err(error)) => return Err(error),
        }
    }
}

/// Says each of the shapes; a report of those that were answered wrongly.
pub async fn judge(target: &Target, shapes: &[Shape]) -> String {
    let mut report = String::new();
    for shape in shapes {
        let bytes = [&shape.bytes[..], last().as_bytes()].concat();
        let complaint = match say(target, &bytes).await {
            Err(error) => Some(error.to_string()),
            Ok(answers) if !answers.ended => {
                Some(format!("{:?}, and the connection is still there", answers.statuses()))
            }
            Ok(answers) => {
                let statuses = answers.statuses();
                let is_right = shape.right.iter().any(|right| **right == statuses);
                (!is_right).then(|| format!("{statuses:?} instead of {:?}", shape.right))
            }
        };
        if let Some(complaint) = complaint {
            writeln!(report, "  {}: {complaint}", shape.name).expect("a String takes all");
        }
    }
    report
}

/// What has been published that no check has meant to: some request was read otherwise than it was written.
///
/// # Errors
/// [`WireError`] when the history cannot be had.
pub async fn smuggled(target: &Target) -> Result<Vec<String>, WireError> {
    let bytes = format!(
        "GET /v1/channels/{}/messages?limit=1000 HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
        channel()
    );
    let answers = say(target, bytes.as_bytes()).await?;
    let page = answers.responses.first().ok_or(WireError::Ended("before its answer"))?.json()?;
    let messages = page["messages"].as_array().ok_or_else(|| WireError::Protocol(page.to_string()))?;
    let data = messages.iter().map(|message| message["payload"]["data"].to_string());
    Ok(data.filter(|data| data != BODY).collect())
}
