//! The configuration, from a file, flags and variables. What is accepted has known keys only, values in their bounds,
//! and the secret in no log; what is refused names the place and the key, and never the secret.
//!
//! Input: a TOML file, then lines `key=value` of flags, then lines `NAME=value` of variables; a line `%%` is between.

#![no_main]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tidegate::config::{Config, ConfigError, DEFAULT_TOML, Place, Source, load};
use toml::Table;

/// A secret with this in it stands out.
const MARK: &str = "Zq7Zq7Zq7";

/// A file without a name, so that nothing is left of it: libFuzzer ends the process without a goodbye.
static FILE: LazyLock<(PathBuf, File)> = LazyLock::new(|| {
    let named = std::env::temp_dir().join(format!("tidegate-fuzz-{}.toml", std::process::id()));
    let file = File::create_new(&named).expect("there is room for a small file");
    fs::remove_file(&named).expect("it was made a moment ago");
    (format!("/proc/self/fd/{}", file.as_raw_fd()).into(), file)
});

fn path() -> &'static PathBuf {
    &FILE.0
}

/// `section.key`, as the operator's own page has them.
static KEYS: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
    let mut section = "";
    let mut keys = BTreeSet::new();
    for line in DEFAULT_TOML.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = name;
        }
        let setting = line.strip_prefix("# e.g. ").or(line.strip_prefix('#')).unwrap_or(line);
        if let Some((key, _)) = setting.split_once(" = ")
            && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        {
            keys.insert(format!("{section}.{key}"));
        }
    }
    assert!(keys.len() > 30, "{keys:?}");
    keys
});

fuzz_target!(|input: &[u8]| {
    let mut parts = Parts::new(input);
    let (file, flags, variables) = (parts.next(), parts.next(), parts.next());
    fs::write(path(), file).expect("there is room for a small file");
    let source = Source {
        file: Some(path().clone()),
        set: pairs(flags),
        env: pairs(variables).into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
    };
    let text = std::str::from_utf8(file).ok();
    match load(&source) {
        Ok(config) => accepted(&config, text.expect("a file is UTF-8")),
        Err(error) => refused(&error, text, input),
    }
});

/// What stands between the lines `%%`; nothing, after the last.
struct Parts<'a>(&'a [u8]);

impl<'a> Parts<'a> {
    const BETWEEN: &'static [u8] = b"\n%%\n";

    fn new(input: &'a [u8]) -> Self {
        Self(input)
    }

    fn next(&mut self) -> &'a [u8] {
        let end = self.0.windows(Self::BETWEEN.len()).position(|window| window == Self::BETWEEN);
        let end = end.unwrap_or(self.0.len());
        let (part, rest) = self.0.split_at(end);
        self.0 = rest.get(Self::BETWEEN.len()..).unwrap_or_default();
        part
    }
}

fn pairs(lines: &[u8]) -> Vec<(String, String)> {
    let text = String::from_utf8_lossy(lines);
    text.lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.into(), value.into()))
        .collect()
}

fn accepted(config: &Config, text: &str) {
    let table: Table = text.parse().expect("a file is TOML");
    for (section, keys) in &table {
        let keys = keys.as_table().expect("a section is a table");
        let namespaces = if section == "channels" { keys.values().collect() } else { Vec::new() };
        if namespaces.is_empty() && section != "channels" {
            assert!(keys.keys().all(|key| KEYS.contains(&format!("{section}.{key}"))), "{section}: {keys:?}");
        }
        for namespace in namespaces {
            let keys = namespace.as_table().expect("a namespace is a table");
            let known = |key: &String| KEYS.contains(&format!("channels.default.{key}"));
            assert!(keys.keys().all(known), "{keys:?}");
        }
    }
    within_bounds(config);
    assert!(!format!("{config:?}").contains(MARK), "the secret is shown");
    let again = load(&Source { file: Some(path().clone()), ..Source::default() });
    // Without flags and variables it may be wrong, but it is not something else the second time.
    if let Ok(again) = again {
        assert!(
            load(&Source { file: Some(path().clone()), ..Source::default() })
                .is_ok_and(|third| third == again)
        );
    }
}

fn within_bounds(config: &Config) {
    let limits = &config.limits;
    assert!((1024..=64 << 20).contains(&limits.message_bytes) && limits.queue_bytes >= limits.message_bytes);
    assert!((1..=10_000).contains(&limits.channels_per_connection));
    assert!((1..=10_000_000).contains(&config.listen.max_connections));
    assert!(config.heartbeat.interval >= config.heartbeat.timeout);
    assert!(
        !config.development && config.listen.addr != config.listen.admin || config.listen.addr.port() == 0
    );
    let secret = config.auth.hs256_secret.as_ref();
    assert!(secret.is_none_or(|secret| secret.len() >= 32));
    for (name, namespace) in &config.channels.namespaces {
        // What is a namespace is what can stand before the colon of a channel's name.
        assert!(!name.contains(':') && format!("{name}:").parse::<tidegate::channel::ChannelName>().is_ok());
        assert!(namespace.history_bytes >= limits.message_bytes);
        assert!((1..=100_000).contains(&namespace.history_size));
    }
    let policy = tidegate::auth::OriginPolicy::new(&config.origins);
    assert!(policy.is_ok(), "{:?}", config.origins);
}

fn refused(error: &ConfigError, text: Option<&str>, input: &[u8]) {
    let shown = error.to_string();
    let marks = String::from_utf8_lossy(input).matches(MARK).count();
    if marks == 1 && text.and_then(secret).is_some_and(|secret| secret.contains(MARK)) {
        assert!(!shown.contains(MARK), "the secret is shown: {shown}");
    }
    match error {
        ConfigError::Unreadable { path, .. } => assert!(text.is_none() && path == self::path(), "{shown}"),
        ConfigError::Syntax { place, .. } => {
            assert!(text.is_some_and(|text| text.parse::<Table>().is_err()), "{shown}");
            is_there(place, text);
        }
        ConfigError::Unknown { place, key, advice } | ConfigError::Wrong { place, key, advice, .. } => {
            assert!(!key.is_empty() && !advice.is_empty() && shown.contains(key.as_str()), "{shown}");
            is_there(place, text);
        }
        ConfigError::NotUtf8 { .. } => panic!("every variable is: {shown}"),
    }
}

fn secret(text: &str) -> Option<String> {
    let table: Table = text.parse().ok()?;
    Some(table.get("auth")?.get("hs256_secret")?.as_str()?.to_owned())
}

/// A place in the file is a line that it has.
fn is_there(place: &Place, text: Option<&str>) {
    if let Place::File { path, line } = place {
        let lines = text.map_or(0, |text| text.split('\n').count());
        assert!(path == self::path() && (1..=lines).contains(line), "{place}: of {lines}");
    }
}
