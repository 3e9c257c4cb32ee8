//! What a token says, once its signature is known to be good: from the payload's JSON to an [`Identity`]
//! (RFC 7519 §4.1). Called by [`Authenticator`](super::Authenticator) alone; does no cryptography.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::AuthError;
use super::grants::Grants;
use super::identity::{GUEST_PREFIX, Identity, Role};
use super::revocation::TokenId;

/// Longest `sub`, in bytes: it is in every message its owner sends.
pub const MAX_SUBJECT_BYTES: usize = 128;

/// Longest `info`, in bytes and without whitespace: it is sent once per user to everyone who watches presence.
pub const MAX_INFO_BYTES: usize = 4096;

/// How far in the future `nbf` and `iat` may lie: clocks of issuer and edge differ. `exp` has no such leeway, it can only
/// be too late.
const LEEWAY: Duration = Duration::from_secs(30);

/// Year 9999 in seconds. What lies beyond was meant in milliseconds, and would be a token that never ends.
const LATEST_DATE: f64 = 253_402_300_800.0;

/// What a good token says.
pub(super) struct Claimed {
    pub(super) user_id: Arc<str>,
    pub(super) role: Role,
    pub(super) info: Option<Arc<RawValue>>,
    pub(super) expires_at: SystemTime,
    pub(super) issued_at: u32,
    pub(super) token_id: Option<TokenId>,
    pub(super) grants: Grants,
}

/// What the operator expects of every token.
#[derive(Debug)]
pub(super) struct Expected {
    pub(super) issuer: Option<String>,
    pub(super) audience: Option<String>,
}

impl Expected {
    /// The identity that a payload describes, if it holds at that time.
    ///
    /// # Errors
    /// Which claim is missing, wrong or no longer true.
    pub(super) fn identity(&self, payload: &[u8], now: SystemTime) -> Result<Identity, AuthError> {
        // Not the parser's own words: they quote what they stumbled over.
        let claims: Claims<'_> = serde_json::from_slice(payload)
            .map_err(|_| AuthError::Claim("the claims are no JSON object of the known types"))?;
        let expires_at = date(claims.exp.ok_or(AuthError::Missing("exp"))?)?;
        // RFC 7519 §4.1.4: on or after that time the token must not be accepted.
        if expires_at <= now {
            return Err(AuthError::Expired);
        }
        if let Some(not_before) = claims.nbf
            && date(not_before)? > now + LEEWAY
        {
            return Err(AuthError::NotYetValid);
        }
        self.check_issuer(claims.iss.as_deref())?;
        self.check_audience(claims.aud)?;
        let subject = claims.sub.ok_or(AuthError::Missing("sub"))?;
        check_subject(&subject)?;
        let channels = claims.channels.unwrap_or_default();
        let grants = Grants::parse(&channels.join, &channels.send).map_err(AuthError::Claim)?;
        let info = claims.info.map(info).transpose()?;
        Ok(Identity::of_token(Claimed {
            user_id: subject.into(),
            role: role(claims.role),
            info: info.map(Arc::from),
            expires_at,
            issued_at: issued_at(claims.iat, now),
            token_id: token_id(claims.jti),
            grants,
        }))
    }

    fn check_issuer(&self, issuer: Option<&str>) -> Result<(), AuthError> {
        match (&self.issuer, issuer) {
            (None, _) => Ok(()),
            (Some(_), None) => Err(AuthError::Missing("iss")),
            (Some(expected), Some(issuer)) if expected == issuer => Ok(()),
            (Some(_), Some(_)) => Err(AuthError::WrongIssuer),
        }
    }

    /// RFC 7519 §4.1.3: one string, or an array of them of which one must be ours.
    fn check_audience(&self, audience: Option<&RawValue>) -> Result<(), AuthError> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Audience {
            One(String),
            Many(Vec<String>),
        }
        let Some(expected) = &self.audience else { return Ok(()) };
        let audience = audience.ok_or(AuthError::Missing("aud"))?;
        let ours = match serde_json::from_str(audience.get()) {
            Ok(Audience::One(audience)) => audience == *expected,
            Ok(Audience::Many(audiences)) => audiences.contains(expected),
            Err(_) => return Err(AuthError::Claim("aud is neither a string nor an array of strings")),
        };
        if ours { Ok(()) } else { Err(AuthError::WrongAudience) }
    }
}

