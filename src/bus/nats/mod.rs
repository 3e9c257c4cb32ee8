//! The bus of any number of nodes, over NATS with `JetStream`. A publication is stored in a stream, which acknowledges it
//! and gives it its sequence; from there it comes back to each node that wants its channel, naming the sequence before it.
//! So each node can prove that it has missed nothing, and fetches what it has (`feed`).
//!
//! ```text
//!   publish ──▶ PREFIX.pub.…  ──▶ stream ──ack──▶ sender
//!                                   │ republish
//!                                   ▼
//!                     PREFIX.out.PREFIX.pub.… ──▶ interest ──▶ feed ──append──▶ Channel
//!                                   ▲                            │ a hole, a lost tail, a new log
//!                                   └────────── get ◀────────────┘
//! ```

mod audit;
mod connect;
mod feed;
mod health;
mod interest;
mod message;
mod peers;
mod publish;
mod revoked;
mod settings;
mod stream;
mod subject;
mod tasks;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::{Client, Message, jetstream};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _};
use parking_lot::RwLock;
use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;

use super::{Accepted, Bus, BusError, Logs, Report};
use crate::channel::{Channel, ChannelName, MAX_SEQ, Position, Publication};
use crate::config::Config;
use feed::{Feed, Taken};
use health::Health;
use interest::Interest;
use message::Stored;
use stream::Stream;
use subject::Subjects;
use tasks::Tasks;

pub use peers::{NodeId, Peers, Question, Questions, Said, Words};
pub use revoked::{Following, RevokedBucket};

/// Publications that wait for their acknowledgement at most; more are refused at once.
const PUBLISHING: usize = 8192;
/// Channels that are filled from the stream at once.
const FILLING: usize = 64;
/// How long an opening waits until it was looked at a stream that has begun anew, and how often it asks meanwhile.
const NEW_EPOCH: Duration = Duration::from_secs(4);
const NEW_EPOCH_PAUSE: Duration = Duration::from_millis(100);
/// How long a sender waits, beyond the acknowledgement, until this node has the message as well.
const OWN_LOG: Duration = Duration::from_secs(1);
/// What a message may have beside its data, in bytes: headers and subject.
const ENVELOPE_MAX: usize = 4096;

/// Why this node can't use NATS.
#[derive(Debug, thiserror::Error)]
pub enum NatsError {
    /// No connection.
    #[error("NATS refuses or is not there ({servers}): {problem}")]
    Connect {
        /// Where it was looked for.
        servers: String,
        /// Why.
        problem: String,
    },
    /// A file that can't be read.
    #[error("{key} = \"{}\": {source}", path.display())]
    File {
        /// The configuration key.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A stream that can't be made or asked.
    #[error("the stream {name} can't be had: {detail}")]
    Stream {
        /// Its name.
        name: String,
        /// Why.
        detail: String,
    },
    /// A stream that is there with other settings.
    #[error(
        "the stream {name} is there, but not as it is needed: {differences}. Change it (nats stream edit {name}), or the \
         configuration, or delete it with all it holds"
    )]
    Mismatch {
        /// Its name.
        name: String,
        /// What differs.
        differences: String,
    },
    /// Messages that fit the edge's limit would not fit NATS.
    #[error(
        "limits.message_bytes = {limit} is more than NATS takes: its max_payload is {max_payload}, of which headers need \
         up to 4096"
    )]
    Payload {
        /// The edge's limit.
        limit: usize,
        /// That of NATS.
        max_payload: usize,
    },
}

/// The bus. Dropping it ends its tasks.
pub struct NatsBus {
    inner: Arc<Inner>,
    interest: Arc<Interest<Deliver>>,
    peers: Peers,
}

type Deliver = Box<dyn Fn(&Message) + Send + Sync>;

/// What the tasks share.
struct Inner {
    client: Client,
    context: jetstream::Context,
    subjects: Subjects,
    streams: Vec<Stream>,
    /// How far each stream was when it was looked at.
    lasts: Vec<AtomicU64>,
    feeds: RwLock<HashMap<ChannelName, Arc<Feed>>>,
    health: Arc<Health>,
    publishing: Semaphore,
    filling: Semaphore,
    /// Notified when messages may have been missed.
    doubt: Arc<Notify>,
    counts: Counts,
    tasks: Tasks,
}

