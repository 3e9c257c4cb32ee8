//! `chaos`: three edges on three NATS servers, clients that move between them, and servers that are killed, frozen, cut
//! off and drained, after a seed that it prints. A line for each fault, a table at the end, exit code 1 when a message
//! was lost, doubled or out of order, when nodes disagree, or when somebody is present who is gone.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use conformance::chaos::{self, Happened, Mode, Plan};
use conformance::{edge::environment, load};

/// Many nodes under faults.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// What happens to the servers.
    #[arg(default_value = "faults")]
    mode: What,
    /// Everything random follows from it, but not the timing; without it that of `CONFORMANCE_SEED`, or a new one.
    #[arg(long)]
    seed: Option<u64>,
    /// For how long; faults are shorter where not all of them would fit.
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// The same in seconds.
    #[arg(long, conflicts_with = "minutes")]
    seconds: Option<u64>,
    /// Edges.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=9))]
    edges: u8,
    /// NATS servers: 1, or 3 with each message on all of them.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(3..=5))]
    nats: u8,
    /// Clients.
    #[arg(long, default_value_t = 300)]
    clients: usize,
    /// Channels.
    #[arg(long, default_value_t = 100)]
    channels: usize,
    /// Messages per second over all channels.
    #[arg(long, default_value_t = 500)]
    rate: u32,
}

#[derive(Clone, Copy, ValueEnum)]
enum What {
    /// Kills, freezes, cuts and drains, each at least once.
    Faults,
    /// A rolling restart of all edges.
    Rolling,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    load::raise_descriptor_limit().context("the limit of open files cannot be raised")?;
    let plan = Plan {
        seed: arguments.seed.unwrap_or_else(environment::seed),
        duration: Duration::from_secs(arguments.seconds.unwrap_or(arguments.minutes * 60)),
        mode: match arguments.mode {
            What::Faults => Mode::Chaos,
            What::Rolling => Mode::Rolling,
        },
        edges: arguments.edges.into(),
        nats: arguments.nats.into(),
        clients: arguments.clients,
        channels: arguments.channels,
        rate: arguments.rate,
    };
    println!("{plan:?}\n{}", Happened::HEAD);
    let report = chaos::run(&plan, |happened| println!("{happened}")).await?;
    println!("{report}");
    Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
