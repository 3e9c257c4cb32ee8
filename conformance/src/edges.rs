//! Several edges on one NATS, each behind links of its own, to be killed, frozen, cut off, drained and started again
//! where they were. Checks of many nodes start here; clients are given [`Node::target`], which stays the same.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::edge::{Edge, EdgeError, Settings};
use crate::link::{Link, State};
use crate::ports;
use crate::signal::{self, Signal};
use crate::wire::{Connection, Request, Response, Target, WireError};

/// How long the admin listener may take for an answer; a frozen edge gives none.
const ASK: Duration = Duration::from_secs(2);
/// How long an edge may take until it calls itself ready.
const READY: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(50);

/// Edges that are one.
pub struct Edges {
    /// Each of them.
    pub nodes: Vec<Node>,
}

/// One edge, whether it runs or not.
pub struct Node {
    /// Where clients connect, also after a restart.
    pub target: Target,
    /// Its links to NATS, one a server.
    pub links: Vec<Link>,
    admin: SocketAddr,
    settings: Settings,
    edge: Option<Edge>,
    /// What its earlier processes said about panics.
    panics: Vec<String>,
}

impl Edges {
    /// Starts so many edges with these settings on the NATS servers at those addresses, and waits until all are ready.
    ///
    /// # Errors
    /// [`EdgeError`].
    pub async fn start(count: usize, nats: &[SocketAddr], settings: &Settings) -> Result<Self, EdgeError> {
        let mut nodes = Vec::new();
        for _ in 0..count {
            let mut node = Node::prepare(nats, settings).await?;
            node.start().await?;
            nodes.push(node);
        }
        for node in &nodes {
            node.until_ready(READY).await?;
        }
        Ok(Self { nodes })
    }

    /// Where clients connect, one a node.
    pub fn targets(&self) -> Vec<Target> {
        self.nodes.iter().map(|node| node.target.clone()).collect()
    }

    /// What any of their processes said about panics; a check ends with none.
    pub fn panics(&self) -> Vec<String> {
        let each = |node: &Node| {
            let now = node.edge.as_ref().map(Edge::panics).unwrap_or_default();
            node.panics.iter().cloned().chain(now).collect::<Vec<_>>()
        };
        self.nodes.iter().flat_map(each).collect()
    }

    /// The last lines of each log, for a report.
    pub fn log_tails(&self) -> String {
        let each = self.nodes.iter().enumerate();
        each.map(|(index, node)| format!("edge {index}:\n{}", node.log_tail())).collect::<Vec<_>>().concat()
    }
}

impl Node {
    async fn prepare(nats: &[SocketAddr], settings: &Settings) -> Result<Self, EdgeError> {
        let mut links = Vec::new();
        for server in nats {
            links.push(Link::to(*server).await?);
        }
        let urls: Vec<String> = links.iter().map(|link| format!("nats://{}", link.addr())).collect();
        let (addr, admin) = (ports::free()?, ports::free()?);
        let settings = settings
            .clone()
            .set("listen.addr", addr.to_string())
            .set("listen.admin", admin.to_string())
            .set("bus.kind", "nats")
            .set("bus.url", urls.join(","));
        let target = Target::plain(addr, settings.minter());
        Ok(Self { target, links, admin, settings, edge: None, panics: Vec::new() })
    }

    /// Starts it where it was, and waits until it listens. What still ran is killed first.
    ///
    /// # Errors
    /// [`EdgeError`].
    pub async fn start(&mut self) -> Result<(), EdgeError> {
        self.kill();
        self.edge = Some(Edge::start(&self.settings).await?);
        Ok(())
    }

    /// Ends it without a word (SIGKILL), also while it is frozen.
    pub fn kill(&mut self) {
        if let Some(edge) = self.edge.take() {
            self.panics.extend(edge.panics());
        }
    }

    /// Freezes it (SIGSTOP).
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&self) -> io::Result<()> {
        signal::send(self.running()?.pid()?, Signal::Stop)
    }

    /// Lets it go on (SIGCONT).
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume(&self) -> io::Result<()> {
        signal::send(self.running()?.pid()?, Signal::Continue)
    }

    /// Tells it to go (SIGTERM), and waits until it has; says how long that took.
    ///
    /// # Errors
    /// When it does not run, or does not go in time.
    pub async fn drain(&mut self, within: Duration) -> io::Result<Duration> {
        let begun = Instant::now();
        self.running()?.begin_drain()?;
        let edge = self.edge.as_mut().ok_or(io::ErrorKind::NotFound)?;
        if !edge.is_gone(within).await {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it does not go"));
        }
        self.kill();
        Ok(begun.elapsed())
    }

    /// Cuts it from NATS, or restores that.
    pub fn link(&self, state: State) {
        for link in &self.links {
            link.set(state);
        }
    }

    /// Asks `/readyz`.
    ///
    /// # Errors
    /// [`WireError`] when there is no answer.
    pub async fn readyz(&self) -> Result<Response, WireError> {
        let admin = Target::plain(self.admin, self.target.tokens.clone());
        let ask = async { Connection::open(&admin).await?.exchange(&Request::get("/readyz")).await };
        timeout(ASK, ask).await.map_err(|_| WireError::Timeout)?
    }

    /// Whether it calls itself ready.
    pub async fn is_ready(&self) -> bool {
        self.readyz().await.is_ok_and(|answer| answer.head.status == 200)
    }

    /// Waits until it calls itself ready, and says how long that took.
    ///
    /// # Errors
    /// [`EdgeError::Silent`] with its log when it does not.
    pub async fn until_ready(&self, within: Duration) -> Result<Duration, EdgeError> {
        let begun = Instant::now();
        while !self.is_ready().await {
            if begun.elapsed() > within {
                return Err(EdgeError::Silent { log: format!("it is not ready\n{}", self.log_tail()) });
            }
            sleep(PAUSE).await;
        }
        Ok(begun.elapsed())
    }

    /// The running server.
    ///
    /// # Errors
    /// When it does not run.
    pub fn running(&self) -> io::Result<&Edge> {
        self.edge.as_ref().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "this edge does not run"))
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        self.edge.as_ref().map_or_else(|| "  it does not run\n".to_owned(), Edge::log_tail)
    }
}
