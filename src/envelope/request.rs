//! What a client may say. Unknown fields are ignored; an unknown type or a wrong field is refused with the reason.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::data::json_data;
use crate::channel::{ChannelName, Epoch, MessageId, Position};
use crate::close::{Fault, Kind};

/// A client's envelope.
#[derive(Debug)]
pub struct Incoming {
    /// What it wants.
    pub request: Request,
    /// The name it gave a message.
    pub message_id: Option<MessageId>,
    /// What it wants to be answered under.
    pub correlation_id: Option<String>,
}

/// What a client may want.
#[derive(Debug)]
pub enum Request {
    /// Authenticate, or renew the token.
    Auth {
        /// The token.
        token: String,
    },
    /// Join a channel, or move the cursor in it.
    Join(Join),
    /// Leave a channel.
    Leave(ChannelName),
    /// Publish.
    Message {
        /// Where.
        channel: ChannelName,
        /// What, on one line.
        data: Box<RawValue>,
    },
    /// The user has begun to type.
    TypingStart(ChannelName),
    /// The user has stopped typing.
    TypingStop(ChannelName),
    /// Who is there?
    Presence(ChannelName),
    /// A page of history.
    History {
        /// Of which channel.
        channel: ChannelName,
        /// After which `seq`.
        after: u64,
        /// How many at most.
        limit: usize,
    },
    /// Are you there?
    Ping,
}

/// `join_room`.
#[derive(Debug, PartialEq, Eq)]
pub struct Join {
    /// Which channel.
    pub channel: ChannelName,
    /// Where to begin.
    pub start: Start,
    /// Whether to get the presence list and its updates.
    pub presence: bool,
}

/// Where a join begins.
#[derive(Debug, PartialEq, Eq)]
pub enum Start {
    /// With the next message.
    Live,
    /// Where that cursor string says.
    Cursor(String),
    /// After that position; `None` for an epoch that no log has.
    Recover(Option<Position>),
    /// With the newest so many.
    History(usize),
}

/// Why an envelope was refused, and under which `correlation_id` to say so.
#[derive(Debug)]
pub struct Rejected {
    /// What is wrong.
    pub fault: Fault,
    /// The refused envelope's, if it could be read.
    pub correlation_id: Option<String>,
}

/// Most messages one `history` may ask for.
pub const HISTORY_LIMIT_MAX: usize = 1000;
const HISTORY_LIMIT_DEFAULT: usize = 100;
/// Longest `correlation_id`, in bytes: it is repeated in the answer.
const CORRELATION_ID_MAX: usize = 256;
/// How much of the parser's words a client is told, in characters.
const WORDS_MAX: usize = 160;

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
    #[serde(default)]
    metadata: Option<Metadata>,
}

#[derive(Default, Deserialize)]
struct Metadata {
    message_id: Option<String>,
    correlation_id: Option<String>,
}

#[derive(Deserialize)]
struct Token {
    token: String,
}

#[derive(Deserialize)]
struct InChannel {
    channel: String,
}

#[derive(Deserialize)]
struct JoinPayload {
    channel: String,
    cursor: Option<String>,
    recover: Option<Recover>,
    history: Option<u64>,
    presence: Option<bool>,
}

#[derive(Deserialize)]
struct Recover {
    epoch: String,
    seq: u64,
}

#[derive(Deserialize)]
struct MessagePayload<'a> {
    channel: String,
    /// `null` is data, too; only a missing member is none.
    #[serde(default, borrow, deserialize_with = "present")]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct HistoryPayload {
    channel: String,
    after: Option<u64>,
    limit: Option<u64>,
}

/// Reads one envelope.
///
/// # Errors
/// [`Rejected`] with [`Kind::Malformed`] or [`Kind::UnknownType`].
pub fn parse(text: &[u8]) -> Result<Incoming, Rejected> {
    let wire: Wire<'_> = serde_json::from_slice(text).map_err(|error| Rejected {
        fault: Fault::malformed(format!("not an envelope: {}", words(&error))),
        correlation_id: salvage_correlation_id(text),
    })?;
    let metadata = wire.metadata.unwrap_or_default();
    let (message_id, correlation_id) = metadata.check()?;
    match request(&wire.kind, wire.payload) {
        Ok(request) => Ok(Incoming { request, message_id, correlation_id }),
        Err(fault) => Err(Rejected { fault, correlation_id }),
    }
}

