//! What a request of an HTTP/1 connection leaves to that connection when it has to wait: its connection then takes the
//! socket off hyper, whose buffers and whose request are most of what an idle subscriber would hold, and waits itself.
//! Left by the router or by a body, taken by `server/http1.rs`. Never over HTTP/2, where a socket is many requests'.

use hyper::Version;
use hyper::header::{CONNECTION, HeaderMap};
use hyper::http::request::Parts;
use parking_lot::Mutex;

use crate::transport::long_poll::{Poller, Said};
use crate::transport::sse::SseBody;
use crate::transport::websocket::Upgrade;

/// What the connection goes on as.
pub enum Handover {
    /// A WebSocket, once hyper has written all of the handshake.
    WebSocket(Box<Upgrade>),
    /// A stream of events, whose head hyper has been given.
    Events(Box<SseBody>, Manner),
    /// A poll, with what it is answered if that is known already.
    Poll(Box<Poller>, Option<Said>, Manner),
}

/// How a request wants to be answered, which outlives its head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manner {
    /// It is of HTTP/1.0: no chunks.
    pub is_old: bool,
    /// The connection may serve another request after it.
    pub persists: bool,
}

/// Where requests leave it, one per connection.
#[derive(Default)]
pub struct Slot(Mutex<Option<Handover>>);

impl Slot {
    /// Leaves it to the connection.
    pub fn leave(&self, handover: Handover) {
        *self.0.lock() = Some(handover);
    }

    /// What was left.
    pub fn take(&self) -> Option<Handover> {
        self.0.lock().take()
    }

    /// Whether somebody waits, for whom hyper will do nothing any more.
    pub fn has_waiting(&self) -> bool {
        matches!(*self.0.lock(), Some(Handover::Events(..) | Handover::Poll(..)))
    }
}

impl Manner {
    /// That of a request. One with a body, which nobody reads here, is the last on its connection.
    pub fn of(head: &Parts, has_body: bool) -> Self {
        let is_old = head.version < Version::HTTP_11;
        // RFC 9112 §9.3: HTTP/1.1 persists unless it says otherwise, HTTP/1.0 if it says so.
        let says_so = !is_old || has_option(&head.headers, "keep-alive");
        Self { is_old, persists: says_so && !has_body && !has_option(&head.headers, "close") }
    }
}

fn has_option(headers: &HeaderMap, wanted: &str) -> bool {
    let lists = headers.get_all(CONNECTION).iter().filter_map(|list| list.to_str().ok());
    lists.flat_map(|list| list.split(',')).any(|option| option.trim().eq_ignore_ascii_case(wanted))
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    #[test]
    fn a_connection_persists_as_its_request_says() {
        for (version, connection, has_body, persists) in [
            (Version::HTTP_11, &[][..], false, true),
            (Version::HTTP_11, &["keep-alive"], false, true),
            (Version::HTTP_11, &["TE, Close"], false, false),
            (Version::HTTP_11, &["close", "keep-alive"], false, false),
            (Version::HTTP_11, &[], true, false),
            (Version::HTTP_10, &[], false, false),
            (Version::HTTP_10, &["Keep-Alive"], false, true),
            (Version::HTTP_10, &["keep-alive", "close"], false, false),
        ] {
            let request = Request::builder().version(version);
            let request = connection.iter().fold(request, |request, line| request.header(CONNECTION, *line));
            let (head, ()) = request.body(()).unwrap().into_parts();
            let is_old = version == Version::HTTP_10;
            assert_eq!(
                Manner::of(&head, has_body),
                Manner { is_old, persists },
                "{version:?} {connection:?}"
            );
        }
    }
}
