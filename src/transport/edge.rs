//! What every connection of this node shares, made once at the start.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::RngExt as _;
use slab::Slab;
use tokio_util::sync::CancellationToken;

use crate::auth::{Authenticator, GuestSalt, OriginPolicy, Tickets};
use crate::bus::NatsBus;
use crate::channel::Wake;
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
    /// Which pages may connect.
    pub origins: OriginPolicy,
    /// Rates and counts.
    pub quotas: Quotas,
    /// What operators see.
    pub metrics: Arc<Metrics>,
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
}

/// The node's way out: told to every connection once, each with its own moment to go.
pub struct Drain {
    token: CancellationToken,
    window: Duration,
    /// A WebSocket has a bell already: a future of its own for this would be a tenth of an idle one.
    bells: Mutex<Slab<Arc<Wake>>>,
}

/// While it lives, the drain rings the connection's bell.
pub struct DrainWatch {
    edge: Arc<Edge>,
    key: usize,
}

impl DrainWatch {
    /// Has `wake` rung when the drain of `edge` begins; who comes later looks at [`Drain::has_begun`].
    pub fn new(edge: &Arc<Edge>, wake: &Arc<Wake>) -> Self {
        let key = edge.drain.bells.lock().insert(Arc::clone(wake));
        Self { edge: Arc::clone(edge), key }
    }
}

impl Drop for DrainWatch {
    fn drop(&mut self) {
        self.edge.drain.bells.lock().remove(self.key);
    }
}

impl Drain {
    /// A drain that takes `window` at most, once it begins.
    pub fn new(window: Duration) -> Self {
        Self { token: CancellationToken::new(), window, bells: Mutex::default() }
    }

    /// Begins it.
    pub fn begin(&self) {
        self.token.cancel();
        for (_, bell) in self.bells.lock().iter() {
            bell.wake();
        }
    }

    /// Ends when it begins.
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// Whether it has begun.
    pub fn has_begun(&self) -> bool {
        self.token.is_cancelled()
    }

    /// How long a long-lived connection goes on, and how long its client is told to wait before it comes back. Each is
    /// random over half of the window, so that nobody meets a herd: not this node on its way out, not the others.
    pub fn spread(&self) -> (Duration, Duration) {
        let half = self.window / 2;
        let mut rng = rand::rng();
        (rng.random_range(Duration::ZERO..=half), rng.random_range(Duration::ZERO..=half))
    }
}
