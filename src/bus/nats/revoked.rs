//! What is said of revoked tokens to all nodes, those included that start later: a `JetStream` key-value bucket, of which
//! every node follows every entry. What an entry means is not known here.
//!
//! A follower is told of each entry at least once, in no promised order; it is told of all again whenever one may have
//! been missed. That the consumer behind it has not gone quiet is checked against the bucket's own count.

use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::kv::{self, Operation, UpdateErrorKind, Watch};
use async_nats::jetstream::stream::{Config, DiscardPolicy, Info, StorageType};
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tracing::{debug, info, warn};

use super::{NatsBus, NatsError};
use crate::bus::{BusError, IDEMPOTENCY_WINDOW};
use crate::config::{Bus as Settings, Storage};

/// How long an entry is kept.
const MAX_AGE: Duration = Duration::from_hours(31 * 24);
/// Bytes of one entry at most: two numbers, and the headers.
const VALUE_BYTES: i32 = 1024;
/// How long a node that starts waits for the bucket, and for the next entry of it.
const START_PATIENCE: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_secs(5);
/// How often the bucket is asked for its count.
const CHECK: Duration = Duration::from_secs(2);
/// How long a write may take, the retries included.
const WRITE: Duration = Duration::from_secs(5);
/// Who else writes the same entry does so once: more retries than that have another reason.
const RETRIES: usize = 8;

/// The bucket `STREAM-revoked`.
pub struct RevokedBucket {
    context: Context,
    name: String,
    wanted: Config,
}

/// One node's view of the bucket, from which it is told of changes.
pub struct Following {
    watch: Watch,
    /// The newest entry that it was told of, or that was gone before.
    seen: u64,
    /// When the bucket was made.
    created: i128,
}

/// Why a view ends.
enum Stale {
    /// The consumer has ended, or entries have passed by it.
    Behind,
    /// It is another bucket, or none.
    Lost,
}

impl RevokedBucket {
    /// The bucket, made if it is missing.
    ///
    /// # Errors
    /// [`NatsError`] when it can't be had within 20 s, or is there with other settings.
    pub async fn open(nats: &NatsBus, settings: &Settings) -> Result<Self, NatsError> {
        let name = format!("{}-revoked", settings.stream);
        let wanted = wanted(&name, settings);
        let bucket = Self { context: nats.jetstream().clone(), name, wanted };
        let until = Instant::now() + START_PATIENCE;
        let mut told = false;
        loop {
            let detail = match bucket.ensure().await {
                Ok((_, info)) => return bucket.checked(&info).map(|()| bucket),
                Err(error) => error.to_string(),
            };
            if Instant::now() >= until {
                return Err(NatsError::Stream { name: bucket.wanted.name, detail });
            }
            if !told {
                warn!(bucket = bucket.name, "the bucket is not to be had yet: {detail}");
                told = true;
            }
            sleep(Duration::from_millis(rand::random_range(300..700))).await;
        }
    }

    /// Writes one entry: what `merge` makes of the one that is there. It is stored when this returns, and what is
    /// stored is returned.
    ///
    /// # Errors
    /// [`BusError`] when that is not known.
    ///
    /// # Cancel safety
    /// After a cancelled call it may or may not be stored, as after an error.
    pub async fn write(
        &self,
        key: &str,
        merge: impl Fn(Option<&[u8]>) -> Vec<u8>,
    ) -> Result<Vec<u8>, BusError> {
        let written = timeout(WRITE, async {
            let (store, _) = self.ensure().await?;
            for _ in 0..RETRIES {
                let known = store.entry(key).await.map_err(|error| unavailable(&error))?;
                let revision = known.as_ref().map_or(0, |entry| entry.revision);
                let known = known.filter(|entry| entry.operation == Operation::Put);
                let value = merge(known.as_ref().map(|entry| &*entry.value));
                match store.update(key, Bytes::from(value.clone()), revision).await {
                    Ok(_) => return Ok(value),
                    // Somebody was faster, or who was asked is behind.
                    Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => {
                        sleep(Duration::from_millis(rand::random_range(10..50))).await;
                    }
                    Err(error) => return Err(unavailable(&error)),
                }
            }
            Err(BusError::unavailable("others write the same entry all the time"))
        });
        written.await.map_err(|_| BusError::too_slow())?
    }

