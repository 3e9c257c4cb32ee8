//! Clients that join a busy channel and do not read: each costs at most `limits.queue_bytes`, none delays anybody
//! else, and whoever reads again finds the messages in order, with what is missing said aloud. It always starts
//! its own server, since it must look at the process.
#![expect(clippy::unwrap_used, reason = "in a check a failed unwrap is the report")]

use std::collections::VecDeque;
use std::time::Duration;

use conformance::edge::{Edge, Settings};
use conformance::envelope::{self, Said};
use conformance::feed::{Feed, Start, Subscription, Transport};
use conformance::ledger::{Entry, Ledger};
use conformance::load::Histogram;
use conformance::wire::{Dial, Target, WebSocket, WireError};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

const BUSY: &str = "busy:1";
const STUCK: usize = 36;
const QUEUE_BYTES: u64 = 262_144;
/// Messages of 16 KB, 100 a second: more than all buffers of the kernel, soon.
const RATE: u32 = 100;
const DATA_BYTES: usize = 16_384;
const SECONDS: u32 = 12;
/// What everything else that happens meanwhile may cost, the one log included, in bytes.
const REST: u64 = 12 << 20;

/// One reader's end.
struct Read {
    ledger: Ledger,
    latencies: Histogram,
    /// Why it ended before it had everything, if it did.
    ended: Option<WireError>,
}

/// History holds two seconds: a healthy reader outlasts a stall of the machine, a stuck one falls off all the same.
fn settings() -> Settings {
    Settings::open()
        .set("limits.queue_bytes", QUEUE_BYTES)
        .set("limits.write_timeout", "4s")
        .set("channels.default.history_size", 200)
}

fn subscription(target: &Target, user: &str, receive_buffer: Option<u32>) -> Subscription {
    Subscription {
        target: target.clone(),
        dial: Dial { source: None, receive_buffer },
        token: target.tokens.user(user),
        channels: vec![BUSY.to_owned()],
        poll_wait: 20,
    }
}

async fn publish(target: Target, begin: Instant, total: u64) -> Vec<Entry> {
    let token = target.tokens.server("busy");
    let mut socket = WebSocket::open(&target, Dial::default(), "/v1/ws", &token).await.unwrap();
    let pad = "x".repeat(DATA_BYTES);
    let mut log = Vec::new();
    for n in 1..=total {
        sleep_until(begin + Duration::from_secs(1) * u32::try_from(n).unwrap() / RATE).await;
        let due = u64::try_from((Instant::now() - begin).as_micros()).unwrap();
        let data = json!({"n": n, "due": due, "pad": pad});
        socket.send(&envelope::message(BUSY, &format!("busy-{n}"), &data).to_string()).await.unwrap();
        loop {
            match envelope::read(&socket.text().await.unwrap()).unwrap() {
                Said::Ack(ack) => break log.push(Entry { n, seq: ack.position.seq }),
                Said::Error(error) => panic!("{error:?}"),
                _ => {}
            }
        }
    }
    log
}

/// Reads until it has seen the last message, is ended, or `end` has come.
async fn read(
    feed: &mut Feed,
    read: &mut Read,
    begin: Instant,
    total: u64,
    end: Instant,
) -> Result<(), WireError> {
    let mut envelopes = VecDeque::new();
    loop {
        timeout_at(end, feed.next(&mut envelopes)).await.map_err(|_| WireError::Timeout)??;
        while let Some(text) = envelopes.pop_front() {
            match envelope::read(&text)? {
                Said::Joined(joined) => {
                    read.ledger.join(joined.position, joined.recovered).map_err(WireError::Protocol)?;
                }
                Said::Gap(gap) => read.ledger.gap(gap.first.seq),
                Said::Message(message) => {
                    let data: Value = serde_json::from_str(message.data.get()).unwrap();
                    let (n, due) = (data["n"].as_u64().unwrap(), data["due"].as_u64().unwrap());
                    let now = Instant::now() - begin;
                    read.latencies.record(now.saturating_sub(Duration::from_micros(due)));
                    let entry = Entry { n, seq: message.seq };
                    read.ledger.message(&message.epoch, message.prev, entry).map_err(WireError::Protocol)?;
                    if n == total {
                        return Ok(());
                    }
                }
                Said::Error(error) => {
                    return Err(WireError::Closed { code: Some(error.code), reason: error.reason });
                }
                _ => {}
            }
        }
    }
}

fn fresh() -> Read {
    Read { ledger: Ledger::default(), latencies: Histogram::default(), ended: None }
}

/// Joins, then does not read until it's told, then reads what there is.
async fn stuck(
    subscription: Subscription,
    transport: Transport,
    begin: Instant,
    total: u64,
    mut wake: watch::Receiver<bool>,
) -> Read {
    let mut seen = fresh();
    let mut feed = Feed::open(&subscription, transport, &Start::Fresh).await.unwrap();
    // Until it is joined it reads; that is answered before anything is published.
    let joined = async {
        let mut envelopes = VecDeque::new();
        while seen.ledger.joined_at().is_none() {
            feed.next(&mut envelopes).await?;
            for text in envelopes.drain(..) {
                if let Said::Joined(joined) = envelope::read(&text)? {
                    seen.ledger.join(joined.position, joined.recovered).map_err(WireError::Protocol)?;
                }
            }
        }
        Ok::<_, WireError>(())
    };
    joined.await.unwrap();
    wake.wait_for(|awake| *awake).await.unwrap();
    let end = Instant::now() + Duration::from_secs(10);
    seen.ended = read(&mut feed, &mut seen, begin, total, end).await.err();
    seen
}

