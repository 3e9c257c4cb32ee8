//! All clients are cut off, miss some messages, and are back at once, each with the place it had come to: how long until
//! every one of them has exactly what it missed.

use std::io;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::cost::{Cost, Meter, ms, precise};
use super::herd::Herd;
use super::publisher::Pace;
use super::stream::{Audience, Crowd};
use super::subject::Subject;
use super::talk::Kind;
use crate::feed::Transport;

/// How many, and how much they miss.
#[derive(Clone, Copy, Debug)]
pub struct Storm {
    /// Who; all are back at once.
    pub audience: Audience,
    /// Messages that each misses, over its one channel.
    pub missed: u32,
    /// Size of a message's data, in bytes.
    pub data_bytes: usize,
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct StormReport {
    /// Clients that had stood before.
    pub clients: usize,
    /// Those that could not come back.
    pub failed: usize,
    /// Why the first of them could not.
    pub first_failure: Option<String>,
    /// Until all connections stood again.
    pub joined_in_ms: f64,
    /// Until every client had what it missed.
    pub caught_up_in_ms: f64,
    /// Messages that did not come, or not within half a minute.
    pub lost: u64,
    /// Messages that came though they had come before.
    pub twice_or_disordered: u64,
    /// CPU time of the server for each client.
    pub server_cpu_us_each: Option<f64>,
    /// All that was spent.
    pub cost: Cost,
    /// Why the figures say less than they seem to.
    pub doubts: Vec<String>,
}

const PATIENCE: Duration = Duration::from_secs(30);

/// Whether clients of that server can come back to where they were, on that transport, as far as this tool knows how.
pub fn can_resume(kind: Kind, transport: Transport) -> bool {
    match kind {
        Kind::Tidegate => true,
        Kind::Nchan => transport != Transport::WebSocket,
        _ => false,
    }
}

/// Joins all, cuts them off, publishes, and lets them come back.
///
/// # Errors
/// When subscribers or publisher can't be served at all, or the server is gone.
pub fn storm(subject: &Subject, plan: &Storm) -> io::Result<StormReport> {
    let mut crowd = Crowd::join(subject, plan.audience, true)?;
    // From the first message each learns where it is.
    crowd.publish(Pace::FlatOut, 1, plan.data_bytes)?;
    let clients = crowd.herd.tally().joined;
    let channels = crowd.channels();
    let clock = crowd.clock();
    let away = Herd::new(subject, plan.audience.transport, channels.clone(), clock, true)?;
    let seats = std::mem::replace(&mut crowd.herd, away).cut();
    // Nobody is there to be waited for.
    crowd.publish(Pace::FlatOut, plan.missed, plan.data_bytes)?;

    let meter = Meter::start(subject.family.as_ref())?;
    let begun = Instant::now();
    let mut herd = Herd::new(subject, plan.audience.transport, channels, clock, true)?;
    let at_once = seats.len();
    let all = u64::from(plan.missed) * clients as u64;
    let stood = herd.join(seats, at_once, PATIENCE);
    let joined_in_ms = ms(begun.elapsed());
    let missing = if let Err(error) = stood { Some(error.to_string()) } else { None };
    herd.run_until(begun + PATIENCE, |tally| tally.delivered - tally.again >= all)?;
    let caught_up_in_ms = ms(begun.elapsed());
    // What comes now came before.
    herd.run_until(Instant::now() + Duration::from_millis(200), |_| false)?;
    let cost = meter.stop()?;
    let tally = herd.tally();
    let early = u64::from(plan.missed);
    let beyond: u64 = herd.members().map(|(_, distinct)| u64::from(distinct).saturating_sub(early)).sum();
    let spent = cost.server_seconds();
    Ok(StormReport {
        clients,
        failed: clients.saturating_sub(tally.joined),
        first_failure: tally.first_failure.clone().or(missing),
        joined_in_ms,
        caught_up_in_ms,
        lost: all.saturating_sub(tally.delivered - tally.again),
        twice_or_disordered: tally.again + beyond,
        server_cpu_us_each: (spent > 0.0).then(|| spent * 1e6 / precise(clients.max(1) as u64)),
        doubts: cost.doubts(),
        cost,
    })
}

impl StormReport {
    /// Whether every client had exactly what it missed.
    pub fn is_clean(&self) -> bool {
        self.lost == 0 && self.twice_or_disordered == 0 && self.failed == 0
    }
}
