//! `tidegate healthcheck`: one line and an exit code for whoever runs the edge in a container or behind a supervisor.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::Bytes;
use clap::Args;
use http_body_util::Full;
use hyper::Method;

use super::client::{ANSWER, Client, ClientError, EdgeUrl};
use super::{ConfigFlags, Failure, print};
use crate::config;

/// Which edge to ask.
#[derive(Args)]
#[command(after_help = "\
Examples:
  tidegate healthcheck                           as the configuration says, or 127.0.0.1:9464
  tidegate healthcheck --admin 127.0.0.1:9464
  HEALTHCHECK CMD [\"tidegate\", \"healthcheck\"]    in a Dockerfile")]
pub struct Flags {
    /// The admin listener [default: listen.admin of the configuration]
    #[arg(long, value_name = "IP:PORT")]
    admin: Option<SocketAddr>,
    #[command(flatten)]
    config: ConfigFlags,
}

/// Asks `/readyz`.
///
/// # Errors
/// [`Failure::NotReady`], or why it could not be asked.
pub async fn run(flags: Flags) -> Result<(), Failure> {
    let admin = match flags.admin {
        Some(admin) => admin,
        None => config::load(&flags.config.source())?.listen.admin,
    };
    let client = Client::plain(EdgeUrl::plain(reachable(admin)));
    let request = client
        .request(Method::GET, "/readyz")
        .body(Full::new(Bytes::new()))
        .map_err(|error| ClientError::Nonsense(error.to_string()))?;
    let (head, said) = client.connect().await?.ask(request, ANSWER).await?;
    let said = String::from_utf8_lossy(&said);
    let line = said.lines().next().unwrap_or_default().trim();
    if !head.status.is_success() {
        return Err(Failure::NotReady(format!("{} {line}", head.status.as_u16()).trim_end().to_owned()));
    }
    print("ready\n")
}

/// A listener on every address is asked on this machine's own.
pub(super) fn reachable(admin: SocketAddr) -> SocketAddr {
    let ip = match admin.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, admin.port())
}

#[cfg(test)]
mod tests {
    use super::reachable;

    #[test]
    fn everywhere_is_asked_here() {
        for (listener, asked) in
            [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:2", "[::1]:2"), ("10.0.0.1:3", "10.0.0.1:3")]
        {
            assert_eq!(reachable(listener.parse().unwrap()), asked.parse().unwrap());
        }
    }
}
