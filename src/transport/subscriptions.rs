//! The cursors of one subscriber, whatever its transport: where it has joined, and the one read that gives it all it
//! has missed and all that comes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::cursor_string::CursorString;
use super::edge::Edge;
use crate::auth::Identity;
use crate::channel::{
    Channel, ChannelName, Cursor, Epoch, Gap, GapReason, Item, Message, Position, Resume, Viewer, Wake, Watch,
};
use crate::close::{Fault, Kind};
use crate::config::SlowConsumer;
use crate::envelope::{self, PresenceState};
use crate::presence::{Lease, Member};

/// All channels that one subscriber has joined.
pub struct Subscriptions {
    wake: Wake,
    /// Exactly as large as it has to be: most have one channel, and room for more would be the largest part of an idle
    /// connection.
    joined: Box<[Subscription]>,
    /// Which channel is read first next time, so that a busy one doesn't starve the others.
    turn: usize,
}

struct Subscription {
    watch: Watch,
    cursor: Cursor,
    /// To be told before anything else, and the place it was asked for: until it is told, a cursor names that one.
    gap: Option<Box<(Gap, Position)>>,
    /// The user is present while it lives.
    member: Option<Member>,
}

/// What came of a join.
pub struct Joined {
    /// From where delivery goes on.
    pub position: Position,
    /// Whether a position was asked for and is still held.
    pub recovered: bool,
}

/// One thing for the subscriber, in order.
pub enum Event<'a> {
    /// A stored message; moves the cursor.
    Message(&'a Arc<Message>),
    /// A gap; moves the cursor.
    Gap(Bytes),
    /// A passing envelope.
    Passing(&'a [u8]),
}

impl Event<'_> {
    /// The envelope's JSON.
    pub fn json(&self) -> &[u8] {
        match self {
            Self::Message(message) => &message.json,
            Self::Gap(json) => json,
            Self::Passing(json) => json,
        }
    }
}

/// The subscriber's cursors at the moment of one event.
pub struct Moment<'a> {
    joined: &'a [Subscription],
    index: usize,
    position: Position,
}

impl Moment<'_> {
    /// The cursor string after this event, shown to `take`.
    pub fn with_cursor<T>(&self, take: impl FnOnce(&[u8]) -> T) -> T {
        let places = self.joined.iter().enumerate().map(|(index, subscription)| {
            let position = if index == self.index { self.position } else { subscription.position() };
            (subscription.channel().name(), position, 0)
        });
        CursorString::with(None, places, take)
    }
}

impl Subscriptions {
    /// What is allocated for one that has joined one channel, in blocks.
    pub const BLOCKS: [usize; 2] = [Wake::BLOCK, size_of::<Subscription>()];

    /// None yet.
    pub fn new() -> Self {
        Self { wake: Wake::default(), joined: Box::default(), turn: 0 }
    }

    /// Rings when one of the channels has news.
    pub fn wake(&self) -> &Wake {
        &self.wake
    }

    /// Whether that channel is joined.
    pub fn has(&self, channel: &ChannelName) -> bool {
        self.find(channel).is_some()
    }

    /// The channels that are joined.
    pub fn channels(&self) -> impl Iterator<Item = &Arc<Channel>> {
        self.joined.iter().map(Subscription::channel)
    }

    /// Joins a channel, or moves the cursor in it if it is joined already. `passing` goes on among this node's
    /// passing envelopes where a poll left off.
    ///
    /// # Errors
    /// A [`Fault`] if `who` may not, has as many channels as allowed, or the bus can't be reached.
    ///
    /// # Cancel safety
    /// A cancelled join has not joined.
    pub async fn join(
        &mut self,
        edge: &Edge,
        who: &Identity,
        name: &ChannelName,
        (resume, passing): (Resume, Option<u64>),
        presence: bool,
        lease: Lease,
    ) -> Result<Joined, Fault> {
        let settings = edge.hub.settings(name);
        if !who.may_join(name, settings) {
            return Err(
                Fault::new(Kind::Forbidden, "no grant to join this channel").in_channel(name.as_str())
            );
        }
        let known = self.find(name);
        if known.is_none() && self.joined.len() >= edge.config.limits.channels_per_connection {
            return Err(Fault::new(
                Kind::TooManyChannels,
                "this connection has joined as many channels as it may",
            )
            .with_limit("limits.channels_per_connection")
            .in_channel(name.as_str()));
        }
        let channel = match known {
            Some(index) => Arc::clone(self.joined[index].channel()),
            None => edge.hub.open(name).await?,
        };
        edge.hub.reach(&channel, resume).await?;
        // Before the cursor is taken: a subscriber isn't told of itself.
        let mut member = match known {
            Some(index) => self.joined[index].member.take(),
            None if settings.presence => {
                Some(edge.roster.join(&channel, &who.user_id, who.info.as_ref(), lease))
            }
            None => None,
        };
        if let Some(member) = &mut member {
            member.sees_presence = presence;
        }
        let watch = channel.watch(&self.wake);
        let (cursor, gap) = channel.begin(resume, edge.now());
        let cursor = passing.map_or(cursor, |passing| cursor.with_passing(passing));
        let recovered = matches!(resume, Resume::After(_)) && gap.is_none();
        let gap = gap.map(|gap| Box::new((gap, asked(resume, cursor.position()))));
        let subscription = Subscription { watch, cursor, gap, member };
        if let Some(index) = known {
            self.joined[index] = subscription;
        } else {
            self.change(|joined| {
                joined.reserve_exact(1);
                joined.push(subscription);
            });
        }
        // There may be something to read at once.
        self.wake.wake();
        Ok(Joined { position: cursor.position(), recovered })
    }

