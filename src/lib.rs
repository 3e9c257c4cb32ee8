//! Tidegate: a realtime edge that serves one channel model over WebSocket, SSE and long polling.
//!
//! A channel is a log of messages encoded once; a subscriber is a cursor into it; a transport moves a cursor; a bus
//! moves publications into logs. Read in the order of the modules.

pub mod admin;
pub mod bus;
pub mod channel;
pub mod close;
pub mod config;
pub mod envelope;
pub mod hub;
pub mod metrics;
pub mod presence;
