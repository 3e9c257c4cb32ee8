//! The head of one HTTP request, parsed once: who calls, from which page, with which query.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use hyper::Method;
use hyper::header::{self, HeaderName};
use hyper::http::request::Parts;
use parking_lot::Mutex;
use tracing::warn;
use uuid::Uuid;

use super::form;
use crate::auth::{self, AuthError, Identity, Known, Origin, Source};
use crate::channel::{ChannelName, Epoch, Position};
use crate::close::{Fault, Kind};
use crate::config::AuthMode;
use crate::envelope::{Join, Start};
use crate::metrics::Transport;
use crate::quota::ConnectionQuota;
use crate::transport::{Caller, CursorString, Edge};

/// WHATWG HTML §9.2.4. A name made once: from a string it is made anew each time it is looked for.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// One request, before its body.
pub struct Call {
    /// The node.
    pub edge: Arc<Edge>,
    /// Method, path, headers.
    pub head: Parts,
    /// The client's address.
    pub address: IpAddr,
    /// The connection it came on, for logs.
    pub connection: Uuid,
    /// Whether the edge itself ended TLS.
    pub tls: bool,
    /// Why its connection is served no more than this refusal.
    pub refusal: Option<Fault>,
    /// The connection's quota for tokens that turn out bad: who guesses has no name to count under.
    pub guesses: Arc<ConnectionQuota>,
    /// The last good token of its connection.
    pub known: Mutex<Option<Known>>,
}

/// The query's parameters, decoded.
pub struct Query<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl Query<'_> {
    /// The first of that name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| &**value)
    }

    /// All of that name.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| &**value)
    }

    /// A whole number, if it is there.
    ///
    /// # Errors
    /// Malformed, if it is there and no number.
    pub fn number(&self, name: &str) -> Result<Option<u64>, Fault> {
        let parse = |text: &str| {
            text.parse().map_err(|_| Fault::malformed(format!("the query's {name} is not a whole number")))
        };
        self.get(name).map(parse).transpose()
    }

    /// A switch: `1` or `true`.
    ///
    /// # Errors
    /// Malformed, if it is something else than a switch.
    pub fn switch(&self, name: &str) -> Result<bool, Fault> {
        match self.get(name) {
            None | Some("0" | "false" | "") => Ok(false),
            Some("1" | "true") => Ok(true),
            Some(_) => Err(Fault::malformed(format!("the query's {name} is neither 1 nor 0"))),
        }
    }
}

/// What a client asks for in the query of a connection or poll.
#[derive(Debug, Default)]
pub struct Opening {
    /// The joins, one per channel.
    pub joins: Vec<Join>,
    /// Where they begin, if it is told.
    pub cursor: Option<CursorString>,
}

impl Call {
    /// The query.
    pub fn query(&self) -> Query<'_> {
        Query(parameters(self.head.uri.query().unwrap_or_default()))
    }

    /// From which page.
    pub fn origin(&self) -> Origin<'_> {
        if !self.head.headers.contains_key(header::ORIGIN) {
            return Origin::None;
        }
        self.edge.origins.judge(&self.head.headers, form::authority(&self.head), self.tls)
    }

    /// Whether the answer goes to an `EventSource`, which gives up for good on any status but 200.
    pub fn wants_event_stream(&self) -> bool {
        let accepts = self.head.headers.get_all(header::ACCEPT);
        accepts
            .into_iter()
            .any(|accept| accept.as_bytes().windows(17).any(|part| part == b"text/event-stream"))
    }

    /// Origin, quota and token, in this order: who it is, if somebody. Waits only for the node that has issued a ticket.
    ///
    /// # Errors
    /// The refusal.
    pub async fn identify(&self) -> Result<Option<Arc<Identity>>, Fault> {
        let origin = self.origin();
        if let Err(fault) = origin.admit() {
            let Origin::Refused(shown) = &origin else { return Err(fault) };
            tracing::debug!(connection = %self.connection, address = %self.address, origin = %shown, "origin refused");
            return Err(fault);
        }
        if let Some(refusal) = &self.refusal {
            return Err(refusal.clone());
        }
        self.credential(&origin).await.map_err(|error| self.audit(error))
    }

    /// [`Call::identify`] for a transport without a connection of its own: without a token, a guest or a refusal.
    ///
    /// # Errors
    /// The refusal.
    pub async fn caller(&self, transport: Transport) -> Result<Caller, Fault> {
        let who = match (self.identify().await?, self.edge.config.auth.mode) {
            (Some(who), _) => who,
            (None, AuthMode::Optional) => {
                Arc::new(Identity::guest_of_address(self.address, &self.edge.guest_salt))
            }
            (None, AuthMode::Required) => {
                return Err(Fault::new(
                    Kind::AuthenticationRequired,
                    "a token is needed, e.g. Authorization: Bearer",
                ));
            }
        };
        // A poll sends nothing that would carry it.
        let client_id = if transport == Transport::Poll { self.connection } else { Uuid::new_v4() };
        Ok(Caller { edge: Arc::clone(&self.edge), who, client_id, transport })
    }

    /// One line per failure, for audit.
    pub fn audit(&self, error: AuthError) -> Fault {
        warn!(
            connection = %self.connection, address = %self.address, reason = error.reason(),
            "authentication failed: {error}"
        );
        self.guesses.request(&self.edge.quotas).err().unwrap_or_else(|| error.into())
    }

    /// What the query asks to join, and the cursor it carries. `Last-Event-ID` wins over `cursor`.
    ///
    /// # Errors
    /// Malformed.
    pub fn opening(&self) -> Result<Opening, Fault> {
        self.opening_of(&self.query())
    }

    /// The same, where the query has been read already.
    ///
    /// # Errors
    /// Malformed.
    pub fn opening_of(&self, query: &Query<'_>) -> Result<Opening, Fault> {
        let last_event_id = self.head.headers.get(LAST_EVENT_ID).filter(|id| !id.is_empty());
        let (cursor, strange) = if let Some(id) = last_event_id {
            // An `EventSource` can't help what it sends, and gives up for good when it is refused: a gap tells it.
            let cursor = id.to_str().ok().and_then(|id| CursorString::parse(id).ok());
            let strange = cursor.is_none();
            (cursor, strange)
        } else {
            let cursor = query.get("cursor").filter(|cursor| !cursor.is_empty()).map(CursorString::parse);
            (cursor.transpose().map_err(|error| Fault::malformed(error.to_string()))?, false)
        };
        let limit = self.edge.config.limits.channels_per_connection;
        let mut channels = Vec::new();
        for list in query.all("channels") {
            add_channels(&mut channels, list, limit)?;
        }
        let history = query.number("history")?.map(|newest| usize::try_from(newest).unwrap_or(usize::MAX));
        let recover = query.get("recover").map(|text| positions(text, channels.len())).transpose()?;
        if recover.is_some() && history.is_some() {
            return Err(Fault::malformed("only one of recover and history may be given"));
        }
        let presence = query.switch("presence")?;
        let joins = channels.into_iter().enumerate().map(|(index, channel)| {
            let start = match (&recover, history) {
                _ if strange => Start::Recover(None),
                (Some(positions), _) => Start::Recover(positions[index]),
                (None, Some(newest)) => Start::History(newest),
                (None, None) => Start::Live,
            };
            Join { channel, start, presence }
        });
        Ok(Opening { joins: joins.collect(), cursor })
    }

    /// Whether it names a place for its cursor that wins over the query.
    pub fn has_last_event_id(&self) -> bool {
        self.head.headers.contains_key(LAST_EVENT_ID)
    }

    /// Whether it is a `GET`.
    pub fn is_get(&self) -> bool {
        self.head.method == Method::GET
    }

    async fn credential(&self, origin: &Origin<'_>) -> Result<Option<Arc<Identity>>, AuthError> {
        let Some(credential) = auth::find(&self.head.headers, self.head.uri.query())? else {
            return Ok(None);
        };
        let secret = credential.secret.expose();
        match credential.source {
            // Boxed: what asks another node would be the largest part of every request's future.
            Source::Ticket => Box::pin(self.edge.redeem(secret)).await.map(Some),
            Source::Cookie if !origin.may_use_cookie() => Ok(None),
            _ => self.edge.verify_again(secret, &mut self.known.lock()).map(Some),
        }
    }
}

