//! What every connection of this node shares, made once at the start.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::RngExt as _;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::bells::Bells;
use super::http::Heads;
use crate::auth::{Authenticator, GuestSalt, OriginPolicy, Revocations, Tickets};
use crate::bus::NatsBus;
use crate::config::Config;
use crate::hub::Hub;
use crate::metrics::Metrics;
use crate::presence::{Roster, Typing};
use crate::quota::Quotas;

/// One node.
pub struct Edge {
    /// As the operator set it.
    pub config: Arc<Config>,
    /// Its channels.
    pub hub: Arc<Hub>,
    /// The way to the other nodes, where there can be any.
    pub nats: Option<Arc<NatsBus>>,
    /// Who is where.
    pub roster: Arc<Roster>,
    /// Who types where.
    pub typing: Arc<Typing>,
    /// Whose tokens are good.
    pub authenticator: Authenticator,
    /// Tickets that are out.
    pub tickets: Tickets,
    /// Questions to other nodes about theirs, at once.
    pub asking: Semaphore,
    /// Tokens that were taken back.
    pub revocations: Arc<Revocations>,
    /// How connections are told of it, and of the drain.
    pub bells: Bells,
    /// Which pages may connect.
    pub origins: OriginPolicy,
    /// Rates and counts.
    pub quotas: Quotas,
    /// What operators see.
    pub metrics: Arc<Metrics>,
    /// Knows who polls in a loop by its head.
    pub heads: Heads,
    /// Names guests by address.
    pub guest_salt: GuestSalt,
    /// Tells this node's passing envelopes from another's in a cursor string.
    pub node: u32,
    /// Whether it is going away.
    pub drain: Drain,
}

impl Edge {
    /// Now, by the clock that tests can stop.
    #[expect(clippy::unused_self, reason = "callers should not care where the clock is")]
    pub fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }

    /// Begins the drain.
    pub fn begin_drain(&self) {
        self.drain.begun.store(true, Ordering::Release);
        self.drain.token.cancel();
        self.bells.ring_all();
    }
}

/// The node's way out: told to every connection once, each with its own moment to go.
pub struct Drain {
    token: CancellationToken,
    /// The same, for who looks at each turn: the token has a lock.
    begun: AtomicBool,
    window: Duration,
}

impl Drain {
    /// A drain that takes `window` at most, once it begins.
    pub fn new(window: Duration) -> Self {
        Self { token: CancellationToken::new(), begun: AtomicBool::new(false), window }
    }

    /// Ends when it begins.
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// Whether it has begun.
    pub fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Acquire)
    }

    /// How long a long-lived connection goes on, and how long its client is told to wait before it comes back. Each is
    /// random over half of the window, so that nobody meets a herd: not this node on its way out, not the others.
    pub fn spread(&self) -> (Duration, Duration) {
        let half = self.window / 2;
        let mut rng = rand::rng();
        (rng.random_range(Duration::ZERO..=half), rng.random_range(Duration::ZERO..=half))
    }
}
