//! Three nats-servers that are one: a cluster with routes among them, whose streams have a leader that can be found,
//! killed, and started again.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::server::Routes;
use super::{Nats, NatsError, Options, Stream, monitor};
use crate::ports;

/// How long the servers may take to find each other and a leader.
const START: Duration = Duration::from_mins(1);
const PAUSE: Duration = Duration::from_millis(100);

/// A cluster.
pub struct NatsCluster {
    /// Its servers, `n0` and so on.
    pub nodes: Vec<Nats>,
}

impl NatsCluster {
    /// Starts so many servers, and waits until they have a leader that each of them knows.
    ///
    /// # Errors
    /// [`NatsError`].
    pub async fn start(size: usize, options: &Options) -> Result<Self, NatsError> {
        let all = (0..size).map(|_| ports::free()).collect::<Result<Vec<_>, _>>()?;
        let mut nodes = Vec::new();
        for (index, own) in all.iter().enumerate() {
            let routes = Routes { own: *own, all: all.clone() };
            nodes.push(Nats::prepare(&format!("n{index}"), options, Some(&routes))?);
        }
        for node in &mut nodes {
            node.launch()?;
        }
        let mut cluster = Self { nodes };
        for node in &mut cluster.nodes {
            node.until_it_answers(START).await?;
        }
        cluster.until_led(START).await?;
        for node in &mut cluster.nodes {
            node.until_healthy(START).await?;
        }
        Ok(cluster)
    }

    /// Where clients connect, one address a server.
    pub fn addrs(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(Nats::addr).collect()
    }

    /// Waits until all servers name the same leader of the whole.
    ///
    /// # Errors
    /// [`NatsError::Late`].
    pub async fn until_led(&self, within: Duration) -> Result<String, NatsError> {
        let deadline = Instant::now() + within;
        loop {
            let mut named = Vec::new();
            for node in &self.nodes {
                let meta = monitor::meta(node.monitor()).await.unwrap_or_default();
                named.push((meta.leader, meta.cluster_size));
            }
            let leader = named[0].0.clone();
            let agreed = named.iter().all(|(name, size)| *name == leader && *size == self.nodes.len());
            if agreed && !leader.is_empty() {
                return Ok(leader);
            }
            if Instant::now() > deadline {
                return Err(self.nodes[0].late("led"));
            }
            sleep(PAUSE).await;
        }
    }

    /// The server that leads the stream, as an index, once most servers that answer agree on it.
    ///
    /// # Errors
    /// [`NatsError::Late`] when there is none in time.
    pub async fn stream_leader(&self, stream: &str, within: Duration) -> Result<usize, NatsError> {
        let deadline = Instant::now() + within;
        loop {
            let mut votes = vec![0; self.nodes.len()];
            for node in &self.nodes {
                let found = self.stream_on(node, stream).await.and_then(|stream| stream.leader);
                let index = found.and_then(|name| self.nodes.iter().position(|node| node.name() == name));
                if let Some(index) = index {
                    votes[index] += 1;
                }
            }
            if let Some(leader) = votes.iter().position(|votes| *votes * 2 > self.nodes.len()) {
                return Ok(leader);
            }
            if Instant::now() > deadline {
                return Err(self.nodes[0].late("leading or following the stream"));
            }
            sleep(PAUSE).await;
        }
    }

    /// Waits until the stream has a leader that counts all others as up to date.
    ///
    /// # Errors
    /// [`NatsError::Late`].
    pub async fn until_replicated(&self, stream: &str, within: Duration) -> Result<(), NatsError> {
        let deadline = Instant::now() + within;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let leader = &self.nodes[self.stream_leader(stream, left).await?];
            let seen = self.stream_on(leader, stream).await;
            if seen.is_some_and(|seen| seen.all_current && seen.leader.as_deref() == Some(leader.name())) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(leader.late("followed by all others"));
            }
            sleep(PAUSE).await;
        }
    }

    async fn stream_on(&self, node: &Nats, name: &str) -> Option<Stream> {
        let streams = monitor::streams(node.monitor()).await.unwrap_or_default();
        streams.into_iter().find(|stream| stream.name == name)
    }
}
