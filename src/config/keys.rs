//! Every key there is, with what it takes: what errors about single keys are made from. The loader holds each
//! value that was written against this table before it is given a type.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use super::tree::{Node, Value};
use super::value::is_log_level;
use super::{ConfigError, bus, web_origin};

/// What a key takes.
#[derive(Debug)]
pub(super) enum Takes {
    /// IP and port.
    Address,
    /// Yes or no.
    Boolean,
    /// From, to.
    Count(u64, u64),
    /// From, to.
    Bytes(u64, u64),
    /// From, to.
    Time(Duration, Duration),
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// The path of a file.
    File,
    /// A text that must not be shown, of at least that many bytes.
    Secret(usize),
    /// A text.
    Text,
    /// Origins of web pages.
    Origins,
    /// A level, or levels by module.
    LogLevel,
    /// Addresses of NATS servers.
    Servers,
    /// A stream's name.
    StreamName,
    /// The beginning of subjects.
    SubjectPrefix,
    /// A subject with one `*`.
    SubjectPattern,
}

const MOMENT: Duration = Duration::from_millis(1);
/// Beyond it a chat would feel it.
const GATHERING_MAX: Duration = Duration::from_millis(20);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);
const YEAR: Duration = Duration::from_hours(24 * 366);
const MONTH: Duration = Duration::from_hours(24 * 30);
const GIB: u64 = 1 << 30;
const ANYBODY: &[&str] = &["granted", "authenticated", "anyone"];
const ANY_RATE: Takes = Takes::Count(0, u32::MAX as u64);

/// Sections, their keys, what each takes. Under `channels` are those of every namespace.
pub(super) const SECTIONS: &[(&str, &[(&str, Takes)])] = &[
    (
        "listen",
        &[
            ("addr", Takes::Address),
            ("admin", Takes::Address),
            ("proxy_protocol", Takes::Boolean),
            ("max_connections", Takes::Count(1, 10_000_000)),
            ("drain", Takes::Time(MOMENT, HOUR)),
            ("handshake_timeout", Takes::Time(MOMENT, HOUR)),
            ("request_timeout", Takes::Time(MOMENT, HOUR)),
            ("idle_timeout", Takes::Time(MOMENT, DAY)),
        ],
    ),
    ("tls", &[("enabled", Takes::Boolean), ("cert", Takes::File), ("key", Takes::File)]),
    (
        "auth",
        &[
            ("mode", Takes::OneOf(&["required", "optional"])),
            ("hs256_secret", Takes::Secret(32)),
            ("jwks_file", Takes::File),
            ("public_key_file", Takes::File),
            ("issuer", Takes::Text),
            ("audience", Takes::Text),
            ("timeout", Takes::Time(MOMENT, HOUR)),
        ],
    ),
    ("origins", &[("allow", Takes::Origins)]),
    (
        "limits",
        &[
            ("message_bytes", Takes::Bytes(1024, 64 << 20)),
            ("channels_per_connection", Takes::Count(1, 10_000)),
            ("queue_bytes", Takes::Bytes(1024, GIB)),
            ("write_timeout", Takes::Time(MOMENT, HOUR)),
            ("gathering", Takes::Time(Duration::ZERO, GATHERING_MAX)),
        ],
    ),
    (
        "quota",
        &[
            ("connections_per_ip", ANY_RATE),
            ("connects_per_ip_per_minute", ANY_RATE),
            ("messages_per_connection_per_minute", ANY_RATE),
            ("requests_per_connection_per_minute", ANY_RATE),
            ("sends_per_server_per_second", ANY_RATE),
        ],
    ),
    ("compression", &[("enabled", Takes::Boolean), ("min_bytes", Takes::Bytes(0, u16::MAX as u64))]),
    ("heartbeat", &[("interval", Takes::Time(MOMENT, HOUR)), ("timeout", Takes::Time(MOMENT, HOUR))]),
    (
        "channels",
        &[
            // Delivery reads from the history, so there is no channel without one.
            ("history_size", Takes::Count(1, 100_000)),
            ("history_bytes", Takes::Bytes(1024, GIB)),
            ("history_ttl", Takes::Time(MOMENT, MONTH)),
            ("presence", Takes::Boolean),
            ("join", Takes::OneOf(ANYBODY)),
            ("send", Takes::OneOf(ANYBODY)),
            ("slow_consumer", Takes::OneOf(&["gap", "close"])),
            ("subject", Takes::SubjectPattern),
        ],
    ),
    (
        "bus",
        &[
            ("kind", Takes::OneOf(&["embedded", "nats"])),
            ("url", Takes::Servers),
            ("stream", Takes::StreamName),
            ("streams", Takes::Count(1, 64)),
            ("replicas", Takes::Count(1, 5)),
            ("storage", Takes::OneOf(&["file", "memory"])),
            ("prefix", Takes::SubjectPrefix),
            ("max_age", Takes::Time(MOMENT, YEAR)),
            ("max_bytes", Takes::Bytes(0, 1 << 60)),
            ("credentials", Takes::File),
            ("user", Takes::Text),
            ("password", Takes::Secret(1)),
            ("token", Takes::Secret(1)),
            ("tls_ca", Takes::File),
            ("tls_cert", Takes::File),
            ("tls_key", Takes::File),
        ],
    ),
    ("conformance", &[("echo", Takes::Boolean)]),
    ("log", &[("format", Takes::OneOf(&["text", "json"])), ("level", Takes::LogLevel)]),
];

