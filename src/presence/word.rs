//! What nodes say to each other about presence and typing, as JSON with a version: written for [`super::Exchange`], and
//! read with suspicion, since the other node may run another version. What is unknown or out of bounds is passed over.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::channel::ChannelName;

const VERSION: u32 = 1;
/// Longest user id and `info`, in bytes; a token with more is not accepted anywhere.
const USER_MAX: usize = 128;
const INFO_MAX: usize = 4096;
/// One member in a word at most: `info`, names with everything in them escaped, and what is around them.
const MEMBER_MAX: usize = INFO_MAX + 6 * USER_MAX + 400;
/// What is around the members, with a [`Next`].
const HEAD_MAX: usize = 6 * USER_MAX + 400;

/// What a node says to all others.
#[derive(Debug)]
pub(super) enum Word {
    /// It has just begun, and wants to hear of everybody; with the number of its last change.
    Hello(u64),
    /// It is there; with the number of its last change.
    Beat(u64),
    /// What has changed, with its number: one more than that of the change before.
    Changes(u64, Vec<Entry>),
    /// It ends.
    Bye,
}

/// One member as its node knows it.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Where.
    pub(super) channel: ChannelName,
    /// Who.
    pub(super) user_id: Arc<str>,
    /// How; `None`: no longer a member on that node.
    pub(super) place: Option<Place>,
}

/// How a user is in a channel on one node.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// Its connections there; none while it is in its grace.
    pub(super) connections: u32,
    /// How long it outlives them, in seconds.
    pub(super) grace: u8,
    /// What its token says about it.
    pub(super) info: Option<Arc<RawValue>>,
}

/// Members of a node, part of all.
#[derive(Debug)]
pub(super) struct Members {
    /// The last change that is surely in it.
    pub(super) number: u64,
    /// Who.
    pub(super) entries: Vec<Entry>,
    /// Where to go on; `None`: that was all.
    pub(super) next: Option<Next>,
}

/// A place between two members of a node, which that node alone understands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Next {
    /// Which part of its table.
    pub(super) shard: usize,
    /// Behind that channel's …
    pub(super) channel: String,
    /// … user.
    pub(super) user: String,
}

/// What has become of somebody's typing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Typed {
    /// Goes on for a while.
    Start,
    /// Has ended.
    Stop,
    /// That connection has gone: it has ended, if nobody else has begun since.
    Gone,
    /// Something that a later version knows.
    #[serde(other)]
    Unknown,
}

/// Somebody types, or no longer does.
#[derive(Clone, Debug)]
pub(super) struct Keystroke {
    /// Whether.
    pub(super) typed: Typed,
    /// Where.
    pub(super) channel: ChannelName,
    /// Who.
    pub(super) user_id: Arc<str>,
    /// Its connection.
    pub(super) client_id: Uuid,
}

#[derive(Clone, Copy, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Hello,
    Beat,
    Changes,
    Bye,
    Who,
    Members,
    #[default]
    #[serde(other)]
    Unknown,
}

/// The form of every word, question and answer of presence. `members` is last.
#[derive(Default, Serialize, Deserialize)]
struct Form {
    v: u32,
    #[serde(rename = "type", default)]
    kind: Kind,
    #[serde(default)]
    n: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next: Option<Next>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    members: Vec<MemberForm>,
}

/// A member without `u` is the same user as the one before it; without `n` it is none any more.
#[derive(Serialize, Deserialize)]
struct MemberForm {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    u: Option<Arc<str>>,
    c: Arc<str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    n: Option<u32>,
    #[serde(default, skip_serializing_if = "is_zero")]
    g: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    i: Option<Arc<RawValue>>,
}

#[derive(Serialize, Deserialize)]
struct TypingForm {
    v: u32,
    #[serde(default)]
    typing: Vec<KeystrokeForm>,
}

#[derive(Serialize, Deserialize)]
struct KeystrokeForm {
    #[serde(rename = "type")]
    typed: Typed,
    c: Arc<str>,
    u: Arc<str>,
    id: Uuid,
}

impl Word {
    /// What was said; `None` if this node can make nothing of it.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let form = parse(bytes)?;
        match form.kind {
            Kind::Hello => Some(Self::Hello(form.n)),
            Kind::Beat => Some(Self::Beat(form.n)),
            Kind::Changes => Some(Self::Changes(form.n, entries(form.members))),
            Kind::Bye => Some(Self::Bye),
            Kind::Who | Kind::Members | Kind::Unknown => None,
        }
    }

    /// [`Word::Hello`].
    pub(super) fn hello(number: u64) -> Bytes {
        write(&Form { kind: Kind::Hello, n: number, ..Form::new() })
    }

    /// [`Word::Beat`].
    pub(super) fn beat(number: u64) -> Bytes {
        write(&Form { kind: Kind::Beat, n: number, ..Form::new() })
    }

    /// [`Word::Bye`].
    pub(super) fn bye() -> Bytes {
        write(&Form { kind: Kind::Bye, ..Form::new() })
    }

    /// [`Word::Changes`] of as many entries as `limit` bytes allow, but one at least; with how many these are.
    pub(super) fn changes(number: u64, entries: &[Entry], limit: usize) -> (Bytes, usize) {
        let mut list = List::new(limit);
        let taken = entries.iter().take_while(|entry| list.add(entry)).count();
        (list.finish(&Form { kind: Kind::Changes, n: number, ..Form::new() }), taken)
    }
}

/// It does not ask for members.
#[derive(Debug)]
pub(super) struct NoQuestion;

