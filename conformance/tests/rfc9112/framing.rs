//! §6: where a body ends, and §11.2: what becomes of requests that say so twice. The next request is read right
//! behind the body, or not at all.

use std::time::Duration;

use conformance::edge::{Edge, Settings};
use conformance::shapes::{self, BODY, Shape, get, last, post};

use crate::judge;

const BAD: &[&[u16]] = &[&[400]];
const UNKNOWN: &[&[u16]] = &[&[501]];
const FINE: &[&[u16]] = &[&[201, 200]];
const CHUNKS: &str = "5\r\n12345\r\n0\r\n\r\n";

#[tokio::test]
async fn section_6_1_transfer_encoding() {
    let mut shapes = Vec::new();
    for good in ["chunked", "Chunked", "CHUNKED", "chunked ", "\tchunked", ", chunked"] {
        let name = format!("Transfer-Encoding: {good}");
        shapes.push(Shape::new(name, post(&format!("transfer-encoding: {good}\r\n"), CHUNKS), FINE));
    }
    for (bad, right) in [
        ("chunked, chunked", BAD),
        ("chunked\r\ntransfer-encoding: chunked", BAD),
        ("chunked\r\ntransfer-encoding: identity", BAD),
        ("chunked, gzip", BAD),
        ("identity", BAD),
        ("xchunked", BAD),
        ("chunked;a=b", BAD),
        ("\"chunked\"", BAD),
        ("\u{b}chunked", BAD),
        ("chunked\0", BAD),
        ("ch\tunked", BAD),
        ("", BAD),
        ("gzip, chunked", UNKNOWN),
        ("identity, chunked", UNKNOWN),
        ("identity\r\ntransfer-encoding: chunked", UNKNOWN),
    ] {
        let name = format!("Transfer-Encoding: {bad:?}");
        shapes.push(Shape::new(name, post(&format!("transfer-encoding: {bad}\r\n"), CHUNKS), right));
    }
    shapes.push(Shape::new("a space before the colon", post("transfer-encoding : chunked\r\n", CHUNKS), BAD));
    // Other names are other headers.
    let other =
        post("transfer_encoding: chunked\r\nx-transfer-encoding: chunked\r\ncontent-length: 5\r\n", BODY);
    shapes.push(Shape::new("nearly the name", other, FINE));
    judge(&shapes).await;
}

/// §6.1: "MUST close the connection after responding", in accordance with Transfer-Encoding alone, or refuse.
#[tokio::test]
async fn section_6_1_both_lengths() {
    const TAKEN_OR_REFUSED: &[&[u16]] = &[&[201], &[400]];
    // Read by its length, the body would end early and this be the next request.
    let hidden = format!("{CHUNKS}{}", post("content-length: 3\r\n", "666"));
    judge(&[
        Shape::new(
            "CL, TE",
            post("content-length: 5\r\ntransfer-encoding: chunked\r\n", CHUNKS),
            TAKEN_OR_REFUSED,
        ),
        Shape::new(
            "TE, CL",
            post("transfer-encoding: chunked\r\ncontent-length: 5\r\n", CHUNKS),
            TAKEN_OR_REFUSED,
        ),
        Shape::new(
            "CL.TE",
            post("content-length: 3\r\ntransfer-encoding: chunked\r\n", &hidden),
            TAKEN_OR_REFUSED,
        ),
        Shape::new(
            "TE.CL",
            post("transfer-encoding: chunked\r\ncontent-length: 200\r\n", &hidden),
            TAKEN_OR_REFUSED,
        ),
        Shape::new("CL, TE of nothing", post("content-length: 5\r\ntransfer-encoding:\r\n", BODY), BAD),
        Shape::new(
            "CL, TE identity",
            post("content-length: 5\r\ntransfer-encoding: identity\r\n", BODY),
            BAD,
        ),
    ])
    .await;
}

