//! What a connection writes of its channels at once: read from the cursors and put into frames by [`Batch::read`]. Each
//! thread has one batch, and subscribers of one channel mostly stand at the same place when it has news: whoever comes
//! next and would read the same is given what the last one was, without a look at the log.

use std::cell::Cell;
use std::sync::{Arc, Weak};
use std::time::Instant;

use bytes::Bytes;
use fastwebsockets::OpCode;

use super::extensions::Deflate;
use super::outbox::{put_frame, put_stored};
use crate::channel::{Channel, Cursor, Message};
use crate::close::Fault;
use crate::metrics::Transport;
use crate::transport::subscriptions::Moment;
use crate::transport::{Edge, Event, Subscriptions};

/// Bytes of envelopes read at once: enough that a burst costs few writes, little enough that nobody starves and that a
/// client which takes nothing holds little.
const READ_BYTES: usize = 32 * 1024;
/// A thread keeps no larger buffer.
const KEPT_BYTES: usize = 256 * 1024;

thread_local! {
    static LAST: Cell<Option<Box<Batch>>> = const { Cell::new(None) };
}

/// Frames that were read at once.
#[derive(Default)]
pub struct Batch {
    frames: Vec<u8>,
    /// What was read, if another may be given the same.
    of: Option<Stretch>,
    count: u64,
    oldest: Option<Instant>,
    more: bool,
}

/// The part of a channel's log between two places of a cursor, compressed or not.
struct Stretch {
    channel: Weak<Channel>,
    /// The channel's, before it was read.
    version: u64,
    from: Cursor,
    to: Cursor,
    deflate: Option<Deflate>,
}

/// What a read found and is not framed yet: a message to compress, and what came behind one.
enum Later {
    Stored(Arc<Message>),
    Plain(Bytes),
}

impl Batch {
    /// This thread's, with what was last read into it. To be given back.
    pub fn take() -> Box<Self> {
        LAST.take().unwrap_or_default()
    }

    /// For whoever reads next on this thread.
    pub fn give_back(mut self: Box<Self>) {
        if self.frames.capacity() > KEPT_BYTES {
            (self.frames, self.of) = (Vec::new(), None);
        }
        LAST.set(Some(self));
    }

    /// What was read.
    pub fn frames(&self) -> &[u8] {
        &self.frames
    }

    /// Reads what `subscriptions` have not seen, as much as one write should hold. Whether there is more. Who reads, is
    /// asked only if that has to be looked at: it is in no cache.
    ///
    /// # Errors
    /// As [`Subscriptions::read`].
    pub fn read(
        &mut self,
        edge: &Edge,
        subscriptions: &mut Subscriptions,
        user_id: &Arc<str>,
        deflate: Option<Deflate>,
    ) -> Result<bool, Fault> {
        let sole = subscriptions.sole_news();
        match (&self.of, sole) {
            (Some(of), Some((index, channel, cursor))) if of.is_before(channel, cursor, deflate) => {
                let to = of.to;
                subscriptions.follow(index, to);
            }
            _ => {
                let begun =
                    sole.map(|(index, channel, from)| (index, Arc::clone(channel), channel.version(), from));
                let index = begun.as_ref().map(|(index, ..)| *index);
                let whole = self.fill(edge, subscriptions, index, user_id, deflate)?;
                self.of = begun.filter(|_| whole).and_then(|(index, channel, version, from)| {
                    Stretch::between(&channel, version, (from, subscriptions.cursor(index)), deflate)
                });
            }
        }
        Ok(self.more)
    }

    /// Counts what was read, at about `now`. To be called once it is written: each count waits for all memory before it,
    /// and the socket is not in the cache yet.
    pub fn count(&self, edge: &Edge, now: Instant) {
        if self.count > 0 {
            edge.metrics.sent(Transport::WebSocket, self.count);
        }
        if let Some(appended) = self.oldest {
            edge.metrics.delivered(now.saturating_duration_since(appended));
        }
    }

    /// Reads all that have news, or the only one. Whether no gap was among it, each of which is counted.
    fn fill(
        &mut self,
        edge: &Edge,
        subscriptions: &mut Subscriptions,
        sole: Option<usize>,
        user_id: &str,
        deflate: Option<Deflate>,
    ) -> Result<bool, Fault> {
        self.frames.clear();
        (self.of, self.count, self.oldest, self.more) = (None, 0, None, false);
        let (frames, mut later, mut whole) = (&mut self.frames, Vec::new(), true);
        let (count, oldest) = (&mut self.count, &mut self.oldest);
        let compresses = |bytes: usize| deflate.is_some_and(|deflate| deflate.covers(bytes));
        let take = |event: Event<'_>, _: &Moment<'_>| {
            *count += 1;
            match &event {
                Event::Message(message) => _ = oldest.get_or_insert(message.appended),
                Event::Gap(_) => whole = false,
                Event::Passing(_) => {}
            }
            match event {
                // The log is locked now, and compressing takes its time.
                Event::Message(message) if !later.is_empty() || compresses(message.json.len()) => {
                    later.push(Later::Stored(Arc::clone(message)));
                }
                event if later.is_empty() => put_frame(frames, OpCode::Text, 0, event.json()),
                event => later.push(Later::Plain(Bytes::copy_from_slice(event.json()))),
            }
        };
        // Alone also if another one has news by now: what is kept for others must hold nothing but that channel's.
        self.more = match sole {
            Some(index) => subscriptions.read_sole(index, edge, user_id, READ_BYTES, take)?,
            None => subscriptions.read(edge, user_id, READ_BYTES, take)?,
        };
        for event in later {
            match event {
                Later::Stored(message) => put_stored(&mut self.frames, &message, deflate),
                Later::Plain(json) => put_frame(&mut self.frames, OpCode::Text, 0, &json),
            }
        }
        Ok(whole)
    }
}

