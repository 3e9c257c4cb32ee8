//! How much one address, connection, user or backend may do, and when it may come again. Asked by the server at
//! accept and by transports for every envelope and request; `[quota]` says the numbers, 0 turns one off. Refuses,
//! never delays.
//!
//! All rates are governor's GCRA: the whole minute's (or second's) quota at once, then refilled evenly.

mod address;
mod limit;
mod table;

use std::hash::{BuildHasher as _, RandomState};
use std::num::NonZeroU32;
use std::sync::Arc;

use governor::Quota as Rate;
use governor::nanos::Nanos;

use crate::auth::{Identity, Role};
use crate::close::Fault;
use crate::config;
use address::Connections;
use limit::{Carried, Limit, Spent};
use table::Table;

pub use address::{COME_AGAIN, Network};
pub use table::MAX_KEYS;

/// All quotas of this node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Quotas(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    connections: Connections,
    connects: Limit<Table<Network>>,
    /// Twice `connects`: what is beyond it is not worth a handshake.
    floods: Limit<Table<Network>>,
    messages: Limit<Carried>,
    requests: Limit<Carried>,
    user_messages: Limit<Table<UserKey>>,
    user_requests: Limit<Table<UserKey>>,
    server_messages: Limit<Table<UserKey>>,
    /// Turns user ids into keys of a fixed size, by a hash nobody outside can aim at.
    user_hash: RandomState,
}

/// A user id, hashed: among [`MAX_KEYS`] two share a limit with a chance of one in billions.
type UserKey = u64;

/// What becomes of a connection that was just accepted.
#[derive(Debug)]
#[must_use = "a connection that is not dropped is counted until it is disconnected"]
pub enum Admission {
    /// Serve it.
    Admitted,
    /// Serve its handshake and answer its first request with this fault: the client then knows why and for how long.
    Refused(Fault),
    /// Close it at once: its address is beyond twice a limit, and an answer would cost what the limit is there to save.
    /// The fault is for where that is a stream, whose end costs as much as an answer.
    Dropped(Fault),
}

const CONNECTIONS: &str = "quota.connections_per_ip";
const CONNECTS: &str = "quota.connects_per_ip_per_minute";
const MESSAGES: &str = "quota.messages_per_connection_per_minute";
const REQUESTS: &str = "quota.requests_per_connection_per_minute";
const SERVER_SENDS: &str = "quota.sends_per_server_per_second";

impl Quotas {
    /// A user's place in the table of requests: key, state, and the table's own byte.
    pub const PLACE_BYTES: usize = size_of::<(UserKey, Nanos)>() + 1;

    /// The quotas of a configuration, all of them unused.
    pub fn new(settings: &config::Quota) -> Self {
        let minute = |count| NonZeroU32::new(count).map(Rate::per_minute);
        let second = |count| NonZeroU32::new(count).map(Rate::per_second);
        let connects = settings.connects_per_ip_per_minute;
        let messages = settings.messages_per_connection_per_minute;
        let requests = settings.requests_per_connection_per_minute;
        Self(Arc::new(Shared {
            connections: Connections::new(settings.connections_per_ip),
            connects: Limit::new(CONNECTS, minute(connects), Table::new()),
            floods: Limit::new(CONNECTS, minute(connects.saturating_mul(2)), Table::new()),
            messages: Limit::new(MESSAGES, minute(messages), Carried),
            requests: Limit::new(REQUESTS, minute(requests), Carried),
            user_messages: Limit::new(MESSAGES, minute(messages), Table::new()),
            user_requests: Limit::new(REQUESTS, minute(requests), Table::new()),
            server_messages: Limit::new(
                SERVER_SENDS,
                second(settings.sends_per_server_per_second),
                Table::new(),
            ),
            user_hash: RandomState::new(),
        }))
    }

    /// Counts a connection that has just begun from there: a socket, or a WebSocket on a stream of one. Unless it is to be
    /// dropped, [`Quotas::disconnect`] has to be called when it ends: `server::accept::Place` does, whoever has one.
    pub fn connect(&self, network: Network) -> Admission {
        if let Err(fault) = self.0.floods.check(&network) {
            return Admission::Dropped(fault);
        }
        let rate = self.0.connects.check(&network);
        match self.0.connections.enter(network) {
            None => Admission::Dropped(Fault::rate_limited(CONNECTIONS, COME_AGAIN)),
            Some(count) => rate.and(count).map_or_else(Admission::Refused, |()| Admission::Admitted),
        }
    }

