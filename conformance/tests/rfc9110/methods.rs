//! §9: methods, on every endpoint of the protocol's table.

use conformance::edge::{Edge, Settings};
use conformance::shapes;
use conformance::wire::{Connection, Dial, EventStream, Request, ServerSent, Target};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Duration, timeout};

/// A path of the table, and what it knows.
struct Endpoint {
    path: &'static str,
    methods: &'static [&'static str],
}

const ENDPOINTS: [Endpoint; 8] = [
    Endpoint { path: "/v1/ws", methods: &["GET", "OPTIONS"] },
    Endpoint { path: "/echo", methods: &["GET", "OPTIONS"] },
    Endpoint { path: "/v1/sse?channels=open:a", methods: &["GET", "HEAD", "OPTIONS"] },
    Endpoint { path: "/v1/poll?channels=open:a", methods: &["GET", "HEAD", "OPTIONS"] },
    Endpoint { path: "/v1/send", methods: &["POST", "OPTIONS"] },
    Endpoint { path: "/v1/channels/open:a/messages", methods: &["GET", "HEAD", "POST", "OPTIONS"] },
    Endpoint { path: "/v1/channels/open:a/presence", methods: &["GET", "HEAD", "OPTIONS"] },
    Endpoint { path: "/v1/tickets", methods: &["POST", "OPTIONS"] },
];
/// The registry's of RFC 9110, PATCH, one of another registry's, and one that nobody knows. CONNECT has another
/// target.
const METHODS: [&str; 10] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "PROPFIND", "FROB"];

/// The head of the answer, lines in lower case, and what came behind it until the connection ended.
async fn ask(target: &Target, method: &str, path: &str, lines: &str) -> (u16, String, Vec<u8>) {
    let request = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{lines}\r\n")
        .into_bytes();
    let mut stream = target.connect(Dial::default()).await.unwrap();
    stream.write_all(&request).await.unwrap();
    let mut answer = Vec::new();
    let read = timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
    read.unwrap_or_else(|_| panic!("{method} {path} does not end")).unwrap();
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").expect("a head ends") + 4;
    let head = String::from_utf8(answer[..end].to_ascii_lowercase()).unwrap();
    (head[9..12].parse().unwrap(), head, answer[end..].to_vec())
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

fn listed(head: &str) -> Vec<String> {
    let mut allowed: Vec<_> = field(head, "allow").unwrap_or_default().split(',').collect();
    allowed.sort_unstable();
    allowed.into_iter().map(|method| method.trim().to_ascii_uppercase()).collect()
}

/// §9.1, §15.5.6: 405 "MUST generate an Allow header field", and what it lists is neither more nor less than there is.
#[tokio::test]
async fn section_15_5_6_405_with_allow() {
    let edge = Edge::named_or_started(&Settings::profile()).await.unwrap();
    for Endpoint { path, methods } in ENDPOINTS {
        let mut expected: Vec<_> = methods.iter().map(|method| (*method).to_owned()).collect();
        expected.sort_unstable();
        for method in METHODS {
            if methods.contains(&method) {
                continue;
            }
            let (status, head, body) = ask(&edge.target, method, path, "").await;
            assert_eq!(status, 405, "{method} {path}");
            let mut allowed = listed(&head);
            allowed.sort_unstable();
            assert_eq!(allowed, expected, "{method} {path}");
            assert_eq!(field(&head, "content-type"), Some("application/problem+json"), "{method} {path}");
            assert_eq!(body.is_empty(), method == "HEAD", "{method} {path}");
        }
    }
}

/// §9.3.7: OPTIONS says which methods there are; of `*`, which there are anywhere.
#[tokio::test]
async fn section_9_3_7_options() {
    let edge = Edge::named_or_started(&Settings::profile()).await.unwrap();
    let server = Endpoint { path: "*", methods: &["GET", "HEAD", "POST", "OPTIONS"] };
    for Endpoint { path, methods } in ENDPOINTS.into_iter().chain([server]) {
        let (status, head, body) = ask(&edge.target, "OPTIONS", path, "").await;
        assert_eq!((status, &body[..]), (204, &b""[..]), "{path}");
        let (mut allowed, mut expected) = (listed(&head), methods.to_vec());
        allowed.sort_unstable();
        expected.sort_unstable();
        assert_eq!(allowed, expected, "{path}");
        // §8.6: none on a 204.
        assert_eq!(field(&head, "content-length"), None, "{path}");
    }
    assert_eq!(ask(&edge.target, "OPTIONS", "/nothing", "").await.0, 404);
}

/// §9.3.2: what GET would say, without the content; and at once, also where GET would last.
#[tokio::test]
async fn section_9_3_2_head() {
    for settings in [Settings::profile().over_tcp(), Settings::profile().over_tls()] {
        let edge = Edge::named_or_started(&settings).await.unwrap();
        let channel = shapes::own_channel();
        for path in [
            &*format!("/v1/channels/{channel}/messages"),
            &*format!("/v1/channels/{channel}/presence"),
            &*format!("/v1/poll?channels={channel}"),
            "/v1/poll",
            &*format!("/v1/poll?channels={channel}&wait=x"),
            "/v1/sse",
            "/nothing",
        ] {
            let (status, head, body) = ask(&edge.target, "HEAD", path, "").await;
            let (expected, full, content) = ask(&edge.target, "GET", path, "").await;
            assert_eq!((status, body.len()), (expected, 0), "{path}");
            for name in ["content-type", "cache-control", "vary", "x-content-type-options"] {
                assert_eq!(field(&head, name), field(&full, name), "{path}: {name}");
            }
            // §8.6: the same length as the content's, or none.
            let length = field(&head, "content-length").map(|length| length.parse().unwrap());
            assert!(length.is_none_or(|length: usize| length == content.len()), "{path}: {length:?}");
            assert_eq!(field(&head, "transfer-encoding"), None, "{path}");
        }
    }
}

#[tokio::test]
async fn section_9_3_2_head_of_what_lasts() {
    let edge = Edge::named_or_started(&Settings::profile()).await.unwrap();
    let mut connection = Connection::open(&edge.target).await.unwrap();
    let channel = shapes::own_channel();
    let poll = format!("/v1/poll?channels={channel}");
    let first = connection.exchange(&Request::get(&poll)).await.unwrap().json().unwrap();
    let cursor = first["cursor"].as_str().unwrap();
    for (path, content_type) in [
        (&*format!("/v1/sse?channels={channel}&presence=1"), "text/event-stream"),
        (&*format!("{poll}&wait=60&cursor={cursor}"), "application/json"),
    ] {
        let begun = tokio::time::Instant::now();
        let (status, head, body) = ask(&edge.target, "HEAD", path, "").await;
        assert!(begun.elapsed() < Duration::from_secs(5), "{path}: {:?}", begun.elapsed());
        assert_eq!((status, body.len()), (200, 0), "{path}");
        assert_eq!(field(&head, "content-type"), Some(content_type));
        assert_eq!(
            (field(&head, "content-length"), field(&head, "transfer-encoding")),
            (None, None),
            "{path}"
        );
        // The connection goes on behind it.
        let bytes = format!("HEAD {path} HTTP/1.1\r\nhost: a\r\n\r\n{}", shapes::last());
        let answer = super::answers::text(&edge.target, bytes.as_bytes()).await;
        assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 2, "{answer}");
    }
    // §9.2.1: safe. Nobody has joined, and nobody has been present.
    let presence = Request::get(format!("/v1/channels/{channel}/presence"));
    let presence = connection.exchange(&presence).await.unwrap().json().unwrap();
    // The guest of the first poll.
    assert_eq!(presence["total"], 1, "{presence}");
}

