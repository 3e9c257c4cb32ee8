//! The WebSocket transport (RFC 6455): the handshake, then one loop per connection that reads requests, moves cursors
//! and writes what they read. One task; nothing is awaited frame by frame.

mod batch;
mod clock;
mod echo;
mod end;
mod extensions;
mod frames;
pub mod guard;
mod handshake;
mod outbox;
mod session;
mod wire;

pub use echo::echo;
pub use frames::{Deflated, FrameReader, Inbound};
pub use handshake::{Upgrade, accept, accept_stream};
pub use session::Session;
