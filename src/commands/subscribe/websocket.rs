//! Following channels over WebSocket: one `join_room` per channel, after a loss with the position that was reached in
//! it. The position is an epoch and a sequence number once a message has come, before that the join's own cursor.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Ending, Envelope, Never, Printer, Start};
use crate::commands::client::{Client, ClientError, Received, Refusal, WebSocket};

/// How far each channel was read.
pub(super) struct Positions {
    start: Start,
    reached: BTreeMap<String, Position>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Position {
    Cursor(String),
    At { epoch: String, seq: u64 },
}

/// Until the edge says how often it pings.
const PATIENCE: Duration = Duration::from_mins(1);
const JOIN: &str = "join";

impl Positions {
    pub(super) fn new(start: Start) -> Self {
        let cursor = |cursor: &String| Position::Cursor(cursor.clone());
        let reached = start
            .cursor
            .iter()
            .flat_map(|given| start.channels.iter().map(move |channel| (channel.clone(), cursor(given))))
            .collect();
        Self { start, reached }
    }

    /// One connection, from its beginning to its end.
    pub(super) async fn follow(&mut self, client: &Client, printer: &mut Printer) -> Never {
        let mut socket = WebSocket::open(client, "/v1/ws").await?;
        eprintln!("tidegate: connected to {} over WebSocket", client.url());
        for channel in &self.start.channels {
            socket.send(&self.join(channel).to_string()).await?;
        }
        let ended = self.read(&mut socket, printer).await;
        if let Err(Ending::Enough) = ended {
            socket.leave().await;
        }
        ended
    }

    async fn read(&mut self, socket: &mut WebSocket, printer: &mut Printer) -> Never {
        let mut patience = PATIENCE;
        let mut error = None;
        loop {
            match socket.receive(patience).await? {
                Received::Text(text) => {
                    let envelope = printer.print(&text).await?;
                    if let Some(ms) = envelope.payload.heartbeat_ms {
                        // Two pings missed, and some time for the way.
                        patience = Duration::from_millis(ms.saturating_mul(2)) + Duration::from_secs(10);
                    }
                    if let Some(refusal) = envelope.refusal() {
                        // A channel that was not joined brings nothing, and a connection waits for nothing then.
                        if envelope.metadata.correlation_id.as_deref() == Some(JOIN) {
                            return Err(ClientError::from(refusal).into());
                        }
                        error = Some(refusal);
                    }
                    self.note(envelope);
                }
                Received::Close(code, reason) => return Err(closed(code, &reason, error)),
            }
        }
    }

    fn join(&self, channel: &str) -> Value {
        let mut payload = json!({"channel": channel});
        match self.reached.get(channel) {
            Some(Position::At { epoch, seq }) => payload["recover"] = json!({"epoch": epoch, "seq": seq}),
            Some(Position::Cursor(cursor)) => payload["cursor"] = json!(cursor),
            None => {
                if let Some(count) = self.start.history {
                    payload["history"] = json!(count);
                }
            }
        }
        if self.start.presence {
            payload["presence"] = json!(true);
        }
        json!({"type": "join_room", "payload": payload, "metadata": {"correlation_id": JOIN}})
    }

    fn note(&mut self, envelope: Envelope) {
        let payload = envelope.payload;
        let position = match (envelope.kind.as_str(), payload.epoch, payload.seq, payload.cursor) {
            // Its `seq` may be that of the newest message, its cursor is where the replay begins.
            ("room_joined", _, _, Some(cursor)) => Position::Cursor(cursor),
            ("message", Some(epoch), Some(seq), _) => Position::At { epoch, seq },
            // The first that is held comes next.
            ("gap", Some(epoch), Some(seq), _) => Position::At { epoch, seq: seq.saturating_sub(1) },
            _ => return,
        };
        if let Some(channel) = payload.channel {
            self.reached.insert(channel, position);
        }
    }
}

fn closed(code: u16, reason: &str, earlier: Option<Refusal>) -> Ending {
    match code {
        // RFC 6455 §7.4.1: done, going away, no code.
        1000 | 1001 | 1005 => ClientError::Ended(format!(" ({code})")).into(),
        _ => ClientError::from(Refusal::from_close(code, reason).explained_by(earlier)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn positions(cursor: Option<&str>, history: Option<u32>) -> Positions {
        Positions::new(Start {
            channels: vec!["a".to_owned(), "b".to_owned()],
            cursor: cursor.map(str::to_owned),
            history,
            presence: false,
        })
    }

    fn payload(positions: &Positions) -> String {
        positions.join("a")["payload"].to_string()
    }

    #[test]
    fn a_join_names_the_position_that_was_reached() {
        let mut positions = positions(None, Some(5));
        assert_eq!(payload(&positions), r#"{"channel":"a","history":5}"#);
        for (envelope, expected) in [
            (
                r#"{"type":"room_joined","payload":{"channel":"a","epoch":"e","seq":9,"cursor":"c"}}"#,
                r#"{"channel":"a","cursor":"c"}"#,
            ),
            (
                r#"{"type":"message","payload":{"channel":"a","epoch":"e","seq":7,"prev":6,"data":{"seq":1}}}"#,
                r#"{"channel":"a","recover":{"epoch":"e","seq":7}}"#,
            ),
            (
                r#"{"type":"message","payload":{"channel":"b","epoch":"e","seq":70,"prev":6}}"#,
                r#"{"channel":"a","recover":{"epoch":"e","seq":7}}"#,
            ),
            (
                r#"{"type":"gap","payload":{"channel":"a","epoch":"f","seq":20,"reason":"expired"}}"#,
                r#"{"channel":"a","recover":{"epoch":"f","seq":19}}"#,
            ),
        ] {
            positions.note(serde_json::from_str(envelope).unwrap());
            assert_eq!(payload(&positions), expected);
        }
    }

    #[test]
    fn a_cursor_begins_every_channel() {
        let positions = positions(Some("c"), None);
        assert_eq!(payload(&positions), r#"{"channel":"a","cursor":"c"}"#);
        assert_eq!(positions.join("b")["payload"]["cursor"], "c");
    }

    #[test]
    fn a_close_is_a_loss_or_the_end() {
        assert!(matches!(closed(1000, "", None), Ending::Lost(_, None)));
        let restart = closed(1012, "restart;retry=5", None);
        assert!(matches!(restart, Ending::Lost(_, Some(wait)) if wait == Duration::from_millis(5)));
        assert!(matches!(closed(4003, "origin_not_allowed", None), Ending::Final(_)));
        let limited = Refusal::from_error(4004, "rate_limited".to_owned(), "slowly".to_owned(), Some(700));
        let limited = closed(4004, "rate_limited", Some(limited));
        assert!(matches!(limited, Ending::Lost(_, Some(wait)) if wait == Duration::from_millis(700)));
    }
}
