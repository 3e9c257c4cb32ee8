//! One channel's publisher: a backend that sends its messages one after the other, each until it is acknowledged,
//! over a connection that it cuts itself now and then between a message and its acknowledgement. The message's id
//! makes sending it again harmless; that is checked as well.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::Violations;
use crate::envelope::{self, Ack, Said};
use crate::ledger::Entry;
use crate::traffic;
use crate::wire::{Connection, Dial, Request, Response, Target, WebSocket, WireError};

/// Of so many sends one is cut off before it is acknowledged.
const CUT_ONE_IN: u32 = 50;
/// How long an acknowledgement may take. On a machine that is busy otherwise all take their time.
const PATIENCE: Duration = Duration::from_secs(30);
/// So many times as long as planned a run may take.
const LATE: u32 = 3;
/// Attempts for one message before the publisher gives it up as a violation.
const ATTEMPTS: u32 = 20;

pub(super) struct Publisher {
    pub(super) channel: usize,
    pub(super) log: Vec<Entry>,
    pub(super) again: u64,
    pub(super) duplicates: u64,
    pub(super) violations: Violations,
    target: Target,
    name: String,
    token: String,
    rng: StdRng,
    line: Option<Line>,
}

/// The ways to publish.
enum Line {
    WebSocket(Box<WebSocket>),
    Send(Box<Connection>),
    Channel(Box<Connection>),
}

impl Publisher {
    pub(super) fn new(target: &Target, channel: usize, name: &str, seed: u64) -> Self {
        Self {
            channel,
            log: Vec::new(),
            again: 0,
            duplicates: 0,
            violations: Violations::default(),
            target: target.clone(),
            name: name.to_owned(),
            token: target.tokens.server(&format!("publisher-{channel}")),
            rng: StdRng::seed_from_u64(seed),
            line: None,
        }
    }

    /// Sends a message each `interval` for as long as `duration`; one that is late is made up for, not left out: where
    /// there is little CPU to be had, the run gets longer.
    pub(super) async fn run(mut self, begin: Instant, interval: Duration, duration: Duration) -> Self {
        for n in 1.. {
            let due = interval * u32::try_from(n).expect("fewer than 2^32 messages");
            if due >= duration || begin.elapsed() > duration * LATE {
                break;
            }
            let due = begin + due;
            sleep_until(due).await;
            match self.publish(n).await {
                Some(seq) => self.log.push(Entry { n, seq }),
                None => break,
            }
        }
        self
    }

    /// Sends until it is acknowledged.
    async fn publish(&mut self, n: u64) -> Option<u64> {
        for attempt in 0..ATTEMPTS {
            let cut = self.rng.random_ratio(1, CUT_ONE_IN);
            match timeout(PATIENCE, self.attempt(n, cut)).await {
                Ok(Ok(Some(ack))) => return self.check(attempt, &ack),
                // Cut by ourselves.
                Ok(Ok(None)) => {}
                Ok(Err(error)) => self.violations.add(format!("publish {n} to {}: {error}", self.name)),
                Err(_) => self.violations.add(format!("publish {n} to {}: no answer", self.name)),
            }
            self.line = None;
            self.again += 1;
            if attempt > 2 {
                sleep(Duration::from_millis(100)).await;
            }
        }
        self.violations.add(format!("publish {n} to {}: given up", self.name));
        None
    }

    fn check(&mut self, attempt: u32, ack: &Ack) -> Option<u64> {
        let seq = ack.position.seq;
        if ack.duplicate {
            self.duplicates += 1;
        }
        if ack.duplicate && attempt == 0 {
            self.violations.add(format!("{}: a first send acknowledged as duplicate ({ack:?})", self.name));
        }
        if ack.channel != self.name || self.log.last().is_some_and(|last| last.seq >= seq) {
            self.violations.add(format!("{}: a wrong acknowledgement {ack:?}", self.name));
            return None;
        }
        Some(seq)
    }

