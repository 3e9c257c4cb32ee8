//! One stream of messages on NATS: made, checked and asked. What it says is the truth that logs are held against.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use async_nats::HeaderMap;
use async_nats::jetstream::stream::{
    Config, Info, LastRawMessageErrorKind, RawMessageErrorKind, Stream as Handle,
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
use super::settings::{checked, wanted};
use super::subject::Subjects;
use crate::bus::BusError;
use crate::channel::Epoch;
use crate::config::{Bus as Settings, Channels};

/// Messages that one request brings at most, from servers that can send more than one.
const BATCH: usize = 256;
/// Bytes after which such an answer ends: times the channels that are filled at once it is memory.
const BATCH_BYTES: usize = 1 << 20;
/// How long one answer may take to begin or to go on.
const PATIENCE: Duration = Duration::from_secs(3);
/// A stream that was just made is looked at once more after this: nodes that make it at the same time may get in each
/// other's way, and what one has been told of it is then not what it is.
const SETTLE: Duration = Duration::from_millis(250);
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
    /// When it was asked for its bounds the last time, and what they were: many share one question.
    bounds: Mutex<Option<(Instant, Bounds)>>,
    /// Held by whoever asks for them.
    asking: Semaphore,
}

/// What a message was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    seq: u64,
    digest: u32,
}

/// From where to where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    /// Whose bounds they are: not the known one's, if the stream has begun anew and nobody has looked yet.
    pub(super) epoch: Epoch,
    /// The oldest sequence that it has, or the next one.
    pub(super) first: u64,
    /// The newest that it has given.
    pub(super) last: u64,
}

/// What a look at the stream found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// It is the one that is known.
    Same(Bounds),
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
        let mut info = ensure(context, &wanted).await?;
        while info.state.last_sequence == 0 {
            sleep(SETTLE).await;
            let again = ensure(context, &wanted).await?;
            if epoch_of(&again) == epoch_of(&info) {
                break;
            }
            info = again;
        }
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
            bounds: Mutex::new(None),
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
            return Ok(Look::Same(Bounds::of(&info)));
        }
        sleep(SETTLE).await;
        if epoch_of(&self.info().await?) != epoch_of(&info) {
            return Err(BusError::unavailable("the stream is still being made"));
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

    /// Its bounds, as they are at some time after this was called.
    ///
    /// # Errors
    /// [`BusError`] when it does not answer.
    pub(super) async fn bounds(&self) -> Result<Bounds, BusError> {
        let asked = Instant::now();
        let _turn = self.asking.acquire().await;
        let known = *self.bounds.lock();
        if let Some((since, bounds)) = known
            && since >= asked
        {
            return Ok(bounds);
        }
        let began = Instant::now();
        let bounds = Bounds::of(&self.info().await?);
        *self.bounds.lock() = Some((began, bounds));
        Ok(bounds)
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
        // Messages of a subject go oldest first: while one is there, so are all after it. By the word of the leader:
        // another server may still have what the one that is asked next has not.
        match self.handle.get_raw_message(seen.max(1)).await {
            Ok(message) if message.subject.as_str() == subject => return Ok(false),
            Ok(_) => {}
            Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => {}
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
        let question = serde_json::json!({
            "seq": after + 1, "next_by_subj": subject, "batch": BATCH, "max_bytes": BATCH_BYTES,
        });
        let question = question.to_string();
        // Not by the answer alone: a publisher may have set the headers by which a batch is told.
        let batches = client.is_server_compatible(2, 11, 0);
        let api = format!("$JS.API.DIRECT.GET.{}", self.name());
        let asked = client.publish_with_reply(api, inbox, question.into()).await;
        asked.map_err(|error| unavailable(&error))?;
        let mut messages = Vec::new();
        loop {
            let answer = match timeout(PATIENCE, answers.next()).await {
                Ok(answer) => answer,
                // Whoever has answered is gone: another one goes on from there.
                Err(_) if !messages.is_empty() => return Ok(messages),
                Err(_) => return Err(BusError::too_slow()),
            };
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
            let number = |name: &str| said(&headers, name).and_then(|value| value.parse::<u64>().ok());
            let Some(seq) = number("Nats-Sequence") else {
                return Err(BusError::unavailable("a stored message came without its sequence"));
            };
            let one_by_one = !batches || said(&headers, "Nats-Num-Pending").is_none();
            let before = messages.last().map_or(0, |message: &Stored| message.seq);
            if !one_by_one && number("Nats-Last-Sequence").is_some_and(|named| named != before) {
                return Err(BusError::unavailable("a part of an answer was lost"));
            }
            messages.push(Stored { seq, time: time_of(&headers), headers, payload: answer.payload });
            if one_by_one {
                return Ok(messages);
            }
        }
    }
}

impl Bounds {
    fn of(info: &Info) -> Self {
        let (first, last) = (info.state.first_sequence.max(1), info.state.last_sequence);
        Self { epoch: epoch_of(info), first, last }
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
            let detail = format!("{detail} (who lacks a permission gets no answer: see the warnings above)");
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

/// When a stored message was taken, as far as the message itself says.
pub(super) fn time_of(headers: &HeaderMap) -> Option<SystemTime> {
    said(headers, "Nats-Time-Stamp").and_then(|time| humantime::parse_rfc3339(time).ok())
}

/// What the server says of a message. It adds that to the headers of whoever published it, who may have put the same
/// names there: the last one is the server's.
pub(super) fn said<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get_last(name).map(async_nats::HeaderValue::as_str)
}
