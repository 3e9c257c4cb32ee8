//! Publications as NATS messages. The body is the message's data as JSON; who sent it, when and under what name are
//! headers, which a backend may leave out. Every node reads the same out of the same message, so all logs agree.

use std::time::{Duration, SystemTime};

use async_nats::HeaderMap;
use async_nats::header::NATS_MESSAGE_ID;
use bytes::Bytes;
use serde_json::value::RawValue;
use sha1::{Digest as _, Sha1};
use uuid::Uuid;

use crate::channel::{ChannelName, Epoch, MessageId, Publication, metadata_timestamp};
use crate::envelope::json_data;

const SENDER: &str = "Tidegate-Sender";
const CLIENT: &str = "Tidegate-Client";
const MESSAGE_ID: &str = "Tidegate-Message-Id";
const TIME: &str = "Tidegate-Time";
/// Who has sent what names no sender.
const BACKEND: &str = "server";
/// What a header can't hold as it is: what is not printable ASCII.
const ESCAPED: percent_encoding::AsciiSet = percent_encoding::CONTROLS.add(b'%');
/// Longest sender, in bytes: that of a token's `sub`.
const SENDER_MAX: usize = 256;

/// A message as a stream has it.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) seq: u64,
    /// When the stream took it; not known of one that comes back from an old server.
    pub(super) time: Option<SystemTime>,
    pub(super) headers: HeaderMap,
    pub(super) payload: Bytes,
}

/// Why a stored message is no message of a channel.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("its body is no JSON: {0}")]
    Body(String),
    #[error("its time is not known here")]
    Time,
}

/// The headers and body to publish with.
pub(super) fn encode(publication: &Publication) -> (HeaderMap, Bytes) {
    let mut headers = HeaderMap::new();
    headers.insert(NATS_MESSAGE_ID, nats_id(publication));
    headers.insert(SENDER, percent(&publication.sender_id));
    headers.insert(CLIENT, publication.client_id.to_string());
    headers.insert(MESSAGE_ID, percent(publication.message_id.as_str()));
    headers.insert(TIME, metadata_timestamp(publication.timestamp).to_string());
    (headers, Bytes::copy_from_slice(publication.data.get().as_bytes()))
}

/// The publication that is in a stored message.
pub(super) fn decode(
    channel: &ChannelName,
    epoch: Epoch,
    stored: &Stored,
) -> Result<Publication, Unreadable> {
    let header = |name: &str| stored.headers.get(name).map(async_nats::HeaderValue::as_str);
    let raw: &RawValue =
        serde_json::from_slice(&stored.payload).map_err(|error| Unreadable::Body(error.to_string()))?;
    let data = json_data(raw).map_err(|fault| Unreadable::Body(fault.detail.into_owned()))?;
    let named = header(MESSAGE_ID).map(unpercent);
    let message_id = named.as_deref().or_else(|| header("Nats-Msg-Id")).and_then(MessageId::parse);
    let said = header(TIME).and_then(|time| humantime::parse_rfc3339(time).ok());
    let sender = header(SENDER).map(unpercent).filter(|sender| (1..=SENDER_MAX).contains(&sender.len()));
    Ok(Publication {
        channel: channel.clone(),
        sender_id: sender.map_or_else(|| BACKEND.into(), Into::into),
        client_id: header(CLIENT).and_then(|id| Uuid::try_parse(id).ok()).unwrap_or_default(),
        message_id: message_id.unwrap_or_else(|| unnamed(epoch, stored.seq)),
        idempotent: false,
        timestamp: said.or(stored.time).ok_or(Unreadable::Time)?,
        data,
    })
}

/// Whether a stored message is the very one that was published, not another under the same id.
pub(super) fn is_same(publication: &Publication, stored: &HeaderMap) -> bool {
    let header = |name: &str| stored.get(name).map(async_nats::HeaderValue::as_str);
    header(CLIENT) == Some(&*publication.client_id.to_string())
        && header(TIME) == Some(&*metadata_timestamp(publication.timestamp).to_string())
}

