//! The roster of every channel, as all nodes together know it: a user is there while one of its connections is, on
//! whatever node, and a little longer. This node's part is told to the others by [`super::Exchange`], which also brings
//! theirs. Without others it is whole by itself.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashSet};
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::value::RawValue;

use super::infos::Infos;
use super::room::Room;
use super::user::{Here, There, User};
use super::word::{Entry, List, Next, Place};
use crate::bus::nats::NodeId;
use crate::channel::{Audience, Channel, ChannelName};
use crate::envelope::{self, Presence, PresenceUpdate};
use crate::hub::Hub;

/// Who is in which channel.
pub struct Roster {
    hub: Arc<Hub>,
    /// By the channel's hash: every join on this node and all that others say comes through here.
    pub(super) shards: Box<[Mutex<Shard>]>,
    infos: Infos,
    /// This node, once there can be others.
    node: OnceLock<NodeId>,
    /// Members on other nodes.
    elsewhere: AtomicUsize,
    /// Whether these are too many.
    full: AtomicBool,
}

type Looks = BinaryHeap<Reverse<(Instant, ChannelName, Arc<str>)>>;

#[derive(Default)]
pub(super) struct Shard {
    /// By name, so that there is an order to go on in.
    rooms: BTreeMap<ChannelName, Room>,
    /// When to look at whom again who is on other nodes; an entry that is no longer true is passed over.
    leaving: Looks,
    /// The same for who is on this one: one entry for each, however often it goes and comes, as a poll does with every
    /// message.
    pub(super) leaving_here: Looks,
    untold: Untold,
}

/// Members of this node that the others must hear of.
#[derive(Default)]
struct Untold {
    members: HashSet<(ChannelName, Arc<str>)>,
    /// There were so many that they are no longer known.
    lost: bool,
}

/// Users that a list names at most; `total` counts them all.
pub const LIST_MAX: usize = 1000;
/// Bytes of ids and info after which a list is cut, so that asking for it costs no connection's whole queue.
pub const LIST_BYTES: usize = 64 * 1024;

const SHARDS: usize = 64;
/// How much longer a user outlives its connection where there are other nodes: so long may it take to hear that it is
/// back on one of them, which two nodes say in no particular order.
const SETTLE: Duration = Duration::from_millis(300);
/// The longest grace that another node may ask for, in seconds.
const GRACE_MAX: u8 = 10;
/// Changes that wait to be told, per shard; beyond it the others are given the whole list instead.
const UNTOLD_MAX: usize = 16_384;
/// Members on other nodes, of some 250 bytes each; more are not seen by this node's clients.
const ELSEWHERE_MAX: usize = 4_000_000;

/// How long a user outlives its last connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lease {
    /// A stream: whoever is back within 3 s was never offline.
    Stream,
    /// A poll: the user is there while it keeps polling, and 10 s more.
    Poll,
}

/// How members go that are no longer told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Going {
    /// At once.
    Now,
    /// In a moment, unless they are told of by another node.
    Soon,
    /// As if each had lost its connections now.
    WithGrace,
}

impl Lease {
    pub(super) const fn seconds(self) -> u8 {
        match self {
            Self::Stream => 3,
            Self::Poll => 10,
        }
    }
}

/// One connection's presence in one channel; dropping it begins the grace.
pub struct Member {
    roster: Arc<Roster>,
    channel: Arc<Channel>,
    user_id: Arc<str>,
    lease: Lease,
    /// How much of its grace is over already.
    spent_ms: u16,
    /// It is told of who comes and goes.
    pub sees_presence: bool,
}

impl Member {
    /// It has in truth been gone for that long: its grace is shorter by that.
    pub fn has_been_gone_for(&mut self, time: Duration) {
        self.spent_ms = u16::try_from(time.as_millis()).unwrap_or(u16::MAX);
    }

    /// What is allocated for the first of a user in a channel, in blocks.
    pub const BLOCKS: [usize; 1] = [size_of::<Here>()];
    /// The user's place in the channel's list.
    pub const PLACE_BYTES: usize = size_of::<(Arc<str>, User)>();
}

/// A user as the roster tells of it.
pub type PresentUser = Presence;