    /// Leaves a channel; whether it was joined.
    pub fn leave(&mut self, channel: &ChannelName) -> bool {
        let found = self.find(channel);
        if let Some(index) = found {
            drop(self.change(|joined| joined.remove(index)));
        }
        found.is_some()
    }

    /// Goes on as `who`, whose token may grant other things: returns the channels that had to be left.
    pub fn renew(&mut self, edge: &Edge, who: &Identity, lease: Lease) -> Vec<ChannelName> {
        let mut left = Vec::new();
        let stays = |subscription: &mut Subscription| {
            let channel = Arc::clone(subscription.channel());
            if !who.may_join(channel.name(), edge.hub.settings(channel.name())) {
                left.push(channel.name().clone());
                return false;
            }
            if let Some(member) = &mut subscription.member {
                let sees_presence = member.sees_presence;
                *member = edge.roster.join(&channel, &who.user_id, who.info.as_ref(), lease);
                member.sees_presence = sees_presence;
            }
            true
        };
        self.change(|joined| joined.retain_mut(stays));
        left
    }

    fn change<T>(&mut self, change: impl FnOnce(&mut Vec<Subscription>) -> T) -> T {
        let mut joined = std::mem::take(&mut self.joined).into_vec();
        let changed = change(&mut joined);
        self.joined = joined.into_boxed_slice();
        self.turn = 0;
        changed
    }

