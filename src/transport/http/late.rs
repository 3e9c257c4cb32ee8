//! The answer to a request of HTTP/1 that is there no more, written as hyper would have written it at once: to the
//! letter, down to the order of the lines. Called by transports whose connection was taken off hyper; reads nothing.

use std::cell::RefCell;
use std::io::Write as _;
use std::time::{Duration, SystemTime};

use httpdate::HttpDate;
use hyper::{HeaderMap, StatusCode};

use super::Manner;

/// The lines that [`super::json`] stands for, but those that are in every head.
pub const JSON_LINES: &[u8] =
    b"content-type: application/json\r\ncache-control: no-store\r\nx-content-type-options: nosniff\r\n";

/// What `Origin::write_cors` writes for who names no origin: most polls.
pub const NO_ORIGIN_LINES: &[u8] = b"vary: Origin\r\n";

/// Room for what else is in a head: status, length, date, what becomes of the connection.
const HEAD_BYTES: usize = 192;

/// A head with those lines, before a body of so many bytes, for which there is room.
pub fn head(status: StatusCode, lines: [&[u8]; 2], manner: Manner, body_bytes: usize) -> Vec<u8> {
    let [first, second] = lines;
    let mut head = Vec::with_capacity(HEAD_BYTES + first.len() + second.len() + body_bytes);
    head.extend_from_slice(if manner.is_old { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    if status == StatusCode::OK {
        head.extend_from_slice(b"200 OK\r\n");
    } else {
        head.extend_from_slice(status.as_str().as_bytes());
        head.push(b' ');
        head.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(first);
    head.extend_from_slice(second);
    // RFC 9112 §9.3: each version says what does not go without saying.
    head.extend_from_slice(match (manner.is_old, manner.persists) {
        (false, false) => b"connection: close\r\n",
        (true, true) => b"connection: keep-alive\r\n",
        _ => b"",
    });
    write!(head, "content-length: {body_bytes}\r\ndate: ").expect("a Vec takes all");
    write_date(&mut head);
    head.extend_from_slice(b"\r\n\r\n");
    head
}

/// Headers as lines.
pub fn lines(headers: &HeaderMap) -> Vec<u8> {
    let mut lines = Vec::with_capacity(32 * headers.len());
    for (name, value) in headers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            lines.extend_from_slice(part);
        }
    }
    lines
}

/// RFC 9110 §6.6.1. Written once a second by each thread, as its digits are most of what an answer would cost.
fn write_date(head: &mut Vec<u8>) {
    thread_local! {
        static LAST: RefCell<(u64, Vec<u8>)> = const { RefCell::new((0, Vec::new())) };
    }
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    LAST.with_borrow_mut(|(second, date)| {
        if date.is_empty() || *second != since.as_secs() {
            *second = since.as_secs();
            date.clear();
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(*second);
            write!(date, "{}", HttpDate::from(now)).expect("a Vec takes all");
        }
        head.extend_from_slice(date);
    });
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::FutureExt as _;
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::auth::Origin;
    use crate::close::{Fault, Kind};
    use crate::transport::http::{Answer, json, problem};

    /// What hyper makes of an answer to such a request.
    async fn by_hyper(request: &str, answer: impl Fn() -> Answer) -> String {
        let (mut client, server) = tokio::io::duplex(64 * 1024);
        client.write_all(request.as_bytes()).await.unwrap();
        let service = service_fn(|_| std::future::ready(Ok::<_, Infallible>(answer())));
        let connection = http1::Builder::new().serve_connection(TokioIo::new(server), service);
        // All in one turn; then it has ended, or is dropped with its connection.
        assert!(connection.now_or_never().is_none_or(|served| served.is_ok()));
        let mut written = String::new();
        client.read_to_string(&mut written).await.unwrap();
        written
    }

    #[test]
    fn who_names_no_origin_has_the_lines_of_one() {
        let mut headers = HeaderMap::new();
        Origin::None.write_cors(&mut headers);
        assert_eq!(lines(&headers), NO_ORIGIN_LINES);
    }

    /// The same but for the date, which has its form.
    fn assert_same(ours: &[u8], theirs: &str) {
        let ours = std::str::from_utf8(ours).unwrap();
        let undated = |text: &str| {
            let at = text.find("date: ").unwrap() + 6;
            httpdate::parse_http_date(&text[at..at + 29]).unwrap();
            [&text[..at], &text[at + 29..]].concat()
        };
        assert_eq!(undated(ours), undated(theirs));
    }

    #[tokio::test]
    async fn it_is_what_hyper_writes() {
        let manners = [
            ("GET / HTTP/1.1\r\n\r\n", false, true),
            ("GET / HTTP/1.1\r\nconnection: close\r\n\r\n", false, false),
            ("GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n", true, true),
            ("GET / HTTP/1.0\r\n\r\n", true, false),
        ];
        let refusals = [
            Fault::new(Kind::Revoked, "the token has been revoked"),
            Fault::new(Kind::SlowConsumer, "too slow").with_retry_after(Duration::from_millis(1500)),
        ];
        for (request, is_old, persists) in manners {
            let manner = Manner { is_old, persists };
            for origin in
                [Origin::None, Origin::Allowed("https://a.example"), Origin::AllowedToAnyone("null")]
            {
                let mut cors = HeaderMap::new();
                origin.write_cors(&mut cors);
                let cors = lines(&cors);
                let with_cors = |mut answer: Answer| {
                    origin.write_cors(answer.headers_mut());
                    answer
                };
                let body = "{\"messages\":[]}";
                let mut ours = head(StatusCode::OK, [JSON_LINES, &cors], manner, body.len());
                ours.extend_from_slice(body.as_bytes());
                let theirs = by_hyper(request, || with_cors(json(StatusCode::OK, body))).await;
                assert_same(&ours, &theirs);
                for fault in &refusals {
                    let (refusal, mut body) = problem(fault).into_parts();
                    let body = body.take_finished();
                    let own = lines(&refusal.headers);
                    let mut ours = head(refusal.status, [&own, &cors], manner, body.len());
                    ours.extend_from_slice(&body);
                    assert_same(&ours, &by_hyper(request, || with_cors(problem(fault))).await);
                }
            }
        }
    }
}
