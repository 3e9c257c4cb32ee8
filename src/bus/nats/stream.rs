//! One stream of messages on NATS: made, checked and asked. What it says is the truth that logs are held against.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use async_nats::HeaderMap;
use async_nats::jetstream::stream::{
    Config, DirectGetErrorKind, DiscardPolicy, Info, LastRawMessageErrorKind, RawMessageErrorKind, Republish,
    RetentionPolicy, StorageType, Stream as Handle,
};
use async_nats::jetstream::{Context, ErrorCode, context};
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use sha1::{Digest as _, Sha1};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::NatsError;
use super::message::Stored;
use super::subject::Subjects;
use crate::bus::{BusError, IDEMPOTENCY_WINDOW};
use crate::channel::Epoch;
use crate::config::{Bus as Settings, Channels, Storage};

/// Messages that one request brings at most, from servers that can send more than one.
const BATCH: usize = 256;
/// How long one answer may take to begin or to go on.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long a cluster that is just starting is waited for.
const START_PATIENCE: Duration = Duration::from_secs(20);

/// A stream, and what is known of it.
pub(super) struct Stream {
    context: Context,
    handle: Handle<()>,
    wanted: Config,
    epoch: AtomicU64,
    /// Messages that it keeps per subject; none or less: all.
    per_subject: AtomicI64,
    /// The newest message that has been seen, to recognise a stream that has lost its end.
    newest: Mutex<Option<Seen>>,
    /// When the oldest sequence was asked for the last time, and what it was: many openings share one question.
    first: Mutex<Option<(Instant, u64)>>,
    /// Held by whoever asks for it.
    asking: Semaphore,
}

/// What a message was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    seq: u64,
    digest: u32,
}

/// What a look at the stream found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// It is the one that is known, and had that many messages in its life.
    Same(u64),
    /// It is another one: lost and made again.
    Another,
}

impl Stream {
    /// The stream of that number, made if it is missing.
    ///
    /// # Errors
    /// [`NatsError`] when it is there with other settings, or can't be made.
    pub(super) async fn open(
        context: &Context,
        settings: &Settings,
        channels: &Channels,
        subjects: &Subjects,
        shard: usize,
    ) -> Result<Self, NatsError> {
        let wanted = wanted(settings, channels, subjects, shard);
        let info = ensure(context, &wanted).await?;
        let handle = context
            .get_stream_no_info(&wanted.name)
            .await
            .map_err(|error| NatsError::Stream { name: wanted.name.clone(), detail: error.to_string() })?;
        let stream = Self {
            context: context.clone(),
            handle,
            wanted,
            epoch: AtomicU64::new(0),
            per_subject: AtomicI64::new(0),
            newest: Mutex::new(None),
            first: Mutex::new(None),
            asking: Semaphore::new(1),
        };
        stream.learn(&info);
        Ok(stream)
    }

    pub(super) fn name(&self) -> &str {
        &self.wanted.name
    }

    pub(super) fn epoch(&self) -> Epoch {
        Epoch::new(self.epoch.load(Ordering::Acquire))
    }

    /// A message has been seen there.
    pub(super) fn saw(&self, seq: u64, payload: &[u8]) {
        let mut newest = self.newest.lock();
        if newest.is_none_or(|known| known.seq < seq) {
            *newest = Some(Seen { seq, digest: crc32fast::hash(payload) });
        }
    }

    /// Whether that sequence is far before what has been seen there.
    pub(super) fn is_behind(&self, seq: u64) -> bool {
        self.newest.lock().is_some_and(|known| known.seq > seq + 1000)
    }

    /// Looks whether it is still the same stream, and makes it again if it is gone.
    ///
    /// # Errors
    /// [`BusError`] when it does not answer.
    pub(super) async fn look(&self) -> Result<Look, BusError> {
        // What was seen before the question: what comes meanwhile may be newer than the answer.
        let mut known = *self.newest.lock();
        let mut info = self.info().await?;
        if epoch_of(&info) == self.epoch() && self.has_lost_its_end(&info, known).await? {
            // A new leader may not have told all it knows: once more.
            sleep(Duration::from_secs(1)).await;
            known = *self.newest.lock();
            info = self.info().await?;
            if epoch_of(&info) == self.epoch() && self.has_lost_its_end(&info, known).await? {
                info = self.begin_epoch(info).await?;
            }
        }
        if epoch_of(&info) == self.epoch() {
            return Ok(Look::Same(info.state.last_sequence));
        }
        *self.newest.lock() = None;
        self.learn(&info);
        Ok(Look::Another)
    }

