//! RFC 6455 §5.5: Ping and Pong, and what no control frame may be. How a Close is answered is in `closing`.

use bytes::Bytes;
use conformance::wire::websocket::opcode;

use super::{CLOSE, PATHS, PING, PONG, PROTOCOL_ERROR, Raw, TEXT, edge, frame, refused};

#[tokio::test]
async fn section_5_5_2_a_ping_is_answered_with_its_payload() {
    let edge = edge().await;
    for path in PATHS {
        let mut raw = Raw::open(&edge, path).await;
        for payload in [&b""[..], b"x", b"\x00\xff\xfe", &[b'p'; 124], &[0xfe; 125]] {
            raw.send(&frame(PING, payload)).await;
            assert_eq!(raw.frame().await, (PONG, Bytes::copy_from_slice(payload)), "{path}");
        }
    }
}

/// §5.5.3 lets a server answer only the latest; this one answers each, in order.
#[tokio::test]
async fn section_5_5_3_pings_in_one_segment_are_answered_in_order() {
    let edge = edge().await;
    for path in PATHS {
        let mut raw = Raw::open(&edge, path).await;
        let pings: Vec<u8> = (0..20_u8).flat_map(|n| frame(PING, &[n])).collect();
        raw.send(&pings).await;
        for n in 0..20 {
            assert_eq!(raw.frame().await, (PONG, Bytes::from(vec![n])), "{path}");
        }
    }
}

#[tokio::test]
async fn section_5_5_3_a_pong_that_nobody_asked_for_is_not_answered() {
    let edge = edge().await;
    for path in PATHS {
        let mut raw = Raw::open(&edge, path).await;
        raw.send(&[frame(PONG, b""), frame(PONG, b"unasked"), frame(PONG, &[0xff; 125])].concat()).await;
        raw.lives().await;
    }
}

#[tokio::test]
async fn section_5_5_a_control_frame_has_125_bytes_at_most() {
    let edge = edge().await;
    for first in [PING, PONG, CLOSE] {
        // A Close with a good code, so that its length is what is wrong with it.
        for length in [126, 127, 1000, 65_536] {
            let mut payload = vec![b'x'; length];
            payload[..2].copy_from_slice(&1000_u16.to_be_bytes());
            refused(&edge, "a long control frame", &frame(first, &payload), PROTOCOL_ERROR).await;
        }
        // Its header is enough: who says that so much comes is not waited for.
        refused(&edge, "the head of a long control frame", &[first, 0x80 | 0x7e], PROTOCOL_ERROR).await;
    }
}

#[tokio::test]
async fn section_5_5_a_control_frame_is_not_fragmented() {
    let edge = edge().await;
    for opcode in [opcode::PING, opcode::PONG, opcode::CLOSE] {
        refused(&edge, "a control frame without FIN", &frame(opcode, b""), PROTOCOL_ERROR).await;
        let amid = [frame(opcode::TEXT, b"a"), frame(opcode, b"")].concat();
        refused(&edge, "a control frame without FIN in a message", &amid, PROTOCOL_ERROR).await;
    }
}

/// What is valid before a violation has been served when the connection ends.
#[tokio::test]
async fn section_5_5_what_came_before_a_violation_is_answered() {
    let edge = edge().await;
    let mut raw = Raw::open(&edge, "/echo").await;
    raw.send(&[frame(TEXT, b"good"), frame(PING, b"good too"), frame(opcode::PING, b"")].concat()).await;
    assert_eq!(raw.frame().await, (TEXT, Bytes::from_static(b"good")));
    assert_eq!(raw.frame().await, (PONG, Bytes::from_static(b"good too")));
    assert_eq!(raw.close().await.0, Some(PROTOCOL_ERROR));
    raw.end().await;
}
