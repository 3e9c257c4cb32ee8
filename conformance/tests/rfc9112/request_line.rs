//! §2 and §3: the request line, its target, and the host.

use conformance::shapes::{self, Shape};

use crate::judge;

const BAD: &[&[u16]] = &[&[400]];
const FINE: &[&[u16]] = &[&[200, 200]];

fn line(line: &str) -> Vec<u8> {
    format!("{line}\r\nhost: localhost\r\n\r\n").into_bytes()
}

fn host(lines: &str) -> Vec<u8> {
    format!("GET /v1/channels/open:a/presence HTTP/1.1\r\n{lines}\r\n").into_bytes()
}

#[tokio::test]
async fn section_2_2_message_parsing() {
    let presence = "/v1/channels/open:a/presence";
    let shape = |name: &str, text: String, right| Shape::new(name, text, right);
    judge(&[
        shape("empty lines before the request line", format!("\r\n\r\n{}", shapes::get("")), FINE),
        // "MAY recognize a single LF as a line terminator": what must not be is a part of a value.
        shape("bare LF as line end", shapes::get("").replace("\r\n", "\n"), FINE),
        shape("bare LF between headers", shapes::get("x: y\nz: w\r\n"), FINE),
        shape("bare CR in a value", shapes::get("x: y\rz: w\r\n"), BAD),
        shape("bare CR as line end", format!("GET {presence} HTTP/1.1\rhost: a\r\r\r\n"), BAD),
        shape(
            "whitespace before the first header",
            format!("GET {presence} HTTP/1.1\r\n host: a\r\n\r\n"),
            BAD,
        ),
        shape(
            "a byte that is no ASCII in the target",
            "GET /v1/\u{e9} HTTP/1.1\r\nhost: a\r\n\r\n".into(),
            BAD,
        ),
        shape("a control character in the target", "GET /v1/\u{1} HTTP/1.1\r\nhost: a\r\n\r\n".into(), BAD),
    ])
    .await;
}

#[tokio::test]
async fn section_2_3_version() {
    let mut shapes = Vec::new();
    for version in
        ["HTTP/0.9", "HTTP/1.2", "HTTP/1.10", "HTTP/2.0", "HTTP/3.0", "http/1.1", "XTTP/1.1", "HTTP/1.1 ", ""]
    {
        shapes.push(Shape::new(version, line(&format!("GET /v1/channels/open:a/presence {version}")), BAD));
    }
    judge(&shapes).await;
}

#[tokio::test]
async fn section_3_request_line() {
    let presence = "/v1/channels/open:a/presence";
    let shape = |name: &str, text: &str, right| Shape::new(name, line(text), right);
    judge(&[
        shape("two spaces", &format!("GET  {presence} HTTP/1.1"), BAD),
        shape("tabs", &format!("GET\t{presence}\tHTTP/1.1"), BAD),
        shape("no target", "GET HTTP/1.1", BAD),
        shape("a space in the target", "GET /v1/channels/open:a b/presence HTTP/1.1", BAD),
        shape("a space before the method", &format!(" GET {presence} HTTP/1.1"), BAD),
        shape("a method that is no token", &format!("G(T {presence} HTTP/1.1"), BAD),
        // "longer than any that it implements": 501.
        shape("a method of 200 bytes", &format!("{} {presence} HTTP/1.1", "M".repeat(200)), &[&[501]]),
        // "longer than any URI it wishes to parse": 414.
        shape("a target of 70 KB", &format!("GET /{} HTTP/1.1", "x".repeat(70_000)), &[&[414]]),
        shape("a target of 60 KB", &format!("GET /{} HTTP/1.1", "x".repeat(60_000)), &[&[404, 200]]),
    ])
    .await;
}

#[tokio::test]
async fn section_3_2_request_target() {
    let presence = "/v1/channels/open:a/presence";
    let shape = |name: &str, text: &str, right| Shape::new(name, line(text), right);
    judge(&[
        shape("absolute form", &format!("GET http://localhost{presence} HTTP/1.1"), FINE),
        shape("absolute form, https", &format!("GET https://localhost{presence} HTTP/1.1"), FINE),
        // §3.2.2: the Host is ignored, not compared.
        shape("absolute form, another host", &format!("GET http://elsewhere{presence} HTTP/1.1"), FINE),
        shape("absolute form of another scheme", &format!("GET ftp://localhost{presence} HTTP/1.1"), BAD),
        // RFC 9110 §4.2.4.
        shape("absolute form with a user", &format!("GET http://u@localhost{presence} HTTP/1.1"), BAD),
        shape("authority form without CONNECT", "GET localhost:80 HTTP/1.1", BAD),
        shape("CONNECT, for which it is no proxy", "CONNECT localhost:80 HTTP/1.1", &[&[501, 200]]),
        shape("asterisk form without OPTIONS", "GET * HTTP/1.1", BAD),
        shape("asterisk form", "OPTIONS * HTTP/1.1", &[&[204, 200]]),
        shape("no slash at the beginning", "GET v1/channels/open:a/presence HTTP/1.1", BAD),
    ])
    .await;
}

#[tokio::test]
async fn section_3_2_host() {
    let mut shapes = vec![
        Shape::new("no Host", host(""), BAD),
        Shape::new("two Hosts", host("host: a\r\nhost: b\r\n"), BAD),
        Shape::new("the same Host twice", host("host: a\r\nhost: a\r\n"), BAD),
        Shape::new(
            "absolute form without Host",
            "GET http://localhost/v1/channels/open:a/presence HTTP/1.1\r\n\r\n",
            BAD,
        ),
    ];
    for good in ["", "localhost", "localhost:1", "localhost:", "[::1]:80", "a,b", "%41", "1.2.3.4"] {
        shapes.push(Shape::new(format!("Host: {good}"), host(&format!("host: {good}\r\n")), FINE));
    }
    for bad in ["a b", "a/b", "u@a", "a:b", "http://a", "a?b", "a#b", "[::1", "[x]", "a\u{e9}", "a\\b"] {
        shapes.push(Shape::new(format!("Host: {bad}"), host(&format!("host: {bad}\r\n")), BAD));
    }
    judge(&shapes).await;
}
