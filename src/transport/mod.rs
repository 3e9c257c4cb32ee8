//! Transports move cursors: each turns what a client sends into requests and what its cursors read into bytes. All of
//! them share the session's rules and the subscriptions; none knows the bus.

mod admission;
mod bells;
mod cursor_string;
mod edge;
pub mod http;
pub mod long_poll;
pub mod rest;
pub mod send;
mod session;
pub mod sse;
mod subscriptions;
pub mod websocket;

pub use admission::TICKET_TOPIC;
pub use bells::{Bells, Doorbell};
pub use cursor_string::{CursorError, CursorString, Place};
pub use edge::{Drain, Edge};
pub use session::Caller;
pub use subscriptions::{Event, Joined, Subscriptions};
