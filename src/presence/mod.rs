//! Who is in a channel, per user over all its connections and transports, and who is typing. Called by transports when
//! a subscriber joins or goes; it tells the others through the channel's passing envelopes. It owns no connection.

mod roster;
mod typing;

pub use roster::{Lease, Member, PresentUser, Roster};
pub use typing::Typing;

#[cfg(test)]
mod tests;
