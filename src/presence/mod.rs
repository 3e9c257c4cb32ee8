//! Who is in a channel, per user over all its connections, transports and nodes, and who is typing. Called by transports
//! when a subscriber joins or goes; it tells the others through the channel's passing envelopes. It owns no connection.
//!
//! A member belongs to the node that its connection is on. Each node holds the whole roster: its own members, and of the
//! others' what they have told it ([`Exchange`]).

mod exchange;
mod infos;
mod others;
mod room;
mod roster;
mod typing;
mod user;
mod word;

pub use exchange::Exchange;
pub use roster::{LIST_BYTES, LIST_MAX, Lease, Member, PresentUser, Roster};
pub use typing::Typing;

#[cfg(test)]
mod tests;
