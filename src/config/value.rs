//! How single values are written: durations as `20s`, `10m`, `500ms`.

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
