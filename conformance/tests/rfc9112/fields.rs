//! §5: field syntax, and how much of it there may be.

use conformance::shapes::{Shape, get};

use crate::judge;

const BAD: &[&[u16]] = &[&[400]];
const FINE: &[&[u16]] = &[&[200, 200]];
const TOO_MUCH: &[&[u16]] = &[&[431]];

#[tokio::test]
async fn section_5_1_field_lines() {
    judge(&[
        // "MUST reject ... with a 400": the space before the colon.
        Shape::new("a space before the colon", get("x : y\r\n"), BAD),
        Shape::new("a tab before the colon", get("x\t: y\r\n"), BAD),
        Shape::new("a space before the colon of the framing", get("content-length : 5\r\n"), BAD),
        Shape::new("no colon", get("xyz\r\n"), BAD),
        Shape::new("no name", get(": y\r\n"), BAD),
        Shape::new("a space in the name", get("x y: z\r\n"), BAD),
        Shape::new("a name that is no token", get("x(y: z\r\n"), BAD),
        Shape::new("NUL in a name", get("x\0: y\r\n"), BAD),
        Shape::new("a name that is no ASCII", get("x\u{e9}: y\r\n"), BAD),
        Shape::new("whitespace around a value", get("x: \t y \t \r\n"), FINE),
        Shape::new("no value", get("x:\r\n"), FINE),
    ])
    .await;
}

#[tokio::test]
async fn section_5_2_line_folding() {
    // "MUST either reject the message by sending a 400 ... or replace": rejected.
    judge(&[
        Shape::new("a folded value", get("x: y\r\n z\r\n"), BAD),
        Shape::new("folded with a tab", get("x: y\r\n\tz\r\n"), BAD),
        Shape::new("a folded coding", get("transfer-encoding:\r\n chunked\r\n"), BAD),
        Shape::new("a folded line of nothing", get("x: y\r\n \r\n"), BAD),
    ])
    .await;
}

/// RFC 9110 §5.5: CR, LF and NUL are dangerous, other control characters invalid.
#[tokio::test]
async fn section_5_values_without_control_characters() {
    let mut shapes = Vec::new();
    for byte in (0..0x20).chain([0x7f]).filter(|byte| ![b'\t', b'\n', b'\r'].contains(byte)) {
        let bytes =
            [b"GET /v1/channels/open:a/presence HTTP/1.1\r\nhost: a\r\nx: y", &[byte][..], b"z\r\n\r\n"]
                .concat();
        shapes.push(Shape::new(format!("{byte:#04x} in a value"), bytes, BAD));
    }
    for byte in [b'\t', 0x80, 0xff] {
        let bytes =
            [b"GET /v1/channels/open:a/presence HTTP/1.1\r\nhost: a\r\nx: y", &[byte][..], b"z\r\n\r\n"]
                .concat();
        shapes.push(Shape::new(format!("{byte:#04x} in a value"), bytes, FINE));
    }
    judge(&shapes).await;
}

/// RFC 9110 §5.4, RFC 6585 §5. The head's size is bounded by the edge's buffer of 64 KB, which may be read twice over.
#[tokio::test]
async fn section_5_4_field_limits() {
    let long = |bytes: usize| get(&format!("x: {}\r\n", "y".repeat(bytes)));
    judge(&[
        // With Host, 100 is what there may be.
        Shape::new("99 fields", get(&"x: y\r\n".repeat(98)), FINE),
        Shape::new("101 fields", get(&"x: y\r\n".repeat(100)), TOO_MUCH),
        Shape::new("5,000 fields", get(&"x: y\r\n".repeat(5000)), TOO_MUCH),
        Shape::new("a value of 60 KB", long(60_000), FINE),
        Shape::new("a value of 200 KB", long(200_000), TOO_MUCH),
        Shape::new("a value of 2 MB", long(2_000_000), &[&[431], &[]]),
        Shape::new("a name of 200 KB", get(&format!("{}: y\r\n", "x".repeat(200_000))), TOO_MUCH),
        Shape::new(
            "a target of 200 KB",
            format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "x".repeat(200_000)),
            &[&[414], &[431]],
        ),
        Shape::new("a line of 200 KB that never says what it is", "x".repeat(200_000), &[&[431], &[400]]),
    ])
    .await;
}
