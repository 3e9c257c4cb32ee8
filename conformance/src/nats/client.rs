//! The NATS protocol by hand, as little of it as checks need: connect, publish with headers, ask and be answered. Written
//! from the protocol's description, so that what an edge stores is seen without its own client in between.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::NatsError;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// A connection to a server.
pub struct Client {
    stream: BufReader<TcpStream>,
    inbox: String,
    asked: u64,
    /// What came while something else was waited for.
    heard: VecDeque<Heard>,
}

/// What a server says.
enum Said {
    Pong,
    Message(Heard),
}

/// A message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Its subject.
    pub subject: String,
    /// Where an answer goes, if one is wanted.
    pub reply: Option<String>,
    /// Its headers, the status line left out.
    pub headers: Vec<(String, String)>,
    /// What it says.
    pub body: Vec<u8>,
}

impl Client {
    /// Connects; `more` are members of CONNECT beside the ones that every client has: `user` and `pass`, `auth_token`.
    ///
    /// # Errors
    /// [`NatsError`], also when the server does not let us in.
    pub async fn connect(addr: SocketAddr, more: Value) -> Result<Self, NatsError> {
        // A frozen server takes connections and says nothing.
        timeout(PATIENCE, Self::enter(addr, more)).await.map_err(|_| late())?
    }

    async fn enter(addr: SocketAddr, more: Value) -> Result<Self, NatsError> {
        let stream = BufReader::new(TcpStream::connect(addr).await?);
        let inbox = format!("_INBOX.{:016x}", rand::random::<u64>());
        let mut client = Self { stream, inbox, asked: 0, heard: VecDeque::new() };
        let info = client.line().await?;
        if !info.starts_with("INFO ") {
            return Err(NatsError::Said(info));
        }
        let mut options = json!({"verbose": false, "pedantic": false, "headers": true, "no_responders": true,
            "name": "conformance", "lang": "rust", "version": "0", "protocol": 1});
        if let (Value::Object(options), Value::Object(more)) = (&mut options, more) {
            options.extend(more);
        }
        client.write(format!("CONNECT {options}\r\n").as_bytes()).await?;
        client.flush().await?;
        let subscribe = format!("SUB {}.* 1\r\n", client.inbox);
        client.write(subscribe.as_bytes()).await?;
        Ok(client)
    }

    /// Waits until the server has taken all that was written before.
    ///
    /// # Errors
    /// [`NatsError`]; what the server says instead of PONG is one.
    pub async fn flush(&mut self) -> Result<(), NatsError> {
        self.write(b"PING\r\n").await?;
        let answer = async {
            loop {
                match self.said().await? {
                    Said::Pong => return Ok(()),
                    Said::Message(message) => self.heard.push_back(message),
                }
            }
        };
        timeout(PATIENCE, answer).await.map_err(|_| late())?
    }

