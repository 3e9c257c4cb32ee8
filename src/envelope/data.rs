//! `data`: any JSON, carried as its sender wrote it. Checked once here so that no receiver's parser chokes on it.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::close::Fault;

/// The same JSON on one line, so that an SSE event never breaks (WHATWG HTML §9.2.6).
///
/// # Errors
/// A malformed [`Fault`] for JSON that `serde_json` would take as raw text but that common parsers refuse: nested
/// deeper than 128 levels, a number beyond a double, half a surrogate pair.
pub fn json_data(raw: &RawValue) -> Result<Box<RawValue>, Fault> {
    let text = raw.get();
    serde_json::from_str::<WellFormed>(text)
        .map_err(|error| Fault::malformed(format!("data is not JSON that everyone can read: {error}")))?;
    if !text.contains(['\n', '\r']) {
        return Ok(raw.to_owned());
    }
    // RFC 8259 §7: a string holds no raw control character, so every line break here is white space.
    RawValue::from_string(text.replace(['\n', '\r'], " "))
        .map_err(|error| Fault::malformed(error.to_string()))
}

/// Visits every value and keeps none.
struct WellFormed;

impl<'de> Deserialize<'de> for WellFormed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Walk)
    }
}

struct Walk;

impl<'de> Visitor<'de> for Walk {
    type Value = WellFormed;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<WellFormed, E> {
        Ok(WellFormed)
    }

    fn visit_i64<E>(self, _: i64) -> Result<WellFormed, E> {
        Ok(WellFormed)
    }

    fn visit_u64<E>(self, _: u64) -> Result<WellFormed, E> {
        Ok(WellFormed)
    }

    fn visit_f64<E>(self, _: f64) -> Result<WellFormed, E> {
        Ok(WellFormed)
    }

    fn visit_str<E: de::Error>(self, _: &str) -> Result<WellFormed, E> {
        Ok(WellFormed)
    }

    fn visit_unit<E>(self) -> Result<WellFormed, E> {
        Ok(WellFormed)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<WellFormed, A::Error> {
        while seq.next_element::<WellFormed>()?.is_some() {}
        Ok(WellFormed)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WellFormed, A::Error> {
        while map.next_entry::<WellFormed, WellFormed>()?.is_some() {}
        Ok(WellFormed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(text: &str) -> Result<String, Fault> {
        let raw: &RawValue = serde_json::from_str(text).expect("raw JSON");
        json_data(raw).map(|data| data.get().to_owned())
    }

    #[test]
    fn data_is_kept_to_the_letter_on_one_line() {
        assert_eq!(data(r#"{"b":1.50,"a":"x\ny","b":2}"#).unwrap(), r#"{"b":1.50,"a":"x\ny","b":2}"#);
        assert_eq!(data("[1,\r\n 2]").unwrap(), "[1,   2]");
        assert_eq!(data("null").unwrap(), "null");
    }

    #[test]
    fn data_that_would_poison_a_receiver_is_refused() {
        for bad in [&"[".repeat(200) as &str, "1e999", r#""\ud800""#] {
            let closed =
                if bad.starts_with('[') { format!("{bad}{}", "]".repeat(200)) } else { bad.to_owned() };
            assert!(data(&closed).is_err(), "{bad}");
        }
    }
}