    /// Tells `heard` of all entries there are, key and value.
    ///
    /// # Errors
    /// [`NatsError`] when the bucket can't be read within 20 s.
    pub async fn read(&self, heard: impl Fn(&str, &[u8])) -> Result<Following, NatsError> {
        let until = Instant::now() + START_PATIENCE;
        loop {
            match self.begin(&heard).await {
                Ok(following) => return Ok(following),
                Err(error) if Instant::now() >= until => {
                    return Err(NatsError::Stream {
                        name: self.wanted.name.clone(),
                        detail: error.to_string(),
                    });
                }
                Err(error) => debug!(%error, "the bucket can't be read yet"),
            }
            sleep(Duration::from_millis(rand::random_range(300..700))).await;
        }
    }

    /// Tells `heard` of entries from then on, for as long as the node runs. If the bucket is lost it is made again, from
    /// what `known` says that this node knows.
    pub async fn follow(
        &self,
        mut following: Following,
        heard: impl Fn(&str, &[u8]),
        known: impl Fn() -> Vec<(String, Vec<u8>)>,
    ) {
        loop {
            if let Stale::Lost = self.hear(&mut following, &heard).await {
                warn!(bucket = self.name, "the bucket was lost; what this node knows is put back");
                self.restore(known()).await;
            }
            following = loop {
                match self.begin(&heard).await {
                    Ok(following) => break following,
                    Err(error) => debug!(%error, "the bucket can't be read"),
                }
                sleep(CHECK.mul_f64(rand::random_range(0.25..0.75))).await;
            };
        }
    }

    async fn hear(&self, following: &mut Following, heard: &impl Fn(&str, &[u8])) -> Stale {
        let mut check = interval(CHECK);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut missed = None;
        loop {
            tokio::select! {
                entry = following.watch.next() => match entry {
                    Some(Ok(entry)) => following.take(&entry, heard),
                    Some(Err(error)) => {
                        debug!(%error, "the bucket's consumer has ended");
                        return Stale::Behind;
                    }
                    None => return Stale::Behind,
                },
                _ = check.tick() => match self.info().await {
                    Ok(Some(info)) if created(&info) != following.created => return Stale::Lost,
                    Ok(None) => return Stale::Lost,
                    // What was stored a check ago would be here.
                    Ok(Some(_)) if missed.is_some_and(|missed| missed > following.seen) => return Stale::Behind,
                    Ok(Some(info)) => missed = Some(info.state.last_sequence),
                    // Away: the consumer comes back by itself, and is checked then.
                    Err(error) => debug!(%error, "the bucket can't be asked"),
                },
            }
        }
    }

    /// Reads all entries, and goes on from there.
    async fn begin(&self, heard: &impl Fn(&str, &[u8])) -> Result<Following, BusError> {
        let (store, info) = self.ensure().await?;
        // Each key's newest; those that come meanwhile follow.
        let watch = store.watch_with_history(">").await.map_err(|error| unavailable(&error))?;
        let mut following = Following { watch, seen: 0, created: created(&info) };
        let mut all = info.state.messages == 0;
        while !all {
            let next = timeout(PATIENCE, following.watch.next()).await.map_err(|_| BusError::too_slow())?;
            let entry = next.ok_or_else(|| BusError::unavailable("the consumer has ended"))?;
            let entry = entry.map_err(|error| unavailable(&error))?;
            all = entry.seen_current;
            following.take(&entry, heard);
        }
        following.seen = following.seen.max(info.state.last_sequence);
        Ok(following)
    }

