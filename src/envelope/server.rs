//! What the edge says: payloads as they are named on the wire, and one way to make an envelope of them.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use serde::ser::{SerializeMap as _, SerializeSeq as _};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::channel::{Epoch, Gap, Message, Position, metadata_timestamp};
use crate::close::Fault;

/// `connection_established`.
#[derive(Serialize)]
#[expect(missing_docs, reason = "fields are named as on the wire, which docs/protocol.md describes")]
pub struct ConnectionEstablished<'a> {
    pub client_id: Uuid,
    pub user_id: Option<&'a str>,
    pub protocol: &'static str,
    pub heartbeat_ms: u64,
    pub limits: LimitsNotice,
}

/// What a client may rely on, in `connection_established`.
#[derive(Serialize)]
#[expect(missing_docs, reason = "fields are named as on the wire, which docs/protocol.md describes")]
pub struct LimitsNotice {
    pub message_bytes: usize,
    pub channels_per_connection: usize,
    pub messages_per_connection_per_minute: u32,
}

/// `room_joined`.
#[derive(Serialize)]
#[expect(missing_docs, reason = "fields are named as on the wire, which docs/protocol.md describes")]
pub struct RoomJoined<'a> {
    pub channel: &'a str,
    pub epoch: Epoch,
    pub seq: u64,
    pub cursor: &'a str,
    pub recovered: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub presence: Option<Vec<Presence>>,
}

/// One user who is there.
#[derive(Clone, Serialize)]
#[expect(missing_docs, reason = "fields are named as on the wire, which docs/protocol.md describes")]
pub struct Presence {
    pub user_id: Arc<str>,
    pub connections: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub info: Option<Arc<RawValue>>,
}

/// `presence_state`.
#[derive(Serialize)]
#[expect(missing_docs, reason = "fields are named as on the wire, which docs/protocol.md describes")]
pub struct PresenceState<'a> {
    pub channel: &'a str,
    pub users: Vec<Presence>,
    pub total: usize,
}

/// `presence_update`.
#[derive(Serialize)]
#[expect(missing_docs, reason = "fields are named as on the wire, which docs/protocol.md describes")]
pub struct PresenceUpdate<'a> {
    pub channel: &'a str,
    pub user_id: &'a str,
    pub online: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub info: Option<&'a RawValue>,
}

/// `message_ack`.
#[derive(Serialize)]
#[expect(missing_docs, reason = "fields are named as on the wire, which docs/protocol.md describes")]
pub struct MessageAck<'a> {
    pub channel: &'a str,
    pub epoch: Epoch,
    pub seq: u64,
    pub duplicate: bool,
}

/// `history_page`; its messages are the bytes of the log.
#[derive(Serialize)]
#[expect(missing_docs, reason = "fields are named as on the wire, which docs/protocol.md describes")]
pub struct HistoryPage<'a> {
    pub channel: &'a str,
    pub epoch: Epoch,
    #[serde(serialize_with = "finished")]
    pub messages: &'a [Arc<Message>],
    pub more: bool,
}

/// Makes an envelope of a payload. `correlation_id` repeats the request's.
///
/// # Panics
/// If the payload can't be JSON, which no payload of this module can fail to be.
pub fn encode(kind: &str, payload: &impl Serialize, correlation_id: Option<&str>) -> Bytes {
    let envelope = Envelope { kind, payload, metadata: Metadata { correlation_id, client_id: None } };
    serde_json::to_vec(&envelope).expect("payloads are JSON").into()
}

/// An `error` envelope.
pub fn encode_error(fault: &Fault, correlation_id: Option<&str>) -> Bytes {
    encode("error", fault, correlation_id)
}

/// A `gap` envelope.
pub fn gap(channel: &str, gap: &Gap) -> Bytes {
    #[derive(Serialize)]
    struct Payload<'a> {
        channel: &'a str,
        epoch: Epoch,
        seq: u64,
        reason: &'static str,
    }
    let Position { epoch, seq } = gap.first;
    encode("gap", &Payload { channel, epoch, seq, reason: gap.reason.as_str() }, None)
}

/// A `typing_start` or `typing_stop` of that user's connection.
///
/// # Panics
/// Never: its payload is JSON.
pub fn typing(start: bool, channel: &str, user_id: &str, client_id: Uuid) -> Bytes {
    #[derive(Serialize)]
    struct Payload<'a> {
        channel: &'a str,
        user_id: &'a str,
    }
    let kind = if start { "typing_start" } else { "typing_stop" };
    let metadata = Metadata { correlation_id: None, client_id: Some(client_id) };
    let envelope = Envelope { kind, payload: &Payload { channel, user_id }, metadata };
    serde_json::to_vec(&envelope).expect("payloads are JSON").into()
}

#[derive(Serialize)]
struct Envelope<'a, P: Serialize> {
    #[serde(rename = "type")]
    kind: &'a str,
    payload: &'a P,
    metadata: Metadata<'a>,
}

struct Metadata<'a> {
    correlation_id: Option<&'a str>,
    client_id: Option<Uuid>,
}

impl Serialize for Metadata<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("message_id", &Uuid::new_v4())?;
        map.serialize_entry("timestamp", &format_args!("{}", metadata_timestamp(SystemTime::now())))?;
        if let Some(id) = self.correlation_id {
            map.serialize_entry("correlation_id", id)?;
        }
        if let Some(id) = self.client_id {
            map.serialize_entry("client_id", &id)?;
        }
        map.end()
    }
}

fn finished<S: Serializer>(messages: &[Arc<Message>], serializer: S) -> Result<S::Ok, S::Error> {
    let mut seq = serializer.serialize_seq(Some(messages.len()))?;
    for message in messages {
        let raw: &RawValue = serde_json::from_slice(&message.json).map_err(serde::ser::Error::custom)?;
        seq.serialize_element(raw)?;
    }
    seq.end()
}
