//! The roster of every channel: a user is there while one of its connections is, and a little longer.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::value::RawValue;

use crate::channel::{Audience, Channel, ChannelName};
use crate::envelope::{self, Presence, PresenceUpdate};

/// Who is in which channel, on this node.
#[derive(Default)]
pub struct Roster {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    channels: HashMap<ChannelName, Room>,
    /// When to look at whom again; an entry that is no longer true is passed over.
    leaving: BinaryHeap<Reverse<(Instant, ChannelName, Arc<str>)>>,
}

struct Room {
    channel: Arc<Channel>,
    users: BTreeMap<Arc<str>, User>,
}

struct User {
    connections: u32,
    info: Option<Arc<RawValue>>,
    /// Once no connection is left: until when the user still counts as there.
    gone_at: Instant,
}

/// Users that a list names at most; `total` counts them all.
pub const LIST_MAX: usize = 1000;
/// Bytes of ids and info after which a list is cut, so that asking for it costs no connection's whole queue.
pub const LIST_BYTES: usize = 64 * 1024;

/// How long a user outlives its last connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lease {
    /// A stream: whoever is back within 3 s was never offline.
    Stream,
    /// A poll: the user is there while it keeps polling, and 10 s more.
    Poll,
}

impl Lease {
    const fn grace(self) -> Duration {
        match self {
            Self::Stream => Duration::from_secs(3),
            Self::Poll => Duration::from_secs(10),
        }
    }
}

/// One connection's presence in one channel; dropping it begins the grace.
pub struct Member {
    roster: Arc<Roster>,
    channel: ChannelName,
    user_id: Arc<str>,
    lease: Lease,
}

/// A user as the roster tells of it.
pub type PresentUser = Presence;

impl Roster {
    /// Counts a connection of that user in the channel; the first one is told to the others.
    pub fn join(
        self: &Arc<Self>,
        channel: &Arc<Channel>,
        user_id: &Arc<str>,
        info: Option<&Arc<RawValue>>,
        lease: Lease,
    ) -> Member {
        let mut table = self.table.lock();
        let room = table
            .channels
            .entry(channel.name().clone())
            .or_insert_with(|| Room { channel: Arc::clone(channel), users: BTreeMap::new() });
        let now = now();
        let known = room.users.contains_key(user_id);
        let user = room.users.entry(Arc::clone(user_id)).or_insert(User {
            connections: 0,
            info: None,
            gone_at: now,
        });
        user.connections += 1;
        user.info = info.cloned().or_else(|| user.info.take());
        if !known {
            announce(&room.channel, user_id, user.info.as_deref(), true, now);
        }
        Member {
            roster: Arc::clone(self),
            channel: channel.name().clone(),
            user_id: Arc::clone(user_id),
            lease,
        }
    }

    /// The first users of a channel by id, up to 1,000 and some 64 KB, and how many there are.
    pub fn list(&self, channel: &ChannelName) -> (Vec<PresentUser>, usize) {
        let table = self.table.lock();
        let Some(room) = table.channels.get(channel) else { return (Vec::new(), 0) };
        let mut bytes = 0;
        let listed = room.users.iter().take(LIST_MAX).take_while(|(user_id, user)| {
            let fits = bytes < LIST_BYTES;
            bytes += user_id.len() + user.info.as_ref().map_or(0, |info| info.get().len());
            fits
        });
        let users = listed.map(|(user_id, user)| Presence {
            user_id: Arc::clone(user_id),
            // A poll between two requests is a connection, too.
            connections: user.connections.max(1),
            info: user.info.clone(),
        });
        (users.collect(), room.users.len())
    }

    /// Lets those go whose grace is over, and tells the others. To be called several times a second.
    pub fn sweep(&self) {
        let now = now();
        let mut table = self.table.lock();
        while table.leaving.peek().is_some_and(|Reverse((due, ..))| *due <= now) {
            let Some(Reverse((_, name, user_id))) = table.leaving.pop() else { break };
            let Some(room) = table.channels.get_mut(&name) else { continue };
            let over =
                room.users.get(&user_id).is_some_and(|user| user.connections == 0 && user.gone_at <= now);
            if over {
                let user = room.users.remove(&user_id);
                announce(&room.channel, &user_id, user.and_then(|user| user.info).as_deref(), false, now);
                if room.users.is_empty() {
                    table.channels.remove(&name);
                }
            }
        }
    }

    fn leave(&self, member: &Member) {
        let mut table = self.table.lock();
        let Some(user) =
            table.channels.get_mut(&member.channel).and_then(|room| room.users.get_mut(&member.user_id))
        else {
            return;
        };
        user.connections = user.connections.saturating_sub(1);
        user.gone_at = user.gone_at.max(now() + member.lease.grace());
        if user.connections == 0 {
            let due = user.gone_at;
            table.leaving.push(Reverse((due, member.channel.clone(), Arc::clone(&member.user_id))));
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.roster.leave(self);
    }
}

fn announce(channel: &Channel, user_id: &str, info: Option<&RawValue>, online: bool, now: Instant) {
    let update = PresenceUpdate { channel: channel.name().as_str(), user_id, online, info };
    channel.show(now, Audience::PresenceWatchers, envelope::encode("presence_update", &update, None));
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
