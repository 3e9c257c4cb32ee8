//! Which channels this node has: made at the first touch, dropped when nobody watches them and their history is over.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use tokio::time::timeout;

use crate::bus::{Accepted, Bus, BusError, Logs, Report};
use crate::channel::{Channel, ChannelName, Page, Publication, Resume, Retention, Ringer};
use crate::close::{Fault, Kind};
use crate::config::{Channels, Limits, Namespace};

/// The channels of this node and the bus that fills them.
pub struct Hub {
    channels: RwLock<HashMap<ChannelName, Arc<Channel>>>,
    settings: Channels,
    limits: Limits,
    bus: Arc<dyn Bus>,
    ringer: Arc<Ringer>,
}

/// Channels at once: an empty one costs some 500 bytes.
const MAX_CHANNELS: usize = 1_000_000;
/// When to come again to a node that has as many: idle ones are dropped all the time.
const FULL_RETRY: Duration = Duration::from_secs(30);
/// How long a connection waits for the bus, during which it does nothing else.
const BUS_TIMEOUT: Duration = Duration::from_secs(5);

impl Hub {
    /// A hub without channels.
    pub fn new(settings: Channels, limits: Limits, bus: Arc<dyn Bus>) -> Self {
        let ringer = Arc::new(Ringer::new(limits.gathering));
        Self { channels: RwLock::default(), settings, limits, bus, ringer }
    }

    /// The settings of that channel's namespace.
    pub fn settings(&self, name: &ChannelName) -> &Namespace {
        self.settings.of(name.namespace())
    }

    /// The channel, if this node has it.
    pub fn find(&self, name: &ChannelName) -> Option<Arc<Channel>> {
        self.channels.read().get(name).cloned()
    }

    /// The channel, made if need be, its log whole and kept up to date: to be joined.
    ///
    /// # Errors
    /// [`Kind::Overloaded`], with a time to come again, when the node has as many channels as it can, or the bus does
    /// not answer in time.
    pub async fn open(&self, name: &ChannelName) -> Result<Arc<Channel>, Fault> {
        let channel = self.log(name).map_err(|error| refusal(&error, name))?;
        self.wait(name, self.bus.open(&channel)).await?;
        Ok(channel)
    }

    /// Waits until the channel's log has what `resume` asks for, if that has been published at all: who comes from
    /// another node may know of more than this one has heard of yet.
    ///
    /// # Errors
    /// [`Kind::Overloaded`], with a time to come again, when the bus does not answer in time.
    pub async fn reach(&self, channel: &Arc<Channel>, resume: Resume) -> Result<(), Fault> {
        let Resume::After(Some(asked)) = resume else { return Ok(()) };
        let head = channel.head();
        if asked.epoch == head.epoch && asked.seq <= head.seq {
            return Ok(());
        }
        self.wait(channel.name(), self.bus.catch_up(channel)).await
    }

    /// A page of a channel's history as it is now, whatever node published it.
    ///
    /// # Errors
    /// [`Kind::Overloaded`], with a time to come again, when the bus does not answer in time.
    pub async fn history(
        &self,
        name: &ChannelName,
        (after, limit): (u64, usize),
        budget: usize,
        now: Instant,
    ) -> Result<Page, Fault> {
        let channel = if self.bus.keeps_messages() {
            let channel = self.open(name).await?;
            self.wait(name, self.bus.catch_up(&channel)).await?;
            channel
        } else {
            // Not made by being read: names are free.
            let Some(channel) = self.find(name) else {
                return Ok(Page { head: self.bus.blank(name), messages: Vec::new(), more: false });
            };
            channel
        };
        Ok(channel.history(after, limit, budget, now))
    }

    /// Publishes to a channel.
    ///
    /// # Errors
    /// [`Kind::Overloaded`], with a time to come again, when the bus does not take it in time.
    pub async fn publish(&self, publication: Publication) -> Result<Accepted, Fault> {
        let name = publication.channel.clone();
        self.wait(&name, self.bus.publish(self, publication)).await
    }

    /// Brings the watchers of its channels the news: has to run for as long as the node does.
    pub fn ringer(&self) -> &Arc<Ringer> {
        &self.ringer
    }

    /// What stands in the way of publishing, if anything does.
    pub fn trouble(&self) -> Option<String> {
        self.bus.trouble()
    }

    /// What the bus has seen.
    pub fn bus_report(&self) -> Report {
        self.bus.report()
    }

    /// Trims every log and drops the channels that nobody needs. To be called every few seconds.
    pub fn sweep(&self, now: Instant) {
        let all: Vec<_> = self.channels.read().values().cloned().collect();
        let mut idle = Vec::new();
        for channel in all {
            channel.trim(now);
            if channel.is_idle(now, self.bus.keeps_messages()) {
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

    async fn wait<T>(
        &self,
        name: &ChannelName,
        answer: impl Future<Output = Result<T, BusError>>,
    ) -> Result<T, Fault> {
        let answer = timeout(BUS_TIMEOUT, answer).await;
        answer.unwrap_or_else(|_| Err(BusError::too_slow())).map_err(|error| refusal(&error, name))
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
        let now = tokio::time::Instant::now().into_std();
        Channel::new(name.clone(), retention, &self.ringer, self.bus.blank(name), now)
    }

    fn drop_if_unused(&self, name: &ChannelName, now: Instant) {
        let mut channels = self.channels.write();
        // The map's own reference is the last one: nobody can watch it or be about to, for that takes the map's lock.
        let unused = channels.get(name).is_some_and(|channel| {
            Arc::strong_count(channel) == 1 && channel.is_idle(now, self.bus.keeps_messages())
        });
        if unused && let Some(channel) = channels.remove(name) {
            // Under the lock: a new channel of that name is opened after this.
            self.bus.close(&channel);
        }
        if channels.capacity() > 4 * channels.len() + 1024 {
            channels.shrink_to_fit();
        }
    }
}

impl Logs for Hub {
    fn log(&self, name: &ChannelName) -> Result<Arc<Channel>, BusError> {
        if let Some(channel) = self.find(name) {
            return Ok(channel);
        }
        let mut channels = self.channels.write();
        if channels.len() >= MAX_CHANNELS && !channels.contains_key(name) {
            return Err(BusError::Unavailable {
                detail: "this node has as many channels as it can hold".to_owned(),
                retry_after: FULL_RETRY,
            });
        }
        let channel = channels.entry(name.clone()).or_insert_with(|| Arc::new(self.new_channel(name)));
        Ok(Arc::clone(channel))
    }
}

fn refusal(error: &BusError, name: &ChannelName) -> Fault {
    let BusError::Unavailable { detail, retry_after } = error;
    // The bus itself says once what is wrong with it; each client learns of its own request.
    tracing::debug!(%error, channel = %name, "the bus did not do it");
    Fault::new(Kind::Overloaded, detail.clone()).with_retry_after(*retry_after).in_channel(name.as_str())
}