    /// Every node does this, so most entries are there already.
    async fn restore(&self, entries: Vec<(String, Vec<u8>)>) {
        for (key, value) in entries {
            let put = async {
                let (store, _) = self.ensure().await?;
                match store.create(&key, value.into()).await {
                    Err(error) if error.kind() != kv::CreateErrorKind::AlreadyExists => {
                        Err(unavailable(&error))
                    }
                    _ => Ok(()),
                }
            };
            if let Err(error) = put.await {
                return warn!(bucket = self.name, %error, "nodes that start later will miss revocations");
            }
        }
    }

    async fn ensure(&self) -> Result<(kv::Store, Info), BusError> {
        if self.info().await?.is_none() {
            // Not `create_key_value`, which first asks for the account and does not understand the answer of a 2.9.
            let made = self.context.create_stream(self.wanted.clone()).await;
            made.map_err(|error| unavailable(&error))?;
            info!(bucket = self.name, "made the bucket");
        }
        let store = self.context.get_key_value(&self.name).await.map_err(|error| unavailable(&error))?;
        let info = store.stream.cached_info().clone();
        Ok((store, info))
    }

    async fn info(&self) -> Result<Option<Info>, BusError> {
        match self.context.get_stream(self.wanted.name.clone()).await {
            Ok(stream) => Ok(Some(stream.cached_info().clone())),
            Err(error) if super::stream::is_missing(&error) => Ok(None),
            Err(error) => Err(unavailable(&error)),
        }
    }

    fn checked(&self, info: &Info) -> Result<(), NatsError> {
        let (wanted, actual) = (&self.wanted, &info.config);
        let mut differences = Vec::new();
        if actual.num_replicas != wanted.num_replicas {
            let (is, must) = (actual.num_replicas, wanted.num_replicas);
            differences.push(format!("the number of replicas is {is} and must be {must}"));
        }
        if actual.storage != wanted.storage {
            differences.push(format!("storage is {:?} and must be {:?}", actual.storage, wanted.storage));
        }
        if !actual.max_age.is_zero() && actual.max_age < wanted.max_age {
            let (is, must) =
                (humantime::format_duration(actual.max_age), humantime::format_duration(wanted.max_age));
            differences.push(format!("max_age is {is} and must be {must} or more"));
        }
        if differences.is_empty() {
            return Ok(());
        }
        Err(NatsError::Mismatch { name: self.wanted.name.clone(), differences: differences.join("; ") })
    }
}

impl Following {
    fn take(&mut self, entry: &kv::Entry, heard: &impl Fn(&str, &[u8])) {
        self.seen = self.seen.max(entry.revision);
        if entry.operation == Operation::Put {
            heard(&entry.key, &entry.value);
        }
    }
}

/// A stream that every client of NATS knows as a key-value bucket.
fn wanted(bucket: &str, settings: &Settings) -> Config {
    Config {
        name: format!("KV_{bucket}"),
        description: Some("Tokens that Tidegate takes no more".to_owned()),
        subjects: vec![format!("$KV.{bucket}.>")],
        max_messages_per_subject: 1,
        max_messages: -1,
        max_bytes: -1,
        max_message_size: VALUE_BYTES,
        max_age: MAX_AGE,
        discard: DiscardPolicy::New,
        storage: match settings.storage {
            Storage::File => StorageType::File,
            Storage::Memory => StorageType::Memory,
        },
        num_replicas: settings.replicas,
        allow_rollup: true,
        deny_delete: true,
        allow_direct: true,
        duplicate_window: IDEMPOTENCY_WINDOW,
        ..Config::default()
    }
}

fn created(info: &Info) -> i128 {
    info.created.unix_timestamp_nanos()
}

fn unavailable(error: &dyn std::fmt::Display) -> BusError {
    BusError::unavailable(error.to_string())
}
