//! Envelopes for a WebSocket: good ones to be spoiled on their way, and well-formed messages that no reader of JSON
//! or of this protocol should stumble over.

use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use serde_json::json;

/// An envelope that would be answered.
pub(super) fn right(rng: &mut StdRng) -> String {
    let channel = format!("garbage:{}", rng.random_range(0..8));
    let all = [
        json!({"type": "join_room", "payload": {"channel": channel, "history": 5, "presence": true}}),
        json!({"type": "join_room", "payload": {"channel": channel, "recover": {"epoch": "x", "seq": 7}}}),
        json!({"type": "leave_room", "payload": {"channel": channel}}),
        json!({"type": "message", "payload": {"channel": channel, "data": {"text": "hi"}}, "metadata": {"correlation_id": "c"}}),
        json!({"type": "typing_start", "payload": {"channel": channel}}),
        json!({"type": "presence", "payload": {"channel": channel}}),
        json!({"type": "history", "payload": {"channel": channel, "limit": 3}}),
        json!({"type": "ping", "metadata": {"correlation_id": "c"}}),
    ];
    all.choose(rng).expect("it is not empty").to_string()
}

/// A text that is to be refused.
pub(super) fn wrong(rng: &mut StdRng) -> String {
    let all = [
        "",
        " ",
        "{",
        "null",
        "[]",
        "0e999999999",
        r#""type""#,
        r#"{"type":null}"#,
        r#"{"type":"nope"}"#,
        r#"{"type":"message"}"#,
        r#"{"type":"message","payload":{"channel":"","data":1}}"#,
        r#"{"type":"message","payload":{"channel":"a b","data":1}}"#,
        r#"{"type":"message","payload":{"channel":["a"],"data":1}}"#,
        r#"{"type":"message","payload":{"channel":"garbage:\ud800","data":1}}"#,
        r#"{"type":"message","payload":{"channel":"garbage:1","data":1e400}}"#,
        r#"{"type":"message","type":"ping","payload":{}}"#,
        r#"{"type":"join_room","payload":{"channel":"garbage:1","cursor":"!!!"}}"#,
        r#"{"type":"join_room","payload":{"channel":"garbage:1","cursor":7,"history":-1}}"#,
        r#"{"type":"join_room","payload":{"channel":"garbage:1","recover":{"epoch":"x","seq":-1}}}"#,
        r#"{"type":"join_room","payload":{"channel":"garbage:1","history":99999999999999999999}}"#,
        r#"{"type":"history","payload":{"channel":"garbage:1","limit":1e9}}"#,
        r#"{"type":"auth","payload":{"token":"x.y.z"}}"#,
        r#"{"type":"auth","payload":{"token":"eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIiwiZXhwIjo5OTk5OTk5OTk5fQ."}}"#,
        r#"{"type":"ping","metadata":{"message_id":"","correlation_id":[]}}"#,
        "{\"type\":\"ping\"}\u{0}",
        "\u{feff}{\"type\":\"ping\"}",
    ];
    match rng.random_range(0..10) {
        0 => "[".repeat(rng.random_range(1_000..60_000)),
        1 => format!(
            r#"{{"type":"message","payload":{{"channel":"garbage:1","data":{}1{}}}}}"#,
            r#"{"a":"#.repeat(9_000),
            "}".repeat(9_000)
        ),
        2 => format!(r#"{{"type":"join_room","payload":{{"channel":"{}"}}}}"#, "a".repeat(50_000)),
        3 => format!(
            r#"{{"type":"ping","metadata":{{"correlation_id":"{}"}}}}"#,
            "c".repeat(rng.random_range(200..60_000))
        ),
        _ => (*all.choose(rng).expect("it is not empty")).to_owned(),
    }
}
