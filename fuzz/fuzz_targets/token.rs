//! Tokens: garbage, good ones that were changed, and any header and claims under a good signature. A changed token is
//! never accepted, a key is never used for another algorithm than its own, and who is let in is who the claims name.
//!
//! Input: `m`, one of four tokens (1 byte), then changes of 4 bytes each; or `s`, one of three keys (1 byte), then a
//! header, a line end and claims, which are signed here; or anything, as a token.

#![no_main]

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, COOKIE, HeaderName, HeaderValue, SEC_WEBSOCKET_PROTOCOL};
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tidegate::auth::{self, AuthError, Authenticator, Identity, Role, Source};
use tidegate::channel::ChannelName;
use tidegate::config::{Auth, Namespace};
use tidegate_fuzz::node::SECRET;

const KEYS_FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz_targets/token/keys.json");
/// Public keys; nobody has the private ones any more.
const KEYS: &str = include_str!("token/keys.json");
/// One of each algorithm, HS256 first, by those keys and for the claims below; good until the year 9999.
const TOKENS: &str = include_str!("token/tokens.txt");
const ISSUER: &str = "fuzz";
const AUDIENCE: &str = "edge";

static AUTHENTICATOR: LazyLock<Authenticator> = LazyLock::new(|| {
    let authenticator = Authenticator::new(&Auth {
        hs256_secret: Some(SECRET.to_owned()),
        jwks_file: Some(KEYS_FILE.into()),
        issuer: Some(ISSUER.to_owned()),
        audience: Some(AUDIENCE.to_owned()),
        ..Auth::default()
    });
    let authenticator = authenticator.expect("the keys are good");
    for token in TOKENS.lines() {
        let who = authenticator.verify(token).expect("the tokens are good");
        assert_eq!((&*who.user_id, who.role), ("bob", Role::Server));
    }
    authenticator
});

fuzz_target!(|input: &[u8]| {
    match input {
        [b'm', which, changes @ ..] => changed(usize::from(*which), changes),
        [b's', key, rest @ ..] => signed(usize::from(*key), rest),
        garbage => {
            let token = String::from_utf8_lossy(garbage);
            found(&token);
            let verdict = AUTHENTICATOR.verify(&token);
            assert!(verdict.is_err() || TOKENS.lines().any(|good| good == token), "{token}");
        }
    }
});

fn changed(which: usize, changes: &[u8]) {
    let good = TOKENS.lines().nth(which % 4).expect("there are four");
    let mut token = good.as_bytes().to_vec();
    for [what, high, low, byte] in changes.as_chunks().0.iter().take(16) {
        let at = usize::from(u16::from_be_bytes([*high, *low])) % (token.len() + 1);
        match what % 4 {
            0 if at < token.len() => token[at] = *byte,
            1 => token.insert(at, *byte),
            2 if at < token.len() => drop(token.remove(at)),
            _ => token.truncate(at),
        }
    }
    let token = String::from_utf8_lossy(&token);
    found(&token);
    let verdict = AUTHENTICATOR.verify(&token);
    assert_eq!(verdict.is_ok(), token == good, "{token}");
}

fn signed(key: usize, rest: &[u8]) {
    let Some(end) = rest.iter().position(|byte| *byte == b'\n') else { return };
    let (header, claims) = (&rest[..end], &rest[end + 1..]);
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    // RFC 8725 §2.1: what everyone knows of a public key, used as a secret.
    let public: Value = serde_json::from_str(KEYS).expect("a set of keys");
    let secret = match key % 3 {
        0 => SECRET.as_bytes().to_vec(),
        1 => KEYS.as_bytes().to_vec(),
        _ => URL_SAFE_NO_PAD.decode(public["keys"][2]["x"].as_str().unwrap_or_default()).expect("base64url"),
    };
    let signature = crypto::sign(message.as_bytes(), &EncodingKey::from_secret(&secret), Algorithm::HS256);
    let token = format!("{message}.{}", signature.expect("HMAC takes any key"));
    found(&token);
    let verdict = AUTHENTICATOR.verify(&token);
    // What no ordinary parser reads may stand in a member that is ignored: then there is nothing to compare with.
    let header: Option<Value> = serde_json::from_slice(header).ok();
    let is_hs256 = header.as_ref().map(|header| header["alg"] == "HS256");
    match verdict {
        Ok(who) => {
            assert!(key.is_multiple_of(3) && is_hs256 != Some(false), "{header:?}");
            let critical = header.as_ref().and_then(|header| header.get("crit"));
            assert!(critical.is_none(), "crit is not understood here");
            named(&who, claims);
        }
        Err(error) => {
            let is_ours = key.is_multiple_of(3) && is_hs256 == Some(true);
            assert!(!is_ours || error != AuthError::BadSignature, "{header:?}");
        }
    }
}

