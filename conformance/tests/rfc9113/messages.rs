//! §8: requests as header blocks. Malformed is a stream error of type `PROTOCOL_ERROR` (§8.1.1), which may be treated as
//! one of the connection (§5.4.1), or a 400.

use conformance::wire::h2::code::{CANCEL, ENHANCE_YOUR_CALM, PROTOCOL_ERROR};
use conformance::wire::h2::{self, flag, kind};

use super::Outcome::{GoAway, Reset, Status};
use super::{Case, MESSAGES, PATH, TRAILERS, case, data, fields, headers, judge, post};

const END: u8 = flag::END_STREAM;
const METHOD: (&str, &str) = (":method", "GET");
const SCHEME: (&str, &str) = (":scheme", "https");
const AUTHORITY: (&str, &str) = (":authority", "localhost");
const TARGET: (&str, &str) = (":path", PATH);

fn asked(name: &str, fields: &[(&str, &str)], right: super::Outcome) -> Case {
    case(name, headers(1, END, fields), right)
}

fn malformed(name: &str, fields: &[(&str, &str)]) -> Case {
    asked(name, fields, Reset(PROTOCOL_ERROR)).or(Status(400)).or(GoAway(PROTOCOL_ERROR))
}

/// A request with one field that may or may not be.
fn with(field: (&str, &str)) -> Vec<(String, String)> {
    let own = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    fields("GET", PATH, &[field]).into_iter().map(own).collect()
}

#[tokio::test]
async fn section_8_2_1_field_validity() {
    let mut cases = Vec::new();
    for (name, value) in [
        ("X-Upper", "y"),
        ("x upper", "y"),
        ("x:y", "z"),
        ("", "y"),
        ("x\0", "y"),
        ("x\u{7f}", "y"),
        ("x", "y\0z"),
        ("x", "y\nz"),
        ("x", "y\rz"),
        ("x", "\u{1}"),
    ] {
        let block = h2::block(&with((name, value)));
        let frame = h2::frame(kind::HEADERS, END | flag::END_HEADERS, 1, &block);
        let malformed = case(format!("{name:?}: {value:?}"), frame, Reset(PROTOCOL_ERROR)).or(Status(400));
        cases.push(malformed.or(GoAway(PROTOCOL_ERROR)));
    }
    let frame = headers(1, END, &fields("GET", PATH, &[("x", "y\u{e9}z")]));
    cases.push(case("a value that is no ASCII", frame, Status(200)));
    judge(&cases).await;
}

/// "Any message containing connection-specific header fields MUST be treated as malformed."
#[tokio::test]
async fn section_8_2_2_connection_specific_fields() {
    let mut cases = Vec::new();
    for field in [
        ("connection", "keep-alive"),
        ("proxy-connection", "keep-alive"),
        ("keep-alive", "timeout=5"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "websocket"),
        ("te", "gzip"),
        ("te", "trailers, deflate"),
    ] {
        cases.push(malformed(&format!("{field:?}"), &fields("GET", PATH, &[field])));
    }
    cases.push(asked("te: trailers", &fields("GET", PATH, &[("te", "trailers")]), Status(200)));
    judge(&cases).await;
}

#[tokio::test]
async fn section_8_3_pseudo_header_fields() {
    judge(&[
        malformed("no method", &[SCHEME, AUTHORITY, TARGET]),
        malformed("no scheme", &[METHOD, AUTHORITY, TARGET]),
        malformed("no path", &[METHOD, SCHEME, AUTHORITY]),
        malformed("an empty path", &[METHOD, SCHEME, AUTHORITY, (":path", "")]),
        malformed("a path without its slash", &[METHOD, SCHEME, AUTHORITY, (":path", "v1/poll")]),
        malformed("an empty method", &[(":method", ""), SCHEME, AUTHORITY, TARGET]),
        malformed("two methods", &[METHOD, METHOD, SCHEME, AUTHORITY, TARGET]),
        malformed("two schemes", &[METHOD, SCHEME, SCHEME, AUTHORITY, TARGET]),
        malformed("two paths", &[METHOD, SCHEME, AUTHORITY, TARGET, TARGET]),
        malformed("two authorities", &[METHOD, SCHEME, AUTHORITY, AUTHORITY, TARGET]),
        malformed("one that is not known", &[METHOD, SCHEME, AUTHORITY, TARGET, (":x", "y")]),
        malformed("one of responses", &[METHOD, SCHEME, AUTHORITY, TARGET, (":status", "200")]),
        malformed("one behind a field", &[METHOD, SCHEME, AUTHORITY, ("x", "y"), TARGET]),
        // RFC 8441 §4: only where the method is CONNECT.
        malformed(":protocol of a GET", &[METHOD, SCHEME, AUTHORITY, TARGET, (":protocol", "websocket")]),
        asked("in another order", &[TARGET, AUTHORITY, SCHEME, METHOD], Status(200)),
    ])
    .await;
}

