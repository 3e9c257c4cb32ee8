//! Requests that are nearly right: a bit turned over, cut short, with lengths that lie, without measure (RFC 9112
//! §11 tells what servers have fallen for).

use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use serde_json::json;

use super::{Soil, Specimen, flip, noise};
use crate::envelope;
use crate::wire::Request;

/// Bytes that look like text to a parser, ends of lines among them.
pub(super) fn printable(rng: &mut StdRng) -> Vec<u8> {
    const ALPHABET: &[u8] = b"GET POST /v1/ws?HTTP/1.1:;,=\"\\{}[]%0aZ\r\n\r\n\t \0";
    (0..rng.random_range(1..2048)).map(|_| *ALPHABET.choose(rng).expect("it is not empty")).collect()
}

pub(super) fn specimen(rng: &mut StdRng, soil: &Soil) -> Specimen {
    let valid = valid(rng, soil);
    match rng.random_range(0..6) {
        0 => {
            let mut bytes = valid;
            flip(rng, &mut bytes);
            Specimen { kind: "flipped request", pieces: vec![bytes] }
        }
        1 => {
            let end = rng.random_range(1..valid.len());
            Specimen { kind: "half a request", pieces: vec![valid[..end].to_vec()] }
        }
        2 => {
            let middle = rng.random_range(1..valid.len());
            let mut rest = valid[middle..].to_vec();
            rest.extend(noise(rng, 256));
            Specimen { kind: "request and noise", pieces: vec![valid[..middle].to_vec(), rest] }
        }
        3 => Specimen { kind: "lying length", pieces: vec![lying(rng, soil)] },
        4 => Specimen { kind: "request without measure", pieces: vec![immense(rng, soil)] },
        _ => Specimen { kind: "preface of HTTP/2", pieces: http2(rng) },
    }
}

/// A request that the server would answer.
pub(super) fn valid(rng: &mut StdRng, soil: &Soil) -> Vec<u8> {
    let n = rng.random_range(0..8);
    let message = envelope::message(&format!("garbage:{n}"), &format!("g{n}"), &json!({"n": n}));
    let request = match rng.random_range(0..8) {
        0 => Request::get(format!("/v1/sse?channels=garbage:{n}&history={n}")),
        1 => Request::get(format!("/v1/poll?channels=garbage:{n},garbage:x&wait=1")),
        2 => Request::get(format!("/v1/poll?channels=garbage:{n}&cursor=AAAA{n}&wait=1")),
        3 => Request::get(format!("/v1/channels/garbage:{n}/messages?after={n}&limit=10")),
        4 => Request::get(format!("/v1/channels/garbage:{n}/presence")),
        5 => Request::post("/v1/send", &json!([message, {"type": "ping"}])),
        6 => Request::post(format!("/v1/channels/garbage:{n}/messages"), &json!({"n": n})),
        _ => Request::post("/v1/tickets", &json!({})),
    };
    request.bearer(&soil.token).to_bytes(&soil.authority)
}

/// Bodies whose length is not what the head says, or says twice.
fn lying(rng: &mut StdRng, soil: &Soil) -> Vec<u8> {
    let framing = [
        "content-length: 1000000000000",
        "content-length: 5000",
        "content-length: -1",
        "content-length: 18446744073709551616",
        "content-length: 1\r\ncontent-length: 2",
        "content-length: 0x10",
        "content-length: 10\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ntransfer-encoding: identity",
        "transfer-encoding: gzip, chunked",
        "transfer-encoding: chunked, gzip",
        "transfer-encoding : chunked",
        "transfer-encoding: chunked",
    ];
    let bodies = [
        "{}",
        "0\r\n\r\nGET /v1/sse HTTP/1.1\r\n\r\n",
        "ffffffffffffffff\r\n{}",
        "fffffffffffffffff\r\n{}",
        "-1\r\n{}\r\n0\r\n\r\n",
        "5;ext=\"\r\n{}",
        "2\r\n{}x\r\n0\r\n\r\n",
        "2\r\n{}\r\n0\r\nx: y\r\n",
        "1\r\n{\r\n1\r\n}\r\n0\r\n\r\n",
    ];
    let framing = framing.choose(rng).expect("it is not empty");
    let body = bodies.choose(rng).expect("it is not empty");
    let Soil { authority, token } = soil;
    format!(
        "POST /v1/send HTTP/1.1\r\nhost: {authority}\r\nauthorization: Bearer {token}\r\n{framing}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// Heads that are longer, or have more parts, than anybody needs.
fn immense(rng: &mut StdRng, soil: &Soil) -> Vec<u8> {
    let Soil { authority, token } = soil;
    let long = "a".repeat(rng.random_range(20_000..400_000));
    let count = rng.random_range(200..5_000);
    let many = |part: &str| part.repeat(count);
    let (path, headers) = match rng.random_range(0..6) {
        0 => (format!("/v1/sse?channels={long}"), String::new()),
        1 => ("/v1/poll".to_owned(), format!("x: {long}\r\n")),
        2 => ("/v1/poll".to_owned(), many("x: y\r\n")),
        3 => (format!("/v1/sse?channels={}", many("a,")), String::new()),
        4 => (format!("/v1/sse?{}", many("channels=%00&")), String::new()),
        _ => ("/v1/ws".to_owned(), format!("cookie: __Host-tidegate={long}\r\n")),
    };
    format!("GET {path} HTTP/1.1\r\nhost: {authority}\r\nauthorization: Bearer {token}\r\n{headers}\r\n")
        .into_bytes()
}

/// RFC 9113 §3.4, then frames of every type with lengths that may or may not be right.
fn http2(rng: &mut StdRng) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for _ in 0..rng.random_range(1..20) {
        let payload = noise(rng, 64);
        let claimed = if rng.random_bool(0.8) { payload.len() } else { rng.random_range(0..1 << 24) };
        frames.extend_from_slice(&u32::try_from(claimed).expect("below 2^24").to_be_bytes()[1..]);
        frames.extend([rng.random_range(0..12), rng.random()]);
        frames.extend_from_slice(&rng.random_range(0_u32..8).to_be_bytes());
        frames.extend(payload);
    }
    vec![b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00".to_vec(), frames]
}
