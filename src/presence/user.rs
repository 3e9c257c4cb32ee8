//! A user in a channel, as the roster keeps it: what this node knows of it, and what others have said.

use std::sync::Arc;
use std::time::Instant;

use serde_json::value::RawValue;

use super::roster::Lease;
use super::word::Place;
use crate::bus::nats::NodeId;

/// A user in a channel: here, on other nodes, or both.
#[expect(clippy::box_collection, reason = "a word instead of three for each user of a node that is alone")]
#[derive(Default)]
pub(super) struct User {
    pub(super) here: Option<Box<Here>>,
    /// A word where there are no other nodes.
    pub(super) elsewhere: Option<Box<Vec<There>>>,
}

/// Through this node.
pub(super) struct Here {
    pub(super) connections: u32,
    pub(super) info: Option<Arc<RawValue>>,
    pub(super) lease: Lease,
    /// It has its entry in `leaving_here`, for `gone_at` or earlier.
    pub(super) looked_at: bool,
    /// Once no connection is left: until when the user still counts as there.
    pub(super) gone_at: Instant,
}

/// Through another node.
pub(super) struct There {
    pub(super) node: NodeId,
    pub(super) info: Option<Arc<RawValue>>,
    pub(super) connections: u32,
    /// In seconds, after its node has gone.
    pub(super) grace: u8,
    /// By which account of its node it is known.
    pub(super) generation: u16,
    /// No longer there, but counted until then.
    pub(super) going: Option<Instant>,
}

impl User {
    pub(super) fn elsewhere(&self) -> impl Iterator<Item = &There> {
        self.elsewhere.iter().flat_map(|elsewhere| elsewhere.iter())
    }

    pub(super) fn on(&mut self, node: NodeId) -> Option<&mut There> {
        self.elsewhere.as_mut()?.iter_mut().find(|there| there.node == node)
    }

    pub(super) fn connections(&self) -> u32 {
        let here = self.here.as_ref().map_or(0, |here| here.connections);
        self.elsewhere().fold(here, |sum, there| sum.saturating_add(there.connections))
    }

    /// Where nodes differ, what the one with the lowest number says: so all show the same.
    pub(super) fn info(&self, node: NodeId) -> Option<&Arc<RawValue>> {
        let here = self.here.as_ref().and_then(|here| Some((node, here.info.as_ref()?)));
        let elsewhere = self.elsewhere().filter_map(|there| Some((there.node, there.info.as_ref()?)));
        elsewhere.chain(here).min_by_key(|(node, _)| *node).map(|(_, info)| info)
    }

    /// Its place on this node, as told to others.
    pub(super) fn place(&self) -> Option<Place> {
        let here = self.here.as_ref()?;
        let (connections, info) = (here.connections, here.info.clone());
        Some(Place { connections, grace: here.lease.seconds(), info })
    }
}

impl There {
    /// Is to go then, or earlier if that is settled already; returns when.
    pub(super) fn go(&mut self, at: Instant) -> Instant {
        self.connections = 0;
        let due = self.going.map_or(at, |going| going.min(at));
        self.going = Some(due);
        due
    }
}
