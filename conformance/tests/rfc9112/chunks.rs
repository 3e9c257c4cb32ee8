//! §7: chunks, their extensions and trailers. A chunk's size is where implementations differ, so what is not the
//! grammar ends the connection.

use std::fmt::Write as _;

use conformance::shapes::{Shape, post};

use crate::judge;

const BAD: &[&[u16]] = &[&[400]];
const FINE: &[&[u16]] = &[&[201, 200]];

fn chunked(name: &str, body: impl AsRef<str>, right: &'static [&'static [u16]]) -> Shape {
    Shape::new(name, post("transfer-encoding: chunked\r\n", body.as_ref()), right)
}

#[tokio::test]
async fn section_7_1_chunk_sizes() {
    let zeros = "0".repeat(40);
    judge(&[
        chunked("one chunk", "5\r\n12345\r\n0\r\n\r\n", FINE),
        chunked("five chunks", "1\r\n1\r\n1\r\n2\r\n1\r\n3\r\n1\r\n4\r\n1\r\n5\r\n0\r\n\r\n", FINE),
        chunked("leading zeros", "0005\r\n12345\r\n000\r\n\r\n", FINE),
        chunked("40 leading zeros", format!("{zeros}5\r\n12345\r\n0\r\n\r\n"), &[&[201, 200], &[400]]),
        chunked("a size of 65 bits", "10000000000000005\r\n12345\r\n0\r\n\r\n", BAD),
        chunked("a size of 68 bits", "fffffffffffffffff\r\n12345\r\n0\r\n\r\n", BAD),
        chunked("0x", "0x5\r\n12345\r\n0\r\n\r\n", BAD),
        chunked("a sign", "+5\r\n12345\r\n0\r\n\r\n", BAD),
        chunked("a minus", "-5\r\n12345\r\n0\r\n\r\n", BAD),
        chunked("a space before", " 5\r\n12345\r\n0\r\n\r\n", BAD),
        // Whitespace without an extension is not the grammar, yet changes nothing about where the chunk ends.
        chunked("a space behind", "5 \r\n12345\r\n0\r\n\r\n", &[&[201, 200], &[400]]),
        chunked("no size", "\r\n12345\r\n0\r\n\r\n", BAD),
        chunked("no hexadecimal", "g\r\n12345\r\n0\r\n\r\n", BAD),
        chunked("an underscore", "0_5\r\n12345\r\n0\r\n\r\n", BAD),
    ])
    .await;
}

#[tokio::test]
async fn section_7_1_line_ends() {
    judge(&[
        chunked("LF behind the size", "5\n12345\r\n0\r\n\r\n", BAD),
        chunked("CR behind the size", "5\r12345\r\n0\r\n\r\n", BAD),
        chunked("LF behind the data", "5\r\n12345\n0\r\n\r\n", BAD),
        chunked("nothing behind the data", "5\r\n123450\r\n\r\n", BAD),
        chunked("more data than said", "5\r\n123456\r\n0\r\n\r\n", BAD),
        chunked("LF behind the last chunk", "5\r\n12345\r\n0\n\n", BAD),
    ])
    .await;
}

#[tokio::test]
async fn section_7_1_1_chunk_extensions() {
    let many = (0..300).fold(String::new(), |mut text, _| {
        write!(text, "1;{}\r\n1\r\n", "a".repeat(1000)).unwrap();
        text
    });
    judge(&[
        // "MUST ignore unrecognized chunk extensions".
        chunked("a name", "5;a\r\n12345\r\n0\r\n\r\n", FINE),
        chunked("name and value", "5;a=b;c=d\r\n12345\r\n0;e\r\n\r\n", FINE),
        chunked("a quoted value", "5;a=\"b;c\"\r\n12345\r\n0\r\n\r\n", FINE),
        chunked("LF inside", "5;a\nb\r\n12345\r\n0\r\n\r\n", BAD),
        chunked("CR inside", "5;a\rb\r\n12345\r\n0\r\n\r\n", &[&[201, 200], &[400]]),
        // "ought to limit the total length".
        chunked("20 KB", format!("5;{}\r\n12345\r\n0\r\n\r\n", "a".repeat(20_000)), BAD),
        chunked("1 KB on each of many", many + "0\r\n\r\n", BAD),
    ])
    .await;
}

/// A trailer never becomes a header: neither a length nor a token.
#[tokio::test]
async fn section_7_1_2_trailers() {
    let trailer = |lines: &str| format!("5\r\n12345\r\n0\r\n{lines}\r\n");
    judge(&[
        chunked("one", trailer("x-t: y\r\n"), FINE),
        chunked("a length", trailer("content-length: 3\r\n"), FINE),
        chunked("a coding", trailer("transfer-encoding: gzip\r\n"), FINE),
        chunked("a bad token", trailer("authorization: Bearer nonsense\r\n"), FINE),
        chunked("a host", trailer("host: elsewhere\r\n"), FINE),
        chunked("no token in its name", trailer("x t: y\r\n"), BAD),
        chunked("no colon", trailer("xt\r\n"), BAD),
        chunked("100 KB", trailer(&format!("x-t: {}\r\n", "y".repeat(100_000))), BAD),
        chunked("3,000 of them", trailer(&"x-t: y\r\n".repeat(3000)), BAD),
    ])
    .await;
}

/// A body that has no length in its head is bounded all the same (`limits.message_bytes`).
#[tokio::test]
async fn section_7_1_bodies_without_measure() {
    let chunk = format!("1000\r\n{}\r\n", "1".repeat(4096));
    judge(&[
        chunked("1 MB in chunks", chunk.repeat(256) + "0\r\n\r\n", &[&[413]]),
        chunked("1 MB in one chunk", format!("100000\r\n{}\r\n0\r\n\r\n", "1".repeat(1 << 20)), &[&[413]]),
        chunked("a chunk of 2^63 bytes", format!("8000000000000000\r\n{}", "1".repeat(1 << 20)), &[&[413]]),
    ])
    .await;
}
