//! A backend that sends its messages to one channel one after the other, each until it is acknowledged: through any
//! node, over any way to send, and after any error again under the same message id. Only an acknowledgement counts, and
//! once it is there it must be true.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::Stage;
use crate::envelope::{self, Ack, Said};
use crate::ledger::Entry;
use crate::switching::Violations;
use crate::wire::{Connection, Dial, Request, Response, WebSocket, WireError};

/// How long an answer may take: longer than a node waits for its bus before it says no.
const PATIENCE: Duration = Duration::from_secs(8);
/// How long one message is tried. Below the two minutes in which its id is known, so that no retry is a new message.
const GIVE_UP: Duration = Duration::from_secs(90);
/// Of so many messages one is sent over a new connection, to any node, without any need.
const MOVE_ONE_IN: u32 = 40;
/// Pauses between attempts grow from the first to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

pub(super) struct Publisher {
    /// Which channel, and its place in the log of each acknowledged message.
    pub(super) channel: usize,
    pub(super) log: Vec<Entry>,
    pub(super) again: u64,
    pub(super) duplicates: u64,
    /// The longest that one message took.
    pub(super) longest: Duration,
    pub(super) violations: Violations,
    id: u32,
    stage: Arc<Stage>,
    token: String,
    rng: StdRng,
    line: Option<Line>,
    last: u64,
}

/// A connection to a node, and what is sent over it.
enum Line {
    WebSocket(Box<WebSocket>),
    Send(Box<Connection>),
    Channel(Box<Connection>),
}

/// What the message is called.
pub(super) fn message_id(publisher: u32, n: u32) -> String {
    format!("p{publisher}-{n}")
}

/// The message in a ledger: publishers told apart by the upper half of the count.
pub(super) fn entry(publisher: u32, n: u32, seq: u64) -> Entry {
    Entry { n: u64::from(publisher) << 32 | u64::from(n), seq }
}

impl Publisher {
    pub(super) fn new(stage: &Arc<Stage>, id: u32, channel: usize, seed: u64) -> Self {
        Self {
            channel,
            log: Vec::new(),
            again: 0,
            duplicates: 0,
            longest: Duration::ZERO,
            violations: Violations::default(),
            id,
            stage: Arc::clone(stage),
            token: stage.targets[0].tokens.server(&format!("publisher-{id}")),
            rng: StdRng::seed_from_u64(seed),
            line: None,
            last: 0,
        }
    }

    /// Sends a message each `interval` until it is told to stop; one that is late is made up for, not left out.
    pub(super) async fn run(
        mut self,
        begin: Instant,
        interval: Duration,
        mut stop: watch::Receiver<bool>,
    ) -> Self {
        // Not all at once.
        let begin = begin + interval.mul_f64(self.rng.random());
        for n in 1.. {
            let due = begin + interval * n;
            tokio::select! {
                () = sleep_until(due) => {}
                _ = stop.wait_for(|stop| *stop) => break,
            }
            if *stop.borrow() || !self.publish(n).await {
                break;
            }
        }
        self
    }

    /// Sends until it is acknowledged; whether it was.
    async fn publish(&mut self, n: u32) -> bool {
        let begun = Instant::now();
        if self.rng.random_ratio(1, MOVE_ONE_IN) {
            self.line = None;
        }
        for attempt in 0.. {
            let answer = timeout(PATIENCE, self.attempt(n)).await.unwrap_or(Err(WireError::Timeout));
            let error = match answer {
                Ok(ack) => {
                    self.longest = self.longest.max(begun.elapsed());
                    return self.check(n, attempt, &ack);
                }
                Err(error) => error,
            };
            self.line = None;
            self.again += 1;
            self.stage.board.error(format!("publish: {}", kind(&error)));
            if let WireError::Protocol(problem) = &error {
                self.violations.add(format!("publish {n} of {}: {problem}", self.id));
            }
            if begun.elapsed() > GIVE_UP {
                break;
            }
            let most = BACKOFF.0.saturating_mul(1 << attempt.min(10)).min(BACKOFF.1);
            sleep(most.mul_f64(self.rng.random_range(0.5..1.0))).await;
        }
        self.violations.add(format!("publish {n} of {}: not acknowledged in {GIVE_UP:?}", self.id));
        false
    }

