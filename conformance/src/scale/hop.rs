//! One message at a time from a publisher to a subscriber on the same node, on another node, and on a node without NATS,
//! beside the bare round trip through the same `nats-server`; then a fan-out to one node and to two.

use std::time::Duration;

use serde::Serialize;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::{ScaleError, joined, ms};
use crate::edge::{Edge, Process, Settings};
use crate::edges::Edges;
use crate::envelope::{self, Said};
use crate::load::Histogram;
use crate::nats::{Client, Nats, Options};
use crate::wire::{Dial, Target, WebSocket, WireError};

/// How much of it.
#[derive(Clone, Debug)]
pub struct HopPlan {
    /// Messages of each latency.
    pub messages: u32,
    /// Subscribers of the fan-outs, over all nodes.
    pub subscribers: usize,
    /// Messages of the fan-outs.
    pub burst: u32,
}

/// What came of it. Latencies in milliseconds: from before the send until the subscriber has read it.
#[derive(Debug, Default, Serialize)]
#[expect(missing_docs, reason = "each name says it")]
pub struct HopReport {
    pub nats_round_trip_p50_ms: f64,
    pub nats_round_trip_p99_ms: f64,
    pub embedded_p50_ms: f64,
    pub embedded_p99_ms: f64,
    pub same_node_p50_ms: f64,
    pub same_node_p99_ms: f64,
    pub other_node_p50_ms: f64,
    pub other_node_p99_ms: f64,
    pub added_over_nats_p50_ms: f64,
    pub added_over_nats_p99_ms: f64,
    pub one_node_deliveries_per_cpu_second: f64,
    pub one_node_seconds: f64,
    pub two_nodes_deliveries_per_cpu_second: f64,
    pub two_nodes_seconds: f64,
    pub nats_server_cpu_us_per_message: f64,
    pub lost: u64,
}

const PATIENCE: Duration = Duration::from_mins(1);
/// Between two messages of a latency: each meets an idle system.
const PAUSE: Duration = Duration::from_millis(5);
/// Publications that a fan-out's publisher has not had acknowledged at most.
const AHEAD: u32 = 256;

/// Measures all of it, one after the other.
///
/// # Errors
/// [`ScaleError`].
///
/// # Panics
/// If one of its own tasks does.
pub async fn hop(settings: &Settings, plan: &HopPlan) -> Result<HopReport, ScaleError> {
    let mut report = HopReport::default();
    let embedded = Edge::start(settings).await?;
    let one = latency(&embedded.target, &embedded.target, plan.messages).await?;
    (report.embedded_p50_ms, report.embedded_p99_ms) = quantiles(&one);
    drop(embedded);

    let nats = Nats::start(&Options::default()).await?;
    let bare = bare(&nats, plan.messages).await?;
    (report.nats_round_trip_p50_ms, report.nats_round_trip_p99_ms) = quantiles(&bare);
    let edges = Edges::start(2, &[nats.addr()], settings).await?;
    let targets = edges.targets();
    let same = latency(&targets[0], &targets[0], plan.messages).await?;
    (report.same_node_p50_ms, report.same_node_p99_ms) = quantiles(&same);
    let other = latency(&targets[0], &targets[1], plan.messages).await?;
    (report.other_node_p50_ms, report.other_node_p99_ms) = quantiles(&other);
    report.added_over_nats_p50_ms = report.other_node_p50_ms - report.nats_round_trip_p50_ms;
    report.added_over_nats_p99_ms = report.other_node_p99_ms - report.nats_round_trip_p99_ms;

    let server = Process::new(nats.pid()?);
    let mut processes = Vec::new();
    for node in &edges.nodes {
        processes.push(Process::new(node.running()?.pid()?));
    }
    let before = server.cpu()?;
    let one = fan_out(&targets[..1], &processes, plan).await?;
    let nats_cpu = server.cpu()?.saturating_sub(before);
    report.nats_server_cpu_us_per_message = nats_cpu.as_secs_f64() * 1e6 / f64::from(plan.burst);
    (report.one_node_deliveries_per_cpu_second, report.one_node_seconds) = (one.0, one.1);
    let two = fan_out(&targets, &processes, plan).await?;
    (report.two_nodes_deliveries_per_cpu_second, report.two_nodes_seconds) = (two.0, two.1);
    report.lost = one.2 + two.2;
    Ok(report)
}

