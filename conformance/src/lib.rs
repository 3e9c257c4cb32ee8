//! Black-box conformance checks of a running edge: raw clients for its three transports, and the checks and load
//! made with them. It knows the protocol's page and nothing else of the server, which it never imports.

pub mod edge;
pub mod wire;
pub mod nats;
pub mod link;
pub mod ports;
pub mod signal;
pub mod edges;

pub mod envelope;
pub mod feed;
pub mod ledger;
pub mod polled;
pub mod room;
pub mod traffic;

pub mod autobahn;
pub mod garbage;
pub mod h2spec;
pub mod shapes;
pub mod load;
pub mod scale;
pub mod switching;
pub mod chaos;
