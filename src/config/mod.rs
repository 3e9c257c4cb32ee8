//! What an operator can set. Parsed once at the start by [`load()`], handed down by reference; nothing else reads
//! the configuration file, its flags or the environment. `default.toml` beside this file is the operator's view of
//! the same keys: unit, default, reason and worst-case memory of each.

mod bus;
mod error;
mod keys;
mod load;
mod place;
mod relations;
mod tree;
mod value;
mod web_origin;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

pub use bus::{Bus, BusKind, Storage};
pub use error::ConfigError;
pub use load::{Source, load};
pub use place::Place;

/// Every key, commented out at its default, with what it means: a file to start from.
pub const DEFAULT_TOML: &str = include_str!("default.toml");

/// The whole configuration; `Config::default()` is what an empty file means, before [`load()`] has checked that one
/// key agrees with another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Sockets, connections, drain.
    pub listen: Listen,
    /// Certificate and key.
    pub tls: Tls,
    /// Who may connect.
    pub auth: Auth,
    /// Which pages may connect.
    pub origins: Origins,
    /// Sizes.
    pub limits: Limits,
    /// Rates.
    pub quota: Quota,
    /// Compressed WebSocket messages.
    pub compression: Compression,
    /// WebSocket pings.
    pub heartbeat: Heartbeat,
    /// Settings of namespaces, `default` for all others.
    pub channels: Channels,
    /// What carries publications.
    pub bus: Bus,
    /// For conformance suites only.
    pub conformance: Conformance,
    /// Logs.
    pub log: Log,
    /// Set by the loader when there is no configuration file: loopback only, open to everyone.
    #[serde(skip)]
    pub development: bool,
    /// Set by the loader: what is allowed but rarely meant, a sentence each, to be said at the start.
    #[serde(skip)]
    pub warnings: Vec<String>,
}

/// `[listen]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Listen {
    /// Where clients connect.
    pub addr: SocketAddr,
    /// Where operators look: metrics, liveness, readiness. Never reachable from outside.
    pub admin: SocketAddr,
    /// Expect a PROXY protocol header (v1 or v2) before everything else. Only behind a proxy that always sends it.
    pub proxy_protocol: bool,
    /// Connections at once; a WebSocket on a stream of an HTTP/2 connection is one more. Worst case memory: this ×
    /// (`limits.queue_bytes` + `limits.message_bytes`).
    pub max_connections: usize,
    /// How long a drain may take; closes and their retry hints are spread over it.
    #[serde(with = "value::duration")]
    pub drain: Duration,
    /// From accept to the end of the TLS handshake (and of the PROXY header).
    #[serde(with = "value::duration")]
    pub handshake_timeout: Duration,
    /// From the first byte of a request's head to its last, and for its body.
    #[serde(with = "value::duration")]
    pub request_timeout: Duration,
    /// How long a kept-alive HTTP connection may be without a request.
    #[serde(with = "value::duration")]
    pub idle_timeout: Duration,
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            addr: SocketAddr::from(([127, 0, 0, 1], 8443)),
            admin: SocketAddr::from(([127, 0, 0, 1], 9464)),
            proxy_protocol: false,
            max_connections: 100_000,
            drain: Duration::from_secs(20),
            handshake_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
        }
    }
}

/// Where the development certificate, its key and the development secret are, from the working directory.
pub const DEVELOPMENT_DIRECTORY: &str = "certs";

/// `[tls]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// Off: plain TCP, for a proxy in front that ends TLS.
    pub enabled: bool,
    /// PEM certificate chain, reloaded when it changes.
    pub cert: PathBuf,
    /// PEM private key, reloaded with it.
    pub key: PathBuf,
}

impl Default for Tls {
    fn default() -> Self {
        Self { enabled: true, cert: "certs/dev.crt".into(), key: "certs/dev.key".into() }
    }
}

impl Tls {
    /// Whether these are the certificate and key that the edge makes for itself when they are missing.
    pub fn is_development(&self) -> bool {
        let own = Self::default();
        self.cert == own.cert && self.key == own.key
    }
}

/// `auth.mode`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthMode {
    /// No token, no service.
    #[default]
    Required,
    /// Without a token a client is a `guest-…`.
    Optional,
}

/// `[auth]`
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Auth {
    /// Whether a token is needed.
    pub mode: AuthMode,
    /// Shared secret of HS256 tokens, at least 32 bytes.
    pub hs256_secret: Option<String>,
    /// JWK set (RFC 7517) with the public keys of RS256, ES256 and `EdDSA` tokens; reloaded when it changes.
    pub jwks_file: Option<PathBuf>,
    /// PEM public key of RS256, ES256 or `EdDSA` tokens, for those without a JWK set.
    pub public_key_file: Option<PathBuf>,
    /// Required `iss`.
    pub issuer: Option<String>,
    /// Required `aud`.
    pub audience: Option<String>,
    /// How long a WebSocket may stay without a token.
    #[serde(with = "value::duration")]
    pub timeout: Duration,
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            mode: AuthMode::Required,
            hs256_secret: None,
            jwks_file: None,
            public_key_file: None,
            issuer: None,
            audience: None,
            timeout: Duration::from_secs(10),
        }
    }
}

impl std::fmt::Debug for Auth {
    // By hand: the secret must never reach a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Auth")
            .field("mode", &self.mode)
            .field("hs256_secret", &self.hs256_secret.as_ref().map(|_| "…"))
            .field("jwks_file", &self.jwks_file)
            .field("public_key_file", &self.public_key_file)
            .field("issuer", &self.issuer)
            .field("audience", &self.audience)
            .field("timeout", &self.timeout)
            .finish()
    }
}

