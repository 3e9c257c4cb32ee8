//! Counts that every delivery touches: each thread has a cell of its own, so that cores do not hand one cache line to
//! and fro a hundred thousand times a second.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use prometheus_client::metrics::counter::Atomic;

/// Threads beyond so many share cells.
const CELLS: usize = 16;

/// One `T` for each of a few threads.
#[derive(Debug, Default)]
pub(super) struct PerThread<T>([Line<T>; CELLS]);

/// No two of them in one cache line, nor in one pair of lines that are fetched together.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Line<T>(T);

static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static CELL: usize = THREADS.fetch_add(1, Relaxed) % CELLS;
}

impl<T> PerThread<T> {
    /// This thread's.
    pub(super) fn own(&self) -> &T {
        &self.0[CELL.with(|cell| *cell)].0
    }

    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|line| &line.0)
    }
}

impl Atomic<u64> for PerThread<AtomicU64> {
    fn inc(&self) -> u64 {
        self.inc_by(1)
    }

    fn inc_by(&self, count: u64) -> u64 {
        self.own().fetch_add(count, Relaxed)
    }

    fn get(&self) -> u64 {
        self.all().map(|cell| cell.load(Relaxed)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_all_threads_add_up() {
        let count = PerThread::<AtomicU64>::default();
        std::thread::scope(|scope| {
            for _ in 0..2 * CELLS {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        count.inc();
                    }
                });
            }
        });
        assert_eq!(count.get(), 2 * CELLS as u64 * 1000);
    }
}