    /// The newest message of a subject, by the word of the stream's leader: what was acknowledged before is in it.
    ///
    /// # Errors
    /// [`BusError`] when it does not answer.
    pub(super) async fn last(&self, subject: &str) -> Result<Option<u64>, BusError> {
        match self.handle.get_last_raw_message_by_subject(subject).await {
            Ok(message) => Ok(Some(message.sequence)),
            Err(error) => match error.kind() {
                LastRawMessageErrorKind::NoMessageFound => Ok(None),
                _ => Err(BusError::unavailable(error.to_string())),
            },
        }
    }

    /// Messages of a subject after a sequence, oldest first: some, or none if there is none. With `leader` the leader is
    /// asked, since others may not have all yet.
    ///
    /// # Errors
    /// [`BusError`] when it does not answer.
    pub(super) async fn after(
        &self,
        subject: &str,
        after: u64,
        leader: bool,
    ) -> Result<Vec<Stored>, BusError> {
        if !leader {
            return self.batch(subject, after).await;
        }
        let next = self.handle.raw_message_builder().sequence(after + 1).next_by_subject(subject);
        match next.send().await {
            Ok(message) => Ok(vec![Stored {
                seq: message.sequence,
                time: Some(message.time.into()),
                headers: message.headers,
                payload: message.payload,
            }]),
            Err(error) => match error.kind() {
                RawMessageErrorKind::NoMessageFound => Ok(Vec::new()),
                _ => Err(BusError::unavailable(error.to_string())),
            },
        }
    }

    /// The oldest sequence that it has, as it is at some time after this was called.
    ///
    /// # Errors
    /// [`BusError`] when it does not answer.
    pub(super) async fn first(&self) -> Result<u64, BusError> {
        let asked = Instant::now();
        let _turn = self.asking.acquire().await;
        let known = *self.first.lock();
        if let Some((since, seq)) = known
            && since >= asked
        {
            return Ok(seq);
        }
        let began = Instant::now();
        let seq = self.info().await?.state.first_sequence.max(1);
        *self.first.lock() = Some((began, seq));
        Ok(seq)
    }

    /// Whether it may have dropped messages of a subject after `seen`, the last one that is known, or after `clear`, up to
    /// which nothing was missed.
    ///
    /// # Errors
    /// [`BusError`] when it does not answer.
    pub(super) async fn may_have_dropped(
        &self,
        subject: &str,
        seen: u64,
        clear: u64,
    ) -> Result<bool, BusError> {
        // Messages of a subject go oldest first: while one is there, so are all after it.
        match self.handle.direct_get(seen.max(1)).await {
            Ok(message) if message.subject.as_str() == subject => return Ok(false),
            Ok(_) => {}
            Err(error) if error.kind() == DirectGetErrorKind::NotFound => {}
            Err(error) => return Err(BusError::unavailable(error.to_string())),
        }
        let unavailable = |error: &dyn std::fmt::Display| BusError::unavailable(error.to_string());
        let mut info = self.handle.info_with_subjects(subject).await.map_err(|error| unavailable(&error))?;
        let first = info.info.state.first_sequence;
        let mut held = 0;
        while let Some(counted) = info.next().await {
            held += counted.map_err(|error| unavailable(&error))?.1;
        }
        Ok(self.is_full(held) || first > clear + 1)
    }

    /// Whether with so many messages of a subject it may have dropped older ones.
    pub(super) fn is_full(&self, held: usize) -> bool {
        let most = self.per_subject.load(Ordering::Relaxed);
        usize::try_from(most).is_ok_and(|most| most > 0 && held >= most)
    }

    /// The headers of one message, by the word of the leader.
    ///
    /// # Errors
    /// [`BusError`] when it does not answer.
    pub(super) async fn headers(&self, seq: u64) -> Result<Option<HeaderMap>, BusError> {
        Ok(self.get(seq).await?.map(|message| message.headers))
    }

    async fn get(&self, seq: u64) -> Result<Option<Stored>, BusError> {
        match self.handle.get_raw_message(seq).await {
            Ok(message) => Ok(Some(Stored {
                seq,
                time: Some(message.time.into()),
                headers: message.headers,
                payload: message.payload,
            })),
            Err(error) => match error.kind() {
                RawMessageErrorKind::NoMessageFound => Ok(None),
                _ => Err(BusError::unavailable(error.to_string())),
            },
        }
    }

    async fn info(&self) -> Result<Info, BusError> {
        match self.context.get_stream(self.name()).await {
            Ok(stream) => Ok(stream.cached_info().clone()),
            Err(error) => {
                if !is_missing(&error) {
                    return Err(BusError::unavailable(error.to_string()));
                }
                warn!(stream = self.name(), "the stream is gone; making it again");
                ensure(&self.context, &self.wanted)
                    .await
                    .map_err(|error| BusError::unavailable(error.to_string()))
            }
        }
    }