#[tokio::test]
async fn section_8_3_1_authority_and_host() {
    let request = |authority, more: &[(&'static str, &'static str)]| {
        [&[METHOD, SCHEME, (":authority", authority), TARGET], more].concat()
    };
    judge(&[
        asked("Host instead", &[METHOD, SCHEME, TARGET, ("host", "localhost")], Status(200)),
        asked("the same in Host", &request("localhost:1", &[("host", "localhost:1")]), Status(200)),
        asked("the same in other letters", &request("localhost", &[("host", "LOCALHOST:443")]), Status(200)),
        malformed("another in Host", &request("localhost", &[("host", "elsewhere")])),
        malformed("two Hosts", &request("localhost", &[("host", "localhost"), ("host", "localhost")])),
        malformed("a user", &request("user@localhost", &[])),
        malformed("no host", &request("local host", &[])),
        malformed("a path", &request("localhost/x", &[])),
        malformed("another scheme", &[METHOD, (":scheme", "ftp"), AUTHORITY, TARGET]),
        malformed("an asterisk for GET", &[METHOD, SCHEME, AUTHORITY, (":path", "*")]),
        asked(
            "an asterisk for OPTIONS",
            &[(":method", "OPTIONS"), SCHEME, AUTHORITY, (":path", "*")],
            Status(204),
        ),
        asked("HEAD", &[(":method", "HEAD"), SCHEME, AUTHORITY, TARGET], Status(200)),
        asked("HEAD of an event stream", &fields("HEAD", "/v1/sse?channels=open:a", &[]), Status(200)),
        asked("another method", &fields("PUT", PATH, &[]), Status(405)),
    ])
    .await;
}

/// "the value of a content-length header field does not equal the sum of the DATA frame payload lengths".
#[tokio::test]
async fn section_8_1_1_content_length() {
    let post = |length, pieces: &[Vec<u8>]| {
        [&[headers(1, 0, &fields("POST", MESSAGES, &[("content-length", length)]))], pieces].concat().concat()
    };
    judge(&[
        case("right", post("5", &[data(1, 0, b"12"), data(1, END, b"345")]), Status(201)),
        case("more than said", post("4", &[data(1, END, b"12345")]), Reset(PROTOCOL_ERROR)),
        case("less than said", post("6", &[data(1, END, b"12345")]), Reset(PROTOCOL_ERROR)),
        case("more in pieces", post("4", &[data(1, 0, b"12"), data(1, END, b"345")]), Reset(PROTOCOL_ERROR)),
        case(
            "less, with trailers",
            post("6", &[data(1, 0, b"12345"), headers(1, END, &[("x", "y")])]),
            Reset(PROTOCOL_ERROR),
        ),
        case("no number", post("5x", &[data(1, END, b"12345")]), Reset(PROTOCOL_ERROR)).or(Status(400)),
        case("a sign", post("+5", &[data(1, END, b"12345")]), Reset(PROTOCOL_ERROR)).or(Status(400)),
        case(
            "no body",
            headers(1, END, &fields("POST", MESSAGES, &[("content-length", "5")])),
            Reset(PROTOCOL_ERROR),
        ),
    ])
    .await;
}

#[tokio::test]
async fn section_8_1_trailers() {
    let trailed = |trailers: &[(&str, &str)], flags| {
        [post(1), data(1, 0, b"12345"), headers(1, flags, trailers)].concat()
    };
    judge(&[
        case("some", trailed(&[("x-t", "y")], END), Status(201)),
        // They never become headers: neither a token nor a length.
        case("a bad token", trailed(&[("authorization", "Bearer x")], END), Status(201)),
        case("without an end", trailed(&[("x-t", "y")], 0), Reset(PROTOCOL_ERROR)),
        case("pseudo-fields", trailed(&[(":path", "/")], END), Reset(PROTOCOL_ERROR))
            .but(Status(201), TRAILERS),
        case("upper case", trailed(&[("X-T", "y")], END), Reset(PROTOCOL_ERROR)).or(GoAway(PROTOCOL_ERROR)),
        case("trailers alone", [post(1), headers(1, END, &[("x-t", "y")])].concat(), Status(400)),
    ])
    .await;
}

/// §8.5: without `:protocol` (RFC 8441) the edge is no proxy.
#[tokio::test]
async fn section_8_5_connect() {
    judge(&[
        case(
            "CONNECT",
            headers(1, 0, &[(":method", "CONNECT"), (":authority", "localhost:80")]),
            Status(501),
        ),
        malformed("CONNECT with a path", &[(":method", "CONNECT"), AUTHORITY, SCHEME, TARGET]),
        malformed("CONNECT without authority", &[(":method", "CONNECT")]),
    ])
    .await;
}

/// §6.5.2: 64 KB of fields are announced. More is refused without being kept.
#[tokio::test]
async fn section_8_1_field_section_size() {
    let long = "y".repeat(60_000);
    let mut large = Vec::new();
    let block = h2::block(&fields("GET", PATH, &[("x", &long), ("y", &long), ("z", &long)]));
    for (index, piece) in block.chunks(16_000).enumerate() {
        let last = if (index + 1) * 16_000 >= block.len() { flag::END_HEADERS } else { 0 };
        let (kind, first) = if index == 0 { (kind::HEADERS, END) } else { (kind::CONTINUATION, 0) };
        large.extend(h2::frame(kind, first | last, 1, piece));
    }
    judge(&[
        case("180 KB", large, Status(431))
            .or(Reset(PROTOCOL_ERROR))
            .or(Reset(CANCEL))
            .or(GoAway(ENHANCE_YOUR_CALM)),
        case("1,000 fields", headers(1, END, &fields("GET", PATH, &[("x", "y"); 400])), Status(200)),
    ])
    .await;
}
