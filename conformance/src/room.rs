//! An edge with channels of its own, somebody who publishes to them, and the words to ask for them: where the checks of
//! one transport start. It only sets the stage; what must be true stands in the checks.

use std::time::Duration;

use serde_json::value::RawValue;
use tokio::io::AsyncWriteExt as _;
use tokio::time::{Instant, sleep};

use crate::edge::{Edge, EdgeError, Settings};
use crate::envelope::Ack;
use crate::feed::Subscription;
use crate::traffic;
use crate::wire::{Connection, Dial, Request, Response, WireError};

/// How long the server may take to notice what it must notice.
const PATIENCE: Duration = Duration::from_secs(5);

/// An edge and some channels.
pub struct Room {
    /// The server.
    pub edge: Edge,
    /// The channels, by names that nobody else has.
    pub channels: Vec<String>,
    /// The token of whoever reads.
    pub token: String,
    publisher: Connection,
}

impl Room {
    /// Takes the named edge or starts one ([`Edge::named_or_started`]), and opens a connection to publish through.
    ///
    /// # Errors
    /// Those of the start and of the socket.
    pub async fn open(settings: &Settings, channels: usize) -> Result<Self, EdgeError> {
        Self::on(Edge::named_or_started(settings).await?, channels).await
    }

    /// The same on an edge where nobody else is ([`Edge::start`]).
    ///
    /// # Errors
    /// Those of the start and of the socket.
    pub async fn alone(settings: &Settings, channels: usize) -> Result<Self, EdgeError> {
        Self::on(Edge::start(settings).await?, channels).await
    }

    async fn on(edge: Edge, channels: usize) -> Result<Self, EdgeError> {
        let run: u32 = rand::random();
        let channels = (0..channels).map(|n| format!("room:{run:x}.{n}")).collect();
        let publisher = Connection::open(&edge.target).await;
        let publisher = publisher.map_err(|error| std::io::Error::other(error.to_string()))?;
        let token = edge.target.tokens.user("reader");
        Ok(Self { edge, channels, token, publisher })
    }

    /// All channels, as a query names them.
    pub fn list(&self) -> String {
        self.channels.join(",")
    }

    /// A request to `/v1/sse` or the like for all channels, with `more` in its query and the reader's token.
    pub fn subscribe(&self, path: &str, more: &str) -> Request {
        self.get(&format!("{path}?channels={}{more}", self.list()))
    }

    /// The reader, on all channels.
    pub fn reader(&self) -> Subscription {
        Subscription {
            target: self.edge.target.clone(),
            dial: Dial::default(),
            token: self.token.clone(),
            channels: self.channels.clone(),
            poll_wait: 5,
        }
    }

    /// A request with the reader's token.
    pub fn get(&self, path: &str) -> Request {
        Request::get(path).bearer(&self.token)
    }

    /// Publishes JSON, byte for byte as it is given, as the backend `publisher`.
    ///
    /// # Errors
    /// [`WireError`]; any status but 201 is [`WireError::Refused`].
    pub async fn publish(&mut self, channel: usize, json: &str) -> Result<Ack, WireError> {
        let token = self.edge.target.tokens.server("publisher");
        let head = format!(
            "POST /v1/channels/{}/messages HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {token}\r\n\
             content-length: {}\r\n\r\n",
            self.channels[channel],
            self.edge.target.authority(),
            json.len()
        );
        let stream = self.publisher.stream();
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(json.as_bytes()).await?;
        let response = self.publisher.response().await?;
        response.expect_status(201)?;
        serde_json::from_slice(&response.body)
            .map_err(|error| WireError::Protocol(format!("an ack with {error}")))
    }

    /// Sends one client's envelope over HTTP as that user.
    ///
    /// # Errors
    /// [`WireError`]; any status but 200 is [`WireError::Refused`].
    pub async fn send(&mut self, user: &str, envelope: &serde_json::Value) -> Result<Response, WireError> {
        let request = Request::post("/v1/send", envelope).bearer(&self.edge.target.tokens.user(user));
        let response = self.publisher.exchange(&request).await?;
        response.expect_status(200)?;
        Ok(response)
    }

    /// The value of a metric, named with its labels as the page writes it.
    ///
    /// # Errors
    /// [`WireError`], also when there is no such metric.
    ///
    /// # Panics
    /// If it is a named edge without `EDGE_ADMIN`; one that was started has an admin listener.
    pub async fn metric(&self, name: &str) -> Result<f64, WireError> {
        let admin = self.edge.admin.as_ref().expect("a started edge has an admin listener");
        let page = Connection::open(admin).await?.exchange(&Request::get("/metrics")).await?;
        page.expect_status(200)?;
        let text = String::from_utf8_lossy(&page.body);
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
        value.ok_or_else(|| WireError::Protocol(format!("no metric {name}")))
    }

    /// Waits until a metric has that value.
    ///
    /// # Errors
    /// [`WireError::Protocol`] with the value that it has instead after five seconds.
    pub async fn metric_becomes(&self, name: &str, wanted: f64) -> Result<(), WireError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let value = self.metric(name).await?;
            if (value - wanted).abs() < 0.5 {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(WireError::Protocol(format!("{name} is {value}, not {wanted}")));
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Type and payload of an envelope, in the bytes they have: what must be the same for two subscribers who are told the
/// same, each in an envelope of its own.
///
/// # Errors
/// [`WireError::Protocol`] when it's no envelope.
pub fn told(envelope: &str) -> Result<(String, String), WireError> {
    #[derive(serde::Deserialize)]
    struct Wire<'a> {
        #[serde(rename = "type")]
        kind: String,
        #[serde(borrow)]
        payload: &'a RawValue,
    }
    let wire: Wire<'_> = serde_json::from_str(envelope)
        .map_err(|error| WireError::Protocol(format!("an envelope with {error}: {envelope}")))?;
    traffic::said(&wire.kind, envelope.as_bytes());
    Ok((wire.kind, wire.payload.get().to_owned()))
}
