//! What everybody in a run can see while it lasts: how far each channel was acknowledged and each client has read, since
//! when nothing was acknowledged, which errors there were. Faults read off it when the cluster is itself again.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

pub(super) struct Board {
    /// The last acknowledged `seq` of each channel.
    heads: Vec<AtomicU64>,
    /// For each client its channels, and the last `seq` it has read there.
    clients: Vec<Reader>,
    acknowledged: AtomicU64,
    delivered: AtomicU64,
    stall: Mutex<Stall>,
    errors: Mutex<BTreeMap<String, u64>>,
    returns: Mutex<Vec<Return>>,
}

struct Reader {
    read: Vec<(usize, AtomicU64)>,
    /// The node it is joined at, plus one; 0 while it is away.
    node: AtomicU64,
    joined: AtomicBool,
}

struct Stall {
    last: Instant,
    longest: Duration,
}

/// A client that was told when to come again, and did.
#[derive(Clone, Copy, Debug)]
pub(super) struct Return {
    /// What it was told.
    pub(super) hint: Duration,
    /// When it was joined again, counted from then.
    pub(super) after: Duration,
    /// When it was told.
    pub(super) told: Instant,
}

impl Board {
    pub(super) fn new(channels: usize, clients: &[Vec<usize>]) -> Self {
        let reader = |channels: &Vec<usize>| Reader {
            read: channels.iter().map(|channel| (*channel, AtomicU64::new(0))).collect(),
            node: AtomicU64::new(0),
            joined: AtomicBool::new(false),
        };
        Self {
            heads: (0..channels).map(|_| AtomicU64::new(0)).collect(),
            clients: clients.iter().map(reader).collect(),
            acknowledged: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            stall: Mutex::new(Stall { last: Instant::now(), longest: Duration::ZERO }),
            errors: Mutex::default(),
            returns: Mutex::default(),
        }
    }

    pub(super) fn acknowledged(&self, channel: usize, seq: u64) {
        self.heads[channel].fetch_max(seq, Ordering::Relaxed);
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
        let mut stall = self.stall.lock();
        let now = Instant::now();
        stall.longest = stall.longest.max(now - stall.last);
        stall.last = now;
    }

    /// A client has read some; `last` has one `seq` for each of its channels.
    pub(super) fn read(&self, client: usize, messages: u64, last: impl Iterator<Item = u64>) {
        self.delivered.fetch_add(messages, Ordering::Relaxed);
        for ((_, read), last) in self.clients[client].read.iter().zip(last) {
            read.store(last, Ordering::Relaxed);
        }
    }

    /// A client is joined at that node, or nowhere.
    pub(super) fn stands_at(&self, client: usize, node: Option<usize>) {
        if node.is_some() {
            self.clients[client].joined.store(true, Ordering::Relaxed);
        }
        let node = node.map_or(0, |node| node as u64 + 1);
        self.clients[client].node.store(node, Ordering::Relaxed);
    }

    pub(super) fn error(&self, what: impl Into<String>) {
        *self.errors.lock().entry(what.into()).or_default() += 1;
    }

    pub(super) fn came_back(&self, came: Return) {
        self.returns.lock().push(came);
    }

    pub(super) fn take_returns(&self) -> Vec<Return> {
        std::mem::take(&mut self.returns.lock())
    }

    pub(super) fn errors(&self) -> BTreeMap<String, u64> {
        self.errors.lock().clone()
    }

    pub(super) fn error_count(&self) -> u64 {
        self.errors.lock().values().sum()
    }

    pub(super) fn acknowledged_count(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    pub(super) fn delivered_count(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    /// How many clients are joined at that node.
    pub(super) fn clients_at(&self, node: usize) -> usize {
        let at = |reader: &&Reader| reader.node.load(Ordering::Relaxed) == node as u64 + 1;
        self.clients.iter().filter(at).count()
    }

    /// Whether each client has been joined at least once.
    pub(super) fn has_everybody_joined(&self) -> bool {
        self.clients.iter().all(|reader| reader.joined.load(Ordering::Relaxed))
    }

    /// How many clients are joined nowhere.
    pub(super) fn clients_away(&self) -> usize {
        self.clients.iter().filter(|reader| reader.node.load(Ordering::Relaxed) == 0).count()
    }

    /// The heads now.
    pub(super) fn heads(&self) -> Vec<u64> {
        self.heads.iter().map(|head| head.load(Ordering::Relaxed)).collect()
    }

    /// How many clients have not read up to these heads.
    pub(super) fn clients_behind(&self, heads: &[u64]) -> usize {
        let behind = |reader: &&Reader| {
            reader.read.iter().any(|(channel, read)| read.load(Ordering::Relaxed) < heads[*channel])
        };
        self.clients.iter().filter(behind).count()
    }

    /// The longest time without any acknowledgement since this was last asked, the present one included.
    pub(super) fn take_longest_stall(&self) -> Duration {
        let mut stall = self.stall.lock();
        let longest = stall.longest.max(stall.last.elapsed());
        stall.longest = Duration::ZERO;
        stall.last = Instant::now();
        longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_behind_and_where_is_known() {
        let board = Board::new(2, &[vec![0], vec![0, 1]]);
        board.acknowledged(0, 5);
        board.acknowledged(1, 6);
        board.acknowledged(0, 4);
        let heads = board.heads();
        assert_eq!((heads.as_slice(), board.clients_behind(&heads)), (&[5, 6][..], 2));
        board.read(0, 1, [5].into_iter());
        board.read(1, 1, [5, 3].into_iter());
        assert_eq!(board.clients_behind(&heads), 1);
        board.read(1, 1, [5, 6].into_iter());
        assert_eq!(board.clients_behind(&heads), 0);
        board.stands_at(1, Some(0));
        assert_eq!((board.clients_at(0), board.clients_at(1), board.clients_away()), (1, 0, 1));
        assert_eq!((board.acknowledged_count(), board.delivered_count()), (3, 3));
    }
}
