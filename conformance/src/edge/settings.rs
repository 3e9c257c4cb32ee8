//! What a check wants the edge to be like: the keys of the configuration that differ from its defaults, most often those
//! of the profile in `edge.toml`. It writes the file; it never checks a key, for that is the server's own business.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde_json::Value;

use super::{Minter, certificate};

/// Keys of the configuration with their values.
#[derive(Clone, Debug)]
pub struct Settings(BTreeMap<String, Value>);

/// Quotas that would stop a load from one address.
const QUOTAS: [&str; 5] = [
    "connections_per_ip",
    "connects_per_ip_per_minute",
    "messages_per_connection_per_minute",
    "requests_per_connection_per_minute",
    "sends_per_server_per_second",
];

/// The profile, as whoever runs an edge for the checks has it.
const PROFILE: &str = include_str!("../../edge.toml");

/// What a server may have otherwise and be looked at all the same: where it listens, what it logs, its certificate, and
/// its secret, which comes to the checks with its address.
const THEIR_OWN: [&str; 5] = ["listen.addr", "listen.admin", "auth.hs256_secret", "log.", "tls."];

impl Settings {
    /// The most bytes of a message that the profile allows (`limits.message_bytes`).
    pub const MESSAGE_BYTES: usize = 100_000;

    /// The profile of `edge.toml`: an edge that may be looked at by many checks at once. Guests may speak in channels
    /// that begin with `open:`, whoever has a token everywhere but in those that begin with `closed:`; no quotas. Over
    /// TLS or not is not said.
    ///
    /// # Panics
    /// Never: the file is a part of this package, and a test reads it.
    pub fn profile() -> Self {
        let Value::Object(sections) = toml::from_str(PROFILE).expect("edge.toml is TOML") else {
            unreachable!("a file of TOML is a table");
        };
        let mut settings = Self(BTreeMap::new());
        for (section, keys) in sections {
            settings.take(&section, keys);
        }
        settings.0.retain(|key, _| !key.starts_with("tls."));
        settings.on_free_ports()
    }

    /// An edge that is open to everyone with a token and to nobody else, without quotas; all else as by default. Over
    /// TLS or not is not said.
    pub fn open() -> Self {
        let mut settings = Self(BTreeMap::new())
            .on_free_ports()
            .set("auth.mode", "required")
            .set("auth.hs256_secret", Minter::SECRET)
            .set("channels.default.join", "authenticated")
            .set("channels.default.send", "authenticated")
            .set("log.format", "json");
        for quota in QUOTAS {
            settings = settings.set(&format!("quota.{quota}"), 0);
        }
        settings
    }

    /// The same over TLS and not without; a started edge has a certificate made for it.
    #[must_use]
    pub fn over_tls(self) -> Self {
        self.set("tls.enabled", true)
    }

    /// The same over plain TCP and not over TLS.
    #[must_use]
    pub fn over_tcp(self) -> Self {
        self.set("tls.enabled", false)
    }

    /// Sets one key, written `section.key`.
    #[must_use]
    pub fn set(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.0.insert(key.to_owned(), value.into());
        self
    }

    /// Whether an edge that is started with it speaks TLS.
    pub fn is_tls(&self) -> bool {
        self.tls() == Some(true)
    }

    /// Whether TLS is asked for, plain TCP, or neither.
    pub(super) fn tls(&self) -> Option<bool> {
        self.0.get("tls.enabled").and_then(Value::as_bool)
    }

    /// The first key that is asked for and that a server with the profile does not have so, with its value.
    pub(super) fn beyond_the_profile(&self) -> Option<String> {
        let profile = Self::profile();
        let asked = |key: &str| !THEIR_OWN.iter().any(|own| key.starts_with(own));
        let mut beyond =
            self.0.iter().filter(|(key, value)| asked(key) && profile.0.get(*key) != Some(value));
        beyond.next().map(|(key, value)| format!("{key} = {value}"))
    }

    pub(crate) fn minter(&self) -> Minter {
        Minter::new(self.0.get("auth.hs256_secret").and_then(Value::as_str).unwrap_or(Minter::SECRET))
    }

    /// The file. JSON's numbers, booleans, and strings without control characters are TOML's as well.
    pub(super) fn to_toml(&self, dir: &Path) -> String {
        let mut text = String::new();
        let mut line = |key: &str, value: &Value| {
            writeln!(text, "{key} = {value}").expect("a String takes all");
        };
        for (key, value) in &self.0 {
            line(key, value);
        }
        if self.tls().is_none() {
            line("tls.enabled", &false.into());
        }
        if self.is_tls() {
            line("tls.cert", &dir.join(certificate::CERT).to_string_lossy().into());
            line("tls.key", &dir.join(certificate::KEY).to_string_lossy().into());
        }
        text
    }

    fn on_free_ports(self) -> Self {
        self.set("listen.addr", "127.0.0.1:0").set("listen.admin", "127.0.0.1:0")
    }

    /// Takes a key of the file with what is below it.
    fn take(&mut self, key: &str, value: Value) {
        match value {
            Value::Object(below) => {
                for (name, value) in below {
                    self.take(&format!("{key}.{name}"), value);
                }
            }
            value => {
                self.0.insert(key.to_owned(), value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_become_toml() {
        let text = Settings::open().over_tls().set("limits.write_timeout", "3s").to_toml(Path::new("/x"));
        for line in [
            "limits.write_timeout = \"3s\"",
            "tls.enabled = true",
            "tls.cert = \"/x/edge.crt\"",
            "quota.connections_per_ip = 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
        assert!(Settings::open().to_toml(Path::new("/x")).contains("tls.enabled = false\n"));
    }

    /// What checks count on, wherever it is written a second time.
    #[test]
    fn the_profile_is_what_checks_take_it_for() {
        let profile = Settings::profile();
        let is = |key: &str, value: Value| assert_eq!(profile.0.get(key), Some(&value), "{key}");
        is("auth.hs256_secret", Minter::SECRET.into());
        is("limits.message_bytes", Settings::MESSAGE_BYTES.into());
        is("conformance.echo", true.into());
        is("listen.addr", "127.0.0.1:0".into());
        for quota in QUOTAS {
            is(&format!("quota.{quota}"), 0.into());
        }
        for (namespace, access) in [("default", "authenticated"), ("open", "anyone"), ("closed", "granted")] {
            is(&format!("channels.{namespace}.join"), access.into());
            is(&format!("channels.{namespace}.send"), access.into());
        }
        assert_eq!(profile.tls(), None);
    }

    #[test]
    fn what_the_profile_does_not_have_is_named() {
        let profile = Settings::profile;
        for (settings, beyond) in [
            (profile(), None),
            (profile().over_tls().set("auth.hs256_secret", "another").set("log.level", "debug"), None),
            (profile().set("listen.drain", "2s"), Some("listen.drain = \"2s\"")),
            (profile().set("quota.connections_per_ip", 4), Some("quota.connections_per_ip = 4")),
            (Settings::open(), Some("auth.mode = \"required\"")),
        ] {
            assert_eq!(settings.beyond_the_profile().as_deref(), beyond);
        }
    }
}
