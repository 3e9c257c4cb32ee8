//! Ten thousand streams of garbage (`GARBAGE_STREAMS`), half of them to a plain edge and half to one behind TLS:
//! afterwards it answers as fast as before and has its memory and its descriptors back. It always starts its own
//! server, since it must look at the process.
#![expect(clippy::unwrap_used, reason = "in a check a failed unwrap is the report")]

use std::time::Duration;

use conformance::edge::{Edge, Settings, environment};
use conformance::envelope::{self, Said};
use conformance::garbage::{self, Plan};
use conformance::wire::{Dial, WebSocket, WireError};
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

/// Above what it was before, resident, in bytes. Debug builds and the allocator's own caches fit in easily; a leak
/// of two kilobytes per stream does not.
const GROWTH: u64 = 20 << 20;
/// What joining may take at most, however loaded the machine is.
const USUAL: Duration = Duration::from_secs(5);
/// How long the server may take to get over the last stream: its own time limits are shorter here, and no client is left
/// that a stream of events or a poll could wait for.
const RECOVERY: Duration = Duration::from_secs(20);

/// Half a hello ends with its client. A whole one may take seconds on a busy machine, which is no reason to be refused.
fn settings() -> Settings {
    let short = ["listen.request_timeout", "listen.idle_timeout", "auth.timeout"];
    let settings = Settings::open().set("listen.handshake_timeout", "10s");
    short.iter().fold(settings, |settings, key| settings.set(key, "3s"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_plain_tcp() {
    check(Edge::start(&settings()).await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_tls() {
    check(Edge::start(&settings().over_tls()).await.unwrap()).await;
}

async fn check(mut edge: Edge) {
    let seed = environment::seed();
    let streams: usize = environment::number("GARBAGE_STREAMS", 10_000) / 2;
    println!("seed {seed}, {streams} streams");
    // Code and caches that are touched for the first time are no leak.
    garbage::run(&edge.target, Plan { streams: 500, seed: !seed, at_once: 64 }).await;
    sleep(Duration::from_secs(5)).await;
    let usual = usual_time(&edge).await.unwrap();
    let memory = edge.own_process().memory().unwrap().rss_bytes;
    let descriptors = edge.own_process().descriptors().unwrap();

    let begun = Instant::now();
    let tally = garbage::run(&edge.target, Plan { streams, seed, at_once: 64 }).await;
    println!("{tally}\n  in {:?}", begun.elapsed());
    assert_eq!(tally.streams(), streams as u64);
    assert_eq!(tally.refused, 0, "the server stopped taking connections:\n{}", edge.log_tail());
    assert_eq!(tally.server_errors(), 0, "the server blames itself: {:?}", tally.statuses);
    assert!(tally.kinds.len() >= 13 && tally.statuses.len() >= 3, "too little variety to prove anything");

    assert!(edge.is_alive(), "the server is gone:\n{}", edge.log_tail());
    assert!(edge.panics().is_empty(), "{:?}", edge.panics());
    let after = usual_time(&edge).await.unwrap();
    println!("livez and join: {usual:?} before, {after:?} after");
    assert!(after < USUAL.max(usual * 10), "{after:?} instead of {usual:?}");
    let (memory_after, descriptors_after) = recovered(&edge, memory, descriptors).await;
    println!(
        "memory {memory} before, {memory_after} after; descriptors {descriptors} and {descriptors_after}"
    );
    assert!(memory_after <= memory + GROWTH, "{} bytes stay", memory_after - memory);
    assert!(descriptors_after <= descriptors, "{descriptors_after} descriptors instead of {descriptors}");
}

/// Looks until memory and descriptors are back, or the time for that is over.
async fn recovered(edge: &Edge, memory: u64, descriptors: usize) -> (u64, usize) {
    let begun = Instant::now();
    loop {
        let now = (edge.own_process().memory().unwrap().rss_bytes, edge.own_process().descriptors().unwrap());
        if (now.0 <= memory + GROWTH && now.1 <= descriptors) || begun.elapsed() > RECOVERY {
            return now;
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// Liveness, then a WebSocket that joins and gets its own message: the slowest of five times both.
async fn usual_time(edge: &Edge) -> Result<Duration, WireError> {
    let mut slowest = Duration::ZERO;
    for n in 0..5 {
        let begun = Instant::now();
        edge.livez().await?;
        timeout(Duration::from_secs(30), chat(edge, n)).await.map_err(|_| WireError::Timeout)??;
        slowest = slowest.max(begun.elapsed());
    }
    Ok(slowest)
}

async fn chat(edge: &Edge, n: u32) -> Result<(), WireError> {
    let token = edge.target.tokens.user("alive");
    let mut socket = WebSocket::open(&edge.target, Dial::default(), "/v1/ws", &token).await?;
    socket.send(&envelope::join("alive:lobby", json!({}))).await?;
    let id = format!("alive-{n}-{}", rand::random::<u32>());
    socket.send(&envelope::message("alive:lobby", &id, &json!({"n": n})).to_string()).await?;
    loop {
        match envelope::read(&socket.text().await?)? {
            Said::Message(message) if message.message_id == id => break,
            Said::Error(error) => return Err(WireError::Protocol(format!("{error:?}"))),
            _ => {}
        }
    }
    socket.close(1000).await
}
