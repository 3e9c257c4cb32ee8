//! Finds the one credential a request presents, wherever a client of its kind can put one: backends use a header,
//! a browser's WebSocket a subprotocol, a ticket, a query or a cookie. Called once per request or handshake; verifies
//! nothing.

use std::fmt;

use form_urlencoded::parse;
use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, COOKIE as COOKIE_HEADER, HeaderName, SEC_WEBSOCKET_PROTOCOL};

use super::AuthError;

/// The cookie a token may come in. The prefix makes browsers hold it to `Secure`, `Path=/` and no `Domain`
/// (RFC 6265bis §4.1.3.2), so that no sibling host can plant one.
pub const COOKIE: &str = "__Host-tidegate";

/// What stands before a token that comes as a WebSocket subprotocol. Such an offer is never selected in the answer:
/// the answer would repeat the token.
pub const SUBPROTOCOL_PREFIX: &str = "tidegate.bearer.";

/// Where a credential was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// `Authorization: Bearer TOKEN`.
    Header,
    /// `Sec-WebSocket-Protocol: tidegate.bearer.TOKEN`.
    Subprotocol,
    /// `?ticket=TICKET`.
    Ticket,
    /// `?token=TOKEN`.
    Query,
    /// The cookie `__Host-tidegate`. A browser sends it whoever's page asks: it counts only with an
    /// [`Origin`](super::Origin) that may use credentials.
    Cookie,
}

/// A token or ticket that no log can show: `Debug` hides it, and there is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The secret itself, for those who verify it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(secret: String) -> Self {
        Self(secret)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// What a client presents to say who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// Where it was.
    pub source: Source,
    /// The ticket if `source` is [`Source::Ticket`], else the token.
    pub secret: Secret,
}

/// The credential of a request. Where there are several the more deliberate one counts, the others are not looked at:
/// header, subprotocol, ticket, query, cookie (which a browser adds by itself).
///
/// # Errors
/// The place that counts holds something else than one credential. A client that means to be somebody must not
/// become a guest by a slip.
pub fn find(headers: &HeaderMap, query: Option<&str>) -> Result<Option<Credential>, AuthError> {
    let query = query.unwrap_or_default();
    let places: [(Source, &dyn Fn() -> Found); 5] = [
        (Source::Header, &|| bearer(headers)),
        (Source::Subprotocol, &|| subprotocol(headers)),
        (Source::Ticket, &|| parameter(query, "ticket")),
        (Source::Query, &|| parameter(query, "token")),
        (Source::Cookie, &|| cookie(headers)),
    ];
    for (source, look) in places {
        if let Some(secret) = look()? {
            if secret.is_empty() {
                return Err(AuthError::Credential("it is empty"));
            }
            return Ok(Some(Credential { source, secret: Secret(secret) }));
        }
    }
    Ok(None)
}

type Found = Result<Option<String>, AuthError>;

/// RFC 6750 §2.1; the scheme's case does not matter (RFC 9110 §11.1).
fn bearer(headers: &HeaderMap) -> Found {
    const REFUSED: AuthError = AuthError::Credential("Authorization is not one Bearer token");
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(REFUSED);
    }
    let value = value.as_bytes().trim_ascii();
    let (scheme, token) = value.split_at(value.iter().position(|byte| *byte == b' ').unwrap_or(value.len()));
    let token = token.trim_ascii_start();
    // No early end, so that it is a few instructions for all of it.
    let odd = token.iter().fold(0, |odd, byte| odd | u8::from(!byte.is_ascii_graphic() || *byte == b','));
    if !scheme.eq_ignore_ascii_case(b"bearer") || odd != 0 {
        return Err(REFUSED);
    }
    text(token).map(Some)
}

/// RFC 6455 §11.3.4: a list, in one header line or in several.
fn subprotocol(headers: &HeaderMap) -> Found {
    let offers = lines(headers, &SEC_WEBSOCKET_PROTOCOL).flat_map(|line| line.split(|&byte| byte == b','));
    let tokens = offers.filter_map(|offer| offer.trim_ascii().strip_prefix(SUBPROTOCOL_PREFIX.as_bytes()));
    the_only(tokens.map(text))
}

fn parameter(query: &str, name: &str) -> Found {
    the_only(parse(query.as_bytes()).filter(|(key, _)| key == name).map(|(_, value)| Ok(value.into_owned())))
}

/// RFC 6265 §4.2.1; HTTP/2 may split the header into one per cookie (RFC 9113 §8.2.3). Other cookies may hold any
/// bytes and are none of our business.
fn cookie(headers: &HeaderMap) -> Found {
    let pairs = lines(headers, &COOKIE_HEADER).flat_map(|line| line.split(|&byte| byte == b';'));
    let values =
        pairs.filter_map(|pair| pair.trim_ascii().strip_prefix(COOKIE.as_bytes())?.strip_prefix(b"="));
    let unquoted = values
        .map(|value| value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value));
    the_only(unquoted.map(text))
}

fn lines<'a>(headers: &'a HeaderMap, name: &'static HeaderName) -> impl Iterator<Item = &'a [u8]> {
    headers.get_all(name).iter().map(hyper::header::HeaderValue::as_bytes)
}

