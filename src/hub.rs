//! Which channels this node has: made at the first touch, dropped when nobody watches them and their history is over.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use tokio::time::timeout;

use crate::bus::{Accepted, Bus, BusError};
use crate::channel::{Channel, ChannelName, Position, Publication, Retention};
use crate::close::{Fault, Kind};
use crate::config::{Channels, Limits, Namespace};

/// The channels of this node and the bus that fills them.
pub struct Hub {
    channels: RwLock<HashMap<ChannelName, Arc<Channel>>>,
    settings: Channels,
    limits: Limits,
    bus: Arc<dyn Bus>,
    /// The highest position that a dropped channel had: below it, a new channel can't prove that it missed nothing.
    forgotten: AtomicU64,
}

/// Channels at once: an empty one costs some 500 bytes.
const MAX_CHANNELS: usize = 1_000_000;
/// When to come again to a node that has as many: idle ones are dropped all the time.
const FULL_RETRY: Duration = Duration::from_secs(30);
/// How long a connection waits for the bus, during which it does nothing else.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(5);

impl Hub {
    /// A hub without channels.
    pub fn new(settings: Channels, limits: Limits, bus: Arc<dyn Bus>) -> Self {
        Self { channels: RwLock::default(), settings, limits, bus, forgotten: AtomicU64::new(0) }
    }

    /// The settings of that channel's namespace.
    pub fn settings(&self, name: &ChannelName) -> &Namespace {
        self.settings.of(name.namespace())
    }

    /// The channel, if this node has it.
    pub fn find(&self, name: &ChannelName) -> Option<Arc<Channel>> {
        self.channels.read().get(name).cloned()
    }

    /// The channel, made if need be.
    ///
    /// # Errors
    /// [`Kind::Overloaded`] when the node has as many channels as it can.
    pub fn channel(&self, name: &ChannelName) -> Result<Arc<Channel>, Fault> {
        if let Some(channel) = self.find(name) {
            return Ok(channel);
        }
        let mut channels = self.channels.write();
        if channels.len() >= MAX_CHANNELS && !channels.contains_key(name) {
            return Err(Fault::new(Kind::Overloaded, "this node has as many channels as it can hold")
                .with_retry_after(FULL_RETRY)
                .in_channel(name.as_str()));
        }
        let channel = channels.entry(name.clone()).or_insert_with(|| Arc::new(self.new_channel(name)));
        Ok(Arc::clone(channel))
    }

    /// Where a channel stands that this node does not have: nothing at or below it is held.
    pub fn blank(&self) -> Position {
        Position { epoch: self.bus.epoch(), seq: self.forgotten.load(Ordering::Acquire) }
    }

    /// Publishes to a channel.
    ///
    /// # Errors
    /// [`Kind::Overloaded`], with a time to come again, when the bus does not take it in time.
    pub async fn publish(&self, publication: Publication) -> Result<Accepted, Fault> {
        let channel = self.channel(&publication.channel)?;
        let published = timeout(PUBLISH_TIMEOUT, self.bus.publish(&channel, publication)).await;
        published.unwrap_or_else(|_| Err(BusError::too_slow())).map_err(|error| match error {
            BusError::Unavailable { ref detail, retry_after } => {
                tracing::warn!(%error, "publication refused");
                Fault::new(Kind::Overloaded, detail.clone()).with_retry_after(retry_after)
            }
        })
    }

    /// Trims every log and drops the channels that nobody needs. To be called every few seconds.
    pub fn sweep(&self, now: Instant) {
        let all: Vec<_> = self.channels.read().values().cloned().collect();
        let mut idle = Vec::new();
        for channel in all {
            channel.trim(now);
            if channel.is_idle(now) {
                idle.push(channel.name().clone());
            }
        }
        // One at a time: the write lock is held for one look, not for all of them.
        for name in idle {
            self.drop_if_unused(&name, now);
        }
    }

    /// How many channels there are, and the bytes their logs hold.
    pub fn usage(&self) -> (usize, usize) {
        let channels = self.channels.read();
        (channels.len(), channels.values().map(|channel| channel.held_bytes()).sum())
    }

    fn new_channel(&self, name: &ChannelName) -> Channel {
        let settings = self.settings(name);
        let retention = Retention {
            history_size: settings.history_size,
            history_bytes: settings.history_bytes,
            history_ttl: settings.history_ttl,
            lag_bytes: self.limits.queue_bytes,
            lag: self.limits.write_timeout,
        };
        let Position { epoch, seq: floor } = self.blank();
        let now = tokio::time::Instant::now().into_std();
        Channel::new(name.clone(), retention, epoch, floor, now)
    }

    fn drop_if_unused(&self, name: &ChannelName, now: Instant) {
        let mut channels = self.channels.write();
        // The map's own reference is the last one: nobody can watch it or be about to, for that takes the map's lock.
        let unused =
            channels.get(name).is_some_and(|channel| Arc::strong_count(channel) == 1 && channel.is_idle(now));
        if unused && let Some(channel) = channels.remove(name) {
            self.forgotten.fetch_max(channel.head().seq, Ordering::AcqRel);
        }
        if channels.capacity() > 4 * channels.len() + 1024 {
            channels.shrink_to_fit();
        }
    }
}
