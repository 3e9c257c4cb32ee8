//! The form of a request as such, before anybody asks what it is for: where it says it goes, and how its body is
//! framed. What hyper lets pass and RFC 9110, 9112 or 9113 does not is refused here, by the router's first question.

use std::net::Ipv6Addr;

use hyper::http::request::Parts;
use hyper::{Method, Version, header};

use crate::close::{Fault, Kind};

/// No method in the registry of RFC 9110 §16.1.1 is longer than 17 bytes, and a refusal repeats it.
const METHOD_BYTES_MAX: usize = 32;

/// Whether the request may be looked at.
///
/// # Errors
/// Malformed, or [`Kind::NotImplemented`]. In HTTP/1 the connection had better end with it: how the next request would
/// be read is a matter of opinion (RFC 9112 §11.2).
pub fn check(head: &Parts) -> Result<(), Fault> {
    check_method(head)?;
    check_target(head)?;
    check_host(head)?;
    check_coding(head)
}

/// Which host the request is for. An authority in the target, as HTTP/2 has it in `:authority` (RFC 9113 §8.3.1) and a
/// request to a proxy in its absolute form, wins over `Host` (RFC 9112 §3.2.2).
pub fn authority(head: &Parts) -> Option<&str> {
    let target = head.uri.authority().map(hyper::http::uri::Authority::as_str);
    target.or_else(|| head.headers.get(header::HOST).and_then(|host| host.to_str().ok()))
}

/// RFC 9110 §9.1, RFC 9112 §3.
fn check_method(head: &Parts) -> Result<(), Fault> {
    if head.method.as_str().len() > METHOD_BYTES_MAX {
        return Err(Fault::new(Kind::NotImplemented, "no method has such a long name"));
    }
    Ok(())
}

/// RFC 9112 §3.2: the asterisk is for `OPTIONS`, a bare authority for `CONNECT`, and the edge is no server of other
/// schemes.
fn check_target(head: &Parts) -> Result<(), Fault> {
    let uri = &head.uri;
    // RFC 3986 §2: what is not ASCII is percent-encoded.
    if !uri.path().is_ascii() || !uri.query().unwrap_or_default().is_ascii() {
        return Err(Fault::malformed("the target is not ASCII"));
    }
    if uri.path() == "*" && head.method != Method::OPTIONS {
        return Err(Fault::malformed("the target * is for OPTIONS only"));
    }
    if uri.scheme().is_none() && uri.authority().is_some() && head.method != Method::CONNECT {
        return Err(Fault::malformed("a target that is only an authority is for CONNECT"));
    }
    // RFC 9112 §3.2.3, RFC 9113 §8.5.
    if uri.authority().is_none() && head.method == Method::CONNECT {
        return Err(Fault::malformed("a CONNECT without an authority"));
    }
    if uri.scheme_str().is_some_and(|scheme| !matches!(scheme, "http" | "https")) {
        return Err(Fault::malformed("the target's scheme is neither http nor https"));
    }
    Ok(())
}

/// RFC 9112 §3.2: exactly one `Host` in HTTP/1.1, never two, never one that is no host. In HTTP/2 it must not contradict
/// `:authority` (RFC 9113 §8.3.1).
fn check_host(head: &Parts) -> Result<(), Fault> {
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() || (host.is_none() && head.version == Version::HTTP_11) {
        return Err(Fault::malformed("the request has not one Host"));
    }
    let host = host.map(|host| host.to_str().ok().filter(|host| is_host(host)).ok_or_else(no_host));
    let host = host.transpose()?;
    let target = head.uri.authority().map(hyper::http::uri::Authority::as_str);
    if target.is_some_and(|authority| !is_host(authority)) {
        return Err(no_host());
    }
    match (host, target) {
        (Some(host), Some(target)) if head.version == Version::HTTP_2 && !is_same(host, target, head) => {
            Err(Fault::malformed("Host is another than :authority"))
        }
        _ => Ok(()),
    }
}

/// RFC 9112 §6.1: chunked, once; the edge decodes no other transfer coding. In HTTP/2 the header is malformed, which
/// is said before this.
fn check_coding(head: &Parts) -> Result<(), Fault> {
    let mut chunked = 0;
    for value in head.headers.get_all(header::TRANSFER_ENCODING) {
        for coding in value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            if coding.eq_ignore_ascii_case(b"chunked") {
                chunked += 1;
            } else if !coding.is_empty() {
                return Err(Fault::new(Kind::NotImplemented, "the only transfer coding here is chunked"));
            }
        }
    }
    if chunked > 1 {
        return Err(Fault::malformed("the transfer coding chunked is applied twice"));
    }
    Ok(())
}

fn no_host() -> Fault {
    Fault::malformed("the request's Host is no host")
}

