//! What happens to the servers, one thing after the other: each kind once in a pass, in random order, and after each
//! the run waits until the cluster is itself again, so that no two that NATS could not bear together overlap.

use std::fmt;
use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::{ChaosError, DRAIN, Plan, STREAM, Stage};
use crate::edges::Edges;
use crate::link::State;
use crate::nats::NatsCluster;

/// Something that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Fault {
    /// SIGKILL to an edge, which is started again.
    KillEdge,
    /// SIGKILL to the NATS server that leads the stream, which is started again.
    KillLeader,
    /// SIGSTOP to an edge, for as long as clients and other nodes need to give it up.
    FreezeEdge,
    /// SIGSTOP to a NATS server that follows.
    FreezeFollower,
    /// An edge's links to NATS are silent, as with a cable pulled.
    SilenceEdge,
    /// An edge's links to NATS are refused, as by a firewall.
    RefuseEdge,
    /// SIGTERM to an edge, which is started again when it has gone.
    DrainEdge,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Happened {
    /// What.
    pub fault: Fault,
    /// To whom.
    pub whom: String,
    /// When, counted from the first message.
    pub at: Duration,
    /// How long until the server was there again, or could be reached.
    pub lasted: Duration,
    /// The longest time without any acknowledgement meanwhile.
    pub stall: Duration,
    /// Errors of clients and publishers meanwhile, each of which had to come again.
    pub errors: u64,
    /// How long after that until all edges called themselves ready.
    pub ready: Duration,
    /// How long until every client had read everything that was acknowledged before.
    pub whole: Duration,
    /// How long until the stream had all its replicas again.
    pub replicated: Duration,
}

/// Where it happens.
pub(super) struct Scene<'a> {
    pub(super) cluster: &'a mut NatsCluster,
    pub(super) edges: &'a mut Edges,
    pub(super) stage: &'a Stage,
    pub(super) begin: Instant,
}

/// How long the cluster may take to be itself again.
const RECOVERY: Duration = Duration::from_mins(1);
/// How long it is left alone then.
const CALM: Duration = Duration::from_secs(2);
/// What a pass takes at full length; a shorter run has shorter faults.
const PASS: Duration = Duration::from_secs(140);
const LOOK: Duration = Duration::from_millis(50);

impl Fault {
    /// Each of them.
    pub const ALL: [Self; 7] = [
        Self::KillEdge,
        Self::KillLeader,
        Self::FreezeEdge,
        Self::FreezeFollower,
        Self::SilenceEdge,
        Self::RefuseEdge,
        Self::DrainEdge,
    ];

    /// How long it lasts, in seconds: at least and at most. A drain takes as long as it takes.
    const fn seconds(self) -> (f64, f64) {
        match self {
            Self::KillEdge => (1.0, 5.0),
            Self::KillLeader => (3.0, 8.0),
            Self::FreezeEdge => (20.0, 20.5),
            Self::FreezeFollower => (4.0, 8.0),
            Self::SilenceEdge | Self::RefuseEdge => (10.0, 20.0),
            Self::DrainEdge => (0.0, 1.0),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::KillEdge => "kill -9, an edge",
            Self::KillLeader => "kill -9, the stream's leader",
            Self::FreezeEdge => "SIGSTOP, an edge",
            Self::FreezeFollower => "SIGSTOP, a NATS follower",
            Self::SilenceEdge => "link to NATS silent",
            Self::RefuseEdge => "link to NATS refused",
            Self::DrainEdge => "SIGTERM, an edge",
        })
    }
}

impl fmt::Display for Happened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fault, whom, at, lasted, stall, errors, ready, whole, replicated } = self;
        write!(
            f,
            "{:>6.1} {fault:28} {whom:7} {:>6.1} {:>9.1} {errors:>7} {:>6.1} {:>6.1} {:>10.1}",
            at.as_secs_f64(),
            lasted.as_secs_f64(),
            stall.as_secs_f64(),
            ready.as_secs_f64(),
            whole.as_secs_f64(),
            replicated.as_secs_f64(),
        )
    }
}

impl Happened {
    /// The line over a table of them; all times in seconds.
    pub const HEAD: &str =
        "    at fault                        whom    lasted no ack for  errors  ready  whole replicated";
}

