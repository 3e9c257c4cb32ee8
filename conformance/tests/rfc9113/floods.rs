//! §10.5: clients that make work. Each flood goes on for seconds on several connections at once; meanwhile another
//! client is served, and afterwards the memory is back. A connection that overdoes it may be ended, with the code for
//! that; one that does not gains nothing.

use std::time::Duration;

use conformance::edge::Edge;
use conformance::wire::h2::code::{CANCEL, ENHANCE_YOUR_CALM};
use conformance::wire::h2::{self, H2, flag, kind, setting};
use conformance::wire::{Connection, Request, Target};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::{MESSAGES, data, fields, get, headers, ping, post, settings};

/// How long a flood lasts.
const FLOOD: Duration = Duration::from_secs(4);
/// Connections at once.
const CLIENTS: usize = 4;
/// Above what it was before, while it lasts and afterwards, resident, in bytes.
const DURING: u64 = 48 << 20;
const AFTERWARDS: u64 = 16 << 20;
/// What a question may take meanwhile: both sides share two cores with those who flood, in debug builds.
const SERVED: Duration = Duration::from_secs(10);

/// What a connection of a flood came to.
#[derive(Debug, Default)]
struct Tally {
    rounds: u64,
    /// The code with which the server ended it.
    ended: Option<u32>,
}

/// Writes rounds of frames until the time is over or the server has had enough; what comes is read and thrown away.
async fn flood(target: Target, begin: Vec<u8>, round: impl Fn(u32) -> Vec<u8> + Send, reads: bool) -> Tally {
    let mut h2 = H2::open(&target, &[]).await.unwrap();
    let mut tally = Tally::default();
    let end = Instant::now() + FLOOD;
    if h2.write(&begin).await.is_err() {
        return tally;
    }
    while Instant::now() < end {
        let bytes = round(u32::try_from(tally.rounds).unwrap());
        // A server that takes nothing more is as good as one that ends it.
        if !matches!(timeout(Duration::from_secs(1), h2.write(&bytes)).await, Ok(Ok(()))) {
            break;
        }
        tally.rounds += 1;
        while reads && let Ok(next) = timeout(Duration::ZERO, h2.next()).await {
            match next {
                Ok(Some(frame)) if frame.kind == kind::GOAWAY => tally.ended = Some(frame.number(4)),
                Ok(Some(_)) => {}
                _ => return tally,
            }
        }
    }
    // Its last word, if there was one.
    while let Ok(Ok(Some(frame))) = timeout(Duration::from_millis(500), h2.next()).await {
        if frame.kind == kind::GOAWAY {
            tally.ended = Some(frame.number(4));
        }
    }
    tally
}

/// The slowest of the questions that are asked while it lasts.
async fn others(target: &Target) -> Duration {
    let mut slowest = Duration::ZERO;
    let end = Instant::now() + FLOOD;
    while Instant::now() < end {
        let begun = Instant::now();
        let mut http = Connection::open(target).await.unwrap();
        let answer = http.exchange(&Request::get("/v1/channels/open:other/presence")).await.unwrap();
        answer.expect_status(200).unwrap();
        slowest = slowest.max(begun.elapsed());
        sleep(Duration::from_millis(50)).await;
    }
    slowest
}

