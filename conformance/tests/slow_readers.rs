//! Clients that join a busy channel and do not read: each costs at most `limits.queue_bytes`, none delays anybody
//! else, and whoever reads again finds the messages in order, with what is missing said aloud. It always starts
//! its own server, since it must look at the process.
#![expect(clippy::unwrap_used, reason = "in a check a failed unwrap is the report")]

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use conformance::edge::{Edge, Settings};
use conformance::envelope::{self, Said};
use conformance::feed::{Feed, Start, Subscription, Transport};
use conformance::ledger::{Entry, Ledger};
use conformance::load::Histogram;
use conformance::wire::{Dial, Target, WebSocket, WireError};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout, timeout_at};

const BUSY: &str = "busy:1";
const STUCK: usize = 36;
const QUEUE_BYTES: u64 = 262_144;
/// Messages of 16 KB, 100 a second: more than all buffers of the kernel, soon.
const RATE: u32 = 100;
const DATA_BYTES: usize = 16_384;
const SECONDS: u32 = 12;
/// How many messages a healthy reader may be behind the publisher, but for one reading in a hundred. Counted and not
/// timed: where there is little CPU to be had, all are late together.
const BEHIND: u64 = 20;
/// What a check may take on a machine that is busy otherwise. Only who waits in vain waits for so long.
const MOST: Duration = Duration::from_mins(3);
/// Messages that a pausing reader reads at least before it pauses again: more than its receive buffer holds.
const PROGRESS: usize = 8;
/// What everything else that happens meanwhile may cost, the one log included, in bytes.
const REST: u64 = 12 << 20;

/// What publisher and readers have in common.
struct Stage {
    target: Target,
    begun: Instant,
    /// A permit for each reader that has joined.
    joined: Semaphore,
    /// The last message that was acknowledged.
    published: AtomicU64,
}

/// One reader's end.
#[derive(Default)]
struct Read {
    ledger: Ledger,
    latencies: Histogram,
    /// How many messages it was behind the publisher, at each that it got.
    behind: Vec<u64>,
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

impl Stage {
    fn on(edge: &Edge) -> Arc<Self> {
        let (joined, published) = (Semaphore::new(0), AtomicU64::new(0));
        Arc::new(Self { target: edge.target.clone(), begun: Instant::now(), joined, published })
    }

    /// Until so many readers have joined.
    async fn has_joined(&self, readers: usize) {
        let readers = u32::try_from(readers).unwrap();
        let all = timeout(MOST, self.joined.acquire_many(readers)).await;
        all.expect("all readers join").unwrap().forget();
    }

    /// At the rate, or more slowly where the machine can't keep up: what is late is not made up for.
    async fn publish(&self, total: u64) -> Vec<Entry> {
        let token = self.target.tokens.server("busy");
        let mut socket = WebSocket::open(&self.target, Dial::default(), "/v1/ws", &token).await.unwrap();
        let pad = "x".repeat(DATA_BYTES);
        let mut log = Vec::new();
        let mut pace = interval(Duration::from_secs(1) / RATE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for n in 1..=total {
            pace.tick().await;
            let sent = u64::try_from(self.begun.elapsed().as_micros()).unwrap();
            let data = json!({"n": n, "sent": sent, "pad": pad});
            socket.send(&envelope::message(BUSY, &format!("busy-{n}"), &data).to_string()).await.unwrap();
            loop {
                match envelope::read(&socket.text().await.unwrap()).unwrap() {
                    Said::Ack(ack) => break log.push(Entry { n, seq: ack.position.seq }),
                    Said::Error(error) => panic!("{error:?}"),
                    _ => {}
                }
            }
            self.published.store(n, Ordering::Relaxed);
        }
        log
    }
}

impl Read {
    /// Opens a feed and reads until it's joined, which is answered before anything is published.
    async fn join(&mut self, stage: &Stage, subscription: &Subscription, transport: Transport) -> Feed {
        let joined = async {
            let mut feed = Feed::open(subscription, transport, &Start::Fresh).await?;
            let mut envelopes = VecDeque::new();
            while self.ledger.joined_at().is_none() {
                feed.next(&mut envelopes).await?;
                for text in envelopes.drain(..) {
                    if let Said::Joined(joined) = envelope::read(&text)? {
                        self.ledger.join(joined.position, joined.recovered).map_err(WireError::Protocol)?;
                    }
                }
            }
            Ok::<_, WireError>(feed)
        };
        let feed = joined.await.unwrap();
        stage.joined.add_permits(1);
        feed
    }

