//! The head of an HTTP request: who calls, from which page, with which query. Nobody becomes a user without a token that
//! was signed, no page of another Origin is taken for a named one, and a query opens at most the channels it names.
//!
//! Input: lines as in HTTP/1.1; the first is the request's target.

#![no_main]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, LazyLock};

use futures_util::FutureExt as _;
use hyper::header::{HOST, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Request, Uri};
use libfuzzer_sys::fuzz_target;
use tidegate::auth::{self, Origin};
use tidegate::channel::MAX_SEQ;
use tidegate::close::Kind;
use tidegate::envelope::Start;
use tidegate::transport::Edge;
use tidegate::transport::http::Call;
use tidegate_fuzz::node;
use uuid::Uuid;

static EDGE: LazyLock<Arc<Edge>> = LazyLock::new(|| Arc::new(node::node(node::open_to_everyone())));

fuzz_target!(|input: &[u8]| {
    let Some(head) = head(input) else { return };
    let call = Call {
        edge: Arc::clone(&EDGE),
        head,
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        connection: Uuid::nil(),
        tls: input.len().is_multiple_of(2),
        refusal: None,
        guesses: Arc::default(),
        known: None.into(),
    };
    credential(&call.head);
    origin(&call);
    opening(&call);
    // Nobody is asked: there are no other nodes.
    let identified = call.identify().now_or_never().expect("it does not wait");
    match identified {
        Ok(who) => assert!(who.is_none(), "nobody signed this: {who:?}"),
        Err(fault) => assert!(matches!(fault.kind, Kind::AuthenticationFailed | Kind::OriginNotAllowed)),
    }
});

fn head(input: &[u8]) -> Option<Parts> {
    let mut lines = input.split(|byte| *byte == b'\n');
    let uri = Uri::try_from(lines.next()?).ok()?;
    let (mut head, ()) = Request::new(()).into_parts();
    head.uri = uri;
    for line in lines.take(100) {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        head.headers.append(name, HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?);
    }
    Some(head)
}

fn credential(head: &Parts) {
    let found = auth::find(&head.headers, head.uri.query());
    if let Ok(Some(credential)) = found {
        assert!(!credential.secret.expose().is_empty());
        let shown = format!("{credential:?}");
        assert_eq!(shown, format!("Credential {{ source: {:?}, secret: … }}", credential.source));
    }
}

fn origin(call: &Call) {
    let Origin::Allowed(origin) = call.origin() else { return };
    let (scheme, authority) = origin.split_once("://").expect("an Origin that is allowed has a scheme");
    let own = call.head.headers.get(HOST).and_then(|host| host.to_str().ok());
    let named = origin.eq_ignore_ascii_case(node::ORIGIN)
        || origin.eq_ignore_ascii_case("https://app.example.com:443");
    let default = if scheme.eq_ignore_ascii_case("https") { ":443" } else { ":80" };
    let plain = |text: &str| {
        let lower = text.to_ascii_lowercase();
        lower.strip_suffix(default).map(str::to_owned).unwrap_or(lower)
    };
    let is_own = own.is_some_and(|own| plain(own.trim()) == plain(authority));
    assert!(named || is_own, "{origin:?} at {own:?}");
}

fn opening(call: &Call) {
    let Ok(opening) = call.opening() else { return };
    let query = call.head.uri.query().unwrap_or_default();
    let most = call.edge.config.limits.channels_per_connection;
    assert!(opening.joins.len() <= most && opening.joins.len() <= query.len());
    for (index, join) in opening.joins.iter().enumerate() {
        assert!(
            opening.joins[..index].iter().all(|other| other.channel != join.channel),
            "{:?}",
            join.channel
        );
        assert!(!matches!(join.start, Start::Cursor(_)));
    }
    for place in opening.cursor.iter().flat_map(|cursor| &cursor.places) {
        assert!(place.position.seq <= MAX_SEQ);
    }
}
