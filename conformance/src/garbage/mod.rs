//! What the internet sends to an open port: noise, half requests, requests with a bit turned over, handshakes that go
//! wrong, frames that nobody may send. A server passes if it answers as fast as before afterwards, has its memory
//! and its descriptors back, and never once blamed itself with a 500. Called by the test of that name and the soak.

mod envelopes;
mod frames;
mod requests;
mod tls;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::wire::{Dial, Stream, Target};

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Streams, each on a connection of its own.
    pub streams: usize,
    /// Of everything random.
    pub seed: u64,
    /// Connections at once.
    pub at_once: usize,
}

/// What was sent and what came back.
#[derive(Debug, Default, Serialize)]
pub struct Tally {
    /// Streams by kind.
    pub kinds: BTreeMap<&'static str, u64>,
    /// Answers by HTTP status.
    pub statuses: BTreeMap<u16, u64>,
    /// Bytes that were written.
    pub bytes: u64,
    /// Connections that the server did not take at all.
    pub refused: u64,
}

/// Something to send, in pieces.
struct Specimen {
    kind: &'static str,
    pieces: Vec<Vec<u8>>,
}

/// What requests need to be nearly right.
struct Soil {
    authority: String,
    token: String,
}

/// How a stream ends.
#[derive(Clone, Copy, Debug)]
enum Ending {
    /// At once.
    Close,
    /// At once, with a reset.
    Reset,
    /// By closing one side and waiting for the other.
    HalfClose,
    /// After a look at the answer.
    Look,
}

/// What one stream saw.
struct Seen {
    kind: &'static str,
    bytes: usize,
    status: Option<u16>,
    refused: bool,
}

/// Sends it all and returns when every connection is closed on this side.
///
/// # Panics
/// If one of its own tasks does.
pub async fn run(target: &Target, plan: Plan) -> Tally {
    let mut seeds = StdRng::seed_from_u64(plan.seed);
    let soil = Arc::new(Soil { authority: target.authority(), token: target.tokens.user("garbage") });
    let permits = Arc::new(Semaphore::new(plan.at_once));
    let mut streams = JoinSet::new();
    let mut tally = Tally::default();
    for _ in 0..plan.streams {
        let permit = Arc::clone(&permits).acquire_owned().await.expect("it is never closed");
        let (target, soil) = (target.clone(), Arc::clone(&soil));
        let rng = StdRng::seed_from_u64(seeds.random());
        streams.spawn(async move {
            let seen = stream(&target, &soil, rng).await;
            drop(permit);
            seen
        });
        while let Some(seen) = streams.try_join_next() {
            tally.add(&seen.expect("a stream does not panic"));
        }
    }
    while let Some(seen) = streams.join_next().await {
        tally.add(&seen.expect("a stream does not panic"));
    }
    tally
}

async fn stream(target: &Target, soil: &Soil, mut rng: StdRng) -> Seen {
    if target.tls().is_some() && rng.random_bool(0.5) {
        return tls::below(target, soil, rng).await;
    }
    let specimen = specimen(&mut rng, soil);
    match timeout(Duration::from_secs(10), target.connect(Dial::default())).await {
        Ok(Ok(stream)) => send(stream, Stream::tcp, specimen, rng).await,
        _ => Seen { kind: specimen.kind, bytes: 0, status: None, refused: true },
    }
}

fn specimen(rng: &mut StdRng, soil: &Soil) -> Specimen {
    match rng.random_range(0..10) {
        0 => Specimen { kind: "noise", pieces: vec![noise(rng, 4096)] },
        1 => Specimen { kind: "printable noise", pieces: vec![requests::printable(rng)] },
        2..=5 => requests::specimen(rng, soil),
        _ => frames::specimen(rng, soil),
    }
}

/// Writes the pieces and ends in one of the four ways.
async fn send<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    socket: fn(&S) -> &TcpStream,
    specimen: Specimen,
    mut rng: StdRng,
) -> Seen {
    let ending = [Ending::Close, Ending::Reset, Ending::HalfClose, Ending::Look][rng.random_range(0..4)];
    let Specimen { kind, pieces } = specimen;
    let mut seen = Seen { kind, bytes: 0, status: None, refused: false };
    for (index, piece) in pieces.iter().enumerate() {
        if index > 0 {
            sleep(Duration::from_millis(rng.random_range(0..20))).await;
        }
        // The server may have had enough long ago, or wait for somebody who reads: neither is a fault.
        let written = timeout(Duration::from_millis(500), stream.write_all(piece)).await;
        if !matches!(written, Ok(Ok(()))) {
            break;
        }
        seen.bytes += piece.len();
    }
    match ending {
        Ending::Close => {}
        // Without the option the drop sends FIN, or RST if something is unread: an end either way.
        Ending::Reset => drop(socket(&stream).set_zero_linger()),
        Ending::HalfClose => {
            let _ = timeout(Duration::from_millis(200), stream.shutdown()).await;
            seen.status = read(&mut stream, Duration::from_millis(300)).await;
        }
        Ending::Look => seen.status = read(&mut stream, Duration::from_millis(50)).await,
    }
    seen
}

/// Reads what comes for so long, and says with which HTTP status it begins.
async fn read<S: AsyncRead + Unpin>(stream: &mut S, wait: Duration) -> Option<u16> {
    let mut answer = Vec::new();
    let mut limited = stream.take(256 * 1024);
    // An error is an end like any other.
    let _ = timeout(wait, limited.read_to_end(&mut answer)).await;
    let digits = answer.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn noise(rng: &mut StdRng, most: usize) -> Vec<u8> {
    let mut bytes = vec![0; rng.random_range(1..=most)];
    rng.fill(&mut bytes[..]);
    bytes
}

/// Turns over up to eight bits.
fn flip(rng: &mut StdRng, bytes: &mut [u8]) {
    if bytes.is_empty() {
        return;
    }
    for _ in 0..rng.random_range(1..=8) {
        let at = rng.random_range(0..bytes.len());
        bytes[at] ^= 1 << rng.random_range(0..8);
    }
}

impl Tally {
    fn add(&mut self, seen: &Seen) {
        *self.kinds.entry(seen.kind).or_default() += 1;
        self.bytes += seen.bytes as u64;
        self.refused += u64::from(seen.refused);
        if let Some(status) = seen.status {
            *self.statuses.entry(status).or_default() += 1;
        }
    }

    /// How many streams there were.
    pub fn streams(&self) -> u64 {
        self.kinds.values().sum()
    }

    /// Answers by which the server blamed itself for what a client sent. Not 501: it is what RFC 9112 §6.1 wants said of a
    /// transfer coding that the server does not know.
    pub fn server_errors(&self) -> u64 {
        let blames_itself = |status: u16| (500..600).contains(&status) && status != 501;
        self.statuses.iter().filter(|(status, _)| blames_itself(**status)).map(|(_, count)| count).sum()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} streams, {} bytes, {} refused", self.streams(), self.bytes, self.refused)?;
        writeln!(f, "  kinds: {:?}", self.kinds)?;
        write!(f, "  statuses: {:?}", self.statuses)
    }
}