/// Passes until `end`; the first one is always whole. With what happened, and why it ended early if it did.
pub(super) async fn run(
    scene: &mut Scene<'_>,
    plan: &Plan,
    end: Instant,
    rng: &mut StdRng,
    tell: &mut impl FnMut(&Happened),
) -> (Vec<Happened>, Option<String>) {
    let scale = (plan.duration.as_secs_f64() / PASS.as_secs_f64()).min(1.0);
    let mut happened = Vec::new();
    loop {
        let mut pass = Fault::ALL;
        pass.shuffle(rng);
        for fault in pass {
            let (least, most) = fault.seconds();
            let length = Duration::from_secs_f64(rng.random_range(least..most) * scale);
            let is_first_pass = happened.len() < Fault::ALL.len();
            if !is_first_pass && Instant::now() + length + DRAIN > end {
                return (happened, None);
            }
            match scene.happen(fault, length, rng).await {
                Ok(done) => {
                    tell(&done);
                    happened.push(done);
                }
                Err(error) => return (happened, Some(format!("{fault}: {error}"))),
            }
            sleep(CALM.mul_f64(scale)).await;
        }
    }
}

impl Scene<'_> {
    async fn happen(
        &mut self,
        fault: Fault,
        length: Duration,
        rng: &mut StdRng,
    ) -> Result<Happened, ChaosError> {
        let (at, begun) = (self.begin.elapsed(), Instant::now());
        self.stage.board.take_longest_stall();
        let errors = self.stage.board.error_count();
        let edge = rng.random_range(0..self.edges.nodes.len());
        let other = rng.random_range(1..self.cluster.nodes.len().max(2));
        let whom = match fault {
            Fault::KillLeader | Fault::FreezeFollower => {
                let leader = self.cluster.stream_leader(STREAM, RECOVERY).await?;
                self.nats(fault, leader, other, length).await?
            }
            _ => self.edge(fault, edge, length).await?,
        };
        let lasted = begun.elapsed();
        let (ready, whole, replicated) = self.recovered().await?;
        let stall = self.stage.board.take_longest_stall();
        let errors = self.stage.board.error_count() - errors;
        Ok(Happened { fault, whom, at, lasted, stall, errors, ready, whole, replicated })
    }

    async fn edge(&mut self, fault: Fault, index: usize, length: Duration) -> Result<String, ChaosError> {
        let node = &mut self.edges.nodes[index];
        match fault {
            Fault::FreezeEdge => {
                node.pause()?;
                sleep(length).await;
                node.resume()?;
            }
            Fault::SilenceEdge | Fault::RefuseEdge => {
                node.link(if fault == Fault::SilenceEdge { State::Silent } else { State::Refusing });
                sleep(length).await;
                node.link(State::Through);
            }
            Fault::DrainEdge => {
                node.drain(DRAIN * 3).await?;
                sleep(length).await;
                node.start().await?;
            }
            _ => {
                node.kill();
                sleep(length).await;
                node.start().await?;
            }
        }
        Ok(format!("edge {index}"))
    }

    async fn nats(
        &mut self,
        fault: Fault,
        leader: usize,
        other: usize,
        length: Duration,
    ) -> Result<String, ChaosError> {
        let count = self.cluster.nodes.len();
        let index = if fault == Fault::KillLeader { leader } else { (leader + other) % count };
        let node = &mut self.cluster.nodes[index];
        if fault == Fault::KillLeader {
            node.kill();
            sleep(length).await;
            node.restart().await?;
        } else {
            node.pause()?;
            sleep(length).await;
            node.resume()?;
        }
        Ok(node.name().to_owned())
    }

    /// Waits until everything is as before, and says how long it took until edges were ready, clients whole, and the
    /// stream replicated.
    pub(super) async fn recovered(&self) -> Result<(Duration, Duration, Duration), ChaosError> {
        let begun = Instant::now();
        let board = &self.stage.board;
        let (heads, acknowledged) = (board.heads(), board.acknowledged_count());
        for node in &self.edges.nodes {
            node.until_ready(RECOVERY).await?;
        }
        let ready = begun.elapsed();
        // Publishing goes on, too: each channel has one more message, on an average.
        let goes_on = || board.acknowledged_count() > acknowledged + heads.len() as u64;
        while board.clients_behind(&heads) > 0 || !goes_on() {
            if begun.elapsed() > RECOVERY {
                return Err(ChaosError::NotReady(format!(
                    "after {RECOVERY:?} {} clients still lack what was acknowledged before, {} messages were \
                     acknowledged since",
                    board.clients_behind(&heads),
                    board.acknowledged_count() - acknowledged,
                )));
            }
            sleep(LOOK).await;
        }
        let whole = begun.elapsed();
        self.cluster.until_replicated(STREAM, RECOVERY).await?;
        Ok((ready, whole, begun.elapsed()))
    }
}
