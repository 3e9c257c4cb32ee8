//! A node without sockets, for targets whose code asks one: its settings, its keys, its quotas.

use std::sync::Arc;
use std::time::Duration;

use tidegate::auth::{Authenticator, GuestSalt, OriginPolicy, Tickets};
use tidegate::bus::EmbeddedBus;
use tidegate::config::{Access, Auth, AuthMode, Config, Namespace};
use tidegate::hub::Hub;
use tidegate::metrics::Metrics;
use tidegate::presence::{Roster, Typing};
use tidegate::quota::Quotas;
use tidegate::transport::http::Heads;
use tidegate::transport::{Bells, Drain, Edge};
use tokio::sync::Semaphore;

/// What the node's tokens are signed with.
pub const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// The one Origin that the node's settings name.
pub const ORIGIN: &str = "https://app.example.com";

/// Guests may come and do everything, no quota is ever used up, and a channel keeps a few messages.
pub fn open_to_everyone() -> Config {
    let mut config = Config {
        auth: Auth { mode: AuthMode::Optional, hs256_secret: Some(SECRET.to_owned()), ..Auth::default() },
        ..Config::default()
    };
    config.origins.allow = vec![ORIGIN.to_owned()];
    config.channels.default =
        Namespace { join: Access::Anyone, send: Access::Anyone, history_size: 4, ..Namespace::default() };
    let quota = &mut config.quota;
    quota.connections_per_ip = 0;
    quota.connects_per_ip_per_minute = 0;
    quota.messages_per_connection_per_minute = 0;
    quota.requests_per_connection_per_minute = 0;
    quota.sends_per_server_per_second = 0;
    config
}

/// The node of that configuration, as the server makes it.
///
/// # Panics
/// If the configuration has no usable key or Origin.
pub fn node(config: Config) -> Edge {
    let bus = Arc::new(EmbeddedBus::new());
    let hub = Arc::new(Hub::new(config.channels.clone(), config.limits.clone(), bus));
    Edge {
        nats: None,
        roster: Arc::new(Roster::new(Arc::clone(&hub))),
        typing: Arc::new(Typing::new(Arc::clone(&hub))),
        hub,
        authenticator: Authenticator::new(&config.auth).expect("the secret is long enough"),
        tickets: Tickets::new(7),
        asking: Semaphore::new(1),
        revocations: Arc::default(),
        bells: Bells::default(),
        origins: OriginPolicy::new(&config.origins).expect("the Origin is one"),
        quotas: Quotas::new(&config.quota),
        metrics: Arc::new(Metrics::new()),
        heads: Heads::default(),
        guest_salt: GuestSalt::new(),
        node: 7,
        drain: Drain::new(Duration::from_secs(1)),
        config: Arc::new(config),
    }
}