/// WHATWG URL §5.1. Most have nothing in them to decode, which is seen on the one way through them.
fn parameters(query: &str) -> Vec<(Cow<'_, str>, Cow<'_, str>)> {
    let mut found = Vec::new();
    let (mut begin, mut equals, mut is_plain) = (0, None, true);
    for (at, byte) in query.bytes().chain([b'&']).enumerate() {
        match byte {
            b'&' => {
                let pair = &query[begin..at];
                if !is_plain {
                    found.extend(form_urlencoded::parse(pair.as_bytes()));
                } else if !pair.is_empty() {
                    let (name, value) =
                        equals.map_or((pair, ""), |equals| (&query[begin..equals], &query[equals + 1..at]));
                    found.push((Cow::Borrowed(name), Cow::Borrowed(value)));
                }
                (begin, equals, is_plain) = (at + 1, None, true);
            }
            b'=' => equals = equals.or(Some(at)),
            b'%' | b'+' => is_plain = false,
            _ => {}
        }
    }
    found
}

fn add_channels(channels: &mut Vec<ChannelName>, list: &str, limit: usize) -> Result<(), Fault> {
    if list.is_empty() {
        return Ok(());
    }
    for name in list.split(',') {
        let channel = name.parse().map_err(|error: crate::channel::NameError| {
            Fault::malformed(format!("the query's channels: {error}"))
        })?;
        if channels.contains(&channel) {
            continue;
        }
        if channels.len() == limit {
            return Err(Fault::new(Kind::TooManyChannels, "more channels than one connection may join")
                .with_limit("limits.channels_per_connection"));
        }
        channels.push(channel);
    }
    Ok(())
}

/// `EPOCH:SEQ`, one per channel.
fn positions(list: &str, channels: usize) -> Result<Vec<Option<Position>>, Fault> {
    let one = |text: &str| {
        let (epoch, seq) = text.split_once(':')?;
        let seq = seq.parse().ok()?;
        Some(epoch.parse::<Epoch>().ok().map(|epoch| Position { epoch, seq }))
    };
    let positions: Option<Vec<_>> = list.split(',').map(one).collect();
    positions
        .filter(|positions| positions.len() == channels)
        .ok_or_else(|| Fault::malformed("the query's recover is not one EPOCH:SEQ per channel"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_as_the_standard_says() {
        for query in [
            "a=b&c=d",
            "a",
            "a=",
            "=b",
            "&&a=b&",
            "a=b=c",
            "a%3Db=c%26d&x+y=1+2",
            "%",
            "a=%4",
            "a=%ff",
            "",
            "&",
            "=",
            "a&=&b",
            "ä=ö&%c3%a4",
        ] {
            let standard: Vec<_> = form_urlencoded::parse(query.as_bytes()).collect();
            assert_eq!(parameters(query), standard, "{query}");
        }
    }
}
