//! What the edge counts of itself, and the page that says it: OpenMetrics text for `GET /metrics`.
//!
//! Every layer counts through one shared [`Metrics`]; only the admin listener renders it. No label ever holds a user,
//! a channel or an address: the number of series does not grow with the load.

mod latency;
mod per_thread;
mod process;
mod series;

use std::array;
use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::text;
use prometheus_client::metrics::TypedMetric;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Metric, Registry, Unit};

use crate::channel::GapReason;
use crate::close::Kind;
use latency::Latency;
use per_thread::PerThread;
use process::Process;
use series::Labels;

/// The media type of [`Metrics::render`]'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How a client is connected: the `transport` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// `/v1/ws` and `/echo`.
    WebSocket,
    /// `/v1/sse`.
    Sse,
    /// `/v1/poll`.
    Poll,
    /// Plain requests: send, history, presence, tickets.
    Http,
}

impl Transport {
    /// All of them, each at the index that it is as a number.
    pub const ALL: [Self; 4] = [Self::WebSocket, Self::Sse, Self::Poll, Self::Http];

    /// The label's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WebSocket => "websocket",
            Self::Sse => "sse",
            Self::Poll => "poll",
            Self::Http => "http",
        }
    }
}

/// What a new connection goes through before it is served: the `stage` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// The PROXY protocol's header.
    Proxy,
    /// The TLS handshake.
    Tls,
    /// The first request's head.
    Http,
    /// The upgrade to a WebSocket.
    WebSocket,
}

impl Stage {
    /// All of them, each at the index that it is as a number.
    pub const ALL: [Self; 4] = [Self::Proxy, Self::Tls, Self::Http, Self::WebSocket];

    /// The label's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Proxy => "proxy",
            Self::Tls => "tls",
            Self::Http => "http",
            Self::WebSocket => "websocket",
        }
    }
}

/// What nobody counts but what a scrape asks for.
#[derive(Clone, Debug, Default)]
pub struct Gauges {
    /// Channels on this node.
    pub channels: usize,
    /// Bytes in their logs.
    pub log_bytes: usize,
    /// Whether this node is on its way out.
    pub draining: bool,
    /// Revocations that this node knows.
    pub revocations: usize,
    /// Whether the bus takes publications.
    pub bus_up: bool,
    /// Subscriptions that the bus has for this node's channels.
    pub subscriptions: usize,
    /// What has happened on the bus since the start, by name.
    pub bus_events: Vec<(&'static str, u64)>,
}

/// All counts of this process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    active: [Gauge; 4],
    opened: [Counter; 4],
    tcp_active: Gauge,
    tcp_opened: Counter,
    connection_memory: [Gauge; 2 * 3],
    handshakes: [Counter; 2 * 4],
    sent: [Sent; 4],
    received: [Counter; 4],
    published: [Counter; 2],
    fanout: Latency,
    errors: [Counter; KINDS * 4],
    malformed: [Counter; 4],
    rate_limited: [Counter; 4],
    revoked: [Counter; 4],
    gaps: [Counter; 3],
    /// The only one that is looked up, under a lock: once in a connection's life.
    closed: Family<Labels<3>, Counter>,
    channels: Gauge,
    log_bytes: Gauge,
    draining: Gauge,
    revocations: Gauge,
    bus_up: Gauge,
    subscriptions: Gauge,
    bus_events: Family<Labels<1>, Counter>,
}

/// Counts envelopes that were sent.
type Sent = Counter<u64, PerThread<AtomicU64>>;

const KINDS: usize = Kind::ALL.len();
/// Each at the index that it is as a number.
const GAP_REASONS: [GapReason; 3] = [GapReason::Expired, GapReason::EpochChanged, GapReason::SlowConsumer];

/// One live connection: as long as it is held, it counts as active.
#[derive(Debug)]
#[must_use = "the connection counts as active for as long as this is held"]
pub struct ActiveGuard(Gauge);

impl Drop for ActiveGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// One accepted socket: as long as it is held, it counts as active.
#[derive(Debug)]
#[must_use = "the socket counts as active for as long as this is held"]
pub struct TcpGuard(Arc<Metrics>);

impl Drop for TcpGuard {
    fn drop(&mut self) {
        self.0.tcp_active.dec();
    }
}

