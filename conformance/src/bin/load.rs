//! `load`: makes load on an edge and measures it. Starts the binary for it, or takes the server that `EDGE_URL`
//! names. A table on standard error, one line of JSON on standard output, exit code 1 when something was lost.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use conformance::edge::{Edge, Settings, environment};
use conformance::feed::Transport;
use conformance::load::{self, FanOut, Idle, Soak};
use serde::Serialize;
use serde_json::Value;

/// Makes load on an edge and measures it.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    edge: EdgeArguments,
}

#[derive(Args)]
struct EdgeArguments {
    /// Start the edge behind TLS.
    #[arg(long, global = true)]
    tls: bool,
    /// A key of the started edge's configuration, as `section.key=JSON`; may come again.
    #[arg(long, global = true, value_name = "KEY=JSON", value_parser = setting)]
    set: Vec<(String, Value)>,
}

#[derive(Subcommand)]
enum Command {
    /// Connections that are authenticated, joined to one channel, and quiet: what each costs in memory.
    Idle {
        /// Over which transport.
        #[arg(long, default_value = "websocket")]
        transport: Transport,
        /// How many.
        #[arg(long, default_value_t = 10_000)]
        connections: usize,
        /// Seconds of rest before the memory is looked at.
        #[arg(long, default_value_t = 5)]
        settle: u64,
        /// Handshakes at once.
        #[arg(long, default_value_t = 64)]
        at_once: usize,
    },
    /// One publisher, many subscribers, a steady rate: loss, latency, CPU per delivery.
    Fanout {
        /// Over which transport.
        #[arg(long, default_value = "websocket")]
        transport: Transport,
        /// How many.
        #[arg(long, default_value_t = 1_000)]
        subscribers: usize,
        /// Messages per second.
        #[arg(long, default_value_t = 20)]
        rate: u32,
        /// For how long.
        #[arg(long, default_value_t = 10)]
        seconds: u64,
        /// Size of a message's data.
        #[arg(long, default_value_t = 128)]
        bytes: usize,
    },
    /// Everything at once, in rounds of about a minute.
    Soak {
        /// How many rounds.
        #[arg(long, default_value_t = 60)]
        minutes: u32,
        /// Connections that stay from the first round to the last.
        #[arg(long, default_value_t = 600)]
        idle: usize,
        /// Subscribers that switch transports.
        #[arg(long, default_value_t = 30)]
        switching: usize,
        /// Subscribers of a fan-out.
        #[arg(long, default_value_t = 200)]
        subscribers: usize,
        /// Garbage streams per round.
        #[arg(long, default_value_t = 500)]
        garbage: usize,
    },
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let Arguments { command, edge } = Arguments::parse();
    let descriptors = load::raise_descriptor_limit().context("the limit of open files cannot be raised")?;
    let edge = start(edge, &command).await?;
    if edge.process.is_none() {
        eprintln!("the server's memory and CPU are not measured: its process is not known (EDGE_PID)");
    }
    let process = edge.process.as_ref();
    let clean = match command {
        Command::Idle { transport, connections, settle, at_once } => {
            anyhow::ensure!(
                descriptors > connections as u64 + 100,
                "{connections} connections need more than the {descriptors} open files this user may have"
            );
            let plan = Idle { transport, connections, settle: Duration::from_secs(settle), at_once };
            let report = load::idle(&edge.target, process, &plan).await?;
            show(&report)?;
            report.failed == 0 && report.reached == report.connections
        }
        Command::Fanout { transport, subscribers, rate, seconds, bytes } => {
            let duration = Duration::from_secs(seconds);
            let plan = FanOut { transport, subscribers, rate, duration, data_bytes: bytes };
            let report = load::fan_out(&edge.target, process, &plan).await?;
            show(&report)?;
            report.is_clean()
        }
        Command::Soak { minutes, idle, switching, subscribers, garbage } => {
            let seed = environment::seed();
            let plan = Soak { minutes, idle, switching, fan_out: subscribers, garbage, seed };
            let report = load::soak(&edge, &plan, |round| {
                eprintln!(
                    "rss {} kB, {} descriptors; switching {:?}; fan-out p99 {} ms",
                    round.rss_bytes >> 10,
                    round.descriptors,
                    round.switching.faults,
                    round.fan_out.p99_ms
                );
            })
            .await?;
            show(&report)?;
            report.problems.is_empty()
        }
    };
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn start(arguments: EdgeArguments, command: &Command) -> anyhow::Result<Edge> {
    let mut settings = Settings::open();
    if arguments.tls {
        settings = settings.over_tls();
    }
    if matches!(command, Command::Soak { .. }) {
        // Switching subscribers count a gap as a loss; a stall of the machine must not make one.
        // And what a round leaves behind must be gone after the next one, or it would look like a leak.
        settings =
            settings.set("channels.default.history_size", 4096).set("channels.default.history_ttl", "1m");
    }
    for (key, value) in arguments.set {
        settings = settings.set(&key, value);
    }
    // A load is of interest whatever the named edge is like.
    match Edge::named()? {
        Some(named) => Ok(named),
        None => Ok(Edge::start(&settings).await?),
    }
}

fn show(report: &impl Serialize) -> anyhow::Result<()> {
    eprint!("{}", load::table(report));
    println!("{}", serde_json::to_string(report)?);
    Ok(())
}

fn setting(text: &str) -> Result<(String, Value), String> {
    let (key, value) = text.split_once('=').ok_or("takes KEY=JSON")?;
    let value = serde_json::from_str(value).map_err(|error| format!("{value} is no JSON: {error}"))?;
    Ok((key.to_owned(), value))
}
