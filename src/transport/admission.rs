//! From a token or ticket to somebody who may come in, and whether they may stay: what the node that issued it says, and
//! what has been revoked since.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use super::edge::Edge;
use crate::auth::{AuthError, Identity, Known};
use crate::bus::NodeId;
use crate::close::Fault;

/// What nodes ask each other about tickets under: a ticket is the question, an identity or nothing the answer.
pub const TICKET_TOPIC: &str = "ticket";

/// How long a client that shows another node's ticket waits for what that node says.
const PATIENCE: Duration = Duration::from_secs(2);

impl Edge {
    /// Who a token is for, if it is good and not revoked.
    ///
    /// # Errors
    /// Why not.
    pub fn verify(&self, token: &str) -> Result<Arc<Identity>, AuthError> {
        self.unless_revoked(Arc::new(self.authenticator.verify(token)?))
    }

    /// The same of one that may be the last that came on its connection, whose signature need not be computed again.
    ///
    /// # Errors
    /// Why not.
    pub fn verify_again(&self, token: &str, known: &mut Option<Known>) -> Result<Arc<Identity>, AuthError> {
        self.unless_revoked(self.authenticator.verify_again(token, known)?)
    }

    /// Who a ticket is for; it is used up by this. One of another node is redeemed there.
    ///
    /// # Errors
    /// [`AuthError::Ticket`], also if the node that has issued it does not answer within 2 s; [`AuthError::Revoked`].
    ///
    /// # Cancel safety
    /// A cancelled call may have used it up.
    pub async fn redeem(&self, ticket: &str) -> Result<Arc<Identity>, AuthError> {
        let who = match self.tickets.issuer_elsewhere(ticket) {
            None => self.tickets.redeem(ticket),
            Some(node) => self.ask_issuer(NodeId::new(node), ticket).await.map(Arc::new),
        };
        self.unless_revoked(who.ok_or(AuthError::Ticket)?)
    }

    /// The answer to another node that was shown a ticket of this one: it is used up by this, and empty if it is not good.
    pub fn answer_ticket(&self, ticket: &[u8]) -> Bytes {
        let who = std::str::from_utf8(ticket).ok().and_then(|ticket| self.tickets.redeem(ticket));
        who.and_then(|who| who.to_carry()).map_or_else(Bytes::new, Bytes::from)
    }

    /// Whether a connection of that identity may stay: to be asked after each turn, which costs one load. `seen` is the
    /// connection's own, 0 at first.
    ///
    /// # Errors
    /// [`Kind::Revoked`](crate::close::Kind::Revoked)
    pub fn may_stay(&self, who: &Identity, seen: &mut u32) -> Result<(), Fault> {
        let generation = self.revocations.generation();
        if *seen == generation {
            return Ok(());
        }
        *seen = generation;
        if self.revocations.covers(who) { Err(AuthError::Revoked.into()) } else { Ok(()) }
    }

    async fn ask_issuer(&self, node: NodeId, ticket: &str) -> Option<Identity> {
        let peers = self.nats.as_ref()?.peers();
        let question = Bytes::copy_from_slice(ticket.as_bytes());
        let asked = timeout(PATIENCE, async {
            // Who guesses waits in line behind who guesses: NATS is asked for so many at a time.
            let _turn = self.asking.acquire().await.ok()?;
            peers.ask(node, TICKET_TOPIC, question, PATIENCE).await.ok()
        });
        let who = Identity::from_carried(&asked.await.ok()??)?;
        // Clocks differ: by this node's it may have run out.
        who.expires_in().is_none_or(|left| !left.is_zero()).then_some(who)
    }

    fn unless_revoked(&self, who: Arc<Identity>) -> Result<Arc<Identity>, AuthError> {
        if self.revocations.covers(&who) { Err(AuthError::Revoked) } else { Ok(who) }
    }
}
