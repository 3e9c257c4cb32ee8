//! `load`: makes load on an edge, or on a server that it is measured beside, and measures it. Starts the server for it,
//! or takes the edge that `EDGE_URL` names. A table on standard error, one line of JSON on standard output, exit code 1
//! when something was lost.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use conformance::edge::{Edge, Settings, environment};
use conformance::feed::Transport;
use conformance::load::bench::{Case, Report, Scale, charts, tables};
use conformance::load::{
    self, Audience, Comparison, Fairness, Growth, GrowthReport, Handshakes, Idle, Kind, Recorded, Saturation,
    Soak, Storm, Stream, Subject, Tools, Until,
};
use serde::Serialize;
use serde_json::Value;

/// Makes load on an edge and measures it.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    server: ServerArguments,
}

#[derive(Args, Clone)]
struct ServerArguments {
    /// Which server is started for it.
    #[arg(long, global = true, default_value = "tidegate")]
    server: Kind,
    /// Start it behind TLS.
    #[arg(long, global = true)]
    tls: bool,
    /// A key of a started edge's configuration, as `section.key=JSON`; may come again.
    #[arg(long, global = true, value_name = "KEY=JSON", value_parser = setting)]
    set: Vec<(String, Value)>,
    /// Where the other servers' configurations are.
    #[arg(long, global = true, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../benches/peers"))]
    peers: PathBuf,
    /// The Python environment that has two of them.
    #[arg(long, global = true, default_value = "target/bench/venv")]
    venv: PathBuf,
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
        /// Over how many channels they are spread, one each.
        #[arg(long, default_value_t = 1)]
        channels: usize,
        /// Messages per second, over all channels.
        #[arg(long, default_value_t = 20.0)]
        rate: f64,
        /// For how long.
        #[arg(long, default_value_t = 10)]
        seconds: u64,
        /// Size of a message's data.
        #[arg(long, default_value_t = 128)]
        bytes: usize,
    },
    /// One publisher as fast as the server takes its messages: deliveries per second of the server's CPU time.
    Burst {
        /// Over which transport.
        #[arg(long, default_value = "websocket")]
        transport: Transport,
        /// How many.
        #[arg(long, default_value_t = 1_000)]
        subscribers: usize,
        /// Messages in one burst; the next begins when all are delivered.
        #[arg(long, default_value_t = 500)]
        messages: u32,
        /// For how long, about.
        #[arg(long, default_value_t = 6)]
        seconds: u64,
        /// Size of a message's data.
        #[arg(long, default_value_t = 128)]
        bytes: usize,
    },
    /// The highest rate with a p99 below 250 ms and no loss.
    Saturation {
        /// Over which transport.
        #[arg(long, default_value = "websocket")]
        transport: Transport,
        /// How many.
        #[arg(long, default_value_t = 1_000)]
        subscribers: usize,
        /// How long each rate is tried.
        #[arg(long, default_value_t = 3)]
        seconds: u64,
        /// Size of a message's data.
        #[arg(long, default_value_t = 128)]
        bytes: usize,
    },
    /// Connections that end as soon as they stand: what one costs, with a full TLS handshake or a resumed one.
    Handshakes {
        /// When one stands.
        #[arg(long, default_value = "joined")]
        until: Until,
        /// Clients come back with a ticket.
        #[arg(long)]
        resumed: bool,
        /// How many at once.
        #[arg(long, default_value_t = 32)]
        at_once: usize,
        /// For how long.
        #[arg(long, default_value_t = 5)]
        seconds: u64,
    },
    /// All clients are cut off, miss messages, and are back at once.
    Storm {
        /// Over which transport.
        #[arg(long, default_value = "websocket")]
        transport: Transport,
        /// How many.
        #[arg(long, default_value_t = 5_000)]
        subscribers: usize,
        /// Messages that each misses.
        #[arg(long, default_value_t = 10)]
        missed: u32,
    },
    /// A channel of two beside a large busy one: does it wait for it?
    Fairness {
        /// Over which transport.
        #[arg(long, default_value = "websocket")]
        transport: Transport,
        /// Members of the large one.
        #[arg(long, default_value_t = 5_000)]
        subscribers: usize,
        /// Messages per second to the large one.
        #[arg(long, default_value_t = 10.0)]
        rate: f64,
        /// Messages per second to the small one.
        #[arg(long, default_value_t = 100.0)]
        small_rate: f64,
        /// For how long.
        #[arg(long, default_value_t = 10)]
        seconds: u64,
        /// Size of a message's data.
        #[arg(long, default_value_t = 128)]
        bytes: usize,
    },
    /// What a unit of work costs as there is more of something; each point on a server of its own.
    Grow {
        /// Of what.
        what: Growth,
        /// How much of it, with commas between; without, the points of the bench.
        #[arg(long, value_delimiter = ',')]
        points: Vec<u64>,
        /// Over which transport.
        #[arg(long, default_value = "websocket")]
        transport: Transport,
        /// How long messages are sent at each point.
        #[arg(long, default_value_t = 5)]
        seconds: u64,
    },
    /// Memory of idle connections on each transport, plain and TLS, held against `benches/memory.json`: fails when one
    /// has grown by more than a fifth.
    Memory {
        /// How many of each kind.
        #[arg(long, default_value_t = 10_000)]
        connections: usize,
        /// Seconds of rest before the memory is looked at; the allocator gives back what it does not need in ten.
        #[arg(long, default_value_t = 12)]
        settle: u64,
        /// Writes what was measured there instead.
        #[arg(long)]
        record: bool,
    },
    /// All of it, of every server, one after the other: tables, plots and a file with all figures.
    Bench {
        /// A look in a few minutes instead of figures to keep.
        #[arg(long)]
        quick: bool,
        /// Only cases with one of these names, of measures, servers or transports, with commas between; may come again.
        #[arg(long, value_name = "NAMES")]
        only: Vec<String>,
        /// Where all of it is written.
        #[arg(long, default_value = "target/bench")]
        out: PathBuf,
    },
    /// Writes the tables and plots of a run again, into a document between the lines `<!-- measured -->` and
    /// `<!-- end -->`, with the plots in a folder of the document's name beside it.
    Show {
        /// What a run has left.
        #[arg(long, default_value = "target/bench/report.json")]
        report: PathBuf,
        /// The document.
        #[arg(long, default_value = "docs/performance.md")]
        document: PathBuf,
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
    let Arguments { command, server } = Arguments::parse();
    let descriptors = load::raise_descriptor_limit().context("the limit of open files cannot be raised")?;
    let clean = match command {
        Command::Soak { minutes, idle, switching, subscribers, garbage } => {
            let seed = environment::seed();
            let plan = Soak { minutes, idle, switching, fan_out: subscribers, garbage, seed };
            soak(server, &plan).await?
        }
        Command::Bench { quick, only, out } => {
            let command = format!("./test bench{}", if quick { " (quick)" } else { "" });
            let scale = Scale { command, quick, only, open_files: descriptors };
            bench(server, scale, &out).await?
        }
        Command::Show { report, document } => {
            let report: Report = serde_json::from_slice(&std::fs::read(&report)?)?;
            write_into(&report, &document)?;
            true
        }
        Command::Grow { what, points, transport, seconds } => {
            let points = if points.is_empty() { what.points(false, descriptors) } else { points };
            let mut report = GrowthReport::default();
            for at in points {
                let subject = server.clone().start(what.settings(at, Settings::open())).await?;
                let duration = Duration::from_secs(seconds);
                let measure = move |subject: &Subject| load::growth(subject, what, at, transport, duration);
                let point = load::on_a_thread(&subject, measure).await?;
                eprint!("{}", load::table(&point));
                report.points.push(point);
            }
            println!("{}", serde_json::to_string(&report)?);
            report.is_clean()
        }
        Command::Memory { connections, settle, record } => {
            memory(&server, connections, Duration::from_secs(settle), record).await?
        }
        command => {
            anyhow::ensure!(
                descriptors > command.connections() + 100,
                "{} connections need more than the {descriptors} open files this user may have",
                command.connections()
            );
            // Bursts run ahead of their readers by as much as is allowed.
            let settings = Settings::open().set("channels.default.history_size", 4096);
            let subject = server.start(settings).await?;
            load::on_a_thread(&subject, move |subject| Ok(command.measure(subject))).await??
        }
    };
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Command {
    /// How many there are at once.
    fn connections(&self) -> u64 {
        match self {
            Self::Idle { connections: many, .. }
            | Self::Fanout { subscribers: many, .. }
            | Self::Burst { subscribers: many, .. }
            | Self::Saturation { subscribers: many, .. }
            | Self::Storm { subscribers: many, .. }
            | Self::Fairness { subscribers: many, .. }
            | Self::Handshakes { at_once: many, .. } => *many as u64,
            Self::Soak { .. }
            | Self::Bench { .. }
            | Self::Show { .. }
            | Self::Grow { .. }
            | Self::Memory { .. } => 0,
        }
    }

    /// Measures, shows what came of it, and tells whether nothing was lost.
    fn measure(self, subject: &Subject) -> anyhow::Result<bool> {
        let audience =
            |transport, subscribers, channels| Audience { transport, subscribers, channels, at_once: 64 };
        Ok(match self {
            Self::Idle { transport, connections, settle, at_once } => {
                let audience = Audience { at_once, ..audience(transport, connections, 1) };
                let report = load::idle(subject, &Idle::of(audience, Duration::from_secs(settle)))?;
                show(&report)?.is_clean()
            }
            Self::Fanout { transport, subscribers, channels, rate, seconds, bytes } => {
                let (audience, duration) =
                    (audience(transport, subscribers, channels), Duration::from_secs(seconds));
                let report = load::stream(subject, &Stream { audience, rate, duration, data_bytes: bytes })?;
                show(&report)?.is_clean()
            }
            Self::Burst { transport, subscribers, messages, seconds, bytes } => {
                let audience = audience(transport, subscribers, 1);
                let report = load::burst(subject, audience, messages, Duration::from_secs(seconds), bytes)?;
                show(&report)?.is_clean()
            }
            Self::Saturation { transport, subscribers, seconds, bytes } => {
                let plan = Saturation {
                    audience: audience(transport, subscribers, 1),
                    data_bytes: bytes,
                    trial: Duration::from_secs(seconds),
                    first: 25.0,
                    halvings: 3,
                };
                show(&load::saturation(subject, &plan)?)?.rate > 0.0
            }
            Self::Handshakes { until, resumed, at_once, seconds } => {
                let plan = Handshakes { until, resumed, at_once, duration: Duration::from_secs(seconds) };
                show(&load::handshakes(subject, &plan)?)?.failed == 0
            }
            Self::Storm { transport, subscribers, missed } => {
                anyhow::ensure!(
                    load::can_resume(subject.kind, transport),
                    "its clients cannot come back to where they were"
                );
                let audience = audience(transport, subscribers, 1);
                show(&load::storm(subject, &Storm { audience, missed, data_bytes: 128 })?)?.is_clean()
            }
            Self::Fairness { transport, subscribers, rate, small_rate, seconds, bytes } => {
                let (audience, duration) =
                    (audience(transport, subscribers, 1), Duration::from_secs(seconds));
                let plan = Fairness { audience, rate, small_rate, duration, data_bytes: bytes };
                show(&load::fairness(subject, &plan)?)?.is_clean()
            }
            Self::Soak { .. }
            | Self::Bench { .. }
            | Self::Show { .. }
            | Self::Grow { .. }
            | Self::Memory { .. } => {
                unreachable!("it is no measurement of one server alone")
            }
        })
    }
}

async fn memory(
    server: &ServerArguments,
    connections: usize,
    settle: Duration,
    record: bool,
) -> anyhow::Result<bool> {
    let (file, build) = (Recorded::file(), Recorded::build());
    let mut recorded = if file.exists() { Recorded::read(&file)? } else { Recorded::default() };
    let mut measured: Vec<Comparison> = Vec::new();
    for tls in [false, true] {
        for transport in Transport::ALL {
            let subject = ServerArguments { tls, ..server.clone() }.start(Settings::open()).await?;
            let audience = Audience { transport, subscribers: connections, channels: 1, at_once: 64 };
            let plan = Idle::of(audience, settle);
            let report = load::on_a_thread(&subject, move |subject| load::idle(subject, &plan)).await?;
            anyhow::ensure!(report.is_clean(), "{report:?}");
            let bytes = report.dirty_bytes_per_connection.context("the server's process is not known")?;
            measured.push(recorded.compare(build, transport, tls, bytes));
        }
    }
    eprint!("{}", load::comparisons(&measured));
    println!("{}", serde_json::to_string(&measured)?);
    if record {
        recorded.record(build, &measured, &file)?;
        eprintln!("recorded in {}", file.display());
    }
    Ok(record || measured.iter().all(Comparison::holds))
}

async fn bench(server: ServerArguments, scale: Scale, out: &Path) -> anyhow::Result<bool> {
    std::fs::create_dir_all(out)?;
    let tools = Tools { peers: server.peers, venv: server.venv };
    let run = move || {
        load::bench::run(&scale, &tools, |figure| {
            let Case { measure, kind, transport, tls } = figure.case;
            let way = format!("{transport}{}", if tls { ", TLS" } else { "" });
            let case = format!("{measure:?} {way} {}", kind.name());
            eprintln!("{case:46} {}", figure.value.line());
            for doubt in figure.value.doubts() {
                eprintln!("{:46} ({doubt})", "");
            }
        })
    };
    let report = tokio::task::spawn_blocking(run).await?;
    std::fs::write(out.join("report.json"), serde_json::to_vec_pretty(&report)?)?;
    std::fs::write(out.join("tables.md"), tables(&report, ""))?;
    for chart in charts(&report) {
        std::fs::write(out.join(chart.file), chart.svg)?;
    }
    eprintln!("written to {}: report.json, tables.md and plots", out.display());
    Ok(report.is_clean())
}

/// Puts a run's tables into a document, in the place of an earlier run's.
fn write_into(report: &Report, document: &Path) -> anyhow::Result<()> {
    let (begin, end) = ("<!-- measured -->\n", "<!-- end -->");
    let text = std::fs::read_to_string(document)?;
    let parts = text.split_once(begin).and_then(|(head, rest)| Some((head, rest.split_once(end)?.1)));
    let (head, tail) = parts.with_context(|| format!("{} has no place for it", document.display()))?;
    let folder = document.with_extension("");
    std::fs::create_dir_all(&folder)?;
    for chart in charts(report) {
        std::fs::write(folder.join(chart.file), chart.svg)?;
    }
    let name = folder.file_name().context("the document has no name")?.to_string_lossy().into_owned();
    let measured = tables(report, &format!("{name}/"));
    std::fs::write(document, format!("{head}{begin}\n{measured}\n{end}{tail}"))?;
    Ok(())
}

async fn soak(server: ServerArguments, plan: &Soak) -> anyhow::Result<bool> {
    anyhow::ensure!(server.server == Kind::Tidegate, "only an edge takes all of a soak");
    // Switching subscribers count a gap as a loss; a stall of the machine must not make one.
    // And what a round leaves behind must be gone after the next one, or it would look like a leak.
    let settings =
        Settings::open().set("channels.default.history_size", 4096).set("channels.default.history_ttl", "1m");
    let edge = server.edge(settings).await?;
    let report = load::soak(&edge, plan, |round| {
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
    Ok(report.problems.is_empty())
}

impl ServerArguments {
    async fn start(self, settings: Settings) -> anyhow::Result<Arc<Subject>> {
        let subject = if self.server == Kind::Tidegate {
            Subject::of(self.edge(settings).await?)
        } else {
            let tools = Tools { peers: self.peers, venv: self.venv };
            Subject::start(self.server, self.tls, &tools, &settings).await?
        };
        if subject.family.is_none() {
            eprintln!("the server's memory and CPU are not measured: its process is not known (EDGE_PID)");
        }
        Ok(Arc::new(subject))
    }

    async fn edge(self, mut settings: Settings) -> anyhow::Result<Edge> {
        if self.tls {
            settings = settings.over_tls();
        }
        for (key, value) in self.set {
            settings = settings.set(&key, value);
        }
        // A load is of interest whatever the named edge is like.
        Ok(match Edge::named()? {
            Some(named) => named,
            None => Edge::start(&settings).await?,
        })
    }
}

fn show<R: Serialize>(report: &R) -> anyhow::Result<&R> {
    eprint!("{}", load::table(report));
    println!("{}", serde_json::to_string(report)?);
    Ok(report)
}

fn setting(text: &str) -> Result<(String, Value), String> {
    let (key, value) = text.split_once('=').ok_or("takes KEY=JSON")?;
    let value = serde_json::from_str(value).map_err(|error| format!("{value} is no JSON: {error}"))?;
    Ok((key.to_owned(), value))
}
