//! Whether this node wants new clients: what `/readyz` says to a load balancer. The server moves it forward, from
//! starting to ready to draining, and it never goes back.

use std::sync::atomic::{AtomicU8, Ordering};

/// Where this node is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not everything runs yet.
    Starting,
    /// New clients are welcome.
    Ready,
    /// On its way out: new clients should go elsewhere.
    Draining,
}

impl Phase {
    /// As `/readyz` says it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
        }
    }
}

/// The phase, shared by those who move it and those who tell it.
#[derive(Debug)]
pub struct Readiness(AtomicU8);

const STARTING: u8 = 0;
const READY: u8 = 1;
const DRAINING: u8 = 2;

impl Readiness {
    /// A node that is starting.
    pub const fn new() -> Self {
        Self(AtomicU8::new(STARTING))
    }

    /// New clients are welcome from now on, unless the node is draining already.
    pub fn set_ready(&self) {
        self.0.fetch_max(READY, Ordering::AcqRel);
    }

    /// The node is on its way out, for good.
    pub fn set_draining(&self) {
        self.0.fetch_max(DRAINING, Ordering::AcqRel);
    }

    /// The phase now.
    pub fn phase(&self) -> Phase {
        match self.0.load(Ordering::Acquire) {
            STARTING => Phase::Starting,
            READY => Phase::Ready,
            _ => Phase::Draining,
        }
    }

    /// Whether the node is on its way out.
    pub fn is_draining(&self) -> bool {
        self.phase() == Phase::Draining
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_only_goes_forward() {
        let readiness = Readiness::new();
        assert_eq!(readiness.phase(), Phase::Starting);
        readiness.set_ready();
        assert_eq!(readiness.phase(), Phase::Ready);
        readiness.set_draining();
        readiness.set_ready();
        assert!(readiness.is_draining(), "a start that ends late must not undo the drain");
    }
}
