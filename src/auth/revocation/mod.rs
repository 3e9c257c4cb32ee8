//! Tokens that are taken back before they run out: one by its `jti`, or all that a user has by its `sub`. Every node
//! has all of them in its [`Revocations`], is told of each by whoever stores them, and asks there whenever it sees a token.

mod marks;
mod table;

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

pub(super) use marks::TokenId;
pub use marks::{Marks, Revoked};
pub use table::{MAX_REVOCATIONS, Revocations};

use super::claims::MAX_SUBJECT_BYTES;
use super::identity::GUEST_PREFIX;

/// Longest `jti` that can be revoked, in bytes: it becomes a part of a subject of NATS.
pub const MAX_TOKEN_ID_BYTES: usize = 256;

/// How long a revocation lasts unless it is told: longer than most tokens.
pub const REVOCATION_DEFAULT: Duration = Duration::from_hours(24);

/// How long a revocation can last: whatever stores them for the nodes that start later keeps them for as long.
pub const REVOCATION_MAX: Duration = Duration::from_hours(31 * 24);

/// Which tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Those of the user with that `sub` that were issued until then.
    User(Box<str>),
    /// The one with that `jti`.
    Token(Box<str>),
}

/// Why a revocation makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RevocationError {
    /// Such a `sub` no token can have.
    #[error("sub is not 1 to 128 bytes, or that of a guest, who has no token")]
    Subject,
    /// Such a `jti` can't be stored.
    #[error("jti is not 1 to 256 bytes")]
    TokenId,
    /// Shorter than a second, or longer than [`REVOCATION_MAX`].
    #[error("a revocation lasts from 1 second to 31 days")]
    Length,
}

/// Some tokens are good no more, until a time at which they have run out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    whose: Whose,
    span: Span,
}

/// When it was revoked, and until when that holds: milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Span {
    at: u64,
    until: u64,
}

impl Whose {
    /// Of that user.
    ///
    /// # Errors
    /// [`RevocationError::Subject`]
    pub fn user(sub: &str) -> Result<Self, RevocationError> {
        let is_one = (1..=MAX_SUBJECT_BYTES).contains(&sub.len()) && !sub.starts_with(GUEST_PREFIX);
        if is_one { Ok(Self::User(sub.into())) } else { Err(RevocationError::Subject) }
    }

    /// Of that id.
    ///
    /// # Errors
    /// [`RevocationError::TokenId`]
    pub fn token(jti: &str) -> Result<Self, RevocationError> {
        let is_one = (1..=MAX_TOKEN_ID_BYTES).contains(&jti.len());
        if is_one { Ok(Self::Token(jti.into())) } else { Err(RevocationError::TokenId) }
    }
}

impl Revocation {
    /// Of the tokens that are out now, for that long.
    ///
    /// # Errors
    /// [`RevocationError::Length`]
    ///
    /// # Panics
    /// Never: the longest is 31 days.
    pub fn now(whose: Whose, lasting: Duration) -> Result<Self, RevocationError> {
        if !(Duration::from_secs(1)..=REVOCATION_MAX).contains(&lasting) {
            return Err(RevocationError::Length);
        }
        let at = milliseconds(SystemTime::now());
        let until = at + u64::try_from(lasting.as_millis()).expect("31 days are few milliseconds");
        Ok(Self { whose, span: Span { at, until } })
    }

    /// Of whose tokens.
    pub fn whose(&self) -> &Whose {
        &self.whose
    }

    /// Since when.
    pub fn at(&self) -> SystemTime {
        time(self.span.at)
    }

    /// Until when.
    pub fn until(&self) -> SystemTime {
        time(self.span.until)
    }

    /// Its name where it is stored: of letters, digits, `-`, `_` and one dot.
    pub fn key(&self) -> String {
        let (kind, text) = match &self.whose {
            Whose::User(sub) => ("sub", sub),
            Whose::Token(jti) => ("jti", jti),
        };
        format!("{kind}.{}", URL_SAFE_NO_PAD.encode(text.as_bytes()))
    }

    /// What is stored under that name.
    ///
    /// # Panics
    /// Never: two numbers are JSON.
    pub fn value(&self) -> Vec<u8> {
        serde_json::to_vec(&self.span).expect("two numbers are JSON")
    }

    /// What was stored; `None` if it was no revocation.
    pub fn read(key: &str, value: &[u8]) -> Option<Self> {
        let (kind, text) = key.split_once('.')?;
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
        let whose = match kind {
            "sub" => Whose::user(&text),
            "jti" => Whose::token(&text),
            _ => return None,
        };
        Some(Self { whose: whose.ok()?, span: serde_json::from_slice(value).ok()? })
    }

    /// Both in one, where it is of the same tokens: none of the two ends sooner for the other.
    #[must_use]
    pub fn with(self, earlier: Option<&Self>) -> Self {
        let span = earlier.filter(|earlier| earlier.whose == self.whose).map(|earlier| earlier.span);
        Self { span: self.span.with(span), ..self }
    }
}

impl Span {
    fn with(self, other: Option<Self>) -> Self {
        other.map_or(self, |other| Self { at: self.at.max(other.at), until: self.until.max(other.until) })
    }

    fn holds(self, now: u64) -> bool {
        now < self.until
    }
}

fn milliseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// What was stored may be any number: no clock goes beyond the year 9999.
fn time(milliseconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds.min(253_402_300_799_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_user(sub: &str) -> Revocation {
        Revocation::now(Whose::user(sub).unwrap(), REVOCATION_DEFAULT).unwrap()
    }

    fn of_token(jti: &str) -> Revocation {
        Revocation::now(Whose::token(jti).unwrap(), REVOCATION_DEFAULT).unwrap()
    }

    #[test]
    fn what_is_stored_is_read_back() {
        for revocation in [of_user("auth0|b\u{f8}b *.>"), of_token("8f14.e45f"), of_token(&"j".repeat(256))] {
            let key = revocation.key();
            assert!(key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)), "{key}");
            assert_eq!(key.matches('.').count(), 1, "{key}");
            assert_eq!(Revocation::read(&key, &revocation.value()), Some(revocation));
        }
        let value = of_user("bob").value();
        for key in ["", "sub", "sub.", "sub.!", "aud.Ym9i", "sub.Z3Vlc3QtMQ"] {
            assert_eq!(Revocation::read(key, &value), None, "{key}");
        }
        for noise in ["", "{}", "null", r#"{"at":-1,"until":2}"#] {
            assert_eq!(Revocation::read("sub.Ym9i", noise.as_bytes()), None, "{noise}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (sub, is_one) in [("", false), ("b", true), (&*"s".repeat(128), true), (&*"s".repeat(129), false)]
        {
            assert_eq!(Whose::user(sub).is_ok(), is_one, "{sub}");
        }
        assert_eq!(Whose::user("guest-1"), Err(RevocationError::Subject));
        assert_eq!(Whose::token(&"j".repeat(257)), Err(RevocationError::TokenId));
        for wrong in [Duration::ZERO, Duration::from_millis(999), REVOCATION_MAX + Duration::from_millis(1)] {
            let refused = Revocation::now(Whose::user("bob").unwrap(), wrong);
            assert_eq!(refused, Err(RevocationError::Length), "{wrong:?}");
        }
    }
}
