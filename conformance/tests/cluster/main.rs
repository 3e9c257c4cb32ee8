//! Two edges on one NATS are one: what a client sees does not depend on the node it talks to, and what happens between
//! the nodes, or to NATS, is told truly or not at all. Each check starts its own servers and takes seconds; the long
//! run is `cargo run -p conformance --bin chaos`.
#![expect(clippy::unwrap_used, reason = "in a check a failed unwrap is the report")]

mod stage;

mod order;
mod away;
mod people;
