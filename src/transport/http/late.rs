//! The answer to a request of HTTP/1 that is there no more, written as hyper would have written it at once: to the
//! letter, down to the order of the lines. Called by transports whose connection was taken off hyper; reads nothing.

use std::cell::Cell;
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

/// Room before a body for its head, if its lines are no longer than most.
pub const ROOM_BYTES: usize = 384;
/// Of that, for what else is in a head: status, length, date, what becomes of the connection.
const OTHERS_BYTES: usize = 192;
/// `Sun, 06 Nov 1994 08:49:37 GMT`.
const DATE_BYTES: usize = 29;

/// Puts a head with those lines before the body that stands behind [`ROOM_BYTES`] in `answer`; returns where it begins.
pub fn put_head(answer: &mut Vec<u8>, status: StatusCode, lines: [&[u8]; 2], manner: Manner) -> usize {
    let body_bytes = answer.len() - ROOM_BYTES;
    let [first, second] = lines;
    let more = (OTHERS_BYTES + first.len() + second.len()).saturating_sub(ROOM_BYTES);
    if more > 0 {
        answer.splice(..0, std::iter::repeat_n(0, more));
    }
    let mut head = Backwards { at: ROOM_BYTES + more, answer };
    head.put(b"\r\n\r\n");
    head.put(&date());
    head.put(b"\r\ndate: ");
    head.put_number(body_bytes);
    head.put(b"content-length: ");
    // RFC 9112 §9.3: each version says what does not go without saying.
    head.put(match (manner.is_old, manner.persists) {
        (false, false) => b"connection: close\r\n",
        (true, true) => b"connection: keep-alive\r\n",
        _ => b"",
    });
    head.put(second);
    head.put(first);
    if status == StatusCode::OK {
        head.put(b"200 OK\r\n");
    } else {
        head.put(b"\r\n");
        head.put(status.canonical_reason().unwrap_or_default().as_bytes());
        head.put(b" ");
        head.put(status.as_str().as_bytes());
    }
    head.put(if manner.is_old { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    head.at
}

const DIGITS: &[u8; 10] = b"0123456789";

/// Writes from the end to the beginning: a head is done before anybody knows how long it will be.
struct Backwards<'a> {
    answer: &'a mut [u8],
    at: usize,
}

impl Backwards<'_> {
    fn put(&mut self, part: &[u8]) {
        let end = self.at;
        self.at -= part.len();
        self.answer[self.at..end].copy_from_slice(part);
    }

    fn put_number(&mut self, mut number: usize) {
        loop {
            self.put(&DIGITS[number % 10..][..1]);
            number /= 10;
            if number == 0 {
                return;
            }
        }
    }
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
fn date() -> [u8; DATE_BYTES] {
    thread_local! {
        static LAST: Cell<(u64, [u8; DATE_BYTES])> = const { Cell::new((0, [0; DATE_BYTES])) };
    }
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (second, mut date) = LAST.get();
    if second != since.as_secs() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs());
        write!(&mut date[..], "{}", HttpDate::from(now)).expect("every date is as long");
        LAST.set((since.as_secs(), date));
    }
    date
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

    fn late(status: StatusCode, lines: [&[u8]; 2], manner: Manner, body: &[u8]) -> Vec<u8> {
        let mut answer = [&[0; ROOM_BYTES], body].concat();
        let begin = put_head(&mut answer, status, lines, manner);
        answer.split_off(begin)
    }

    #[test]
    fn a_head_may_have_longer_lines_than_there_is_room_for() {
        let long = [b'x'; 2 * ROOM_BYTES];
        let manner = Manner { is_old: false, persists: true };
        let answer = late(StatusCode::OK, [&long, b"\r\n"], manner, &[b'y'; 1234]);
        assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\nxx"));
        let text = std::str::from_utf8(&answer).unwrap();
        assert!(text.contains("x\r\ncontent-length: 1234\r\ndate: "), "{text}");
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
                let ours = late(StatusCode::OK, [JSON_LINES, &cors], manner, body.as_bytes());
                let theirs = by_hyper(request, || with_cors(json(StatusCode::OK, body))).await;
                assert_same(&ours, &theirs);
                for fault in &refusals {
                    let (refusal, mut body) = problem(fault).into_parts();
                    let body = body.take_finished();
                    let own = lines(&refusal.headers);
                    let ours = late(refusal.status, [&own, &cors], manner, &body);
                    assert_same(&ours, &by_hyper(request, || with_cors(problem(fault))).await);
                }
            }
        }
    }
}