async fn healthy(subscription: Subscription, transport: Transport, begin: Instant, total: u64) -> Read {
    let mut seen = fresh();
    let end = begin + Duration::from_secs(u64::from(SECONDS) + 20);
    let mut feed = Feed::open(&subscription, transport, &Start::Fresh).await.unwrap();
    seen.ended = read(&mut feed, &mut seen, begin, total, end).await.err();
    seen
}

/// The server's resident memory at its highest, until the publisher is done.
async fn highest(edge: &Edge, mut done: watch::Receiver<bool>) -> u64 {
    let mut highest = 0;
    while timeout(Duration::from_millis(200), done.wait_for(|done| *done)).await.is_err() {
        highest = highest.max(edge.own_process().memory().unwrap().rss_bytes);
    }
    highest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cost_what_they_may_and_delay_nobody() {
    let mut edge = Edge::start(&settings()).await.unwrap();
    let target = edge.target.clone();
    let total = u64::from(RATE * SECONDS);
    // Joined all, then begun.
    let begin = Instant::now() + Duration::from_secs(3);
    let (wake, awake) = watch::channel(false);
    let (mut readers, mut stuck_ones) = (JoinSet::new(), JoinSet::new());
    for index in 0..STUCK {
        let transport = if index % 3 == 0 { Transport::Sse } else { Transport::WebSocket };
        let subscription = subscription(&target, &format!("stuck-{index}"), Some(4096));
        stuck_ones.spawn(stuck(subscription, transport, begin, total, awake.clone()));
    }
    for (index, transport) in Transport::ALL.into_iter().enumerate() {
        let subscription = subscription(&target, &format!("healthy-{index}"), None);
        readers.spawn(healthy(subscription, transport, begin, total));
    }
    sleep_until(begin - Duration::from_millis(500)).await;
    let before = edge.own_process().memory().unwrap().rss_bytes;

    let (log, highest) = tokio::join!(
        async {
            let log = publish(target, begin, total).await;
            wake.send(true).unwrap();
            log
        },
        highest(&edge, awake.clone()),
    );
    let grown = highest.saturating_sub(before);
    println!("{STUCK} stuck readers: memory grew by {grown} bytes at most");
    while let Some(seen) = readers.join_next().await {
        let seen = seen.unwrap();
        let (p99, max) = (seen.latencies.quantile(0.99), seen.latencies.quantile(1.0));
        println!("a healthy reader: {} messages, p99 {p99:?}, max {max:?}", seen.ledger.count());
        assert!(seen.ended.is_none(), "{:?}", seen.ended);
        assert!(seen.ledger.settle(&log).is_none(), "{:?}", seen.ledger.settle(&log));
        assert!(p99 < Duration::from_secs(1), "a healthy reader waits {p99:?}");
    }
    assert!(grown <= STUCK as u64 * QUEUE_BYTES + REST, "{grown} bytes for {STUCK} stuck readers");
    let mut told = 0;
    while let Some(seen) = stuck_ones.join_next().await {
        let seen = seen.unwrap();
        let faults = seen.ledger.settle(&log);
        assert_eq!((faults.twice, faults.disordered, faults.chain_broken), (0, 0, 0), "{:?}", seen.ended);
        assert!(!matches!(seen.ended, Some(WireError::Protocol(_))), "{:?}", seen.ended);
        // Lost without being told would be: nothing ended, no gap, and not everything there.
        assert!(faults.lost == 0 || faults.gaps > 0 || seen.ended.is_some(), "{faults:?}");
        told += usize::from(faults.gaps > 0 || seen.ended.is_some());
    }
    println!("{told} of {STUCK} were ended or told of a gap");
    assert!(told >= STUCK / 2, "the buffers took it all: this has proved nothing");
    assert!(edge.is_alive() && edge.panics().is_empty(), "{:?}", edge.panics());
}

/// Stops for less than `write_timeout` again and again: that is slow, not stuck.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_again_finds_order_and_no_silent_hole() {
    let edge = Edge::start(&settings()).await.unwrap();
    let total = u64::from(RATE * SECONDS / 2);
    let begin = Instant::now() + Duration::from_secs(2);
    let mut pausing = JoinSet::new();
    for index in 0..12 {
        let transport = Transport::ALL[index % 3];
        let subscription = subscription(&edge.target, &format!("pausing-{index}"), Some(65_536));
        pausing.spawn(async move {
            let mut seen = fresh();
            let mut feed = Feed::open(&subscription, transport, &Start::Fresh).await.unwrap();
            let last = begin + Duration::from_secs(u64::from(SECONDS) * 3);
            loop {
                let until = (Instant::now() + Duration::from_millis(300)).min(last);
                // A poll that is cut off by its reader's pause would be over.
                let until = if transport == Transport::Poll { last } else { until };
                match read(&mut feed, &mut seen, begin, total, until).await {
                    Ok(()) => break,
                    Err(WireError::Timeout) if Instant::now() < last => {
                        sleep(Duration::from_millis(1500)).await;
                    }
                    Err(error) => {
                        seen.ended = Some(error);
                        break;
                    }
                }
            }
            (transport, seen)
        });
    }
    let log = publish(edge.target.clone(), begin, total).await;
    while let Some(seen) = pausing.join_next().await {
        let (transport, seen) = seen.unwrap();
        let faults = seen.ledger.settle(&log);
        println!("{transport}: {} messages, {faults:?}, ended {:?}", seen.ledger.count(), seen.ended);
        assert!(seen.ended.is_none(), "{transport}: {:?}", seen.ended);
        assert_eq!((faults.twice, faults.disordered, faults.chain_broken), (0, 0, 0), "{transport}");
        assert!(faults.lost == 0 || faults.gaps > 0, "{transport}: {} lost in silence", faults.lost);
    }
    assert!(edge.panics().is_empty(), "{:?}", edge.panics());
}
