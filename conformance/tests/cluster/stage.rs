//! Two edges, a NATS, and the few words with which clients of the checks speak to them.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use conformance::edge::Settings;
use conformance::edges::Edges;
use conformance::envelope::{self, Ack, Said};
use conformance::feed::{Feed, Start, Subscription, Transport};
use conformance::nats::{Nats, Options};
use conformance::traffic;
use conformance::wire::{Connection, Dial, Request, Response, Target, WebSocket, WireError};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout, timeout_at};

/// How long anything may take that needs no failure to be noticed first.
pub(crate) const SOON: Duration = Duration::from_secs(5);
/// How long it may take until a failure is over for everybody.
pub(crate) const RECOVERY: Duration = Duration::from_secs(12);

/// NATS, and edges on it.
pub(crate) struct Two {
    pub(crate) nats: Nats,
    pub(crate) edges: Edges,
}

/// A message as two readers can compare it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Got {
    pub(crate) epoch: String,
    pub(crate) seq: u64,
    pub(crate) prev: u64,
    pub(crate) id: String,
    pub(crate) data: String,
}

/// Somebody on a WebSocket who hears everything.
pub(crate) struct Listener {
    pub(crate) socket: WebSocket,
    heard: VecDeque<Value>,
}

impl Two {
    pub(crate) async fn start() -> Self {
        let nats = Nats::start(&Options::default()).await.expect("NATS starts");
        let settings = Settings::open().set("channels.default.history_size", 5000);
        let edges = Edges::start(2, &[nats.addr()], &settings).await.expect("two edges start");
        Self { nats, edges }
    }

    pub(crate) fn target(&self, node: usize) -> &Target {
        &self.edges.nodes[node].target
    }

    pub(crate) fn nats_addr(&self) -> SocketAddr {
        self.nats.addr()
    }

    /// A reader of that channel at that node.
    pub(crate) fn reader(&self, node: usize, channel: &str) -> Subscription {
        let target = self.target(node).clone();
        Subscription {
            token: target.tokens.user("reader"),
            target,
            dial: Dial::default(),
            channels: vec![channel.to_owned()],
            poll_wait: 3,
        }
    }

    /// Publishes as a backend, under that id, and is acknowledged.
    pub(crate) async fn publish(&self, node: usize, channel: &str, id: &str, data: &Value) -> Ack {
        let response = self.post(node, channel, id, data).await.expect("an answer");
        response.expect_status(201).expect("it is taken");
        serde_json::from_slice(&response.body).expect("the payload of an acknowledgement")
    }

    /// The same, whatever the answer is.
    pub(crate) async fn post(
        &self,
        node: usize,
        channel: &str,
        id: &str,
        data: &Value,
    ) -> Result<Response, WireError> {
        let target = self.target(node);
        let request = Request::post(format!("/v1/channels/{channel}/messages"), data)
            .bearer(&target.tokens.server("backend"))
            .header("idempotency-key", id);
        Connection::open(target).await?.exchange(&request).await
    }

    pub(crate) async fn get(&self, node: usize, path: &str) -> Value {
        let target = self.target(node);
        let request = Request::get(path).bearer(&target.tokens.user("looks-on"));
        let answer = async { Connection::open(target).await?.exchange(&request).await };
        let response = answer.await.expect("an answer");
        response.expect_status(200).expect("a good one");
        response.json().expect("with JSON")
    }

    /// The whole history of a channel at that node.
    pub(crate) async fn history(&self, node: usize, channel: &str) -> Vec<Got> {
        let page = self.get(node, &format!("/v1/channels/{channel}/messages?limit=1000")).await;
        let envelopes = page["messages"].as_array().expect("an array of envelopes").iter();
        envelopes.map(|envelope| got(envelope.to_string().as_bytes()).expect("a message")).collect()
    }

    pub(crate) fn assert_no_panics(&self) {
        assert_eq!(self.edges.panics(), Vec::<String>::new());
    }
}

impl Listener {
    /// Joins a channel as that user; the second is the payload of `room_joined`.
    pub(crate) async fn join(target: &Target, user: &str, channel: &str, start: Value) -> (Self, Value) {
        let token = target.tokens.user(user);
        let socket = WebSocket::open(target, Dial::default(), "/v1/ws", &token).await.expect("a WebSocket");
        let mut listener = Self { socket, heard: VecDeque::new() };
        listener.socket.send(&envelope::join(channel, start)).await.expect("it is open");
        let joined = listener.hear("room_joined", SOON).await;
        (listener, joined["payload"].clone())
    }

