//! The answer of a long poll, taken apart and held to its shape: for the checks of that transport, which compare the bytes.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::wire::{Response, WireError};

/// A good answer.
#[derive(Debug)]
pub struct Polled {
    /// The array of `messages` as it was written.
    pub raw: String,
    /// Each of its envelopes, as it was written.
    pub envelopes: Vec<String>,
    /// What to ask with next.
    pub cursor: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body<'a> {
    #[serde(borrow)]
    messages: &'a RawValue,
    cursor: String,
}

impl Polled {
    /// Takes a 200 apart.
    ///
    /// # Errors
    /// [`WireError::Refused`] with another status, [`WireError::Protocol`] with another shape: the two members and no
    /// other, a cursor that goes into a URL as it is, the headers that an answer must have.
    pub fn of(response: &Response) -> Result<Self, WireError> {
        response.expect_status(200)?;
        let length = response.body.len().to_string();
        for (name, wanted) in [
            ("content-type", "application/json"),
            ("cache-control", "no-store"),
            ("content-length", length.as_str()),
        ] {
            let found = response.head.header(name);
            if found != Some(wanted) {
                return Err(WireError::Protocol(format!("a poll's {name}: {found:?}")));
            }
        }
        let bad = |error: serde_json::Error| WireError::Protocol(format!("a poll's body: {error}"));
        let body: Body<'_> = serde_json::from_slice(&response.body).map_err(bad)?;
        let envelopes: Vec<&RawValue> = serde_json::from_str(body.messages.get()).map_err(bad)?;
        // RFC 3986 §2.3.
        let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        if body.cursor.is_empty() || !body.cursor.bytes().all(unreserved) {
            return Err(WireError::Protocol(format!("a poll's cursor: {:?}", body.cursor)));
        }
        Ok(Self {
            raw: body.messages.get().to_owned(),
            envelopes: envelopes.into_iter().map(|envelope| envelope.get().to_owned()).collect(),
            cursor: body.cursor,
        })
    }
}