#[tokio::test]
async fn section_6_2_content_length() {
    let mut shapes = Vec::new();
    for good in ["5", " 5 ", "05", "0000000000005"] {
        let name = format!("Content-Length: {good}");
        shapes.push(Shape::new(name, post(&format!("content-length: {good}\r\n"), BODY), FINE));
    }
    for bad in [
        "+5",
        "-5",
        "0x5",
        "5;",
        "5a",
        "5.0",
        "1e1",
        "",
        "\u{b}5",
        "5 5",
        "5, 6",
        "18446744073709551616",
        "99999999999999999999999",
        "5\r\ncontent-length: 6",
        "6\r\ncontent-length: 5",
        "5\r\ncontent-length: ",
    ] {
        let name = format!("Content-Length: {bad:?}");
        shapes.push(Shape::new(name, post(&format!("content-length: {bad}\r\n"), BODY), BAD));
    }
    // RFC 9110 §8.6: the same value twice may be taken for one.
    let twice = post("content-length: 5\r\ncontent-length: 5\r\n", BODY);
    shapes.push(Shape::new("twice the same", twice, &[&[201, 200], &[400]]));
    shapes.push(Shape::new(
        "a list of the same",
        post("content-length: 5, 5\r\n", BODY),
        &[&[201, 200], &[400]],
    ));
    judge(&shapes).await;
}

#[tokio::test]
async fn section_6_3_message_body_length() {
    let hidden = post("content-length: 3\r\n", "666");
    judge(&[
        Shape::new("a body where none is expected", get("content-length: 5\r\n") + BODY, &[&[200, 200]]),
        Shape::new(
            "chunks where none are expected",
            get("transfer-encoding: chunked\r\n") + CHUNKS,
            &[&[200, 200]],
        ),
        Shape::new(
            "a request as a body",
            get(&format!("content-length: {}\r\n", hidden.len())) + &hidden,
            &[&[200, 200]],
        ),
        Shape::new(
            "a request as the body of one that is refused",
            format!("FROB /v1/send HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{hidden}", hidden.len()),
            &[&[405, 200]],
        ),
        Shape::new(
            "a request as the body of one that is not found",
            format!("POST /nothing HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{hidden}", hidden.len()),
            &[&[404, 200]],
        ),
        Shape::new(
            "bytes after the body",
            post("content-length: 5\r\n", "12345\0\0\r\n\r\n"),
            &[&[201, 400]],
        ),
        // The empty line before a request is allowed (§2.2).
        Shape::new("a line end after the body", post("content-length: 5\r\n", "12345\r\n"), FINE),
        Shape::new("no length: no body", post("", ""), &[&[400, 200]]),
    ])
    .await;
}

/// §6.1: transfer codings are no part of HTTP/1.0; §2.3.
#[tokio::test]
async fn section_6_1_transfer_encoding_in_http_1_0() {
    let edge = Edge::named_or_started(&Settings::profile()).await.unwrap();
    let bytes = post("transfer-encoding: chunked\r\n", CHUNKS).replace("HTTP/1.1", "HTTP/1.0") + &last();
    let text = super::connections::text(&edge.target, bytes.as_bytes()).await;
    assert!(text.starts_with("HTTP/1.0 400 ") || text.starts_with("HTTP/1.1 400 "), "{text}");
    assert_eq!(text.matches("HTTP/1.").count(), 1, "the next request was read: {text}");
}

/// §8: a request that is not whole is never acted upon.
#[tokio::test]
async fn section_8_incomplete_messages() {
    let settings = Settings::profile().set("listen.request_timeout", "2s").set("listen.idle_timeout", "2s");
    let edge = Edge::named_or_started(&settings).await.unwrap();
    for incomplete in [
        post("content-length: 6\r\n", BODY),
        post("transfer-encoding: chunked\r\n", "6\r\n12345"),
        post("transfer-encoding: chunked\r\n", "5\r\n12345\r\n"),
        post("transfer-encoding: chunked\r\n", "5\r\n12345\r\n0\r\n"),
        // A chunk without end: as long as can be said.
        post("transfer-encoding: chunked\r\n", "ffffffffffffffff\r\n12345"),
        "GET /v1/channels/open:a/presence HTTP/1.1\r\nhost: a\r\n".to_owned(),
    ] {
        let most = Duration::from_secs(8);
        let answers = shapes::say_within(&edge.target, incomplete.as_bytes(), most).await.unwrap();
        assert!(answers.ended, "{incomplete:?}: still there");
        assert!(
            matches!(answers.statuses()[..], [] | [400 | 408]),
            "{incomplete:?}: {:?}",
            answers.statuses()
        );
    }
    let history = get("").replace("presence", "messages");
    let bytes = [history, last()].concat();
    let answers = shapes::say(&edge.target, bytes.as_bytes()).await.unwrap();
    assert_eq!(answers.responses[0].json().unwrap()["messages"], serde_json::json!([]));
}