    pub(crate) async fn say(&mut self, kind: &str, payload: &Value) {
        let text = json!({"type": kind, "payload": payload, "metadata": {"correlation_id": "c"}}).to_string();
        self.socket.send(&text).await.expect("it is open");
    }

    /// The next envelope of that type; others are kept for later.
    pub(crate) async fn hear(&mut self, kind: &str, within: Duration) -> Value {
        match self.hear_or_not(kind, within).await {
            Ok(envelope) => envelope,
            Err(error) => panic!("no {kind} within {within:?} ({error}); heard {:?}", self.heard),
        }
    }

    pub(crate) async fn hear_or_not(&mut self, kind: &str, within: Duration) -> Result<Value, WireError> {
        if let Some(index) = self.heard.iter().position(|envelope| envelope["type"] == kind) {
            return Ok(self.heard.remove(index).expect("it is there"));
        }
        let deadline = Instant::now() + within;
        loop {
            let text = timeout_at(deadline, self.socket.text()).await.map_err(|_| WireError::Timeout)??;
            let envelope: Value = serde_json::from_slice(&text).expect("an envelope is JSON");
            traffic::said(envelope["type"].as_str().unwrap_or_default(), &text);
            if envelope["type"] == kind {
                return Ok(envelope);
            }
            self.heard.push_back(envelope);
        }
    }

    /// So many messages, in the order in which they come; anything that says otherwise fails the check.
    pub(crate) async fn messages(&mut self, count: usize, within: Duration) -> Vec<Got> {
        let deadline = Instant::now() + within;
        let mut messages = Vec::new();
        while messages.len() < count {
            let left = deadline.saturating_duration_since(Instant::now());
            let envelope = self.hear("message", left).await;
            messages.push(got(envelope.to_string().as_bytes()).expect("a message"));
        }
        let told =
            self.heard.iter().find(|envelope| envelope["type"] == "gap" || envelope["type"] == "error");
        assert_eq!(told, None, "instead of nothing");
        messages
    }

    /// Nothing of that type comes for a while.
    pub(crate) async fn hears_no(&mut self, kind: &str, during: Duration) {
        if let Ok(envelope) = self.hear_or_not(kind, during).await {
            panic!("{envelope}");
        }
    }
}

/// So many messages of a subscription that begins so, with the cursor behind them, where the transport tells one.
pub(crate) async fn read(
    subscription: &Subscription,
    transport: Transport,
    start: &Start,
    count: usize,
) -> (Vec<Got>, bool, Option<String>) {
    let reading = async {
        let mut feed = Feed::open(subscription, transport, start).await.expect("a subscription");
        let (mut messages, mut recovered, mut cursor) = (Vec::new(), false, None);
        let mut envelopes = VecDeque::new();
        while messages.len() < count || cursor.is_none() {
            let here = feed.next(&mut envelopes).await.expect("something comes");
            while let Some(text) = envelopes.pop_front() {
                match envelope::read(&text).expect("an envelope") {
                    Said::Joined(joined) => {
                        recovered = joined.recovered;
                        cursor = Some(joined.cursor);
                    }
                    Said::Message(_) => messages.push(got(&text).expect("a message")),
                    Said::Gap(gap) => panic!("on {transport}, {start:?}: {gap:?}"),
                    Said::Error(error) => panic!("on {transport}, {start:?}: {error:?}"),
                    Said::Ack(_) | Said::Other(_) => {}
                }
            }
            // Where the transport tells one, it is that behind everything that has come.
            cursor = here.or(cursor);
        }
        feed.cut(true);
        (messages, recovered, cursor)
    };
    let read = timeout(SOON, reading).await;
    read.unwrap_or_else(|_| panic!("no {count} messages on {transport}, {start:?}"))
}

fn got(text: &[u8]) -> Option<Got> {
    let Said::Message(message) = envelope::read(text).ok()? else { return None };
    Some(Got {
        epoch: message.epoch.into_owned(),
        seq: message.seq,
        prev: message.prev,
        id: message.message_id.into_owned(),
        data: message.data.get().to_owned(),
    })
}
