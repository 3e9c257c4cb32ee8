//! Many nodes under faults: edges on a NATS cluster, clients that move between them, publishers that do not let go of a
//! message, and meanwhile servers are killed, frozen, cut off and drained, after a seed. At the end every acknowledged
//! message must have come to everybody once and in order, all nodes must tell the same history, and nobody may be
//! present who is gone. Called by the program `chaos`.

mod board;
mod records;
mod publisher;
mod client;
mod faults;
mod verdict;
mod presence;
mod rolling;
mod report;

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::edge::{EdgeError, Settings};
use crate::edges::Edges;
use crate::nats::{NatsCluster, NatsError, Options};
use crate::wire::{Target, WireError};

use board::Board;
use client::Client;
use publisher::Publisher;

pub use faults::{Fault, Happened};
pub use report::Report;

/// How long a client may take, with one session, to catch up when everything is published.
const CATCH_UP: Duration = Duration::from_secs(20);
/// How long all of them may take together.
const ALL_CAUGHT_UP: Duration = Duration::from_mins(1);
/// How long clients may take to be joined at the start.
const ALL_JOINED: Duration = Duration::from_mins(1);
/// The stream that edges keep everything in.
const STREAM: &str = "TIDEGATE";
/// How long edges take to drain.
const DRAIN: Duration = Duration::from_secs(5);

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Of everything random.
    pub seed: u64,
    /// For how long messages are published and faults happen.
    pub duration: Duration,
    /// What happens meanwhile.
    pub mode: Mode,
    /// Edges.
    pub edges: usize,
    /// NATS servers.
    pub nats: usize,
    /// Clients.
    pub clients: usize,
    /// Channels; each has two publishers.
    pub channels: usize,
    /// Messages per second, over all channels.
    pub rate: u32,
}

/// What happens to the servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// All faults, in random order.
    Chaos,
    /// Every edge is drained and started again, one after the other.
    Rolling,
}

/// Why there was no run.
#[derive(Debug, thiserror::Error)]
pub enum ChaosError {
    /// NATS.
    #[error(transparent)]
    Nats(#[from] NatsError),
    /// An edge.
    #[error(transparent)]
    Edge(#[from] EdgeError),
    /// A signal could not be sent.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The end could not be looked at.
    #[error("{what}: {error}")]
    Asked {
        /// What was asked for.
        what: String,
        /// What came instead.
        error: WireError,
    },
    /// The load never got going, so that a fault would prove nothing.
    #[error("{0}")]
    NotReady(String),
}

/// What clients, publishers and faults have in common.
struct Stage {
    targets: Vec<Target>,
    channels: Vec<String>,
    /// The channels of each client.
    channels_of: Vec<Vec<usize>>,
    board: Board,
}

/// Where a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// Everybody moves.
    Run,
    /// Everything is published; clients read what they lack, and stay where they are.
    CatchUp,
    /// Half of the clients leave.
    Leave,
    /// All leave.
    End,
}

/// Two publishers a channel, so that one's order is not the log's.
const PUBLISHERS: usize = 2;

impl Stage {
    fn new(plan: &Plan, targets: Vec<Target>, rng: &mut StdRng) -> Self {
        let channels: Vec<String> = (0..plan.channels).map(|index| format!("chaos:{index}")).collect();
        let all: Vec<usize> = (0..plan.channels).collect();
        let pick = |_| {
            let count = rng.random_range(1..=4.min(plan.channels));
            all.sample(rng, count).copied().collect()
        };
        let channels_of: Vec<Vec<usize>> = (0..plan.clients).map(pick).collect();
        let board = Board::new(plan.channels, &channels_of);
        Self { targets, channels, channels_of, board }
    }

