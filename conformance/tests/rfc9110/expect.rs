//! §10.1.1: `Expect: 100-continue`. A client that asks before it sends is told before it sends.

use std::time::Duration;

use conformance::edge::{Edge, Settings};
use conformance::shapes::{self, BODY, Shape, get, last, post};
use conformance::wire::Connection;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

#[tokio::test]
async fn a_body_that_is_wanted_is_asked_for() {
    let edge = Edge::named_or_started(&Settings::profile()).await.unwrap();
    let head = post("content-length: 5\r\nexpect: 100-continue\r\n", "");
    let mut connection = Connection::open(&edge.target).await.unwrap();
    connection.stream().write_all(head.as_bytes()).await.unwrap();
    let interim = timeout(Duration::from_secs(5), connection.response()).await.unwrap().unwrap();
    assert_eq!((interim.head.status, interim.head.headers.len()), (100, 0));
    connection.stream().write_all(BODY.as_bytes()).await.unwrap();
    assert_eq!(connection.response().await.unwrap().head.status, 201);
    connection.stream().write_all(last().as_bytes()).await.unwrap();
    assert_eq!(connection.response().await.unwrap().head.status, 200);
}

/// "MAY omit sending a 100 if it has already received some or all of the content"; a body that nobody reads is not
/// asked for.
#[tokio::test]
async fn what_is_answered_anyway_needs_no_body() {
    let edge = Edge::named_or_started(&Settings::profile()).await.unwrap();
    let expect = "expect: 100-continue\r\n";
    for (name, bytes, status) in [
        ("too large", post(&format!("content-length: 5000000\r\n{expect}"), ""), 413),
        ("not found", format!("POST /nothing HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n{expect}\r\n"), 404),
        (
            "not allowed",
            format!("PUT /v1/send HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n{expect}\r\n"),
            405,
        ),
        ("a bad token", post(&format!("content-length: 5\r\nauthorization: Bearer x\r\n{expect}"), ""), 401),
    ] {
        // It may wait for the body before it closes, or close at once: nothing of it is a request.
        let answers =
            shapes::say_within(&edge.target, bytes.as_bytes(), Duration::from_secs(3)).await.unwrap();
        assert_eq!(answers.statuses(), [status], "{name}");
        assert!(answers.ended, "{name}: who was refused may still send the body, so nothing can follow");
    }
}

#[tokio::test]
async fn other_cases() {
    let edge = Edge::named_or_started(&Settings::profile()).await.unwrap();
    let report = shapes::judge(
        &edge.target,
        &[
            // "MAY respond with 417", or ignore it.
            Shape::new(
                "another expectation",
                post("content-length: 5\r\nexpect: 200-ok\r\n", BODY),
                &[&[201, 200], &[417, 200], &[417]],
            ),
            Shape::new("no body", get("expect: 100-continue\r\n"), &[&[200, 200]]),
            Shape::new(
                "a body that came along",
                post("content-length: 5\r\nexpect: 100-continue\r\n", BODY),
                &[&[201, 200], &[100, 201, 200]],
            ),
            Shape::new(
                "in capitals, chunked",
                post("transfer-encoding: chunked\r\nexpect: 100-Continue\r\n", "5\r\n12345\r\n0\r\n\r\n"),
                &[&[201, 200], &[100, 201, 200]],
            ),
        ],
    )
    .await;
    assert!(report.is_empty(), "\n{report}");
}

/// "A server that receives a 100-continue expectation in an HTTP/1.0 request MUST ignore that expectation."
#[tokio::test]
async fn http_1_0_is_not_told() {
    let edge = Edge::named_or_started(&Settings::profile()).await.unwrap();
    let head = post("content-length: 5\r\nexpect: 100-continue\r\n", "").replace("HTTP/1.1", "HTTP/1.0");
    let mut connection = Connection::open(&edge.target).await.unwrap();
    let stream = connection.stream();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut byte = [0];
    assert!(
        timeout(Duration::from_millis(500), stream.read(&mut byte)).await.is_err(),
        "it has said something"
    );
    stream.write_all(BODY.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert!(answer.windows(5).any(|window| window == b" 201 "), "{}", String::from_utf8_lossy(&answer));
}
