//! RFC 6455 §5.1 to §5.4: masks, the header's fields, lengths, fragments.

use bytes::Bytes;
use conformance::edge::{Edge, Settings};
use conformance::wire::websocket::{FIN, masked, opcode};

use super::{BINARY, LAST, MESSAGE_BYTES, PING, PONG, PROTOCOL_ERROR, Raw, TEXT, edge, frame, refused};

/// A header with that length in the form that the second byte says, a mask of zeros, and nothing behind.
fn header(first: u8, length: &[u8]) -> Vec<u8> {
    [&[first], length, &[0; 4]].concat()
}

#[tokio::test]
async fn section_5_1_an_unmasked_frame_ends_the_connection() {
    let edge = edge().await;
    for first in [TEXT, BINARY, PING, PONG, super::CLOSE, opcode::TEXT] {
        refused(&edge, "an unmasked frame", &[first, 0], PROTOCOL_ERROR).await;
    }
    refused(&edge, "an unmasked text", b"\x81\x05Hello", PROTOCOL_ERROR).await;
    refused(
        &edge,
        "an unmasked text of 126 bytes",
        &[&b"\x81\x7e\x00\x7e"[..], &[b'x'; 126]].concat(),
        PROTOCOL_ERROR,
    )
    .await;
}

/// Every form of a length with its edges: what comes back is unmasked, whole, and in the shortest form.
#[tokio::test]
async fn section_5_2_messages_of_every_length_come_back() {
    for settings in [Settings::profile().over_tcp(), Settings::profile().over_tls()] {
        let edge = Edge::named_or_started(&settings).await.unwrap();
        let mut raw = Raw::open(&edge, "/echo").await;
        for length in [
            0,
            1,
            2,
            124,
            125,
            126,
            127,
            128,
            255,
            256,
            1000,
            8191,
            8192,
            65_534,
            65_535,
            65_536,
            65_537,
            MESSAGE_BYTES,
        ] {
            for first in [TEXT, BINARY] {
                let payload: Vec<u8> = (0..length).map(|n| b'a' + u8::try_from(n % 26).unwrap()).collect();
                raw.send(&frame(first, &payload)).await;
                let (found, echoed) = raw.frame().await;
                assert_eq!(found, first, "{length} bytes");
                assert!(echoed == payload, "{length} bytes are not the same any more");
            }
        }
    }
}

#[tokio::test]
async fn section_5_2_reserved_bits_need_an_extension() {
    let edge = edge().await;
    for bits in 1..8 {
        for first in [TEXT, BINARY, PING, PONG, super::CLOSE] {
            refused(&edge, "a reserved bit", &frame(first | (bits << 4), b""), PROTOCOL_ERROR).await;
        }
        let later = [frame(opcode::TEXT, b"a"), frame(LAST | (bits << 4), b"b")].concat();
        refused(&edge, "a reserved bit on a continuation", &later, PROTOCOL_ERROR).await;
    }
}

#[tokio::test]
async fn section_5_2_reserved_opcodes_end_the_connection() {
    let edge = edge().await;
    for opcode in (0x3..=0x7).chain(0xb..=0xf) {
        refused(&edge, "a reserved opcode", &frame(FIN | opcode, b"x"), PROTOCOL_ERROR).await;
        refused(&edge, "a reserved opcode without FIN", &frame(opcode, b""), PROTOCOL_ERROR).await;
    }
}

#[tokio::test]
async fn section_5_2_lengths_are_in_the_shortest_form() {
    let edge = edge().await;
    for length in [0_u16, 1, 125] {
        let long = [&[0x80 | 0x7e], &length.to_be_bytes()[..]].concat();
        refused(&edge, "a short length in two bytes", &header(TEXT, &long), PROTOCOL_ERROR).await;
    }
    for length in [0_u64, 125, 126, 65_535] {
        let long = [&[0x80 | 127], &length.to_be_bytes()[..]].concat();
        refused(&edge, "a short length in eight bytes", &header(BINARY, &long), PROTOCOL_ERROR).await;
    }
}

#[tokio::test]
async fn section_5_2_the_top_bit_of_a_length_is_zero() {
    let edge = edge().await;
    for length in [1_u64 << 63, u64::MAX, (1 << 63) | 5] {
        let long = [&[0x80 | 127], &length.to_be_bytes()[..]].concat();
        refused(&edge, "a length with its top bit set", &header(TEXT, &long), PROTOCOL_ERROR).await;
    }
}

/// Each byte of the mask belongs to every fourth of the payload, wherever a read ends.
#[tokio::test]
async fn section_5_3_any_mask_is_taken_off() {
    let edge = edge().await;
    let mut raw = Raw::open(&edge, "/echo").await;
    for mask in [[0; 4], [0xff; 4], [1, 2, 3, 4], [0x80, 0, 0, 0], [0, 0, 0, 0x80]] {
        for length in 0_u8..21 {
            let payload: Vec<u8> = (0..length).collect();
            raw.send(&masked(BINARY, &payload, mask)).await;
            assert_eq!(raw.frame().await, (BINARY, Bytes::from(payload)), "{mask:?}");
        }
    }
}