impl Stretch {
    /// What a read has given on its way from one place to the other, if it would be the same for everybody: of passing
    /// envelopes each sees others, or none.
    fn between(
        channel: &Arc<Channel>,
        version: u64,
        (from, to): (Cursor, Cursor),
        deflate: Option<Deflate>,
    ) -> Option<Self> {
        let only_stored = from.position().epoch == to.position().epoch && from.passing() == to.passing();
        only_stored.then(|| Self { channel: Arc::downgrade(channel), version, from, to, deflate })
    }

    /// Whether it is what a read would find that begins there now.
    fn is_before(&self, channel: &Arc<Channel>, cursor: Cursor, deflate: Option<Deflate>) -> bool {
        std::ptr::eq(self.channel.as_ptr(), Arc::as_ptr(channel))
            && self.version == channel.version()
            && self.from.stands_beside(&cursor)
            && self.from.passing() == cursor.passing()
            && self.deflate == deflate
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZero;

    use super::*;
    use crate::channel::{Audience, Epoch, MessageId, Position, Publication, Resume, Ringer, Viewer};

    const DEFLATE: Deflate = Deflate { min_bytes: 0, window_bits: NonZero::new(15).unwrap() };

    fn channel(name: &str) -> Arc<Channel> {
        let floor = Position { epoch: Epoch::new(1), seq: 0 };
        let retention = crate::channel::Retention {
            history_size: 10,
            history_bytes: 10_000,
            history_ttl: std::time::Duration::from_mins(1),
            lag_bytes: 10_000,
            lag: std::time::Duration::from_mins(1),
        };
        let ringer = Arc::new(Ringer::default());
        Arc::new(Channel::new(name.parse().unwrap(), retention, &ringer, floor, Instant::now()))
    }

    fn publish(channel: &Channel) {
        let publication = Publication {
            channel: channel.name().clone(),
            sender_id: "u".into(),
            client_id: uuid::Uuid::nil(),
            message_id: MessageId::parse("m").unwrap(),
            idempotent: false,
            timestamp: std::time::SystemTime::UNIX_EPOCH,
            data: serde_json::value::RawValue::from_string("1".to_owned()).unwrap(),
        };
        let next = channel.head().seq + 1;
        channel.append(Instant::now(), &publication, || next);
    }

    fn place(channel: &Channel, resume: Resume) -> Cursor {
        channel.begin(resume, Instant::now()).0
    }

    fn read(channel: &Arc<Channel>, from: Cursor) -> Option<Stretch> {
        let (version, mut to) = (channel.version(), from);
        let viewer = Viewer { user_id: "ann", presence: false };
        channel.read(&mut to, viewer, 1000, |_| {}).ok()?;
        Stretch::between(channel, version, (from, to), None)
    }

    #[test]
    fn what_was_read_is_for_those_who_would_read_the_very_same() {
        let (lobby, other) = (channel("chat:lobby"), channel("chat:other"));
        publish(&lobby);
        let [from, beside] = [place(&lobby, Resume::Live); 2];
        let behind = place(&lobby, Resume::History(1));
        publish(&lobby);
        let read = read(&lobby, from).unwrap();
        assert!(read.is_before(&lobby, beside, None));
        assert!(!read.is_before(&lobby, behind, None));
        assert!(!read.is_before(&lobby, read.to, None));
        assert!(!read.is_before(&lobby, beside, Some(DEFLATE)));
        assert!(!read.is_before(&other, beside, None));
        publish(&lobby);
        assert!(!read.is_before(&lobby, beside, None), "there is more by now");
    }

    #[test]
    fn what_passes_is_for_each_to_read() {
        let now = Instant::now();
        for audience in [Audience::OthersThan("ann".into()), Audience::PresenceWatchers] {
            let lobby = channel("chat:lobby");
            let from = place(&lobby, Resume::Live);
            publish(&lobby);
            assert!(read(&lobby, from).is_some());
            // Not for the one who reads, but maybe for the next one.
            lobby.show(now, audience, Bytes::from_static(b"{}"));
            assert!(read(&lobby, from).is_none());
        }
        let lobby = channel("chat:lobby");
        let from = place(&lobby, Resume::Live);
        lobby.restart(Position { epoch: Epoch::new(2), seq: 0 }, std::iter::empty(), now);
        assert!(read(&lobby, from).is_none(), "a gap is told");
    }
}
