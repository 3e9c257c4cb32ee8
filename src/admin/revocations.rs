//! `/revocations`: takes tokens back, and tells which were. With other nodes a revocation is stored where all of them
//! follow it before it is acknowledged; if that fails it is applied nowhere.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::header::ORIGIN;
use hyper::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use tracing::info;

use super::AdminState;
use crate::auth::{MAX_REVOCATIONS, REVOCATION_DEFAULT, Revocation, RevocationError, Whose};
use crate::bus::BusError;
use crate::close::{Fault, Kind};

/// Bytes of a request's body: far more than the longest `jti` with every character escaped.
const BODY_BYTES: usize = 4096;
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Entries in a list: the newest of them.
const LIST_MAX: usize = 1000;

/// What is asked for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    sub: Option<String>,
    jti: Option<String>,
    seconds: Option<u64>,
}

/// One revocation, as it is told.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jti: Option<&'a str>,
    revoked_at: String,
    until: String,
    /// Whether it holds on every node, or there is only this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    nodes: Option<&'static str>,
}

/// Revokes, and tells what is revoked now.
///
/// # Errors
/// The refusal; then nothing was done, or with [`Kind::Overloaded`] it is not known whether it will be.
pub(super) async fn revoke(
    state: &AdminState,
    headers: &HeaderMap,
    body: Incoming,
) -> Result<(StatusCode, Vec<u8>), Fault> {
    // Only browsers send it, for a page that has no business here: this listener knows no token.
    if headers.contains_key(ORIGIN) {
        return Err(Fault::new(Kind::OriginNotAllowed, "pages may not revoke tokens"));
    }
    let revocation = wish(&read(body).await?)?;
    if state.revocations.len() >= MAX_REVOCATIONS {
        return Err(Fault::new(Kind::Overloaded, format!("there are {MAX_REVOCATIONS} revocations already")));
    }
    let Some(bucket) = &state.revoked else {
        let known = state.revocations.find(revocation.whose());
        return Ok(done(state, &revocation.with(known.as_ref()), "this"));
    };
    // Else it would wait in a buffer, and be done some time after it was said that it was not.
    if let Some(trouble) = state.hub.trouble() {
        return Err(not_stored(&trouble));
    }
    let key = revocation.key();
    let merge = |known: Option<&[u8]>| {
        let known = known.and_then(|value| Revocation::read(&key, value));
        revocation.clone().with(known.as_ref()).value()
    };
    match bucket.write(&key, merge).await {
        Ok(value) => {
            let stored = Revocation::read(&key, &value).unwrap_or(revocation);
            Ok(done(state, &stored, "all"))
        }
        Err(BusError::Unavailable { detail, .. }) => Err(not_stored(&detail)),
    }
}

/// The newest revocations, and how many there are.
pub(super) fn list(state: &AdminState) -> Vec<u8> {
    #[derive(Serialize)]
    struct List<'a> {
        count: usize,
        revocations: Vec<Shown<'a>>,
    }
    let now = SystemTime::now();
    let mut all = state.revocations.list();
    all.retain(|revocation| revocation.until() > now);
    all.sort_by_key(|revocation| std::cmp::Reverse(revocation.at()));
    let count = all.len();
    let list = List { count, revocations: all.iter().take(LIST_MAX).map(|one| shown(one, None)).collect() };
    serde_json::to_vec(&list).expect("strings are JSON")
}

fn done(state: &AdminState, revocation: &Revocation, nodes: &'static str) -> (StatusCode, Vec<u8>) {
    // This node need not wait until it hears of it.
    state.revocations.apply(revocation);
    let by = match revocation.whose() {
        Whose::User(_) => "sub",
        Whose::Token(_) => "jti",
    };
    info!(by, until = %humantime::format_rfc3339_millis(revocation.until()), nodes, "tokens revoked");
    let told = serde_json::to_vec(&shown(revocation, Some(nodes))).expect("strings are JSON");
    (StatusCode::CREATED, told)
}

fn wish(body: &[u8]) -> Result<Revocation, Fault> {
    let wish: Wish = serde_json::from_slice(body).map_err(|error| {
        Fault::malformed(format!("the body is {{\"sub\" or \"jti\": text, \"seconds\": number}}: {error}"))
    })?;
    let whose = match (&wish.sub, &wish.jti) {
        (Some(sub), None) => Whose::user(sub),
        (None, Some(jti)) => Whose::token(jti),
        _ => return Err(Fault::malformed("exactly one of sub and jti is needed")),
    };
    let lasting = wish.seconds.map_or(REVOCATION_DEFAULT, Duration::from_secs);
    let malformed = |error: RevocationError| Fault::malformed(error.to_string());
    Revocation::now(whose.map_err(malformed)?, lasting).map_err(malformed)
}

fn shown<'a>(revocation: &'a Revocation, nodes: Option<&'static str>) -> Shown<'a> {
    let (sub, jti) = match revocation.whose() {
        Whose::User(sub) => (Some(&**sub), None),
        Whose::Token(jti) => (None, Some(&**jti)),
    };
    let [revoked_at, until] =
        [revocation.at(), revocation.until()].map(|time| humantime::format_rfc3339_millis(time).to_string());
    Shown { sub, jti, revoked_at, until, nodes }
}

fn not_stored(detail: &str) -> Fault {
    Fault::new(Kind::Overloaded, format!("the revocation was not stored, try again: {detail}"))
}

async fn read(body: Incoming) -> Result<Bytes, Fault> {
    let whole = timeout(BODY_TIMEOUT, Limited::new(body, BODY_BYTES).collect()).await;
    let whole = whole.map_err(|_| Fault::malformed("the body did not come in time"))?;
    whole.map(http_body_util::Collected::to_bytes).map_err(|error| {
        if error.is::<http_body_util::LengthLimitError>() {
            return Fault::new(Kind::MessageTooLarge, format!("the body has more than {BODY_BYTES} bytes"));
        }
        Fault::malformed(format!("the body broke off: {error}"))
    })
}