/// The claims this edge reads. A claim that comes twice is refused by the parser: two readers of one token must not
/// see two subjects (RFC 7519 §4 allows either).
#[derive(Deserialize)]
struct Claims<'a> {
    sub: Option<String>,
    exp: Option<f64>,
    nbf: Option<f64>,
    iss: Option<String>,
    #[serde(borrow)]
    iat: Option<&'a RawValue>,
    #[serde(borrow)]
    jti: Option<&'a RawValue>,
    #[serde(borrow)]
    aud: Option<&'a RawValue>,
    channels: Option<Channels>,
    #[serde(borrow)]
    info: Option<&'a RawValue>,
    #[serde(borrow)]
    role: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Channels {
    join: Vec<String>,
    send: Vec<String>,
}

/// A `NumericDate`: seconds since 1970, a fraction allowed (RFC 7519 §2).
fn date(seconds: f64) -> Result<SystemTime, AuthError> {
    if !(0.0..LATEST_DATE).contains(&seconds) {
        return Err(AuthError::Claim("exp or nbf is no date in seconds since 1970"));
    }
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds))
}

/// In whole seconds; 0 for what is none. Nobody needs an `iat` to be let in, so one that makes no sense is as good as
/// none; one in the future would outlive every revocation.
fn issued_at(iat: Option<&RawValue>, now: SystemTime) -> u32 {
    let date = iat.and_then(|iat| serde_json::from_str(iat.get()).ok()).and_then(|iat| date(iat).ok());
    let Some(date) = date.filter(|date| *date <= now + LEEWAY) else { return 0 };
    let since = date.min(now).duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u32::try_from(since.as_secs()).unwrap_or(0)
}

/// A string (RFC 7519 §4.1.7); of issuers that count, the number as it is written.
fn token_id(jti: Option<&RawValue>) -> Option<TokenId> {
    let jti = jti?.get();
    match serde_json::from_str::<String>(jti) {
        Ok(text) => Some(TokenId::new(&text)),
        Err(_) => serde_json::from_str::<f64>(jti).is_ok().then(|| TokenId::new(jti)),
    }
}

fn check_subject(subject: &str) -> Result<(), AuthError> {
    if subject.is_empty() || subject.len() > MAX_SUBJECT_BYTES {
        return Err(AuthError::Claim("sub is not 1 to 128 bytes"));
    }
    if subject.chars().any(char::is_control) {
        return Err(AuthError::Claim("sub holds a control character"));
    }
    if subject.starts_with(GUEST_PREFIX) {
        return Err(AuthError::Claim("sub begins with guest-, which is reserved"));
    }
    Ok(())
}

/// Whatever else a `role` says is some other application's business, and gives nothing here.
fn role(role: Option<&RawValue>) -> Role {
    let role = role.and_then(|role| serde_json::from_str::<String>(role.get()).ok());
    if role.as_deref() == Some("server") { Role::Server } else { Role::User }
}

fn info(info: &RawValue) -> Result<Box<RawValue>, AuthError> {
    let compact = compact(info.get());
    if compact.len() > MAX_INFO_BYTES {
        return Err(AuthError::Claim("info is longer than 4096 bytes"));
    }
    RawValue::from_string(compact).map_err(|_| AuthError::Claim("info is no JSON"))
}