/// How long a message has been in its stream.
pub(super) fn age(stored: &Stored) -> Duration {
    stored.time.and_then(|time| SystemTime::now().duration_since(time).ok()).unwrap_or_default()
}

/// What the stream knows it by for as long as ids are remembered. An id is good for one sender in one channel.
fn nats_id(publication: &Publication) -> String {
    let mut digest = Sha1::new();
    for part in [publication.channel.as_str(), &publication.sender_id, publication.message_id.as_str()] {
        digest.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        digest.update(part.as_bytes());
    }
    base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, digest.finalize())
}

/// A name for a message that came without one: the same on every node.
fn unnamed(epoch: Epoch, seq: u64) -> MessageId {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&epoch.number().to_be_bytes());
    bytes[8..].copy_from_slice(&seq.to_be_bytes());
    let id = uuid::Builder::from_custom_bytes(bytes).into_uuid().to_string();
    MessageId::parse(&id).expect("a UUID is 36 printable characters")
}

fn percent(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, &ESCAPED).to_string()
}

fn unpercent(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publication(sender: &str, id: &str) -> Publication {
        Publication {
            channel: "chat:a".parse().unwrap(),
            sender_id: sender.into(),
            client_id: Uuid::from_u128(7),
            message_id: MessageId::parse(id).unwrap(),
            idempotent: true,
            timestamp: SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_000_000_123),
            data: RawValue::from_string(r#"{"a":[1,"ü"]}"#.to_owned()).unwrap(),
        }
    }

    fn stored(headers: HeaderMap, payload: impl Into<Bytes>) -> Stored {
        Stored { seq: 9, time: Some(SystemTime::UNIX_EPOCH), headers, payload: payload.into() }
    }

    #[test]
    fn what_is_published_comes_back() {
        for (sender, id) in [("ann", "m1"), ("Ünal %41\u{1}", "a b%20~")] {
            let before = publication(sender, id);
            let (headers, body) = encode(&before);
            assert!(is_same(&before, &headers));
            let after = decode(&before.channel, Epoch::new(1), &stored(headers, body)).unwrap();
            assert_eq!(*after.sender_id, *before.sender_id);
            assert_eq!(after.message_id, before.message_id);
            assert_eq!((after.client_id, after.timestamp), (before.client_id, before.timestamp));
            assert_eq!(after.data.get(), before.data.get());
        }
    }

    #[test]
    fn an_id_is_its_senders_alone() {
        let id = |sender, id| nats_id(&publication(sender, id));
        assert_eq!(id("ann", "m1"), id("ann", "m1"));
        assert_ne!(id("ann", "m1"), id("bob", "m1"));
        assert_ne!(id("ann", "m1"), id("ann", "m2"));
        assert_ne!(id("an", "nm1"), id("ann", "m1"));
    }

    #[test]
    fn a_backend_needs_no_headers() {
        let channel: ChannelName = "orders:17".parse().unwrap();
        let read = |headers, body: &'static str| decode(&channel, Epoch::new(1), &stored(headers, body));
        let bare = read(HeaderMap::new(), " {\"total\":\n12} ").unwrap();
        assert_eq!((&*bare.sender_id, bare.client_id), ("server", Uuid::nil()));
        assert_eq!(bare.data.get(), "{\"total\": 12}");
        assert_eq!(bare.timestamp, SystemTime::UNIX_EPOCH);
        let again = read(HeaderMap::new(), "1").unwrap();
        assert_eq!(bare.message_id, again.message_id, "made from the position");
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", "order-17-paid");
        assert_eq!(read(headers, "1").unwrap().message_id.as_str(), "order-17-paid");
        for bad in ["", "{", "{} {}", "\u{feff}1", "NaN"] {
            assert!(matches!(read(HeaderMap::new(), bad), Err(Unreadable::Body(_))), "{bad:?}");
        }
    }
}
