//! What a node does about tokens beside serving: hears what was revoked and has those connections told, and answers the
//! other nodes that were shown one of its tickets.

use std::sync::Arc;

use tracing::{info, warn};

use crate::auth::{Revocation, Revocations};
use crate::bus::nats::{Following, Questions};
use crate::bus::{BusError, NatsError, RevokedBucket};
use crate::transport::{Edge, TICKET_TOPIC};

/// What all nodes know of revocations, and this node's view of it.
pub(super) type Revoked = (Arc<RevokedBucket>, Following);

/// Reads what was revoked before this node started, if there are other nodes.
///
/// # Errors
/// [`NatsError`] when that can't be known.
pub(super) async fn read_revocations(edge: &Edge) -> Result<Option<Revoked>, NatsError> {
    let Some(nats) = &edge.nats else { return Ok(None) };
    let bucket = RevokedBucket::open(nats, &edge.config.bus).await?;
    let following = bucket.read(|key, value| apply(&edge.revocations, key, value)).await?;
    let count = edge.revocations.len();
    if count > 0 {
        info!(count, "revocations that hold");
    }
    Ok(Some((Arc::new(bucket), following)))
}

/// The other nodes' questions about tickets of this one, from now on.
///
/// # Errors
/// [`BusError`] if the connection has ended for good.
pub(super) async fn hear_tickets(edge: &Edge) -> Result<Option<Questions>, BusError> {
    match &edge.nats {
        Some(nats) => nats.peers().questions(TICKET_TOPIC).await.map(Some),
        None => Ok(None),
    }
}

/// Runs for as long as the node, its drain included.
pub(super) async fn run(edge: Arc<Edge>, revoked: Option<Revoked>, tickets: Option<Questions>) {
    tokio::join!(ring(&edge), follow(&edge.revocations, revoked), answer(&edge, tickets));
}

/// Many revocations at once are one round through the bells.
async fn ring(edge: &Edge) {
    loop {
        let revoked = edge.revocations.news().await;
        edge.bells.ring(&revoked);
    }
}

async fn follow(revocations: &Revocations, revoked: Option<Revoked>) {
    let Some((bucket, following)) = revoked else { return };
    let heard = |key: &str, value: &[u8]| apply(revocations, key, value);
    let known = || revocations.list().iter().map(|one| (one.key(), one.value())).collect();
    bucket.follow(following, heard, known).await;
}

fn apply(revocations: &Revocations, key: &str, value: &[u8]) {
    match Revocation::read(key, value) {
        Some(revocation) if revocations.apply(&revocation) => {}
        Some(_) => tracing::error!("there are more revocations than a node can hold; one was not applied"),
        None => warn!(key, "an entry among the revocations that is none"),
    }
}

async fn answer(edge: &Edge, tickets: Option<Questions>) {
    let Some(mut tickets) = tickets else { return };
    while let Some(question) = tickets.next().await {
        let answer = edge.answer_ticket(&question.payload);
        if let Err(error) = question.answer(answer).await {
            warn!(%error, "a node was shown a ticket and could not be answered");
        }
    }
}
