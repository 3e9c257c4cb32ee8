//! What many nodes cost, measured: a hop between two, deliveries with two against one, very many channels on one. Each
//! starts its own `nats-server` and edges and ends them again.

mod channels;
mod hop;

use std::time::Duration;

use serde_json::json;

use crate::edge::EdgeError;
use crate::envelope::{self, Said};
use crate::nats::NatsError;
use crate::wire::{Dial, Target, WebSocket, WireError};

pub use channels::{ChannelsPlan, ChannelsReport, many_channels};
pub use hop::{HopPlan, HopReport, hop};

/// Why there is no measurement.
#[derive(Debug, thiserror::Error)]
pub enum ScaleError {
    /// NATS.
    #[error(transparent)]
    Nats(#[from] NatsError),
    /// An edge.
    #[error(transparent)]
    Edge(#[from] EdgeError),
    /// The wire.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// /proc.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// It took too long.
    #[error("{0}")]
    TooLong(String),
}

/// A WebSocket that has joined those channels.
async fn joined(target: &Target, user: &str, channels: &[String]) -> Result<WebSocket, WireError> {
    let token = target.tokens.user(user);
    let mut socket = WebSocket::open(target, Dial::default(), "/v1/ws", &token).await?;
    // In pieces: the answers must be read before they fill what the edge keeps for one client.
    for piece in channels.chunks(256) {
        for channel in piece {
            socket.send(&envelope::join(channel, json!({}))).await?;
        }
        let mut left = piece.len();
        while left > 0 {
            match envelope::read(&socket.text().await?)? {
                Said::Joined(_) => left -= 1,
                Said::Error(error) => return Err(WireError::Protocol(format!("{error:?}"))),
                _ => {}
            }
        }
    }
    Ok(socket)
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
