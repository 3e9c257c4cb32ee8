//! What no key can be wrong about alone: settings that contradict each other, and settings that are allowed but
//! rarely meant. Called by the loader when every single value is known to be right.

use std::fmt::Display;
use std::net::SocketAddr;

use super::keys::wrong;
use super::tree::Node;
use super::{AuthMode, BusKind, Config, ConfigError, Place};

/// Holds the settings against each other.
///
/// # Errors
/// The first contradiction, at the place of the setting that somebody wrote.
pub(super) fn check(config: &Config, tree: &Node) -> Result<(), ConfigError> {
    if config.development {
        for (key, addr) in [("addr", config.listen.addr), ("admin", config.listen.admin)] {
            only_from_this_machine(tree, key, addr)?;
        }
    } else if config.auth.mode == AuthMode::Required && !has_key(config) {
        let advice = "needs a key to check tokens with: set auth.hs256_secret, auth.jwks_file or \
                      auth.public_key_file, or let guests in with auth.mode = \"optional\"";
        return Err(blame(tree, &["auth", "mode"], "\"required\"", advice));
    }
    if same_socket(config.listen.addr, config.listen.admin) {
        let advice = format!("must differ from listen.addr, which is {}", config.listen.addr);
        return Err(blame(tree, &["listen", "admin"], config.listen.admin, advice));
    }
    // A ping is answered or given up before the next one is due: there is never more than one to wait for.
    let interval = setting(&["heartbeat", "interval"], humantime::format_duration(config.heartbeat.interval));
    let timeout = setting(&["heartbeat", "timeout"], humantime::format_duration(config.heartbeat.timeout));
    at_least(tree, config.heartbeat.interval >= config.heartbeat.timeout, &interval, &timeout)?;

    let message_bytes = config.limits.message_bytes;
    let message = setting(&["limits", "message_bytes"], message_bytes);
    let queue = setting(&["limits", "queue_bytes"], config.limits.queue_bytes);
    at_least(tree, config.limits.queue_bytes >= message_bytes, &queue, &message)?;
    let namespaces = config.channels.namespaces.iter().map(|(name, namespace)| (name.as_str(), namespace));
    for (name, namespace) in namespaces.chain([("default", &config.channels.default)]) {
        let history = setting(&["channels", name, "history_bytes"], namespace.history_bytes);
        at_least(tree, namespace.history_bytes >= message_bytes, &history, &message)?;
    }
    check_bus(config, tree)
}

/// What belongs together for NATS.
fn check_bus(config: &Config, tree: &Node) -> Result<(), ConfigError> {
    let bus = &config.bus;
    if bus.kind == BusKind::Embedded {
        return Ok(());
    }
    let pairs = [
        (["bus", "user"], bus.user.is_some(), ["bus", "password"], bus.password.is_some()),
        (["bus", "tls_cert"], bus.tls_cert.is_some(), ["bus", "tls_key"], bus.tls_key.is_some()),
    ];
    for (one, has_one, other, has_other) in pairs {
        if has_one != has_other {
            let (there, missing) = if has_one { (one, other) } else { (other, one) };
            return Err(blame(tree, &there, "…", format!("needs {}", missing.join("."))));
        }
    }
    let ways = [bus.credentials.is_some(), bus.user.is_some(), bus.token.is_some()];
    if ways.iter().filter(|way| **way).count() > 1 {
        let key = if bus.credentials.is_some() { "credentials" } else { "token" };
        return Err(blame(tree, &["bus", key], "…", "is one of credentials, user or token: set one of them"));
    }
    if bus.replicas.is_multiple_of(2) {
        return Err(blame(tree, &["bus", "replicas"], bus.replicas, "must be 1, 3 or 5"));
    }
    if bus.stream.len() > 24 && bus.streams > 1 {
        return Err(blame(
            tree,
            &["bus", "stream"],
            &bus.stream,
            "must be 24 characters at most with several streams",
        ));
    }
    check_subjects(config, tree)
}

