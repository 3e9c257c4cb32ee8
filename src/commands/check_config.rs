//! `tidegate check-config`: whether a configuration is fine, with the files it names, and what it opens to whom. It
//! starts nothing and changes nothing.

use std::fmt::Write as _;
use std::path::Path;

use clap::Args;
use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::JwkSet;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::sign::CertifiedKey;

use super::{ConfigFlags, Failure, print};
use crate::config::{self, Access, AuthMode, BusKind, Config, Namespace};

/// Which one.
#[derive(Args)]
#[command(after_help = "\
Exit code 0 if the configuration is fine, else 1. The environment counts as it would for serve.

Examples:
  tidegate check-config --config tidegate.toml
  TIDEGATE_LISTEN__ADDR=0.0.0.0:443 tidegate check-config --config tidegate.toml")]
pub struct Flags {
    #[command(flatten)]
    config: ConfigFlags,
}

/// Checks it and prints what it means.
///
/// # Errors
/// What is wrong, with its place.
pub fn run(flags: &Flags) -> Result<(), Failure> {
    let source = flags.config.source();
    let config = config::load(&source)?;
    check_files(&config)?;
    let from = match source.config_file()? {
        Some(path) => path.display().to_string(),
        None => "no configuration file, so development mode".to_owned(),
    };
    print(&summary(&config, &from))
}

/// The files are those that the server reads at its start; it would not start without them.
fn check_files(config: &Config) -> Result<(), Failure> {
    let tls = &config.tls;
    // The development certificate is made at the start.
    if tls.enabled && !tls.is_development() {
        check_certificate(&tls.cert, &tls.key)?;
    }
    check_bus(config)?;
    if let Some(file) = &config.auth.jwks_file {
        let wrong = |problem| Failure::File { key: "auth.jwks_file", file: file.clone(), problem };
        let set: JwkSet = serde_json::from_slice(&read("auth.jwks_file", file)?)
            .map_err(|error| wrong(format!("is no JWK set (RFC 7517): {error}")))?;
        if set.keys.is_empty() {
            return Err(wrong("has no key".to_owned()));
        }
    }
    if let Some(file) = &config.auth.public_key_file {
        let pem = read("auth.public_key_file", file)?;
        let is_key = [DecodingKey::from_rsa_pem, DecodingKey::from_ec_pem, DecodingKey::from_ed_pem]
            .iter()
            .any(|parse| parse(&pem).is_ok());
        if !is_key {
            let problem = "is no PEM public key for RS256, ES256 or EdDSA".to_owned();
            return Err(Failure::File { key: "auth.public_key_file", file: file.clone(), problem });
        }
    }
    Ok(())
}

/// The files that the bus would read at the start.
fn check_bus(config: &Config) -> Result<(), Failure> {
    let bus = &config.bus;
    if bus.kind == BusKind::Embedded {
        return Ok(());
    }
    if let Some(file) = &bus.credentials {
        read("bus.credentials", file)?;
    }
    if let Some(file) = &bus.tls_ca {
        let wrong = || Failure::File {
            key: "bus.tls_ca",
            file: file.clone(),
            problem: "holds no certificate in PEM".to_owned(),
        };
        let pem = read("bus.tls_ca", file)?;
        rustls_pemfile::certs(&mut pem.as_slice()).next().ok_or_else(wrong)?.map_err(|_| wrong())?;
    }
    match (&bus.tls_cert, &bus.tls_key) {
        (Some(cert), Some(key)) => {
            read("bus.tls_cert", cert)?;
            read("bus.tls_key", key).map(drop)
        }
        _ => Ok(()),
    }
}

