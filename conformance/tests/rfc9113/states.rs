//! §5.1: the states of a stream, its number, and how many there may be at once.

use conformance::edge::Edge;
use conformance::wire::h2::code::{CANCEL, NO_ERROR, PROTOCOL_ERROR, REFUSED_STREAM, STREAM_CLOSED};
use conformance::wire::h2::{self, H2, flag, kind};

use super::Outcome::{GoAway, Ignored, Reset, Status};
use super::{PATH, alive, body, case, data, fields, get, headers, judge, post, settings, status, until};

#[tokio::test]
async fn section_5_1_idle() {
    judge(&[
        case("DATA", data(1, 0, b"1"), GoAway(PROTOCOL_ERROR)),
        case("RST_STREAM", h2::reset(1, CANCEL), GoAway(PROTOCOL_ERROR)),
        case("WINDOW_UPDATE", h2::window_update(1, 1), GoAway(PROTOCOL_ERROR)),
    ])
    .await;
}

/// The request waits for something, so that its stream is still there.
#[tokio::test]
async fn section_5_1_half_closed_remote() {
    let waiting = headers(1, flag::END_STREAM, &fields("GET", "/v1/sse?channels=open:silent", &[]));
    let edge = Edge::named_or_started(&settings()).await.unwrap();
    for (name, bytes) in [
        ("DATA", data(1, 0, b"1")),
        ("HEADERS", headers(1, flag::END_STREAM, &[("x", "y")])),
        ("CONTINUATION", h2::frame(kind::CONTINUATION, flag::END_HEADERS, 1, b"")),
    ] {
        let mut h2 = H2::open(&edge.target, &[]).await.unwrap();
        h2.write(&waiting).await.unwrap();
        assert_eq!(status(&mut h2, 1).await, 200);
        h2.write(&bytes).await.unwrap();
        let outcome = super::outcome(&mut h2).await;
        let right = if name == "CONTINUATION" {
            [PROTOCOL_ERROR, PROTOCOL_ERROR]
        } else {
            [STREAM_CLOSED, PROTOCOL_ERROR]
        };
        let is_right = right.iter().any(|code| outcome == GoAway(*code))
            || (outcome == Reset(STREAM_CLOSED) && name != "CONTINUATION");
        assert!(is_right, "{name}: {outcome:?}");
    }
    // These are as welcome as before.
    for bytes in [h2::window_update(1, 1), h2::frame(kind::PRIORITY, 0, 1, &[0, 0, 0, 0, 1])] {
        let mut h2 = H2::open(&edge.target, &[]).await.unwrap();
        h2.write(&[&waiting[..], &bytes].concat()).await.unwrap();
        assert_eq!(status(&mut h2, 1).await, 200);
        alive(&mut h2).await;
    }
}

#[tokio::test]
async fn section_5_1_closed() {
    let edge = Edge::named_or_started(&settings()).await.unwrap();
    for (name, bytes, right) in [
        ("DATA", data(1, 0, b"1"), &[GoAway(STREAM_CLOSED), Reset(STREAM_CLOSED)][..]),
        ("HEADERS", get(1), &[GoAway(STREAM_CLOSED), Reset(STREAM_CLOSED), GoAway(PROTOCOL_ERROR)]),
        ("RST_STREAM", h2::reset(1, CANCEL), &[Ignored]),
        ("WINDOW_UPDATE", h2::window_update(1, 1), &[Ignored]),
        ("PRIORITY", h2::frame(kind::PRIORITY, 0, 1, &[0, 0, 0, 0, 1]), &[Ignored]),
    ] {
        let mut h2 = H2::open(&edge.target, &[]).await.unwrap();
        h2.write(&get(1)).await.unwrap();
        assert_eq!(status(&mut h2, 1).await, 200);
        body(&mut h2, 1).await;
        // A ping may be answered before a reset is said.
        let ping = if right.contains(&Ignored) { super::ping() } else { Vec::new() };
        h2.write(&[bytes, ping].concat()).await.unwrap();
        let outcome = super::outcome(&mut h2).await;
        assert!(right.contains(&outcome), "{name}: {outcome:?} instead of {right:?}");
    }
}

#[tokio::test]
async fn section_5_1_1_stream_identifiers() {
    judge(&[
        case("an even one", get(2), GoAway(PROTOCOL_ERROR)),
        case("a gap", [get(1), get(99)].concat(), Status(200)),
        case("one that was passed over", [post(5), post(3)].concat(), GoAway(PROTOCOL_ERROR))
            .or(GoAway(STREAM_CLOSED)),
    ])
    .await;
}

/// §5.1.2: 100 are announced. The next is refused, and there is room again when one has ended.
#[tokio::test]
async fn section_5_1_2_concurrency() {
    let edge = Edge::named_or_started(&settings()).await.unwrap();
    let mut h2 = H2::open(&edge.target, &[]).await.unwrap();
    let waiting =
        |stream| headers(stream, flag::END_STREAM, &fields("GET", "/v1/sse?channels=open:silent", &[]));
    for index in 0..100 {
        h2.write(&waiting(1 + 2 * index)).await.unwrap();
    }
    let mut open = 0;
    while open < 100 {
        open += until(&mut h2, |frame| Some(usize::from(frame.kind == kind::HEADERS))).await;
    }
    h2.write(&waiting(201)).await.unwrap();
    let code = until(&mut h2, |frame| {
        assert!(frame.kind != kind::HEADERS || frame.stream != 201, "the 101st is served");
        (frame.kind == kind::RST_STREAM && frame.stream == 201).then(|| frame.number(0))
    })
    .await;
    assert!(matches!(code, REFUSED_STREAM | PROTOCOL_ERROR), "{code}");
    h2.write(&h2::reset(1, CANCEL)).await.unwrap();
    alive(&mut h2).await;
    h2.write(&headers(203, flag::END_STREAM, &fields("GET", PATH, &[]))).await.unwrap();
    assert_eq!(status(&mut h2, 203).await, 200);
}

/// §8.1: the answer may come before the whole request; what else would have come is not needed.
#[tokio::test]
async fn section_8_1_an_answer_before_the_end_of_the_request() {
    let edge = Edge::named_or_started(&settings()).await.unwrap();
    let mut h2 = H2::open(&edge.target, &[]).await.unwrap();
    let length = [("content-length", "5000000")];
    h2.write(&headers(1, 0, &fields("POST", super::MESSAGES, &length))).await.unwrap();
    assert_eq!(status(&mut h2, 1).await, 413);
    body(&mut h2, 1).await;
    let code = until(&mut h2, |frame| {
        (frame.kind == kind::RST_STREAM && frame.stream == 1).then(|| frame.number(0))
    });
    assert_eq!(code.await, NO_ERROR);
    // What was on its way is no error.
    h2.write(&data(1, 0, &[b'1'; 1000])).await.unwrap();
    alive(&mut h2).await;
}
