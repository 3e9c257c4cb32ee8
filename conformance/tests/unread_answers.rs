//! Clients that ask for a lot, many times, and read nothing of it: history by WebSocket, by HTTP, by polls. What
//! waits for one of them is bounded by `limits.queue_bytes`, not by what it asked for. It always starts its own
//! server, since it must look at the process.
#![expect(clippy::unwrap_used, reason = "in a check a failed unwrap is the report")]

use std::time::Duration;

use conformance::edge::{Edge, Settings};
use conformance::wire::websocket::{self, FIN, opcode};
use conformance::wire::{Connection, Dial, Request, Stream, Target, WebSocket};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, sleep, timeout};

const CHANNEL: &str = "archive:1";
/// Of each kind.
const CLIENTS: usize = 20;
/// Requests of each client, all at once: some 7 KB, which one read may bring whole.
const REQUESTS: usize = 100;
/// What the channel holds: 4 MB in 512 messages.
const MESSAGES: usize = 512;
const DATA_BYTES: usize = 8_000;
const QUEUE_BYTES: u64 = 262_144;
/// One answer in the making, per client, may stand beside its queue; and the rest of the server.
const ANSWER: u64 = 262_144;
const REST: u64 = 12 << 20;

fn settings() -> Settings {
    Settings::open()
        .set("limits.queue_bytes", QUEUE_BYTES)
        .set("limits.write_timeout", "5s")
        .set("channels.default.history_size", MESSAGES)
}

async fn fill(target: &Target) {
    let token = target.tokens.server("archive");
    let mut http = Connection::open(target).await.unwrap();
    let data = json!({"pad": "x".repeat(DATA_BYTES)});
    for _ in 0..MESSAGES {
        let request = Request::post(format!("/v1/channels/{CHANNEL}/messages"), &data).bearer(&token);
        http.exchange(&request).await.unwrap().expect_status(201).unwrap();
    }
}

const KINDS: [&str; 5] = [
    "history by HTTP",
    "polls with history",
    "event streams with history",
    "history by WebSocket",
    "history in one packet with the handshake",
];

/// Small windows, so that what is not read waits in the server and not in the kernel.
const DIAL: Dial = Dial { source: None, receive_buffer: Some(4096) };

fn ask() -> Vec<u8> {
    let ask = json!({"type": "history", "payload": {"channel": CHANNEL, "limit": 1000}}).to_string();
    websocket::masked(FIN | opcode::TEXT, ask.as_bytes(), [1, 2, 3, 4])
}

async fn ask_by_websocket(target: &Target, token: &str) -> Stream {
    let socket = WebSocket::open(target, DIAL, "/v1/ws", token).await.unwrap();
    let mut stream = socket.into_stream();
    stream.write_all(&ask().repeat(REQUESTS)).await.unwrap();
    stream
}

/// Frames need not wait for the handshake's answer; the server's buffer for heads holds many of them.
async fn ask_with_the_handshake(target: &Target, token: &str) -> Stream {
    let mut stream = target.connect(DIAL).await.unwrap();
    let request = websocket::handshake(Request::get("/v1/ws").bearer(token), "dGhlIHNhbXBsZSBub25jZQ==");
    let mut bytes = request.to_bytes(&target.authority());
    bytes.extend(ask().repeat(REQUESTS));
    stream.write_all(&bytes).await.unwrap();
    stream
}

async fn ask_by_http(target: &Target, token: &str, path: &str) -> Stream {
    let mut stream = target.connect(DIAL).await.unwrap();
    let request = Request::get(path).bearer(token).to_bytes(&target.authority()).repeat(20);
    stream.write_all(&request).await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_a_client_is_bounded() {
    let mut edge = Edge::start(&settings()).await.unwrap();
    fill(&edge.target).await;
    // Once, read to its end: the code and the allocator are warm, and the answer is what it should be.
    let token = edge.target.tokens.user("reader");
    let history = format!("/v1/channels/{CHANNEL}/messages?limit=1000");
    let mut http = Connection::open(&edge.target).await.unwrap();
    let whole = http.exchange(&Request::get(&history).bearer(&token)).await.unwrap();
    whole.expect_status(200).unwrap();
    let answer = whole.json().unwrap();
    println!(
        "a page has {} messages in {} bytes",
        answer["messages"].as_array().unwrap().len(),
        whole.body.len()
    );
    drop((http, whole, answer));

    let poll = format!("/v1/poll?channels={CHANNEL}&history=1000");
    let sse = format!("/v1/sse?channels={CHANNEL}&history=1000");
    let mut grown = Vec::new();
    let before = edge.own_process().memory().unwrap().rss_bytes;
    for kind in KINDS {
        sleep(Duration::from_millis(300)).await;
        let mut unread = Vec::new();
        for index in 0..CLIENTS {
            let token = edge.target.tokens.user(&format!("unread-{index}"));
            unread.push(match kind {
                "history by HTTP" => ask_by_http(&edge.target, &token, &history).await,
                "polls with history" => ask_by_http(&edge.target, &token, &poll).await,
                "event streams with history" => ask_by_http(&edge.target, &token, &sse).await,
                "history by WebSocket" => ask_by_websocket(&edge.target, &token).await,
                _ => ask_with_the_handshake(&edge.target, &token).await,
            });
        }
        let mut highest = 0;
        let end = Instant::now() + Duration::from_millis(1500);
        while Instant::now() < end {
            highest = highest.max(edge.own_process().memory().unwrap().rss_bytes);
            sleep(Duration::from_millis(100)).await;
        }
        edge.livez().await.unwrap();
        // Those who read in the end get what they asked for first, or an end: never nothing.
        let mut last = unread.pop().unwrap();
        let mut some = [0; 1024];
        let read = timeout(Duration::from_secs(5), last.read(&mut some)).await;
        assert!(matches!(read, Ok(Ok(1..))), "{kind}: {read:?}");
        grown.push((kind, highest.saturating_sub(before)));
    }
    println!("memory for {CLIENTS} clients each: {grown:?}");
    assert!(edge.is_alive() && edge.panics().is_empty(), "{:?}\n{}", edge.panics(), edge.log_tail());
    for (kind, grown) in grown {
        let allowed = CLIENTS as u64 * (QUEUE_BYTES + ANSWER) + REST;
        assert!(grown <= allowed, "{kind}: {grown} bytes for {CLIENTS} clients, {allowed} would be fine");
    }
}
