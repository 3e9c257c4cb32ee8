//! One limit: a rate, the configuration key it comes from, and where what was used of it is kept. Turns governor's
//! answers into faults a client can act on.

use std::hash::{Hash, Hasher};
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::keyed::{KeyedStateStore, ShrinkableKeyedStateStore};
use governor::state::{InMemoryState, NotKeyed, StateStore};
use governor::{Quota as Rate, RateLimiter};
use tokio::time::Instant;

use crate::close::Fault;

/// A rate for many, each with its own state in `S`; or none, if the operator turned it off.
#[derive(Debug)]
pub(super) struct Limit<S: StateStore> {
    name: &'static str,
    limiter: Option<RateLimiter<S::Key, S, SinceStart, NoOpMiddleware<Nanos>>>,
}

impl<S, K: Hash> Limit<S>
where
    S: StateStore<Key = K> + KeyedStateStore<K>,
{
    pub(super) fn new(name: &'static str, rate: Option<Rate>, store: S) -> Self {
        Self { name, limiter: rate.map(|rate| RateLimiter::new(rate, store, SinceStart(Instant::now()))) }
    }

    /// Takes one from that key's quota, or says when the next one will be there.
    pub(super) fn check(&self, key: &K) -> Result<(), Fault> {
        let Some(limiter) = &self.limiter else { return Ok(()) };
        limiter.check_key(key).map_err(|not_until| {
            let wait = not_until.wait_time_from(limiter.clock().now());
            Fault::rate_limited(self.name, wait.max(Duration::from_millis(1)))
        })
    }
}

impl<S, K: Hash> Limit<S>
where
    S: StateStore<Key = K> + ShrinkableKeyedStateStore<K>,
{
    /// Forgets the keys whose quota is whole again.
    pub(super) fn sweep(&self) {
        if let Some(limiter) = &self.limiter {
            limiter.retain_recent();
            limiter.shrink_to_fit();
        }
    }

    pub(super) fn len(&self) -> usize {
        self.limiter.as_ref().map_or(0, RateLimiter::len)
    }
}

/// tokio's clock rather than governor's own, so that tests can move it. In a release build it is the system's
/// monotonic clock.
#[derive(Clone, Debug)]
pub(super) struct SinceStart(Instant);

impl Clock for SinceStart {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Instant::now().saturating_duration_since(self.0).into()
    }
}

/// No table: each state is kept by whom it limits. A connection so costs 8 bytes a limit, where a governor limiter of its
/// own, with rate and clock, takes ten times that.
#[derive(Debug)]
pub(super) struct Carried;

/// What one connection has used of one limit. It is its own key in [`Carried`].
#[derive(Debug, Default)]
pub(super) struct Spent(InMemoryState);

impl StateStore for Carried {
    type Key = Spent;

    fn measure_and_replace<T, F, E>(&self, spent: &Spent, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        spent.0.measure_and_replace(&NotKeyed::NonKey, decide)
    }
}

impl KeyedStateStore<Spent> for Carried {}

/// governor asks it of every key; nothing ever hashes this one.
impl Hash for Spent {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}
