//! §5.2 and §6.9: flow control. The server sends no more than it was given room for, and takes no more than it gave.

use std::time::Duration;

use conformance::edge::Edge;
use conformance::shapes;
use conformance::wire::h2::code::{CANCEL, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR, PROTOCOL_ERROR};
use conformance::wire::h2::{self, H2, flag, kind, setting};
use conformance::wire::{Connection, Request};
use serde_json::json;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::Outcome::{GoAway, Ignored, Reset};
use super::{
    CODES, MESSAGES, body, case, data, fields, get, headers, judge, ping, post, settings, status, until,
};

#[tokio::test]
async fn section_6_9_window_update() {
    let most = (1 << 31) - 1;
    judge(&[
        case("0 on the connection", h2::window_update(0, 0), GoAway(PROTOCOL_ERROR)),
        case(
            "0 on a stream",
            [post(1), h2::window_update(1, 0)].concat(), // §5.4.1: a stream error may be treated as one of the connection.
            Reset(PROTOCOL_ERROR),
        )
        .or(GoAway(PROTOCOL_ERROR)),
        case("of 3 bytes", h2::frame(kind::WINDOW_UPDATE, 0, 0, &[0; 3]), GoAway(FRAME_SIZE_ERROR))
            .but(GoAway(PROTOCOL_ERROR), CODES),
        case("2^31-1 on the connection", h2::window_update(0, most), GoAway(FLOW_CONTROL_ERROR)),
        case("2^31-1 on a stream", [post(1), h2::window_update(1, most)].concat(), Reset(FLOW_CONTROL_ERROR)),
        case("up to 2^31-1", [post(1), h2::window_update(1, most - 65_535)].concat(), Ignored),
        case("the reserved bit", h2::window_update(0, 1 << 31 | 1), Ignored),
        // §6.9.2: a change of the first window that overflows one that is open.
        case(
            "by a setting",
            [post(1), h2::window_update(1, most - 65_535), h2::settings(&[(4, 65_536)])].concat(),
            GoAway(FLOW_CONTROL_ERROR),
        ),
    ])
    .await;
}

/// The messages of a channel that no other check fills.
fn own_messages() -> String {
    format!("/v1/channels/{}/messages", shapes::own_channel())
}

/// Some 40 KB of history, so that every window matters.
async fn fill(edge: &Edge, messages: &str) {
    let mut http = Connection::open(&edge.target).await.unwrap();
    for _ in 0..40 {
        let post = Request::post(messages, &json!("x".repeat(1000)));
        http.exchange(&post).await.unwrap().expect_status(201).unwrap();
    }
}

fn history(stream: u32, messages: &str) -> Vec<u8> {
    headers(stream, flag::END_STREAM, &fields("GET", messages, &[]))
}

/// How many bytes of DATA come on the stream before half a second of silence.
async fn bytes_now(h2: &mut H2, stream: u32) -> usize {
    let mut bytes = 0;
    while let Ok(frame) = timeout(Duration::from_millis(500), h2.next()).await {
        let frame = frame.unwrap().expect("the connection goes on");
        assert_ne!((frame.kind, frame.stream), (kind::RST_STREAM, stream), "{}", frame.number(0));
        if frame.kind == kind::DATA && frame.stream == stream {
            bytes += frame.payload.len();
        }
    }
    bytes
}

#[tokio::test]
async fn section_6_9_1_no_more_than_the_window() {
    let edge = Edge::named_or_started(&settings()).await.unwrap();
    let messages = &own_messages();
    fill(&edge, messages).await;
    let mut h2 = H2::open(&edge.target, &[(setting::INITIAL_WINDOW_SIZE, 10)]).await.unwrap();
    h2.write(&history(1, messages)).await.unwrap();
    assert_eq!(bytes_now(&mut h2, 1).await, 10);
    h2.write(&h2::window_update(1, 5)).await.unwrap();
    assert_eq!(bytes_now(&mut h2, 1).await, 5);
    // §6.9.2: the setting changes windows that are open, and may make them negative.
    h2.write(&h2::settings(&[(setting::INITIAL_WINDOW_SIZE, 30)])).await.unwrap();
    assert_eq!(bytes_now(&mut h2, 1).await, 20);
    h2.write(&h2::settings(&[(setting::INITIAL_WINDOW_SIZE, 0)])).await.unwrap();
    h2.write(&h2::window_update(1, 30)).await.unwrap();
    assert_eq!(bytes_now(&mut h2, 1).await, 0);
    h2.write(&h2::window_update(1, 7)).await.unwrap();
    assert_eq!(bytes_now(&mut h2, 1).await, 7);
    // Others are not held up by it.
    h2.write(&[h2::window_update(0, 1000), get(3)].concat()).await.unwrap();
    assert_eq!(status(&mut h2, 3).await, 200);
    h2.write(&h2::window_update(1, 1 << 20)).await.unwrap();
    let rest = body(&mut h2, 1).await;
    assert!(rest.len() > 40_000 && rest.ends_with(b"}"), "{}", rest.len());
}

