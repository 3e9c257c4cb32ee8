//! Clients that begin and never end, or end on one side only: half a head, half a hello, a byte a second, silence
//! after a request, a closed sending side. Each holds its socket until the server has had enough, which must be
//! about when its configuration says. It always starts its own server, with limits of a few seconds.
#![expect(clippy::unwrap_used, reason = "in a check a failed unwrap is the report")]

use std::time::Duration;

use conformance::edge::{Edge, Settings};
use conformance::room::Room;
use conformance::wire::websocket::{self, FIN, opcode};
use conformance::wire::{Connection, Dial, Request, Stream, Target, WebSocket};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, timeout_at};

/// `listen.handshake_timeout` and `listen.request_timeout`.
const LIMIT: Duration = Duration::from_secs(2);
/// `listen.idle_timeout`.
const IDLE: Duration = Duration::from_secs(4);
/// `heartbeat.interval` and `heartbeat.timeout` together.
const DEAD: Duration = Duration::from_secs(4);
/// What a busy machine and a coarse clock may add.
const GRACE: Duration = Duration::from_secs(4);
/// Of each kind.
const EACH: u8 = 20;

fn settings() -> Settings {
    Settings::open()
        .set("listen.handshake_timeout", "2s")
        .set("listen.request_timeout", "2s")
        .set("listen.idle_timeout", "4s")
        .set("heartbeat.interval", "2s")
        .set("heartbeat.timeout", "2s")
}

/// What a client that never ends has written so far, and goes on writing.
struct Unfinished {
    kind: &'static str,
    within: Duration,
    at_once: Vec<u8>,
    /// One byte of it a second.
    slowly: Vec<u8>,
}

fn unfinished_requests(target: &Target) -> Vec<Unfinished> {
    let token = target.tokens.user("slow");
    let head = Request::get("/v1/sse?channels=slow:1").bearer(&token).to_bytes(&target.authority());
    let body = Request::post("/v1/send", &json!({"type": "ping", "x": "x".repeat(1000)})).bearer(&token);
    let body = body.to_bytes(&target.authority());
    let half = head[..30].to_vec();
    let kind = |kind, within, at_once: &[u8], slowly: &[u8]| Unfinished {
        kind,
        within,
        at_once: at_once.to_vec(),
        slowly: slowly.to_vec(),
    };
    vec![
        kind("nothing at all", IDLE.max(LIMIT), b"", b""),
        kind("half a head", LIMIT, &half, b""),
        kind("a head, a byte a second", LIMIT, b"", &head),
        kind("half a body", LIMIT, &body[..body.len() - 500], b""),
        kind("a body, a byte a second", LIMIT, &body[..body.len() - 500], &body[body.len() - 500..]),
        kind("half a chunk", LIMIT, &chunked(target, &token), b""),
    ]
}

fn chunked(target: &Target, token: &str) -> Vec<u8> {
    let authority = target.authority();
    format!("POST /v1/send HTTP/1.1\r\nhost: {authority}\r\nauthorization: Bearer {token}\r\ntransfer-encoding: chunked\r\n\r\nff\r\n{{")
        .into_bytes()
}

/// Writes on until the server ends it; says how long that took, or nothing if it never did.
async fn endured(mut stream: Stream, at_once: &[u8], slowly: &[u8], most: Duration) -> Option<Duration> {
    let begun = Instant::now();
    stream.write_all(at_once).await.ok()?;
    stream.flush().await.ok()?;
    let mut seconds = interval(Duration::from_secs(1));
    let mut bytes = slowly.iter();
    let mut answer = [0; 4096];
    loop {
        tokio::select! {
            read = timeout_at(begun + most, stream.read(&mut answer)) => match read {
                Err(_) => return None,
                Ok(Ok(0) | Err(_)) => return Some(begun.elapsed()),
                // An answer that says why; the end is to follow.
                Ok(Ok(_)) => {}
            },
            _ = seconds.tick() => if let Some(byte) = bytes.next() {
                // The server may have closed already; the read says so.
                let _ = stream.write_all(&[*byte]).await;
                let _ = stream.flush().await;
            },
        }
    }
}