/// Holds everything that was written against the table.
///
/// # Errors
/// The first section or key that does not exist, or value that its key does not take.
pub(super) fn check(tree: &Node) -> Result<(), ConfigError> {
    for (section, node) in tree.entries().into_iter().flatten() {
        let Some((_, keys)) = SECTIONS.iter().find(|(name, _)| name == section) else {
            return Err(unknown(node, section, "is no section", SECTIONS.iter().map(|(name, _)| *name)));
        };
        if section == "channels" {
            for (namespace, node) in section_entries(node, section)? {
                check_namespace(namespace, node)?;
                check_section(&format!("channels.{namespace}"), keys, node)?;
            }
        } else {
            check_section(section, keys, node)?;
        }
    }
    Ok(())
}

/// A value that its key does not take.
pub(super) fn wrong(key: &str, node: &Node, advice: impl Into<String>) -> ConfigError {
    // An address may hold a password.
    let secret = matches!(key, "auth.hs256_secret" | "bus.password" | "bus.token" | "bus.url");
    let value = if secret { "…".to_owned() } else { node.to_string() };
    ConfigError::Wrong { place: node.place.clone(), key: key.to_owned(), value, advice: advice.into() }
}

/// What the key at that path takes.
pub(super) fn takes(path: &[&str]) -> Option<&'static Takes> {
    let (section, key) = (path.first()?, path.last()?);
    let (_, keys) = SECTIONS.iter().find(|(name, _)| name == section)?;
    keys.iter().find(|(name, _)| name == key).map(|(_, takes)| takes)
}

fn check_section(section: &str, keys: &[(&str, Takes)], node: &Node) -> Result<(), ConfigError> {
    for (key, node) in section_entries(node, section)? {
        let path = format!("{section}.{key}");
        let Some((_, takes)) = keys.iter().find(|(name, _)| name == key) else {
            return Err(unknown(node, &path, "is no key", keys.iter().map(|(name, _)| *name)));
        };
        if !takes.admits(node) {
            return Err(wrong(&path, node, takes.to_string()));
        }
    }
    Ok(())
}

fn check_namespace(name: &str, node: &Node) -> Result<(), ConfigError> {
    // A channel's namespace ends at its first colon, so one with a colon would never apply.
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.@=/!".contains(&byte);
    if (1..200).contains(&name.len()) && name.bytes().all(legal) {
        return Ok(());
    }
    Err(ConfigError::Unknown {
        place: node.place.clone(),
        key: format!("channels.{name:?}"),
        advice: "is no namespace: one is 1 to 199 bytes of A-Z a-z 0-9 _ - . @ = / !".to_owned(),
    })
}

fn section_entries<'a>(node: &'a Node, section: &str) -> Result<&'a BTreeMap<String, Node>, ConfigError> {
    let missing = || match section.strip_prefix("channels.") {
        Some(key) if takes(&["channels", key]).is_some() => {
            wrong(section, node, format!("belongs to a namespace: [channels.default] {key} = {node}"))
        }
        _ => wrong(section, node, format!("must be a section: [{section}]")),
    };
    node.entries().ok_or_else(missing)
}

