//! §6.6.1, §8, §10, §15 and RFC 9457: what every answer carries.

use conformance::edge::{Edge, Settings};
use conformance::shapes;
use conformance::wire::{Connection, Dial, Head, Request, Target};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Duration, timeout};

/// Everything that comes until the connection ends.
pub async fn text(target: &Target, bytes: &[u8]) -> String {
    let mut stream = target.connect(Dial::default()).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await.expect("it ends").unwrap();
    String::from_utf8(answer).unwrap()
}

/// §5.6.7: `Sun, 06 Nov 1994 08:49:37 GMT`.
fn is_date(value: &str) -> bool {
    let form = "Www, 00 Www 0000 00:00:00 GMT";
    value.len() == form.len()
        && value.bytes().zip(form.bytes()).all(|(byte, kind)| match kind {
            b'0' => byte.is_ascii_digit(),
            b'W' => byte.is_ascii_uppercase(),
            b'w' => byte.is_ascii_lowercase(),
            fixed => byte == fixed,
        })
}

/// §6.6.1: "MUST generate a Date" in 2xx, 3xx and 4xx.
#[tokio::test]
async fn section_6_6_1_date() {
    let edge = Edge::named_or_started(&Settings::profile()).await.unwrap();
    for request in [
        shapes::last(),
        shapes::get("connection: close\r\n").replace("GET", "HEAD"),
        shapes::get("connection: close\r\n").replace("GET", "OPTIONS"),
        shapes::get("connection: close\r\n").replace("presence", "nothing"),
        shapes::post("content-length: 5\r\nconnection: close\r\n", shapes::BODY),
        // What is refused before anything of it is understood.
        "GET /\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\n\r\n".to_owned(),
    ] {
        let answer = text(&edge.target, request.as_bytes()).await;
        let date = answer.lines().find_map(|line| line.strip_prefix("date: "));
        assert!(date.is_some_and(is_date), "{request:?}: {answer}");
        assert_eq!(answer.matches("date: ").count(), 1, "{request:?}: {answer}");
    }
}

fn check_problem(name: &str, head: &Head, body: &[u8], status: u16, code: u64) {
    assert_eq!(head.status, status, "{name}: {}", String::from_utf8_lossy(body));
    assert_eq!(head.header("content-type"), Some("application/problem+json"), "{name}");
    // RFC 9111 §3: what is wrong today is not for a cache.
    assert_eq!(head.header("cache-control"), Some("no-store"), "{name}");
    assert_eq!(head.header("content-length"), Some(&*body.len().to_string()), "{name}");
    let problem: serde_json::Value = serde_json::from_slice(body).unwrap();
    assert_eq!((&problem["status"], &problem["code"]), (&json!(status), &json!(code)), "{name}");
    for member in ["title", "reason", "detail"] {
        assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{name}: {member}: {problem}");
    }
}

/// RFC 9457 §3, and the table of codes.
#[tokio::test]
async fn section_15_refusals_are_problem_details() {
    let settings = Settings::open().set("channels.default.send", "granted").set("limits.message_bytes", 1024);
    let edge = Edge::named_or_started(&settings).await.unwrap();
    let good = edge.target.tokens.user("good");
    let nobody = edge.target.tokens.mint(&json!({"sub": "nobody", "exp": 4_102_444_800_u64}));
    let messages = "/v1/channels/open:a/messages";
    let big = json!("x".repeat(2000));
    for (name, request, status, code) in [
        ("not found", Request::get("/nothing"), 404, 4000),
        ("no token", Request::get("/v1/poll?channels=open:a"), 401, 4001),
        ("a bad token", Request::get("/v1/poll?channels=open:a").bearer("x"), 401, 4002),
        ("no grant", Request::post(messages, &json!(1)).bearer(&nobody), 403, 4000),
        ("no channels", Request::get("/v1/poll").bearer(&good), 400, 4000),
        ("a bad number", Request::get(format!("{messages}?limit=x")).bearer(&good), 400, 4000),
        ("a bad channel", Request::get("/v1/channels/%00/messages").bearer(&good), 400, 4000),
        ("a channel that is no UTF-8", Request::get("/v1/channels/%ff/messages").bearer(&good), 400, 4000),
        ("a bad cursor", Request::get("/v1/poll?channels=open:a&cursor=!").bearer(&good), 400, 4000),
        ("no envelope", Request::post("/v1/send", &json!(1)).bearer(&good), 400, 4000),
        ("an unknown type", Request::post("/v1/send", &json!({"type": "x"})).bearer(&good), 400, 4000),
        ("too large", Request::post(messages, &big).bearer(&good), 413, 4005),
        (
            "a page that may not",
            Request::get("/v1/poll?channels=open:a").bearer(&good).header("origin", "x://y"),
            403,
            4003,
        ),
        ("no handshake", Request::get("/v1/ws").bearer(&good), 426, 4000),
    ] {
        let mut connection = Connection::open(&edge.target).await.unwrap();
        let answer = connection.exchange(&request).await.unwrap();
        check_problem(name, &answer.head, &answer.body, status, code);
        match status {
            // §11.6.1: "MUST send a WWW-Authenticate".
            401 => assert!(answer.head.header("www-authenticate").is_some_and(|it| it.starts_with("Bearer"))),
            // §15.5.22: "MUST send an Upgrade header field".
            426 => assert_eq!(answer.head.header("upgrade"), Some("websocket")),
            _ => {}
        }
    }
}

/// §8.3, §8.4: a body is JSON, whatever its type says; one in a coding is none.
#[tokio::test]
async fn section_8_bodies() {
    let edge = Edge::named_or_started(&Settings::profile()).await.unwrap();
    let gzip = "\u{1f}\u{8b}\u{8}\u{0}\u{0}";
    for (lines, body, expected) in [
        ("content-type: application/json\r\n", "12345", 201),
        ("content-type: application/json; charset=utf-8\r\n", "12345", 201),
        ("content-type: text/plain\r\n", "12345", 201),
        ("", "12345", 201),
        ("content-encoding: gzip\r\n", gzip, 400),
        ("", "", 400),
        ("", "{", 400),
        ("", "1 2", 400),
        ("", "\u{feff}1", 400),
    ] {
        let length = body.len();
        let bytes = shapes::post(&format!("{lines}content-length: {length}\r\n"), body) + &shapes::last();
        let answers = shapes::say(&edge.target, bytes.as_bytes()).await.unwrap();
        assert_eq!(answers.statuses(), [expected, 200], "{lines}{body:?}");
        if expected == 400 {
            let answer = &answers.responses[0];
            check_problem(body, &answer.head, &answer.body, 400, 4000);
        }
    }
}

/// §10.2.3: `Retry-After` in whole seconds where the code says so.
#[tokio::test]
async fn section_10_2_3_retry_after() {
    let settings = Settings::profile().set("quota.requests_per_connection_per_minute", 2);
    let edge = Edge::named_or_started(&settings).await.unwrap();
    let mut connection = Connection::open(&edge.target).await.unwrap();
    let mut refused = None;
    for _ in 0..10 {
        let answer = connection.exchange(&Request::get("/v1/channels/open:a/presence")).await.unwrap();
        if answer.head.status == 429 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("a quota of 2 is used up");
    check_problem("rate limited", &refused.head, &refused.body, 429, 4004);
    let seconds: u64 = refused.head.header("retry-after").unwrap().parse().unwrap();
    let ms = refused.json().unwrap()["retry_after_ms"].as_u64().unwrap();
    assert!(seconds >= 1 && seconds * 1000 >= ms && ms > 0, "{seconds} s, {ms} ms");
}
