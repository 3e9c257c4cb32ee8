//! Tidegate: a realtime edge that serves one channel model over WebSocket, SSE and long polling.
//!
//! A channel is a log of messages encoded once; a subscriber is a cursor into it; a transport moves a cursor; a bus
//! moves publications into logs. Read in the order of the modules.

pub mod channel;
pub mod bus;
pub mod hub;
pub mod presence;
pub mod transport;
pub mod server;

pub mod envelope;
pub mod close;
pub mod deflate;
pub mod auth;
pub mod quota;
pub mod config;
pub mod metrics;
pub mod admin;
pub mod demo;
pub mod commands;
