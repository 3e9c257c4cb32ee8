//! The search for the highest rate that a server carries: p99 of the latency below a bound and nothing lost. The rate is
//! doubled until it fails, and then narrowed down; each trial has subscribers of its own.

use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cost::precise;
use super::stream::{Audience, Crowd, StreamReport};
use super::subject::Subject;

/// What is searched for.
#[derive(Clone, Copy, Debug)]
pub struct Saturation {
    /// To whom.
    pub audience: Audience,
    /// Size of a message's data, in bytes.
    pub data_bytes: usize,
    /// How long each rate is tried.
    pub trial: Duration,
    /// The rate to begin with, in messages per second.
    pub first: f64,
    /// How often the range is halved in the end.
    pub halvings: u32,
}

/// What was found.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SaturationReport {
    /// The highest rate that was carried, in messages per second; 0 if the first was not.
    pub rate: f64,
    /// The same in deliveries per second.
    pub deliveries_per_second: f64,
    /// Each rate that was tried, in the order of rates.
    pub trials: Vec<StreamReport>,
    /// Why the figure says less than it seems to: what limited the last rate that failed.
    pub doubts: Vec<String>,
}

/// What p99 must stay below.
pub const BOUND_MS: f64 = 250.0;
/// No server here comes near it: the publisher's own limit is not far above.
const MOST: f64 = 50_000.0;

/// Searches.
///
/// # Errors
/// When the server is gone.
pub fn saturation(subject: &Subject, plan: &Saturation) -> io::Result<SaturationReport> {
    let mut trials = Vec::new();
    let (mut carried, mut failed) = (0.0, None);
    let mut rate = plan.first;
    while failed.is_none() && rate <= MOST {
        if attempt(subject, plan, rate, &mut trials)? {
            carried = rate;
            rate *= 2.0;
        } else {
            failed = Some(rate);
        }
    }
    if let Some(mut failed) = failed.filter(|_| carried > 0.0) {
        for _ in 0..plan.halvings {
            let between = (carried * failed).sqrt();
            if attempt(subject, plan, between, &mut trials)? {
                carried = between;
            } else {
                failed = between;
            }
        }
    }
    trials.sort_by(|one, other| one.rate.total_cmp(&other.rate));
    let doubts = trials.iter().find(|trial| trial.rate > carried).map(|trial| trial.doubts.clone());
    Ok(SaturationReport {
        rate: carried,
        deliveries_per_second: carried * precise(plan.audience.subscribers as u64),
        trials,
        doubts: doubts.unwrap_or_default(),
    })
}

/// Whether the rate is carried, at the second try at last: the machine may have stood still at the first.
fn attempt(
    subject: &Subject,
    plan: &Saturation,
    rate: f64,
    trials: &mut Vec<StreamReport>,
) -> io::Result<bool> {
    for _ in 0..2 {
        let mut crowd = Crowd::join(subject, plan.audience, false)?;
        crowd.hurried = true;
        let trial = crowd.steady(rate, plan.trial, plan.data_bytes)?;
        let carried = trial.is_clean() && trial.p99_ms < BOUND_MS;
        // One that is far off needs no second try.
        let hopeless = trial.p50_ms > BOUND_MS;
        trials.push(trial);
        if carried || hopeless {
            return Ok(carried);
        }
    }
    Ok(false)
}
