//! How a WebSocket ends, whoever ends it.

use crate::close::Fault;

/// Why a connection ends.
pub(super) enum End {
    /// We end it, for that reason.
    Fault(Box<Fault>),
    /// The client has sent a close.
    Closed(Option<u16>),
    /// The client broke RFC 6455.
    Violation(super::guard::Fault),
    /// The client is gone.
    Lost,
    /// The client has not read for `limits.write_timeout`.
    Stuck,
    /// The client does not answer any more.
    Dead,
}

impl From<Fault> for End {
    fn from(fault: Fault) -> Self {
        Self::Fault(Box::new(fault))
    }
}

impl End {
    /// A word of ours for the log and the metrics: nothing that the client has sent is in it.
    pub(super) const fn reason(&self) -> &'static str {
        match self {
            Self::Fault(fault) => fault.kind.reason(),
            Self::Closed(_) => "client",
            Self::Violation(_) => "protocol_error",
            Self::Lost => "lost",
            Self::Stuck => "write_timeout",
            Self::Dead => "dead_peer",
        }
    }
}
