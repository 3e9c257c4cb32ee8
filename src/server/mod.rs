//! The server: from the first `accept` to the last goodbye. [`start`] is the whole of it, for the binary and for tests.

mod accept;
mod connection;
mod http1;
mod line;
mod parked;
pub mod dev_cert;
#[doc(hidden)] // public for its fuzz target
pub mod proxy;
mod router;
mod running;
mod socket;
mod streams;
mod tls;
mod tokens;
mod websocket_stream;
mod weight;

pub use running::{Running, StartError, run, start};
