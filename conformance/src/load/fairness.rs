//! Whether a channel with many members holds up one with two: the latency of the small one while the large one is busy,
//! beside its latency while all is quiet. Each has a publisher and a reader of its own, on threads of their own, so that
//! neither waits for the other inside this program.

use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::stream::{Audience, Crowd, StreamReport};
use super::subject::Subject;

/// A large channel and a small one.
#[derive(Clone, Copy, Debug)]
pub struct Fairness {
    /// The members of the large channel; those of the small one come over the same transport.
    pub audience: Audience,
    /// Messages per second to the large one.
    pub rate: f64,
    /// Messages per second to the small one.
    pub small_rate: f64,
    /// How long the small one is measured, each time.
    pub duration: Duration,
    /// Size of a message's data, in bytes.
    pub data_bytes: usize,
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct FairnessReport {
    /// p99 of the small channel's latency while the large one is busy.
    pub busy_p99_ms: f64,
    /// The same while it is quiet.
    pub quiet_p99_ms: f64,
    /// What the small channel saw while the large one was quiet.
    pub quiet: StreamReport,
    /// What it saw while the large one was busy.
    pub busy: StreamReport,
    /// What the large one saw.
    pub large: StreamReport,
    /// Why the figures say less than they seem to.
    pub doubts: Vec<String>,
}

/// Members of the small channel.
const FEW: usize = 2;
/// So long the large channel is busy before and after the small one is measured.
const MARGIN: Duration = Duration::from_secs(1);

/// Measures the small channel twice: alone, and beside the large one.
///
/// # Errors
/// When subscribers or publishers can't be served at all, or the server is gone.
///
/// # Panics
/// If the large channel's thread does.
pub fn fairness(subject: &Subject, plan: &Fairness) -> io::Result<FairnessReport> {
    let mut large = Crowd::join(subject, plan.audience, false)?;
    let few = Audience { subscribers: FEW, channels: 1, ..plan.audience };
    let mut small = Crowd::join(subject, few, false)?;
    let quiet = small.steady(plan.small_rate, plan.duration, plan.data_bytes)?;
    let (large, busy) = std::thread::scope(|scope| {
        let large = scope.spawn(|| large.steady(plan.rate, plan.duration + 2 * MARGIN, plan.data_bytes));
        pause(MARGIN);
        let busy = small.steady(plan.small_rate, plan.duration, plan.data_bytes);
        (large.join().expect("a measurement does not panic"), busy)
    });
    let (large, busy) = (large?, busy?);
    Ok(FairnessReport {
        busy_p99_ms: busy.p99_ms,
        quiet_p99_ms: quiet.p99_ms,
        doubts: large.doubts.clone(),
        quiet,
        busy,
        large,
    })
}

impl FairnessReport {
    /// Whether nothing was lost anywhere.
    pub fn is_clean(&self) -> bool {
        [&self.quiet, &self.busy, &self.large].iter().all(|report| report.is_clean())
    }
}

#[expect(clippy::disallowed_methods, reason = "on a thread for blocking work")]
fn pause(duration: Duration) {
    std::thread::sleep(duration);
}