impl Roster {
    /// Nobody yet. Whoever comes or goes is told of in `hub`'s channels, as far as they are there.
    pub fn new(hub: Arc<Hub>) -> Self {
        Self {
            hub,
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            infos: Infos::default(),
            node: OnceLock::new(),
            elsewhere: AtomicUsize::new(0),
            full: AtomicBool::new(false),
        }
    }

    /// Counts a connection of that user in the channel; the first one is told to the others.
    pub fn join(
        self: &Arc<Self>,
        channel: &Arc<Channel>,
        user_id: &Arc<str>,
        info: Option<&Arc<RawValue>>,
        lease: Lease,
    ) -> Member {
        let now = now();
        let name = channel.name();
        let mut shard = self.shard(name).lock();
        let (user, known) = shard.rooms.entry(name.clone()).or_insert_with(Room::new).enter(user_id);
        let here = user.here.get_or_insert_with(|| {
            Box::new(Here { connections: 0, info: None, lease, looked_at: false, gone_at: now })
        });
        here.connections += 1;
        here.lease = lease;
        here.info = info.cloned().or_else(|| here.info.take());
        if !known {
            announce(channel, user_id, here.info.as_deref(), true, now);
        }
        self.changed(&mut shard.untold, name, user_id);
        let user_id = Arc::clone(user_id);
        Member {
            roster: Arc::clone(self),
            channel: Arc::clone(channel),
            user_id,
            lease,
            spent_ms: 0,
            sees_presence: false,
        }
    }

    /// The first users of a channel by id, up to 1,000 and some 64 KB, and how many there are.
    pub fn list(&self, channel: &ChannelName) -> (Vec<PresentUser>, usize) {
        let shard = self.shard(channel).lock();
        let Some(room) = shard.rooms.get(channel) else { return (Vec::new(), 0) };
        let node = self.node();
        let mut bytes = 0;
        let listed = room.iter().take(LIST_MAX).map_while(|(user_id, user)| {
            let fits = bytes < LIST_BYTES;
            let info = user.info(node);
            bytes += user_id.len() + info.map_or(0, |info| info.get().len());
            // A poll between two requests is a connection, too.
            let connections = user.connections().max(1);
            fits.then(|| Presence { user_id: Arc::clone(user_id), connections, info: info.cloned() })
        });
        (listed.collect(), room.len())
    }

    /// Lets those go whose grace is over, and tells the others. To be called several times a second.
    pub fn sweep(&self) {
        let now = now();
        for shard in &self.shards {
            let mut shard = shard.lock();
            // First: what is looked at below may be gone without its entry.
            while shard.leaving_here.peek().is_some_and(|Reverse((due, ..))| *due <= now) {
                let Some(Reverse((_, name, user_id))) = shard.leaving_here.pop() else { break };
                self.look_here(&mut shard, name, user_id, now);
            }
            while shard.leaving.peek().is_some_and(|Reverse((due, ..))| *due <= now) {
                let Some(Reverse((_, name, user_id))) = shard.leaving.pop() else { break };
                self.look_at(&mut shard, &name, &user_id, now);
            }
            let Shard { leaving, leaving_here, .. } = &mut *shard;
            for looks in [leaving, leaving_here] {
                if looks.capacity() > 4 * looks.len() + 64 {
                    looks.shrink_to(2 * looks.len());
                }
            }
        }
    }

    fn leave(&self, member: &Member) {
        let name = member.channel.name();
        let mut shard = self.shard(name).lock();
        let Shard { rooms, leaving_here, untold, .. } = &mut *shard;
        let user = rooms.get_mut(name).and_then(|room| room.get_mut(&member.user_id));
        let Some(here) = user.and_then(|user| user.here.as_mut()) else { return };
        here.connections = here.connections.saturating_sub(1);
        let settle = if self.node.get().is_some() { SETTLE } else { Duration::ZERO };
        let left =
            grace(member.lease.seconds()).saturating_sub(Duration::from_millis(member.spent_ms.into()));
        here.gone_at = here.gone_at.max(now() + left + settle);
        if here.connections == 0 && !std::mem::replace(&mut here.looked_at, true) {
            leaving_here.push(Reverse((here.gone_at, name.clone(), Arc::clone(&member.user_id))));
        }
        self.changed(untold, name, &member.user_id);
    }