/// The refusals of GET are those of HEAD.
#[tokio::test]
async fn section_9_3_2_head_is_no_way_around() {
    let closed = Settings::open().set("channels.default.join", "granted");
    let edge = Edge::named_or_started(&closed).await.unwrap();
    let nobody = edge.target.tokens.mint(&json!({"sub": "nobody", "exp": 4_102_444_800_u64}));
    for path in [
        "/v1/sse?channels=open:a",
        "/v1/poll?channels=open:a",
        "/v1/channels/open:a/messages",
        "/v1/channels/open:a/presence",
    ] {
        for (lines, expected) in [
            (String::new(), 401),
            ("authorization: Bearer nonsense\r\n".to_owned(), 401),
            (format!("authorization: Bearer {nobody}\r\n"), 403),
            (format!("authorization: Bearer {nobody}\r\norigin: https://elsewhere.example\r\n"), 403),
        ] {
            let (status, _, body) = ask(&edge.target, "HEAD", path, &lines).await;
            assert_eq!((status, body.len()), (expected, 0), "{path}");
        }
    }
}

/// §9.3.8: what came must not be echoed, tokens among it.
#[tokio::test]
async fn section_9_3_8_trace_tells_nothing() {
    let edge = Edge::named_or_started(&Settings::profile()).await.unwrap();
    let (status, _, body) = ask(&edge.target, "TRACE", "/v1/poll", "authorization: Bearer secret\r\n").await;
    assert_eq!(status, 405);
    assert!(!String::from_utf8(body).unwrap().contains("secret"));
}

/// HEAD of an event stream costs no subscription: the next message reaches the one who has one, once.
#[tokio::test]
async fn section_9_2_1_head_changes_nothing_for_others() {
    let edge = Edge::named_or_started(&Settings::profile()).await.unwrap();
    let tokens = &edge.target.tokens;
    let alice = tokens.user("alice");
    let channel = shapes::own_channel();
    let request = Request::get(format!("/v1/sse?channels={channel}&presence=1")).bearer(&alice);
    let mut stream = EventStream::open(&edge.target, Dial::default(), &request).await.unwrap();
    let lines = format!("authorization: Bearer {}\r\n", tokens.user("bob"));
    assert_eq!(ask(&edge.target, "HEAD", &format!("/v1/sse?channels={channel}"), &lines).await.0, 200);
    let mut connection = Connection::open(&edge.target).await.unwrap();
    let post = Request::post(format!("/v1/channels/{channel}/messages"), &json!(1)).bearer(&alice);
    connection.exchange(&post).await.unwrap().expect_status(201).unwrap();
    let mut seen: Vec<String> = Vec::new();
    while !seen.last().is_some_and(|data| data.contains("\"type\":\"message\"")) {
        let said = timeout(Duration::from_secs(10), stream.next()).await.unwrap().unwrap();
        if let ServerSent::Event { data, .. } = said.expect("it goes on") {
            seen.push(data);
        }
    }
    assert!(!seen.iter().any(|data| data.contains("presence_update")), "{seen:?}");
}
