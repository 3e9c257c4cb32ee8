//! `tidegate token`: a signed token for trying things out, or for a backend. Signs with the configured HS256 secret,
//! in development mode with the development secret; checks nothing, that is the server's part.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};

use super::{ConfigFlags, Failure, print};
use crate::auth;
use crate::channel::{ChannelName, NameError};
use crate::config::{self, Config, DEVELOPMENT_DIRECTORY};
use crate::server::dev_cert;

/// For whom, for what, for how long.
#[derive(Args)]
#[command(after_help = "\
A PATTERN is a channel's name, or its beginning with * at the end. Where a namespace lets everyone with a
token (or anyone) in, no grant is needed.

Examples:
  tidegate token --sub alice --join 'chat:*' --send chat:lobby
  tidegate token --sub backend --role server --expires 30days --config tidegate.toml
  export TIDEGATE_TOKEN=$(tidegate token --sub alice --info '{\"name\": \"Alice\"}')")]
pub struct Flags {
    /// The user
    #[arg(long, value_name = "USER", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    sub: String,
    /// Channels the user may join; can be repeated
    #[arg(long, value_name = "PATTERN", value_parser = pattern)]
    join: Vec<String>,
    /// Channels the user may send to; can be repeated
    #[arg(long, value_name = "PATTERN", value_parser = pattern)]
    send: Vec<String>,
    /// server: a backend, which may send anywhere and has a quota of its own
    #[arg(long, value_enum)]
    role: Option<Role>,
    /// What others see of the user in presence
    #[arg(long, value_name = "JSON", value_parser = info)]
    info: Option<Value>,
    /// How long it is good for
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = lifetime)]
    expires: Duration,
    /// Whom it is for [default: auth.audience of the configuration]
    #[arg(long)]
    aud: Option<String>,
    /// Who signs [default: auth.issuer of the configuration]
    #[arg(long)]
    iss: Option<String>,
    #[command(flatten)]
    config: ConfigFlags,
}

#[derive(Clone, Copy, ValueEnum)]
enum Role {
    /// A backend
    Server,
}

/// Prints the token and nothing else.
///
/// # Errors
/// There is no secret to sign with, or [`Failure::Config`].
pub fn run(flags: Flags) -> Result<(), Failure> {
    let config = config::load(&flags.config.source())?;
    let secret = secret(&config)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let claims = claims(flags, &config, now);
    let token = auth::sign(&secret, &claims)?;
    print(&format!("{token}\n"))
}

fn claims(flags: Flags, config: &Config, now: Duration) -> Map<String, Value> {
    let mut claims = Map::new();
    let mut claim = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            claims.insert(name.to_owned(), value);
        }
    };
    claim("sub", Some(flags.sub.into()));
    claim("iat", Some(now.as_secs().into()));
    claim("exp", Some((now + flags.expires).as_secs().into()));
    claim("iss", flags.iss.or_else(|| config.auth.issuer.clone()).map(Value::from));
    claim("aud", flags.aud.or_else(|| config.auth.audience.clone()).map(Value::from));
    let granted = !(flags.join.is_empty() && flags.send.is_empty());
    claim("channels", granted.then(|| json!({"join": flags.join, "send": flags.send})));
    claim("role", flags.role.map(|Role::Server| "server".into()));
    claim("info", flags.info);
    claims
}

fn secret(config: &Config) -> Result<String, Failure> {
    match &config.auth.hs256_secret {
        Some(secret) => Ok(secret.clone()),
        None if config.development => Ok(dev_cert::secret(Path::new(DEVELOPMENT_DIRECTORY))?.0),
        None => Err(Failure::Usage(
            "there is no secret to sign with: set auth.hs256_secret, or have whoever holds the private key sign"
                .to_owned(),
        )),
    }
}

fn pattern(text: &str) -> Result<String, String> {
    let name = text.strip_suffix('*').unwrap_or(text);
    match name.parse::<ChannelName>() {
        // The beginning of every name.
        Err(NameError::Empty) if text == "*" => Ok(text.to_owned()),
        Err(NameError::Character) if name.contains('*') => Err("* may stand at the end only".to_owned()),
        Err(error) => Err(error.to_string()),
        Ok(_) => Ok(text.to_owned()),
    }
}

fn info(text: &str) -> Result<Value, String> {
    serde_json::from_str(text)
        .map_err(|error| format!("must be JSON, such as '{{\"name\": \"Alice\"}}': {error}"))
}

fn lifetime(text: &str) -> Result<Duration, String> {
    // Past this a token outlives whoever could take it back.
    let most = Duration::from_hours(24 * 3660);
    match humantime::parse_duration(text) {
        Ok(time) if (Duration::from_secs(1)..=most).contains(&time) => Ok(time),
        Ok(_) => Err("must be from 1s to 10years".to_owned()),
        Err(error) => Err(format!("must be a time with its unit, such as 1h or 30days: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_names_or_their_beginnings() {
        for good in ["*", "chat:*", "chat:lobby", "user:alice"] {
            assert_eq!(pattern(good).as_deref(), Ok(good));
        }
        assert_eq!(pattern("chat:*:x").unwrap_err(), "* may stand at the end only");
        assert_eq!(pattern("").unwrap_err(), "a channel name is empty");
        assert!(pattern("a b").unwrap_err().contains("A-Z a-z 0-9"));
        assert!(pattern("**").is_err());
    }

    #[test]
    fn lifetimes_have_units_and_bounds() {
        assert_eq!(lifetime("90m"), Ok(Duration::from_mins(90)));
        for bad in ["", "10", "0s", "100years", "soon"] {
            assert!(lifetime(bad).unwrap_err().starts_with("must be"), "{bad}");
        }
    }
}
