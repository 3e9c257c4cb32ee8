//! Load, measured: what an idle connection holds, what a delivery costs and how late it comes, what a handshake costs, how
//! fast all are back, and whether any of it changes over hours; of Tidegate, or of a server that it is measured beside.
//! Called by the program `load` and by a small test; numbers only, no judgement but loss.

mod talk;
mod mark;
mod socket;
mod member;
mod herd;
mod publisher;
mod cost;
mod latency;
mod subject;

mod stream;
mod saturation;
mod idle;
mod handshakes;
mod storm;
mod fairness;
mod growth;
mod recorded;
mod soak;

pub mod bench;

use std::fmt::Write as _;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;

use serde::Serialize;

use crate::wire::Dial;

pub use cost::{Cost, Family};
pub use fairness::{Fairness, FairnessReport, fairness};
pub use growth::{Growth, GrowthReport, Point, growth};
pub use handshakes::{Handshakes, HandshakesReport, Until, handshakes};
pub use idle::{Idle, IdleReport, idle};
pub use latency::Histogram;
pub use recorded::{Comparison, Recorded, comparisons};
pub use saturation::{Saturation, SaturationReport, saturation};
pub use soak::{Soak, SoakReport, soak};
pub use storm::{Storm, StormReport, can_resume, storm};
pub use stream::{Audience, Stream, StreamReport, burst, stream};
pub use subject::{Subject, SubjectError, Tools};
pub use talk::Kind;

/// Lets this process, and the servers that it starts, have as many sockets as the kernel gives. Returns how many.
///
/// # Errors
/// Those of the kernel.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let wanted = 200_000;
    // Who may raise the hard limit has no reason to stay below it.
    if rlimit::setrlimit(rlimit::Resource::NOFILE, wanted, wanted).is_ok() {
        return Ok(wanted);
    }
    rlimit::increase_nofile_limit(u64::MAX)
}

/// How many connections may be measured by who may have that many files open, and a server that may have as many: up to
/// 500 stand before the measured ones, and both need some for themselves.
fn room(open_files: u64) -> u64 {
    open_files.saturating_sub(1000)
}

/// Runs a measurement, which keeps its thread busy, beside a runtime's tasks.
///
/// # Errors
/// Those of the measurement.
///
/// # Panics
/// If it does.
pub async fn on_a_thread<R: Send + 'static>(
    subject: &Arc<Subject>,
    measure: impl FnOnce(&Subject) -> io::Result<R> + Send + 'static,
) -> io::Result<R> {
    let subject = Arc::clone(subject);
    tokio::task::spawn_blocking(move || measure(&subject)).await.expect("a measurement does not panic")
}

/// How the `index`-th of many connections of a raw client is made.
fn dial(index: usize) -> Dial {
    Dial { source: Some(source(index)), receive_buffer: None }
}

/// The loopback address that the `index`-th of many connections is made from: sixteen in turn, since one has some
/// 28,000 ports.
fn source(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, u8::try_from(index % 16).expect("below 16") + 2)
}

/// A report's top-level fields as two columns.
pub fn table(report: &impl Serialize) -> String {
    let value = serde_json::to_value(report).unwrap_or_default();
    let mut text = String::new();
    for (name, value) in value.as_object().into_iter().flatten() {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        // A String takes all.
        let _ = writeln!(text, "{name:32} {value}");
    }
    text
}
