//! Which pages may talk to the edge: the `Origin` a browser adds (RFC 6454 §7), judged against the configuration and the
//! edge's own host, and the CORS answer that follows (WHATWG Fetch §3.3). Asked for every endpoint a page can reach;
//! clients that are no browsers send no Origin and pass.

use hyper::HeaderMap;
use hyper::header::{self, HeaderName, HeaderValue};

use crate::close::{Fault, Kind};
use crate::config;

/// How much of a refused Origin is kept for the log, in characters.
const SHOWN_CHARACTERS: usize = 120;

/// How long a browser may remember a preflight's answer, in seconds; none of them takes more than Chromium's two hours
/// for granted.
const PREFLIGHT_MAX_AGE: &str = "7200";

/// An entry of `origins.allow` that no browser would ever send.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "origins.allow: {0:?} is no origin; write scheme://host or scheme://host:port without a path, or \"*\""
)]
pub struct OriginError(String);

/// The pages that may connect, besides the edge's own.
#[derive(Clone, Debug)]
pub struct OriginPolicy {
    named: Vec<Site>,
    anyone: bool,
}

/// Where a request comes from, as far as a browser tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin<'a> {
    /// No browser, or a browser's request to its own site that needs no Origin.
    None,
    /// The edge's own page, or one that the operator named. Holds the header's value.
    Allowed(&'a str),
    /// Any page, because `origins.allow` has `*`: it must not act with what the browser has stored for this host.
    /// Holds the header's value.
    AllowedToAnyone(&'a str),
    /// A page that may not connect; what of its Origin can be shown in a log.
    Refused(String),
}

impl OriginPolicy {
    /// Reads `origins.allow`.
    ///
    /// # Errors
    /// The first entry that is no origin.
    pub fn new(settings: &config::Origins) -> Result<Self, OriginError> {
        let named = settings.allow.iter().filter(|entry| *entry != "*");
        let site = |entry: &String| Site::parse(entry).ok_or_else(|| OriginError(entry.clone()));
        Ok(Self {
            named: named.map(site).collect::<Result<_, _>>()?,
            anyone: settings.allow.iter().any(|entry| entry == "*"),
        })
    }

    /// Judges a request's Origin. `own_authority` is the request's `Host` or `:authority`; `tls` says whether the edge
    /// itself ended TLS. Without it a proxy may have, so that the own page is one of either scheme.
    ///
    /// Comparing with `Host` tells pages apart, not attackers who control DNS: a rebound name is its own host. Such a
    /// page holds no cookie of this edge and is a guest at best.
    pub fn judge<'a>(&self, headers: &'a HeaderMap, own_authority: Option<&str>, tls: bool) -> Origin<'a> {
        let mut values = headers.get_all(header::ORIGIN).iter();
        let Some(value) = values.next() else { return Origin::None };
        if values.next().is_some() {
            return Origin::Refused("more than one Origin header".to_owned());
        }
        let Ok(origin) = value.to_str() else {
            return Origin::Refused("an Origin that is not ASCII".to_owned());
        };
        let site = Site::parse(origin);
        let is_known = site.is_some_and(|site| {
            self.named.contains(&site) || own_authority.is_some_and(|own| site.is_own(own, tls))
        });
        if is_known {
            Origin::Allowed(origin)
        } else if self.anyone {
            // `null` (a sandboxed frame, a file) and what cannot be parsed included: `*` means everyone.
            Origin::AllowedToAnyone(origin)
        } else {
            Origin::Refused(origin.chars().take(SHOWN_CHARACTERS).collect())
        }
    }
}

impl Origin<'_> {
    /// Whether a cookie that came along may count. Without an Origin it may not: any page can make a browser send a
    /// `GET` with cookies and without an Origin.
    pub fn may_use_cookie(&self) -> bool {
        matches!(self, Self::Allowed(_))
    }

    /// The refusal, if it is one.
    ///
    /// # Errors
    /// [`Kind::OriginNotAllowed`]; the Origin itself is not repeated to the client.
    pub fn admit(&self) -> Result<(), Fault> {
        match self {
            Self::Refused(_) => {
                Err(Fault::new(Kind::OriginNotAllowed, "pages of this Origin may not connect"))
            }
            _ => Ok(()),
        }
    }

    /// Writes what an answer owes a page of this Origin. Belongs on every answer that a page can get, refusals and
    /// errors included: without it the page cannot read them. `Vary` is there even without an Origin, or a cache
    /// would give one page another's answer (WHATWG Fetch §3.3.7).
    pub fn write_cors(&self, answer: &mut HeaderMap) {
        answer.append(header::VARY, HeaderValue::from_static("Origin"));
        let (origin, with_credentials) = match self {
            Self::None | Self::Refused(_) => return,
            Self::Allowed(origin) => (origin, true),
            Self::AllowedToAnyone(origin) => (origin, false),
        };
        // It was a header's value before, so it is one again.
        let Ok(origin) = HeaderValue::from_str(origin) else { return };
        answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        if with_credentials {
            write(answer, header::ACCESS_CONTROL_ALLOW_CREDENTIALS, "true");
        }
        write(answer, header::ACCESS_CONTROL_EXPOSE_HEADERS, "Retry-After");
    }

    /// Writes the answer to a preflight (WHATWG Fetch §4.8): [`Origin::write_cors`] and what the edge's endpoints take.
    /// For a refused Origin that is nothing, and the browser stops there.
    pub fn write_preflight(&self, answer: &mut HeaderMap) {
        self.write_cors(answer);
        if matches!(self, Self::None | Self::Refused(_)) {
            return;
        }
        let taken = "Authorization, Content-Type, Idempotency-Key, Last-Event-ID";
        write(answer, header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, OPTIONS");
        write(answer, header::ACCESS_CONTROL_ALLOW_HEADERS, taken);
        write(answer, header::ACCESS_CONTROL_MAX_AGE, PREFLIGHT_MAX_AGE);
    }
}

