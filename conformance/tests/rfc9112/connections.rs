//! §9: persistence, pipelining, and the end of a connection; §2.3: HTTP/1.0 clients.

use std::time::Duration;

use conformance::edge::{Edge, Settings};
use conformance::shapes::{self, BODY, Shape, get, last, post};
use conformance::wire::{Connection, Dial, Request, Target};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

/// Everything that comes until the connection ends.
pub async fn text(target: &Target, bytes: &[u8]) -> String {
    let mut stream = target.connect(Dial::default()).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await.expect("it ends").unwrap();
    String::from_utf8(answer).unwrap()
}

/// A head's lines in lower case, and the body.
fn parts(text: &str) -> (String, &str) {
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.to_ascii_lowercase(), body)
}

#[tokio::test]
async fn section_9_3_persistence() {
    for settings in [Settings::profile().over_tcp(), Settings::profile().over_tls()] {
        let edge = Edge::named_or_started(&settings).await.unwrap();
        let mut connection = Connection::open(&edge.target).await.unwrap();
        for round in 0..50 {
            let path = if round % 2 == 0 { "/v1/channels/open:a/presence" } else { "/nothing" };
            let answer = connection.exchange(&Request::get(path)).await.unwrap();
            assert_eq!(answer.head.status, if round % 2 == 0 { 200 } else { 404 });
            assert_ne!(answer.head.header("connection"), Some("close"));
        }
    }
}

#[tokio::test]
async fn section_9_6_tear_down() {
    let edge = Edge::named_or_started(&Settings::profile()).await.unwrap();
    let shape =
        |name: &str, option: &str, right| Shape::new(name, get(&format!("connection: {option}\r\n")), right);
    let report = shapes::judge(
        &edge.target,
        &[
            // What comes behind a close is not read.
            shape("close", "close", &[&[200]]),
            shape("close in capitals", "Close", &[&[200]]),
            shape("close among others", "foo, close, bar", &[&[200]]),
            shape("close after keep-alive", "keep-alive\r\nconnection: close", &[&[200]]),
            shape("keep-alive", "keep-alive", &[&[200, 200]]),
            shape("something else", "x-close", &[&[200, 200]]),
        ],
    )
    .await;
    assert!(report.is_empty(), "\n{report}");
    let answers = shapes::say(&edge.target, last().as_bytes()).await.unwrap();
    assert!(answers.ended);
    assert_eq!(answers.responses[0].head.header("connection"), Some("close"), "§9.6: it says so itself");
}

