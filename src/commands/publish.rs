//! `tidegate publish`: one message to one channel, over `POST /v1/send`, and what became of it.

use std::io::Read as _;

use bytes::Bytes;
use clap::Args;
use http_body_util::Full;
use hyper::Method;
use hyper::header::{ACCEPT, CONTENT_TYPE};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::client::{ANSWER, Client, ClientError, ClientFlags, Refusal};
use super::{Failure, print};
use crate::channel::ChannelName;

/// What to send where.
#[derive(Args)]
#[command(after_help = "\
DATA is JSON; what is no JSON and does not look like it is sent as a text. Prints the acknowledgement:
the position of the message, and whether an earlier one had the same --message-id.

Examples:
  tidegate publish chat:lobby hello
  tidegate publish chat:lobby '{\"text\": \"hello\"}' --message-id order-17
  date | tidegate publish clock - --url https://edge.example.com --token \"$TOKEN\"")]
pub struct Flags {
    /// The channel
    channel: ChannelName,
    /// What to send; - for standard input
    #[arg(allow_hyphen_values = true)]
    data: String,
    /// Within two minutes a second message with the same ID is not sent again
    #[arg(long, value_name = "ID", value_parser = message_id)]
    message_id: Option<String>,
    #[command(flatten)]
    client: ClientFlags,
}

/// What no edge can be set to take (`limits.message_bytes` ends there).
const DATA_BYTES: u64 = 64 << 20;

/// Sends it and prints the acknowledgement.
///
/// # Errors
/// The edge's refusal, or why it could not be asked.
pub async fn run(flags: Flags) -> Result<(), Failure> {
    let data = if flags.data == "-" { standard_input()? } else { flags.data };
    let data = as_json(&data)?;
    let message_id = flags.message_id.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    let envelope = Envelope {
        kind: "message",
        payload: Payload { channel: flags.channel.as_str(), data: &data },
        metadata: Metadata { message_id: &message_id, correlation_id: "publish" },
    };
    let envelope = serde_json::to_vec(&envelope)
        .map_err(|error| Failure::Usage(format!("DATA cannot be sent: {error}")))?;

    let client = Client::new(flags.client)?;
    let request = client
        .request(Method::POST, "/v1/send")
        .header(CONTENT_TYPE, "application/json")
        .header(ACCEPT, "application/json, application/problem+json")
        .body(Full::new(Bytes::from(envelope)))
        .map_err(|error| ClientError::Nonsense(error.to_string()))?;
    let (head, text) = client.connect().await?.ask(request, ANSWER).await?;
    if !head.status.is_success() {
        return Err(ClientError::from(Refusal::from_answer(&head, &text)).into());
    }
    print(&format!("{}\n", acknowledgement(&text)?))
}

// Types rather than a JSON value: that would lose what no 64-bit number holds, and the order of fields.
#[derive(Serialize)]
struct Envelope<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    payload: Payload<'a>,
    metadata: Metadata<'a>,
}

#[derive(Serialize)]
struct Payload<'a> {
    channel: &'a str,
    data: &'a RawValue,
}

#[derive(Serialize)]
struct Metadata<'a> {
    message_id: &'a str,
    /// Asks for an answer.
    correlation_id: &'static str,
}

/// The payload of the one answer, or what was wrong.
fn acknowledgement(text: &[u8]) -> Result<Value, ClientError> {
    let nonsense = || ClientError::Nonsense(String::from_utf8_lossy(text).chars().take(200).collect());
    let answers: Vec<Value> = serde_json::from_slice(text).map_err(|_| nonsense())?;
    let Some([answer]) = answers.get(..) else { return Err(nonsense()) };
    match answer["type"].as_str() {
        Some("message_ack") => Ok(answer["payload"].clone()),
        Some("error") => {
            Err(serde_json::from_value::<Refusal>(answer["payload"].clone()).map_err(|_| nonsense())?.into())
        }
        _ => Err(nonsense()),
    }
}

fn standard_input() -> Result<String, Failure> {
    let mut text = String::new();
    std::io::stdin()
        .take(DATA_BYTES + 1)
        .read_to_string(&mut text)
        .map_err(|source| Failure::System { what: "cannot read standard input", source })?;
    if text.len() as u64 > DATA_BYTES {
        return Err(Failure::Usage(format!("standard input is longer than {DATA_BYTES} bytes")));
    }
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn as_json(text: &str) -> Result<Box<RawValue>, Failure> {
    match serde_json::from_str(text) {
        Ok(json) => Ok(json),
        // Meant as JSON: sent as a text it would only fail later, at the reader.
        Err(error) if text.trim_start().starts_with(['{', '[', '"']) => {
            Err(Failure::Usage(format!("DATA begins like JSON and is none: {error}")))
        }
        Err(_) => Ok(serde_json::value::to_raw_value(text).expect("a text is a JSON value")),
    }
}

fn message_id(text: &str) -> Result<String, &'static str> {
    let printable = text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    if (1..=64).contains(&text.len()) && printable {
        return Ok(text.to_owned());
    }
    Err("must be 1 to 64 printable ASCII characters")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_json_or_a_text_but_never_broken_json() {
        for (typed, sent) in [
            ("hello there", "\"hello there\""),
            ("{\"a\": 1}", "{\"a\": 1}"),
            ("12", "12"),
            ("true", "true"),
            ("", "\"\""),
            ("12 bottles", "\"12 bottles\""),
        ] {
            assert_eq!(as_json(typed).unwrap().get(), sent);
        }
        let text = as_json("{\"a\": ").unwrap_err().to_string();
        assert_eq!(text, "DATA begins like JSON and is none: EOF while parsing a value at line 1 column 6");
    }

    #[test]
    fn the_answer_is_an_acknowledgement_or_a_refusal() {
        let ack =
            br#"[{"type":"message_ack","payload":{"channel":"a","epoch":"e","seq":7,"duplicate":false}}]"#;
        assert_eq!(acknowledgement(ack).unwrap()["seq"], 7);
        let error = br#"[{"type":"error","payload":{"code":4000,"reason":"forbidden","detail":"no grant"}}]"#;
        assert_eq!(acknowledgement(error).unwrap_err().to_string(), "refused: 4000 forbidden: no grant");
        for bad in ["", "{}", "[]", "<html>", r#"[{"type":"pong"}]"#] {
            let text = acknowledgement(bad.as_bytes()).unwrap_err().to_string();
            assert_eq!(text, format!("that is no answer of an edge: {bad}"));
        }
    }

    #[test]
    fn ids_are_short_and_printable() {
        assert!(message_id("order 17/ä").is_err() && message_id("order 17").is_ok());
        assert!(message_id("").is_err() && message_id(&"x".repeat(65)).is_err());
    }
}
