//! One publication and its finished bytes: encoded once when it enters the log, shared by every subscriber after that.

use std::fmt::Write as _;
use std::sync::{Arc, OnceLock};
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{ChannelName, Position};
use crate::deflate::deflate;

/// What the sender names a message by: 1 to 64 printable ASCII characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MessageId(Box<str>);

impl MessageId {
    /// Longest id, in bytes.
    pub const MAX_BYTES: usize = 64;

    /// `None` if it is not 1 to 64 printable characters.
    pub fn parse(text: &str) -> Option<Self> {
        let legal =
            (1..=Self::MAX_BYTES).contains(&text.len()) && text.bytes().all(|b| (0x20..0x7f).contains(&b));
        legal.then(|| Self(text.into()))
    }

    /// A new one that nobody else has.
    pub fn random() -> Self {
        Self(Uuid::new_v4().to_string().into())
    }

    /// As it goes over the wire.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What somebody wants to be in a channel's log.
#[derive(Clone, Debug)]
pub struct Publication {
    /// Where.
    pub channel: ChannelName,
    /// Who, from the token alone.
    pub sender_id: Arc<str>,
    /// The sender's connection.
    pub client_id: Uuid,
    /// What the sender or, for want of that, the edge calls it.
    pub message_id: MessageId,
    /// Whether the sender named it, so that sending it again must not store it again.
    pub idempotent: bool,
    /// When the edge took it.
    pub timestamp: SystemTime,
    /// Any JSON, without line breaks.
    pub data: Box<RawValue>,
}

/// A publication with its position, as bytes.
#[derive(Debug)]
pub struct Message {
    /// Its own `seq`.
    pub seq: u64,
    /// The `seq` before it in this channel.
    pub prev: u64,
    /// When it entered this node's log.
    pub appended: Instant,
    /// The whole envelope, one line.
    pub json: Bytes,
    /// The same compressed, once somebody has asked for it.
    deflated: OnceLock<Option<Bytes>>,
}

impl Message {
    /// What a message costs beside its bytes: the shared cell, the handle, the slot in the log.
    const OVERHEAD_BYTES: usize = 168;

    pub(super) fn encode(publication: &Publication, position: Position, prev: u64, now: Instant) -> Self {
        let mut json = String::with_capacity(320 + publication.data.get().len());
        let Position { epoch, seq } = position;
        json.push_str(r#"{"type":"message","payload":{"channel":""#);
        json.push_str(publication.channel.as_str());
        json.push_str(r#"","sender_id":"#);
        push_string(&mut json, &publication.sender_id);
        json.push_str(r#","data":"#);
        json.push_str(publication.data.get());
        write!(json, r#","epoch":"{epoch}","seq":{seq},"prev":{prev}}},"metadata":{{"message_id":"#)
            .expect("a String takes all");
        push_string(&mut json, publication.message_id.as_str());
        write!(
            json,
            r#","timestamp":"{}","client_id":"{}"}}}}"#,
            metadata_timestamp(publication.timestamp),
            publication.client_id
        )
        .expect("a String takes all");
        Self { seq, prev, appended: now, json: json.into(), deflated: OnceLock::new() }
    }

    /// The envelope as the payload of a compressed WebSocket message, made when the first subscriber asks for it;
    /// `None` if that is no shorter.
    pub fn deflated(&self) -> Option<&Bytes> {
        self.deflated.get_or_init(|| deflate(&self.json)).as_ref()
    }

    /// Whether somebody has asked for it compressed.
    #[cfg(test)]
    pub(crate) fn is_deflated(&self) -> bool {
        self.deflated.get().is_some()
    }

    /// One with that data.
    #[cfg(test)]
    pub(crate) fn of_data(data: &str) -> Self {
        let publication = Publication {
            channel: "chat:lobby".parse().expect("a name"),
            sender_id: "ann".into(),
            client_id: Uuid::nil(),
            message_id: MessageId::random(),
            idempotent: false,
            timestamp: SystemTime::UNIX_EPOCH,
            data: RawValue::from_string(data.to_owned()).expect("JSON"),
        };
        let position = Position { epoch: super::Epoch::random(), seq: 1 };
        Self::encode(&publication, position, 0, Instant::now())
    }

    /// What it counts for against the bounds of a log, in bytes.
    pub fn cost(&self) -> usize {
        self.json.len() + Self::OVERHEAD_BYTES
    }
}

/// ISO 8601 in UTC with milliseconds, as every envelope's `metadata.timestamp`.
pub fn metadata_timestamp(time: SystemTime) -> impl std::fmt::Display {
    humantime::format_rfc3339_millis(time)
}

fn push_string(json: &mut String, text: &str) {
    json.push_str(&serde_json::to_string(text).expect("a string is JSON"));
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::channel::Epoch;

    #[test]
    fn envelope_is_as_the_protocol_says() {
        let publication = Publication {
            channel: "chat:lobby".parse().unwrap(),
            sender_id: "al\"ice".into(),
            client_id: Uuid::nil(),
            message_id: MessageId::parse("m 1").unwrap(),
            idempotent: true,
            timestamp: SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_000_000_123),
            data: RawValue::from_string(r#"{"text":"hi"}"#.into()).unwrap(),
        };
        let position = Position { epoch: Epoch::new(0xabc), seq: 7 };
        let message = Message::encode(&publication, position, 3, Instant::now());
        assert_eq!(
            std::str::from_utf8(&message.json).unwrap(),
            r#"{"type":"message","payload":{"channel":"chat:lobby","sender_id":"al\"ice","data":{"text":"hi"},"epoch":"000000000abc","seq":7,"prev":3},"metadata":{"message_id":"m 1","timestamp":"2026-11-18T11:06:40.123Z","client_id":"00000000-0000-0000-0000-000000000000"}}"#
        );
    }

    #[test]
    fn message_ids_are_printable_and_short() {
        for bad in ["", "a\n", "ä", "\u{7f}", &"a".repeat(65)] {
            assert!(MessageId::parse(bad).is_none(), "{bad:?}");
        }
        assert!(MessageId::parse(&"~".repeat(64)).is_some());
    }
}