fn write(answer: &mut HeaderMap, name: HeaderName, value: &'static str) {
    answer.insert(name, HeaderValue::from_static(value));
}

/// Scheme, host and port of an origin, in lower case and with the default port filled in: two that are equal are the
/// same origin (RFC 6454 §5).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Site {
    scheme: String,
    host: String,
    port: Option<u16>,
}

impl Site {
    /// RFC 6454 §6.2. Nothing but scheme, host and port: no path, no slash at the end, no user.
    fn parse(origin: &str) -> Option<Self> {
        let (scheme, authority) = origin.split_once("://")?;
        let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme.chars().all(|it| it.is_ascii_alphanumeric() || "+-.".contains(it));
        if !is_scheme {
            return None;
        }
        let scheme = scheme.to_ascii_lowercase();
        let (host, port) = split_authority(authority)?;
        let port = port.or_else(|| default_port(&scheme));
        Some(Self { scheme, host: host.to_ascii_lowercase(), port })
    }

    fn is_own(&self, authority: &str, tls: bool) -> bool {
        let schemes: &[&str] = if tls { &["https"] } else { &["http", "https"] };
        let Some((host, port)) = split_authority(authority) else { return false };
        schemes.contains(&self.scheme.as_str())
            && self.host.eq_ignore_ascii_case(host)
            && self.port == port.or_else(|| default_port(&self.scheme))
    }
}

