//! How single values are written: durations as `20s`, `10m`, `500ms`; log levels as `info,tidegate::auth=debug`.

/// For `#[serde(with)]`: a duration as a person writes it.
pub(super) mod duration {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, de};

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_duration(&text)
            .map_err(|error| de::Error::custom(format!("{error} (e.g. \"20s\", \"10m\")")))
    }
}

/// Whether that is a level, or levels by module. Stricter than `tracing-subscriber`, to which a mistyped level is
/// the name of a module.
pub(super) fn is_log_level(text: &str) -> bool {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let is_level = |word: &str| LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word));
    text.split(',').all(|directive| match directive.split_once('=') {
        Some((module, level)) => {
            let legal = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
            !module.is_empty() && module.chars().all(legal) && is_level(level)
        }
        None => is_level(directive),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_words_or_words_by_module() {
        for good in ["info", "WARN", "off", "info,tidegate::auth=debug", "tidegate=trace,warn"] {
            assert!(is_log_level(good), "{good:?}");
        }
        for bad in ["", "inof", "info,", "tidegate", "=debug", "tidegate=", "a b=info", "info;debug"] {
            assert!(!is_log_level(bad), "{bad:?}");
        }
    }
}