#[tokio::test]
async fn section_6_9_1_no_more_than_the_connections_window() {
    let edge = Edge::named_or_started(&settings()).await.unwrap();
    let messages = &own_messages();
    fill(&edge, messages).await;
    let mut h2 = H2::open(&edge.target, &[(setting::INITIAL_WINDOW_SIZE, 1 << 20)]).await.unwrap();
    h2.write(&[history(1, messages), history(3, messages)].concat()).await.unwrap();
    let (mut bytes, end) = (0, Instant::now() + Duration::from_secs(1));
    while let Ok(frame) = timeout_at(end, h2.next()).await {
        let frame = frame.unwrap().unwrap();
        bytes += if frame.kind == kind::DATA { frame.payload.len() } else { 0 };
    }
    assert_eq!(bytes, 65_535);
}

/// What is sent to who does not read it is thrown away where it comes in.
#[tokio::test]
async fn section_5_2_2_a_body_that_nobody_reads() {
    let edge = Edge::start(&settings()).await.unwrap();
    let mut h2 = H2::open(&edge.target, &[]).await.unwrap();
    h2.write(&headers(1, 0, &fields("GET", "/v1/sse?channels=open:h2", &[]))).await.unwrap();
    assert_eq!(status(&mut h2, 1).await, 200);
    let before = edge.own_process().memory().unwrap().rss_bytes;
    for _ in 0..500 {
        // It may also be cut for it.
        if h2.write(&data(1, 0, &[0; 16_384]).repeat(4)).await.is_err() {
            break;
        }
    }
    sleep(Duration::from_millis(500)).await;
    let after = edge.own_process().memory().unwrap().rss_bytes;
    println!("32 MB that nobody reads: memory {before}, {after}");
    assert!(after < before + (8 << 20), "{} bytes more", after - before);
}

/// A stream whose window never opens is reset in the end, and what waited for it is given back: its connection may be
/// well, and answer every ping.
#[tokio::test]
async fn section_5_2_2_a_window_that_never_opens() {
    let edge = Edge::named_or_started(&settings().set("limits.write_timeout", "1s")).await.unwrap();
    let messages = &own_messages();
    fill(&edge, messages).await;
    let mut h2 = H2::open(&edge.target, &[(setting::INITIAL_WINDOW_SIZE, 0)]).await.unwrap();
    let begun = Instant::now();
    let streaming = headers(3, flag::END_STREAM, &fields("GET", "/v1/sse?channels=open:h2", &[]));
    h2.write(&[history(1, messages), streaming].concat()).await.unwrap();
    for _ in [1, 3] {
        until(&mut h2, |frame| (frame.status() == Some(200) && frame.kind == kind::HEADERS).then_some(()))
            .await;
    }
    let mut reset = Vec::new();
    while reset.len() < 2 {
        assert!(begun.elapsed() < Duration::from_secs(15), "only {reset:?} were reset");
        // As a client does that is well.
        h2.write(&ping()).await.unwrap();
        while let Ok(frame) = timeout(Duration::from_millis(200), h2.next()).await {
            let frame = frame.unwrap().expect("the connection goes on");
            if frame.kind == kind::RST_STREAM {
                assert_eq!(frame.number(0), CANCEL);
                reset.push(frame.stream);
            }
        }
    }
    assert!(begun.elapsed() > Duration::from_secs(1), "{:?}", begun.elapsed());
    // One that takes what it is given is not.
    let window = h2::settings(&[(setting::INITIAL_WINDOW_SIZE, 1 << 20)]);
    h2.write(&[window, history(5, messages)].concat()).await.unwrap();
    assert_eq!(status(&mut h2, 5).await, 200);
    assert!(body(&mut h2, 5).await.len() > 40_000);
}

/// An event stream without news waits for news, not for its client.
#[tokio::test]
async fn section_5_2_2_silence_is_no_stall() {
    let edge = Edge::named_or_started(&settings().set("limits.write_timeout", "1s")).await.unwrap();
    let mut h2 = H2::open(&edge.target, &[]).await.unwrap();
    h2.write(&headers(1, flag::END_STREAM, &fields("GET", "/v1/sse?channels=open:h2", &[]))).await.unwrap();
    assert_eq!(status(&mut h2, 1).await, 200);
    sleep(Duration::from_secs(5)).await;
    let mut http = Connection::open(&edge.target).await.unwrap();
    http.exchange(&Request::post(MESSAGES, &json!("news"))).await.unwrap().expect_status(201).unwrap();
    let found = until(&mut h2, |frame| {
        assert_ne!(frame.kind, kind::RST_STREAM, "{frame:?}");
        let text = String::from_utf8_lossy(&frame.payload);
        (frame.kind == kind::DATA && text.contains("news")).then_some(())
    });
    found.await;
}
