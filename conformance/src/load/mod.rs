//! Load made and measured: what an idle connection holds, what a delivery costs and how late it comes, and whether
//! any of it changes over hours. Called by the program `load` and by a small test; numbers only, no judgement but loss.

mod fanout;
mod idle;
mod latency;
mod soak;

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use serde::Serialize;

use crate::wire::Dial;

pub use fanout::{FanOut, FanOutReport, fan_out};
pub use idle::{Idle, IdleReport, idle};
pub use latency::Histogram;
pub use soak::{Soak, SoakReport, soak};

/// Lets this process, and the server that it starts, have as many sockets as the kernel gives. Returns how many.
///
/// # Errors
/// Those of the kernel.
pub fn raise_descriptor_limit() -> std::io::Result<u64> {
    rlimit::increase_nofile_limit(u64::MAX)
}

/// How the `index`-th of many connections is made: from sixteen addresses in turn, since one has some 28,000 ports.
fn dial(index: usize) -> Dial {
    let host = u8::try_from(index % 16).expect("below 16") + 2;
    Dial { source: Some(Ipv4Addr::new(127, 0, 0, host)), receive_buffer: None }
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
