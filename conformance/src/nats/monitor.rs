//! What a nats-server tells about itself over HTTP (`/varz`, `/healthz`, `/jsz`): who leads what, and how far the others
//! are. Read only.

use std::net::SocketAddr;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tokio::time::timeout;

use crate::edge::Minter;
use crate::wire::{Connection, Request, Target, WireError};

/// A frozen server takes connections and answers none.
const PATIENCE: Duration = Duration::from_secs(2);

/// The cluster's own log, in which streams and consumers are assigned.
#[derive(Default, Deserialize)]
pub(super) struct Meta {
    /// The server that leads it, by name; empty while there is none.
    #[serde(default)]
    pub(super) leader: String,
    /// How many servers it has.
    #[serde(default)]
    pub(super) cluster_size: usize,
}

/// A stream, as one server sees it.
#[derive(Clone, Debug)]
pub struct Stream {
    /// Its name.
    pub name: String,
    /// The server that leads it, by name; `None` while there is none, or on a server alone.
    pub leader: Option<String>,
    /// Whether the leader counts every other one as up to date; only the leader knows.
    pub all_current: bool,
    /// Messages that it holds.
    pub messages: u64,
    /// The last sequence that it has given.
    pub last_seq: u64,
}

#[derive(Deserialize)]
struct Jsz {
    #[serde(default)]
    meta_cluster: Option<Meta>,
    #[serde(default)]
    account_details: Vec<Account>,
}

#[derive(Deserialize)]
struct Account {
    #[serde(default)]
    stream_detail: Vec<Detail>,
}

#[derive(Deserialize)]
struct Detail {
    name: String,
    state: StreamState,
    #[serde(default)]
    cluster: Option<Cluster>,
}

#[derive(Deserialize)]
struct StreamState {
    messages: u64,
    last_seq: u64,
}

#[derive(Deserialize)]
struct Cluster {
    #[serde(default)]
    leader: Option<String>,
    #[serde(default)]
    replicas: Option<Vec<Replica>>,
}

#[derive(Deserialize)]
struct Replica {
    current: bool,
    #[serde(default)]
    offline: bool,
}

/// Asks; anything but a 200 with JSON is an error. Not left on record: it is no edge's answer.
pub(super) async fn get(addr: SocketAddr, path: &str) -> Result<Value, WireError> {
    // The token is never shown; a target has one.
    let target = Target::plain(addr, Minter::new(Minter::SECRET));
    let ask = async {
        let mut connection = Connection::open(&target).await?;
        connection.send(&Request::get(path)).await?;
        let response = connection.response().await?;
        response.expect_status(200)?;
        response.json()
    };
    timeout(PATIENCE, ask).await.map_err(|_| WireError::Timeout)?
}

/// Who leads the cluster, as one server has it.
pub(super) async fn meta(addr: SocketAddr) -> Result<Meta, WireError> {
    Ok(jsz(addr, "/jsz").await?.meta_cluster.unwrap_or_default())
}

/// The streams that a server holds.
pub(super) async fn streams(addr: SocketAddr) -> Result<Vec<Stream>, WireError> {
    let jsz = jsz(addr, "/jsz?accounts=true&streams=true").await?;
    let details = jsz.account_details.into_iter().flat_map(|account| account.stream_detail);
    Ok(details.map(Stream::from).collect())
}

async fn jsz(addr: SocketAddr, path: &str) -> Result<Jsz, WireError> {
    serde_json::from_value(get(addr, path).await?)
        .map_err(|error| WireError::Protocol(format!("{path} of nats-server: {error}")))
}

impl From<Detail> for Stream {
    fn from(detail: Detail) -> Self {
        let (leader, replicas) = match detail.cluster {
            Some(cluster) => (cluster.leader, cluster.replicas.unwrap_or_default()),
            None => (None, Vec::new()),
        };
        Self {
            name: detail.name,
            leader: leader.filter(|name| !name.is_empty()),
            all_current: replicas.iter().all(|replica| replica.current && !replica.offline),
            messages: detail.state.messages,
            last_seq: detail.state.last_seq,
        }
    }
}