    async fn attempt(&mut self, n: u64, cut: bool) -> Result<Option<Ack>, WireError> {
        let id = message_id(&self.name, n);
        let data = json!({"n": n, "text": "the quick brown fox jumps over the lazy dog"});
        let line = match self.line.take() {
            Some(line) => line,
            None => self.dial(n).await?,
        };
        let mut line = line;
        match &mut line {
            Line::WebSocket(socket) => {
                socket.send(&envelope::message(&self.name, &id, &data).to_string()).await?;
            }
            Line::Send(http) => http.send(&self.send_request(&id, &data)).await?,
            Line::Channel(http) => http.send(&self.channel_request(&id, &data)).await?,
        }
        if cut {
            self.cut(line).await;
            return Ok(None);
        }
        let ack = match &mut line {
            Line::WebSocket(socket) => read_ack(socket).await?,
            Line::Send(http) => {
                let response = http.response().await?;
                traffic::exchanged(&self.send_request(&id, &data), &response);
                answer_of_send(&response)?
            }
            Line::Channel(http) => {
                let response = http.response().await?;
                traffic::exchanged(&self.channel_request(&id, &data), &response);
                response.expect_status(201)?;
                parse(response.json()?)?
            }
        };
        self.line = Some(line);
        Ok(Some(ack))
    }

    /// Each channel begins with another way and goes round with every new connection.
    async fn dial(&self, n: u64) -> Result<Line, WireError> {
        let way = self.channel as u64 + n;
        Ok(match way % 3 {
            0 => Line::WebSocket(Box::new(
                WebSocket::open(&self.target, Dial::default(), "/v1/ws", &self.token).await?,
            )),
            1 => Line::Send(Box::new(Connection::open(&self.target).await?)),
            _ => Line::Channel(Box::new(Connection::open(&self.target).await?)),
        })
    }

    fn send_request(&self, id: &str, data: &Value) -> Request {
        Request::post("/v1/send", &envelope::message(&self.name, id, data)).bearer(&self.token)
    }

    fn channel_request(&self, id: &str, data: &Value) -> Request {
        let path = format!("/v1/channels/{}/messages", self.name);
        Request::post(path, data).bearer(&self.token).header("idempotency-key", id)
    }

    /// At once, or when the server has most probably taken it; with a reset or without.
    async fn cut(&mut self, line: Line) {
        if self.rng.random_bool(0.5) {
            sleep(Duration::from_millis(self.rng.random_range(1..30))).await;
        }
        let stream = match line {
            Line::WebSocket(socket) => socket.into_stream(),
            Line::Send(http) | Line::Channel(http) => http.into_stream(),
        };
        if self.rng.random_bool(0.5) {
            stream.reset();
        }
    }
}

/// What a message is called; subscribers check it.
pub(super) fn message_id(channel: &str, n: u64) -> String {
    format!("{channel}-{n}")
}

async fn read_ack(socket: &mut WebSocket) -> Result<Ack, WireError> {
    loop {
        let text = socket.text().await?;
        match envelope::read(&text)? {
            Said::Ack(ack) => return Ok(ack),
            Said::Error(error) => return Err(WireError::Protocol(format!("{error:?}"))),
            _ => {}
        }
    }
}

/// The one answer in the array that `POST /v1/send` gives.
fn answer_of_send(response: &Response) -> Result<Ack, WireError> {
    response.expect_status(200)?;
    let answers: Vec<&RawValue> = serde_json::from_slice(&response.body)
        .map_err(|error| WireError::Protocol(format!("no array of answers: {error}")))?;
    match answers.first().map(|answer| envelope::read(answer.get().as_bytes())).transpose()? {
        Some(Said::Ack(ack)) => Ok(ack),
        other => Err(WireError::Protocol(format!("no array with a message_ack: {other:?}"))),
    }
}

fn parse(payload: Value) -> Result<Ack, WireError> {
    serde_json::from_value(payload)
        .map_err(|error| WireError::Protocol(format!("an acknowledgement: {error}")))
}
