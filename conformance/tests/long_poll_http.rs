//! A long poll as a plain request among others (RFC 9110, RFC 9112): its methods, clients of HTTP/1.0, refusals as problem
//! details (RFC 9457), and the quota that says when to come again.
#![expect(clippy::unwrap_used, reason = "in a check a failed unwrap is the report")]

use std::time::Duration;

use conformance::edge::Settings;
use conformance::polled::Polled;
use conformance::room::Room;
use conformance::wire::{Connection, Dial, Request};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{sleep, timeout};

const SOON: Duration = Duration::from_secs(5);

/// Raw bytes in, all bytes until the end of the connection out.
async fn raw(room: &Room, request: &str) -> String {
    let mut stream = room.edge.target.connect(Dial::default()).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    timeout(SOON, stream.read_to_end(&mut answer)).await.expect("the connection ends").unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_methods_are_answered_with_those_that_it_knows() {
    let room = Room::open(&Settings::profile(), 1).await.unwrap();
    let (path, authority) = (format!("/v1/poll?channels={}", room.list()), room.edge.target.authority());
    // RFC 9110 §9.1: HEAD is answered where GET is.
    for (method, status) in [("HEAD", 200), ("POST", 405), ("PUT", 405), ("DELETE", 405), ("PATCH", 405)] {
        let mut connection = Connection::open(&room.edge.target).await.unwrap();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {authority}\r\nauthorization: Bearer {}\r\ncontent-length: 0\r\n\r\n",
            room.token
        );
        connection.stream().write_all(request.as_bytes()).await.unwrap();
        // RFC 9110 §9.3.2: a HEAD's answer has no body, whatever its Content-Length says; §15.5.6: Allow.
        let head = if method == "HEAD" {
            connection.head().await.unwrap().0
        } else {
            connection.response().await.unwrap().head
        };
        assert_eq!(head.status, status, "{method}");
        let allow = (status == 405).then_some("GET, HEAD, OPTIONS");
        assert_eq!(head.header("allow"), allow, "{method}");
        // Nothing is left of it on the connection.
        let response = connection.exchange(&room.get(&path)).await.unwrap();
        Polled::of(&response).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_http_1_0_is_served_as_it_asks() {
    let mut room = Room::open(&Settings::profile(), 1).await.unwrap();
    let first =
        Connection::open(&room.edge.target).await.unwrap().exchange(&room.subscribe("/v1/poll", "")).await;
    let cursor = Polled::of(&first.unwrap()).unwrap().cursor;
    room.publish(0, "1").await.unwrap();
    let request = |more: &str, connection: &str| {
        let Room { token, .. } = &room;
        let path = format!("/v1/poll?channels={}{more}", room.list());
        format!("GET {path} HTTP/1.0\r\nauthorization: Bearer {token}\r\n{connection}\r\n")
    };
    let with_cursor = format!("&cursor={cursor}");
    for (requests, count) in [
        (request("", ""), 1),
        (request(&with_cursor, ""), 1),
        // RFC 9112 §9.3: it persists only if the client says so, and here there is a length.
        (request("", "connection: keep-alive\r\n") + &request(&with_cursor, ""), 2),
    ] {
        let answer = raw(&room, &requests).await;
        assert_eq!(answer.matches("200 OK\r\n").count(), count, "{answer}");
        assert_eq!(answer.to_ascii_lowercase().matches("transfer-encoding").count(), 0, "{answer}");
        for part in answer.split("HTTP/1.").skip(1) {
            let (head, body) = part.split_once("\r\n\r\n").unwrap();
            let length = format!("content-length: {}", body.len());
            assert!(head.to_ascii_lowercase().contains(&length), "{head}\n{body}");
            serde_json::from_str::<Value>(body).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_problem_json_with_the_fields_of_an_error() {
    let settings = Settings::profile().set("auth.mode", "required");
    let room = Room::open(&settings, 1).await.unwrap();
    let granted_nothing = room.edge.target.tokens.mint(&json!({"sub": "reader", "exp": 4_000_000_000_u64}));
    let get = |query: &str| room.get(&format!("/v1/poll{query}"));
    let closed = Request::get("/v1/poll?channels=closed:a").bearer(&granted_nothing);
    for (request, status, code, reason, challenge) in [
        (get(""), 400, 4000, "malformed", None),
        (get("?channels=a%20b"), 400, 4000, "malformed", None),
        (get("?channels=a&cursor=of.no.edge"), 400, 4000, "malformed", None),
        (get("?channels=a&history=-1"), 400, 4000, "malformed", None),
        (Request::get("/v1/poll?channels=a"), 401, 4001, "authentication_required", Some("Bearer")),
        (
            Request::get("/v1/poll?channels=a").bearer("x.y.z"),
            401,
            4002,
            "authentication_failed",
            Some("Bearer error=\"invalid_token\""),
        ),
        (closed, 403, 4000, "forbidden", None),
        (
            get("?channels=a").header("origin", "https://evil.example.com"),
            403,
            4003,
            "origin_not_allowed",
            None,
        ),
    ] {
        let mut connection = Connection::open(&room.edge.target).await.unwrap();
        let answer =
            connection.exchange(&request.clone().header("accept", "text/event-stream")).await.unwrap();
        let head = &answer.head;
        assert_eq!(head.status, status, "{request:?}");
        assert_eq!(head.header("content-type"), Some("application/problem+json"), "{request:?}");
        assert_eq!(head.header("cache-control"), Some("no-store"), "{request:?}");
        assert_eq!(head.header("www-authenticate"), challenge, "{request:?}");
        // RFC 9457 §3.1: title and status; the rest are extension members, as in an `error`.
        let problem = answer.json().unwrap();
        assert_eq!(problem["status"], status, "{problem}");
        assert_eq!((&problem["code"], &problem["reason"]), (&json!(code), &json!(reason)), "{problem}");
        for text in ["title", "detail"] {
            assert!(problem[text].as_str().is_some_and(|text| !text.is_empty()), "{text}: {problem}");
        }
        let about = (reason == "forbidden").then_some("closed:a");
        assert_eq!(problem["channel"].as_str(), about, "{problem}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_polls_too_often_is_told_for_how_long_to_stay_away() {
    let key = "quota.requests_per_connection_per_minute";
    let room = Room::open(&Settings::profile().set(key, 60), 1).await.unwrap();
    let mut connection = Connection::open(&room.edge.target).await.unwrap();
    let request = room.subscribe("/v1/poll", "");
    for polls in 0.. {
        let answer = connection.exchange(&request).await.unwrap();
        if answer.head.status == 200 {
            assert!(polls < 120, "never refused");
            continue;
        }
        assert_eq!(answer.head.status, 429);
        assert!(polls >= 60, "refused after {polls}");
        let problem = answer.json().unwrap();
        let wait = problem["retry_after_ms"].as_u64().unwrap();
        assert!((1..=1000).contains(&wait), "one a second: {problem}");
        // RFC 9110 §10.2.3: whole seconds, and enough of them.
        assert_eq!(answer.head.header("retry-after"), Some("1"));
        assert_eq!((&problem["code"], &problem["limit"]), (&json!(4004), &json!(key)), "{problem}");
        break;
    }
    sleep(Duration::from_millis(1050)).await;
    Polled::of(&connection.exchange(&request).await.unwrap()).unwrap();
}
