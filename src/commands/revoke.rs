//! `tidegate revoke`: takes tokens back before they run out, one by its `jti` or all of a user, on every node. Asks the
//! admin listener of any one edge.

use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http_body_util::Full;
use hyper::Method;
use hyper::header::{ACCEPT, CONTENT_TYPE};
use serde_json::json;

use super::client::{ANSWER, Client, ClientError, EdgeUrl, Refusal};
use super::healthcheck::reachable;
use super::{ConfigFlags, Failure, print};
use crate::config;

/// Which tokens, for how long, and whom to tell.
#[derive(Args)]
#[command(after_help = "\
By --sub all tokens are refused that were issued to that user before now: in an earlier second by their iat, or
without one. A token that is issued later is good. Connections that are open with a revoked token are closed with
4002, reason revoked. With bus.kind = \"nats\" that holds on every node, those included that start later.

Examples:
  tidegate revoke --sub alice                       whatever token alice has, for a day
  tidegate revoke --jti 8f14e45f --for 1h           one token, until it would have run out by itself
  tidegate revoke --sub alice --admin http://10.0.0.7:9464")]
#[group(id = "whose", required = true, multiple = false, args = ["sub", "jti"])]
pub struct Flags {
    /// All tokens that the user with this sub has now
    #[arg(long, value_name = "USER", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    sub: Option<String>,
    /// The token with this jti
    #[arg(long, value_name = "ID", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    jti: Option<String>,
    /// How long they are refused: until the last of them has run out, 31 days at most
    #[arg(long = "for", value_name = "TIME", default_value = "24h", value_parser = lasting)]
    lasting: Duration,
    /// The admin listener of an edge [default: listen.admin of the configuration]
    #[arg(long, value_name = "URL", value_parser = admin)]
    admin: Option<EdgeUrl>,
    #[command(flatten)]
    config: ConfigFlags,
}

/// Revokes, and prints what is revoked now.
///
/// # Errors
/// The edge's refusal, most often that the bus is away, or why it could not be asked.
pub async fn run(flags: Flags) -> Result<(), Failure> {
    let admin = match flags.admin {
        Some(admin) => admin,
        None => EdgeUrl::plain(reachable(config::load(&flags.config.source())?.listen.admin)),
    };
    let seconds = flags.lasting.as_secs();
    let wish = match (&flags.sub, &flags.jti) {
        (Some(sub), _) => json!({ "sub": sub, "seconds": seconds }),
        (None, jti) => json!({ "jti": jti, "seconds": seconds }),
    };
    let client = Client::plain(admin);
    let request = client
        .request(Method::POST, "/revocations")
        .header(CONTENT_TYPE, "application/json")
        .header(ACCEPT, "application/json, application/problem+json")
        .body(Full::new(Bytes::from(wish.to_string())))
        .map_err(|error| ClientError::Nonsense(error.to_string()))?;
    let (head, said) = client.connect().await?.ask(request, ANSWER).await?;
    if !head.status.is_success() {
        return Err(ClientError::from(Refusal::from_answer(&head, &said)).into());
    }
    print(&format!("{}\n", String::from_utf8_lossy(&said).trim_end()))
}

/// `http://HOST:PORT`, or without the scheme as other commands have it.
fn admin(text: &str) -> Result<EdgeUrl, String> {
    let url = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    match url.parse::<EdgeUrl>() {
        Ok(url) if url.is_plain() => Ok(url),
        _ => Err("must be http://HOST:PORT; the admin listener speaks no TLS".to_owned()),
    }
}

fn lasting(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if (Duration::from_secs(1)..=crate::auth::REVOCATION_MAX).contains(&time) => Ok(time),
        Ok(_) => Err("must be from 1s to 31days".to_owned()),
        Err(error) => Err(format!("must be a time with its unit, such as 24h or 7days: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_admin_listener_is_an_address_without_tls() {
        for good in
            ["127.0.0.1:9464", "http://127.0.0.1:9464", "http://127.0.0.1:9464/", "[::1]:9464", "edge-1:9464"]
        {
            assert!(admin(good).is_ok(), "{good}");
        }
        for bad in ["", "https://127.0.0.1:9464", "ws://127.0.0.1:9464/x?y", "127.0.0.1:x"] {
            assert!(admin(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_revocation_has_a_length() {
        assert_eq!(lasting("24h"), Ok(REVOCATION_DAY));
        for bad in ["", "24", "0s", "999ms", "32days"] {
            assert!(lasting(bad).unwrap_err().starts_with("must be"), "{bad}");
        }
    }

    const REVOCATION_DAY: Duration = crate::auth::REVOCATION_DEFAULT;
}
