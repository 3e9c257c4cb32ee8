//! RFC 6455 §10.4: a limit on what is put together, over all fragments of a message. Above `limits.message_bytes` the
//! connection ends with 4005, as soon as it is said that so much is to come.

use bytes::Bytes;
use conformance::edge::Edge;
use conformance::wire::websocket::{masked, opcode};
use serde_json::Value;

use super::{BINARY, LAST, MESSAGE_BYTES, PATHS, PING, PONG, Raw, TEXT, TOO_LARGE, edge, frame};

/// The head of a frame that announces so many bytes: none of them is sent.
fn announced(first: u8, length: u64) -> Vec<u8> {
    [&[first, 0x80 | 127], &length.to_be_bytes()[..], &[1, 2, 3, 4]].concat()
}

/// On both paths these bytes end the connection with 4005; where envelopes are spoken, one says it as well.
async fn too_large(edge: &Edge, what: &str, bytes: &[u8]) {
    for path in PATHS {
        let mut raw = Raw::open(edge, path).await;
        raw.send(bytes).await;
        if path == "/v1/ws" {
            let (first, envelope) = raw.frame().await;
            assert_eq!(first, TEXT, "{what}");
            let envelope: Value = serde_json::from_slice(&envelope).unwrap();
            assert_eq!(
                (&envelope["type"], &envelope["payload"]["code"]),
                (&"error".into(), &TOO_LARGE.into()),
                "{what}"
            );
        }
        assert_eq!(raw.close().await.0, Some(TOO_LARGE), "{what} on {path}");
        raw.end().await;
    }
}

#[tokio::test]
async fn section_10_4_a_message_of_the_limit_passes() {
    let edge = edge().await;
    let mut raw = Raw::open(&edge, "/echo").await;
    let payload = vec![b'm'; MESSAGE_BYTES];
    for first in [TEXT, BINARY] {
        raw.send(&frame(first, &payload)).await;
        assert!(raw.frame().await == (first, Bytes::from(payload.clone())), "{first:#x}");
    }
    let (front, back) = payload.split_at(MESSAGE_BYTES / 3);
    raw.send(&[frame(opcode::TEXT, front), frame(LAST, back)].concat()).await;
    assert!(raw.frame().await == (TEXT, Bytes::from(payload)), "in fragments");
}

#[tokio::test]
async fn section_10_4_one_byte_more_is_refused_by_its_head() {
    let edge = edge().await;
    let above = MESSAGE_BYTES as u64 + 1;
    for length in [above, 1 << 31, 1 << 32, 1 << 62, (1 << 63) - 1] {
        for first in [TEXT, BINARY, opcode::TEXT, opcode::BINARY] {
            too_large(&edge, &format!("{length} bytes announced"), &announced(first, length)).await;
        }
    }
    too_large(&edge, "a whole message", &frame(TEXT, &vec![b'm'; MESSAGE_BYTES + 1])).await;
}

#[tokio::test]
async fn section_10_4_fragments_count_together() {
    let edge = edge().await;
    let half = vec![b'h'; MESSAGE_BYTES / 2];
    let halves = [frame(opcode::TEXT, &half), frame(opcode::CONTINUATION, &half)].concat();
    for last in [masked(LAST, b"1", [9; 4])[..2].to_vec(), frame(opcode::CONTINUATION, b"1")] {
        too_large(&edge, "one byte more in another fragment", &[&halves[..], &last].concat()).await;
    }
    let many = [
        frame(opcode::BINARY, b""),
        frame(opcode::CONTINUATION, &[0; 1000]).repeat(MESSAGE_BYTES / 1000 + 1),
    ];
    too_large(&edge, "many small fragments", &many.concat()).await;
    too_large(
        &edge,
        "a large one behind a small one",
        &[frame(opcode::TEXT, b"1"), announced(LAST, MESSAGE_BYTES as u64)].concat(),
    )
    .await;
}

/// Control frames are not part of the message that they stand in, and each message counts for itself.
#[tokio::test]
async fn section_10_4_only_the_message_counts() {
    let edge = edge().await;
    let mut raw = Raw::open(&edge, "/echo").await;
    let half = vec![b'h'; MESSAGE_BYTES / 2];
    for _ in 0..3 {
        raw.send(&[frame(opcode::TEXT, &half), frame(PING, &[b'p'; 125]), frame(LAST, &half)].concat()).await;
        assert_eq!(raw.frame().await, (PONG, Bytes::from_static(&[b'p'; 125])));
        assert_eq!(raw.frame().await.1.len(), MESSAGE_BYTES);
    }
}