    /// Looks at who has left this node, and may have come again since.
    fn look_here(&self, shard: &mut Shard, name: ChannelName, user_id: Arc<str>, now: Instant) {
        let user = shard.rooms.get_mut(&name).and_then(|room| room.get_mut(&user_id));
        let Some(here) = user.and_then(|user| user.here.as_mut()) else { return };
        if here.connections > 0 {
            here.looked_at = false;
        } else if here.gone_at > now {
            shard.leaving_here.push(Reverse((here.gone_at, name, user_id)));
        } else {
            self.look_at(shard, &name, &user_id, now);
        }
    }

    /// Takes out of a user what is over, and the user if nothing is left of it.
    fn look_at(&self, shard: &mut Shard, name: &ChannelName, user_id: &Arc<str>, now: Instant) {
        let Shard { rooms, untold, .. } = shard;
        let Some(room) = rooms.get_mut(name) else { return };
        let Some(user) = room.get_mut(user_id) else { return };
        let mut info = None;
        if let Some(here) = user.here.take_if(|here| here.connections == 0 && here.gone_at <= now) {
            info = here.info;
            self.changed(untold, name, user_id);
        }
        if let Some(elsewhere) = &mut user.elsewhere {
            let before = elsewhere.len();
            elsewhere.retain_mut(|there| {
                let over = there.going.is_some_and(|at| at <= now);
                if over {
                    info = info.take().or_else(|| there.info.take());
                }
                !over
            });
            self.elsewhere.fetch_sub(before - elsewhere.len(), Ordering::Relaxed);
        }
        user.elsewhere.take_if(|elsewhere| elsewhere.is_empty());
        if user.elsewhere.is_none() && user.here.is_none() {
            room.remove(user_id);
            if room.len() == 0 {
                rooms.remove(name);
            }
            if let Some(channel) = self.hub.find(name) {
                announce(&channel, user_id, info.as_deref(), false, now);
            }
        }
    }

    fn changed(&self, untold: &mut Untold, name: &ChannelName, user_id: &Arc<str>) {
        if self.node.get().is_none() || untold.lost {
            return;
        }
        untold.members.insert((name.clone(), Arc::clone(user_id)));
        if untold.members.len() > UNTOLD_MAX {
            (untold.members, untold.lost) = (HashSet::new(), true);
        }
    }

    fn node(&self) -> NodeId {
        self.node.get().copied().unwrap_or(NodeId::new(0))
    }

    fn shard(&self, name: &ChannelName) -> &Mutex<Shard> {
        let hash = crc32fast::hash(name.as_str().as_bytes());
        &self.shards[usize::try_from(hash).unwrap_or(0) % SHARDS]
    }
}

/// What this node knows from others, and what they get to know from it.
impl Roster {
    /// From now on there can be others, to whom this node has that name.
    pub(super) fn share_as(&self, node: NodeId) {
        let _ = self.node.set(node);
    }

    /// What has changed here since the last call, by user; and whether that is all of it.
    pub(super) fn take_untold(&self) -> (Vec<Entry>, bool) {
        let (mut entries, mut whole) = (Vec::new(), true);
        for shard in &self.shards {
            let mut shard = shard.lock();
            let Untold { members, lost } = std::mem::take(&mut shard.untold);
            whole &= !lost;
            entries.extend(members.into_iter().map(|(channel, user_id)| {
                let user = shard.rooms.get(&channel).and_then(|room| room.get(&user_id));
                let place = user.and_then(User::place);
                Entry { channel, user_id, place }
            }));
        }
        entries.sort_unstable_by(|a, b| (&a.user_id, &a.channel).cmp(&(&b.user_id, &b.channel)));
        (entries, whole)
    }

    /// Adds this node's members to `list`, those behind `next`, until it is full: then with where to go on.
    pub(super) fn write_members(&self, next: Option<&Next>, list: &mut List) -> Option<Next> {
        let begin = next.map_or(0, |next| next.shard);
        let mut reached = None;
        for (index, shard) in self.shards.iter().enumerate().skip(begin) {
            let shard = shard.lock();
            let after = next.filter(|next| next.shard == index);
            let from = after.map_or("", |after| after.channel.as_str());
            for (name, room) in shard.rooms.range::<str, _>((Bound::Included(from), Bound::Unbounded)) {
                let behind = after.filter(|after| after.channel == name.as_str());
                for (user_id, user) in room.after(behind.map(|after| after.user.as_str())) {
                    let Some(place) = user.place() else { continue };
                    let (channel, user_id) = (name.clone(), Arc::clone(user_id));
                    if !list.add(&Entry { channel, user_id: Arc::clone(&user_id), place: Some(place) }) {
                        return reached.map(|(shard, channel, user): (_, ChannelName, Arc<str>)| Next {
                            shard,
                            channel: channel.to_string(),
                            user: user.to_string(),
                        });
                    }
                    reached = Some((index, name.clone(), user_id));
                }
            }
        }
        None
    }