impl Metadata {
    fn check(self) -> Result<(Option<MessageId>, Option<String>), Rejected> {
        let refuse =
            |detail: String, correlation_id| Rejected { fault: Fault::malformed(detail), correlation_id };
        let correlation_id = match self.correlation_id {
            Some(id) if id.len() > CORRELATION_ID_MAX => {
                return Err(refuse(
                    format!("correlation_id is longer than {CORRELATION_ID_MAX} bytes"),
                    None,
                ));
            }
            id => id,
        };
        let message_id = match self.message_id.as_deref().map(MessageId::parse) {
            Some(None) => {
                return Err(refuse(
                    "message_id is not 1 to 64 printable characters".to_owned(),
                    correlation_id,
                ));
            }
            Some(id) => id,
            None => None,
        };
        Ok((message_id, correlation_id))
    }
}

fn request(kind: &str, payload: Option<&RawValue>) -> Result<Request, Fault> {
    match kind {
        "auth" => {
            // Not serde's words: they quote what they stumble over, and that is a token.
            let token =
                read::<Token>(payload).map_err(|_| Fault::malformed("payload has no token, a string"))?;
            Ok(Request::Auth { token: token.token })
        }
        "join_room" => join(read(payload)?).map(Request::Join),
        "leave_room" => in_channel(payload).map(Request::Leave),
        "message" => {
            let MessagePayload { channel, data } = read(payload)?;
            let channel = name(&channel)?;
            let data = data.ok_or_else(|| Fault::malformed("payload has no data"))?;
            Ok(Request::Message { channel, data: json_data(data)? })
        }
        "typing_start" => in_channel(payload).map(Request::TypingStart),
        "typing_stop" => in_channel(payload).map(Request::TypingStop),
        "presence" => in_channel(payload).map(Request::Presence),
        "history" => {
            let HistoryPayload { channel, after, limit } = read(payload)?;
            let limit = limit.unwrap_or(HISTORY_LIMIT_DEFAULT as u64);
            let limit = usize::try_from(limit).ok().filter(|limit| (1..=HISTORY_LIMIT_MAX).contains(limit));
            let limit =
                limit.ok_or_else(|| Fault::malformed(format!("limit is not 1 to {HISTORY_LIMIT_MAX}")))?;
            Ok(Request::History { channel: name(&channel)?, after: after.unwrap_or(0), limit })
        }
        "ping" => Ok(Request::Ping),
        other => {
            let shown: String = other.chars().take(40).collect();
            Err(Fault::new(Kind::UnknownType, format!("no envelope type {shown:?}")))
        }
    }
}

fn join(payload: JoinPayload) -> Result<Join, Fault> {
    let channel = name(&payload.channel)?;
    let start = match (payload.cursor, payload.recover, payload.history) {
        (None, None, None) => Start::Live,
        (Some(cursor), None, None) => Start::Cursor(cursor),
        (None, Some(Recover { epoch, seq }), None) => {
            Start::Recover(epoch.parse::<Epoch>().ok().map(|epoch| Position { epoch, seq }))
        }
        (None, None, Some(newest)) => Start::History(usize::try_from(newest).unwrap_or(usize::MAX)),
        _ => return Err(Fault::malformed("only one of cursor, recover and history may be given")),
    };
    Ok(Join { channel, start, presence: payload.presence.unwrap_or(false) })
}

fn in_channel(payload: Option<&RawValue>) -> Result<ChannelName, Fault> {
    name(&read::<InChannel>(payload)?.channel)
}

fn name(channel: &str) -> Result<ChannelName, Fault> {
    channel.parse().map_err(|error: crate::channel::NameError| Fault::malformed(error.to_string()))
}

fn read<'a, T: Deserialize<'a>>(payload: Option<&'a RawValue>) -> Result<T, Fault> {
    let payload = payload.ok_or_else(|| Fault::malformed("the envelope has no payload"))?;
    serde_json::from_str(payload.get())
        .map_err(|error| Fault::malformed(format!("payload: {}", words(&error))))
}

