//! The client's side of one WebSocket (RFC 6455): opening handshake, text messages, pings answered, the close. Fixed
//! to what an edge sends; never waits longer than it is told to.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use fastwebsockets::{
    FragmentCollectorRead, Frame, OpCode, Payload, Role, WebSocketError, WebSocketWrite,
    after_handshake_split,
};
use http_body_util::Full;
use hyper::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use hyper::header::{SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION};
use hyper::upgrade::Upgraded;
use hyper::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use sha1::{Digest as _, Sha1};
use tokio::io::{ReadHalf, WriteHalf};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{ANSWER, Client, ClientError, Refusal, body};

type Stream = TokioIo<Upgraded>;

/// For a last frame that nobody waits for.
const GOODBYE: Duration = Duration::from_secs(1);

/// An open WebSocket; dropping it cuts the connection.
pub(in crate::commands) struct WebSocket {
    url: String,
    reader: FragmentCollectorRead<ReadHalf<Stream>>,
    writer: WebSocketWrite<WriteHalf<Stream>>,
    _driver: JoinSet<()>,
}

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::commands) enum Received {
    /// A text message.
    Text(String),
    /// The other side closes; 1005 where it gave no code (RFC 6455 §7.1.5).
    Close(u16, String),
}

impl WebSocket {
    /// Connects and shakes hands (RFC 6455 §4.1).
    ///
    /// # Errors
    /// [`ClientError::Refused`] for any answer but 101, and all that a connection can fail with.
    pub(in crate::commands) async fn open(client: &Client, path: &str) -> Result<Self, ClientError> {
        let key = fastwebsockets::handshake::generate_key();
        let request = client
            .request(Method::GET, path)
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, "websocket")
            .header(SEC_WEBSOCKET_VERSION, "13")
            .header(SEC_WEBSOCKET_PROTOCOL, "tidegate.v1.json")
            .header(SEC_WEBSOCKET_KEY, &key)
            .body(Full::new(Bytes::new()))
            .map_err(|error| ClientError::Nonsense(error.to_string()))?;
        let mut connection = client.connect().await?;
        let answer = connection.send(request, ANSWER).await?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            let (head, rest) = answer.into_parts();
            return Err(Refusal::from_answer(&head, &body(rest).await?).into());
        }
        let accepted = answer.headers().get(SEC_WEBSOCKET_ACCEPT);
        if accepted.is_none_or(|accept| accept != accept_of(&key).as_str()) {
            return Err(ClientError::Nonsense("it upgrades to something else than WebSocket".to_owned()));
        }
        let stream = TokioIo::new(hyper::upgrade::on(answer).await?);
        let (reader, writer) = tokio::io::split(stream);
        let (mut reader, writer) = after_handshake_split(reader, writer, Role::Client);
        // Answered below, where they are flushed too.
        reader.set_auto_pong(false);
        reader.set_auto_close(false);
        let reader = FragmentCollectorRead::new(reader);
        Ok(Self { url: client.url().to_string(), reader, writer, _driver: connection.driver })
    }

    /// Sends a text message.
    pub(in crate::commands) async fn send(&mut self, text: &str) -> Result<(), ClientError> {
        self.write(Frame::text(Payload::Borrowed(text.as_bytes()))).await
    }

    /// The next message or the close; pings are answered on the way. Fails when nothing at all comes for `patience`.
    ///
    /// # Cancel safety
    /// None: a frame that was read in part is lost.
    pub(in crate::commands) async fn receive(&mut self, patience: Duration) -> Result<Received, ClientError> {
        loop {
            // With both answers switched off above, the reader has nothing to send.
            let mut nothing = |_: Frame<'_>| std::future::ready(Ok::<_, WebSocketError>(()));
            let frame = timeout(patience, self.reader.read_frame(&mut nothing))
                .await
                .map_err(|_| ClientError::Silent { url: self.url.clone() })??;
            let payload = Bytes::copy_from_slice(&frame.payload);
            match frame.opcode {
                OpCode::Text => return Ok(Received::Text(String::from_utf8_lossy(&payload).into_owned())),
                OpCode::Ping => self.write(Frame::pong(Payload::Borrowed(&payload))).await?,
                OpCode::Close => {
                    let (code, reason) = match payload.split_first_chunk() {
                        Some((code, reason)) => (u16::from_be_bytes(*code), String::from_utf8_lossy(reason)),
                        None => (1005, "".into()),
                    };
                    // RFC 6455 §5.5.1: echo it. If it no longer gets through, the close still came.
                    let _ = self.write(Frame::close_raw(Payload::Borrowed(&payload))).await;
                    return Ok(Received::Close(code, reason.into_owned()));
                }
                OpCode::Pong | OpCode::Binary | OpCode::Continuation => {}
            }
        }
    }

    /// Says goodbye; the other side may already be gone.
    pub(in crate::commands) async fn leave(&mut self) {
        let _ = timeout(GOODBYE, self.write(Frame::close(1000, b""))).await;
    }

    async fn write(&mut self, frame: Frame<'_>) -> Result<(), ClientError> {
        self.writer.write_frame(frame).await?;
        Ok(self.writer.flush().await?)
    }
}

/// RFC 6455 §4.2.2, step 5.4.
fn accept_of(key: &str) -> String {
    STANDARD
        .encode(Sha1::new().chain_update(key).chain_update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11").finalize())
}

#[cfg(test)]
mod tests {
    use super::accept_of;

    #[test]
    fn the_key_of_the_rfc_gives_its_answer() {
        // RFC 6455 §1.3.
        assert_eq!(accept_of("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