/// The same host and port; a port that goes without saying may be said.
fn is_same(host: &str, target: &str, head: &Parts) -> bool {
    let port = if head.uri.scheme_str() == Some("http") { ":80" } else { ":443" };
    let bare = |authority: &str| authority.strip_suffix(port).unwrap_or(authority).to_ascii_lowercase();
    bare(host) == bare(target)
}

/// `uri-host [":" port]` (RFC 9110 §7.2, RFC 3986 §3.2.2); empty where the target has no authority.
fn is_host(value: &str) -> bool {
    let (is_name, port) = if let Some(rest) = value.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else { return false };
        (address.parse::<Ipv6Addr>().is_ok(), port)
    } else {
        let (name, port) = value.split_at(value.find(':').unwrap_or(value.len()));
        (is_reg_name(name.as_bytes()), port)
    };
    let is_port = match port.strip_prefix(':') {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_digit()),
        None => port.is_empty(),
    };
    is_name && is_port
}

fn is_reg_name(mut name: &[u8]) -> bool {
    while let [first, rest @ ..] = name {
        name = match (first, rest) {
            (b'%', [high, low, rest @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => rest,
            (byte, rest) if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(byte) => rest,
            _ => return false,
        };
    }
    true
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    fn verdict(request: hyper::http::request::Builder) -> Result<(), Kind> {
        check(&request.body(()).unwrap().into_parts().0).map_err(|fault| fault.kind)
    }

    fn request(method: &str, target: &str) -> hyper::http::request::Builder {
        Request::builder().method(method).uri(target)
    }

    #[test]
    fn a_host_is_a_host() {
        for good in
            ["", "localhost", "a.b:1", "a:", "[::1]", "[::1]:443", "a,b", "a_b", "%41", "1.2.3.4:65536"]
        {
            assert!(is_host(good), "{good}");
        }
        for bad in
            ["a b", "a/b", "u@h", "a:b", "http://a", "a?b", "a#b", "[::1", "[x]", "[::1]x", "%4", "a:1:2"]
        {
            assert!(!is_host(bad), "{bad}");
        }
    }

    #[test]
    fn one_host_and_the_same_as_the_target() {
        let plain = || request("GET", "/");
        assert_eq!(verdict(plain()), Err(Kind::Malformed));
        assert_eq!(verdict(plain().header("host", "a")), Ok(()));
        assert_eq!(verdict(plain().version(Version::HTTP_10)), Ok(()));
        let twice = plain().header("host", "a").header("host", "a");
        assert_eq!(verdict(twice.version(Version::HTTP_10)), Err(Kind::Malformed));
        let h2 = || request("GET", "https://a/").version(Version::HTTP_2);
        assert_eq!(verdict(h2()), Ok(()));
        assert_eq!(verdict(h2().header("host", "A:443")), Ok(()));
        assert_eq!(verdict(h2().header("host", "b")), Err(Kind::Malformed));
        // RFC 9112 §3.2.2: in HTTP/1.1 it is ignored.
        let absolute = request("GET", "http://a/").header("host", "b").body(()).unwrap().into_parts().0;
        assert!(check(&absolute).is_ok());
        assert_eq!(authority(&absolute), Some("a"));
    }

    #[test]
    fn targets_have_the_form_of_their_method() {
        for (method, target, expected) in [
            ("OPTIONS", "*", Ok(())),
            ("GET", "*", Err(Kind::Malformed)),
            ("GET", "a:1", Err(Kind::Malformed)),
            ("CONNECT", "a:1", Ok(())),
            ("CONNECT", "/", Err(Kind::Malformed)),
            ("GET", "ftp://a/", Err(Kind::Malformed)),
            ("GET", "/\u{e9}", Err(Kind::Malformed)),
            ("GET", "/?\u{e9}", Err(Kind::Malformed)),
            ("GET", "http://u@a/", Err(Kind::Malformed)),
            (&"G".repeat(33), "/", Err(Kind::NotImplemented)),
        ] {
            assert_eq!(verdict(request(method, target).header("host", "a")), expected, "{method} {target}");
        }
    }

    #[test]
    fn chunked_once_and_nothing_else() {
        for (codings, expected) in [
            (&["chunked"][..], Ok(())),
            (&["Chunked "], Ok(())),
            (&[", chunked"], Ok(())),
            (&["chunked", "chunked"], Err(Kind::Malformed)),
            (&["chunked, chunked"], Err(Kind::Malformed)),
            (&["gzip, chunked"], Err(Kind::NotImplemented)),
            (&["identity", "chunked"], Err(Kind::NotImplemented)),
        ] {
            let coded = codings.iter().fold(request("POST", "/").header("host", "a"), |request, coding| {
                request.header("transfer-encoding", *coding)
            });
            assert_eq!(verdict(coded), expected, "{codings:?}");
        }
    }
}