    async fn has_lost_its_end(&self, info: &Info, known: Option<Seen>) -> Result<bool, BusError> {
        let Some(known) = known else { return Ok(false) };
        if info.state.last_sequence < known.seq {
            return Ok(true);
        }
        let there = self.get(known.seq).await?;
        Ok(there.is_some_and(|message| crc32fast::hash(&message.payload) != known.digest))
    }

    /// Says to all nodes that positions have begun anew, though the stream is still the old one by name.
    async fn begin_epoch(&self, info: Info) -> Result<Info, BusError> {
        warn!(
            stream = self.name(),
            "the stream has lost messages that were acknowledged; a new epoch begins"
        );
        let description = Some(format!("Tidegate, epoch {}", Epoch::random()));
        let config = Config { description, ..info.config };
        self.context.update_stream(config).await.map_err(|error| BusError::unavailable(error.to_string()))
    }

    fn learn(&self, info: &Info) {
        self.epoch.store(epoch_of(info).number(), Ordering::Release);
        self.per_subject.store(info.config.max_messages_per_subject, Ordering::Relaxed);
    }

    /// Direct gets: one request for many messages from servers that can (2.11), for one from others.
    async fn batch(&self, subject: &str, after: u64) -> Result<Vec<Stored>, BusError> {
        let client = self.context.client();
        let inbox = client.new_inbox();
        let unavailable = |error: &dyn std::fmt::Display| BusError::unavailable(error.to_string());
        let mut answers = client.subscribe(inbox.clone()).await.map_err(|error| unavailable(&error))?;
        let question =
            serde_json::json!({ "seq": after + 1, "next_by_subj": subject, "batch": BATCH }).to_string();
        let api = format!("$JS.API.DIRECT.GET.{}", self.name());
        let asked = client.publish_with_reply(api, inbox, question.into()).await;
        asked.map_err(|error| unavailable(&error))?;
        let mut messages = Vec::new();
        loop {
            let answer = timeout(PATIENCE, answers.next()).await.map_err(|_| BusError::too_slow())?;
            let answer = answer.ok_or_else(|| BusError::unavailable("the connection to NATS has ended"))?;
            match answer.status.map(|status| status.as_u16()) {
                // The end of a batch; or there is none.
                Some(204 | 404) => return Ok(messages),
                Some(status) => {
                    return Err(BusError::unavailable(format!("direct get: status {status}")));
                }
                None => {}
            }
            let headers = answer.headers.unwrap_or_default();
            let number = |name: &str| headers.get(name).and_then(|value| value.as_str().parse::<u64>().ok());
            let Some(seq) = number("Nats-Sequence") else {
                return Err(BusError::unavailable("a stored message came without its sequence"));
            };
            let one_by_one = headers.get("Nats-Num-Pending").is_none();
            let time =
                headers.get("Nats-Time-Stamp").and_then(|time| humantime::parse_rfc3339(time.as_str()).ok());
            messages.push(Stored { seq, time, headers, payload: answer.payload });
            if one_by_one {
                return Ok(messages);
            }
        }
    }
}

/// A stream's life: another creation is another one, and so is another description, which nodes write when it has
/// lost its end.
fn epoch_of(info: &Info) -> Epoch {
    let mut digest = Sha1::new();
    digest.update(info.created.unix_timestamp_nanos().to_be_bytes());
    digest.update(info.config.description.as_deref().unwrap_or_default());
    let digest: [u8; 20] = digest.finalize().into();
    Epoch::new(u64::from_be_bytes(digest[..8].try_into().expect("eight of twenty")))
}

fn wanted(settings: &Settings, channels: &Channels, subjects: &Subjects, shard: usize) -> Config {
    let namespaces = || channels.namespaces.values().chain([&channels.default]);
    let history_size = namespaces().map(|namespace| namespace.history_size).max().unwrap_or(1);
    let history_ttl = namespaces().map(|namespace| namespace.history_ttl).max().unwrap_or_default();
    let name =
        if settings.streams == 1 { settings.stream.clone() } else { format!("{}-{shard}", settings.stream) };
    let back = subjects.back_of_all();
    Config {
        name,
        subjects: subjects.of_stream(shard),
        description: Some("Tidegate".to_owned()),
        retention: RetentionPolicy::Limits,
        discard: DiscardPolicy::Old,
        storage: match settings.storage {
            Storage::File => StorageType::File,
            Storage::Memory => StorageType::Memory,
        },
        num_replicas: settings.replicas,
        max_messages: -1,
        max_messages_per_subject: i64::try_from(history_size).unwrap_or(i64::MAX),
        max_bytes: i64::try_from(settings.max_bytes).ok().filter(|bytes| *bytes > 0).unwrap_or(-1),
        max_age: history_ttl.max(settings.max_age).max(IDEMPOTENCY_WINDOW),
        duplicate_window: IDEMPOTENCY_WINDOW,
        republish: Some(Republish { source: ">".to_owned(), destination: back, headers_only: false }),
        allow_direct: true,
        ..Config::default()
    }
}

