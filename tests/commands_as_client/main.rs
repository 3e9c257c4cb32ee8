//! The commands that talk to an edge, against one that follows a script: it reads raw bytes, answers with raw bytes,
//! and breaks off where the script says so. What a real edge answers is another suite's matter.
#![expect(
    clippy::unwrap_used,
    reason = "in a test a failed unwrap is the report, in its shared functions too"
)]

mod edge;
mod publish;
mod subscribe;
