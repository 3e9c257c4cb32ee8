//! `scale`: what many nodes cost. Starts a `nats-server` and edges of its own. A table on standard error, one line of JSON
//! on standard output, exit code 1 when something was lost.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use conformance::edge::Settings;
use conformance::load;
use conformance::scale::{self, ChannelsPlan, HopPlan};
use serde::Serialize;

/// Measures what many nodes cost.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Latency to the same and to another node, and deliveries with two nodes against one.
    Hop {
        /// Messages of each latency.
        #[arg(long, default_value_t = 500)]
        messages: u32,
        /// Subscribers of the fan-outs, over all nodes.
        #[arg(long, default_value_t = 400)]
        subscribers: usize,
        /// Messages of the fan-outs.
        #[arg(long, default_value_t = 2000)]
        burst: u32,
    },
    /// Very many channels on one node.
    Channels {
        /// How many.
        #[arg(long, default_value_t = 100_000)]
        channels: usize,
        /// Of how many of them each connection joins.
        #[arg(long, default_value_t = 1000)]
        per_connection: usize,
    },
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    load::raise_descriptor_limit().context("the limit of open files cannot be raised")?;
    let settings = Settings::open();
    let clean = match Arguments::parse().command {
        Command::Hop { messages, subscribers, burst } => {
            let report = scale::hop(&settings, &HopPlan { messages, subscribers, burst }).await?;
            show(&report)?;
            report.lost == 0
        }
        Command::Channels { channels, per_connection } => {
            let plan = ChannelsPlan { channels, per_connection };
            let report = scale::many_channels(&settings, &plan).await?;
            show(&report)?;
            report.arrived == report.sampled && report.arrived_after_restart == report.sampled
        }
    };
    println!("test result: {}.", if clean { "ok" } else { "FAILED" });
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn show(report: &impl Serialize) -> anyhow::Result<()> {
    eprintln!("{}", load::table(report));
    println!("{}", serde_json::to_string(report)?);
    Ok(())
}
