//! HTTP/2 (RFC 9113), by section, frame by frame: what the server makes of frames that are wrong, in the wrong place or
//! too many, and that it serves the realtime endpoints over it. Always over TLS, since HTTP/2 is negotiated there and
//! nowhere else.
#![expect(clippy::unwrap_used, reason = "in a check a failed unwrap is the report")]

mod floods;
mod flow;
mod frames;
mod live;
mod messages;
mod states;

use std::fmt::Write as _;
use std::time::Duration;

use conformance::edge::{Edge, Settings};
use conformance::wire::Target;
use conformance::wire::h2::{self, Frame, H2, flag, kind};
use tokio::time::{Instant, timeout_at};

/// How long the server may take for anything.
const MOST: Duration = Duration::from_secs(10);
const PING: &[u8; 8] = b"tidegate";

/// Where the server is known to do otherwise, and why that is borne. Such a case fails as well when it comes right.
const CODES: &str =
    "h2 says PROTOCOL_ERROR for whatever frame it cannot read; the connection ends as it must";
const FIRST: &str = "h2 does not ask for SETTINGS to come first; until they come the defaults hold";
const TRAILERS: &str = "h2 does not look for pseudo-fields in trailers, and nobody here reads trailers";

/// What has to come of some frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// A connection error with that code: GOAWAY and the end.
    GoAway(u32),
    /// A stream error on stream 1 with that code; the connection lives on.
    Reset(u32),
    /// An answer on stream 1 with that status; the connection lives on.
    Status(u16),
    /// Nothing: a ping behind it is answered as if it had not been there.
    Ignored,
    /// The end, with or without a word.
    Ended,
}

/// Frames behind a proper greeting, and what may come of them.
struct Case {
    name: String,
    bytes: Vec<u8>,
    right: Vec<Outcome>,
    known: Option<(Outcome, &'static str)>,
}

fn case(name: impl Into<String>, bytes: impl Into<Vec<u8>>, right: Outcome) -> Case {
    Case { name: name.into(), bytes: bytes.into(), right: vec![right], known: None }
}

impl Case {
    fn or(mut self, other: Outcome) -> Self {
        self.right.push(other);
        self
    }

    /// It is known to come to something else.
    fn but(mut self, known: Outcome, reason: &'static str) -> Self {
        self.known = Some((known, reason));
        self
    }

    fn complaint(&self, outcome: Outcome) -> Option<String> {
        match self.known {
            None if self.right.contains(&outcome) => None,
            Some((known, _)) if known == outcome => None,
            Some((_, reason)) if self.right.contains(&outcome) => {
                Some(format!("right at last, so it is no exception any more: {reason}"))
            }
            _ => Some(format!("{outcome:?} instead of {:?}", self.right)),
        }
    }

    /// Whether a ping has to be answered, or else that one is no answer to the question.
    fn pings(&self) -> bool {
        self.right.contains(&Outcome::Ignored)
            || self.known.is_some_and(|(known, _)| known == Outcome::Ignored)
    }
}

/// An edge over TLS.
fn settings() -> Settings {
    Settings::profile().over_tls()
}

/// Of a channel where many checks post and nobody looks.
const PATH: &str = "/v1/channels/open:h2/presence";
const MESSAGES: &str = "/v1/channels/open:h2/messages";

/// The pseudo-fields of a request and more fields behind them.
fn fields<'a>(method: &'a str, path: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [&[(":method", method), (":scheme", "https"), (":authority", "localhost"), (":path", path)], more]
        .concat()
}

/// A whole header block in one frame.
fn headers(stream: u32, flags: u8, fields: &[(&str, &str)]) -> Vec<u8> {
    h2::frame(kind::HEADERS, flags | flag::END_HEADERS, stream, &h2::block(fields))
}

/// A question.
fn get(stream: u32) -> Vec<u8> {
    headers(stream, flag::END_STREAM, &fields("GET", PATH, &[]))
}

/// A publish whose body is to come.
fn post(stream: u32) -> Vec<u8> {
    headers(stream, 0, &fields("POST", MESSAGES, &[]))
}

fn data(stream: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    h2::frame(kind::DATA, flags, stream, payload)
}

fn ping() -> Vec<u8> {
    h2::frame(kind::PING, 0, 0, PING)
}

