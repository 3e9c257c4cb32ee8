//! How a WebSocket ends, whoever ends it.

use fastwebsockets::OpCode;
use tokio::io::{AsyncRead, AsyncWrite};

use super::wire::{Loss, Wire};
use crate::close::{Fault, Kind};
use crate::config::Limits;
use crate::envelope;
use crate::metrics::{Metrics, Transport};
use crate::transport::http::Opening;

/// What a connection needs at its beginning and at its end.
#[derive(Default)]
pub(super) struct Ends {
    /// Joins that wait for a token.
    pub(super) opening: Option<Opening>,
    /// The refusal that it ends with.
    pub(super) refused: Option<Box<Fault>>,
    /// How the connection ends, once what came before that has been heard.
    pub(super) lost: Option<Loss>,
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

    /// Tells the client, and the metrics; whether the client has been `told` why already.
    pub(super) async fn say<S: AsyncRead + AsyncWrite + Unpin>(
        self,
        mut wire: Wire<S>,
        metrics: &Metrics,
        told: bool,
    ) {
        match self {
            Self::Fault(fault) => {
                metrics.fault(Transport::WebSocket, fault.kind);
                metrics.closed(Transport::WebSocket, fault.kind.code(), fault.kind.reason());
                if fault.kind != Kind::Restart && !told {
                    wire.outbox.message(OpCode::Text, &envelope::encode_error(&fault, None));
                    metrics.sent(Transport::WebSocket, 1);
                }
                wire.goodbye(Some(fault.kind.code()), &fault.close_reason(), false).await;
            }
            Self::Violation(fault) => {
                metrics.closed(Transport::WebSocket, fault.code(), "protocol_error");
                wire.goodbye(Some(fault.code()), fault.reason(), false).await;
            }
            Self::Closed(code) => {
                metrics.closed(Transport::WebSocket, code.unwrap_or(1005), "client");
                wire.goodbye(code, "", true).await;
            }
            Self::Lost => {
                metrics.closed(Transport::WebSocket, 1006, "lost");
                wire.hang_up().await;
            }
            Self::Stuck => metrics.closed(Transport::WebSocket, 1006, "write_timeout"),
            Self::Dead => metrics.closed(Transport::WebSocket, 1006, "dead_peer"),
        }
    }
}