    /// Gives `take` what the subscriber has not seen, until about `budget` bytes are given. Returns whether there is
    /// more now.
    ///
    /// # Errors
    /// [`Kind::SlowConsumer`] if it fell off the log of a channel that says `close`.
    pub fn read(
        &mut self,
        edge: &Edge,
        user_id: &str,
        budget: usize,
        mut take: impl FnMut(Event<'_>, &Moment<'_>),
    ) -> Result<bool, Fault> {
        let mut given = 0;
        for step in 0..self.joined.len() {
            let index = (self.turn + step) % self.joined.len();
            if !self.joined[index].has_news() {
                continue;
            }
            if given >= budget {
                self.turn = index;
                return Ok(true);
            }
            if self.read_one(edge, user_id, index, budget - given, &mut given, &mut take)? {
                // The others first: a channel that always has more must not be all that is read.
                self.turn = (index + 1) % self.joined.len();
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The one channel with news, and where the cursor stands in it, if there is exactly one and no gap to tell of.
    pub fn sole_news(&self) -> Option<(usize, &Arc<Channel>, Cursor)> {
        let mut news = self.joined.iter().enumerate().filter(|(_, subscription)| subscription.has_news());
        let (index, subscription) = news.next().filter(|(_, subscription)| subscription.gap.is_none())?;
        news.next().is_none().then(|| (index, subscription.channel(), subscription.cursor))
    }

    /// [`Subscriptions::read`] of that channel alone: others may have news by now, and whoever brought it rings.
    ///
    /// # Errors
    /// As [`Subscriptions::read`].
    pub fn read_sole(
        &mut self,
        index: usize,
        edge: &Edge,
        user_id: &str,
        budget: usize,
        mut take: impl FnMut(Event<'_>, &Moment<'_>),
    ) -> Result<bool, Fault> {
        self.read_one(edge, user_id, index, budget, &mut 0, &mut take)
    }

    /// As [`Reader::glance`](crate::channel::Reader::glance).
    pub fn glance(&self) -> usize {
        let read = |first: &Subscription| usize::from(first.has_news()) + usize::from(first.member.is_some());
        self.joined.first().map_or(0, read)
    }

    /// Where the cursor stands in that channel, of those that are joined.
    pub fn cursor(&self, index: usize) -> Cursor {
        self.joined[index].cursor
    }

    /// Moves the cursor in that channel to where another one came by reading from the same place.
    pub fn follow(&mut self, index: usize, other: Cursor) {
        self.joined[index].cursor = other;
    }

    /// Has the next read begin at a channel that follows from where the cursors stand. A poll keeps no turn: so it comes
    /// to each channel though one always has more, and still answers the same to who asks twice.
    pub fn turn_by_cursors(&mut self) {
        let mix = |mixed: u64, subscription: &Subscription| {
            (mixed ^ subscription.position().seq).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32)
        };
        // The upper half of a product is the mixed one; it fits everywhere.
        let turn = usize::try_from(self.joined.iter().fold(0, mix) & 0xffff_ffff).unwrap_or(0);
        self.turn = turn % self.joined.len().max(1);
    }

    /// Whether who joins anew with a cursor string of where they stand would be told just what a read here tells: nothing
    /// is lost, neither told of yet nor not.
    pub fn are_whole(&self) -> bool {
        self.joined.iter().all(|subscription| {
            let is_held = || !subscription.has_news() || subscription.channel().holds(&subscription.cursor);
            subscription.gap.is_none() && is_held()
        })
    }

    /// The subscriber has in truth been gone for that long.
    pub fn have_been_left_for(&mut self, time: Duration) {
        for member in self.joined.iter_mut().filter_map(|subscription| subscription.member.as_mut()) {
            member.has_been_gone_for(time);
        }
    }

    /// Where the subscriber stands; with its place among `node`'s passing envelopes, for a poll.
    pub fn cursor_string(&self, node: Option<u32>) -> String {
        CursorString::encode(node, self.places())
    }

    /// The same, shown to `take`.
    pub fn with_cursor<T>(&self, node: Option<u32>, take: impl FnOnce(&[u8]) -> T) -> T {
        CursorString::with(node, self.places(), take)
    }

    fn places(&self) -> impl Iterator<Item = (&ChannelName, Position, u64)> {
        self.joined.iter().map(|subscription| {
            (subscription.channel().name(), subscription.position(), subscription.cursor.passing())
        })
    }

    fn read_one(
        &mut self,
        edge: &Edge,
        user_id: &str,
        index: usize,
        budget: usize,
        given: &mut usize,
        take: &mut impl FnMut(Event<'_>, &Moment<'_>),
    ) -> Result<bool, Fault> {
        let gap = self.joined[index].gap.take().map(|told| told.0);
        let Subscription { mut cursor, ref member, .. } = self.joined[index];
        let presence = member.as_ref().is_some_and(|member| member.sees_presence);
        let joined = &self.joined;
        let channel = joined[index].channel();
        let mut give = |event: Event<'_>, position: Position| {
            *given += event.json().len();
            take(event, &Moment { joined, index, position });
        };
        let tell_gap = |gap: &Gap, position: Position, give: &mut dyn FnMut(Event<'_>, Position)| {
            edge.metrics.gap(gap.reason);
            give(Event::Gap(envelope::gap(channel.name().as_str(), gap)), position);
        };
        if let Some(gap) = gap {
            tell_gap(&gap, cursor.position(), &mut give);
        }
        let epoch = cursor.position().epoch;
        let viewer = Viewer { user_id, presence };
        let result = channel.read(&mut cursor, viewer, budget, |item| match item {
            Item::Message(message) => give(Event::Message(message), Position { epoch, seq: message.seq }),
            Item::Passing(json) => give(Event::Passing(json), Position { epoch, seq: 0 }),
        });
        let more = match result {
            Ok(batch) => {
                if batch.missed_passing {
                    let (users, total) = edge.roster.list(channel.name());
                    let state = PresenceState { channel: channel.name().as_str(), users, total };
                    let json = envelope::encode("presence_state", &state, None);
                    give(Event::Passing(&json), cursor.position());
                }
                batch.more
            }
            Err(gap) => {
                let closes = edge.hub.settings(channel.name()).slow_consumer == SlowConsumer::Close;
                if closes && gap.reason == GapReason::SlowConsumer {
                    return Err(Fault::new(Kind::SlowConsumer, "read too slowly for this channel")
                        .in_channel(channel.name().as_str()));
                }
                tell_gap(&gap, cursor.position(), &mut give);
                true
            }
        };
        self.joined[index].cursor = cursor;
        Ok(more)
    }

    fn find(&self, channel: &ChannelName) -> Option<usize> {
        self.joined.iter().position(|subscription| subscription.channel().name() == channel)
    }
}

impl Default for Subscriptions {
    fn default() -> Self {
        Self::new()
    }
}

impl Subscription {
    fn channel(&self) -> &Arc<Channel> {
        self.watch.channel()
    }

    /// Where a cursor string says that the subscriber stands.
    fn position(&self) -> Position {
        self.gap.as_ref().map_or_else(|| self.cursor.position(), |untold| untold.1)
    }

    fn has_news(&self) -> bool {
        self.gap.is_some() || self.channel().has_news(&self.cursor)
    }
}

/// The place that was asked for and is lost; for one that could never have been, a place in no log.
fn asked(resume: Resume, now: Position) -> Position {
    match resume {
        Resume::After(Some(position)) => position,
        _ => Position { epoch: Epoch::new(now.epoch.number() ^ 1), seq: 0 },
    }
}
