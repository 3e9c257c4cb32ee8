//! Words between nodes, by core NATS: presence, typing, tickets, whatever is not a message of a channel. Nothing is
//! stored, and what is said while a node is away is lost to it; whoever uses this has a way to notice and ask again.
//!
//! Subjects: `PREFIX.node.all.TOPIC.FROM` is heard by every node, `PREFIX.node.one.TO.TOPIC.FROM` by one.

use std::fmt;
use std::time::Duration;

use async_nats::{Client, Message, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::time::timeout;

use crate::bus::BusError;

/// One run of one node; a node that starts again is another one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(u64);

/// This node's way to speak to the others.
#[derive(Clone)]
pub struct Peers {
    client: Client,
    prefix: String,
    node: NodeId,
}

/// What another node has said.
#[derive(Debug)]
pub struct Said {
    /// Who.
    pub from: NodeId,
    /// What.
    pub payload: Bytes,
}

/// What another node asks this one.
pub struct Question {
    /// Who.
    pub from: NodeId,
    /// What.
    pub payload: Bytes,
    client: Client,
    reply: async_nats::Subject,
}

/// The words of others on one topic, in the order in which each of them said them.
pub struct Words {
    subscriber: Subscriber,
    node: NodeId,
}

/// The questions to this node on one topic.
pub struct Questions {
    subscriber: Subscriber,
    client: Client,
}

impl NodeId {
    /// As hexadecimal digits say it; `None` if they do not.
    pub fn parse(text: &str) -> Option<Self> {
        let canonical =
            text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        canonical.then(|| u64::from_str_radix(text, 16).ok().map(Self)).flatten()
    }

    /// The node of that number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    pub const fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Peers {
    pub(super) fn new(client: Client, prefix: &str) -> Self {
        Self { client, prefix: prefix.to_owned(), node: NodeId(rand::random()) }
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Tells all other nodes. What one node says on one topic arrives in its order, or not at all.
    ///
    /// # Errors
    /// [`BusError`] if it can't be said: too large for NATS, or this connection has ended for good. While NATS is away it
    /// waits in a small buffer, then for room in it.
    pub async fn say(&self, topic: &'static str, payload: Bytes) -> Result<(), BusError> {
        let subject = format!("{}.node.all.{topic}.{}", self.prefix, self.node);
        let said = self.client.publish(subject, payload).await;
        said.map_err(|error| BusError::unavailable(error.to_string()))
    }

    /// What the others say on a topic from now on.
    ///
    /// # Errors
    /// [`BusError`] if the connection has ended for good.
    pub async fn listen(&self, topic: &'static str) -> Result<Words, BusError> {
        let subject = format!("{}.node.all.{topic}.*", self.prefix);
        let subscriber = self.client.subscribe(subject).await;
        let subscriber = subscriber.map_err(|error| BusError::unavailable(error.to_string()))?;
        Ok(Words { subscriber, node: self.node })
    }

    /// Asks one node and waits for its answer.
    ///
    /// # Errors
    /// [`BusError`] if no answer comes within `patience`, or that node is not there.
    pub async fn ask(
        &self,
        node: NodeId,
        topic: &'static str,
        payload: Bytes,
        patience: Duration,
    ) -> Result<Bytes, BusError> {
        let subject = format!("{}.node.one.{node}.{topic}.{}", self.prefix, self.node);
        let answer = timeout(patience, self.client.request(subject, payload)).await;
        let answer = answer.map_err(|_| BusError::too_slow())?;
        answer.map(|answer| answer.payload).map_err(|error| BusError::unavailable(error.to_string()))
    }

    /// The questions on a topic to this node from now on.
    ///
    /// # Errors
    /// [`BusError`] if the connection has ended for good.
    pub async fn questions(&self, topic: &'static str) -> Result<Questions, BusError> {
        let subject = format!("{}.node.one.{}.{topic}.*", self.prefix, self.node);
        let subscriber = self.client.subscribe(subject).await;
        let subscriber = subscriber.map_err(|error| BusError::unavailable(error.to_string()))?;
        Ok(Questions { subscriber, client: self.client.clone() })
    }

    /// Whether NATS is there, as far as this node knows. What is said while it is not comes late.
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == async_nats::connection::State::Connected
    }

    /// Waits until all that was said has been sent.
    ///
    /// # Errors
    /// [`BusError`] if the connection has ended for good.
    pub async fn flush(&self) -> Result<(), BusError> {
        self.client.flush().await.map_err(|error| BusError::unavailable(error.to_string()))
    }

    /// Bytes that one word, question or answer may have at most.
    pub fn max_payload(&self) -> usize {
        self.client.max_payload()
    }
}

impl Words {
    /// The next; `None` when the connection has ended for good.
    ///
    /// # Cancel safety
    /// Nothing is lost by cancelling it.
    pub async fn next(&mut self) -> Option<Said> {
        loop {
            let message = self.subscriber.next().await?;
            if let Some(from) = sender(&message)
                && from != self.node
            {
                return Some(Said { from, payload: message.payload });
            }
        }
    }
}

impl Questions {
    /// The next; `None` when the connection has ended for good.
    ///
    /// # Cancel safety
    /// Nothing is lost by cancelling it.
    pub async fn next(&mut self) -> Option<Question> {
        loop {
            let message = self.subscriber.next().await?;
            if let (Some(from), Some(reply)) = (sender(&message), message.reply) {
                return Some(Question { from, payload: message.payload, client: self.client.clone(), reply });
            }
        }
    }
}

impl Question {
    /// Answers.
    ///
    /// # Errors
    /// [`BusError`] if the answer is too large for NATS, or the connection has ended for good.
    pub async fn answer(self, payload: Bytes) -> Result<(), BusError> {
        let answered = self.client.publish(self.reply, payload).await;
        answered.map_err(|error| BusError::unavailable(error.to_string()))
    }
}

fn sender(message: &Message) -> Option<NodeId> {
    NodeId::parse(message.subject.rsplit('.').next()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_named_by_sixteen_digits() {
        let node = NodeId::new(0xab);
        assert_eq!(NodeId::parse(&node.to_string()), Some(node));
        for bad in ["", "ab", "00000000000000AB", "+0000000000000ab", "0000000000000000ab"] {
            assert_eq!(NodeId::parse(bad), None, "{bad:?}");
        }
    }
}