    fn check(&mut self, n: u32, attempt: u32, ack: &Ack) -> bool {
        let seq = ack.position.seq;
        self.duplicates += u64::from(ack.duplicate);
        if ack.duplicate && attempt == 0 {
            self.violations.add(format!("publisher {}: a first send is a duplicate ({ack:?})", self.id));
        }
        if ack.channel != self.stage.channels[self.channel] || seq <= self.last {
            self.violations.add(format!("publisher {}: {ack:?} for {n} after seq {}", self.id, self.last));
            return false;
        }
        self.last = seq;
        self.log.push(entry(self.id, n, seq));
        self.stage.board.acknowledged(self.channel, seq);
        true
    }

    async fn attempt(&mut self, n: u32) -> Result<Ack, WireError> {
        let id = message_id(self.id, n);
        let data = json!({"p": self.id, "n": n, "text": "the quick brown fox jumps over the lazy dog"});
        let mut line = match self.line.take() {
            Some(line) => line,
            None => self.dial().await?,
        };
        let channel = &self.stage.channels[self.channel];
        let ack = match &mut line {
            Line::WebSocket(socket) => {
                socket.send(&envelope::message(channel, &id, &data).to_string()).await?;
                read_ack(socket).await?
            }
            Line::Send(http) => {
                let request = Request::post("/v1/send", &envelope::message(channel, &id, &data));
                answer_of_send(&http.exchange(&request.bearer(&self.token)).await?)?
            }
            Line::Channel(http) => {
                let request = Request::post(format!("/v1/channels/{channel}/messages"), &data);
                let request = request.bearer(&self.token).header("idempotency-key", &id);
                let response = http.exchange(&request).await?;
                response.expect_status(201)?;
                parse(response.json()?)?
            }
        };
        self.line = Some(line);
        Ok(ack)
    }

    async fn dial(&mut self) -> Result<Line, WireError> {
        let target = self.stage.targets.choose(&mut self.rng).expect("there is a node");
        Ok(match self.rng.random_range(0..3) {
            0 => {
                let socket = WebSocket::open(target, Dial::default(), "/v1/ws", &self.token).await?;
                Line::WebSocket(Box::new(socket))
            }
            1 => Line::Send(Box::new(Connection::open(target).await?)),
            _ => Line::Channel(Box::new(Connection::open(target).await?)),
        })
    }
}

/// The error in a word, for a count.
pub(super) fn kind(error: &WireError) -> String {
    match error {
        WireError::Io(error) => format!("{:?}", error.kind()),
        WireError::Ended(_) => "ended".to_owned(),
        WireError::Protocol(_) => "protocol".to_owned(),
        WireError::Refused { status, .. } => format!("status {status}"),
        WireError::Closed { code, .. } => format!("closed {}", code.unwrap_or_default()),
        WireError::Timeout => "no answer".to_owned(),
    }
}

async fn read_ack(socket: &mut WebSocket) -> Result<Ack, WireError> {
    loop {
        let text = socket.text().await?;
        match envelope::read(&text)? {
            Said::Ack(ack) => return Ok(ack),
            // The bus is away: the connection lives on, and the message may be sent again.
            Said::Error(refusal) if refusal.code == 1013 => {
                return Err(WireError::Refused { status: 503, body: refusal.detail });
            }
            Said::Error(refusal) => return Err(WireError::Protocol(format!("{refusal:?}"))),
            _ => {}
        }
    }
}

/// The one answer to an envelope in a `POST /v1/send`.
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
