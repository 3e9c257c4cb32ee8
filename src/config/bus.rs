//! `[bus]`: what carries publications between publishers and logs, and where NATS is.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::value;

/// `bus.kind`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BusKind {
    /// One node, in memory.
    #[default]
    Embedded,
    /// Any number of nodes, over NATS with `JetStream`.
    Nats,
}

/// `bus.storage`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    /// On the disks of the NATS servers.
    #[default]
    File,
    /// In the memory of the NATS servers.
    Memory,
}

/// `[bus]`; all but `kind` is for NATS.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bus {
    /// Which bus.
    pub kind: BusKind,
    /// Servers, with commas between them: `nats://host:4222`, `tls://host:4222`.
    pub url: String,
    /// Name of the stream, or of all of them before their number.
    pub stream: String,
    /// How many streams share the channels.
    pub streams: usize,
    /// How many servers keep each message: 1, 3 or 5.
    pub replicas: usize,
    /// Where they keep it.
    pub storage: Storage,
    /// First token of all subjects.
    pub prefix: String,
    /// How long the streams keep messages at least: a client of a quiet channel can prove for as long that it has missed nothing.
    #[serde(with = "value::duration")]
    pub max_age: Duration,
    /// Bytes that each stream keeps at most; 0: as the server allows.
    pub max_bytes: u64,
    /// A `.creds` file: JWT and seed of a user.
    pub credentials: Option<PathBuf>,
    /// User name.
    pub user: Option<String>,
    /// The user's password.
    pub password: Option<String>,
    /// A token instead of a user.
    pub token: Option<String>,
    /// PEM certificates of the authorities that the servers' certificates are from, beside those of the system.
    pub tls_ca: Option<PathBuf>,
    /// PEM certificate that this node shows.
    pub tls_cert: Option<PathBuf>,
    /// Its key.
    pub tls_key: Option<PathBuf>,
}

impl Default for Bus {
    fn default() -> Self {
        Self {
            kind: BusKind::Embedded,
            url: "nats://127.0.0.1:4222".to_owned(),
            stream: "TIDEGATE".to_owned(),
            streams: 1,
            replicas: 1,
            storage: Storage::File,
            prefix: "tidegate".to_owned(),
            max_age: Duration::from_hours(1),
            max_bytes: 0,
            credentials: None,
            user: None,
            password: None,
            token: None,
            tls_ca: None,
            tls_cert: None,
            tls_key: None,
        }
    }
}

impl std::fmt::Debug for Bus {
    // By hand: secrets must never reach a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bus")
            .field("kind", &self.kind)
            .field("url", &self.servers_shown())
            .field("stream", &self.stream)
            .field("streams", &self.streams)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

impl Bus {
    /// The same for people to read, without what is secret.
    pub fn servers_shown(&self) -> String {
        self.servers().map(|server| without_secret(&server)).collect::<Vec<_>>().join(", ")
    }

    /// The servers that `url` names.
    pub fn servers(&self) -> impl Iterator<Item = String> {
        self.url.split(',').map(|server| server.trim().to_owned())
    }
}

/// The address without user and password.
pub(super) fn without_secret(server: &str) -> String {
    match (server.split_once("://"), server.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://…@{host}"),
        _ => server.to_owned(),
    }
}

/// Whether that is a list of NATS servers.
pub(super) fn are_servers(text: &str) -> bool {
    text.split(',').all(|server| {
        let Some((scheme, rest)) = server.trim().split_once("://") else { return false };
        let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
        let plain = |byte: u8| byte.is_ascii_graphic() && !b"/?#\"'<>".contains(&byte);
        matches!(scheme, "nats" | "tls") && !host.is_empty() && host.bytes().all(plain)
    })
}

/// Whether that can be a stream's name: no blank, no character that has a meaning in a subject or a path.
pub(super) fn is_stream_name(text: &str) -> bool {
    (1..=32).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

/// Whether that is a subject without wildcards, which others can begin with.
pub(super) fn is_subject_prefix(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.split('.').all(|token| {
            !token.is_empty()
                && token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
        })
}

/// Whether that is a subject with one `*`, which stands for a channel.
pub(super) fn is_subject_pattern(text: &str) -> bool {
    let plain = |token: &str| {
        !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
    };
    let tokens = || text.split('.');
    text.len() <= 200
        && tokens().filter(|token| *token == "*").count() == 1
        && tokens().next() != Some("*")
        && tokens().all(|token| token == "*" || plain(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_addresses_with_a_scheme() {
        for good in ["nats://a:4222", "tls://a.example:4222, nats://10.0.0.1", "nats://u:p@[::1]:4222"] {
            assert!(are_servers(good), "{good:?}");
        }
        for bad in ["", "a:4222", "http://a", "nats://", "nats://a,", "nats://a/b"] {
            assert!(!are_servers(bad), "{bad:?}");
        }
    }

    #[test]
    fn a_pattern_has_one_star_that_is_not_first() {
        for good in ["shop.orders.*", "a.*", "a.*.b"] {
            assert!(is_subject_pattern(good), "{good:?}");
        }
        for bad in ["", "*", "*.a", "a", "a.>", "a.*.*", "a..*", "a.b*", "a b.*", "$JS.*"] {
            assert!(!is_subject_pattern(bad), "{bad:?}");
        }
    }

    #[test]
    fn what_is_secret_is_not_shown() {
        let bus = Bus {
            url: "nats://u:hunter2@a:1, nats://b:2".to_owned(),
            password: Some("hunter2".to_owned()),
            token: Some("hunter2".to_owned()),
            ..Bus::default()
        };
        let shown = format!("{bus:?}");
        assert!(shown.contains("a:1") && shown.contains("b:2") && !shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn what_contradicts_itself_is_named_at_its_place() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tidegate.toml");
        let error = |text: &str| {
            let secret = "[auth]\nhs256_secret = \"0123456789abcdef0123456789abcdef\"\n";
            std::fs::write(&path, format!("{text}\n{secret}")).unwrap();
            let source =
                crate::config::Source { file: Some(path.clone()), ..crate::config::Source::default() };
            crate::config::load(&source)
                .unwrap_err()
                .to_string()
                .replace(&*directory.path().to_string_lossy(), "")
        };
        let nats = "[bus]\nkind = \"nats\"\n";
        for (text, said) in [
            ("user = \"a\"", "/tidegate.toml:3: bus.user = \"a\" needs bus.password"),
            ("tls_key = \"a\"", "/tidegate.toml:3: bus.tls_key = \"a\" needs bus.tls_cert"),
            ("replicas = 2", "/tidegate.toml:3: bus.replicas = 2 must be 1, 3 or 5"),
            (
                "token = \"a\"\ncredentials = \"b\"",
                "/tidegate.toml:4: bus.credentials = \"b\" is one of credentials, user or token: set one of them",
            ),
            (
                "[channels.default]\nsubject = \"a.*\"",
                "/tidegate.toml:4: channels.default.subject = \"a.*\" belongs to a namespace of its own, such as [channels.orders]",
            ),
            (
                "[channels.a]\nsubject = \"x.*\"\n[channels.b]\nsubject = \"x.*\"",
                "/tidegate.toml:6: channels.b.subject = \"x.*\" has subjects in common with channels.a.subject",
            ),
            (
                "[channels.a]\nsubject = \"tidegate.a.*\"",
                "/tidegate.toml:4: channels.a.subject = \"tidegate.a.*\" begins with bus.prefix, \"tidegate\", whose subjects are the edge's own",
            ),
        ] {
            assert_eq!(error(&format!("{nats}{text}")), said);
        }
    }
}