impl Metrics {
    /// Everything at 0, every series there already.
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let to = &mut registry;
        build_info(to);
        let transports = Transport::ALL.map(|transport| [label("transport", transport.as_str())]);
        let active = of_each(to, "connections_active", "Clients that are served now", &transports);
        let opened =
            of_each(to, "connections_opened", "Clients ever served, every poll counted", &transports);
        let sent = of_each(to, "messages_sent", "Envelopes handed to clients' sockets", &transports);
        let received = of_each(to, "messages_received", "Envelopes that came from clients", &transports);
        let malformed =
            of_each(to, "malformed", "Envelopes and requests that could not be understood", &transports);
        let rate_limited = of_each(to, "rate_limited", "Refusals because of a quota", &transports);
        let revoked =
            of_each(to, "revoked", "Connections ended and refused for a revoked token", &transports);
        websocket_totals(to, &active, &sent, &received);
        let metrics = Self {
            active,
            opened,
            sent,
            received,
            malformed,
            rate_limited,
            revoked,
            tcp_active: single(to, "tcp_connections_active", "Sockets that are open now"),
            tcp_opened: single(to, "tcp_connections", "Sockets ever accepted"),
            connection_memory: of_each(
                to,
                "connection_memory_bytes",
                "What one idle connection in one channel holds in this process, by the sizes of its parts",
                &memory_labels(),
            ),
            handshakes: of_each(to, "handshakes", "Steps towards a connection", &handshake_labels()),
            published: of_each(
                to,
                "published",
                "Publications that the bus took, and those it had already",
                &["accepted", "duplicate"].map(|outcome| [label("outcome", outcome)]),
            ),
            errors: of_each(to, "errors", "Refusals and errors that clients were told", &error_labels()),
            gaps: of_each(
                to,
                "gaps",
                "Times that a subscriber was told of messages it can't have",
                &GAP_REASONS.map(|reason| [label("reason", reason.as_str())]),
            ),
            closed: closed(to),
            fanout: Latency::default(),
            channels: single(to, "channels", "Channels on this node"),
            log_bytes: Gauge::default(),
            draining: single(to, "draining", "1 while this node is on its way out"),
            revocations: single(to, "revocations", "Revocations of tokens that this node knows"),
            bus_up: single(to, "bus_up", "1 while the bus takes publications"),
            subscriptions: single(
                to,
                "bus_subscriptions",
                "Subscriptions on the bus for channels of this node",
            ),
            bus_events: single(to, "bus_events", "What has happened between this node and the bus"),
            registry,
        };
        metrics.with_units()
    }

    /// A client is being served from now until the guard drops.
    pub fn connection(self: &Arc<Self>, transport: Transport) -> ActiveGuard {
        self.opened[transport as usize].inc();
        self.active[transport as usize].inc();
        ActiveGuard(self.active[transport as usize].clone())
    }

    /// A socket is open from now until the guard drops.
    pub fn tcp_opened(self: &Arc<Self>) -> TcpGuard {
        self.tcp_opened.inc();
        self.tcp_active.inc();
        TcpGuard(Arc::clone(self))
    }

    /// What one idle connection holds: in the order of [`Transport::ALL`], each plain and over TLS. Plain requests hold
    /// nothing.
    pub fn connection_memory(&self, bytes: [[usize; 2]; 3]) {
        for (gauge, bytes) in self.connection_memory.iter().zip(bytes.into_iter().flatten()) {
            gauge.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
    }

    /// That many envelopes were handed to a client's socket.
    pub fn sent(&self, transport: Transport, envelopes: u64) {
        self.sent[transport as usize].inc_by(envelopes);
    }

    /// That many envelopes came from a client.
    pub fn received(&self, transport: Transport, envelopes: u64) {
        self.received[transport as usize].inc_by(envelopes);
    }

    /// A client was told of an error or a refusal.
    pub fn fault(&self, transport: Transport, kind: Kind) {
        self.errors[transport as usize * KINDS + kind as usize].inc();
        match kind {
            Kind::Malformed | Kind::UnknownType => self.malformed[transport as usize].inc(),
            Kind::RateLimited => self.rate_limited[transport as usize].inc(),
            Kind::Revoked => self.revoked[transport as usize].inc(),
            _ => 0,
        };
    }

    /// A connection ended, with a close code and a reason out of the program's own words. Codes that neither this
    /// protocol nor RFC 6455 §7.4.1 defines are a client's choice and count as `other`.
    pub fn closed(&self, transport: Transport, code: u16, reason: &'static str) {
        self.closed.get_or_create(&ending(transport, code, reason)).inc();
    }

    /// A subscriber was told that there are messages it can't have.
    pub fn gap(&self, reason: GapReason) {
        self.gaps[reason as usize].inc();
    }

    /// A batch of messages was handed to a socket, that long after the first of them was appended to its log.
    pub fn delivered(&self, latency: Duration) {
        self.fanout.observe(latency);
    }

    /// A step towards a connection succeeded, or failed and ended it.
    pub fn handshake(&self, stage: Stage, ok: bool) {
        self.handshakes[stage as usize * 2 + usize::from(!ok)].inc();
    }

    /// The bus took a publication, or had it already.
    pub fn published(&self, duplicate: bool) {
        self.published[usize::from(duplicate)].inc();
    }

    /// The page, of media type [`CONTENT_TYPE`]. Reads `/proc`, so it is not for a runtime's worker thread.
    ///
    /// # Panics
    /// Never: writing to a `String` does not fail.
    pub fn render(&self, gauges: &Gauges) -> String {
        self.channels.set(i64::try_from(gauges.channels).unwrap_or(i64::MAX));
        self.log_bytes.set(i64::try_from(gauges.log_bytes).unwrap_or(i64::MAX));
        self.draining.set(i64::from(gauges.draining));
        self.revocations.set(i64::try_from(gauges.revocations).unwrap_or(i64::MAX));
        self.bus_up.set(i64::from(gauges.bus_up));
        self.subscriptions.set(i64::try_from(gauges.subscriptions).unwrap_or(i64::MAX));
        for &(event, count) in &gauges.bus_events {
            let counter = self.bus_events.get_or_create(&[label("event", event)]);
            counter.inc_by(count.saturating_sub(counter.get()));
        }
        let mut page = String::with_capacity(16 * 1024);
        text::encode(&mut page, &self.registry).expect("a String takes whatever is written");
        page
    }

    fn with_units(mut self) -> Self {
        let help = "From a message's append to its log until it was handed to a socket";
        self.registry.register_with_unit("tidegate_fanout", help, Unit::Seconds, self.fanout.clone());
        let help = "Memory that the channels' logs hold";
        self.registry.register_with_unit("tidegate_log", help, Unit::Bytes, self.log_bytes.clone());
        self.registry.register_collector(Box::new(Process::new()));
        self
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn single<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register(format!("tidegate_{name}"), help, metric.clone());
    metric
}

fn of_each<M, const K: usize, const N: usize>(
    registry: &mut Registry,
    name: &str,
    help: &str,
    labels: &[Labels<K>; N],
) -> [M; N]
where
    M: Metric + TypedMetric + Clone + Default,
{
    series::register(registry, format!("tidegate_{name}"), help, labels.clone())
}

/// The `websocket_` names, which read the very counters of that transport.
fn websocket_totals(registry: &mut Registry, active: &[Gauge; 4], sent: &[Sent; 4], received: &[Counter; 4]) {
    const WEBSOCKET: usize = Transport::WebSocket as usize;
    let help = "WebSockets that are open now";
    registry.register("websocket_connections_active", help, active[WEBSOCKET].clone());
    let help = "Envelopes handed to WebSockets";
    registry.register("websocket_messages_sent", help, sent[WEBSOCKET].clone());
    let help = "Envelopes that came over WebSockets";
    registry.register("websocket_messages_received", help, received[WEBSOCKET].clone());
}

fn build_info(registry: &mut Registry) {
    // A gauge, not OpenMetrics' `info`, which readers of the older text format do not know.
    let version = [[label("version", env!("CARGO_PKG_VERSION"))]];
    let [info]: [Gauge; 1] = of_each(registry, "build_info", "The version that runs", &version);
    info.set(1);
}

fn closed(registry: &mut Registry) -> Family<Labels<3>, Counter> {
    let closed: Family<Labels<3>, Counter> = single(registry, "closed", "Connections that ended");
    for kind in Kind::ALL.into_iter().filter(|kind| !kind.is_survivable()) {
        for transport in [Transport::WebSocket, Transport::Sse] {
            drop(closed.get_or_create(&ending(transport, kind.code(), kind.reason())));
        }
    }
    closed
}

fn ending(transport: Transport, code: u16, reason: &'static str) -> Labels<3> {
    let code = match code {
        1000..=1015 | 4000..=4005 => Cow::Owned(code.to_string()),
        _ => Cow::Borrowed("other"),
    };
    [label("transport", transport.as_str()), ("code", code), label("reason", reason)]
}

fn error_labels() -> [Labels<3>; KINDS * 4] {
    array::from_fn(|i| {
        let kind = Kind::ALL[i % KINDS];
        ending(Transport::ALL[i / KINDS], kind.code(), kind.reason())
    })
}

fn handshake_labels() -> [Labels<2>; 2 * 4] {
    array::from_fn(|i| {
        [label("stage", Stage::ALL[i / 2].as_str()), label("outcome", ["ok", "failed"][i % 2])]
    })
}

fn memory_labels() -> [Labels<2>; 2 * 3] {
    array::from_fn(|i| {
        [label("transport", Transport::ALL[i / 2].as_str()), label("tls", ["false", "true"][i % 2])]
    })
}

fn label(name: &'static str, value: &'static str) -> (&'static str, Cow<'static, str>) {
    (name, Cow::Borrowed(value))
}

#[cfg(test)]
mod tests;
