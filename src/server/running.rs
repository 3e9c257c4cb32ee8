//! A node from its start to its end: bind, serve, drain. The binary runs one, tests run many in one process.

use std::io;
use std::net::SocketAddr;
use std::num::NonZero;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::task::coop::unconstrained;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::accept::{accept_loop, listen};
use super::tls::{Tls, TlsError};
use super::tokens;
use super::weight;
use crate::admin::{self, AdminState, Readiness};
use crate::auth::{Authenticator, GuestSalt, KeyError, OriginError, OriginPolicy, Tickets};
use crate::bus::{Bus, BusError, EmbeddedBus, NatsBus, NatsError};
use crate::config::{BusKind, Config};
use crate::hub::Hub;
use crate::metrics::Metrics;
use crate::presence::{Exchange, Roster, Typing};
use crate::quota::Quotas;
use crate::transport::http::Heads;
use crate::transport::{BELLS_TICK, Bells, Drain, Edge};

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address that can't be listened on.
    #[error("{key} = \"{addr}\": {source}")]
    Listen {
        /// The configuration key.
        key: &'static str,
        /// The address.
        addr: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Certificate or key.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Keys of tokens.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// Origins.
    #[error(transparent)]
    Origins(#[from] OriginError),
    /// NATS.
    #[error(transparent)]
    Nats(#[from] NatsError),
    /// The way to the other nodes.
    #[error("the other nodes can't be listened to: {0}")]
    Peers(#[from] BusError),
    /// Signals can't be listened for.
    #[error("signals: {0}")]
    Signals(io::Error),
}

/// How often presence and typing look whose time is up.
const TICK: Duration = Duration::from_millis(250);
/// How often logs are trimmed, and files looked at for changes.
const SWEEP: Duration = Duration::from_secs(2);
/// How often the quotas of those who have gone are forgotten.
const FORGET: Duration = Duration::from_mins(1);
/// Questions to other nodes about tickets at once: each takes a round trip, or 2 s if that node has stopped.
const ASKING: usize = 256;
/// How long connections may take to end after the drain's window.
const DRAIN_GRACE: Duration = Duration::from_secs(3);

/// A node that serves.
pub struct Running {
    /// Where clients connect.
    pub addr: SocketAddr,
    /// Where operators look.
    pub admin: SocketAddr,
    edge: Arc<Edge>,
    readiness: Arc<Readiness>,
    tasks: TaskTracker,
    /// Ends what outlives the drain: the admin listener, the sweeper, the ringers.
    background: CancellationToken,
    background_tasks: TaskTracker,
}

/// Starts a node; it serves when this returns.
///
/// # Errors
/// [`StartError`], naming what has to be changed.
pub async fn start(config: Arc<Config>) -> Result<Running, StartError> {
    let tls = config.tls.enabled.then(|| Tls::load(&config.tls)).transpose()?.map(Arc::new);
    let edge = Arc::new(edge(&config).await?);
    edge.metrics.connection_memory(weight::of_each());
    // Before anybody can come in: a node that does not know what was revoked would let it in.
    let revoked = tokens::read_revocations(&edge).await?;
    let tickets = tokens::hear_tickets(&edge).await?;
    let bind = |key, addr| listen(addr).map_err(|source| StartError::Listen { key, addr, source });
    let (public, private) =
        (bind("listen.addr", config.listen.addr)?, bind("listen.admin", config.listen.admin)?);
    let local = |listener: &tokio::net::TcpListener, addr| listener.local_addr().unwrap_or(addr);
    let (addr, admin) = (local(&public, config.listen.addr), local(&private, config.listen.admin));

    let readiness = Arc::new(Readiness::default());
    let (tasks, background_tasks) = (TaskTracker::new(), TaskTracker::new());
    let background = CancellationToken::new();
    let state = AdminState {
        metrics: Arc::clone(&edge.metrics),
        hub: Arc::clone(&edge.hub),
        readiness: Arc::clone(&readiness),
        revocations: Arc::clone(&edge.revocations),
        revoked: revoked.as_ref().map(|(bucket, _)| Arc::clone(bucket)),
    };
    background_tasks.spawn(admin::serve(private, Arc::new(state), background.clone()));
    background_tasks
        .spawn(background.clone().run_until_cancelled_owned(sweep(Arc::clone(&edge), tls.clone())));
    for _ in 0..std::thread::available_parallelism().map_or(1, NonZero::get) {
        let ringer = Arc::clone(edge.hub.ringer());
        // It gives way by itself.
        let rings = unconstrained(async move { ringer.run().await });
        background_tasks.spawn(background.clone().run_until_cancelled_owned(rings));
    }
    background_tasks.spawn(background.clone().run_until_cancelled_owned(strike(Arc::clone(&edge))));
    let tokens = tokens::run(Arc::clone(&edge), revoked, tickets);
    background_tasks.spawn(background.clone().run_until_cancelled_owned(tokens));
    if let Some(nats) = &edge.nats {
        let (roster, typing) = (Arc::clone(&edge.roster), Arc::clone(&edge.typing));
        let exchange = Exchange::begin(roster, typing, nats.peers().clone()).await?;
        background_tasks.spawn(exchange.run(background.clone()));
    }
    tasks.spawn(accept_loop(Arc::clone(&edge), public, tls, tasks.clone()));
    readiness.set_ready();
    Ok(Running { addr, admin, edge, readiness, tasks, background, background_tasks })
}

/// Runs a node until it is told to stop: SIGTERM or SIGINT drain it, a second one ends it at once.
///
/// # Errors
/// [`StartError`].
pub async fn run(config: Arc<Config>) -> Result<(), StartError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(StartError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(StartError::Signals)?;
    let running = start(config).await?;
    info!(addr = %running.addr, admin = %running.admin, "listening");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    info!(window = ?running.edge.config.listen.drain, "draining; a second signal ends at once");
    tokio::select! {
        () = running.drain() => info!("drained"),
        _ = terminate.recv() => warn!("ended by a second signal"),
        _ = interrupt.recv() => warn!("ended by a second signal"),
    }
    Ok(())
}

impl Running {
    /// Stops: not ready, nothing accepted, every connection told and ended within `listen.drain`.
    pub async fn drain(self) {
        self.readiness.set_draining();
        self.edge.begin_drain();
        self.tasks.close();
        if timeout(self.edge.config.listen.drain + DRAIN_GRACE, self.tasks.wait()).await.is_err() {
            warn!(connections = self.tasks.len(), "the drain's window is over; cut off");
        }
        self.background.cancel();
        self.background_tasks.close();
        self.background_tasks.wait().await;
    }

    /// What the node shares, for tests.
    pub fn edge(&self) -> &Arc<Edge> {
        &self.edge
    }
}

async fn edge(config: &Arc<Config>) -> Result<Edge, StartError> {
    let nats = match config.bus.kind {
        BusKind::Embedded => None,
        BusKind::Nats => Some(Arc::new(NatsBus::connect(config).await?)),
    };
    let bus: Arc<dyn Bus> = match &nats {
        Some(nats) => Arc::clone(nats) as Arc<dyn Bus>,
        None => Arc::new(EmbeddedBus::new()),
    };
    let hub = Arc::new(Hub::new(config.channels.clone(), config.limits.clone(), bus));
    Ok(Edge {
        roster: Arc::new(Roster::new(Arc::clone(&hub))),
        typing: Arc::new(Typing::new(Arc::clone(&hub))),
        hub,
        authenticator: Authenticator::new(&config.auth)?,
        tickets: Tickets::new(nats.as_ref().map_or_else(rand::random, |nats| nats.peers().node().number())),
        asking: Semaphore::new(ASKING),
        revocations: Arc::default(),
        bells: Bells::default(),
        origins: OriginPolicy::new(&config.origins)?,
        quotas: Quotas::new(&config.quota),
        metrics: Arc::new(Metrics::new()),
        heads: Heads::default(),
        guest_salt: GuestSalt::new(),
        node: rand::random(),
        nats,
        drain: Drain::new(config.listen.drain),
        config: Arc::clone(config),
    })
}

/// Rings for heartbeats and ends of tokens. Waits for nothing else: a late ping is a client that is taken for dead late.
async fn strike(edge: Arc<Edge>) {
    let mut tick = tokio::time::interval(BELLS_TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        edge.bells.ring_due();
    }
}

/// What time takes away: grace, silence, history, tickets, revocations; and files that were changed.
async fn sweep(edge: Arc<Edge>, tls: Option<Arc<Tls>>) {
    let mut files = Files { keys: changed_at(&edge), edge: Arc::clone(&edge), tls, complaint: String::new() };
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let [sweep, forget] = [SWEEP, FORGET].map(|period| (period.as_millis() / TICK.as_millis()).max(1));
    for count in 1_u128.. {
        tick.tick().await;
        edge.roster.sweep();
        edge.typing.sweep();
        if count % forget == 0 {
            edge.quotas.sweep();
            edge.authenticator.sweep();
        }
        if count % sweep == 0 {
            // Locks each log in turn and reads files: not on a worker that connections wait for.
            let looked = tokio::task::spawn_blocking(move || {
                files.edge.hub.sweep(files.edge.now());
                files.edge.tickets.sweep();
                files.edge.revocations.sweep();
                files.reload();
                files
            });
            let Ok(back) = looked.await else { return warn!("the sweep has ended by a panic") };
            files = back;
        }
    }
}

/// The files that are read again when they change.
struct Files {
    edge: Arc<Edge>,
    tls: Option<Arc<Tls>>,
    /// When the token keys that are in use were written.
    keys: Vec<Option<SystemTime>>,
    /// What was wrong the last time: said once, tried each time.
    complaint: String,
}

impl Files {
    fn reload(&mut self) {
        let mut complaint = String::new();
        match self.tls.as_ref().map(|tls| tls.reload()) {
            Some(Ok(true)) => info!("certificate reloaded"),
            Some(Err(error)) => complaint = format!("the certificate in use stays: {error}"),
            _ => {}
        }
        let now = changed_at(&self.edge);
        if now != self.keys {
            match self.edge.authenticator.reload() {
                Ok(()) => {
                    self.keys = now;
                    info!("token keys reloaded");
                }
                Err(error) => complaint = format!("{complaint} the token keys in use stay: {error}"),
            }
        }
        if !complaint.is_empty() && complaint != self.complaint {
            warn!("{}", complaint.trim());
        }
        self.complaint = complaint;
    }
}

fn changed_at(edge: &Edge) -> Vec<Option<SystemTime>> {
    let modified = |path| std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
    edge.authenticator.watched_files().into_iter().map(modified).collect()
}
