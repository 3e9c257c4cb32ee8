//! The server: from the first `accept` to the last goodbye. [`start`] is the whole of it, for the binary and for tests.

mod accept;
mod connection;
pub mod dev_cert;
mod proxy;
mod router;
mod running;
mod socket;
mod stream;
mod streams;
mod tls;

pub use running::{Running, StartError, run, start};
