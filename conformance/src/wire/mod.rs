//! Raw clients, small enough to be seen through: bytes in and out over TCP or TLS, HTTP/1.1, event streams and
//! `WebSocket`s. They hold the server to the texts they cite, and never repair what it sends.

mod stream;

pub mod h2;
mod http;
pub mod event_source;
mod raw_events;
mod sse;
pub mod websocket;

use std::io;

pub use http::{Connection, Framing, Head, Request, Response};
pub use raw_events::{RawEvents, Written, written};
pub use sse::{EventStream, ServerSent};
pub use stream::{Dial, Stream, Target};
pub use websocket::WebSocket;

/// What went wrong on the wire.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The socket failed.
    #[error("socket: {0}")]
    Io(#[from] io::Error),
    /// The server ended the connection where more had to come.
    #[error("the server ended the connection {0}")]
    Ended(&'static str),
    /// The server broke the protocol.
    #[error("the server broke the protocol: {0}")]
    Protocol(String),
    /// The server answered with another status than it had to.
    #[error("status {status}: {body}")]
    Refused {
        /// The status.
        status: u16,
        /// The beginning of what it said.
        body: String,
    },
    /// A WebSocket was closed by the server.
    #[error("closed with {code:?} {reason:?}")]
    Closed {
        /// The close code, if there was one.
        code: Option<u16>,
        /// The reason.
        reason: String,
    },
    /// Nothing came in time.
    #[error("nothing came in time")]
    Timeout,
}

impl WireError {
    fn protocol(what: impl Into<String>) -> Self {
        Self::Protocol(what.into())
    }
}
