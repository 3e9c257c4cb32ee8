//! The bells of all connections that last, for what concerns the connection and none of its channels: the node goes
//! away, a token was taken back, a moment has come. Who is rung looks for itself; nobody is told what it was.
//!
//! A connection has a bell already, for its channels: here it costs a place in one table, and no task or timer. A timer
//! of the runtime is exact to a millisecond and takes 112 bytes and a lock whenever it is moved; heartbeats and the ends
//! of tokens need no more than a tick, and 4 bytes.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use slab::Slab;
use tokio::time::Instant;

use super::edge::Edge;
use super::moment::Moment;
use crate::auth::{Identity, Marks, Revoked};
use crate::channel::Wake;

/// How often bells are looked at that ring for a moment. A node with 100,000 connections looks at 1.6 MB each time, if any is due.
pub const TICK: Duration = Duration::from_millis(100);
/// The tick of who waits for no moment.
const NEVER: u32 = u32::MAX;

/// All of them.
pub struct Bells {
    begun: Instant,
    table: Mutex<Table>,
}

struct Table {
    all: Slab<Bell>,
    /// No bell is due before this tick.
    earliest: u32,
}

struct Bell {
    wake: Wake,
    /// Whose it is, so that a revocation does not ring all: 4 bytes, where comparing identities would need each of them
    /// in the cache.
    marks: Marks,
    /// The tick at which it rings, and at each one after that, until it is given another.
    due: u32,
}

/// One connection's place among them.
pub struct Doorbell {
    edge: Arc<Edge>,
    key: u32,
    due: u32,
}

impl Bells {
    /// None yet, of a node that begins now.
    pub fn new() -> Self {
        let table = Table { all: Slab::new(), earliest: NEVER };
        Self { begun: Instant::now(), table: Mutex::new(table) }
    }

    /// This moment.
    pub fn now(&self) -> Moment {
        Moment::since(self.begun, Instant::now())
    }

    fn add(&self, wake: &Wake) -> u32 {
        let bell = Bell { wake: wake.clone(), marks: Marks::NONE, due: NEVER };
        let key = self.table.lock().all.insert(bell);
        u32::try_from(key).expect("there are not so many descriptors")
    }

    fn set(&self, key: u32, due: u32) {
        let mut table = self.table.lock();
        table.earliest = table.earliest.min(due);
        if let Some(bell) = table.all.get_mut(key as usize) {
            bell.due = due;
        }
    }

    /// Rings those whose moment has come. To be called once in each [`TICK`].
    pub fn ring_due(&self) {
        let now = self.now().periods(TICK);
        let mut table = self.table.lock();
        if now < table.earliest {
            return;
        }
        let mut earliest = NEVER;
        for (_, bell) in table.all.iter().filter(|(_, bell)| bell.due != NEVER) {
            if bell.due <= now {
                bell.wake.alarm();
            }
            earliest = earliest.min(bell.due.max(now + 1));
        }
        table.earliest = earliest;
    }

    /// Rings all, those who are not to be rung for news, too.
    pub fn ring_all(&self) {
        for (_, bell) in &self.table.lock().all {
            bell.wake.wake();
            bell.wake.alarm();
        }
    }

    /// Rings those that a revocation may concern.
    pub fn ring(&self, revoked: &Revoked) {
        for (_, bell) in &self.table.lock().all {
            if revoked.concerns(bell.marks) {
                bell.wake.wake();
            }
        }
    }
}

impl Default for Bells {
    fn default() -> Self {
        Self::new()
    }
}

impl Doorbell {
    /// Its place in the table.
    pub const PLACE_BYTES: usize = size_of::<Bell>();

    /// Has `wake` rung; who comes when that has happened looks at what it would have been rung for.
    ///
    /// # Panics
    /// With four billion connections, which no kernel gives descriptors for.
    pub fn new(edge: &Arc<Edge>, wake: &Wake) -> Self {
        let key = edge.bells.add(wake);
        if edge.drain.has_begun() {
            // All were rung before this one was there.
            wake.wake();
        }
        Self { edge: Arc::clone(edge), key, due: NEVER }
    }

    /// Has it ring at that moment, or up to two [`TICK`]s later, and again until another moment is named: with
    /// [`Wake::alarm`], which who is busy hears, too. Costs a lock if the moment is another one than before.
    pub fn ring_at(&mut self, moment: Moment) {
        let due = (moment + TICK).periods(TICK);
        if due == self.due {
            return;
        }
        self.due = due;
        self.edge.bells.set(self.key, due);
    }

    /// The same, but it may ring earlier, and does if it would have: costs no lock then. Who is rung looks at the clock
    /// anyway, and then calls [`Doorbell::ring_at`].
    pub fn ring_by(&mut self, moment: Moment) {
        if (moment + TICK).periods(TICK) < self.due {
            self.ring_at(moment);
        }
    }

    /// The node.
    pub fn edge(&self) -> &Arc<Edge> {
        &self.edge
    }

    /// From now on it is also rung for what concerns that identity, and once at once: what was revoked before this, and
    /// after the token was verified, had nobody to ring for.
    pub fn belongs_to(&self, who: &Identity) {
        let marks = Marks::of(who);
        if let Some(bell) = self.edge.bells.table.lock().all.get_mut(self.key as usize)
            && std::mem::replace(&mut bell.marks, marks) != marks
        {
            bell.wake.wake();
        }
    }
}

impl Drop for Doorbell {
    fn drop(&mut self) {
        self.edge.bells.table.lock().all.remove(self.key as usize);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_bell_rings_at_its_moment_and_until_it_is_given_another() {
        let bells = Bells::new();
        let [soon, late, never] = [(); 3].map(|()| Wake::default());
        let [first, second, _] = [&soon, &late, &never].map(|wake| bells.add(wake));
        bells.set(first, (bells.now() + TICK).periods(TICK));
        bells.set(second, (bells.now() + 10 * TICK).periods(TICK));
        let rung = || {
            bells.ring_due();
            [&soon, &late, &never].map(|wake| poll_fn(|task| wake.poll_alarm(task)).now_or_never().is_some())
        };
        assert_eq!(rung(), [false, false, false]);
        tokio::time::advance(TICK).await;
        assert_eq!(rung(), [true, false, false]);
        assert_eq!(rung(), [false, false, false], "once in a tick");
        tokio::time::advance(TICK).await;
        assert_eq!(rung(), [true, false, false]);
        bells.set(first, NEVER);
        tokio::time::advance(7 * TICK).await;
        assert_eq!(rung(), [false, false, false]);
        tokio::time::advance(TICK).await;
        assert_eq!(rung(), [false, true, false]);
        // What is rung for besides is left for who has time for it.
        late.wake();
        assert!(poll_fn(|task| late.poll_alarm(task)).now_or_never().is_none());
        assert!(poll_fn(|task| late.poll_rung(task)).now_or_never().is_some());
        assert!(poll_fn(|task| late.poll_rung(task)).now_or_never().is_none());
    }

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
