//! Following channels by long polling: each answer's cursor is the next question.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::ACCEPT;
use hyper::{Method, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Never, Printer, Start, query};
use crate::commands::client::{ANSWER, Client, ClientError, Connection, Refusal};

/// How far the channels were read.
pub(super) struct Position {
    start: Start,
    cursor: Option<String>,
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    messages: Vec<&'a RawValue>,
    cursor: String,
}

/// How long an edge may hold a question back: its own default.
const WAIT: Duration = Duration::from_secs(25);
/// Between questions when empty answers come faster than anybody could wait.
const PAUSE: Duration = Duration::from_secs(1);

impl Position {
    pub(super) fn new(start: Start) -> Self {
        let cursor = start.cursor.clone();
        Self { start, cursor }
    }

    /// Question after question, until one fails.
    pub(super) async fn follow(&mut self, client: &Client, printer: &mut Printer) -> Never {
        let mut connection = client.connect().await?;
        eprintln!("tidegate: polling {}", client.url());
        loop {
            if !connection.is_open().await {
                connection = client.connect().await?;
            }
            let asked = Instant::now();
            if self.ask(client, &mut connection, printer).await? == 0 && asked.elapsed() < PAUSE {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// One question and its answer; how many envelopes came.
    async fn ask(
        &mut self,
        client: &Client,
        connection: &mut Connection,
        printer: &mut Printer,
    ) -> Result<usize, super::Ending> {
        let mut path = format!("/v1/poll?{}", query(&self.start, self.cursor.as_deref(), self.start.history));
        if self.cursor.is_some() {
            path.extend(["&wait=", &WAIT.as_secs().to_string()]);
        }
        let request = client
            .request(Method::GET, &path)
            .header(ACCEPT, "application/json, application/problem+json")
            .body(Full::new(Bytes::new()))
            .map_err(|error| ClientError::Nonsense(error.to_string()))?;
        let (head, text) = connection.ask(request, WAIT + ANSWER).await?;
        if head.status != StatusCode::OK {
            return Err(ClientError::from(Refusal::from_answer(&head, &text)).into());
        }
        let page: Page = serde_json::from_slice(&text)
            .map_err(|error| ClientError::Nonsense(format!("a page without messages or cursor: {error}")))?;
        for envelope in &page.messages {
            printer.print(envelope.get()).await?;
        }
        // First printed, then counted: what was not printed comes again.
        self.cursor = Some(page.cursor);
        Ok(page.messages.len())
    }
}