/// Twenty of each at once; a report of those that were endured too long.
async fn judge(cases: Vec<(Unfinished, Vec<Stream>)>) -> Vec<String> {
    let mut all = JoinSet::new();
    for (Unfinished { kind, within, at_once, slowly }, streams) in cases {
        for stream in streams {
            let (at_once, slowly) = (at_once.clone(), slowly.clone());
            let most = within + GRACE;
            all.spawn(async move { (kind, within, endured(stream, &at_once, &slowly, most).await) });
        }
    }
    let mut problems = Vec::new();
    while let Some(result) = all.join_next().await {
        let (kind, within, took) = result.unwrap();
        if took.is_none() {
            problems.push(format!("{kind}: still there {GRACE:?} after its limit of {within:?}"));
        }
    }
    problems.sort();
    problems.dedup();
    problems
}

async fn streams(target: &Target) -> Vec<Stream> {
    let mut streams = Vec::new();
    for _ in 0..EACH {
        streams.push(target.connect(Dial::default()).await.unwrap());
    }
    streams
}

async fn tcp_streams(target: &Target) -> Vec<Stream> {
    let mut streams = Vec::new();
    for _ in 0..EACH {
        streams.push(Stream::Plain(target.connect_tcp(Dial::default()).await.unwrap()));
    }
    streams
}