    /// What another node says of its members, in its account of that `generation`.
    pub(super) fn hear(&self, node: NodeId, generation: u16, entries: Vec<Entry>) {
        let now = now();
        for entry in entries {
            let mut shard = self.shard(&entry.channel).lock();
            if let Some(place) = &entry.place {
                self.put(&mut shard, node, generation, &entry, place, now);
                continue;
            }
            let Shard { rooms, leaving, .. } = &mut *shard;
            let user = rooms.get_mut(&entry.channel).and_then(|room| room.get_mut(&entry.user_id));
            if let Some(there) = user.and_then(|user| user.on(node)) {
                let due = there.go(now + SETTLE);
                leaving.push(Reverse((due, entry.channel, entry.user_id)));
            }
        }
    }

    /// Lets all members of that node go but those of its account `keep`. Looks at all there are: not for a worker that
    /// connections wait for.
    pub(super) fn release(&self, node: NodeId, keep: Option<u16>, going: Going) {
        let now = now();
        for shard in &self.shards {
            let mut shard = shard.lock();
            let mut due = Vec::new();
            for (name, room) in &mut shard.rooms {
                for (user_id, user) in room.iter_mut() {
                    let there = user.on(node);
                    let Some(there) = there.filter(|there| keep != Some(there.generation)) else { continue };
                    let at = match going {
                        Going::Now => now,
                        Going::Soon => now + SETTLE,
                        Going::WithGrace => now + grace(there.grace),
                    };
                    due.push((there.go(at), name.clone(), Arc::clone(user_id)));
                }
            }
            for (at, name, user_id) in due {
                if at <= now {
                    self.look_at(&mut shard, &name, &user_id, now);
                } else {
                    shard.leaving.push(Reverse((at, name, user_id)));
                }
            }
        }
    }

    fn put(
        &self,
        shard: &mut Shard,
        node: NodeId,
        generation: u16,
        entry: &Entry,
        place: &Place,
        now: Instant,
    ) {
        let room = shard.rooms.entry(entry.channel.clone()).or_insert_with(Room::new);
        let there = room.get_mut(&entry.user_id).and_then(|user| user.on(node));
        let info = place.info.clone().map(|info| self.infos.share(info));
        let fresh = There {
            node,
            info,
            connections: place.connections,
            grace: place.grace.min(GRACE_MAX),
            generation,
            going: None,
        };
        if let Some(there) = there {
            *there = fresh;
            return;
        }
        if self.elsewhere.load(Ordering::Relaxed) >= ELSEWHERE_MAX {
            if room.len() == 0 {
                shard.rooms.remove(&entry.channel);
            }
            if !self.full.swap(true, Ordering::Relaxed) {
                tracing::warn!(most = ELSEWHERE_MAX, "more members on other nodes than this one can hold");
            }
            return;
        }
        self.elsewhere.fetch_add(1, Ordering::Relaxed);
        let (user, known) = room.enter(&entry.user_id);
        let elsewhere = user.elsewhere.get_or_insert_default();
        elsewhere.reserve_exact(1);
        elsewhere.push(fresh);
        if !known && let Some(channel) = self.hub.find(&entry.channel) {
            announce(&channel, &entry.user_id, place.info.as_deref(), true, now);
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.roster.leave(self);
    }
}

fn grace(seconds: u8) -> Duration {
    Duration::from_secs(seconds.into())
}

fn announce(channel: &Arc<Channel>, user_id: &str, info: Option<&RawValue>, online: bool, now: Instant) {
    let update = PresenceUpdate { channel: channel.name().as_str(), user_id, online, info };
    channel.show(now, Audience::PresenceWatchers, envelope::encode("presence_update", &update, None));
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