/// `host` or `host:port`; an IPv6 address keeps its brackets.
fn split_authority(authority: &str) -> Option<(&str, Option<u16>)> {
    let end_of_host = if authority.starts_with('[') {
        authority.find(']')? + 1
    } else {
        authority.find(':').unwrap_or(authority.len())
    };
    let (host, rest) = authority.split_at(end_of_host);
    let inside = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_host = match inside {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.chars().all(|it| it.is_ascii_alphanumeric() || "-._~".contains(it)),
    };
    if !is_host {
        return None;
    }
    match rest.strip_prefix(':') {
        None if rest.is_empty() => Some((host, None)),
        Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some((host, Some(port.parse().ok()?)))
        }
        _ => None,
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" | "ws" => Some(80),
        "https" | "wss" => Some(443),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(allow: &[&str]) -> OriginPolicy {
        OriginPolicy::new(&config::Origins { allow: allow.iter().map(|&it| it.to_owned()).collect() })
            .unwrap()
    }

    fn head(origins: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for origin in origins {
            headers.append(header::ORIGIN, HeaderValue::from_bytes(origin.as_bytes()).unwrap());
        }
        headers
    }

    #[test]
    fn named_origins_are_compared_exactly() {
        let named = policy(&["https://app.example.com", "http://localhost:3000", "capacitor://localhost"]);
        let table = [
            ("https://app.example.com", true),
            ("HTTPS://App.Example.COM", true),
            ("https://app.example.com:443", true),
            ("http://localhost:3000", true),
            ("capacitor://localhost", true),
            ("http://app.example.com", false),
            ("https://app.example.com:8443", false),
            ("https://app.example.com.evil.com", false),
            ("https://evil-app.example.com", false),
            ("https://example.com", false),
            ("https://app.example.com/", false),
            ("https://app.example.com/path", false),
            ("https://app.example.com#", false),
            ("https://user@app.example.com", false),
            ("https://app.example.com:", false),
            ("https://app.example.com:99999", false),
            ("https://app.example.com:+443", false),
            ("https://app.example.com https://evil.com", false),
            ("http://localhost", false),
            ("http://localhost:3001", false),
            ("null", false),
            ("", false),
            ("*", false),
            ("app.example.com", false),
        ];
        for (origin, allowed) in table {
            let headers = head(&[origin]);
            let judged = named.judge(&headers, Some("edge.example.com"), true);
            let expected = if allowed { Origin::Allowed(origin) } else { Origin::Refused(origin.to_owned()) };
            assert_eq!(judged, expected);
            assert_eq!(judged.admit().is_ok(), allowed, "{origin}");
        }
    }

    #[test]
    fn the_edges_own_page_is_always_allowed() {
        let table = [
            ("https://edge.example.com", "edge.example.com", true, true),
            ("https://edge.example.com", "EDGE.example.com:443", true, true),
            ("https://edge.example.com:8443", "edge.example.com:8443", true, true),
            ("https://edge.example.com", "edge.example.com:8443", true, false),
            ("http://edge.example.com", "edge.example.com", true, false),
            ("http://edge.example.com", "edge.example.com", false, true),
            // Behind a proxy that ended TLS.
            ("https://edge.example.com", "edge.example.com", false, true),
            ("https://edge.example.com:8443", "edge.example.com:8443", false, true),
            ("https://edge.example.com", "edge.example.com:80", false, false),
            ("https://[::1]:8443", "[::1]:8443", true, true),
            ("https://[::2]:8443", "[::1]:8443", true, false),
            ("https://127.0.0.1:8443", "127.0.0.1:8443", true, true),
            ("wss://edge.example.com", "edge.example.com", true, false),
            ("null", "null", true, false),
        ];
        for (origin, own, tls, allowed) in table {
            let headers = head(&[origin]);
            let judged = policy(&[]).judge(&headers, Some(own), tls);
            assert_eq!(judged.may_use_cookie(), allowed, "{origin} {own} {tls}");
        }
        assert!(policy(&[]).judge(&head(&["https://a"]), None, true).admit().is_err());
        assert!(policy(&[]).judge(&head(&["https://a"]), Some(""), true).admit().is_err());
    }

    #[test]
    fn a_star_lets_everyone_in_without_cookies() {
        let open = policy(&["*", "https://app.example.com"]);
        for origin in ["null", "https://evil.com", "file://", "chrome-extension://abc"] {
            let headers = head(&[origin]);
            let judged = open.judge(&headers, None, true);
            assert_eq!(judged, Origin::AllowedToAnyone(origin));
            assert!(judged.admit().is_ok() && !judged.may_use_cookie());
        }
        assert!(open.judge(&head(&["https://app.example.com"]), None, true).may_use_cookie());
    }

    #[test]
    fn no_origin_passes_and_two_do_not() {
        let open = policy(&["*"]);
        let none = HeaderMap::new();
        let judged = open.judge(&none, None, true);
        assert_eq!(judged, Origin::None);
        assert!(judged.admit().is_ok() && !judged.may_use_cookie());
        for wrong in [&["https://a", "https://a"][..], &["https://ä"]] {
            assert!(matches!(open.judge(&head(wrong), None, true), Origin::Refused(_)), "{wrong:?}");
        }
        let long = "x".repeat(5000);
        let headers = head(&[&long]);
        let Origin::Refused(shown) = policy(&[]).judge(&headers, None, true) else { panic!("refused") };
        assert_eq!(shown.len(), SHOWN_CHARACTERS);
    }

    #[test]
    fn entries_that_no_browser_sends_are_errors() {
        for bad in ["https://app.example.com/", "app.example.com", "https://*.example.com", "", "null"] {
            let error = OriginPolicy::new(&config::Origins { allow: vec![bad.to_owned()] }).unwrap_err();
            assert!(error.to_string().starts_with("origins.allow: "), "{error}");
        }
    }

    #[test]
    fn an_allowed_page_may_read_its_answer() {
        let mut answer = HeaderMap::new();
        Origin::Allowed("https://app.example.com").write_cors(&mut answer);
        assert_eq!(answer["access-control-allow-origin"], "https://app.example.com");
        assert_eq!(answer["access-control-allow-credentials"], "true");
        assert_eq!(answer["access-control-expose-headers"], "Retry-After");
        assert_eq!(answer["vary"], "Origin");
        assert!(!answer.contains_key("access-control-allow-methods"));
    }

    #[test]
    fn anyones_page_reads_without_credentials() {
        let mut answer = HeaderMap::new();
        Origin::AllowedToAnyone("null").write_cors(&mut answer);
        assert_eq!(answer["access-control-allow-origin"], "null");
        assert!(!answer.contains_key("access-control-allow-credentials"));
    }

    #[test]
    fn others_get_vary_alone_and_other_varies_stay() {
        for origin in [Origin::None, Origin::Refused("https://evil.com".to_owned())] {
            let mut answer = HeaderMap::new();
            answer.insert(header::VARY, HeaderValue::from_static("Accept"));
            origin.write_preflight(&mut answer);
            assert_eq!(answer.len(), 2, "{answer:?}");
            let varies: Vec<_> = answer.get_all("vary").iter().collect();
            assert_eq!(varies, ["Accept", "Origin"]);
        }
    }

    #[test]
    fn a_preflight_names_methods_headers_and_its_age() {
        let mut answer = HeaderMap::new();
        Origin::Allowed("https://app.example.com").write_preflight(&mut answer);
        assert_eq!(answer["access-control-allow-methods"], "GET, POST, OPTIONS");
        let taken = answer["access-control-allow-headers"].to_str().unwrap().to_ascii_lowercase();
        assert_eq!(taken, "authorization, content-type, idempotency-key, last-event-id");
        assert_eq!(answer["access-control-max-age"], PREFLIGHT_MAX_AGE);
        assert_eq!(answer["access-control-allow-origin"], "https://app.example.com");
    }
}
