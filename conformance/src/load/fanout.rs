//! One publisher, many subscribers, a steady rate: how many deliveries, whether any is lost, doubled or out of
//! order, how late they are, and what each costs the server. The rate is kept whatever the server does, and a
//! message is late from when it was due, so that a stall of the publisher is not left out of the latencies.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::{Histogram, dial};
use crate::edge::Process;
use crate::envelope::{self, Said};
use crate::feed::{Feed, Start, Subscription, Transport};
use crate::wire::{Dial, Target, WebSocket, WireError};

/// How much of it.
#[derive(Clone, Debug)]
pub struct FanOut {
    /// Over which transport.
    pub transport: Transport,
    /// How many subscribers.
    pub subscribers: usize,
    /// Messages per second.
    pub rate: u32,
    /// For how long.
    pub duration: Duration,
    /// Size of a message's `data`, in bytes; at least 64.
    pub data_bytes: usize,
}

/// What came of it.
#[derive(Debug, Default, Serialize)]
pub struct FanOutReport {
    /// Over which transport.
    pub transport: Option<Transport>,
    /// Subscribers that were joined.
    pub subscribers: usize,
    /// Messages that were published and acknowledged.
    pub published: u64,
    /// Deliveries that there had to be.
    pub expected: u64,
    /// Deliveries that there were.
    pub delivered: u64,
    /// Messages that did not come, or not within ten seconds.
    pub lost: u64,
    /// Messages that came again, or after a later one.
    pub twice_or_disordered: u64,
    /// Subscribers that ended early, or could not join.
    pub failed: usize,
    /// Why the first of them failed.
    pub first_failure: Option<String>,
    /// Latency from when a message was due.
    pub p50_ms: f64,
    /// The same.
    pub p90_ms: f64,
    /// The same.
    pub p99_ms: f64,
    /// The longest.
    pub max_ms: f64,
    /// By how much the publisher itself was late at most.
    pub publisher_late_ms: f64,
    /// CPU time of the server, user and kernel, for one delivery.
    pub server_cpu_us_per_delivery: Option<f64>,
    /// CPU time of this program for one delivery, to see whether it stood in its own light.
    pub load_cpu_us_per_delivery: f64,
}

/// What one subscriber saw.
#[derive(Default)]
struct Seen {
    latencies: Histogram,
    delivered: u64,
    distinct: u64,
    again: u64,
    last: u64,
    failure: Option<WireError>,
}

#[derive(Deserialize)]
struct Data {
    n: u64,
    due: u64,
}

/// How long the last message may take to the last subscriber.
const PATIENCE: Duration = Duration::from_secs(10);

/// Joins all subscribers, publishes, and waits for the last delivery.
///
/// # Errors
/// When the publisher fails, or the server's process can't be looked at.
///
/// # Panics
/// If one of its own tasks does.
pub async fn fan_out(
    target: &Target,
    process: Option<&Process>,
    plan: &FanOut,
) -> Result<FanOutReport, WireError> {
    let channel = format!("fanout:{:08x}", rand::random::<u32>());
    let total = u64::from(plan.rate) * plan.duration.as_secs();
    let (joined, mut joins) = mpsc::channel(1024);
    let permits = Arc::new(Semaphore::new(64));
    let mut subscribers = JoinSet::new();
    for index in 0..plan.subscribers {
        let subscription = Subscription {
            target: target.clone(),
            dial: dial(index),
            token: target.tokens.user(&format!("fanout-{index}")),
            channels: vec![channel.clone()],
            poll_wait: 60,
        };
        let (permits, joined) = (Arc::clone(&permits), joined.clone());
        subscribers.spawn(follow(subscription, plan.transport, total, plan.duration, permits, joined));
    }
    drop(joined);
    let mut report = FanOutReport { transport: Some(plan.transport), ..FanOutReport::default() };
    // Each tells it once; one that fails before drops its end.
    while joins.recv().await.is_some() {
        report.subscribers += 1;
    }

    let this = Process::of_this_check();
    let (server_before, this_before) = (process.map(Process::cpu).transpose()?, this.cpu()?);
    let late = publish(target, &channel, plan, total).await?;
    report.published = total;
    report.publisher_late_ms = ms(late);
    let mut latencies = Histogram::default();
    while let Some(seen) = subscribers.join_next().await {
        report.add(seen.expect("a subscriber does not panic"), &mut latencies);
    }
    report.expected = total * report.subscribers as u64;
    report.lost = report.expected.saturating_sub(report.delivered - report.twice_or_disordered);
    let each = |spent: Duration| spent.as_secs_f64() * 1e6 / precise(report.delivered.max(1));
    report.load_cpu_us_per_delivery = each(this.cpu()?.saturating_sub(this_before));
    if let (Some(process), Some(before)) = (process, server_before) {
        report.server_cpu_us_per_delivery = Some(each(process.cpu()?.saturating_sub(before)));
    }
    let at = |share| ms(latencies.quantile(share));
    (report.p50_ms, report.p90_ms, report.p99_ms, report.max_ms) = (at(0.5), at(0.9), at(0.99), at(1.0));
    Ok(report)
}

