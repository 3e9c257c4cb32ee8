//! Many connections that do nothing: authenticated, joined to one channel, waiting. What they cost the server's
//! memory is measured, and then that they are alive, by one message that each of them must get.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde_json::json;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::dial;
use crate::edge::{Memory, Process};
use crate::envelope::{self, Said};
use crate::feed::{Feed, Start, Subscription, Transport};
use crate::wire::{Connection, Request, Target, WireError};

/// How many, and of what kind.
#[derive(Clone, Debug)]
pub struct Idle {
    /// Over which transport.
    pub transport: Transport,
    /// How many.
    pub connections: usize,
    /// How long the server is left alone before its memory is looked at.
    pub settle: Duration,
    /// Handshakes at once.
    pub at_once: usize,
}

/// What they cost.
#[derive(Debug, Serialize)]
pub struct IdleReport {
    /// Over which transport.
    pub transport: Transport,
    /// How many were joined.
    pub connections: usize,
    /// How many could not be opened, or ended before the measurement.
    pub failed: usize,
    /// Why the first of them failed.
    pub first_failure: Option<String>,
    /// How long it took to open them.
    pub opened_in_seconds: f64,
    /// The server's memory before.
    pub before: Option<Memory>,
    /// And with them.
    pub after: Option<Memory>,
    /// The difference of proportional memory, for each.
    pub bytes_per_connection: Option<u64>,
    /// How many got the message that was published then.
    pub reached: usize,
    /// How long that took.
    pub reached_in_ms: u64,
}

enum News {
    Joined,
    Reached,
    Failed(WireError),
}

/// Opens them, measures, publishes, closes.
///
/// # Errors
/// When the server's process can't be looked at, or the message not be published.
///
/// # Panics
/// If one of its own tasks does.
pub async fn idle(target: &Target, process: Option<&Process>, plan: &Idle) -> Result<IdleReport, WireError> {
    let before = process.map(Process::memory).transpose()?;
    let channel = format!("idle:{:08x}", rand::random::<u32>());
    let permits = Arc::new(Semaphore::new(plan.at_once));
    let (tell, mut news) = mpsc::channel(1024);
    let mut holders = JoinSet::new();
    let begun = Instant::now();
    for index in 0..plan.connections {
        let subscription = Subscription {
            target: target.clone(),
            dial: dial(index),
            token: target.tokens.user(&format!("idle-{index}")),
            channels: vec![channel.clone()],
            poll_wait: 60,
        };
        holders.spawn(hold(subscription, plan.transport, Arc::clone(&permits), tell.clone()));
    }
    drop(tell);

    let mut report = IdleReport {
        transport: plan.transport,
        connections: 0,
        failed: 0,
        first_failure: None,
        opened_in_seconds: 0.0,
        before,
        after: None,
        bytes_per_connection: None,
        reached: 0,
        reached_in_ms: 0,
    };
    while report.connections + report.failed < plan.connections {
        report.take(news.recv().await.expect("holders tell until they are dropped"));
    }
    report.opened_in_seconds = begun.elapsed().as_secs_f64();
    sleep(plan.settle).await;
    report.after = process.map(Process::memory).transpose()?;
    report.bytes_per_connection = per_connection(&report);

    let begun = Instant::now();
    publish(target, &channel).await?;
    let patience = Duration::from_secs(30);
    while report.reached < report.connections {
        match timeout(patience, news.recv()).await {
            Ok(Some(news)) => report.take(news),
            _ => break,
        }
    }
    report.reached_in_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(report)
}

impl IdleReport {
    fn take(&mut self, news: News) {
        match news {
            News::Joined => self.connections += 1,
            News::Reached => self.reached += 1,
            News::Failed(error) => {
                self.failed += 1;
                self.first_failure.get_or_insert_with(|| error.to_string());
            }
        }
    }
}

fn per_connection(report: &IdleReport) -> Option<u64> {
    let grown = report.after?.pss_bytes.saturating_sub(report.before?.pss_bytes);
    Some(grown / report.connections.max(1) as u64)
}

/// Publishes one message.
pub(super) async fn publish(target: &Target, channel: &str) -> Result<(), WireError> {
    let path = format!("/v1/channels/{channel}/messages");
    let request = Request::post(path, &json!({"n": 1})).bearer(&target.tokens.server("publisher"));
    Connection::open(target).await?.exchange(&request).await?.expect_status(201)
}

async fn hold(
    subscription: Subscription,
    transport: Transport,
    permits: Arc<Semaphore>,
    tell: mpsc::Sender<News>,
) {
    if let Err(error) = follow(&subscription, transport, &permits, &tell).await {
        // Nobody listens any more: the measurement is over.
        let _ = tell.send(News::Failed(error)).await;
    }
}

async fn follow(
    subscription: &Subscription,
    transport: Transport,
    permits: &Semaphore,
    tell: &mpsc::Sender<News>,
) -> Result<(), WireError> {
    let permit = permits.acquire().await.expect("it is never closed");
    let mut envelopes = VecDeque::<Bytes>::new();
    let mut feed = Feed::open(subscription, transport, &Start::Fresh).await?;
    let mut permit = Some(permit);
    loop {
        feed.next(&mut envelopes).await?;
        while let Some(text) = envelopes.pop_front() {
            let said = match envelope::read(&text)? {
                Said::Joined(_) if permit.take().is_some() => News::Joined,
                Said::Message(_) => News::Reached,
                Said::Error(error) => return Err(WireError::Protocol(format!("{error:?}"))),
                _ => continue,
            };
            let _ = tell.send(said).await;
        }
    }
}
