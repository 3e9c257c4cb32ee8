//! What a check wants the edge to be like: the keys of the configuration that differ from its defaults. It writes
//! the file; it never checks a key, for that is the server's own business.

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

impl Settings {
    /// An edge on plain TCP that is open to everyone with a token, without quotas; all else as by default.
    pub fn open() -> Self {
        let mut settings = Self(BTreeMap::new())
            .set("listen.addr", "127.0.0.1:0")
            .set("listen.admin", "127.0.0.1:0")
            .set("tls.enabled", false)
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

    /// The same over TLS, with a certificate made for it.
    #[must_use]
    pub fn over_tls(self) -> Self {
        self.set("tls.enabled", true)
    }

    /// Sets one key, written `section.key`.
    #[must_use]
    pub fn set(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.0.insert(key.to_owned(), value.into());
        self
    }

    /// Whether it speaks TLS.
    pub fn is_tls(&self) -> bool {
        self.0.get("tls.enabled") == Some(&Value::Bool(true))
    }

    pub(super) fn minter(&self) -> Minter {
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
        if self.is_tls() {
            line("tls.cert", &dir.join(certificate::CERT).to_string_lossy().into());
            line("tls.key", &dir.join(certificate::KEY).to_string_lossy().into());
        }
        text
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
    }
}