/// Wherever a client puts a token, it is found as it is.
fn found(token: &str) {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if token.is_empty() || !token.bytes().all(plain) {
        return;
    }
    let place = |name: HeaderName, before: &str| {
        let value = HeaderValue::try_from(format!("{before}{token}")).expect("letters and digits");
        HeaderMap::from_iter([(name, value)])
    };
    let places = [
        (Source::Header, place(AUTHORIZATION, "Bearer ")),
        (Source::Subprotocol, place(SEC_WEBSOCKET_PROTOCOL, "tidegate.v1.json, tidegate.bearer.")),
        (Source::Cookie, place(COOKIE, "a=b; __Host-tidegate=")),
    ];
    for (source, headers) in places {
        let credential = auth::find(&headers, None).expect("one credential").expect("it is there");
        assert_eq!((credential.source, credential.secret.expose()), (source, token));
    }
    let query = format!("channels=a&token={token}");
    let credential =
        auth::find(&HeaderMap::new(), Some(&query)).expect("one credential").expect("it is there");
    assert_eq!((credential.source, credential.secret.expose()), (Source::Query, token));
}

/// Who was let in is who the claims name, by another reading of them.
fn named(who: &Identity, claims: &[u8]) {
    let Ok(claims) = serde_json::from_slice::<Value>(claims) else { return };
    assert_eq!(claims["sub"], *who.user_id);
    assert!((1..=128).contains(&who.user_id.len()) && !who.user_id.starts_with("guest-"));
    assert!(!who.user_id.chars().any(char::is_control));
    assert_eq!(claims["iss"], ISSUER);
    let audience = &claims["aud"];
    let is_for_us =
        audience.as_array().map_or(audience == AUDIENCE, |all| all.iter().any(|one| one == AUDIENCE));
    assert!(is_for_us, "{audience}");
    let expires_at = who.expires_at().expect("a token ends");
    assert!(expires_at > SystemTime::now() - Duration::from_mins(1) && claims["exp"].is_number());
    assert_eq!(who.role == Role::Server, claims["role"] == "server");
    assert!(!who.is_guest());
    match &who.info {
        None => assert!(claims["info"].is_null()),
        Some(info) => {
            assert!(info.get().len() <= 4096 && !info.get().contains(['\n', '\r']));
            let read: Value = serde_json::from_str(info.get()).expect("info is JSON that everyone can read");
            assert_eq!(claims["info"], read);
        }
    }
    granted(who, &claims["channels"]);
}

/// Each grant holds, and for nothing beside it.
fn granted(who: &Identity, channels: &Value) {
    let closed = Namespace::default();
    let list = |kind: &str| -> Vec<&str> {
        channels[kind].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
    };
    let (join, send) = (list("join"), list("send"));
    let covers = |patterns: &[&str], name: &str| {
        patterns.iter().any(|pattern| {
            let prefix = pattern.strip_suffix('*');
            prefix.map_or(*pattern == name, |prefix| name.starts_with(prefix))
        })
    };
    let tried = join.iter().chain(&send).flat_map(|pattern| {
        let base = pattern.trim_end_matches('*');
        [base.to_owned(), format!("{base}x"), format!("{base}:x"), base.chars().skip(1).collect()]
    });
    for name in tried.chain([format!("user:{}", who.user_id), "user:eve".to_owned()]) {
        let Ok(channel) = name.parse::<ChannelName>() else { continue };
        let is_own = channel.inbox_owner() == Some(&*who.user_id);
        assert_eq!(who.may_join(&channel, &closed), is_own || covers(&join, &name), "join {name}: {join:?}");
        let is_server = who.role == Role::Server;
        assert_eq!(
            who.may_send(&channel, &closed),
            is_server || covers(&send, &name),
            "send {name}: {send:?}"
        );
    }
}