    /// A connection that was counted has ended.
    pub fn disconnect(&self, network: Network) {
        self.0.connections.leave(network);
    }

    /// The quota of whoever sent an HTTP request, the same over all its connections.
    pub fn of(&self, identity: &Identity) -> UserQuota<'_> {
        match identity.role {
            Role::Server => self.server(&identity.user_id),
            Role::User | Role::Guest => self.user(&identity.user_id),
        }
    }

    /// The quota of a user over HTTP.
    pub fn user(&self, user_id: &str) -> UserQuota<'_> {
        self.keyed(user_id, &self.0.user_messages)
    }

    /// The quota of a backend, over HTTP and every WebSocket of it.
    pub fn server(&self, user_id: &str) -> UserQuota<'_> {
        self.keyed(user_id, &self.0.server_messages)
    }

    /// Forgets who has its whole quota again and gives memory back. To be called every minute or so: a table that is
    /// never swept stays bounded by [`MAX_KEYS`], it is only larger than it needs to be.
    pub fn sweep(&self) {
        let shared = &self.0;
        shared.connects.sweep();
        shared.floods.sweep();
        shared.user_messages.sweep();
        shared.user_requests.sweep();
        shared.server_messages.sweep();
        shared.connections.shrink();
    }

    /// How many addresses and users are being remembered, over all tables: for a gauge.
    pub fn tracked_keys(&self) -> usize {
        let shared = &self.0;
        let by_address = shared.connects.len() + shared.floods.len() + shared.connections.len();
        by_address + shared.user_messages.len() + shared.user_requests.len() + shared.server_messages.len()
    }

    fn keyed<'a>(&'a self, user_id: &str, messages: &'a Limit<Table<UserKey>>) -> UserQuota<'a> {
        let key = self.0.user_hash.hash_one(user_id);
        UserQuota { key, messages, requests: &self.0.user_requests }
    }
}

/// What one WebSocket has used of its quota: 16 bytes.
#[derive(Debug, Default)]
pub struct ConnectionQuota {
    messages: Spent,
    requests: Spent,
}

impl ConnectionQuota {
    /// Counts a `message` or a typing envelope. Takes the identity anew each time, since a token may be renewed: a
    /// backend's messages count on the backend's quota, over all its connections.
    ///
    /// # Errors
    /// [`Kind::RateLimited`](crate::close::Kind::RateLimited) with the limit and the time until the next one may come.
    pub fn message(&self, quotas: &Quotas, identity: &Identity) -> Result<(), Fault> {
        match identity.role {
            Role::Server => quotas.server(&identity.user_id).message(),
            Role::User | Role::Guest => quotas.0.messages.check(&self.messages),
        }
    }

    /// Counts any other envelope, before or after authentication.
    ///
    /// # Errors
    /// [`Kind::RateLimited`](crate::close::Kind::RateLimited) with the limit and the time until the next one may come.
    pub fn request(&self, quotas: &Quotas) -> Result<(), Fault> {
        quotas.0.requests.check(&self.requests)
    }
}

/// The quota of one user or backend, over all its HTTP requests.
#[derive(Clone, Copy, Debug)]
pub struct UserQuota<'a> {
    key: UserKey,
    messages: &'a Limit<Table<UserKey>>,
    requests: &'a Limit<Table<UserKey>>,
}

impl UserQuota<'_> {
    /// Counts a `message` or a typing envelope.
    ///
    /// # Errors
    /// [`Kind::RateLimited`](crate::close::Kind::RateLimited) with the limit and the time until the next one may come.
    pub fn message(&self) -> Result<(), Fault> {
        self.messages.check(&self.key)
    }

    /// Counts any other envelope or request.
    ///
    /// # Errors
    /// [`Kind::RateLimited`](crate::close::Kind::RateLimited) with the limit and the time until the next one may come.
    pub fn request(&self) -> Result<(), Fault> {
        self.requests.check(&self.key)
    }
}

#[cfg(test)]
mod tests;
