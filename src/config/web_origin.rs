//! The Origin of a web page as an operator writes it, brought into the form in which browsers send it (RFC 6454
//! §6.1): lower case, without the scheme's own port. Called for every entry of `origins.allow`.

use std::net::Ipv6Addr;

/// The origin in its normal form, `*` for any; `None` if that is no origin.
pub(super) fn normal(text: &str) -> Option<String> {
    if text == "*" {
        return Some(text.to_owned());
    }
    let (scheme, authority) = text.split_once("://")?;
    let scheme = scheme.to_ascii_lowercase();
    // RFC 3986 §3.1.
    let legal = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    if !scheme.starts_with(|c: char| c.is_ascii_alphabetic()) || !scheme.chars().all(legal) {
        return None;
    }
    let (host, port) = split_port(authority)?;
    let host = host.to_ascii_lowercase();
    if !is_host(&host) {
        return None;
    }
    match (scheme.as_str(), port) {
        (_, None) | ("http", Some(80)) | ("https", Some(443)) => Some(format!("{scheme}://{host}")),
        (_, Some(port)) => Some(format!("{scheme}://{host}:{port}")),
    }
}

fn split_port(authority: &str) -> Option<(&str, Option<u16>)> {
    // The colons of an IPv6 address stand in brackets (RFC 3986 §3.2.2).
    let after_host = authority.rfind(']').map_or(0, |at| at + 1);
    let Some(colon) = authority[after_host..].find(':').map(|at| at + after_host) else {
        return Some((authority, None));
    };
    let digits = &authority[colon + 1..];
    let port = digits.parse().ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    Some((&authority[..colon], Some(port)))
}

fn is_host(host: &str) -> bool {
    match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c)),
    }
}

#[cfg(test)]
mod tests {
    use super::normal;

    #[test]
    fn an_origin_is_what_a_browser_would_send() {
        for (written, sent) in [
            ("*", "*"),
            ("https://app.example.com", "https://app.example.com"),
            ("HTTPS://App.Example.COM:443", "https://app.example.com"),
            ("http://localhost:80", "http://localhost"),
            ("http://localhost:3000", "http://localhost:3000"),
            ("https://localhost:80", "https://localhost:80"),
            ("https://[::1]:8443", "https://[::1]:8443"),
            ("capacitor://localhost", "capacitor://localhost"),
        ] {
            assert_eq!(normal(written).as_deref(), Some(sent), "{written}");
        }
    }

    #[test]
    fn what_no_browser_sends_is_no_origin() {
        for written in [
            "",
            "null",
            "app.example.com",
            "https://",
            "https://app.example.com/",
            "https://app.example.com/path",
            "https://*.example.com",
            "https://user@example.com",
            "https://example.com?x",
            "https://exämple.com",
            "https://example.com:",
            "https://example.com:+1",
            "https://example.com:65536",
            "https://[::g]",
            "https://a:1:2",
            "1http://a",
        ] {
            assert_eq!(normal(written), None, "{written}");
        }
    }
}