/// The next frame.
async fn next(h2: &mut H2) -> Option<Frame> {
    let next = timeout_at(Instant::now() + MOST, h2.next()).await;
    next.unwrap_or_else(|_| panic!("nothing came in {MOST:?}")).unwrap()
}

/// The next frame that `wanted` takes; those before it are passed over.
async fn until<T>(h2: &mut H2, wanted: impl Fn(&Frame) -> Option<T>) -> T {
    loop {
        let frame = next(h2).await.expect("the connection goes on");
        assert_ne!(frame.kind, kind::GOAWAY, "{:?}", frame.payload);
        if let Some(found) = wanted(&frame) {
            return found;
        }
    }
}

/// The status of the answer on that stream.
async fn status(h2: &mut H2, stream: u32) -> u16 {
    until(h2, |frame| {
        assert!(frame.kind != kind::RST_STREAM || frame.stream != stream, "reset: {}", frame.number(0));
        (frame.kind == kind::HEADERS && frame.stream == stream)
            .then(|| frame.status().expect("a status comes first"))
    })
    .await
}

/// The answer's body on that stream, to its end.
async fn body(h2: &mut H2, stream: u32) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let (bytes, ended) = until(h2, |frame| {
            assert!(frame.kind != kind::RST_STREAM || frame.stream != stream, "reset: {}", frame.number(0));
            (frame.kind == kind::DATA && frame.stream == stream)
                .then(|| (frame.payload.clone(), frame.has(flag::END_STREAM)))
        })
        .await;
        body.extend_from_slice(&bytes);
        if ended {
            return body;
        }
    }
}

/// Goes on when the server answers a ping.
async fn alive(h2: &mut H2) {
    h2.write(&ping()).await.unwrap();
    until(h2, |frame| (frame.kind == kind::PING && frame.has(flag::ACK)).then_some(())).await;
}

/// What comes first of what a case may be about.
async fn outcome(h2: &mut H2) -> Outcome {
    loop {
        let Some(frame) = next(h2).await else { return Outcome::Ended };
        match (frame.kind, frame.stream) {
            (kind::GOAWAY, _) => return Outcome::GoAway(frame.number(4)),
            (kind::RST_STREAM, 1) => return Outcome::Reset(frame.number(0)),
            (kind::HEADERS, 1) => return Outcome::Status(frame.status().unwrap_or(0)),
            (kind::PING, _) if frame.has(flag::ACK) => return Outcome::Ignored,
            _ => {}
        }
    }
}

/// Whether what must follow an outcome follows.
async fn consequence(h2: &mut H2, outcome: Outcome) -> Option<String> {
    match outcome {
        Outcome::GoAway(_) => loop {
            next(h2).await?;
        },
        Outcome::Ended => None,
        Outcome::Reset(_) | Outcome::Status(_) | Outcome::Ignored => {
            // It may have ended the connection by now, which the write or what is read tells.
            let _ = h2.write(&[get(101), ping()].concat()).await;
            loop {
                let Some(frame) = next(h2).await else { return Some("then the connection ended".to_owned()) };
                match (frame.kind, frame.stream) {
                    (kind::GOAWAY, _) => return Some(format!("then GOAWAY {}", frame.number(4))),
                    (kind::HEADERS, 101) => return None,
                    _ => {}
                }
            }
        }
    }
}

async fn judge_one(target: &Target, case: &Case) -> Option<String> {
    let mut h2 = H2::open(target, &[]).await.unwrap();
    let ping = if case.pings() { ping() } else { Vec::new() };
    // The server may have ended it before the last byte.
    let _ = h2.write(&[&case.bytes[..], &ping].concat()).await;
    let outcome = outcome(&mut h2).await;
    match case.complaint(outcome) {
        None => consequence(&mut h2, outcome).await,
        complaint => complaint,
    }
}

/// Each case on a connection of its own.
async fn judge(cases: &[Case]) {
    let mut edge = Edge::named_or_started(&settings()).await.unwrap();
    let mut report = String::new();
    for case in cases {
        if let Some(complaint) = judge_one(&edge.target, case).await {
            writeln!(report, "  {}: {complaint}", case.name).unwrap();
        }
    }
    assert!(report.is_empty(), "\n{report}");
    assert!(edge.is_alive() && edge.panics().is_empty(), "{:?}\n{}", edge.panics(), edge.log_tail());
}