impl FanOutReport {
    /// Whether everything came once and in order to everybody.
    pub fn is_clean(&self) -> bool {
        self.lost == 0 && self.twice_or_disordered == 0 && self.failed == 0
    }

    fn add(&mut self, seen: Seen, latencies: &mut Histogram) {
        self.delivered += seen.delivered;
        self.twice_or_disordered += seen.again;
        latencies.merge(&seen.latencies);
        if let Some(error) = seen.failure {
            self.failed += 1;
            self.first_failure.get_or_insert_with(|| error.to_string());
        }
    }
}

/// Publishes at the times of the plan and returns how late it was at most.
async fn publish(target: &Target, channel: &str, plan: &FanOut, total: u64) -> Result<Duration, WireError> {
    let token = target.tokens.server("publisher");
    let mut socket = WebSocket::open(target, Dial::default(), "/v1/ws", &token).await?;
    let begin = Instant::now() + Duration::from_millis(100);
    let wall = micros_now() + 100_000;
    let interval = Duration::from_secs(1) / plan.rate;
    let (mut acknowledged, mut late) = (0, Duration::ZERO);
    for n in 1..=total {
        let offset = interval * u32::try_from(n).expect("fewer than 2^32 messages");
        let due = begin + offset;
        while let Ok(text) = timeout_at(due, socket.text()).await {
            acknowledged += u64::from(is_ack(&text?)?);
        }
        sleep_until(due).await;
        late = late.max(due.elapsed());
        let due = wall + u64::try_from(offset.as_micros()).expect("a run of hours");
        let mut data = json!({"n": n, "due": due, "pad": ""});
        let pad = plan.data_bytes.saturating_sub(data.to_string().len());
        data["pad"] = "x".repeat(pad).into();
        socket.send(&envelope::message(channel, &format!("{channel}-{n}"), &data).to_string()).await?;
    }
    let end = Instant::now() + PATIENCE;
    while acknowledged < total {
        let text = timeout_at(end, socket.text()).await.map_err(|_| WireError::Timeout)??;
        acknowledged += u64::from(is_ack(&text)?);
    }
    Ok(late)
}

fn is_ack(text: &[u8]) -> Result<bool, WireError> {
    match envelope::read(text)? {
        Said::Ack(_) => Ok(true),
        Said::Error(error) => Err(WireError::Protocol(format!("a publish was refused: {error:?}"))),
        _ => Ok(false),
    }
}

async fn follow(
    subscription: Subscription,
    transport: Transport,
    total: u64,
    duration: Duration,
    permits: Arc<Semaphore>,
    joined: mpsc::Sender<()>,
) -> Seen {
    let mut seen = Seen::default();
    if let Err(error) = read_all(&subscription, transport, total, duration, &permits, joined, &mut seen).await
    {
        seen.failure = Some(error);
    }
    seen
}

async fn read_all(
    subscription: &Subscription,
    transport: Transport,
    total: u64,
    duration: Duration,
    permits: &Semaphore,
    joined: mpsc::Sender<()>,
    seen: &mut Seen,
) -> Result<(), WireError> {
    let permit = permits.acquire().await.expect("it is never closed");
    let mut feed = Feed::open(subscription, transport, &Start::Fresh).await?;
    let mut waiting = Some((permit, joined));
    // Others may take a minute to join; after the first message the run has its length.
    let mut end = Instant::now() + Duration::from_mins(2);
    let mut envelopes = VecDeque::new();
    while seen.distinct < total {
        match timeout_at(end, feed.next(&mut envelopes)).await {
            Ok(next) => next?,
            // What is missing shows in the counts.
            Err(_) => return Ok(()),
        };
        let now = micros_now();
        while let Some(text) = envelopes.pop_front() {
            match envelope::read(&text)? {
                Said::Joined(_) => {
                    if let Some((_, joined)) = waiting.take() {
                        let _ = joined.send(()).await;
                    }
                }
                Said::Message(message) => {
                    if seen.delivered == 0 {
                        end = Instant::now() + duration + PATIENCE;
                    }
                    let data = serde_json::from_str(message.data.get());
                    seen.add(now, &data.map_err(|_| WireError::Protocol("data that nobody sent".into()))?);
                }
                Said::Error(error) => return Err(WireError::Protocol(format!("{error:?}"))),
                Said::Gap(gap) => return Err(WireError::Protocol(format!("{gap:?}"))),
                Said::Ack(_) | Said::Other(_) => {}
            }
        }
    }
    Ok(())
}

impl Seen {
    fn add(&mut self, now: u64, data: &Data) {
        self.delivered += 1;
        if data.n > self.last {
            self.last = data.n;
            self.distinct += 1;
        } else {
            self.again += 1;
        }
        self.latencies.record(Duration::from_micros(now.saturating_sub(data.due)));
    }
}

/// Publisher and subscribers are one process: the wall clock is the same for both.
fn micros_now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    u64::try_from(now.as_micros()).expect("it is before the year 500,000")
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[expect(clippy::cast_precision_loss, reason = "fewer than 2^52 deliveries")]
fn precise(count: u64) -> f64 {
    count as f64
}
