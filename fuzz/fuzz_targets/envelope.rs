//! A client's envelope. What is accepted means what an ordinary JSON parser reads there, keeps its meaning when it is
//! written again, and makes a log entry that is one line of JSON. What is refused is refused under its own
//! `correlation_id`, in an answer that is short, one line, and silent about tokens.

#![no_main]

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tidegate::channel::{Channel, ChannelName, Epoch, MessageId, Position, Publication, Retention};
use tidegate::close::Kind;
use tidegate::envelope::{Incoming, Rejected, Request, Start, encode, encode_error, parse};
use uuid::Uuid;

/// As docs/protocol.md has it.
const CORRELATION_ID_MAX: usize = 256;
/// More than any sentence of ours, less than a client's message.
const DETAIL_MAX: usize = 1024;

fuzz_target!(|text: &[u8]| {
    // What no ordinary parser reads (a number beyond a double, half a surrogate pair) may stand in a field that is
    // ignored: then there is nothing to compare with.
    let plain = serde_json::from_slice::<Value>(text).ok();
    match parse(text) {
        Ok(incoming) => accepted(&incoming, plain.as_ref()),
        Err(rejected) => refused(&rejected, plain.as_ref()),
    }
});

fn accepted(incoming: &Incoming, plain: Option<&Value>) {
    let (kind, payload) = written(&incoming.request);
    let metadata = json!({
        "message_id": incoming.message_id.as_ref().map(MessageId::as_str),
        "correlation_id": incoming.correlation_id,
    });
    let data = match &incoming.request {
        Request::Message { data, .. } => format!(r#","data":{data}"#),
        _ => String::new(),
    };
    let members = payload.to_string();
    let open = members.strip_suffix('}').expect("an object");
    let text = format!(r#"{{"type":"{kind}","payload":{open}{data}}},"metadata":{metadata}}}"#);
    let again = parse(text.as_bytes()).unwrap_or_else(|rejected| panic!("{rejected:?}: {text}"));
    assert_eq!(format!("{again:?}"), format!("{incoming:?}"));

    if let Some(plain) = plain {
        assert_eq!(plain["type"], kind);
        for (name, value) in payload.as_object().expect("an object") {
            means(name, &plain["payload"][name], value);
        }
        if let Request::Message { data, .. } = &incoming.request {
            let read: Value = serde_json::from_str(data.get()).expect("data is JSON that everyone can read");
            assert_eq!(plain["payload"]["data"], read);
        }
        assert_eq!(correlation_id(plain), incoming.correlation_id.as_deref());
    }
    let answer = encode("pong", &json!({}), incoming.correlation_id.as_deref());
    assert_eq!(one_line(&answer)["metadata"]["correlation_id"].as_str(), incoming.correlation_id.as_deref());
    if let Request::Message { channel, data } = &incoming.request {
        logged(channel, data, incoming.message_id.clone());
    }
}

/// Type and payload, without `data`, whose letters matter.
fn written(request: &Request) -> (&'static str, Value) {
    let in_channel = |channel: &ChannelName| json!({"channel": channel.as_str()});
    match request {
        Request::Auth { token } => ("auth", json!({"token": token})),
        Request::Join(join) => {
            let mut payload = json!({"channel": join.channel.as_str(), "presence": join.presence});
            match &join.start {
                Start::Live => {}
                Start::Cursor(cursor) => payload["cursor"] = json!(cursor),
                Start::Recover(Some(position)) => {
                    payload["recover"] = json!({"epoch": position.epoch, "seq": position.seq});
                }
                Start::Recover(None) => payload["recover"] = json!({"epoch": "", "seq": 0}),
                Start::History(newest) => payload["history"] = json!(newest),
            }
            ("join_room", payload)
        }
        Request::Leave(channel) => ("leave_room", in_channel(channel)),
        Request::Message { channel, .. } => ("message", in_channel(channel)),
        Request::TypingStart(channel) => ("typing_start", in_channel(channel)),
        Request::TypingStop(channel) => ("typing_stop", in_channel(channel)),
        Request::Presence(channel) => ("presence", in_channel(channel)),
        Request::History { channel, after, limit } => {
            ("history", json!({"channel": channel.as_str(), "after": after, "limit": limit}))
        }
        Request::Ping => ("ping", json!({})),
    }
}

/// Holds what a client wrote against what it was taken for. A `recover` of an epoch that no log can have is kept without
/// its letters; any other may have members that are ignored.
fn means(name: &str, asked: &Value, taken: &Value) {
    let holds = match name {
        "recover" if taken["epoch"] == "" => asked["epoch"].is_string() && asked["seq"].is_u64(),
        "recover" => asked["epoch"] == taken["epoch"] && asked["seq"] == taken["seq"],
        "presence" if asked.is_null() => *taken == json!(false),
        "after" if asked.is_null() => *taken == json!(0),
        "limit" if asked.is_null() => *taken == json!(100),
        _ => asked == taken,
    };
    assert!(holds, "{name}: {asked} was taken for {taken}");
}

fn logged(name: &ChannelName, data: &RawValue, message_id: Option<MessageId>) {
    let retention = Retention {
        history_size: 1,
        history_bytes: 1024,
        history_ttl: Duration::from_secs(1),
        lag_bytes: 1024,
        lag: Duration::from_secs(1),
    };
    let channel = Channel::new(
        name.clone(),
        retention,
        &Arc::default(),
        Position { epoch: Epoch::new(1), seq: 0 },
        Instant::now(),
    );
    let publication = Publication {
        channel: name.clone(),
        sender_id: "\"bob\"\u{2028}".into(),
        client_id: Uuid::nil(),
        idempotent: message_id.is_some(),
        message_id: message_id.unwrap_or_else(MessageId::random),
        timestamp: SystemTime::UNIX_EPOCH,
        data: data.to_owned(),
    };
    let message = channel.append(Instant::now(), &publication, || 1);
    let read = one_line(&message.json);
    assert_eq!(read["payload"]["channel"], name.as_str());
    assert_eq!(read["payload"]["sender_id"], *publication.sender_id);
    assert_eq!(read["metadata"]["message_id"], publication.message_id.as_str());
    assert_eq!(read["payload"]["data"], serde_json::from_str::<Value>(data.get()).expect("JSON"));
}

fn refused(rejected: &Rejected, plain: Option<&Value>) {
    let Rejected { fault, correlation_id: id } = rejected;
    assert!(matches!(fault.kind, Kind::Malformed | Kind::UnknownType), "{fault}");
    assert!(fault.detail.len() <= DETAIL_MAX, "{} bytes: {fault}", fault.detail.len());
    let answer = one_line(&encode_error(fault, id.as_deref()));
    assert_eq!(answer["payload"]["detail"], *fault.detail);
    assert_eq!(answer["metadata"]["correlation_id"].as_str(), id.as_deref());
    let Some(plain) = plain else { return };
    assert_eq!(correlation_id(plain), id.as_deref());
    if let Some(token) = plain["payload"]["token"].as_str().filter(|token| token.len() > 8) {
        let elsewhere = "payload has no token, a string no envelope type not an envelope";
        assert!(
            !fault.detail.contains(token) || plain["type"] != "auth" || elsewhere.contains(token),
            "{fault}"
        );
    }
}

fn correlation_id(plain: &Value) -> Option<&str> {
    plain["metadata"]["correlation_id"].as_str().filter(|id| id.len() <= CORRELATION_ID_MAX)
}

/// WHATWG HTML §9.2.6: a line break would end an event's `data`.
fn one_line(json: &[u8]) -> Value {
    assert!(!json.contains(&b'\n') && !json.contains(&b'\r'), "{}", String::from_utf8_lossy(json));
    serde_json::from_slice(json).expect("what an edge says is JSON")
}