/// `[origins]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Origins {
    /// Origins allowed besides the edge's own: exact (`https://app.example.com`), or `*`.
    pub allow: Vec<String>,
}

/// `[limits]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Largest message a client may send, in bytes, over all its fragments. Held once per connection while it arrives.
    pub message_bytes: usize,
    /// Channels one connection may join.
    pub channels_per_connection: usize,
    /// How much may wait for one slow client: its unsent answers, and how far it may lag behind a channel's log.
    pub queue_bytes: usize,
    /// How long one write may make no progress.
    #[serde(with = "value::duration")]
    pub write_timeout: Duration,
    /// How far apart the wakes of one subscriber are at least, in a channel that has more than 128.
    #[serde(with = "value::duration")]
    pub gathering: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_bytes: 65_536,
            channels_per_connection: 128,
            queue_bytes: 1_048_576,
            write_timeout: Duration::from_secs(10),
            gathering: Duration::from_millis(4),
        }
    }
}

/// `[quota]`: 0 turns a quota off.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Quota {
    /// Connections of one IP address at once; a WebSocket on a stream of an HTTP/2 connection is one more.
    pub connections_per_ip: u32,
    /// New connections of one IP address.
    pub connects_per_ip_per_minute: u32,
    /// `message` and typing envelopes of one WebSocket, or of one token's user over HTTP.
    pub messages_per_connection_per_minute: u32,
    /// All other envelopes and HTTP requests of one connection or user: a flood guard, not a budget.
    pub requests_per_connection_per_minute: u32,
    /// Messages of one backend (`role: "server"`).
    pub sends_per_server_per_second: u32,
}

impl Default for Quota {
    fn default() -> Self {
        Self {
            connections_per_ip: 200,
            connects_per_ip_per_minute: 600,
            messages_per_connection_per_minute: 100,
            requests_per_connection_per_minute: 1200,
            sends_per_server_per_second: 10_000,
        }
    }
}

/// `[compression]`: permessage-deflate (RFC 7692).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Compression {
    /// Whether it is agreed to when a client offers it.
    pub enabled: bool,
    /// Shorter messages are sent as they are.
    pub min_bytes: u16,
}

impl Default for Compression {
    fn default() -> Self {
        Self { enabled: true, min_bytes: 512 }
    }
}

/// `[heartbeat]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Heartbeat {
    /// Between pings. Proxies cut idle streams at 30–60 s.
    #[serde(with = "value::duration")]
    pub interval: Duration,
    /// How long the answer may take before the peer counts as dead.
    #[serde(with = "value::duration")]
    pub timeout: Duration,
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self { interval: Duration::from_secs(25), timeout: Duration::from_secs(10) }
    }
}

/// Who may do a thing in a namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Whoever's token grants it.
    #[default]
    Granted,
    /// Everyone with a token.
    Authenticated,
    /// Guests too.
    Anyone,
}

/// What happens to a subscriber that falls off the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SlowConsumer {
    /// It is told so with one `gap` and goes on.
    #[default]
    Gap,
    /// It is closed with 1013.
    Close,
}

/// `[channels.NAMESPACE]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Namespace {
    /// Messages kept for history and recovery, per channel.
    pub history_size: usize,
    /// Bytes kept for history and recovery, per channel.
    pub history_bytes: usize,
    /// How long they are kept.
    #[serde(with = "value::duration")]
    pub history_ttl: Duration,
    /// Whether it is known who is there.
    pub presence: bool,
    /// Who may join.
    pub join: Access,
    /// Who may send.
    pub send: Access,
    /// What becomes of a subscriber that reads too slowly.
    pub slow_consumer: SlowConsumer,
    /// NATS: where backends publish to its channels; `*` stands for what is behind the channel's first `:`.
    pub subject: Option<String>,
}

impl Default for Namespace {
    fn default() -> Self {
        Self {
            history_size: 128,
            history_bytes: 8_388_608,
            history_ttl: Duration::from_mins(10),
            presence: true,
            join: Access::Granted,
            send: Access::Granted,
            slow_consumer: SlowConsumer::Gap,
            subject: None,
        }
    }
}

/// `[channels.*]`; what a namespace does not set, [`load()`] takes over from `[channels.default]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "BTreeMap<String, Namespace>")]
pub struct Channels {
    /// Where no other namespace applies.
    pub default: Namespace,
    /// By the part of a channel's name before its first `:`.
    pub namespaces: BTreeMap<String, Namespace>,
}

// Not `#[serde(flatten)]`: that buffers values as what they look like, and a variable's text looks like a string.
impl From<BTreeMap<String, Namespace>> for Channels {
    fn from(mut namespaces: BTreeMap<String, Namespace>) -> Self {
        Self { default: namespaces.remove("default").unwrap_or_default(), namespaces }
    }
}

impl Channels {
    /// The settings of a channel in that namespace.
    pub fn of(&self, namespace: Option<&str>) -> &Namespace {
        namespace.and_then(|name| self.namespaces.get(name)).unwrap_or(&self.default)
    }
}

/// `[conformance]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Conformance {
    /// Serve `/echo`.
    pub echo: bool,
}

/// `log.format`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// Text or JSON lines, on standard error.
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives by module (`info,tidegate::auth=debug`).
    pub level: String,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: "info".to_owned() }
    }
}