fn check_certificate(cert: &Path, key: &Path) -> Result<(), Failure> {
    let wrong_cert = |problem| Failure::File { key: "tls.cert", file: cert.to_owned(), problem };
    let wrong_key = |problem| Failure::File { key: "tls.key", file: key.to_owned(), problem };
    let chain: Vec<_> = rustls_pemfile::certs(&mut read("tls.cert", cert)?.as_slice())
        .collect::<Result<_, _>>()
        .map_err(|error| wrong_cert(format!("is no PEM file: {error}")))?;
    if chain.is_empty() {
        return Err(wrong_cert("has no certificate in PEM form".to_owned()));
    }
    let private = rustls_pemfile::private_key(&mut read("tls.key", key)?.as_slice())
        .map_err(|error| wrong_key(format!("is no PEM file: {error}")))?
        .ok_or_else(|| wrong_key("has no private key in PEM form".to_owned()))?;
    CertifiedKey::from_der(chain, private, &aws_lc_rs::default_provider())
        .map(|_| ())
        .map_err(|error| wrong_key(format!("does not go with tls.cert = \"{}\": {error}", cert.display())))
}

fn read(key: &'static str, file: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(file).map_err(|error| Failure::File {
        key,
        file: file.to_owned(),
        problem: format!("cannot be read: {error}"),
    })
}

fn summary(config: &Config, from: &str) -> String {
    let mut text = format!("configuration is fine: {from}\n");
    let mut line = |name: &str, meaning: String| {
        // Writing into a String cannot fail.
        let _ = writeln!(text, "  {name:<10}{meaning}");
    };
    let tls = if config.tls.enabled {
        format!("TLS with {}", config.tls.cert.display())
    } else {
        "plain TCP".to_owned()
    };
    line(
        "clients",
        format!("{}, {tls}, at most {} at once", config.listen.addr, config.listen.max_connections),
    );
    line("operators", format!("{}, no TLS, no token", config.listen.admin));
    line("tokens", tokens(config));
    line("pages", pages(config));
    for (name, namespace) in &config.channels.namespaces {
        line(&format!("{name}:*"), rules(namespace));
    }
    line(
        if config.channels.namespaces.is_empty() { "channels" } else { "others" },
        rules(&config.channels.default),
    );
    for warning in &config.warnings {
        let _ = writeln!(text, "warning: {warning}");
    }
    text
}

fn tokens(config: &Config) -> String {
    let auth = &config.auth;
    let mut text = match auth.mode {
        AuthMode::Required => "required".to_owned(),
        AuthMode::Optional => "optional, without one a guest".to_owned(),
    };
    let jwks = auth.jwks_file.as_ref().map(|file| format!("keys in {}", file.display()));
    let key = auth.public_key_file.as_ref().map(|file| format!("key in {}", file.display()));
    let secret = match (&auth.hs256_secret, config.development) {
        (Some(_), _) => Some("the HS256 secret".to_owned()),
        (None, true) => Some("the development secret".to_owned()),
        (None, false) => None,
    };
    let issuer = auth.issuer.as_ref().map(|issuer| format!("from {issuer}"));
    let audience = auth.audience.as_ref().map(|audience| format!("for {audience}"));
    for part in [secret, jwks, key, issuer, audience].into_iter().flatten() {
        text.push_str("; ");
        text.push_str(&part);
    }
    text
}

fn pages(config: &Config) -> String {
    let allow = &config.origins.allow;
    if allow.iter().any(|origin| origin == "*") {
        return "of any origin".to_owned();
    }
    ["the edge's own"].into_iter().chain(allow.iter().map(String::as_str)).collect::<Vec<_>>().join(", ")
}

fn rules(namespace: &Namespace) -> String {
    let who = |access| match access {
        Access::Granted => "whose token grants it",
        Access::Authenticated => "everyone with a token",
        Access::Anyone => "ANYONE",
    };
    format!(
        "join: {}; send: {}; keeps {} messages for {}{}",
        who(namespace.join),
        who(namespace.send),
        namespace.history_size,
        humantime::format_duration(namespace.history_ttl),
        if namespace.presence { "; shows who is there" } else { "" }
    )
}