impl Members {
    /// The question for all members of a node, or those behind `next`.
    pub(super) fn question(next: Option<Next>) -> Bytes {
        write(&Form { kind: Kind::Who, next, ..Form::new() })
    }

    /// Behind which member the answer is to begin; `None`: with the first.
    ///
    /// # Errors
    /// [`NoQuestion`] if this is something else.
    pub(super) fn parse_question(bytes: &[u8]) -> Result<Option<Next>, NoQuestion> {
        let form = parse(bytes).filter(|form| matches!(form.kind, Kind::Who));
        form.map(|form| form.next).ok_or(NoQuestion)
    }

    /// An answer; `None` if this node can make nothing of it.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let form = parse(bytes).filter(|form| matches!(form.kind, Kind::Members))?;
        Some(Self { number: form.n, entries: entries(form.members), next: form.next })
    }
}

/// Members being written, up to a limit.
pub(super) struct List {
    json: Vec<u8>,
    limit: usize,
    last: Option<Arc<str>>,
    last_info: Option<Arc<RawValue>>,
}

impl List {
    /// An empty one that is no longer than `limit` bytes when it is finished, if that has room for one member at all.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            json: Vec::new(),
            limit: limit.saturating_sub(MEMBER_MAX + HEAD_MAX),
            last: None,
            last_info: None,
        }
    }

    /// Adds one; `false` if it is full.
    ///
    /// # Panics
    /// Never: members are JSON.
    pub(super) fn add(&mut self, entry: &Entry) -> bool {
        if !self.json.is_empty() {
            if self.json.len() >= self.limit {
                return false;
            }
            self.json.push(b',');
        }
        let info = entry.place.as_ref().and_then(|place| place.info.clone());
        let same_info = match (&info, &self.last_info) {
            (Some(one), Some(other)) => one.get() == other.get(),
            (one, other) => one.is_none() && other.is_none(),
        };
        let same = same_info && self.last.as_ref() == Some(&entry.user_id);
        if !same {
            (self.last, self.last_info) = (Some(Arc::clone(&entry.user_id)), info.clone());
        }
        let form = MemberForm {
            u: (!same).then(|| Arc::clone(&entry.user_id)),
            c: entry.channel.as_str().into(),
            n: entry.place.as_ref().map(|place| place.connections),
            g: entry.place.as_ref().map_or(0, |place| place.grace),
            i: info.filter(|_| !same),
        };
        serde_json::to_writer(&mut self.json, &form).expect("members are JSON");
        true
    }

    /// As an answer to [`Members::question`].
    pub(super) fn answer(self, number: u64, next: Option<Next>) -> Bytes {
        self.finish(&Form { kind: Kind::Members, n: number, next, ..Form::new() })
    }

    fn finish(self, head: &Form) -> Bytes {
        let mut json = Vec::from(write(head));
        json.pop();
        json.extend_from_slice(b",\"members\":[");
        json.extend_from_slice(&self.json);
        json.extend_from_slice(b"]}");
        json.into()
    }
}

impl Keystroke {
    /// What was said; empty if this node can make nothing of it.
    pub(super) fn parse(bytes: &[u8]) -> Vec<Self> {
        let form: Option<TypingForm> = serde_json::from_slice(bytes).ok();
        let told = form.filter(|form| form.v == VERSION).map(|form| form.typing).unwrap_or_default();
        let read = told.into_iter().filter_map(|form| {
            let KeystrokeForm { typed, c, u, id } = form;
            Some(Self { typed, channel: c.parse().ok()?, user_id: user_id(u)?, client_id: id })
        });
        read.filter(|keystroke| keystroke.typed != Typed::Unknown).collect()
    }

    /// Some as one word.
    ///
    /// # Panics
    /// Never: keystrokes are JSON.
    pub(super) fn write(keystrokes: &[Self]) -> Bytes {
        let typing = keystrokes.iter().map(|keystroke| KeystrokeForm {
            typed: keystroke.typed,
            c: keystroke.channel.as_str().into(),
            u: Arc::clone(&keystroke.user_id),
            id: keystroke.client_id,
        });
        let form = TypingForm { v: VERSION, typing: typing.collect() };
        serde_json::to_vec(&form).expect("keystrokes are JSON").into()
    }
}

impl Form {
    fn new() -> Self {
        Self { v: VERSION, ..Self::default() }
    }
}

fn parse(bytes: &[u8]) -> Option<Form> {
    let form: Form = serde_json::from_slice(bytes).ok()?;
    (form.v == VERSION).then_some(form)
}

fn write(form: &Form) -> Bytes {
    serde_json::to_vec(form).expect("words are JSON").into()
}

fn entries(members: Vec<MemberForm>) -> Vec<Entry> {
    let mut who: Option<Arc<str>> = None;
    let mut info: Option<Arc<RawValue>> = None;
    let read = members.into_iter().filter_map(|form| {
        if let Some(id) = form.u {
            (who, info) = (user_id(id), form.i.filter(|info| info.get().len() <= INFO_MAX));
        }
        let place = form.n.map(|connections| Place { connections, grace: form.g, info: info.clone() });
        Some(Entry { channel: form.c.parse().ok()?, user_id: who.clone()?, place })
    });
    read.collect()
}

fn user_id(id: Arc<str>) -> Option<Arc<str>> {
    (1..=USER_MAX).contains(&id.len()).then_some(id)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_zero(number: &u8) -> bool {
    *number == 0
}