/// What has happened since the start.
#[derive(Debug, Default)]
struct Counts {
    /// Publications that a stream acknowledged.
    published: AtomicU64,
    /// Attempts to publish that were not acknowledged.
    retried: AtomicU64,
    /// Messages that came back without the one before them.
    holes: AtomicU64,
    /// Messages that did not come back and were found to be missing by other means.
    tails: AtomicU64,
    /// Messages that were fetched for holes and tails.
    filled: AtomicU64,
    /// Holes that the streams could not fill.
    lost: AtomicU64,
    /// Comparisons of a channel with its stream.
    audited: AtomicU64,
    /// Messages that are none of a channel.
    unreadable: AtomicU64,
}

impl Counts {
    fn events(&self) -> Vec<(&'static str, u64)> {
        let all = [
            ("published", &self.published),
            ("retried", &self.retried),
            ("hole", &self.holes),
            ("lost_tail", &self.tails),
            ("fetched", &self.filled),
            ("lost", &self.lost),
            ("compared", &self.audited),
            ("unreadable", &self.unreadable),
        ];
        all.into_iter().map(|(name, count)| (name, count.load(Ordering::Relaxed))).collect()
    }
}

impl NatsBus {
    /// Connects and makes or checks the streams.
    ///
    /// # Errors
    /// [`NatsError`], naming what has to be changed.
    pub async fn connect(config: &Config) -> Result<Self, NatsError> {
        let settings = &config.bus;
        let (health, doubt) = (Arc::new(Health::new()), Arc::new(Notify::new()));
        let client = connect::connect(settings, &health, &doubt).await?;
        let (limit, max_payload) = (config.limits.message_bytes, client.max_payload());
        if limit + ENVELOPE_MAX > max_payload {
            return Err(NatsError::Payload { limit, max_payload });
        }
        let context = jetstream::new(client.clone());
        let subjects = Subjects::new(settings, &config.channels);
        let mut streams = Vec::with_capacity(settings.streams);
        for shard in 0..settings.streams {
            streams.push(Stream::open(&context, settings, &config.channels, &subjects, shard).await?);
        }
        let peers = Peers::new(client.clone(), &settings.prefix);
        let inner = Arc::new(Inner {
            context,
            lasts: streams.iter().map(|_| AtomicU64::new(0)).collect(),
            subjects,
            streams,
            feeds: RwLock::default(),
            health,
            publishing: Semaphore::new(PUBLISHING),
            filling: Semaphore::new(FILLING),
            doubt,
            counts: Counts::default(),
            tasks: Tasks::default(),
            client: client.clone(),
        });
        let deliver = {
            let inner = Arc::clone(&inner);
            Box::new(move |message: &Message| inner.deliver(message)) as Deliver
        };
        let interest = Arc::new(Interest::new(client, inner.tasks.clone(), deliver));
        drop(inner.tasks.spawn(audit::run(Arc::clone(&inner))));
        drop(inner.tasks.spawn(watch_leaders(Arc::clone(&inner))));
        Ok(Self { inner, interest, peers })
    }

    /// This node's way to speak to the others.
    pub fn peers(&self) -> &Peers {
        &self.peers
    }

    /// `JetStream` on this node's connection, for what is kept there beside messages.
    pub fn jetstream(&self) -> &jetstream::Context {
        &self.inner.context
    }

    fn find(&self, name: &ChannelName) -> Option<Arc<Feed>> {
        self.inner.feeds.read().get(name).cloned()
    }

    /// The feed of that very log.
    fn feed(&self, channel: &Arc<Channel>) -> Arc<Feed> {
        if let Some(feed) = self.find(channel.name())
            && feed.is_of(channel)
        {
            return feed;
        }
        let mut feeds = self.inner.feeds.write();
        if let Some(feed) = feeds.get(channel.name())
            && feed.is_of(channel)
        {
            return Arc::clone(feed);
        }
        let feed = Arc::new(Feed::new(channel, self.inner.subjects.of(channel.name())));
        feeds.insert(channel.name().clone(), Arc::clone(&feed));
        feed
    }

