//! What the HTTP transports have in common: a request's head parsed once, answers and refusals as the protocol says.

mod answer;
mod call;
mod form;
mod handover;
mod in_flight;
pub mod late;
mod repeated;
mod stall;

pub use answer::{Answer, Body, Content, json, problem, refusal_stream, typed};
pub use call::{Call, Opening, Query};
pub use form::check;
pub use handover::{Handover, Manner, Slot};
pub use in_flight::{InFlight, Serving};
pub use repeated::{HEAD_BYTES_MAX, Head, Heads, Place};
pub use stall::{STALL, Stall};
