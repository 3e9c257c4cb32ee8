//! The bus of a single node, in memory: the reference for every other one. A restart begins a new epoch.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use futures_util::FutureExt as _;
use futures_util::future::{self, BoxFuture};
use parking_lot::Mutex;

use super::{Accepted, Bus, BusError, IDEMPOTENCY_WINDOW, Logs, Report};
use crate::channel::{Channel, ChannelName, Epoch, Position, Publication};

/// Positions from one counter, as a stream's sequence: rising in every channel, with gaps.
pub struct EmbeddedBus {
    epoch: Epoch,
    last_seq: AtomicU64,
    /// The highest position that a closed log had: below it, a new one can't prove that it missed nothing.
    forgotten: AtomicU64,
    recent: Box<[Mutex<Recent>]>,
    keys: [RandomState; 2],
}

/// The ids of one shard that are still remembered.
#[derive(Default)]
struct Recent {
    seqs: HashMap<u128, u64>,
    order: VecDeque<(Instant, u128)>,
}

const SHARDS: usize = 64;
/// Ids remembered per shard: 2 million in all, at most some 200 MB, reached at 17,000 named messages a second.
const IDS_PER_SHARD: usize = 32_768;

impl EmbeddedBus {
    /// An empty bus with a new epoch.
    pub fn new() -> Self {
        Self {
            epoch: Epoch::random(),
            last_seq: AtomicU64::new(0),
            forgotten: AtomicU64::new(0),
            recent: (0..SHARDS).map(|_| Mutex::default()).collect(),
            keys: [RandomState::new(), RandomState::new()],
        }
    }

    fn accept(&self, channel: &Channel, publication: &Publication) -> Accepted {
        let now = tokio::time::Instant::now().into_std();
        if !publication.idempotent {
            return self.append(channel, publication, now);
        }
        let id = self.id(publication);
        // Held until the append is done, so that two sends of one id at once have one winner.
        let mut recent = self.recent[shard(id)].lock();
        recent.forget(now);
        if let Some(&seq) = recent.seqs.get(&id) {
            return Accepted { position: Position { epoch: self.epoch, seq }, duplicate: true };
        }
        let accepted = self.append(channel, publication, now);
        recent.remember(now, id, accepted.position.seq);
        accepted
    }

    fn append(&self, channel: &Channel, publication: &Publication, now: Instant) -> Accepted {
        let next_seq = || self.last_seq.fetch_add(1, Ordering::Relaxed) + 1;
        let message = channel.append(now, publication, next_seq);
        Accepted { position: Position { epoch: self.epoch, seq: message.seq }, duplicate: false }
    }

    /// 128 bits of two keyed hashes, so that nobody can find two ids that collide.
    fn id(&self, publication: &Publication) -> u128 {
        let [high, low] = self
            .keys
            .each_ref()
            .map(|key| key.hash_one((&publication.channel, &publication.sender_id, &publication.message_id)));
        u128::from(high) << 64 | u128::from(low)
    }
}

impl Default for EmbeddedBus {
    fn default() -> Self {
        Self::new()
    }
}

impl Bus for EmbeddedBus {
    fn keeps_messages(&self) -> bool {
        false
    }

    fn blank(&self, _channel: &ChannelName) -> Position {
        Position { epoch: self.epoch, seq: self.forgotten.load(Ordering::Acquire) }
    }

    fn open<'a>(&'a self, _channel: &'a Arc<Channel>) -> BoxFuture<'a, Result<(), BusError>> {
        future::ready(Ok(())).boxed()
    }

    fn catch_up<'a>(&'a self, _channel: &'a Arc<Channel>) -> BoxFuture<'a, Result<(), BusError>> {
        future::ready(Ok(())).boxed()
    }

    fn close(&self, channel: &Arc<Channel>) {
        self.forgotten.fetch_max(channel.head().seq, Ordering::AcqRel);
    }

    fn publish<'a>(
        &'a self,
        logs: &'a dyn Logs,
        publication: Publication,
    ) -> BoxFuture<'a, Result<Accepted, BusError>> {
        let accepted = logs.log(&publication.channel).map(|channel| {
            let accepted = self.accept(&channel, &publication);
            channel.ring();
            accepted
        });
        future::ready(accepted).boxed()
    }

    fn trouble(&self) -> Option<String> {
        None
    }

    fn report(&self) -> Report {
        Report::default()
    }
}

impl Recent {
    fn forget(&mut self, now: Instant) {
        while let Some(&(since, id)) = self.order.front()
            && (now.saturating_duration_since(since) > IDEMPOTENCY_WINDOW
                || self.order.len() >= IDS_PER_SHARD)
        {
            self.order.pop_front();
            self.seqs.remove(&id);
        }
    }

    fn remember(&mut self, now: Instant, id: u128, seq: u64) {
        self.seqs.insert(id, seq);
        self.order.push_back((now, id));
    }
}

fn shard(id: u128) -> usize {
    usize::try_from(id % SHARDS as u128).expect("SHARDS fits a usize")
}