/// No two namespaces share a subject, and none has one of the edge's own.
fn check_subjects(config: &Config, tree: &Node) -> Result<(), ConfigError> {
    let default = &config.channels.default;
    if let Some(subject) = &default.subject {
        let advice = "belongs to a namespace of its own, such as [channels.orders]";
        return Err(blame(tree, &["channels", "default", "subject"], format!("{subject:?}"), advice));
    }
    let with_subject = || {
        let all = config.channels.namespaces.iter();
        all.filter_map(|(name, namespace)| Some((name.as_str(), namespace.subject.as_deref()?)))
    };
    for (name, subject) in with_subject() {
        let other = with_subject().find(|(other, taken)| *other < name && overlap(subject, taken));
        let path = ["channels", name, "subject"];
        if let Some((other, _)) = other {
            let advice = format!("has subjects in common with channels.{other}.subject");
            return Err(blame(tree, &path, format!("{subject:?}"), advice));
        }
        if format!("{subject}.").starts_with(&format!("{}.", config.bus.prefix)) {
            let advice =
                format!("begins with bus.prefix, {:?}, whose subjects are the edge's own", config.bus.prefix);
            return Err(blame(tree, &path, format!("{subject:?}"), advice));
        }
    }
    Ok(())
}

/// Whether a subject can match both.
fn overlap(one: &str, other: &str) -> bool {
    let (one, other): (Vec<_>, Vec<_>) = (one.split('.').collect(), other.split('.').collect());
    one.len() == other.len() && one.iter().zip(&other).all(|(a, b)| a == b || *a == "*" || *b == "*")
}

/// Sentences about what is allowed but rarely meant.
pub(super) fn warnings(config: &Config) -> Vec<String> {
    let listen = &config.listen;
    let reachable = !listen.addr.ip().is_loopback();
    let mut warnings = Vec::new();
    let mut warn = |when: bool, sentence: String| {
        if when {
            warnings.push(sentence);
        }
    };
    warn(
        config.conformance.echo && reachable,
        format!(
            "conformance.echo = true: everyone who reaches {} may have it echo; it is for suites",
            listen.addr
        ),
    );
    warn(
        !listen.admin.ip().is_loopback(),
        format!(
            "listen.admin = \"{}\": whoever reaches it sees metrics and health without a token",
            listen.admin
        ),
    );
    warn(
        !config.tls.enabled && reachable,
        "tls.enabled = false: tokens and messages are readable on the way unless a proxy in front ends TLS"
            .to_owned(),
    );
    warn(
        config.tls.enabled && config.tls.is_development() && !config.development,
        "tls.cert is the development certificate: no browser trusts it; set tls.cert and tls.key".to_owned(),
    );
    warn(
        config.origins.allow.iter().any(|origin| origin == "*"),
        "origins.allow has \"*\": any web page may connect, though not with the visitor's cookie".to_owned(),
    );
    warn(
        !config.development && !has_key(config),
        "there is no key to check tokens with: everyone is a guest (auth.hs256_secret, auth.jwks_file or \
         auth.public_key_file)"
            .to_owned(),
    );
    warnings
}

fn has_key(config: &Config) -> bool {
    let auth = &config.auth;
    auth.hs256_secret.is_some() || auth.jwks_file.is_some() || auth.public_key_file.is_some()
}

fn only_from_this_machine(tree: &Node, key: &str, addr: SocketAddr) -> Result<(), ConfigError> {
    if addr.ip().is_loopback() {
        return Ok(());
    }
    let advice = "must be a loopback address in development mode, which is open to everyone; to be reachable write \
                  a configuration file (tidegate default-config > tidegate.toml) and name it with --config";
    Err(blame(tree, &["listen", key], addr, advice))
}

fn same_socket(a: SocketAddr, b: SocketAddr) -> bool {
    let overlap = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
    // Port 0 is any free one.
    a.port() == b.port() && a.port() != 0 && overlap
}

struct Setting<'a> {
    path: Vec<&'a str>,
    value: String,
}

fn setting<'a>(path: &[&'a str], value: impl Display) -> Setting<'a> {
    Setting { path: path.to_vec(), value: value.to_string() }
}

/// Blames whichever of the two somebody wrote.
fn at_least(tree: &Node, holds: bool, larger: &Setting, smaller: &Setting) -> Result<(), ConfigError> {
    if holds {
        return Ok(());
    }
    let (blamed, bound, must) = if tree.get(&larger.path).is_none() && tree.get(&smaller.path).is_some() {
        (smaller, larger, "must be at most")
    } else {
        (larger, smaller, "must be at least")
    };
    let advice = format!("{must} {}, which is {}", bound.path.join("."), bound.value);
    Err(blame(tree, &blamed.path, &blamed.value, advice))
}

fn blame(tree: &Node, path: &[&str], value: impl Display, advice: impl Into<String>) -> ConfigError {
    let key = path.join(".");
    match tree.get(path) {
        Some(node) => wrong(&key, node, advice),
        None => {
            ConfigError::Wrong { place: Place::Default, key, value: value.to_string(), advice: advice.into() }
        }
    }
}