    /// Publishes without waiting for anything.
    ///
    /// # Errors
    /// Those of the socket.
    pub async fn publish(
        &mut self,
        subject: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<(), NatsError> {
        self.publish_with_reply(subject, "", headers, body).await
    }

    /// Publishes and waits for the one answer.
    ///
    /// # Errors
    /// [`NatsError`]; nobody who answers is one.
    pub async fn request(
        &mut self,
        subject: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Heard, NatsError> {
        self.asked += 1;
        let reply = format!("{}.{}", self.inbox, self.asked);
        self.publish_with_reply(subject, &reply, headers, body).await?;
        let answer = async {
            loop {
                let heard = self.next().await?;
                if heard.subject == reply {
                    return Ok(heard);
                }
            }
        };
        timeout(PATIENCE, answer).await.map_err(|_| late())?
    }

    /// Asks JetStream's API; an `error` in its answer is an error here.
    ///
    /// # Errors
    /// [`NatsError`].
    pub async fn api(&mut self, what: &str, body: &Value) -> Result<Value, NatsError> {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let heard = self.request(&format!("$JS.API.{what}"), &[], &body).await?;
        let said = || NatsError::Said(String::from_utf8_lossy(&heard.body).into_owned());
        let answer: Value = serde_json::from_slice(&heard.body).map_err(|_| said())?;
        if answer.get("error").is_some() { Err(said()) } else { Ok(answer) }
    }

    /// Listens to a subject, wildcards allowed; what comes is given by [`Client::next`].
    ///
    /// # Errors
    /// [`NatsError`]; a subject that may not be listened to is one.
    pub async fn subscribe(&mut self, subject: &str) -> Result<(), NatsError> {
        self.write(format!("SUB {subject} 2\r\n").as_bytes()).await?;
        self.flush().await
    }

    /// The next message; pings are answered by the way.
    ///
    /// # Errors
    /// [`NatsError`]; `-ERR` is one, and so are five seconds in which none comes.
    pub async fn next(&mut self) -> Result<Heard, NatsError> {
        if let Some(heard) = self.heard.pop_front() {
            return Ok(heard);
        }
        let message = async {
            loop {
                if let Said::Message(message) = self.said().await? {
                    return Ok(message);
                }
            }
        };
        timeout(PATIENCE, message).await.map_err(|_| late())?
    }

    async fn said(&mut self) -> Result<Said, NatsError> {
        loop {
            let line = self.line().await?;
            let mut words = line.split(' ');
            match words.next() {
                Some("PING") => self.write(b"PONG\r\n").await?,
                Some("PONG") => return Ok(Said::Pong),
                Some("+OK" | "INFO") => {}
                Some("MSG") => {
                    return self.message(&words.collect::<Vec<_>>(), false).await.map(Said::Message);
                }
                Some("HMSG") => {
                    return self.message(&words.collect::<Vec<_>>(), true).await.map(Said::Message);
                }
                _ => return Err(NatsError::Said(line)),
            }
        }
    }

    /// `subject sid [reply] [header bytes] total bytes`, then that many bytes.
    async fn message(&mut self, words: &[&str], with_headers: bool) -> Result<Heard, NatsError> {
        let bad = || NatsError::Said(format!("a message {words:?}"));
        let sizes = if with_headers { 2 } else { 1 };
        let (named, numbers) = words.split_at(words.len().checked_sub(sizes).ok_or_else(bad)?);
        let numbers: Vec<usize> = numbers.iter().filter_map(|word| word.parse().ok()).collect();
        let (&[subject, _sid, ref reply @ ..], Some(&total)) = (named, numbers.last()) else {
            return Err(bad());
        };
        let mut bytes = vec![0; total + 2];
        self.stream.read_exact(&mut bytes).await?;
        bytes.truncate(total);
        let body = bytes.split_off(if with_headers { numbers[0].min(total) } else { 0 });
        let head = String::from_utf8_lossy(&bytes);
        let headers = head.lines().skip(1).filter_map(|line| line.split_once(':'));
        Ok(Heard {
            subject: subject.to_owned(),
            reply: reply.first().map(|reply| (*reply).to_owned()),
            headers: headers.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect(),
            body,
        })
    }

    async fn publish_with_reply(
        &mut self,
        subject: &str,
        reply: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<(), NatsError> {
        let mut head = String::new();
        if !headers.is_empty() {
            head.push_str("NATS/1.0\r\n");
            for (name, value) in headers {
                head.extend([*name, ": ", value, "\r\n"]);
            }
            head.push_str("\r\n");
        }
        let total = head.len() + body.len();
        let line = if head.is_empty() {
            format!("PUB {subject} {reply} {total}\r\n")
        } else {
            format!("HPUB {subject} {reply} {} {total}\r\n", head.len())
        };
        self.write(&[line.as_bytes(), head.as_bytes(), body, b"\r\n"].concat()).await
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), NatsError> {
        self.stream.get_mut().write_all(bytes).await?;
        Ok(())
    }

    async fn line(&mut self) -> Result<String, NatsError> {
        let mut line = String::new();
        if self.stream.read_line(&mut line).await? == 0 {
            return Err(NatsError::Said("nothing more".to_owned()));
        }
        Ok(line.trim_end().to_owned())
    }
}

fn late() -> NatsError {
    NatsError::Said("nothing in time".to_owned())
}