    /// Reads until it has seen the last message, is ended, or `end` has come.
    async fn on(
        &mut self,
        feed: &mut Feed,
        stage: &Stage,
        total: u64,
        end: Instant,
    ) -> Result<(), WireError> {
        let mut envelopes = VecDeque::new();
        loop {
            timeout_at(end, feed.next(&mut envelopes)).await.map_err(|_| WireError::Timeout)??;
            while let Some(text) = envelopes.pop_front() {
                match envelope::read(&text)? {
                    Said::Joined(joined) => {
                        self.ledger.join(joined.position, joined.recovered).map_err(WireError::Protocol)?;
                    }
                    Said::Gap(gap) => self.ledger.gap(gap.first.seq),
                    Said::Message(message) => {
                        let data: Value = serde_json::from_str(message.data.get()).unwrap();
                        let (n, sent) = (data["n"].as_u64().unwrap(), data["sent"].as_u64().unwrap());
                        let latency = stage.begun.elapsed().saturating_sub(Duration::from_micros(sent));
                        self.latencies.record(latency);
                        self.behind.push(stage.published.load(Ordering::Relaxed).saturating_sub(n));
                        let entry = Entry { n, seq: message.seq };
                        let taken = self.ledger.message(&message.epoch, message.prev, entry);
                        taken.map_err(WireError::Protocol)?;
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
}

/// Joins, then does not read until it's told, then reads what there is.
async fn stuck(
    stage: Arc<Stage>,
    subscription: Subscription,
    transport: Transport,
    total: u64,
    mut wake: watch::Receiver<bool>,
) -> Read {
    let mut seen = Read::default();
    let mut feed = seen.join(&stage, &subscription, transport).await;
    wake.wait_for(|awake| *awake).await.unwrap();
    seen.ended = seen.on(&mut feed, &stage, total, Instant::now() + MOST).await.err();
    seen
}

async fn healthy(stage: Arc<Stage>, subscription: Subscription, transport: Transport, total: u64) -> Read {
    let mut seen = Read::default();
    let mut feed = seen.join(&stage, &subscription, transport).await;
    seen.ended = seen.on(&mut feed, &stage, total, Instant::now() + MOST).await.err();
    seen
}

/// Reads for a while and pauses for a while, until it has seen the last message. A poll that is cut off by its
/// reader's pause would be over, so that it only polls.
async fn pausing(stage: Arc<Stage>, subscription: Subscription, transport: Transport, total: u64) -> Read {
    let mut seen = Read::default();
    let mut feed = seen.join(&stage, &subscription, transport).await;
    let last = Instant::now() + MOST;
    let mut before = 0;
    loop {
        let until = (Instant::now() + Duration::from_millis(300)).min(last);
        let until = if transport == Transport::Poll { last } else { until };
        match seen.on(&mut feed, &stage, total, until).await {
            Ok(()) => return seen,
            Err(WireError::Timeout) if Instant::now() < last => {
                // It has read indeed, and not been kept from it by a machine that is busy otherwise.
                if seen.ledger.count() >= before + PROGRESS {
                    before = seen.ledger.count();
                    sleep(Duration::from_millis(1500)).await;
                }
            }
            Err(error) => {
                seen.ended = Some(error);
                return seen;
            }
        }
    }
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
    let stage = Stage::on(&edge);
    let total = u64::from(RATE * SECONDS);
    let (wake, awake) = watch::channel(false);
    let (mut readers, mut stuck_ones) = (JoinSet::new(), JoinSet::new());
    for index in 0..STUCK {
        let transport = if index % 3 == 0 { Transport::Sse } else { Transport::WebSocket };
        let subscription = subscription(&stage.target, &format!("stuck-{index}"), Some(4096));
        stuck_ones.spawn(stuck(Arc::clone(&stage), subscription, transport, total, awake.clone()));
    }
    for (index, transport) in Transport::ALL.into_iter().enumerate() {
        let subscription = subscription(&stage.target, &format!("healthy-{index}"), None);
        readers.spawn(healthy(Arc::clone(&stage), subscription, transport, total));
    }
    stage.has_joined(STUCK + Transport::ALL.len()).await;
    let before = edge.own_process().memory().unwrap().rss_bytes;

    let (log, highest) = tokio::join!(
        async {
            let log = timeout(MOST, stage.publish(total)).await.expect("it keeps taking messages");
            wake.send(true).unwrap();
            log
        },
        highest(&edge, awake.clone()),
    );
    let grown = highest.saturating_sub(before);
    println!("{STUCK} stuck readers: memory grew by {grown} bytes at most");
    while let Some(seen) = readers.join_next().await {
        let mut seen = seen.unwrap();
        let (p99, max) = (seen.latencies.quantile(0.99), seen.latencies.quantile(1.0));
        println!("a healthy reader: {} messages, p99 {p99:?}, max {max:?}", seen.ledger.count());
        assert!(seen.ended.is_none(), "{:?}", seen.ended);
        assert!(seen.ledger.settle(&log).is_none(), "{:?}", seen.ledger.settle(&log));
        seen.behind.sort_unstable();
        let behind = seen.behind[seen.behind.len() * 99 / 100];
        println!("  behind by {behind} messages (p99), {:?} (max)", seen.behind.last());
        assert!(behind <= BEHIND, "a healthy reader is behind by {behind} messages");
    }
    assert!(grown <= STUCK as u64 * QUEUE_BYTES + REST, "{grown} bytes for {STUCK} stuck readers");
    let mut told = 0;
    while let Some(seen) = stuck_ones.join_next().await {
        let seen = seen.unwrap();
        let faults = seen.ledger.settle(&log);
        assert_eq!((faults.twice, faults.disordered, faults.chain_broken), (0, 0, 0), "{:?}", seen.ended);
        // Who is still waiting has neither been ended nor got the last message.
        assert!(!matches!(seen.ended, Some(WireError::Protocol(_) | WireError::Timeout)), "{:?}", seen.ended);
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
    let stage = Stage::on(&edge);
    let total = u64::from(RATE * SECONDS / 2);
    let mut readers = JoinSet::new();
    for index in 0..12 {
        let transport = Transport::ALL[index % 3];
        let subscription = subscription(&stage.target, &format!("pausing-{index}"), Some(65_536));
        let reader = pausing(Arc::clone(&stage), subscription, transport, total);
        readers.spawn(async move { (transport, reader.await) });
    }
    stage.has_joined(12).await;
    let log = timeout(MOST, stage.publish(total)).await.expect("it keeps taking messages");
    while let Some(seen) = readers.join_next().await {
        let (transport, seen) = seen.unwrap();
        let faults = seen.ledger.settle(&log);
        println!("{transport}: {} messages, {faults:?}, ended {:?}", seen.ledger.count(), seen.ended);
        assert!(seen.ended.is_none(), "{transport}: {:?}", seen.ended);
        assert_eq!((faults.twice, faults.disordered, faults.chain_broken), (0, 0, 0), "{transport}");
        assert!(faults.lost == 0 || faults.gaps > 0, "{transport}: {} lost in silence", faults.lost);
    }
    assert!(edge.panics().is_empty(), "{:?}", edge.panics());
}
