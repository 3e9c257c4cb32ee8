//! A bus moves publications into logs. It alone gives positions, so it alone decides the order; every publication
//! comes back through it, one of this node too. It knows nothing of subscribers or transports.

mod embedded;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::channel::{Channel, Epoch, Position, Publication};

pub use embedded::EmbeddedBus;

/// A publication that the bus has accepted: from now on it is in the channel's log, or on its way there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Where it stands.
    pub position: Position,
    /// It was accepted before, under the same message id; this is the first one's position.
    pub duplicate: bool,
}

/// Why a publication was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// The bus can't take it now; the same publication may be tried again under the same message id.
    #[error("the bus is not available: {detail}")]
    Unavailable {
        /// What stands in the way.
        detail: String,
        /// When to try again.
        retry_after: Duration,
    },
}

impl BusError {
    /// It did not answer in time.
    pub fn too_slow() -> Self {
        let detail = "the bus did not answer in time".to_owned();
        Self::Unavailable { detail, retry_after: Duration::from_secs(1) }
    }
}

/// The contract that every bus keeps, held by `tests/bus_contract.rs`:
///
/// 1. **Order.** Positions in a channel strictly rise, and every log of the channel, on whatever node, gets the
///    messages in that order. What one sender published after the acknowledgement of another publication stands
///    behind it.
/// 2. **Nothing is lost.** What was acknowledged is appended to every open log of the channel, or the log's epoch
///    changes.
/// 3. **Nothing is doubled.** A publication that is idempotent is appended once, however often it is published
///    within [`IDEMPOTENCY_WINDOW`] by the same sender to the same channel under the same id; each further time it is
///    acknowledged with the first one's position.
/// 4. **No false yes.** An error means that the publication may or may not have been stored; only `Ok` is a promise.
/// 5. **Independence.** A channel that is busy, or a subscriber that is stuck, delays no other channel's publications.
pub trait Bus: Send + Sync + 'static {
    /// The epoch of a log that begins now.
    fn epoch(&self) -> Epoch;

    /// Gives the publication its position and has it appended to the channel's logs.
    ///
    /// # Errors
    /// [`BusError`] when it could not be accepted.
    ///
    /// # Cancel safety
    /// After a cancelled call the publication may or may not have been accepted, as after an error.
    fn publish<'a>(
        &'a self,
        channel: &'a Arc<Channel>,
        publication: Publication,
    ) -> BoxFuture<'a, Result<Accepted, BusError>>;
}

/// How long a message id is remembered.
pub const IDEMPOTENCY_WINDOW: Duration = Duration::from_mins(2);