/// §9.3.2: in their order, each whole, however many come at once.
#[tokio::test]
async fn section_9_3_2_pipelining() {
    let edge = Edge::named_or_started(&Settings::profile()).await.unwrap();
    let mut bytes = String::new();
    let mut expected = Vec::new();
    for round in 0..200 {
        match round % 4 {
            0 => bytes.push_str(&get("")),
            1 => bytes.push_str(&post("content-length: 5\r\n", BODY)),
            2 => bytes.push_str(&get("").replace("presence", "nothing")),
            _ => bytes.push_str(&post("transfer-encoding: chunked\r\n", "2\r\n12\r\n3\r\n345\r\n0\r\n\r\n")),
        }
        expected.push([200, 201, 404, 201][round % 4]);
    }
    bytes.push_str(&last());
    expected.push(200);
    let answers = shapes::say(&edge.target, bytes.as_bytes()).await.unwrap();
    assert_eq!(answers.statuses(), expected);
    assert!(answers.ended);

    // The same a few bytes at a time: where a packet ends means nothing.
    let mut connection = Connection::open(&edge.target).await.unwrap();
    let some = [get(""), post("content-length: 5\r\n", BODY), last()].concat();
    for piece in some.as_bytes().chunks(7) {
        connection.stream().write_all(piece).await.unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    for status in [200, 201, 200] {
        assert_eq!(connection.response().await.unwrap().head.status, status);
    }
}

/// A poll that waits holds up those behind it, and they are answered after it, however long that is: longer here than
/// a server may need to find out whether the client is still there.
#[tokio::test]
async fn section_9_3_2_behind_a_request_that_waits() {
    let edge = Edge::named_or_started(&Settings::profile()).await.unwrap();
    let mut connection = Connection::open(&edge.target).await.unwrap();
    let poll = format!("/v1/poll?channels={}", shapes::own_channel());
    let first = connection.exchange(&Request::get(&poll)).await.unwrap().json().unwrap();
    let cursor = first["cursor"].as_str().unwrap();
    let waiting = Request::get(format!("{poll}&wait=5&cursor={cursor}"));
    let bytes = [waiting.to_bytes("localhost"), get("").into_bytes()].concat();
    connection.stream().write_all(&bytes).await.unwrap();
    let begun = tokio::time::Instant::now();
    let poll = connection.response().await.unwrap();
    assert!(begun.elapsed() > Duration::from_millis(4800), "{:?}", begun.elapsed());
    assert_eq!(poll.json().unwrap()["messages"], serde_json::json!([]));
    assert_eq!(connection.response().await.unwrap().json().unwrap()["total"], 0);
}

#[tokio::test]
async fn section_2_3_http_1_0_clients() {
    let edge = Edge::named_or_started(&Settings::profile()).await.unwrap();
    let channel = shapes::own_channel();
    let old = |lines: &str| format!("GET /v1/channels/{channel}/presence HTTP/1.0\r\n{lines}\r\n");

    let answer = text(&edge.target, old("").as_bytes()).await;
    let (head, body) = parts(&answer);
    assert!(head.starts_with("http/1.0 200 ") || head.starts_with("http/1.1 200 "), "{head}");
    assert!(!head.contains("transfer-encoding"), "{head}");
    assert_eq!(serde_json::from_str::<serde_json::Value>(body).unwrap()["total"], 0);

    // RFC 9112 §3.2: two Hosts are one too many in any version.
    let answer = text(&edge.target, old("host: a\r\nhost: a\r\n").as_bytes()).await;
    assert!(parts(&answer).0.contains(" 400 "), "{answer}");

    // §9.3: kept alive if it asks for it and is told so.
    let both = old("connection: keep-alive\r\n") + &old("");
    let answer = text(&edge.target, both.as_bytes()).await;
    assert_eq!(answer.matches(" 200 OK").count(), 2, "{answer}");
    assert!(parts(&answer).0.contains("connection: keep-alive"), "{answer}");

    // Without asking, the second is not read.
    let answer = text(&edge.target, (old("") + &old("")).as_bytes()).await;
    assert_eq!(answer.matches(" 200 OK").count(), 1, "{answer}");
}

/// RFC 9113 §3.3: HTTP/2 is for those who negotiate it in TLS; its preface in the clear is no request of HTTP/1.
#[tokio::test]
async fn section_2_3_http_2_in_the_clear() {
    let edge = Edge::named_or_started(&Settings::profile().over_tcp()).await.unwrap();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let answers = shapes::say(&edge.target, preface).await.unwrap();
    assert!(answers.ended);
    assert!(matches!(answers.statuses()[..], [] | [400 | 505]), "{:?}", answers.statuses());
}

/// RFC 9110 §7.8: an upgrade that is not known is ignored, and RFC 9113 §3.1 has taken h2c away.
#[tokio::test]
async fn section_9_upgrades_that_are_not_known() {
    let edge = Edge::named_or_started(&Settings::profile()).await.unwrap();
    let h2c = "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n";
    let tls = "connection: upgrade\r\nupgrade: TLS/1.2, HTTP/1.1\r\n";
    let report = shapes::judge(
        &edge.target,
        &[
            Shape::new("h2c", get(h2c), &[&[200, 200]]),
            Shape::new("TLS", get(tls), &[&[200, 200]]),
            Shape::new("h2c with a body", post(&format!("{h2c}content-length: 5\r\n"), BODY), &[&[201, 200]]),
        ],
    )
    .await;
    assert!(report.is_empty(), "\n{report}");
}
