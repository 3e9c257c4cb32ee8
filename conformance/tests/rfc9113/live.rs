//! The realtime endpoints over HTTP/2: live messages, many streams on one connection, and a drain (§6.8) that loses
//! nobody.

use std::time::Duration;

use conformance::edge::Edge;
use conformance::shapes;
use conformance::wire::h2::code::NO_ERROR;
use conformance::wire::h2::{H2, flag, kind};
use conformance::wire::{Connection, Request};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{alive, body, data, fields, headers, next, settings, status, until};

async fn publish(http: &mut Connection, channel: &str, data: &Value) {
    let post = Request::post(format!("/v1/channels/{channel}/messages"), data);
    http.exchange(&post).await.unwrap().expect_status(201).unwrap();
}

fn ask(stream: u32, path: &str) -> Vec<u8> {
    headers(stream, flag::END_STREAM, &fields("GET", path, &[]))
}

async fn sse_text(h2: &mut H2, stream: u32, end: &str) -> String {
    let mut text = String::new();
    while !text.contains(end) {
        text += &until(h2, |frame| {
            assert_ne!((frame.kind, frame.stream), (kind::RST_STREAM, stream), "{}", frame.number(0));
            (frame.kind == kind::DATA && frame.stream == stream)
                .then(|| String::from_utf8(frame.payload.to_vec()).unwrap())
        })
        .await;
    }
    text
}

#[tokio::test]
async fn sse_carries_live_messages() {
    let edge = Edge::named_or_started(&settings()).await.unwrap();
    let mut h2 = H2::open(&edge.target, &[]).await.unwrap();
    let channel = shapes::own_channel();
    h2.write(&ask(1, &format!("/v1/sse?channels={channel}"))).await.unwrap();
    assert_eq!(status(&mut h2, 1).await, 200);
    let opening = sse_text(&mut h2, 1, "room_joined").await;
    assert!(opening.starts_with("retry: "), "{opening}");
    let mut http = Connection::open(&edge.target).await.unwrap();
    for n in 0..50 {
        publish(&mut http, &channel, &json!({ "n": n })).await;
    }
    let text = sse_text(&mut h2, 1, "{\"n\":49}").await;
    let places: Vec<_> = (0..50).map(|n| text.find(&format!("{{\"n\":{n}}}")).expect("each came")).collect();
    assert!(places.is_sorted(), "{text}");
}

#[tokio::test]
async fn polls_are_answered_by_the_first_message() {
    let edge = Edge::named_or_started(&settings()).await.unwrap();
    let mut h2 = H2::open(&edge.target, &[]).await.unwrap();
    let channel = shapes::own_channel();
    let poll = format!("/v1/poll?channels={channel}");
    h2.write(&ask(1, &poll)).await.unwrap();
    assert_eq!(status(&mut h2, 1).await, 200);
    let first: Value = serde_json::from_slice(&body(&mut h2, 1).await).unwrap();
    let poll = format!("{poll}&wait=60&cursor={}", first["cursor"].as_str().unwrap());
    for index in 0..50 {
        h2.write(&ask(3 + 2 * index, &poll)).await.unwrap();
    }
    // They wait, and the connection does not.
    alive(&mut h2).await;
    sleep(Duration::from_millis(300)).await;
    let post = headers(201, 0, &fields("POST", &format!("/v1/channels/{channel}/messages"), &[]));
    h2.write(&[post, data(201, flag::END_STREAM, b"\"through the same connection\"")].concat())
        .await
        .unwrap();
    let mut answers = 0;
    while answers < 50 {
        answers += until(&mut h2, |frame| {
            let text = String::from_utf8_lossy(&frame.payload);
            Some(usize::from(frame.kind == kind::DATA && text.contains("through the same connection")))
        })
        .await;
    }
}

/// §6.8: a drain refuses what is new, ends event streams with a hint and polls with an answer, and says GOAWAY without an
/// error when nothing is under way any more.
#[tokio::test]
async fn section_6_8_a_drain_is_graceful() {
    let mut edge = Edge::start(&settings().set("listen.drain", "2s")).await.unwrap();
    let mut h2 = H2::open(&edge.target, &[]).await.unwrap();
    let channel = shapes::own_channel();
    let poll = format!("/v1/poll?channels={channel}");
    h2.write(&ask(1, &poll)).await.unwrap();
    assert_eq!(status(&mut h2, 1).await, 200);
    let first: Value = serde_json::from_slice(&body(&mut h2, 1).await).unwrap();
    let poll = format!("{poll}&wait=60&cursor={}", first["cursor"].as_str().unwrap());
    h2.write(&[ask(3, &format!("/v1/sse?channels={channel}")), ask(5, &poll)].concat()).await.unwrap();
    sse_text(&mut h2, 3, "room_joined").await;
    alive(&mut h2).await;

    edge.terminate().unwrap();
    let begun = Instant::now();
    let (mut poll, mut hint, mut ended, mut gone) = (Vec::new(), String::new(), 0, None);
    while let Some(frame) = next(&mut h2).await {
        match (frame.kind, frame.stream) {
            (kind::DATA, 3) => hint += std::str::from_utf8(&frame.payload).unwrap(),
            (kind::DATA, 5) => poll.extend_from_slice(&frame.payload),
            (kind::GOAWAY, _) => gone = Some(frame.number(4)),
            (kind::RST_STREAM, _) => panic!("stream {} is reset: {}", frame.stream, frame.number(0)),
            _ => {}
        }
        ended += usize::from(matches!(frame.kind, kind::DATA | kind::HEADERS) && frame.has(flag::END_STREAM));
    }
    assert_eq!((gone, ended), (Some(NO_ERROR), 2), "after {:?}", begun.elapsed());
    assert!(hint.contains("retry: "), "{hint:?}");
    assert_eq!(serde_json::from_slice::<Value>(&poll).unwrap()["messages"], json!([]));
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    let end = Instant::now() + Duration::from_secs(10);
    while edge.is_alive() {
        assert!(Instant::now() < end, "the process does not end:\n{}", edge.log_tail());
        sleep(Duration::from_millis(50)).await;
    }
    assert!(edge.panics().is_empty(), "{:?}", edge.panics());
}