/// The same JSON without whitespace between its tokens, numbers and order of members untouched: it stands in a line
/// of an event stream, where a line break would end it. Inside a string JSON has no raw line break (RFC 8259 §7).
fn compact(json: &str) -> String {
    let (mut in_string, mut escaped) = (false, false);
    let keep = |character: &char| {
        if in_string {
            in_string = escaped || *character != '"';
            escaped = !escaped && *character == '\\';
            return true;
        }
        in_string = *character == '"';
        !matches!(character, ' ' | '\t' | '\n' | '\r')
    };
    json.chars().filter(keep).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(NOW)
    }

    /// The smallest good claims with others on top; `null` takes one away.
    fn read_with(expected: &Expected, more: &Value) -> Result<Identity, AuthError> {
        let mut claims = json!({"sub": "bob", "exp": NOW + 60});
        for (name, value) in more.as_object().unwrap() {
            claims[name] = value.clone();
        }
        expected.identity(claims.to_string().as_bytes(), now())
    }

    fn read(more: &Value) -> Result<Identity, AuthError> {
        read_with(&Expected { issuer: None, audience: None }, more)
    }

    fn refusal(more: &Value) -> AuthError {
        read(more).expect_err(&more.to_string())
    }

    #[test]
    fn the_least_is_a_subject_and_an_end() {
        let bob = read(&json!({})).unwrap();
        assert_eq!((&*bob.user_id, bob.role), ("bob", Role::User));
        assert_eq!(bob.expires_at(), Some(now() + Duration::from_mins(1)));
        assert!(bob.info.is_none());
        assert_eq!(refusal(&json!({"sub": null})), AuthError::Missing("sub"));
        assert_eq!(refusal(&json!({"exp": null})), AuthError::Missing("exp"));
    }

    #[test]
    fn a_token_ends_at_its_exp_without_leeway() {
        assert_eq!(refusal(&json!({"exp": NOW - 1})), AuthError::Expired);
        assert_eq!(refusal(&json!({"exp": NOW})), AuthError::Expired);
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let half_a_second = NOW as f64 + 0.5;
        assert!(read(&json!({"exp": half_a_second})).is_ok());
        for wrong in [json!(-1), json!(1e300), json!(NOW * 1000), json!("soon"), json!(true), json!([NOW])] {
            assert!(matches!(refusal(&json!({"exp": wrong})), AuthError::Claim(_)), "{wrong}");
        }
    }

    #[test]
    fn not_before_has_a_small_leeway() {
        assert!(read(&json!({"nbf": NOW + 30})).is_ok());
        assert_eq!(refusal(&json!({"nbf": NOW + 31})), AuthError::NotYetValid);
        assert!(matches!(refusal(&json!({"nbf": -5})), AuthError::Claim(_)));
    }

    #[test]
    fn a_time_of_issue_is_known_in_seconds_or_not_at_all() {
        let seconds = u32::try_from(NOW).unwrap();
        for (iat, issued_at) in [
            (json!(NOW - 5), seconds - 5),
            (json!(1_799_999_999.9), seconds - 1),
            // A clock that is ahead: it was not issued after it came.
            (json!(NOW + 20), seconds),
            (json!(NOW + 31), 0),
            (json!(NOW * 1000), 0),
            (json!(-1), 0),
            (json!("2027-01-15"), 0),
            (json!(null), 0),
        ] {
            assert_eq!(read(&json!({"iat": iat.clone()})).unwrap().issued_at, issued_at, "{iat}");
        }
    }

    #[test]
    fn a_token_id_is_a_string_or_else_a_number() {
        let id = |jti: serde_json::Value| read(&json!({ "jti": jti })).unwrap().token_id;
        assert_eq!(id(json!("7")), Some(TokenId::new("7")));
        assert_eq!(id(json!(7)), Some(TokenId::new("7")));
        assert_ne!(id(json!("a")), id(json!("b")));
        for none in [json!(null), json!(true), json!(["7"])] {
            assert_eq!(id(none.clone()), None, "{none}");
        }
    }

    #[test]
    fn issuer_and_audience_are_checked_where_configured() {
        let expected = Expected { issuer: Some("idp".to_owned()), audience: Some("edge".to_owned()) };
        let table = [
            (json!({"iss": "idp", "aud": "edge"}), None),
            (json!({"iss": "idp", "aud": ["other", "edge"]}), None),
            (json!({"iss": "idp", "aud": ["other"]}), Some(AuthError::WrongAudience)),
            (json!({"iss": "idp", "aud": []}), Some(AuthError::WrongAudience)),
            (json!({"iss": "idp", "aud": "edge2"}), Some(AuthError::WrongAudience)),
            (json!({"iss": "idp"}), Some(AuthError::Missing("aud"))),
            (json!({"iss": "evil", "aud": "edge"}), Some(AuthError::WrongIssuer)),
            (json!({"aud": "edge"}), Some(AuthError::Missing("iss"))),
        ];
        for (claims, refused) in table {
            assert_eq!(read_with(&expected, &claims).err(), refused, "{claims}");
        }
        assert!(matches!(
            read_with(&expected, &json!({"iss": "idp", "aud": {"edge": 1}})),
            Err(AuthError::Claim(_))
        ));
        assert!(read(&json!({"iss": "any", "aud": {"what": "ever"}})).is_ok(), "not configured, not checked");
    }

    #[test]
    fn subjects_are_short_plain_and_no_guests() {
        assert!(read(&json!({"sub": "auth0|bøb 1"})).is_ok());
        assert!(read(&json!({"sub": "s".repeat(128)})).is_ok());
        for bad in ["", &"s".repeat(129), "a\nb", "a\u{0}", "a\u{9b}", "guest-1", "guest-"] {
            assert!(matches!(refusal(&json!({"sub": bad})), AuthError::Claim(_)), "{bad:?}");
        }
        assert!(matches!(refusal(&json!({"sub": 7})), AuthError::Claim(_)));
    }

    #[test]
    fn only_the_word_server_makes_a_server() {
        assert_eq!(read(&json!({"role": "server"})).unwrap().role, Role::Server);
        for other in [json!("user"), json!("Server"), json!("authenticated"), json!(["server"]), json!(1)] {
            assert_eq!(read(&json!({"role": other})).unwrap().role, Role::User, "{other}");
        }
    }

    #[test]
    fn channels_are_read_or_the_token_is_refused() {
        let settings = crate::config::Namespace::default();
        let bob =
            read(&json!({"channels": {"join": ["chat:*"], "send": ["chat:lobby"], "later": 1}})).unwrap();
        assert!(bob.may_join(&"chat:x".parse().unwrap(), &settings));
        assert!(bob.may_send(&"chat:lobby".parse().unwrap(), &settings));
        assert!(!bob.may_send(&"chat:x".parse().unwrap(), &settings));
        assert!(read(&json!({"channels": {}})).is_ok());
        for bad in [
            json!(["chat:*"]),
            json!({"join": "chat:*"}),
            json!({"join": [1]}),
            json!({"join": ["a*b"]}),
            json!({"send": ["*:lobby"]}),
            json!({"join": vec!["a"; 200], "send": vec!["a"; 57]}),
        ] {
            assert!(matches!(refusal(&json!({"channels": bad})), AuthError::Claim(_)), "{bad}");
        }
    }

    #[test]
    fn info_is_compact_and_bounded() {
        let payload = format!(
            "{{\"sub\":\"bob\",\"exp\":{},\"info\": {{ \"z\" : \"a \\\" \\\\\" ,\r\n\t\"a\": [ 1.50, 12345678901234567890123 ] }}}}",
            NOW + 1
        );
        let expected = Expected { issuer: None, audience: None };
        let bob = expected.identity(payload.as_bytes(), now()).unwrap();
        assert_eq!(bob.info.unwrap().get(), r#"{"z":"a \" \\","a":[1.50,12345678901234567890123]}"#);
        assert!(read(&json!({"info": null})).unwrap().info.is_none());
        let fitting = "x".repeat(MAX_INFO_BYTES - 2);
        assert_eq!(read(&json!({"info": fitting})).unwrap().info.unwrap().get().len(), MAX_INFO_BYTES);
        assert!(matches!(refusal(&json!({"info": format!("{fitting}x")})), AuthError::Claim(_)));
    }

    #[test]
    fn claims_that_come_twice_or_are_no_object_are_refused() {
        let expected = Expected { issuer: None, audience: None };
        for bad in [
            r#"{"sub":"bob","sub":"eve","exp":1900000000}"#,
            r#"{"sub":"bob","exp":1900000000,"role":"user","role":"server"}"#,
            "[]",
            "null",
            "",
            "{",
            "\u{0}",
        ] {
            assert!(matches!(expected.identity(bad.as_bytes(), now()), Err(AuthError::Claim(_))), "{bad}");
        }
    }
}