/// Waits until the server has as many descriptors as before.
async fn assert_all_gone(edge: &Edge, before: usize) {
    let end = Instant::now() + Duration::from_secs(15);
    loop {
        let now = edge.own_process().descriptors().unwrap();
        if now <= before {
            return;
        }
        assert!(Instant::now() < end, "{now} descriptors instead of {before}\n{}", edge.log_tail());
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_never_end_are_cut() {
    for settings in [settings(), settings().over_tls()] {
        let edge = Edge::start(&settings).await.unwrap();
        edge.livez().await.unwrap();
        let before = edge.own_process().descriptors().unwrap();
        let mut cases = Vec::new();
        for case in unfinished_requests(&edge.target) {
            cases.push((case, streams(&edge.target).await));
        }
        let problems = judge(cases).await;
        assert!(problems.is_empty(), "tls={}: {problems:#?}", settings.is_tls());
        assert_all_gone(&edge, before).await;
        assert!(edge.panics().is_empty(), "{:?}", edge.panics());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_that_never_end_are_cut() {
    let edge = Edge::start(&settings().over_tls()).await.unwrap();
    edge.livez().await.unwrap();
    let before = edge.own_process().descriptors().unwrap();
    // The beginning of a record of 512 bytes that is a hello of 508 (RFC 8446 §5.1, §4).
    let hello = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    let kind = |kind, at_once: &[u8], slowly: &[u8]| Unfinished {
        kind,
        within: LIMIT,
        at_once: at_once.to_vec(),
        slowly: slowly.to_vec(),
    };
    let cases = vec![
        (kind("no hello", b"", b""), tcp_streams(&edge.target).await),
        (kind("half a hello", &hello, b""), tcp_streams(&edge.target).await),
        (kind("a hello, a byte a second", b"", &hello), tcp_streams(&edge.target).await),
    ];
    let problems = judge(cases).await;
    assert!(problems.is_empty(), "{problems:#?}");
    assert_all_gone(&edge, before).await;
}

/// A frame of HTTP/2 (RFC 9113 §4.1).
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    [&[0, 0, length, kind, flags, 0, 0, 0, stream][..], payload].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_that_never_ends_is_cut() {
    let edge = Edge::start(&settings().over_tls()).await.unwrap();
    edge.livez().await.unwrap();
    let before = edge.own_process().descriptors().unwrap();
    let target = edge.target.clone().offering("h2");
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let opened = [&preface[..], &frame(4, 0, 0, &[])].concat();
    // HPACK (RFC 7541 §6.1): `:method: POST`, `:path: /`, `:scheme: https`.
    let headers = [0x83, 0x84, 0x87];
    let begun = [opened.clone(), frame(1, 0, 1, &headers)].concat();
    let bodiless = [opened.clone(), frame(1, 4, 1, &headers)].concat();
    let kind = |kind, within, at_once: &[u8], slowly: &[u8]| Unfinished {
        kind,
        within,
        at_once: at_once.to_vec(),
        slowly: slowly.to_vec(),
    };
    // None of them answers a ping, which counts as being dead.
    let most = IDLE.max(DEAD).max(LIMIT);
    let mut cases = Vec::new();
    for case in [
        kind("no preface", most, b"", b""),
        kind("half a preface", most, &preface[..10], b""),
        kind("a preface, a byte a second", most, b"", preface),
        kind("a preface and no request", most, &opened, b""),
        kind("half the headers of a request", most, &begun, b""),
        kind("a request without its body", most, &bodiless, b""),
        kind("a frame that has only begun", most, &opened, &[0, 0, 200, 0, 0, 0, 0, 0, 1]),
    ] {
        cases.push((case, streams(&target).await));
    }
    let problems = judge(cases).await;
    assert!(problems.is_empty(), "{problems:#?}");
    assert_all_gone(&edge, before).await;
    assert!(edge.panics().is_empty(), "{:?}", edge.panics());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_fall_silent_are_cut() {
    let edge = Edge::start(&settings()).await.unwrap();
    edge.livez().await.unwrap();
    let before = edge.own_process().descriptors().unwrap();
    let token = edge.target.tokens.user("silent");
    let nothing = |kind, within| Unfinished { kind, within, at_once: Vec::new(), slowly: Vec::new() };
    let (mut kept_alive, mut deaf, mut in_a_frame) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..EACH {
        let mut http = Connection::open(&edge.target).await.unwrap();
        let presence = Request::get("/v1/channels/silent:1/presence").bearer(&token);
        http.exchange(&presence).await.unwrap().expect_status(200).unwrap();
        kept_alive.push(http.into_stream());
        for sockets in [&mut deaf, &mut in_a_frame] {
            let socket = WebSocket::open(&edge.target, Dial::default(), "/v1/ws", &token).await.unwrap();
            sockets.push(socket.into_stream());
        }
    }
    // A peer that is inside a frame cannot answer a ping; bytes alone are no sign of life.
    let frame = websocket::masked(FIN | opcode::TEXT, &[b' '; 1000], [1, 2, 3, 4]);
    let in_frame = Unfinished {
        kind: "a frame, a byte a second",
        within: DEAD,
        at_once: frame[..10].to_vec(),
        slowly: frame[10..].to_vec(),
    };
    let cases = vec![
        (nothing("kept alive without a request", IDLE), kept_alive),
        (nothing("a WebSocket that answers no ping", DEAD), deaf),
        (in_frame, in_a_frame),
    ];
    let problems = judge(cases).await;
    assert!(problems.is_empty(), "{problems:#?}");
    assert_all_gone(&edge, before).await;
}

/// What a client had written before it closed its sending side.
async fn half_closed_cases(target: &Target) -> Vec<(&'static str, Vec<u8>)> {
    let token = target.tokens.user("half-closed");
    let first = Request::get("/v1/poll?channels=half:1").bearer(&token);
    let answer = Connection::open(target).await.unwrap().exchange(&first).await.unwrap().json().unwrap();
    let poll = format!("/v1/poll?channels=half:1&wait=2&cursor={}", answer["cursor"].as_str().unwrap());
    let bytes = |request: Request| request.bearer(&token).to_bytes(&target.authority());
    let key = "dGhlIHNhbXBsZSBub25jZQ==";
    vec![
        ("nothing", Vec::new()),
        ("half a head", bytes(Request::get("/v1/sse?channels=half:1"))[..30].to_vec()),
        ("half a body", {
            let mut request = bytes(Request::post("/v1/send", &json!({"type": "ping"})));
            request.pop();
            request
        }),
        ("a request", bytes(Request::get("/v1/channels/half:1/messages"))),
        ("a WebSocket", bytes(websocket::handshake(Request::get("/v1/ws?channels=half:1"), key))),
        ("an event stream", bytes(Request::get("/v1/sse?channels=half:1"))),
        ("a poll that waits", bytes(Request::get(poll))),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_sending_side_holds_nothing() {
    for settings in [settings(), settings().over_tls()] {
        let edge = Edge::start(&settings).await.unwrap();
        edge.livez().await.unwrap();
        let before = edge.own_process().descriptors().unwrap();
        let mut held: Vec<(&str, Stream)> = Vec::new();
        for (kind, bytes) in half_closed_cases(&edge.target).await {
            for mut stream in streams(&edge.target).await {
                stream.write_all(&bytes).await.unwrap();
                stream.shutdown().await.unwrap();
                held.push((kind, stream));
            }
        }
        // Held open on this side all the time: the server must let go by itself.
        let end = Instant::now() + Duration::from_secs(12);
        let mut waiting = JoinSet::new();
        for (kind, mut stream) in held {
            waiting.spawn(async move {
                let mut answer = Vec::new();
                let ended = timeout_at(end, stream.read_to_end(&mut answer)).await.is_ok();
                (kind, ended, answer)
            });
        }
        let (mut problems, mut answered) = (Vec::new(), 0);
        while let Some(result) = waiting.join_next().await {
            let (kind, ended, answer) = result.unwrap();
            if !ended {
                problems.push(format!("{kind}: held, although its client has closed"));
            }
            // Who closes its sending side behind a request may have gone, or wait: an answer is welcome, not owed.
            answered += u8::from(kind == "a request" && answer.starts_with(b"HTTP/1.1 200 "));
        }
        problems.sort();
        problems.dedup();
        println!("{answered} of {EACH} requests with a closed sending side were answered");
        assert!(problems.is_empty(), "tls={}: {problems:#?}", settings.is_tls());
        assert_all_gone(&edge, before).await;
        assert!(edge.panics().is_empty(), "{:?}", edge.panics());
    }
}

/// A request that waits, with what its client has pipelined behind it (RFC 9112 §9.3.2).
async fn pipelined_cases(target: &Target) -> Vec<Vec<u8>> {
    let token = target.tokens.user("pipelining");
    let bytes = |request: Request| request.bearer(&token).to_bytes(&target.authority());
    let first = Request::get("/v1/poll?channels=half:1").bearer(&token);
    let answer = Connection::open(target).await.unwrap().exchange(&first).await.unwrap().json().unwrap();
    let poll = format!("/v1/poll?channels=half:1&wait=60&cursor={}", answer["cursor"].as_str().unwrap());
    let (poll, stream) = (bytes(Request::get(poll)), bytes(Request::get("/v1/sse?channels=half:1")));
    let whole = bytes(Request::get("/v1/channels/half:1/messages"));
    // More than a server reads ahead.
    let many = whole.repeat(40_000 / whole.len());
    let noise = [0, 1, 0xff, b'\n', 7];
    vec![
        [&poll[..], &whole].concat(),
        [&poll[..], &many].concat(),
        [&poll[..], &whole[..30]].concat(),
        [&poll[..], &noise].concat(),
        [&poll[..], &poll].concat(),
        [&stream[..], &whole].concat(),
        [&stream[..], &many].concat(),
        [&stream[..], &noise].concat(),
    ]
}

/// Bytes that the server does not read yet stand before the client's end. It sees it all the same, long before the
/// poll's 60 s are over or the stream's second comment fails after 30.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_goes_away_behind_pipelined_bytes_is_let_go() {
    for settings in [settings(), settings().over_tls()] {
        let room = Room::alone(&settings, 0).await.unwrap();
        let edge = &room.edge;
        let before = edge.own_process().descriptors().unwrap();
        let cases = pipelined_cases(&edge.target).await;
        let mut held = Vec::new();
        for bytes in &cases {
            for mut stream in streams(&edge.target).await {
                stream.write_all(bytes).await.unwrap();
                stream.flush().await.unwrap();
                held.push(stream);
            }
        }
        // While its client is there, each waits.
        sleep(LIMIT + IDLE).await;
        for (transport, kinds) in [("poll", 5_u8), ("sse", 3)] {
            let metric = format!("tidegate_connections_active{{transport=\"{transport}\"}}");
            let (now, all) = (room.metric(&metric).await.unwrap(), f64::from(kinds) * f64::from(EACH));
            assert!((now - all).abs() < 0.5, "{transport}: {now} of {all} are served");
        }
        let mut half_closed = Vec::new();
        for (index, mut stream) in held.into_iter().enumerate() {
            match index % 3 {
                0 => drop(stream),
                1 => stream.reset(),
                _ => {
                    stream.shutdown().await.unwrap();
                    half_closed.push(stream);
                }
            }
        }
        let begun = Instant::now();
        assert_all_gone(edge, before).await;
        println!("tls={}: gone after {:?}", settings.is_tls(), begun.elapsed());
        assert!(edge.panics().is_empty(), "{:?}", edge.panics());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_reset_is_forgotten() {
    let edge = Edge::start(&settings()).await.unwrap();
    edge.livez().await.unwrap();
    let before = edge.own_process().descriptors().unwrap();
    for (_, bytes) in half_closed_cases(&edge.target).await {
        let mut streams: Vec<TcpStream> = Vec::new();
        for _ in 0..EACH {
            streams.push(edge.target.connect_tcp(Dial::default()).await.unwrap());
        }
        for stream in &mut streams {
            stream.write_all(&bytes).await.unwrap();
        }
        sleep(Duration::from_millis(50)).await;
        for stream in streams {
            Stream::Plain(stream).reset();
        }
    }
    assert_all_gone(&edge, before).await;
    assert!(edge.panics().is_empty(), "{:?}", edge.panics());
}
