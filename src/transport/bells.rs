//! The bells of all connections that last, for what concerns the connection and none of its channels: the node goes
//! away, a token was taken back. Who is rung looks for itself; nobody is told what it was.
//!
//! A connection has a bell already, for its channels: here it costs a place in one table, and no task or timer.

use std::sync::Arc;

use parking_lot::Mutex;
use slab::Slab;

use super::edge::Edge;
use crate::auth::{Identity, Marks, Revoked};
use crate::channel::Wake;

/// All of them.
#[derive(Default)]
pub struct Bells {
    all: Mutex<Slab<Bell>>,
}

struct Bell {
    wake: Arc<Wake>,
    /// Whose it is, so that a revocation does not ring all: 8 bytes, where comparing identities would need each of them
    /// in the cache.
    marks: Marks,
}

/// One connection's place among them.
pub struct Doorbell {
    edge: Arc<Edge>,
    key: usize,
}

impl Bells {
    /// Rings all.
    pub fn ring_all(&self) {
        for (_, bell) in self.all.lock().iter() {
            bell.wake.wake();
        }
    }

    /// Rings those that a revocation may concern.
    pub fn ring(&self, revoked: &Revoked) {
        for (_, bell) in self.all.lock().iter() {
            if revoked.concerns(bell.marks) {
                bell.wake.wake();
            }
        }
    }
}

impl Doorbell {
    /// Has `wake` rung; who comes when that has happened looks at what it would have been rung for.
    pub fn new(edge: &Arc<Edge>, wake: &Arc<Wake>) -> Self {
        let bell = Bell { wake: Arc::clone(wake), marks: Marks::NONE };
        let key = edge.bells.all.lock().insert(bell);
        Self { edge: Arc::clone(edge), key }
    }

    /// From now on it is also rung for what concerns that identity, and once at once: what was revoked before this, and
    /// after the token was verified, had nobody to ring for.
    pub fn belongs_to(&self, who: &Identity) {
        let marks = Marks::of(who);
        if let Some(bell) = self.edge.bells.all.lock().get_mut(self.key)
            && std::mem::replace(&mut bell.marks, marks) != marks
        {
            bell.wake.wake();
        }
    }
}

impl Drop for Doorbell {
    fn drop(&mut self) {
        self.edge.bells.all.lock().remove(self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A place in the table is as large with marks as without: a free one needs that room for the next one's key.
    #[test]
    fn a_bell_is_two_words() {
        #[expect(dead_code, reason = "only its size matters; as in a slab")]
        enum Entry {
            Free(usize),
            Taken(Bell),
        }
        assert_eq!(size_of::<Entry>(), 16);
    }
}
