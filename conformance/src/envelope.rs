//! Envelopes as a client sees them: the few it writes, and what it makes of those it reads. Fields that the protocol
//! promises are required here; whatever else an envelope has is ignored.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::traffic;
use crate::wire::WireError;

/// A place in a channel's log.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Position {
    /// Which life of the log; opaque.
    pub epoch: String,
    /// How far into it.
    pub seq: u64,
}

/// What the server says, as far as a subscriber acts on it.
#[derive(Debug)]
pub enum Said<'a> {
    /// `room_joined`.
    Joined(Joined),
    /// `message`.
    Message(Delivered<'a>),
    /// `gap`.
    Gap(Gap),
    /// `message_ack`.
    Ack(Ack),
    /// `error`.
    Error(Refusal),
    /// Any other, by its type.
    Other(String),
}

/// Payload of `room_joined`.
#[derive(Debug, Deserialize)]
pub struct Joined {
    /// Which channel.
    pub channel: String,
    /// From where on messages are delivered.
    #[serde(flatten)]
    pub position: Position,
    /// The same as an opaque string.
    pub cursor: String,
    /// Whether everything since the asked position follows.
    pub recovered: bool,
}

/// Payload and identity of a `message`.
#[derive(Debug)]
pub struct Delivered<'a> {
    /// Which channel.
    pub channel: Cow<'a, str>,
    /// Which life of its log.
    pub epoch: Cow<'a, str>,
    /// Its place.
    pub seq: u64,
    /// The place of the one before it.
    pub prev: u64,
    /// What the sender wants said.
    pub data: &'a RawValue,
    /// What the sender calls it.
    pub message_id: Cow<'a, str>,
}

/// Payload of `gap`.
#[derive(Debug, Deserialize)]
pub struct Gap {
    /// Which channel.
    pub channel: String,
    /// The first that is still held.
    #[serde(flatten)]
    pub first: Position,
    /// Why.
    pub reason: String,
}

/// Payload of `message_ack`.
#[derive(Debug, Deserialize)]
pub struct Ack {
    /// Which channel.
    pub channel: String,
    /// Where it stands.
    #[serde(flatten)]
    pub position: Position,
    /// Whether it stood there before.
    pub duplicate: bool,
}

/// Payload of `error`.
#[derive(Debug, Deserialize)]
pub struct Refusal {
    /// The code.
    pub code: u16,
    /// The word for it.
    pub reason: String,
    /// A sentence.
    #[serde(default)]
    pub detail: String,
    /// When to try again, in milliseconds.
    #[serde(default)]
    pub retry_after_ms: Option<u64>,
}

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    payload: &'a RawValue,
    #[serde(borrow)]
    metadata: Metadata<'a>,
}

#[derive(Deserialize)]
struct Metadata<'a> {
    #[serde(borrow)]
    message_id: Cow<'a, str>,
    #[serde(borrow, rename = "timestamp")]
    _timestamp: Cow<'a, str>,
}

#[derive(Deserialize)]
struct MessagePayload<'a> {
    #[serde(borrow)]
    channel: Cow<'a, str>,
    #[serde(borrow)]
    epoch: Cow<'a, str>,
    seq: u64,
    prev: u64,
    #[serde(borrow)]
    data: &'a RawValue,
}

/// Reads a server's envelope, and leaves it on record.
///
/// # Errors
/// [`WireError::Protocol`] when it's no envelope, or lacks a field that the protocol promises.
pub fn read(text: &[u8]) -> Result<Said<'_>, WireError> {
    let bad = |error: serde_json::Error| {
        WireError::Protocol(format!("an envelope with {error}: {}", String::from_utf8_lossy(text)))
    };
    let wire: Wire<'_> = serde_json::from_slice(text).map_err(bad)?;
    traffic::said(&wire.kind, text);
    let payload = wire.payload.get();
    Ok(match &*wire.kind {
        "message" => {
            let MessagePayload { channel, epoch, seq, prev, data } =
                serde_json::from_str(payload).map_err(bad)?;
            Said::Message(Delivered { channel, epoch, seq, prev, data, message_id: wire.metadata.message_id })
        }
        "room_joined" => Said::Joined(serde_json::from_str(payload).map_err(bad)?),
        "gap" => Said::Gap(serde_json::from_str(payload).map_err(bad)?),
        "message_ack" => Said::Ack(serde_json::from_str(payload).map_err(bad)?),
        "error" => Said::Error(serde_json::from_str(payload).map_err(bad)?),
        other => Said::Other(other.to_owned()),
    })
}

/// A `join_room`, with `cursor`, `recover` or nothing in `start`.
pub fn join(channel: &str, start: Value) -> String {
    let mut payload = json!({"channel": channel});
    if let (Value::Object(payload), Value::Object(start)) = (&mut payload, start) {
        payload.extend(start);
    }
    json!({"type": "join_room", "payload": payload}).to_string()
}

/// A `message` that asks to be acknowledged, named by `message_id`.
pub fn message(channel: &str, message_id: &str, data: &Value) -> Value {
    json!({
        "type": "message",
        "payload": {"channel": channel, "data": data},
        "metadata": {"message_id": message_id, "correlation_id": message_id},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_promised_is_required() {
        let text = br#"{"type":"message","payload":{"channel":"a","sender_id":"b","data":{"n":1},"epoch":"e","seq":7,"prev":3},"metadata":{"message_id":"m","timestamp":"2026-11-22T03:22:00.123Z"}}"#;
        let Said::Message(message) = read(text).unwrap() else { panic!() };
        assert_eq!((message.seq, message.prev, message.data.get()), (7, 3, r#"{"n":1}"#));
        let without_prev = br#"{"type":"message","payload":{"channel":"a","data":1,"epoch":"e","seq":7},"metadata":{"message_id":"m","timestamp":"t"}}"#;
        assert!(read(without_prev).is_err());
        assert!(read(br#"{"type":"pong","payload":{}}"#).is_err());
        let other = br#"{"type":"pong","payload":{},"metadata":{"message_id":"m","timestamp":"t"}}"#;
        assert!(matches!(read(other), Ok(Said::Other(kind)) if kind == "pong"));
    }

    #[test]
    fn a_join_says_where_it_begins() {
        let text = join("a", json!({"recover": {"epoch": "e", "seq": 7}}));
        let wanted =
            json!({"type": "join_room", "payload": {"channel": "a", "recover": {"epoch": "e", "seq": 7}}});
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), wanted);
    }
}
