//! `tidegate subscribe`: prints what comes on channels, over any transport, and comes back after a loss where it left
//! off. Here is what the transports share: flags, output, when to come back; each transport is one file and knows its
//! own way to name a position.

mod event_stream;
mod poll;
mod sse;
mod websocket;

use std::convert::Infallible;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Deserialize;
use tokio::io::{AsyncWriteExt as _, Stdout};

use super::Failure;
use super::client::{Client, ClientError, ClientFlags, Refusal};
use crate::channel::ChannelName;

/// Which channels, from where, how.
#[derive(Args)]
#[command(after_help = "\
Prints one envelope a line on standard output, everything else on standard error. Once it was connected it
comes back after every loss, as soon as the edge asks for or ever more slowly, and goes on where it was: with
what a cursor can name nothing is missed or printed twice; what was missed for good is a `gap` envelope.
Ends with 0 after --count messages or Ctrl-C, with 1 when the edge says no for good.

Examples:
  tidegate subscribe chat:lobby
  tidegate subscribe chat:lobby,news --transport sse --history 10
  tidegate subscribe news --transport poll --count 1 | jq .payload.data
  tidegate subscribe news --url https://edge.example.com --cursor \"$CURSOR\"")]
pub struct Flags {
    /// The channels, with commas between
    #[arg(value_name = "CHANNEL", value_delimiter = ',', required = true)]
    channels: Vec<ChannelName>,
    /// How
    #[arg(long, value_enum, default_value_t)]
    transport: Transport,
    /// Begin after this position: an SSE id, a poll's cursor or that of a join's answer
    #[arg(long, value_name = "CURSOR", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    cursor: Option<String>,
    /// Begin with the newest N messages of each channel
    #[arg(long, value_name = "N", conflicts_with = "cursor")]
    history: Option<u32>,
    /// Also print who comes and goes
    #[arg(long)]
    presence: bool,
    /// End after N messages
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    #[command(flatten)]
    client: ClientFlags,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Transport {
    /// WebSocket
    #[default]
    Ws,
    /// Server-Sent Events
    Sse,
    /// Long polling
    Poll,
}

/// Prints until there is an end to it.
///
/// # Errors
/// The edge said no for good, or there was no connection at all.
pub async fn run(flags: Flags) -> Result<(), Failure> {
    let printer = Printer { out: tokio::io::stdout(), left: flags.count, connected: false, ever: false };
    let client = Client::new(flags.client)?;
    let start = Start {
        channels: flags.channels.iter().map(|channel| channel.as_str().to_owned()).collect(),
        cursor: flags.cursor,
        history: flags.history,
        presence: flags.presence,
    };
    let follower = match flags.transport {
        Transport::Ws => Follower::WebSocket(websocket::Positions::new(start)),
        Transport::Sse => Follower::Sse(sse::Position::new(start)),
        Transport::Poll => Follower::Poll(poll::Position::new(start)),
    };
    tokio::select! {
        done = follow(client, follower, printer) => done,
        signal = tokio::signal::ctrl_c() => {
            signal.map_err(|source| Failure::System { what: "cannot listen for Ctrl-C", source })
        }
    }
}

/// What to begin with.
struct Start {
    channels: Vec<String>,
    cursor: Option<String>,
    history: Option<u32>,
    presence: bool,
}

/// A transport, with the position it has come to.
enum Follower {
    WebSocket(websocket::Positions),
    Sse(sse::Position),
    Poll(poll::Position),
}

/// How one connection ended.
#[derive(Debug)]
enum Ending {
    /// Enough was printed, or nobody reads it any more.
    Enough,
    /// To come back is of no use.
    Final(Failure),
    /// To come back is of use, after that time if the edge named one.
    Lost(ClientError, Option<Duration>),
}

impl From<ClientError> for Ending {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Refused(refusal) if refusal.is_temporary() => {
                let wait = refusal.retry_after();
                Self::Lost(refusal.into(), wait)
            }
            ClientError::Refused(_) | ClientError::Nonsense(_) => Self::Final(error.into()),
            _ => Self::Lost(error, None),
        }
    }
}