async fn latency(from: &Target, to: &Target, messages: u32) -> Result<Histogram, ScaleError> {
    let channel = format!("hop:{:08x}", rand::random::<u32>());
    let mut subscriber = joined(to, "subscriber", std::slice::from_ref(&channel)).await?;
    let mut publisher = publisher(from).await?;
    let mut latencies = Histogram::default();
    for n in 0..messages + 20 {
        let id = format!("{channel}-{n}");
        let sent = Instant::now();
        publisher
            .send(&envelope::message(&channel, &id, &json!({"n": n, "pad": "x".repeat(100)})).to_string())
            .await?;
        loop {
            let text = timeout(PATIENCE, subscriber.text()).await.map_err(|_| WireError::Timeout)??;
            if matches!(envelope::read(&text)?, Said::Message(message) if message.message_id == id) {
                break;
            }
        }
        // The first ones open connections and fill caches.
        if n >= 20 {
            latencies.record(sent.elapsed());
        }
        while !matches!(envelope::read(&publisher.text().await?)?, Said::Ack(_)) {}
        sleep(PAUSE).await;
    }
    Ok(latencies)
}

/// From one client through the server to another.
async fn bare(nats: &Nats, messages: u32) -> Result<Histogram, ScaleError> {
    let mut subscriber = Client::connect(nats.addr(), json!({})).await?;
    subscriber.subscribe("hop").await?;
    let mut publisher = Client::connect(nats.addr(), json!({})).await?;
    let mut latencies = Histogram::default();
    for n in 0..messages + 20 {
        let sent = Instant::now();
        publisher.publish("hop", &[], &[b'x'; 128]).await?;
        subscriber.next().await?;
        if n >= 20 {
            latencies.record(sent.elapsed());
        }
        sleep(PAUSE).await;
    }
    Ok(latencies)
}

/// Deliveries per second of the edges' CPU, how long it took, and what did not arrive.
async fn fan_out(
    targets: &[Target],
    processes: &[Process],
    plan: &HopPlan,
) -> Result<(f64, f64, u64), ScaleError> {
    let channel = format!("hop:{:08x}", rand::random::<u32>());
    let mut subscribers = JoinSet::new();
    for index in 0..plan.subscribers {
        let target = &targets[index % targets.len()];
        let mut socket = joined(target, &format!("s{index}"), std::slice::from_ref(&channel)).await?;
        let burst = plan.burst;
        subscribers.spawn(async move {
            let mut left = burst;
            while left > 0 {
                let Ok(Ok(text)) = timeout(PATIENCE, socket.text()).await else { break };
                left -= u32::from(matches!(envelope::read(&text), Ok(Said::Message(_))));
            }
            left
        });
    }
    let cpu = || processes.iter().map(Process::cpu).sum::<Result<Duration, _>>();
    let (before, begun) = (cpu()?, Instant::now());
    let mut publisher = publisher(&targets[0]).await?;
    let mut acknowledged = 0;
    for n in 0..plan.burst {
        let data = json!({"n": n, "pad": "x".repeat(100)});
        publisher.send(&envelope::message(&channel, &format!("{channel}-{n}"), &data).to_string()).await?;
        while n + 1 - acknowledged >= AHEAD {
            acknowledged += u32::from(matches!(envelope::read(&publisher.text().await?)?, Said::Ack(_)));
        }
    }
    let mut lost = 0;
    while let Some(left) = subscribers.join_next().await {
        lost += u64::from(left.expect("a subscriber does not panic"));
    }
    let (took, spent) = (begun.elapsed(), cpu()?.saturating_sub(before));
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
    let deliveries = plan.subscribers as f64 * f64::from(plan.burst) - lost as f64;
    Ok((deliveries / spent.as_secs_f64(), took.as_secs_f64(), lost))
}

async fn publisher(target: &Target) -> Result<WebSocket, WireError> {
    WebSocket::open(target, Dial::default(), "/v1/ws", &target.tokens.server("publisher")).await
}

fn quantiles(latencies: &Histogram) -> (f64, f64) {
    (ms(latencies.quantile(0.5)), ms(latencies.quantile(0.99)))
}
