//! HTTP/1.1 (RFC 9112), by section: what a message looks like, where it ends, and what becomes of a connection on
//! which somebody makes that a matter of opinion.
#![expect(clippy::unwrap_used, reason = "in a check a failed unwrap is the report")]

mod chunks;
mod connections;
mod fields;
mod framing;
mod request_line;
