//! `/echo`: every message back as it came, through the same reader and writer as `/v1/ws`. For conformance suites.

use bytes::Bytes;
use fastwebsockets::OpCode;
use tokio::io::{AsyncRead, AsyncWrite};

use super::frames::Inbound;
use super::handshake::Upgrade;
use super::wire::{Loss, Wire};
use crate::close::{Fault, Kind};
use crate::envelope;
use crate::transport::Edge;

/// Serves one connection until it ends.
pub async fn echo<S: AsyncRead + AsyncWrite + Unpin>(
    edge: &Edge,
    stream: S,
    unread: Bytes,
    upgrade: Upgrade,
) {
    let (mut wire, mut fed) = Wire::new(stream, &unread, &edge.config.limits, upgrade.deflate);
    if let Err(fault) = upgrade.who {
        wire.outbox.message(OpCode::Text, &envelope::encode_error(&fault, None));
        return wire.goodbye(Some(fault.kind.code()), &fault.close_reason(), false).await;
    }
    loop {
        while let Some(inbound) = wire.next_arrived() {
            let inbound = match wire.inflated(inbound) {
                Ok(inbound) => inbound,
                Err(fault) => return wire.goodbye(Some(fault.code()), fault.reason(), false).await,
            };
            match inbound {
                Inbound::Text(text) => wire.outbox.message(OpCode::Text, &text),
                Inbound::Binary(bytes) => wire.outbox.message(OpCode::Binary, &bytes),
                Inbound::Ping(payload) => wire.outbox.control(OpCode::Pong, &payload),
                Inbound::Pong | Inbound::Deflated(_) => {}
                Inbound::Close(code) => return wire.goodbye(code, "", true).await,
            }
        }
        if let Err(loss) = fed {
            return match loss {
                Loss::Violation(fault) => wire.goodbye(Some(fault.code()), fault.reason(), false).await,
                Loss::Eof | Loss::Io(_) => wire.hang_up().await,
            };
        }
        let turn = std::future::poll_fn(|context| wire.poll_turn(context));
        fed = tokio::select! {
            turn = turn => turn,
            () = edge.drain.token().cancelled() => {
                let (_, retry) = edge.drain.spread();
                let fault = Fault::new(Kind::Restart, "this node is being restarted").with_retry_after(retry);
                return wire.goodbye(Some(fault.kind.code()), &fault.close_reason(), false).await;
            }
        };
    }
}
