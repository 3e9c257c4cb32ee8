//! A channel is a log of messages encoded once; a subscriber is a cursor into it. No I/O here, no HTTP, no bus.

pub mod name;

pub use name::{ChannelName, NameError};
