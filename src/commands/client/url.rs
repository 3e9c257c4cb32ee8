//! The URL under which an edge is reached, parsed once at the command line.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use hyper::Uri;
use tokio_rustls::rustls::pki_types::ServerName;

/// `http://` or `https://`, a host, maybe a port, maybe a path below which the edge is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EdgeUrl {
    /// Whether it is `https`.
    pub(super) tls: bool,
    /// Host and, if it is not the scheme's own, port: as in the `Host` field.
    pub(super) authority: String,
    /// A name or an address, this without brackets.
    pub(super) host: String,
    /// Where to connect.
    pub(super) port: u16,
    /// Empty, or begins with `/` and does not end with one.
    pub(super) path: String,
}

/// Why a text is no such URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be http://HOST or https://HOST, with :PORT and a path where they are needed")]
pub(crate) struct NoUrl;

impl EdgeUrl {
    /// Without TLS.
    pub(in crate::commands) fn plain(addr: SocketAddr) -> Self {
        Self {
            tls: false,
            authority: addr.to_string(),
            host: addr.ip().to_string(),
            port: addr.port(),
            path: String::new(),
        }
    }

    /// Whether it is without TLS.
    pub(in crate::commands) fn is_plain(&self) -> bool {
        !self.tls
    }

    /// Whether it is this machine.
    pub(super) fn is_local(&self) -> bool {
        self.host.eq_ignore_ascii_case("localhost")
            || self.host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    /// What a certificate must be for.
    pub(super) fn server_name(&self) -> ServerName<'static> {
        ServerName::try_from(self.host.clone())
            .expect("a URL is parsed only if its host can have a certificate")
    }
}

impl Default for EdgeUrl {
    /// Where an edge in development mode is.
    fn default() -> Self {
        Self {
            tls: true,
            authority: "localhost:8443".to_owned(),
            host: "localhost".to_owned(),
            port: 8443,
            path: String::new(),
        }
    }
}

impl FromStr for EdgeUrl {
    type Err = NoUrl;

    fn from_str(text: &str) -> Result<Self, NoUrl> {
        let uri: Uri = text.parse().map_err(|_| NoUrl)?;
        let tls = match uri.scheme_str() {
            Some("https" | "wss") => true,
            Some("http" | "ws") => false,
            _ => return Err(NoUrl),
        };
        let authority = uri.authority().ok_or(NoUrl)?;
        // A user before the host is left out of `host`, and so this fails.
        let after_host = authority.as_str().strip_prefix(authority.host()).ok_or(NoUrl)?;
        if uri.query().is_some() {
            return Err(NoUrl);
        }
        let host = authority.host();
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let port = match (after_host.strip_prefix(':'), tls) {
            (Some(port), _) => port.parse().map_err(|_| NoUrl)?,
            (None, true) => 443,
            (None, false) => 80,
        };
        ServerName::try_from(host).map_err(|_| NoUrl)?;
        Ok(Self {
            tls,
            authority: authority.as_str().to_owned(),
            host: host.to_owned(),
            port,
            path: uri.path().trim_end_matches('/').to_owned(),
        })
    }
}

impl fmt::Display for EdgeUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", if self.tls { "https" } else { "http" }, self.authority, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_where_to_connect_and_what_to_ask_for() {
        for (text, tls, host, port, path, local) in [
            ("https://localhost:8443", true, "localhost", 8443, "", true),
            ("https://127.0.0.1", true, "127.0.0.1", 443, "", true),
            ("http://[::1]:80/", false, "::1", 80, "", true),
            ("wss://edge.example.com/live/", true, "edge.example.com", 443, "/live", false),
            ("http://10.0.0.1", false, "10.0.0.1", 80, "", false),
        ] {
            let url: EdgeUrl = text.parse().unwrap();
            let found = (url.tls, url.host.as_str(), url.port, url.path.as_str(), url.is_local());
            assert_eq!(found, (tls, host, port, path, local), "{text}");
        }
        assert_eq!("https://a.example:1/b/".parse::<EdgeUrl>().unwrap().to_string(), "https://a.example:1/b");
        assert_eq!(EdgeUrl::default(), "https://localhost:8443".parse().unwrap());
        assert_eq!(EdgeUrl::plain("[::1]:9".parse().unwrap()), "http://[::1]:9".parse().unwrap());
    }

    #[test]
    fn what_is_no_url_of_an_edge_is_refused() {
        for text in [
            "",
            "localhost:8443",
            "/v1",
            "ftp://a",
            "https://",
            "https://u:p@a",
            "https://a:",
            "https://a:99999",
            "https://a/?x=1",
            "https://a b",
        ] {
            assert_eq!(text.parse::<EdgeUrl>(), Err(NoUrl), "{text}");
        }
    }
}
