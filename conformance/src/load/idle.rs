//! Many connections that do nothing: authenticated, joined to one channel, waiting. What they cost the server's
//! memory is measured, and then that they are alive, by one message that each of them must get.

use std::io;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::cost::Family;
use super::herd::spread;
use super::publisher::Pace;
use super::stream::{Audience, Crowd};
use super::subject::Subject;
use crate::edge::Memory;

/// How many, and of what kind.
#[derive(Clone, Copy, Debug)]
pub struct Idle {
    /// All of them in one channel.
    pub audience: Audience,
    /// How many more come before them and are not counted: what a server needs once is not theirs.
    pub before: usize,
    /// How long the server is left alone before its memory is looked at.
    pub settle: Duration,
}

/// What they cost.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct IdleReport {
    /// How many stood, without those that came before.
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
    /// The difference of proportional memory, for each. User space only: a socket has some 4 KB in the kernel.
    pub bytes_per_connection: Option<u64>,
    /// The difference of memory that was written to, for each: without code that a connection had paged in.
    pub dirty_bytes_per_connection: Option<u64>,
    /// The difference of resident memory, for each.
    pub rss_bytes_per_connection: Option<u64>,
    /// How many did not get the message that was published then.
    pub not_reached: u64,
    /// How long that took to the last.
    pub reached_in_ms: f64,
}

/// How long all of them may take to stand.
const PATIENCE: Duration = Duration::from_mins(3);

/// Opens them, measures, publishes, closes.
///
/// # Errors
/// When the server's processes can't be looked at, or the message not be published.
pub fn idle(subject: &Subject, plan: &Idle) -> io::Result<IdleReport> {
    let memory = || subject.family.as_ref().map(Family::memory).transpose();
    let Audience { subscribers, channels, at_once, .. } = plan.audience;
    let mut crowd = Crowd::join(subject, Audience { subscribers: plan.before, ..plan.audience }, false)?;
    let all = plan.before + subscribers;
    // What their handshakes took is given back as what those of the others take will be.
    crowd.herd.run_until(Instant::now() + plan.settle, |_| false)?;
    let before = memory()?;
    let begun = Instant::now();
    crowd.herd.join(spread(subscribers, channels), at_once, PATIENCE)?;
    let opened_in_seconds = begun.elapsed().as_secs_f64();
    // Heartbeats are answered meanwhile, as they would be.
    crowd.herd.run_until(Instant::now() + plan.settle, |_| false)?;
    let after = memory()?;
    let tally = crowd.herd.tally();
    let (stand, failed, first_failure) = (tally.joined, tally.failed, tally.first_failure.clone());
    let connections = stand.saturating_sub(plan.before);
    let each = |of: fn(&Memory) -> u64| {
        let grown = of(&after?).saturating_sub(of(&before?));
        Some(grown / connections.max(1) as u64)
    };
    let message = crowd.publish(Pace::FlatOut, 1, 64)?;
    Ok(IdleReport {
        connections,
        failed,
        first_failure,
        opened_in_seconds,
        before,
        after,
        bytes_per_connection: each(|memory| memory.pss_bytes),
        dirty_bytes_per_connection: each(|memory| memory.dirty_bytes),
        rss_bytes_per_connection: each(|memory| memory.rss_bytes),
        not_reached: (all as u64).saturating_sub(message.delivered - message.twice_or_disordered),
        reached_in_ms: message.max_ms,
    })
}

impl Idle {
    /// So many of one kind, and a tenth of them, but not more than 500, before.
    pub fn of(audience: Audience, settle: Duration) -> Self {
        Self { audience, before: (audience.subscribers / 10).clamp(1, 500), settle }
    }
}

impl IdleReport {
    /// Whether all stood and were alive.
    pub fn is_clean(&self) -> bool {
        self.failed == 0 && self.not_reached == 0
    }
}
