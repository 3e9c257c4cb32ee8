//! Who is typing where. A start is told to the others at once; the stop comes by itself after 5 s of silence, or when
//! the sender goes.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use uuid::Uuid;

use crate::channel::{Audience, Channel, ChannelName};
use crate::envelope;

/// Silence after which a user no longer counts as typing.
const SILENCE: Duration = Duration::from_secs(5);

/// All who are typing, on this node.
#[derive(Default)]
pub struct Typing {
    table: Mutex<Table>,
}

type Key = (ChannelName, Arc<str>);

#[derive(Default)]
struct Table {
    active: HashMap<Key, Active>,
    /// When to look at whom again; an entry that is no longer true is passed over.
    ending: BinaryHeap<Reverse<(Instant, Key)>>,
}

struct Active {
    channel: Arc<Channel>,
    client_id: Uuid,
    until: Instant,
    /// Told already; only its entry in `ending` is still to come.
    stopped: bool,
}

impl Typing {
    /// That user types in the channel; the others are told each time.
    pub fn start(&self, channel: &Arc<Channel>, user_id: &Arc<str>, client_id: Uuid) {
        let now = now();
        let key = (channel.name().clone(), Arc::clone(user_id));
        let until = now + SILENCE;
        let mut table = self.table.lock();
        let active = Active { channel: Arc::clone(channel), client_id, until, stopped: false };
        // One entry of `ending` per key: the one it has is put off when it is due.
        if table.active.insert(key.clone(), active).is_none() {
            table.ending.push(Reverse((until, key)));
        }
        show(channel, user_id, client_id, true, now);
    }

    /// That user has stopped; told only if it was typing.
    pub fn stop(&self, channel: &ChannelName, user_id: &Arc<str>) {
        self.stop_if(channel, user_id, |_| true);
    }

    /// That connection has left the channel: it no longer types there.
    pub fn gone(&self, channel: &ChannelName, user_id: &Arc<str>, client_id: Uuid) {
        self.stop_if(channel, user_id, |active| active.client_id == client_id);
    }

    /// Ends what has been silent for too long. To be called several times a second.
    pub fn sweep(&self) {
        let now = now();
        let mut table = self.table.lock();
        while table.ending.peek().is_some_and(|Reverse((due, _))| *due <= now) {
            let Some(Reverse((_, key))) = table.ending.pop() else { break };
            match table.active.get(&key) {
                Some(active) if active.until > now => {
                    let until = active.until;
                    table.ending.push(Reverse((until, key)));
                }
                Some(active) => {
                    if !active.stopped {
                        show(&active.channel, &key.1, active.client_id, false, now);
                    }
                    table.active.remove(&key);
                }
                None => {}
            }
        }
    }

    fn stop_if(&self, channel: &ChannelName, user_id: &Arc<str>, applies: impl FnOnce(&Active) -> bool) {
        let mut table = self.table.lock();
        if table.active.is_empty() {
            return;
        }
        let key = (channel.clone(), Arc::clone(user_id));
        if let Some(active) = table.active.get_mut(&key)
            && !active.stopped
            && applies(active)
        {
            active.stopped = true;
            show(&active.channel, user_id, active.client_id, false, now());
        }
    }
}

fn show(channel: &Channel, user_id: &Arc<str>, client_id: Uuid, start: bool, now: Instant) {
    let json = envelope::typing(start, channel.name().as_str(), user_id, client_id);
    channel.show(now, Audience::OthersThan(Arc::clone(user_id)), json);
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