    async fn open_log(&self, channel: &Arc<Channel>) -> Result<(), BusError> {
        let feed = self.feed(channel);
        if feed.is_open() {
            return Ok(());
        }
        if let Some(trouble) = self.inner.health.trouble() {
            return Err(BusError::unavailable(trouble));
        }
        self.interest.add(&feed.place, &self.inner.subjects).await;
        let inner = Arc::clone(&self.inner);
        // A task of its own: a long history goes on being fetched when nobody waits any longer, and whoever comes then finds
        // it there.
        let opening = self.inner.tasks.spawn(async move { inner.open(&feed).await });
        match opening.await {
            Ok(Some(opened)) => opened,
            Ok(None) => Err(BusError::unavailable("the node is ending")),
            Err(error) => Err(BusError::unavailable(error.to_string())),
        }
    }

    async fn catch_up_log(&self, channel: &Arc<Channel>) -> Result<(), BusError> {
        self.open_log(channel).await?;
        let feed = self.feed(channel);
        if let Some(trouble) = self.inner.health.trouble() {
            return Err(BusError::unavailable(trouble));
        }
        let stream = &self.inner.streams[feed.place.shard];
        // Before the question: whatever is stored after it is not spoken for.
        let (epoch, bounds) = (stream.epoch(), stream.bounds().await?);
        let last = stream.last(&feed.place.subject).await?;
        if let Some(last) = last
            && !feed.has(last)
        {
            feed.reach(&self.inner, last).await;
        }
        if bounds.epoch == epoch {
            channel.reach(Position { epoch, seq: bounds.last });
        } else {
            self.inner.doubt.notify_one();
        }
        Ok(())
    }

    async fn publish_one(&self, publication: Publication) -> Result<Accepted, BusError> {
        let accepted = publish::publish(&self.inner, &publication).await?;
        if let Some(feed) = self.find(&publication.channel)
            && feed.is_open()
            && !feed.has(accepted.position.seq)
        {
            // It is accepted, whether it is here in time or not.
            let _ = timeout(OWN_LOG, feed.reach(&self.inner, accepted.position.seq)).await;
        }
        Ok(accepted)
    }
}

impl Bus for NatsBus {
    fn keeps_messages(&self) -> bool {
        true
    }

    fn blank(&self, channel: &ChannelName) -> Position {
        let shard = self.inner.subjects.of(channel).shard;
        Position { epoch: self.inner.streams[shard].epoch(), seq: 0 }
    }

    fn open<'a>(&'a self, channel: &'a Arc<Channel>) -> BoxFuture<'a, Result<(), BusError>> {
        self.open_log(channel).boxed()
    }

    fn catch_up<'a>(&'a self, channel: &'a Arc<Channel>) -> BoxFuture<'a, Result<(), BusError>> {
        self.catch_up_log(channel).boxed()
    }

    fn close(&self, channel: &Arc<Channel>) {
        let mut feeds = self.inner.feeds.write();
        if feeds.get(channel.name()).is_some_and(|feed| feed.is_of(channel))
            && let Some(feed) = feeds.remove(channel.name())
        {
            // Under the lock: a new feed of that name subscribes after this.
            self.interest.remove(&feed.place);
        }
        if feeds.capacity() > 4 * feeds.len() + 1024 {
            feeds.shrink_to_fit();
        }
    }

    fn publish<'a>(
        &'a self,
        _logs: &'a dyn Logs,
        publication: Publication,
    ) -> BoxFuture<'a, Result<Accepted, BusError>> {
        self.publish_one(publication).boxed()
    }

    fn trouble(&self) -> Option<String> {
        self.inner.health.trouble()
    }

    fn report(&self) -> Report {
        let (channels, subscriptions) = self.interest.len();
        Report { channels, subscriptions, events: self.inner.counts.events() }
    }
}

impl Drop for NatsBus {
    fn drop(&mut self) {
        self.inner.tasks.end();
    }
}

