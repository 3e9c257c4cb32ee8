//! A bus moves publications into logs. It alone gives positions, so it alone decides the order; every publication
//! comes back through it, one of this node too. It knows nothing of subscribers or transports.

mod embedded;
pub mod nats;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::channel::{Channel, ChannelName, Position, Publication};

pub use embedded::EmbeddedBus;
pub use nats::{NatsBus, NatsError, NodeId, Peers, RevokedBucket};

/// A publication that the bus has accepted: from now on it is in the channel's log, or on its way there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Where it stands.
    pub position: Position,
    /// It was accepted before, under the same message id; this is the first one's position.
    pub duplicate: bool,
}

/// Why the bus did not do what it was asked for.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BusError {
    /// The bus can't do it now; the same publication may be tried again under the same message id.
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
        Self::unavailable("the bus did not answer in time")
    }

    /// It can't, for that reason; to be tried again in a second or two, not by all at once.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        let retry_after = Duration::from_millis(rand::random_range(1000..=3000));
        Self::Unavailable { detail: detail.into(), retry_after }
    }
}

/// The logs of this node, as a bus sees them.
pub trait Logs: Send + Sync {
    /// The log of that channel, made if need be.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] when the node has as many as it can.
    fn log(&self, channel: &ChannelName) -> Result<Arc<Channel>, BusError>;
}

/// The contract that every bus keeps, held by `tests/bus_contract.rs`:
///
/// 1. **Order.** Positions in a channel strictly rise, and every log of the channel, on whatever node, gets the
///    messages in that order. What one sender published after the acknowledgement of another publication stands
///    behind it.
/// 2. **Nothing is lost.** What was acknowledged is appended to every open log of the channel, or the log's epoch
///    changes, or the log's floor is raised above the loss: its cursors then see a gap.
/// 3. **Nothing is doubled.** A publication that is idempotent is appended once, however often it is published
///    within [`IDEMPOTENCY_WINDOW`] by the same sender to the same channel under the same id; each further time it is
///    acknowledged with the first one's position.
/// 4. **No false yes.** An error means that the publication may or may not have been stored; only `Ok` is a promise.
/// 5. **Independence.** A channel that is busy, or a subscriber that is stuck, delays no other channel's publications.
/// 6. **A sender reads what it wrote.** When a publication is acknowledged, an open log of this node has it, or gets it
///    within moments.
pub trait Bus: Send + Sync + 'static {
    /// Whether the bus itself keeps the messages: a log of this node is then a copy, which may be dropped and made again.
    fn keeps_messages(&self) -> bool;

    /// Where a log of that channel begins that this node does not have: nothing at or below it is held here.
    fn blank(&self, channel: &ChannelName) -> Position;

    /// Has the log filled with what the bus keeps of the channel, and kept up to date from now on. Done at once if it is
    /// open already.
    ///
    /// # Errors
    /// [`BusError`] when the bus can't be asked; the log is then as it was.
    ///
    /// # Cancel safety
    /// A cancelled call may have opened it.
    fn open<'a>(&'a self, channel: &'a Arc<Channel>) -> BoxFuture<'a, Result<(), BusError>>;

    /// Waits until an open log has all that the bus had accepted when this was called, and knows how far that goes.
    ///
    /// # Errors
    /// [`BusError`] when that can't be known.
    ///
    /// # Cancel safety
    /// Nothing is lost by cancelling it.
    fn catch_up<'a>(&'a self, channel: &'a Arc<Channel>) -> BoxFuture<'a, Result<(), BusError>>;

    /// The log is no longer needed.
    fn close(&self, channel: &Arc<Channel>);

    /// Gives the publication its position and has it appended to the channel's logs.
    ///
    /// # Errors
    /// [`BusError`] when it could not be accepted.
    ///
    /// # Cancel safety
    /// After a cancelled call the publication may or may not have been accepted, as after an error.
    fn publish<'a>(
        &'a self,
        logs: &'a dyn Logs,
        publication: Publication,
    ) -> BoxFuture<'a, Result<Accepted, BusError>>;

    /// What stands in the way of publishing, if anything does.
    fn trouble(&self) -> Option<String>;

    /// What it has seen since it was made.
    fn report(&self) -> Report;
}

/// What a bus has seen, for operators.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Channels that it keeps logs of this node up to date of.
    pub channels: usize,
    /// Subscriptions that it has for them.
    pub subscriptions: usize,
    /// How often what has happened, by name.
    pub events: Vec<(&'static str, u64)>,
}

/// How long a message id is remembered.
pub const IDEMPOTENCY_WINDOW: Duration = Duration::from_mins(2);