async fn endure<R>(name: &str, begin: Vec<u8>, round: R, reads: bool) -> Vec<Tally>
where
    R: Fn(u32) -> Vec<u8> + Send + Clone + 'static,
{
    let mut edge = Edge::start(&settings()).await.unwrap();
    others_once(&edge.target).await;
    let memory = |edge: &Edge| edge.own_process().memory().unwrap().rss_bytes;
    let before = memory(&edge);
    let mut floods = JoinSet::new();
    for _ in 0..CLIENTS {
        floods.spawn(flood(edge.target.clone(), begin.clone(), round.clone(), reads));
    }
    let slowest = timeout(FLOOD * 4, others(&edge.target)).await.expect("others are served");
    let during = memory(&edge);
    let tallies = floods.join_all().await;
    let end = Instant::now() + Duration::from_secs(15);
    while memory(&edge) > before + AFTERWARDS && Instant::now() < end {
        sleep(Duration::from_millis(200)).await;
    }
    let after = memory(&edge);
    println!("{name}: {tallies:?}; others within {slowest:?}; memory {before}, {during}, {after}");
    assert!(slowest < SERVED, "{name}: others had to wait for {slowest:?}");
    assert!(during <= before + DURING, "{name}: {} bytes more", during - before);
    assert!(after <= before + AFTERWARDS, "{name}: {} bytes stay", after - before);
    assert!(edge.is_alive() && edge.panics().is_empty(), "{name}: {:?}\n{}", edge.panics(), edge.log_tail());
    for tally in &tallies {
        assert!(tally.rounds > 0 || tally.ended.is_some(), "{name}: it never began");
        assert!(tally.ended.is_none_or(|code| code == ENHANCE_YOUR_CALM), "{name}: {tally:?}");
    }
    tallies
}

async fn others_once(target: &Target) {
    let mut http = Connection::open(target).await.unwrap();
    http.exchange(&Request::get("/v1/channels/open:other/presence"))
        .await
        .unwrap()
        .expect_status(200)
        .unwrap();
}

/// Every connection was ended, with the word for it.
fn assert_calmed(tallies: &[Tally]) {
    assert!(tallies.iter().all(|tally| tally.ended == Some(ENHANCE_YOUR_CALM)), "{tallies:?}");
}

/// CVE-2024-27316 and its family: a header block that never ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn continuations_without_end() {
    let begin = h2::frame(kind::HEADERS, flag::END_STREAM, 1, &h2::block(&fields("GET", MESSAGES, &[])));
    let large = h2::frame(kind::CONTINUATION, 0, 1, &h2::block(&[("x", "y".repeat(1000))]));
    assert_calmed(&endure("continuations", begin.clone(), move |_| large.repeat(10), true).await);
    let empty = h2::frame(kind::CONTINUATION, 0, 1, b"");
    assert_calmed(&endure("empty continuations", begin, move |_| empty.repeat(100), true).await);
}

/// CVE-2023-44487, rapid reset.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_are_reset_at_once() {
    let round = |round: u32| {
        let streams = (0..100).map(|index| 1 + 2 * (round * 100 + index));
        streams.flat_map(|stream| [get(stream), h2::reset(stream, CANCEL)].concat()).collect()
    };
    assert_calmed(&endure("rapid reset", Vec::new(), round, true).await);
}

