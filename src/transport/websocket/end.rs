//! How a WebSocket ends, whoever ends it.

use super::wire::Loss;
use crate::close::{Fault, Kind};
use crate::config::Limits;
use crate::transport::http::Opening;

/// What a connection needs at its beginning and at its end.
#[derive(Default)]
pub(super) struct Ends {
    /// Joins that wait for a token.
    pub(super) opening: Option<Opening>,
    /// The refusal that it begins and ends with.
    pub(super) refused: Option<Box<Fault>>,
    /// How the connection ends, once what came before that has been heard.
    pub(super) lost: Option<Loss>,
    /// What came of giving it news while its task slept, if anything but that.
    pub(super) turn: Option<Turn>,
}

/// What there is to see to beside the news of channels.
pub(super) enum Turn {
    /// Something was heard.
    Heard,
    /// Something may be due: a moment, a drain, a revocation; or there is room to serve what has arrived.
    Due,
    /// The connection is gone.
    Lost(Loss),
    /// The client is to go.
    Refused(Fault),
}

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
    /// What a connection ends with whose socket or reader has ended so.
    pub(super) fn of(loss: &Loss, limits: &Limits) -> Self {
        match loss {
            Loss::Violation(fault) if fault.code() == Kind::MessageTooLarge.code() => {
                let limit = limits.message_bytes;
                let fault = Fault::new(Kind::MessageTooLarge, format!("a message has at most {limit} bytes"));
                fault.with_limit("limits.message_bytes").into()
            }
            Loss::Violation(fault) => Self::Violation(*fault),
            Loss::Io(error) if error.kind() == std::io::ErrorKind::TimedOut => Self::Stuck,
            Loss::Eof | Loss::Io(_) => Self::Lost,
        }
    }

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