fn unknown<'a>(node: &Node, key: &str, what: &str, known: impl Iterator<Item = &'a str>) -> ConfigError {
    let known: Vec<&str> = known.collect();
    let advice =
        format!("{what}; there {} {}", if known.len() == 1 { "is" } else { "are" }, known.join(", "));
    ConfigError::Unknown { place: node.place.clone(), key: shown(key), advice }
}

/// A key as an error has it: in quotes, if it is empty or holds what would not be seen.
pub(super) fn shown(key: &str) -> String {
    let plain = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic());
    if plain { key.to_owned() } else { format!("{key:?}") }
}

impl Takes {
    /// Whether a value is of that kind and in its bounds.
    fn admits(&self, node: &Node) -> bool {
        match self {
            Self::Address => node.text().is_some_and(|text| text.parse::<SocketAddr>().is_ok()),
            Self::Boolean => {
                matches!(node.value, Value::Boolean(_)) || matches!(node.text(), Some("true" | "false"))
            }
            Self::Count(from, to) | Self::Bytes(from, to) => {
                node.number().is_some_and(|number| (*from..=*to).contains(&number))
            }
            Self::Time(from, to) => node
                .text()
                .and_then(|text| humantime::parse_duration(text).ok())
                .is_some_and(|time| (*from..=*to).contains(&time)),
            Self::OneOf(words) => node.text().is_some_and(|text| words.contains(&text)),
            Self::File | Self::Text => node.text().is_some_and(|text| !text.is_empty()),
            Self::Secret(bytes) => node.text().is_some_and(|text| text.len() >= *bytes),
            Self::Origins => node
                .texts()
                .is_some_and(|origins| origins.iter().all(|origin| web_origin::normal(origin).is_some())),
            Self::LogLevel => node.text().is_some_and(is_log_level),
            Self::Servers => node.text().is_some_and(bus::are_servers),
            Self::StreamName => node.text().is_some_and(bus::is_stream_name),
            Self::SubjectPrefix => node.text().is_some_and(bus::is_subject_prefix),
            Self::SubjectPattern => node.text().is_some_and(bus::is_subject_pattern),
        }
    }
}

/// The end of a sentence that begins with the key and its value.
impl fmt::Display for Takes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address => f.write_str("must be an IP address and a port, such as \"0.0.0.0:8443\""),
            Self::Boolean => f.write_str("must be true or false"),
            Self::Count(from, to) => write!(f, "must be a whole number from {from} to {to}"),
            Self::Bytes(from, to) => write!(f, "must be a number of bytes from {from} to {to}"),
            Self::Time(from, to) => write!(
                f,
                "must be a time with its unit from {} to {}, such as \"20s\"",
                humantime::format_duration(*from),
                humantime::format_duration(*to)
            ),
            Self::OneOf([word]) => write!(f, "must be \"{word}\""),
            Self::OneOf(words) => write!(f, "must be one of \"{}\"", words.join("\", \"")),
            Self::File => f.write_str("must be the path of a file"),
            Self::Secret(1) | Self::Text => f.write_str("must be a text that is not empty"),
            Self::Secret(bytes) => write!(
                f,
                "must be a text of at least {bytes} bytes (RFC 7518 §3.2), such as `openssl rand -base64 48` prints"
            ),
            Self::Origins => f.write_str(
                "must be a list of origins, each scheme://host or scheme://host:port without a path, or \"*\"",
            ),
            Self::Servers => f.write_str("must be one or more servers: \"nats://host:4222, tls://other:4222\""),
            Self::StreamName => f.write_str("must be 1 to 32 of A-Z a-z 0-9 _ -"),
            Self::SubjectPrefix => {
                f.write_str("must be the beginning of a subject, tokens of A-Z a-z 0-9 _ - with dots between them")
            }
            Self::SubjectPattern => f.write_str(
                "must be a subject with one * behind its first token, such as \"shop.orders.*\"; * stands for what is \
                 behind the channel's first :",
            ),
            Self::LogLevel => f.write_str(
                "must be error, warn, info, debug, trace or off, alone or by module: \"info,tidegate::auth=debug\"",
            ),
        }
    }
}