    /// A third of the users have two clients, so that connections are counted and not users; an odd number of users,
    /// so that one of the two leaves and the other stays.
    fn user(&self, client: usize) -> String {
        format!("user-{}", client % ((self.channels_of.len() * 2 / 3) | 1))
    }
}

/// Whether the client stays when half of them leave.
const fn stays(client: usize) -> bool {
    client.is_multiple_of(2)
}

/// Settings of the edges: as they come, but for a history that holds the whole run, so that no gap is an excuse.
fn settings(plan: &Plan) -> Settings {
    let seconds = plan.duration.as_secs() + 60;
    let each = seconds * u64::from(plan.rate) / plan.channels.max(1) as u64 * 2 + 500;
    let replicas = if plan.nats < 3 { 1 } else { 3 };
    Settings::open()
        .set("listen.drain", format!("{}s", DRAIN.as_secs()))
        .set("channels.default.history_size", each)
        .set("channels.default.history_ttl", "1h")
        .set("bus.max_age", "1h")
        .set("bus.stream", STREAM)
        .set("bus.replicas", replicas)
}

/// Runs the plan; `tell` is told each fault when it is over.
///
/// # Errors
/// [`ChaosError`] when servers cannot be started, or the end cannot be looked at. What went wrong in the run itself
/// stands in the report.
///
/// # Panics
/// If one of its own tasks does.
pub async fn run(plan: &Plan, mut tell: impl FnMut(&Happened)) -> Result<Report, ChaosError> {
    let mut rng = StdRng::seed_from_u64(plan.seed);
    let mut cluster = NatsCluster::start(plan.nats, &Options::default()).await?;
    let mut edges = Edges::start(plan.edges, &cluster.addrs(), &settings(plan)).await?;
    let stage = Arc::new(Stage::new(plan, edges.targets(), &mut rng));
    let watched = report::Watch::start(&edges, &cluster);

    let (phase, phases) = watch::channel(Phase::Run);
    let mut clients = JoinSet::new();
    for (index, channels) in stage.channels_of.iter().enumerate() {
        let client = Client::new(&stage, index, channels, rng.random());
        clients.spawn(client.run(phases.clone()));
    }
    let (stop, stopped) = watch::channel(false);
    let mut publishers = JoinSet::new();
    let count = plan.channels * PUBLISHERS;
    let interval = Duration::from_secs(1) * u32::try_from(count).expect("few publishers") / plan.rate;
    let begin = Instant::now();
    for id in 0..count {
        let number = u32::try_from(id).expect("few publishers");
        let publisher = Publisher::new(&stage, number, id / PUBLISHERS, rng.random());
        publishers.spawn(publisher.run(begin, interval, stopped.clone()));
    }
    until_all_follow(&stage, &edges).await?;

    let mut report = Report::new(plan);
    let end = Instant::now() + plan.duration;
    let mut scene = faults::Scene { cluster: &mut cluster, edges: &mut edges, stage: &stage, begin };
    let happened = match plan.mode {
        Mode::Chaos => faults::run(&mut scene, plan, end, &mut rng, &mut tell).await,
        Mode::Rolling => rolling::run(&mut scene, end, &mut report, &mut tell).await,
    };
    let (faults, problem) = happened;
    report.happened(faults);
    if let Some(problem) = problem {
        report.violations.add(problem);
    }
    report.measured(watched.stop(begin, &edges, &cluster));

    // No receiver is left when every publisher has given up already; that is told below.
    let _ = stop.send(true);
    let mut logs = vec![Vec::new(); plan.channels];
    while let Some(publisher) = publishers.join_next().await {
        report.published(publisher.expect("a publisher does not panic"), &mut logs);
    }
    phase.send_replace(Phase::CatchUp);
    until_all_have_read(&stage).await;
    let last = presence::look(&stage, &edges, plan, || phase.send_replace(Phase::Leave)).await;
    report.violations.add_some(last, 8);
    phase.send_replace(Phase::End);
    let mut read = Vec::new();
    while let Some(client) = clients.join_next().await {
        read.push(client.expect("a client does not panic"));
    }
    verdict::judge(&stage, &edges, &logs, read, &mut report).await;
    report.finish(&stage, &mut edges);
    Ok(report)
}

/// Before the first fault everybody is joined, so that everybody has something to lose.
async fn until_all_follow(stage: &Stage, edges: &Edges) -> Result<(), ChaosError> {
    let deadline = Instant::now() + ALL_JOINED;
    while !stage.board.has_everybody_joined() || stage.board.acknowledged_count() == 0 {
        if Instant::now() > deadline {
            return Err(ChaosError::NotReady(format!(
                "{} of {} clients are not joined, {} messages acknowledged, {:?}\n{}",
                stage.board.clients_away(),
                stage.channels_of.len(),
                stage.board.acknowledged_count(),
                stage.board.errors(),
                edges.log_tails(),
            )));
        }
        sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

async fn until_all_have_read(stage: &Stage) {
    let deadline = Instant::now() + ALL_CAUGHT_UP;
    let heads = stage.board.heads();
    // Who has not read everything in time is found by the verdict, message by message.
    while Instant::now() < deadline
        && (stage.board.clients_behind(&heads) > 0 || stage.board.clients_away() > 0)
    {
        sleep(Duration::from_millis(100)).await;
    }
}
