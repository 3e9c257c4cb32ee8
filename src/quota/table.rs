//! A bounded table of limits' states by key, for governor. When it is full it forgets the keys that were silent for
//! longest; it never refuses a key for want of room.
//!
//! Why so: refusing new keys would let one flood of addresses lock everybody out, and growing would let it take the
//! memory. Forgetting a key gives it its whole quota again, which is little to somebody silent. Whoever keeps coming
//! (and so everyone who is being refused) stays remembered, however many others pass by.

use std::collections::HashMap;
use std::hash::Hash;

use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::state::keyed::ShrinkableKeyedStateStore;
use parking_lot::Mutex;

/// Keys in one table, at most. As many as `listen.max_connections` by default; some 4 MB per table, and there are five.
pub const MAX_KEYS: usize = 100_000;

/// Two generations, each at most half of the capacity:
///
/// ```text
///   key seen ──▶ young ──(young is full)──▶ old ──(young is full again)──▶ forgotten
///                  ▲                          │
///                  └────────(seen again)──────┘
/// ```
///
/// So a key is forgotten after at least half the capacity of other keys came by and it did not. Constant work per
/// check; no list to keep in order, no search for a victim.
#[derive(Debug)]
pub(super) struct Table<K> {
    generations: Mutex<Generations<K>>,
    half: usize,
}

#[derive(Debug)]
struct Generations<K> {
    young: HashMap<K, Nanos>,
    old: HashMap<K, Nanos>,
}

impl<K: Hash + Eq + Clone> Table<K> {
    pub(super) fn new() -> Self {
        Self::with_capacity(MAX_KEYS)
    }

    pub(super) fn with_capacity(capacity: usize) -> Self {
        let generations = Generations { young: HashMap::new(), old: HashMap::new() };
        Self { generations: Mutex::new(generations), half: (capacity / 2).max(1) }
    }
}

impl<K: Hash + Eq + Clone> StateStore for Table<K> {
    type Key = K;

    fn measure_and_replace<T, F, E>(&self, key: &K, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut generations = self.generations.lock();
        if let Some(state) = generations.young.get_mut(key) {
            let (result, after) = decide(Some(*state))?;
            *state = after;
            return Ok(result);
        }
        let before = generations.old.remove(key);
        let (result, after) = match decide(before) {
            Ok((result, after)) => (Ok(result), Some(after)),
            // A refused key was seen as well.
            Err(refusal) => (Err(refusal), before),
        };
        if let Some(after) = after {
            let forgotten = generations.remember(key.clone(), after, self.half);
            // Freeing half a table takes milliseconds; not while others wait.
            drop(generations);
            drop(forgotten);
        }
        result
    }
}

impl<K: Hash + Eq + Clone> Generations<K> {
    fn remember(&mut self, key: K, state: Nanos, half: usize) -> HashMap<K, Nanos> {
        let mut forgotten = HashMap::new();
        if self.young.len() >= half {
            forgotten = std::mem::replace(&mut self.old, std::mem::take(&mut self.young));
        }
        self.young.insert(key, state);
        forgotten
    }
}

impl<K: Hash + Eq + Clone> ShrinkableKeyedStateStore<K> for Table<K> {
    fn retain_recent(&self, drop_below: Nanos) {
        let mut generations = self.generations.lock();
        generations.young.retain(|_, state| *state > drop_below);
        generations.old.retain(|_, state| *state > drop_below);
    }

    fn shrink_to_fit(&self) {
        let mut generations = self.generations.lock();
        generations.young.shrink_to_fit();
        generations.old.shrink_to_fit();
    }

    fn len(&self) -> usize {
        let generations = self.generations.lock();
        generations.young.len() + generations.old.len()
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts how often a key was seen since it was last forgotten.
    fn see(table: &Table<u32>, key: u32) -> u64 {
        let count = |before: Option<Nanos>| {
            let after = before.map_or(1, Nanos::as_u64) + u64::from(before.is_some());
            Ok::<_, ()>((after, Nanos::new(after)))
        };
        table.measure_and_replace(&key, count).unwrap()
    }

    fn refuse(table: &Table<u32>, key: u32) {
        let refusal: Result<(), ()> = table.measure_and_replace(&key, |_| Err(()));
        refusal.unwrap_err();
    }

    #[test]
    fn it_never_holds_more_than_its_capacity() {
        let table = Table::with_capacity(100);
        for key in 0..10_000 {
            see(&table, key);
            assert!(table.len() <= 100);
        }
        assert!(table.len() > 50);
    }

    #[test]
    fn who_keeps_coming_is_remembered_through_any_flood() {
        let table = Table::with_capacity(100);
        for round in 1..=200_u32 {
            assert_eq!(see(&table, u32::MAX), u64::from(round));
            (0..49).for_each(|other| _ = see(&table, round * 1000 + other));
        }
    }

    #[test]
    fn who_is_being_refused_is_remembered_too() {
        let table = Table::with_capacity(100);
        assert_eq!(see(&table, 7), 1);
        for round in 1..=200_u32 {
            refuse(&table, 7);
            (0..49).for_each(|other| _ = see(&table, round * 1000 + other));
        }
        assert_eq!(see(&table, 7), 2);
    }

    #[test]
    fn who_is_silent_is_forgotten_after_the_others() {
        let table = Table::with_capacity(100);
        assert_eq!(see(&table, 7), 1);
        (1000..1099).for_each(|other| _ = see(&table, other));
        assert_eq!(see(&table, 7), 2);
        (2000..2150).for_each(|other| _ = see(&table, other));
        assert_eq!(see(&table, 7), 1);
    }

    #[test]
    fn a_sweep_drops_what_is_past() {
        let table = Table::with_capacity(100);
        (0..60).for_each(|key| _ = see(&table, key));
        (0..10).for_each(|key| _ = see(&table, key));
        table.retain_recent(Nanos::new(1));
        assert_eq!(table.len(), 10);
        table.shrink_to_fit();
        assert_eq!(see(&table, 3), 3);
        table.retain_recent(Nanos::new(u64::MAX));
        assert!(table.is_empty());
    }

    #[test]
    fn a_key_that_is_refused_at_once_takes_no_room() {
        let table = Table::with_capacity(100);
        refuse(&table, 1);
        assert!(table.is_empty());
    }
}
