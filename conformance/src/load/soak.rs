//! Everything at once, for as long as you like: idle connections that must stay, subscribers that switch, a fan-out,
//! and garbage, in rounds of a minute. After each round the server's memory and descriptors are told; at the end it
//! must have lost nothing and grown no more than by a bound after its second round.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::{Audience, Stream, StreamReport, Subject, dial, on_a_thread, stream};
use crate::edge::{Edge, Process};
use crate::feed::{Feed, Start, Subscription, Transport};
use crate::garbage;
use crate::switching;
use crate::wire::{Connection, Request, Target, WireError};

/// How long, and how much of each.
#[derive(Clone, Debug)]
pub struct Soak {
    /// Rounds of a minute.
    pub minutes: u32,
    /// Connections that are held from the first round to the last, over all transports.
    pub idle: usize,
    /// Subscribers that switch.
    pub switching: usize,
    /// Subscribers of the fan-out.
    pub fan_out: usize,
    /// Garbage streams per round.
    pub garbage: usize,
    /// Of everything random.
    pub seed: u64,
}

/// What came of it.
#[derive(Debug, Default, Serialize)]
pub struct SoakReport {
    /// Of everything random.
    pub seed: u64,
    /// One per round.
    pub rounds: Vec<Round>,
    /// Idle connections that ended before the last round did.
    pub idle_lost: usize,
    /// How much resident memory grew from the second round to the last, in bytes.
    pub grown_bytes: u64,
    /// What was wrong, in words.
    pub problems: Vec<String>,
}

/// One minute.
#[derive(Debug, Default, Serialize)]
pub struct Round {
    /// Resident memory after it, in bytes.
    pub rss_bytes: u64,
    /// Open descriptors after it.
    pub descriptors: usize,
    /// What switching subscribers and their publishers did.
    pub switching: switching::Outcome,
    /// What the fan-out measured.
    pub fan_out: StreamReport,
    /// Garbage streams that were sent.
    pub garbage: u64,
}

/// Growth from the second round to the last that is still called steady, in bytes.
const GROWTH: u64 = 20 << 20;

/// Where the idle ones are.
const IDLE_CHANNEL: &str = "soak:idle";

/// Runs it, telling each round as it ends.
///
/// # Errors
/// When the server's process can't be looked at, or a fan-out not be published.
///
/// # Panics
/// If one of its own tasks does.
pub async fn soak(edge: &Edge, plan: &Soak, mut tell: impl FnMut(&Round)) -> Result<SoakReport, WireError> {
    let mut report = SoakReport { seed: plan.seed, ..SoakReport::default() };
    let (ended, mut ends) = mpsc::channel(plan.idle.max(1));
    let mut idle = JoinSet::new();
    for index in 0..plan.idle {
        idle.spawn(hold(edge, index, ended.clone()));
    }
    for minute in 0..plan.minutes {
        let round = round(edge, plan, plan.seed.wrapping_add(minute.into())).await?;
        if !round.switching.is_clean() {
            report.problems.push(format!("round {minute}: {}", round.switching));
        }
        if !round.fan_out.is_clean() {
            report.problems.push(format!("round {minute}: {:?}", round.fan_out));
        }
        tell(&round);
        report.rounds.push(round);
    }
    while let Ok(problem) = ends.try_recv() {
        report.idle_lost += 1;
        report.problems.push(problem);
    }
    if let [_, second, .., last] = &report.rounds[..] {
        report.grown_bytes = last.rss_bytes.saturating_sub(second.rss_bytes);
    }
    if report.grown_bytes > GROWTH {
        report.problems.push(format!("memory grew by {} bytes", report.grown_bytes));
    }
    report.problems.extend(edge.panics());
    Ok(report)
}

async fn round(edge: &Edge, plan: &Soak, seed: u64) -> Result<Round, WireError> {
    let duration = Duration::from_secs(45);
    let switching = switching::Plan { subscribers: plan.switching, channels: 4, rate: 100, duration, seed };
    let audience = Audience {
        transport: Transport::ALL[usize::try_from(seed % 3).expect("below 3")],
        subscribers: plan.fan_out,
        channels: 1,
        at_once: 64,
    };
    let subject = Arc::new(Subject::beside(edge));
    let fan_out = on_a_thread(&subject, move |subject| {
        stream(subject, &Stream { audience, rate: 10.0, duration, data_bytes: 128 })
    });
    let garbage = garbage::Plan { streams: plan.garbage, seed, at_once: 8 };
    publish(&edge.target, IDLE_CHANNEL).await?;
    let (switching, fan_out, garbage) =
        tokio::join!(switching::run(&edge.target, &switching), fan_out, garbage::run(&edge.target, garbage),);
    sleep(Duration::from_secs(10)).await;
    let process = edge.process.as_ref();
    Ok(Round {
        rss_bytes: process.map(Process::memory).transpose()?.map_or(0, |memory| memory.rss_bytes),
        descriptors: process.map(Process::descriptors).transpose()?.unwrap_or(0),
        switching,
        fan_out: fan_out?,
        garbage: garbage.streams(),
    })
}

/// Publishes one message.
async fn publish(target: &Target, channel: &str) -> Result<(), WireError> {
    let path = format!("/v1/channels/{channel}/messages");
    let request = Request::post(path, &json!({"n": 1})).bearer(&target.tokens.server("publisher"));
    Connection::open(target).await?.exchange(&request).await?.expect_status(201)
}

/// Stays, answers pings, polls again; an end is told in words.
fn hold(edge: &Edge, index: usize, ended: mpsc::Sender<String>) -> impl Future<Output = ()> + use<> {
    let transport = Transport::ALL[index % 3];
    let subscription = Subscription {
        target: edge.target.clone(),
        dial: dial(index),
        token: edge.target.tokens.user(&format!("soak-{index}")),
        channels: vec![IDLE_CHANNEL.to_owned()],
        poll_wait: 30,
    };
    async move {
        let mut envelopes = VecDeque::new();
        let work = async {
            let mut feed = Feed::open(&subscription, transport, &Start::Fresh).await?;
            loop {
                // Each round sends one message here: a connection without two of them is forgotten.
                let quiet = Duration::from_mins(3);
                timeout(quiet, feed.next(&mut envelopes)).await.map_err(|_| WireError::Timeout)??;
                envelopes.clear();
            }
        };
        let end: Result<(), WireError> = work.await;
        if let Err(error) = end {
            let _ = ended.send(format!("idle connection {index} on {transport}: {error}")).await;
        }
    }
}
