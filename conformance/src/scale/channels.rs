//! Very many channels on one node: what each costs the edge and the `nats-server`, how fast they are joined, whether
//! messages arrive in them, and how long it takes until all are known to be complete after NATS was restarted.

use std::time::Duration;

use serde::Serialize;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use super::{ScaleError, joined};
use crate::edge::{Process, Settings};
use crate::edges::{Edges, Node};
use crate::envelope::{self, Said};
use crate::nats::{Nats, Options};
use crate::wire::{Connection, Dial, Request, Target, WebSocket, WireError};

/// How much of it.
#[derive(Clone, Debug)]
pub struct ChannelsPlan {
    /// How many channels.
    pub channels: usize,
    /// Of how many of them each connection joins.
    pub per_connection: usize,
}

/// What came of it.
#[derive(Debug, Default, Serialize)]
#[expect(missing_docs, reason = "each name says it")]
pub struct ChannelsReport {
    pub channels: usize,
    pub subscriptions: u64,
    pub join_seconds: f64,
    pub edge_bytes_per_channel: f64,
    pub edge_pss_mb: f64,
    pub nats_bytes_per_channel: f64,
    pub sampled: usize,
    pub arrived: usize,
    /// From the restart of NATS until a message went through again.
    pub reconnect_seconds: f64,
    /// From the restart of NATS until every channel was compared with the stream.
    pub compared_seconds: f64,
    pub arrived_after_restart: usize,
}

const PATIENCE: Duration = Duration::from_mins(5);
/// Channels that messages are sent to.
const SAMPLE: usize = 200;

/// Measures it.
///
/// # Errors
/// [`ScaleError`].
pub async fn many_channels(settings: &Settings, plan: &ChannelsPlan) -> Result<ChannelsReport, ScaleError> {
    let settings = settings
        .clone()
        .set("limits.channels_per_connection", plan.per_connection)
        .set("channels.default.presence", false)
        // Nobody here answers pings while others join.
        .set("heartbeat.interval", "1h");
    let mut nats = Nats::start(&Options::default()).await?;
    let edges = Edges::start(1, &[nats.addr()], &settings).await?;
    let node = &edges.nodes[0];
    let (edge, server) = (Process::new(node.running()?.pid()?), Process::new(nats.pid()?));
    let before = (edge.memory()?.pss_bytes, server.memory()?.pss_bytes);
    let names: Vec<String> = (0..plan.channels).map(|n| format!("room:{n}")).collect();
    let begun = Instant::now();
    let mut sockets = Vec::new();
    for (index, piece) in names.chunks(plan.per_connection).enumerate() {
        sockets.push(joined(&node.target, &format!("user{index}"), piece).await?);
    }
    let mut report = ChannelsReport {
        channels: plan.channels,
        join_seconds: begun.elapsed().as_secs_f64(),
        ..ChannelsReport::default()
    };
    sleep(Duration::from_secs(3)).await;
    let after = (edge.memory()?.pss_bytes, server.memory()?.pss_bytes);
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
    let each = |before: u64, after: u64| after.saturating_sub(before) as f64 / plan.channels as f64;
    report.edge_bytes_per_channel = each(before.0, after.0);
    report.nats_bytes_per_channel = each(before.1, after.1);
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
    let pss = after.0 as f64 / 1e6;
    report.edge_pss_mb = pss;
    report.subscriptions = metric(node, "tidegate_bus_subscriptions").await?;
    report.sampled = SAMPLE.min(plan.channels);
    report.arrived = sample(&node.target, &mut sockets, plan).await?;

    let compared = "tidegate_bus_events_total{event=\"compared\"}";
    nats.kill();
    sleep(Duration::from_secs(1)).await;
    let already = metric(node, compared).await?;
    nats.restart().await?;
    let back = Instant::now();
    while !node.is_ready().await {
        hope(back, "the edge is not ready again")?;
    }
    report.reconnect_seconds = back.elapsed().as_secs_f64();
    while metric(node, compared).await? < already + plan.channels as u64 {
        hope(back, "not all channels were compared")?;
        sleep(Duration::from_millis(100)).await;
    }
    report.compared_seconds = back.elapsed().as_secs_f64();
    report.arrived_after_restart = sample(&node.target, &mut sockets, plan).await?;
    Ok(report)
}

fn hope(since: Instant, what: &str) -> Result<(), ScaleError> {
    if since.elapsed() < PATIENCE { Ok(()) } else { Err(ScaleError::TooLong(what.to_owned())) }
}

/// Publishes to channels all over, and counts those whose subscriber was given the message.
async fn sample(
    target: &Target,
    sockets: &mut [WebSocket],
    plan: &ChannelsPlan,
) -> Result<usize, ScaleError> {
    let token = target.tokens.server("publisher");
    let mut publisher = WebSocket::open(target, Dial::default(), "/v1/ws", &token).await?;
    let mut arrived = 0;
    let samples = SAMPLE.min(plan.channels);
    for n in 0..samples {
        let index = n * plan.channels / samples;
        let channel = format!("room:{index}");
        let id = format!("{:032x}", rand::random::<u128>());
        publisher.send(&envelope::message(&channel, &id, &json!(n)).to_string()).await?;
        while !matches!(envelope::read(&publisher.text().await?)?, Said::Ack(_)) {}
        let socket = &mut sockets[index / plan.per_connection];
        let heard = async {
            loop {
                let text = socket.text().await?;
                if matches!(envelope::read(&text)?, Said::Message(message) if message.message_id == id) {
                    return Ok::<_, WireError>(());
                }
            }
        };
        arrived += usize::from(matches!(timeout(Duration::from_secs(10), heard).await, Ok(Ok(()))));
    }
    Ok(arrived)
}

/// One number of the edge's metrics; 0 for a series that is not there.
async fn metric(node: &Node, series: &str) -> Result<u64, ScaleError> {
    let admin = node.running()?.admin.clone();
    let admin = admin.ok_or_else(|| ScaleError::TooLong("the edge has no admin listener".to_owned()))?;
    let response = Connection::open(&admin).await?.exchange(&Request::get("/metrics")).await?;
    let page = String::from_utf8_lossy(&response.body).into_owned();
    let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')).unwrap_or("0");
    Ok(line.trim().parse().unwrap_or(0))
}