/// §5.2 knows no segments: a stream means the same however it is cut.
#[tokio::test]
async fn section_5_2_frames_may_come_byte_by_byte_or_all_at_once() {
    let edge = edge().await;
    let messages: Vec<(u8, Vec<u8>)> = vec![
        (TEXT, b"one".to_vec()),
        (BINARY, vec![0xff; 130]),
        (TEXT, Vec::new()),
        (TEXT, "zwölf 🌊".into()),
    ];
    let stream: Vec<u8> = messages.iter().flat_map(|(first, payload)| frame(*first, payload)).collect();
    for size in [1, 2, 3, 7, 131, stream.len()] {
        let mut raw = Raw::open(&edge, "/echo").await;
        for piece in stream.chunks(size) {
            raw.send(piece).await;
        }
        for (first, payload) in &messages {
            assert_eq!(raw.frame().await, (*first, Bytes::from(payload.clone())), "in pieces of {size}");
        }
    }
}

#[tokio::test]
async fn section_5_4_fragments_are_one_message() {
    let edge = edge().await;
    let mut raw = Raw::open(&edge, "/echo").await;
    for (kind, pieces) in [
        (opcode::TEXT, &["to", "gether"][..]),
        (opcode::BINARY, &["a", "b", "c", "d"]),
        (opcode::TEXT, &["", "", ""]),
        (opcode::TEXT, &["", "behind nothing", ""]),
    ] {
        for (nth, piece) in pieces.iter().enumerate() {
            let fin = if nth + 1 == pieces.len() { FIN } else { 0 };
            let opcode = if nth == 0 { kind } else { opcode::CONTINUATION };
            raw.send(&frame(fin | opcode, piece.as_bytes())).await;
        }
        assert_eq!(raw.frame().await, (FIN | kind, Bytes::from(pieces.concat())), "{pieces:?}");
    }
}

#[tokio::test]
async fn section_5_4_a_message_in_a_thousand_fragments() {
    let edge = edge().await;
    let mut raw = Raw::open(&edge, "/echo").await;
    let mut stream = frame(opcode::BINARY, b"0");
    for n in 1..1000_u16 {
        stream.extend(frame(opcode::CONTINUATION, n.to_string().as_bytes()));
    }
    stream.extend(frame(LAST, b"."));
    raw.send(&stream).await;
    let whole: String = (0..1000).map(|n| n.to_string()).chain([".".to_owned()]).collect();
    assert_eq!(raw.frame().await, (BINARY, Bytes::from(whole)));
}

/// Control frames may stand between fragments, and are answered there.
#[tokio::test]
async fn section_5_4_a_ping_between_fragments_is_answered_before_the_message() {
    let edge = edge().await;
    let mut raw = Raw::open(&edge, "/echo").await;
    raw.send(&frame(opcode::TEXT, b"a")).await;
    raw.send(&frame(PING, b"now")).await;
    assert_eq!(raw.frame().await, (PONG, Bytes::from_static(b"now")));
    raw.send(&[frame(PONG, b"whatever"), frame(opcode::CONTINUATION, b"b"), frame(PING, &[0xff])].concat())
        .await;
    assert_eq!(raw.frame().await, (PONG, Bytes::from_static(&[0xff])));
    raw.send(&frame(LAST, b"c")).await;
    assert_eq!(raw.frame().await, (TEXT, Bytes::from_static(b"abc")));
}

#[tokio::test]
async fn section_5_4_a_continuation_needs_a_beginning() {
    let edge = edge().await;
    for first in [LAST, opcode::CONTINUATION] {
        refused(&edge, "a continuation of nothing", &frame(first, b"x"), PROTOCOL_ERROR).await;
    }
    let mut raw = Raw::open(&edge, "/echo").await;
    raw.send(&[frame(opcode::TEXT, b"a"), frame(LAST, b"b"), frame(LAST, b"c")].concat()).await;
    assert_eq!(raw.frame().await, (TEXT, Bytes::from_static(b"ab")), "what came before counts");
    assert_eq!(raw.close().await.0, Some(PROTOCOL_ERROR));
    raw.end().await;
}

#[tokio::test]
async fn section_5_4_messages_are_not_interleaved() {
    let edge = edge().await;
    for second in [TEXT, BINARY, opcode::TEXT, opcode::BINARY] {
        let inside = [frame(opcode::TEXT, b"a"), frame(second, b"b")].concat();
        refused(&edge, "a message inside another", &inside, PROTOCOL_ERROR).await;
        let inside =
            [frame(opcode::BINARY, b"a"), frame(opcode::CONTINUATION, b"b"), frame(second, b"")].concat();
        refused(&edge, "a message inside another", &inside, PROTOCOL_ERROR).await;
    }
}
