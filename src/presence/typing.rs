//! Who is typing where, on whatever node. A start is told to the others at once; the stop comes by itself after 5 s of
//! silence, or when the sender goes. Each node shows it in the channels that it has, and ends it by its own clock.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::word::{Keystroke, Typed};
use crate::channel::{Audience, ChannelName};
use crate::envelope;
use crate::hub::Hub;

/// Silence after which a user no longer counts as typing.
const SILENCE: Duration = Duration::from_secs(5);
/// Who types on other nodes, at most; more are not shown.
const ELSEWHERE_MAX: usize = 100_000;

/// All who are typing.
pub struct Typing {
    hub: Arc<Hub>,
    table: Mutex<Table>,
    /// What the other nodes are to hear, once there can be any. A courtesy: what does not fit is lost.
    others: OnceLock<mpsc::Sender<Keystroke>>,
}

type Key = (ChannelName, Arc<str>);

#[derive(Default)]
struct Table {
    active: HashMap<Key, Active>,
    /// When to look at whom again; an entry that is no longer true is passed over.
    ending: BinaryHeap<Reverse<(Instant, Key)>>,
}

struct Active {
    client_id: Uuid,
    until: Instant,
    /// Told already; only its entry in `ending` is still to come.
    stopped: bool,
}

impl Typing {
    /// Nobody yet. Who types is shown in `hub`'s channels, as far as they are there.
    pub fn new(hub: Arc<Hub>) -> Self {
        Self { hub, table: Mutex::default(), others: OnceLock::new() }
    }

    /// That user types in the channel; the others are told each time.
    pub fn start(&self, channel: &ChannelName, user_id: &Arc<str>, client_id: Uuid) {
        self.begin((channel.clone(), Arc::clone(user_id)), client_id);
        self.tell(Typed::Start, channel, user_id, client_id);
    }

    /// That user has stopped; told only if it was typing.
    pub fn stop(&self, channel: &ChannelName, user_id: &Arc<str>) {
        if let Some(client_id) = self.stop_if(channel, user_id, |_| true) {
            self.tell(Typed::Stop, channel, user_id, client_id);
        }
    }

    /// That connection has left the channel: it no longer types there.
    pub fn gone(&self, channel: &ChannelName, user_id: &Arc<str>, client_id: Uuid) {
        if self.stop_if(channel, user_id, |active| active.client_id == client_id).is_some() {
            self.tell(Typed::Gone, channel, user_id, client_id);
        }
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
                        self.show(&key, active.client_id, false, now);
                    }
                    table.active.remove(&key);
                }
                None => {}
            }
        }
    }

    /// From now on the other nodes hear of it through `others`.
    pub(super) fn share_with(&self, others: mpsc::Sender<Keystroke>) {
        let _ = self.others.set(others);
    }

    /// What another node says.
    pub(super) fn hear(&self, keystroke: Keystroke) {
        let Keystroke { typed, channel, user_id, client_id } = keystroke;
        match typed {
            Typed::Start => {
                // Where the channel is not, there is nobody to be told; nor is it made for this.
                let room = self.table.lock().active.len() < ELSEWHERE_MAX;
                if room && self.hub.find(&channel).is_some() {
                    self.begin((channel, user_id), client_id);
                }
            }
            Typed::Stop => {
                self.stop_if(&channel, &user_id, |_| true);
            }
            Typed::Gone => {
                self.stop_if(&channel, &user_id, |active| active.client_id == client_id);
            }
            Typed::Unknown => {}
        }
    }

    fn begin(&self, key: Key, client_id: Uuid) {
        let now = now();
        let until = now + SILENCE;
        let mut table = self.table.lock();
        self.show(&key, client_id, true, now);
        // One entry of `ending` per key: the one it has is put off when it is due.
        if table.active.insert(key.clone(), Active { client_id, until, stopped: false }).is_none() {
            table.ending.push(Reverse((until, key)));
        }
    }

    /// Stops it, and returns whose connection it was.
    fn stop_if(
        &self,
        channel: &ChannelName,
        user_id: &Arc<str>,
        applies: impl FnOnce(&Active) -> bool,
    ) -> Option<Uuid> {
        let mut table = self.table.lock();
        if table.active.is_empty() {
            return None;
        }
        let key = (channel.clone(), Arc::clone(user_id));
        let active = table.active.get_mut(&key).filter(|active| !active.stopped && applies(active))?;
        active.stopped = true;
        self.show(&key, active.client_id, false, now());
        Some(active.client_id)
    }

    fn show(&self, (channel, user_id): &Key, client_id: Uuid, start: bool, now: Instant) {
        if let Some(live) = self.hub.find(channel) {
            let json = envelope::typing(start, channel.as_str(), user_id, client_id);
            live.show(now, Audience::OthersThan(Arc::clone(user_id)), json);
        }
    }

    fn tell(&self, typed: Typed, channel: &ChannelName, user_id: &Arc<str>, client_id: Uuid) {
        if let Some(others) = self.others.get() {
            let (channel, user_id) = (channel.clone(), Arc::clone(user_id));
            let _ = others.try_send(Keystroke { typed, channel, user_id, client_id });
        }
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