async fn follow(client: Client, mut follower: Follower, mut printer: Printer) -> Result<(), Failure> {
    let mut backoff = Backoff::default();
    loop {
        printer.connected = false;
        let Err(ending) = match &mut follower {
            Follower::WebSocket(positions) => positions.follow(&client, &mut printer).await,
            Follower::Sse(position) => position.follow(&client, &mut printer).await,
            Follower::Poll(position) => position.follow(&client, &mut printer).await,
        };
        if printer.connected {
            backoff = Backoff::default();
        }
        let (error, wait) = match ending {
            Ending::Enough => return Ok(()),
            Ending::Final(failure) => return Err(failure),
            // Never once connected: more likely a wrong URL than a loss.
            Ending::Lost(error, None) if !printer.ever => return Err(error.into()),
            Ending::Lost(error, wait) => (error, wait.unwrap_or_else(|| backoff.next())),
        };
        let rounded = Duration::from_millis(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
        eprintln!("tidegate: {error}; coming back in {}", humantime::format_duration(rounded));
        tokio::time::sleep(wait).await;
    }
}

/// How long to wait where the edge does not say: ever longer, and for each client differently, so that those that
/// were lost together do not come back together.
#[derive(Default)]
struct Backoff(u32);

impl Backoff {
    const FIRST: Duration = Duration::from_millis(500);
    const MOST: Duration = Duration::from_secs(30);

    fn next(&mut self) -> Duration {
        let full = Self::FIRST.saturating_mul(1 << self.0.min(16)).min(Self::MOST);
        self.0 += 1;
        full.mul_f64(rand::random_range(0.5..=1.0))
    }
}

/// Standard output, one envelope a line.
struct Printer {
    out: Stdout,
    left: Option<u64>,
    /// Whether this connection brought an envelope.
    connected: bool,
    /// Whether any did.
    ever: bool,
}

impl Printer {
    /// Prints an envelope as it came, and says what it is.
    async fn print(&mut self, text: &str) -> Result<Envelope, Ending> {
        (self.connected, self.ever) = (true, true);
        // One line for one envelope, however an edge lays it out.
        let line = text.replace(['\r', '\n'], " ") + "\n";
        let written = match self.out.write_all(line.as_bytes()).await {
            Ok(()) => self.out.flush().await,
            error => error,
        };
        match written {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Err(Ending::Enough),
            Err(source) => {
                let what = "cannot write to standard output";
                return Err(Ending::Final(Failure::System { what, source }));
            }
        }
        // An envelope of a later version is none of ours to judge: it is printed, that is all.
        let envelope: Envelope = serde_json::from_str(text).unwrap_or_default();
        if let (true, Some(left)) = (envelope.kind == "message", &mut self.left) {
            *left -= 1;
            if *left == 0 {
                return Err(Ending::Enough);
            }
        }
        Ok(envelope)
    }
}

/// What following a channel needs to know of an envelope.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Envelope {
    #[serde(rename = "type")]
    kind: String,
    payload: Payload,
    metadata: Metadata,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Payload {
    channel: Option<String>,
    epoch: Option<String>,
    seq: Option<u64>,
    cursor: Option<String>,
    heartbeat_ms: Option<u64>,
    code: Option<u16>,
    reason: Option<String>,
    detail: Option<String>,
    retry_after_ms: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Metadata {
    correlation_id: Option<String>,
}

impl Envelope {
    /// What an `error` says.
    fn refusal(&self) -> Option<Refusal> {
        let payload = &self.payload;
        (self.kind == "error").then(|| {
            Refusal::from_error(
                payload.code.unwrap_or_default(),
                payload.reason.clone().unwrap_or_default(),
                payload.detail.clone().unwrap_or_default(),
                payload.retry_after_ms,
            )
        })
    }
}

/// The query that HTTP transports begin with: where from is said by one of `cursor`, `history`, or neither.
fn query(start: &Start, cursor: Option<&str>, history: Option<u32>) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("channels", &start.channels.join(","));
    match (cursor, history) {
        (Some(cursor), _) => query.append_pair("cursor", cursor),
        (None, Some(count)) => query.append_pair("history", &count.to_string()),
        (None, None) => &mut query,
    };
    if start.presence {
        query.append_pair("presence", "1");
    }
    query.finish()
}

/// Of a follower's own: it ends only by an [`Ending`].
type Never = Result<Infallible, Ending>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_differ() {
        let mut backoff = Backoff::default();
        let waits: Vec<Duration> = (0..20).map(|_| backoff.next()).collect();
        for (turn, wait) in waits.iter().enumerate() {
            let full = Duration::from_millis(500 << turn.min(10)).min(Backoff::MOST);
            assert!((full / 2..=full).contains(wait), "{turn}: {wait:?}");
        }
        let mut last = waits[10..].to_vec();
        last.dedup();
        assert!(last.len() > 1, "{last:?}");
    }

    #[test]
    fn only_what_can_pass_is_tried_again() {
        let refused = |code| Ending::from(ClientError::from(Refusal::from_close(code, "x;retry=20")));
        assert!(matches!(refused(1012), Ending::Lost(_, Some(wait)) if wait == Duration::from_millis(20)));
        assert!(matches!(refused(4002), Ending::Final(_)));
        assert!(matches!(ClientError::Silent { url: String::new() }.into(), Ending::Lost(_, None)));
        assert!(matches!(ClientError::Nonsense(String::new()).into(), Ending::Final(_)));
    }

    #[test]
    fn a_query_names_one_beginning() {
        let start = Start {
            channels: vec!["chat:a/b".to_owned(), "c".to_owned()],
            cursor: None,
            history: None,
            presence: true,
        };
        let both = query(&start, Some("x_-"), Some(3));
        assert_eq!(both, "channels=chat%3Aa%2Fb%2Cc&cursor=x_-&presence=1");
        let start = Start { presence: false, ..start };
        assert_eq!(query(&start, None, Some(3)), "channels=chat%3Aa%2Fb%2Cc&history=3");
    }
}
