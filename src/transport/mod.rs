//! Transports move cursors: each turns what a client sends into requests and what its cursors read into bytes. All of
//! them share the session's rules and the subscriptions; none knows the bus.

mod admission;
mod bells;
mod cursor_string;
mod edge;
pub mod http;
pub mod long_poll;
mod moment;
pub mod rest;
pub mod send;
mod session;
pub mod sse;
mod subscriptions;
pub mod websocket;

pub use admission::TICKET_TOPIC;
pub use bells::{Bells, Doorbell, TICK as BELLS_TICK};
pub use cursor_string::{CursorError, CursorString, Place};
pub use edge::{Drain, Edge};
pub use moment::Moment;
pub use session::Caller;
pub use subscriptions::{Event, Joined, Subscriptions};
