//! What a stream on NATS must be like for the edge to use it, and what is wrong with one that is there. Called when a
//! stream is opened; changes none.

use std::collections::BTreeSet;

use async_nats::jetstream::stream::{Config, DiscardPolicy, Info, Republish, RetentionPolicy, StorageType};

use super::NatsError;
use super::subject::Subjects;
use crate::bus::IDEMPOTENCY_WINDOW;
use crate::config::{Bus as Settings, Channels, Storage};

/// The settings that a stream is made with.
pub(super) fn wanted(settings: &Settings, channels: &Channels, subjects: &Subjects, shard: usize) -> Config {
    let namespaces = || channels.namespaces.values().chain([&channels.default]);
    // One more: the predecessor of the oldest tells that a subscriber who had that one has missed nothing.
    let history_size = namespaces().map(|namespace| namespace.history_size + 1).max().unwrap_or(1);
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

/// The stream, if it will do.
///
/// # Errors
/// [`NatsError::Mismatch`]
pub(super) fn checked(wanted: &Config, info: Info) -> Result<Info, NatsError> {
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
        format!("{} or more, one more than the largest history_size", wanted.max_messages_per_subject),
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
