//! An edge that says no, in any of the forms in which it says so: a problem document (RFC 9457), an `error` envelope,
//! a WebSocket close. It decides whether coming back makes sense, and when.

use std::fmt;
use std::time::Duration;

use hyper::header::RETRY_AFTER;
use hyper::http::response::Parts;
use serde::Deserialize;

/// What the edge said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Refusal {
    /// The HTTP status; 0 on a WebSocket.
    status: u16,
    /// The edge's own code; 0 where it gave none.
    code: u16,
    /// A word that a program may match on.
    reason: String,
    /// A sentence for a person.
    detail: String,
    retry_after_ms: Option<u64>,
}

impl std::error::Error for Refusal {}

impl Refusal {
    /// From an answer that is no success.
    pub(in crate::commands) fn from_answer(head: &Parts, body: &[u8]) -> Self {
        let mut refusal: Self = serde_json::from_slice(body).unwrap_or_else(|_| Self {
            // Of a proxy's page, the beginning.
            detail: String::from_utf8_lossy(body).trim().chars().take(200).collect(),
            ..Self::default()
        });
        refusal.status = head.status.as_u16();
        let seconds =
            head.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        let in_ms = seconds.map(|seconds| seconds.saturating_mul(1000));
        refusal.retry_after_ms = refusal.retry_after_ms.or(in_ms);
        refusal
    }

    /// From the code and reason of a close frame: `restart;retry=MS`, or a plain word.
    pub(in crate::commands) fn from_close(code: u16, reason: &str) -> Self {
        let (word, hint) = reason.split_once(';').unwrap_or((reason, ""));
        let retry_after_ms = hint.strip_prefix("retry=").and_then(|ms| ms.parse().ok());
        Self { code, reason: word.to_owned(), retry_after_ms, ..Self::default() }
    }

    /// From the payload of an `error` envelope.
    pub(in crate::commands) fn from_error(
        code: u16,
        reason: String,
        detail: String,
        retry_after_ms: Option<u64>,
    ) -> Self {
        Self { status: 0, code, reason, detail, retry_after_ms }
    }

    /// Takes over what an earlier `error` envelope said about the same.
    pub(in crate::commands) fn explained_by(self, earlier: Option<Self>) -> Self {
        match earlier {
            Some(earlier) if earlier.code == self.code => {
                Self { retry_after_ms: self.retry_after_ms.or(earlier.retry_after_ms), ..earlier }
            }
            _ => self,
        }
    }

    /// When to come again, if the edge said so.
    pub(in crate::commands) fn retry_after(&self) -> Option<Duration> {
        self.retry_after_ms.map(Duration::from_millis)
    }

    /// Whether the same request can succeed later without any change to it.
    pub(in crate::commands) fn is_temporary(&self) -> bool {
        match self.code {
            0 => self.status == 429 || self.status >= 500,
            4004 => true,
            4000 => self.reason == "internal",
            // Below 4000 are the ends that RFC 6455 §7.4.1 and its registry know: restart, overload, or a mistake
            // on one side that the next connection need not repeat.
            code => code < 4000,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("refused:")?;
        for number in [self.status, self.code] {
            if number != 0 {
                write!(f, " {number}")?;
            }
        }
        if !self.reason.is_empty() {
            write!(f, " {}", self.reason)?;
        }
        if self.detail.is_empty() { Ok(()) } else { write!(f, ": {}", self.detail) }
    }
}

#[cfg(test)]
mod tests {
    use hyper::Response;

    use super::*;

    fn answer(status: u16, retry_after: Option<&str>, body: &str) -> Refusal {
        let mut response = Response::builder().status(status);
        if let Some(seconds) = retry_after {
            response = response.header(RETRY_AFTER, seconds);
        }
        Refusal::from_answer(&response.body(()).unwrap().into_parts().0, body.as_bytes())
    }

    #[test]
    fn a_problem_document_is_read() {
        let body = r#"{"type":"about:blank","title":"Rate limit exceeded","status":429,"code":4004,
                       "reason":"rate_limited","detail":"the quota is used up","retry_after_ms":600}"#;
        let refusal = answer(429, Some("1"), body);
        assert_eq!(refusal.to_string(), "refused: 429 4004 rate_limited: the quota is used up");
        assert_eq!(refusal.retry_after(), Some(Duration::from_millis(600)), "the finer of the two hints");
        assert!(refusal.is_temporary());
    }

    #[test]
    fn so_is_what_a_proxy_says() {
        let refusal = answer(502, Some("3"), "<h1>Bad gateway</h1>\n");
        assert_eq!(refusal.to_string(), "refused: 502: <h1>Bad gateway</h1>");
        assert_eq!((refusal.retry_after(), refusal.is_temporary()), (Some(Duration::from_secs(3)), true));
        assert!(!answer(404, None, "").is_temporary());
        assert_eq!(answer(404, None, "").to_string(), "refused: 404");
        assert_eq!(answer(503, Some("Wed, 21 Oct 2015 07:28:00 GMT"), "").retry_after(), None);
    }

    #[test]
    fn a_close_says_whether_to_come_back() {
        let restart = Refusal::from_close(1012, "restart;retry=1500");
        assert_eq!(
            (restart.is_temporary(), restart.retry_after()),
            (true, Some(Duration::from_millis(1500)))
        );
        assert_eq!(restart.to_string(), "refused: 1012 restart");
        for (code, reason, temporary) in [
            (1006, "", true),
            (1011, "", true),
            (1013, "slow_consumer", true),
            (4000, "internal", true),
            (4000, "malformed", false),
            (4001, "authentication_required", false),
            (4002, "authentication_failed", false),
            (4003, "origin_not_allowed", false),
            (4004, "rate_limited", true),
            (4005, "message_too_large", false),
        ] {
            assert_eq!(Refusal::from_close(code, reason).is_temporary(), temporary, "{code} {reason}");
        }
    }

    #[test]
    fn a_close_is_explained_by_the_envelope_before_it() {
        let envelope = Refusal {
            code: 4002,
            reason: "authentication_failed".to_owned(),
            detail: "the token has expired".to_owned(),
            ..Refusal::default()
        };
        let close = || Refusal::from_close(4002, "authentication_failed");
        assert_eq!(close().explained_by(Some(envelope.clone())), envelope);
        assert_eq!(close().explained_by(None), close());
        let other = Refusal { code: 4000, ..envelope };
        assert_eq!(close().explained_by(Some(other)), close());
    }
}