/// The parser's own, cut: they quote what they stumbled over, which may be as long as a message, and escaped.
fn words(error: &serde_json::Error) -> String {
    let words = error.to_string();
    match words.char_indices().nth(WORDS_MAX) {
        None => words,
        Some((end, _)) => format!("{}… at line {} column {}", &words[..end], error.line(), error.column()),
    }
}

fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// An envelope with one wrong field should still be answered under its own `correlation_id`.
fn salvage_correlation_id(text: &[u8]) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(text).ok()?;
    let id = value.get("metadata")?.get("correlation_id")?.as_str()?;
    (id.len() <= CORRELATION_ID_MAX).then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> (&'static str, Option<String>) {
        let rejected = parse(text.as_bytes()).unwrap_err();
        (rejected.fault.kind.reason(), rejected.correlation_id)
    }

    #[test]
    fn unknown_fields_are_ignored() {
        let text =
            r#"{"type":"message","x":1,"payload":{"channel":"a","data":null,"y":2},"metadata":{"z":3}}"#;
        let incoming = parse(text.as_bytes()).unwrap();
        assert!(matches!(incoming.request, Request::Message { data, .. } if data.get() == "null"));
    }

    #[test]
    fn what_is_wrong_is_refused_under_its_correlation_id() {
        let id = Some("c1".to_owned());
        let with = |rest: &str| format!(r#"{{"metadata":{{"correlation_id":"c1"}},{rest}}}"#);
        assert_eq!(refused(&with(r#""type":"nope""#)), ("unknown_type", id.clone()));
        assert_eq!(refused(&with(r#""type":7"#)), ("malformed", id.clone()));
        assert_eq!(refused(&with(r#""type":"join_room""#)), ("malformed", id.clone()));
        assert_eq!(
            refused(&with(r#""type":"join_room","payload":{"channel":7}"#)),
            ("malformed", id.clone())
        );
        assert_eq!(
            refused(&with(r#""type":"join_room","payload":{"channel":"a b"}"#)),
            ("malformed", id.clone())
        );
        assert_eq!(
            refused(&with(r#""type":"message","payload":{"channel":"a"}"#)),
            ("malformed", id.clone())
        );
        let both = r#""type":"join_room","payload":{"channel":"a","cursor":"x","history":1}"#;
        assert_eq!(refused(&with(both)), ("malformed", id));
        for bad in ["", "{", "[]", "7", "null", r#"{"type":"ping""#, "\u{feff}{}"] {
            assert_eq!(refused(bad), ("malformed", None), "{bad:?}");
        }
        assert_eq!(refused(r#"{"type":"ping","metadata":{"message_id":""}}"#).0, "malformed");
    }

    #[test]
    fn a_refusal_is_short_however_long_what_it_refuses() {
        let long = "\u{7f}".repeat(60_000);
        for text in [
            format!(r#"{{"type":"history","payload":{{"channel":"a","limit":"{long}"}}}}"#),
            format!(r#"{{"type":"ping","metadata":"{long}"}}"#),
            format!(r#"{{"type":"{long}"}}"#),
            format!(r#"{{"type":"leave_room","payload":{{"channel":"{long}"}}}}"#),
        ] {
            let detail = parse(text.as_bytes()).unwrap_err().fault.detail;
            assert!(detail.len() < 500, "{} bytes: {detail}", detail.len());
        }
        let detail = parse(br#"{"type":"ping","metadata":"x"}"#).unwrap_err().fault.detail;
        assert!(detail.ends_with("at line 1 column 29"), "{detail}");
    }

    #[test]
    fn a_join_says_where_it_begins() {
        let start = |rest: &str| {
            let text = format!(r#"{{"type":"join_room","payload":{{"channel":"a"{rest}}}}}"#);
            match parse(text.as_bytes()).unwrap().request {
                Request::Join(join) => join.start,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(start(""), Start::Live);
        assert_eq!(start(r#","history":5"#), Start::History(5));
        assert_eq!(start(r#","cursor":"abc""#), Start::Cursor("abc".into()));
        assert_eq!(start(r#","recover":{"epoch":"old","seq":5}"#), Start::Recover(None));
        let position = Position { epoch: Epoch::new(1), seq: 5 };
        assert_eq!(start(r#","recover":{"epoch":"000000000001","seq":5}"#), Start::Recover(Some(position)));
    }
}