async fn ensure(context: &Context, wanted: &Config) -> Result<Info, NatsError> {
    let until = Instant::now() + START_PATIENCE;
    let mut told = false;
    loop {
        let detail = match context.get_stream(&wanted.name).await {
            Ok(stream) => return checked(wanted, stream.cached_info().clone()),
            Err(error) if is_missing(&error) => match context.create_stream(wanted.clone()).await {
                Ok(stream) => {
                    info!(stream = wanted.name, "made the stream");
                    return checked(wanted, stream.cached_info().clone());
                }
                Err(error) => error.to_string(),
            },
            Err(error) => error.to_string(),
        };
        if Instant::now() >= until {
            return Err(NatsError::Stream { name: wanted.name.clone(), detail });
        }
        if !told {
            warn!(stream = wanted.name, "the stream is not to be had yet: {detail}");
            told = true;
        }
        sleep(Duration::from_millis(rand::random_range(300..700))).await;
    }
}

pub(super) fn is_missing(error: &context::GetStreamError) -> bool {
    matches!(
        error.kind(),
        context::GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND
    )
}

fn checked(wanted: &Config, info: Info) -> Result<Info, NatsError> {
    let differences = differences(wanted, &info.config);
    if differences.is_empty() {
        return Ok(info);
    }
    Err(NatsError::Mismatch { name: wanted.name.clone(), differences: differences.join("; ") })
}

/// What keeps a stream that is there from being used. More than is wanted does no harm.
fn differences(wanted: &Config, actual: &Config) -> Vec<String> {
    let mut differences = Vec::new();
    let mut hold = |holds: bool, what: &str, is: String, must: String| {
        if !holds {
            differences.push(format!("{what} is {is} and must be {must}"));
        }
    };
    let set = |config: &Config| config.subjects.iter().cloned().collect::<BTreeSet<_>>();
    hold(
        set(wanted) == set(actual),
        "subjects",
        format!("{:?}", actual.subjects),
        format!("{:?}", wanted.subjects),
    );
    let route = |config: &Config| {
        config.republish.as_ref().map(|way| (way.source.clone(), way.destination.clone(), way.headers_only))
    };
    hold(
        route(wanted) == route(actual),
        "republish (source, destination, headers only)",
        format!("{:?}", route(actual)),
        format!("{:?}", route(wanted)),
    );
    hold(actual.allow_direct, "allow_direct", "off".to_owned(), "on".to_owned());
    let limits = actual.retention == RetentionPolicy::Limits && actual.discard == DiscardPolicy::Old;
    hold(
        limits,
        "retention and discard",
        format!("{:?} and {:?}", actual.retention, actual.discard),
        "limits and old".to_owned(),
    );
    hold(
        wanted.num_replicas == actual.num_replicas,
        "the number of replicas",
        actual.num_replicas.to_string(),
        wanted.num_replicas.to_string(),
    );
    hold(
        wanted.storage == actual.storage,
        "storage",
        format!("{:?}", actual.storage),
        format!("{:?}", wanted.storage),
    );
    let enough = |actual: i64, wanted: i64| actual <= 0 || actual >= wanted;
    hold(
        enough(actual.max_messages_per_subject, wanted.max_messages_per_subject),
        "max_msgs_per_subject",
        actual.max_messages_per_subject.to_string(),
        format!("{} or more, the largest history_size", wanted.max_messages_per_subject),
    );
    let ages = (humantime::format_duration(actual.max_age), humantime::format_duration(wanted.max_age));
    hold(
        actual.max_age.is_zero() || actual.max_age >= wanted.max_age,
        "max_age",
        ages.0.to_string(),
        format!("{} or more", ages.1),
    );
    hold(
        actual.duplicate_window >= wanted.duplicate_window,
        "duplicate_window",
        humantime::format_duration(actual.duplicate_window).to_string(),
        format!("{} or more", humantime::format_duration(wanted.duplicate_window)),
    );
    differences
}

/// When a stored message was taken, as far as the message itself says.
pub(super) fn time_of(headers: &HeaderMap) -> Option<SystemTime> {
    headers.get("Nats-Time-Stamp").and_then(|time| humantime::parse_rfc3339(time.as_str()).ok())
}
