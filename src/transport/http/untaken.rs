//! Whether an answer waits for its client: a body notes when it has given a piece away and is not asked for the next,
//! and who runs the stream looks at it. TCP's own clock does not run here: an HTTP/2 connection may be well while one of
//! its streams has a window that never opens (RFC 9113 §5.2).

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::Instant;

tokio::task_local! {
    /// That of the HTTP/2 stream whose task this is.
    pub static UNTAKEN: Arc<Untaken>;
}

/// Since when the last piece of a body has been waiting.
#[derive(Debug, Default)]
pub struct Untaken(Mutex<Option<Instant>>);

impl Untaken {
    /// A piece was given away.
    pub fn begin(&self) {
        *self.0.lock() = Some(Instant::now());
    }

    /// The next one was asked for, so the last is on its way.
    pub fn end(&self) {
        *self.0.lock() = None;
    }

    /// Since when, if it waits.
    pub fn since(&self) -> Option<Instant> {
        *self.0.lock()
    }
}