/// The same with the server made to reset them (CVE-2025-8671): bodies that are longer than they said.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_the_server_has_to_reset() {
    let round = |round: u32| {
        let streams = (0..100).map(|index| 1 + 2 * (round * 100 + index));
        let lying = |stream| {
            let head = headers(stream, 0, &fields("POST", MESSAGES, &[("content-length", "1")]));
            [head, data(stream, 0, b"12345")].concat()
        };
        streams.flat_map(lying).collect()
    };
    assert_calmed(&endure("made to reset", Vec::new(), round, true).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pings_and_settings() {
    endure("pings", Vec::new(), |_| ping().repeat(100), true).await;
    endure("pings, and nothing is read", Vec::new(), |_| ping().repeat(100), false).await;
    let change = |n: u32| h2::settings(&[(setting::INITIAL_WINDOW_SIZE, n % 65_535), (0x2a, n)]).repeat(100);
    endure("settings", Vec::new(), change, true).await;
    endure("settings, and nothing is read", Vec::new(), change, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_and_priorities_of_nothing() {
    endure("empty data", post(1), |_| data(1, 0, b"").repeat(100), true).await;
    let padding = [&[255][..], &[0; 255]].concat();
    endure("padding", post(1), move |_| data(1, flag::PADDED, &padding).repeat(20), true).await;
    let priority = |n: u32| h2::frame(kind::PRIORITY, 0, 1 + 2 * n, &[0, 0, 0, 0, 1]).repeat(100);
    endure("priorities", Vec::new(), priority, true).await;
    endure("window updates", Vec::new(), |_| h2::window_update(0, 1).repeat(100), true).await;
}

/// Header blocks that are small on the wire and large in memory (RFC 7541 §7.3): a field of 4 KB in the dynamic table,
/// named again and again with one byte each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fields_that_are_only_referred_to() {
    let round = |round: u32| {
        let mut bytes = Vec::new();
        for index in 0..10 {
            let mut block = h2::block(&fields("GET", MESSAGES, &[]));
            // A literal with indexing, then the newest entry of the dynamic table.
            let field = h2::block(&[("x", "y".repeat(3900))]);
            block.push(0x40);
            block.extend_from_slice(&field[1..]);
            block.extend_from_slice(&[0xbe; 4000]);
            let stream = 1 + 2 * (round * 10 + index);
            bytes.extend(h2::frame(kind::HEADERS, flag::END_STREAM | flag::END_HEADERS, stream, &block));
        }
        bytes
    };
    endure("references", Vec::new(), round, true).await;
}

/// Requests whose answers nobody takes, on windows that never open: no more of them are made than one connection may
/// have waiting (`limits.queue_bytes`), and one after the other is given up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_nobody_takes() {
    const QUEUE: u64 = 1 << 20;
    const PAGE: u64 = 256 << 10;
    let settings = settings().set("limits.write_timeout", "1s").set("limits.queue_bytes", QUEUE);
    let edge = Edge::start(&settings).await.unwrap();
    let mut http = Connection::open(&edge.target).await.unwrap();
    for _ in 0..64 {
        let post = Request::post(MESSAGES, &serde_json::json!("x".repeat(4000)));
        http.exchange(&post).await.unwrap().expect_status(201).unwrap();
    }
    let before = edge.own_process().memory().unwrap().rss_bytes;
    let mut held = Vec::new();
    for _ in 0..CLIENTS {
        let mut h2 = H2::open(&edge.target, &[(setting::INITIAL_WINDOW_SIZE, 0)]).await.unwrap();
        let path = format!("{MESSAGES}?limit=1000");
        for index in 0..100 {
            h2.write(&headers(1 + 2 * index, flag::END_STREAM, &fields("GET", &path, &[]))).await.unwrap();
        }
        held.push(h2);
    }
    let begun = Instant::now();
    let (mut highest, mut resets, mut answers) = (0, 0, 0);
    while begun.elapsed() < Duration::from_secs(10) {
        highest = edge.own_process().memory().unwrap().rss_bytes.max(highest);
        for h2 in &mut held {
            while let Ok(Ok(Some(frame))) = timeout(Duration::from_millis(20), h2.next()).await {
                resets += usize::from(frame.kind == kind::RST_STREAM);
                answers += usize::from(frame.kind == kind::HEADERS);
            }
        }
    }
    println!("answers that nobody takes: memory {before}, {highest}; {answers} answers, {resets} resets");
    let most = CLIENTS as u64 * (QUEUE + 2 * PAGE) + DURING;
    assert!(highest <= before + most, "{} bytes more", highest - before);
    // Those for which there was no room are told so, and nobody takes that either.
    assert_eq!((answers, resets), (100 * CLIENTS, 100 * CLIENTS));
    others_once(&edge.target).await;
    // Who takes after all is served on the same connection.
    let mut late = held.pop().unwrap();
    let opened =
        [h2::window_update(0, 1 << 30), h2::settings(&[(setting::INITIAL_WINDOW_SIZE, 1 << 24)])].concat();
    late.write(&opened).await.unwrap();
    late.write(&headers(201, flag::END_STREAM, &fields("GET", MESSAGES, &[]))).await.unwrap();
    loop {
        let frame =
            timeout(Duration::from_secs(10), late.next()).await.expect("it goes on").unwrap().unwrap();
        if frame.kind == kind::DATA && frame.has(flag::END_STREAM) {
            break;
        }
    }
}
