//! RFC 6455 §5.6 and §8.1: a text message is UTF-8 as a whole, and fails at the first byte that cannot be.

use bytes::Bytes;
use conformance::wire::websocket::{masked, opcode};

use super::{BINARY, INVALID_PAYLOAD, LAST, PATHS, PING, PONG, Raw, TEXT, edge, frame, refused};

/// RFC 3629 §3 and §4: none of these can be a part of UTF-8.
const NEVER: [&[u8]; 14] = [
    b"\x80",
    b"\xbf\xbf",
    b"\xc0\x80",
    b"\xc1\xbf",
    b"\xc3\x28",
    b"\xe0\x80\x80",
    b"\xe0\x9f\xbf",
    b"\xe2\x28\xa1",
    b"\xed\xa0\x80",
    b"\xed\xbf\xbf",
    b"\xf0\x80\x80\x80",
    b"\xf4\x90\x80\x80",
    b"\xf5\x80\x80\x80",
    b"\xff",
];

/// The beginnings of characters: UTF-8 that is not whole.
const HALF: [&[u8]; 6] = [b"\xc2", b"\xe2\x82", b"\xe2", b"\xf0\x9f\x8c", b"\xf0\x9f", b"\xf0"];

/// Where lengths change, and around the surrogates.
const EDGES: [&str; 9] =
    ["\u{0}", "\u{7f}", "\u{80}", "\u{7ff}", "\u{800}", "\u{d7ff}", "\u{e000}", "\u{ffff}", "\u{10ffff}"];

#[tokio::test]
async fn section_5_6_every_character_passes() {
    let edge = edge().await;
    let mut raw = Raw::open(&edge, "/echo").await;
    for text in EDGES.into_iter().chain([
        "κόσμε",
        "\u{feff}with a mark",
        "\u{fffe}\u{1fffe} no characters, but UTF-8",
    ]) {
        raw.send(&frame(TEXT, text.as_bytes())).await;
        assert_eq!(raw.frame().await, (TEXT, Bytes::from_static(text.as_bytes())));
    }
}

#[tokio::test]
async fn section_8_1_what_is_no_utf8_ends_the_connection() {
    let edge = edge().await;
    for bad in NEVER.into_iter().chain(HALF) {
        let what = format!("{bad:02x?}");
        refused(&edge, &what, &frame(TEXT, bad), INVALID_PAYLOAD).await;
        let behind = [&b"a long enough beginning that is well, "[..], bad].concat();
        refused(&edge, &what, &frame(TEXT, &behind), INVALID_PAYLOAD).await;
        let (front, back) = bad.split_at(bad.len() / 2);
        let cut = [frame(opcode::TEXT, front), frame(LAST, back)].concat();
        refused(&edge, &what, &cut, INVALID_PAYLOAD).await;
    }
}

/// A fragment may end inside a character (§5.6): only the whole message is text.
#[tokio::test]
async fn section_5_6_a_character_may_lie_across_fragments() {
    let edge = edge().await;
    let mut raw = Raw::open(&edge, "/echo").await;
    let text = "a\u{e9}\u{20ac}\u{1f30a}z";
    for cut in 0..=text.len() {
        let (front, back) = text.as_bytes().split_at(cut);
        // What a control frame holds is no text, and does not disturb one.
        let amid = [frame(opcode::TEXT, front), frame(PING, b"\xff\xc3"), frame(LAST, back)].concat();
        raw.send(&amid).await;
        assert_eq!(raw.frame().await, (PONG, Bytes::from_static(b"\xff\xc3")));
        assert_eq!(raw.frame().await, (TEXT, Bytes::from_static(text.as_bytes())), "cut at {cut}");
    }
    let mut bytes: Vec<u8> = frame(opcode::TEXT, b"");
    bytes.extend(text.bytes().flat_map(|byte| frame(opcode::CONTINUATION, &[byte])));
    bytes.extend(frame(LAST, b""));
    raw.send(&bytes).await;
    assert_eq!(raw.frame().await, (TEXT, Bytes::from_static(text.as_bytes())));
}

/// The server does not wait for the rest of what can't become text any more: of the frame, or of the message.
#[tokio::test]
async fn section_8_1_it_fails_at_the_first_bad_byte() {
    let edge = edge().await;
    for path in PATHS {
        for bad in NEVER {
            let whole = masked(TEXT, &[b"a begin: ", bad, &[b'x'; 80][..]].concat(), [7, 6, 5, 4]);
            let mut raw = Raw::open(&edge, path).await;
            raw.send(&whole[..6 + 9 + bad.len()]).await;
            assert_eq!(raw.close().await.0, Some(INVALID_PAYLOAD), "{path} {bad:02x?}");

            let mut raw = Raw::open(&edge, path).await;
            raw.send(&[frame(opcode::TEXT, b"a begin: "), frame(opcode::CONTINUATION, bad)].concat()).await;
            assert_eq!(raw.close().await.0, Some(INVALID_PAYLOAD), "{path} {bad:02x?}");
        }
    }
}

/// And waits where it still can: half a character is not yet a wrong one.
#[tokio::test]
async fn section_8_1_half_a_character_may_still_become_one() {
    let edge = edge().await;
    for (half, rest) in [(&b"\xe2\x82"[..], &b"\xac"[..]), (b"\xf0\x9f", b"\x8c\x8a"), (b"\xed\x9f", b"\xbf")]
    {
        let mut raw = Raw::open(&edge, "/echo").await;
        raw.send(&frame(opcode::TEXT, half)).await;
        raw.lives().await;
        raw.send(&frame(LAST, rest)).await;
        assert_eq!(raw.frame().await, (TEXT, Bytes::from([half, rest].concat())));
    }
}

#[tokio::test]
async fn section_5_6_binary_is_not_looked_into() {
    let edge = edge().await;
    let mut raw = Raw::open(&edge, "/echo").await;
    for bytes in NEVER.into_iter().chain(HALF) {
        raw.send(&frame(BINARY, bytes)).await;
        assert_eq!(raw.frame().await, (BINARY, Bytes::from_static(bytes)));
        raw.send(&[frame(opcode::BINARY, bytes), frame(LAST, bytes)].concat()).await;
        assert_eq!(raw.frame().await, (BINARY, Bytes::from(bytes.repeat(2))));
    }
}
