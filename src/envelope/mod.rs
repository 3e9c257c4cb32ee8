//! The envelopes of the wire: what clients say, parsed at the door into a [`Request`], and what the edge says, encoded.
//! Pure: no I/O, no state. The `message` envelope itself is encoded by the channel's log, once.

mod data;
mod request;
mod server;

pub use data::json_data;
pub use request::{HISTORY_LIMIT_MAX, Incoming, Join, Rejected, Request, Start, parse};
pub use server::{
    ConnectionEstablished, HistoryPage, LimitsNotice, MessageAck, Presence, PresenceState, PresenceUpdate,
    RoomJoined, encode, encode_error, gap, typing,
};