impl Inner {
    /// Opens the log of a feed that is subscribed to.
    async fn open(self: &Arc<Self>, feed: &Arc<Feed>) -> Result<(), BusError> {
        let stream = &self.streams[feed.place.shard];
        let mut patience = NEW_EPOCH;
        while stream.bounds().await?.epoch != stream.epoch() {
            // What is there now must not be given out under the epoch of what was.
            self.doubt.notify_one();
            tokio::time::sleep(NEW_EPOCH_PAUSE).await;
            patience = patience
                .checked_sub(NEW_EPOCH_PAUSE)
                .ok_or_else(|| BusError::unavailable("the stream has begun anew"))?;
        }
        if feed.open(stream, &self.counts).await? {
            self.fill(feed);
        }
        Ok(())
    }

    /// A message that came back.
    fn deliver(self: &Arc<Self>, message: &Message) {
        let Some(published) = self.subjects.published(&message.subject) else { return };
        let Some(name) = self.subjects.channel(published) else { return };
        let Some(feed) = self.feeds.read().get(&*name).cloned() else { return };
        let stream = &self.streams[feed.place.shard];
        // By another subject, which somebody has put together wrongly, it is in nobody's history.
        if published != feed.place.subject {
            return;
        }
        let headers = message.headers.clone().unwrap_or_default();
        let number = |name| stream::said(&headers, name).and_then(|value| value.parse::<u64>().ok());
        let (Some(seq), Some(before)) = (number("Nats-Sequence"), number("Nats-Last-Sequence")) else {
            return;
        };
        if seq > MAX_SEQ || stream::said(&headers, "Nats-Stream") != Some(stream.name()) {
            return;
        }
        let stored =
            Stored { seq, time: stream::time_of(&headers), headers, payload: message.payload.clone() };
        match feed.take(&stored, before, &self.counts) {
            Taken::Yes => stream.saw(seq, &stored.payload),
            Taken::Stale => {
                // Most often one that was fetched already. A stream that has begun anew is found by looking.
                if stream.is_behind(seq) {
                    self.doubt.notify_one();
                }
            }
            Taken::Hole => {
                self.counts.holes.fetch_add(1, Ordering::Relaxed);
                self.fill(&feed);
            }
        }
    }

    /// Has what is missing fetched.
    fn fill(self: &Arc<Self>, feed: &Arc<Feed>) {
        let (inner, feed) = (Arc::clone(self), Arc::clone(feed));
        drop(self.tasks.spawn(async move {
            let Ok(_place) = inner.filling.acquire().await else { return };
            feed.fill(&inner.streams[feed.place.shard], &inner.counts).await;
        }));
    }

    fn feeds(&self) -> Vec<Arc<Feed>> {
        self.feeds.read().values().cloned().collect()
    }

    /// The stream has begun anew: so do the logs of its channels.
    fn reopen(self: &Arc<Self>, shard: usize) {
        let feeds: Vec<_> = self.feeds().into_iter().filter(|feed| feed.place.shard == shard).collect();
        for feed in &feeds {
            feed.shut();
        }
        let inner = Arc::clone(self);
        drop(self.tasks.spawn(async move {
            let open = |feed: Arc<Feed>| {
                let inner = Arc::clone(&inner);
                async move {
                    while let Err(error) = inner.open(&feed).await {
                        tracing::debug!(channel = %feed.name, %error, "not opened again yet");
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                }
            };
            futures_util::stream::iter(feeds).for_each_concurrent(FILLING, open).await;
        }));
    }
}

/// A new leader may not have sent on what the old one had just stored.
async fn watch_leaders(inner: Arc<Inner>) {
    let names = inner.streams.iter().map(|stream| {
        let subject = format!("$JS.EVENT.ADVISORY.STREAM.LEADER_ELECTED.{}", stream.name());
        inner.client.subscribe(subject)
    });
    let subscribed = futures_util::future::join_all(names).await;
    let mut elections = futures_util::stream::select_all(subscribed.into_iter().flatten());
    while elections.next().await.is_some() {
        inner.doubt.notify_one();
    }
}