fn text(bytes: &[u8]) -> Result<String, AuthError> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| AuthError::Credential("it is not text"))
}

/// The same twice is one; two different ones leave open who is meant.
fn the_only(mut found: impl Iterator<Item = Result<String, AuthError>>) -> Found {
    let Some(first) = found.next().transpose()? else { return Ok(None) };
    for other in found {
        if other? != first {
            return Err(AuthError::Credential("there are two in the same place"));
        }
    }
    Ok(Some(first))
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;
    use crate::close::{Fault, Kind};

    const SECRET: &str = "eyJh.ZZ-_.c2VjcmV0";

    fn head(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    #[track_caller]
    fn finds(lines: &[(&'static str, &str)], query: &str, source: Source, secret: &str) {
        let found = find(&head(lines), Some(query)).unwrap().unwrap();
        assert_eq!((found.source, found.secret.expose()), (source, secret), "{lines:?} {query}");
    }

    #[test]
    fn nothing_is_nothing() {
        assert_eq!(find(&HeaderMap::new(), None), Ok(None));
        let others = head(&[("cookie", "a=b; tidegate=x"), ("sec-websocket-protocol", "tidegate.v1.json")]);
        assert_eq!(find(&others, Some("channels=a&tokens=x&TOKEN=y")), Ok(None));
    }

    #[test]
    fn each_place_is_found() {
        for header in ["Bearer T0K.x", "bearer T0K.x", "BEARER   T0K.x "] {
            finds(&[("authorization", header)], "", Source::Header, "T0K.x");
        }
        let offer = "tidegate.v1.json, tidegate.bearer.T0K.x";
        finds(&[("sec-websocket-protocol", offer)], "", Source::Subprotocol, "T0K.x");
        let two_lines = [
            ("sec-websocket-protocol", "tidegate.bearer.T0K.x"),
            ("sec-websocket-protocol", "tidegate.v1.json"),
        ];
        finds(&two_lines, "", Source::Subprotocol, "T0K.x");
        finds(&[], "channels=a%2Cb&token=T0K%2Ex", Source::Query, "T0K.x");
        finds(&[], "ticket=abc", Source::Ticket, "abc");
        finds(&[("cookie", "a=b; __Host-tidegate=T0K.x;c=d")], "", Source::Cookie, "T0K.x");
        finds(&[("cookie", "a=b"), ("cookie", "__Host-tidegate=\"T0K.x\"")], "", Source::Cookie, "T0K.x");
        finds(&[("cookie", "ü=ö; __Host-tidegate=T0K.x")], "", Source::Cookie, "T0K.x");
    }

    #[test]
    fn the_more_deliberate_place_counts() {
        let cookie = ("cookie", "__Host-tidegate=c");
        let protocol = ("sec-websocket-protocol", "tidegate.bearer.p");
        let header = ("authorization", "Bearer h");
        finds(&[cookie, protocol, header], "token=q&ticket=t", Source::Header, "h");
        finds(&[cookie, protocol], "token=q&ticket=t", Source::Subprotocol, "p");
        finds(&[cookie], "token=q&ticket=t", Source::Ticket, "t");
        finds(&[cookie], "token=q", Source::Query, "q");
        // What is not looked at cannot be wrong.
        finds(&[header], "token=", Source::Header, "h");
    }

    #[test]
    fn a_slip_is_refused_and_never_a_guest() {
        let wrong: [(&[(&'static str, &str)], &str); 12] = [
            (&[("authorization", "Basic Ym9iOng=")], ""),
            (&[("authorization", "Bearer")], ""),
            (&[("authorization", "Bearer ")], ""),
            (&[("authorization", "")], ""),
            (&[("authorization", "Bearer a b")], ""),
            (&[("authorization", "Bearer a, Basic b")], ""),
            (&[("authorization", "Bearer a"), ("authorization", "Bearer a")], ""),
            (&[("authorization", "Bearer ü")], ""),
            (&[("sec-websocket-protocol", "tidegate.bearer.")], ""),
            (&[("cookie", "__Host-tidegate=a; __Host-tidegate=b")], ""),
            (&[], "token="),
            (&[], "token=a&token=b"),
        ];
        for (lines, query) in wrong {
            let error = find(&head(lines), Some(query)).expect_err(&format!("{lines:?} {query}"));
            assert_eq!(Fault::from(error).kind, Kind::AuthenticationFailed);
        }
        finds(&[], "token=a&token=a", Source::Query, "a");
    }

    #[test]
    fn no_rendering_shows_the_secret() {
        let found = find(&HeaderMap::new(), Some(&format!("token={SECRET}"))).unwrap().unwrap();
        for shown in [format!("{found:?}"), format!("{:#?}", Some(&found)), format!("{:?}", found.secret)] {
            assert!(!shown.contains("eyJ") && !shown.contains("c2Vj"), "{shown}");
        }
        let error = find(&head(&[("authorization", &format!("Token {SECRET}"))]), None).unwrap_err();
        assert!(!format!("{error} {error:?} {}", Fault::from(error)).contains("eyJ"));
    }
}
