//! Following channels over Server-Sent Events, as a browser's `EventSource` does: the last event's ID is the position,
//! the stream says how long to wait before coming back.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use hyper::{Method, StatusCode};
use tokio::time::timeout;

use super::event_stream::EventStream;
use super::{Ending, Never, Printer, Start, query};
use crate::commands::client::{ANSWER, Client, ClientError, Refusal, body};

/// How far the channels were read.
pub(super) struct Position {
    start: Start,
    last_event_id: Option<String>,
}

/// An edge sends a comment every 15 s: three of them missed.
const PATIENCE: Duration = Duration::from_secs(45);

impl Position {
    pub(super) fn new(start: Start) -> Self {
        Self { start, last_event_id: None }
    }

    /// One connection, from its beginning to its end.
    pub(super) async fn follow(&mut self, client: &Client, printer: &mut Printer) -> Never {
        let history = self.start.history.filter(|_| self.last_event_id.is_none());
        let path = format!("/v1/sse?{}", query(&self.start, self.start.cursor.as_deref(), history));
        let mut request = client
            .request(Method::GET, &path)
            .header(ACCEPT, "text/event-stream")
            .header(CACHE_CONTROL, "no-cache");
        if let Some(id) = &self.last_event_id {
            // Wins over the cursor of the query.
            request = request.header("last-event-id", id);
        }
        let request = request
            .body(Full::new(Bytes::new()))
            .map_err(|error| ClientError::Nonsense(error.to_string()))?;
        let mut connection = client.connect().await?;
        let answer = connection.send(request, ANSWER).await?;
        let (head, mut rest) = answer.into_parts();
        if head.status != StatusCode::OK {
            return Err(ClientError::from(Refusal::from_answer(&head, &body(rest).await?)).into());
        }
        let kind = head.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if !kind.starts_with("text/event-stream") {
            return Err(ClientError::Nonsense(format!("Content-Type is {kind:?}")).into());
        }
        eprintln!("tidegate: connected to {} over SSE", client.url());

        let mut stream = EventStream::after(self.last_event_id.clone().unwrap_or_default());
        let mut events = Vec::new();
        loop {
            let silent = |_| ClientError::Silent { url: client.url().to_string() };
            let frame = match timeout(PATIENCE, rest.frame()).await.map_err(silent)? {
                Some(frame) => frame.map_err(ClientError::from)?,
                None => return Err(Ending::Lost(ClientError::Ended(String::new()), stream.retry())),
            };
            let Some(piece) = frame.data_ref() else { continue };
            stream
                .read(piece, &mut events)
                .map_err(|_| ClientError::Nonsense("an event without end".to_owned()))?;
            for (data, id) in events.drain(..) {
                // First printed, then counted: what was not printed comes again.
                let envelope = printer.print(&data).await?;
                self.last_event_id = Some(id).filter(|id| !id.is_empty());
                if let Some(refusal) = envelope.refusal() {
                    // On a stream an error is the last event.
                    return Err(with_wait(ClientError::from(refusal).into(), stream.retry()));
                }
            }
            // An ID may also come without an event.
            self.last_event_id = Some(stream.last_event_id().to_owned()).filter(|id| !id.is_empty());
        }
    }
}

fn with_wait(ending: Ending, wait: Option<Duration>) -> Ending {
    match ending {
        Ending::Lost(error, None) => Ending::Lost(error, wait),
        other => other,
    }
}
