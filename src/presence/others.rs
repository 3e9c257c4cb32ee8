//! What this node knows of each other node: since when it has not been heard, and whether its members are known as of
//! its last word. Decides whom to ask and whose members go; [`super::Exchange`] does the speaking.
//!
//! ```text
//!   unknown ──any word──▶ Wanting ──asked──▶ Fetching ──last answer──▶ Following(n) ──n + 1──▶ Following(n + 1)
//!                            ▲   no answer      │                           │
//!                            └──────────────────┘◀── a number was missed ───┘
//! ```

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::roster::{Going, Roster};
use super::word::{Entry, Members, Next, Word};
use crate::bus::nats::NodeId;

/// A node that says nothing for so long is gone.
pub(super) const SILENCE: Duration = Duration::from_secs(10);
/// Nodes that are known at once; words of more are passed over.
const NODES_MAX: usize = 1024;
/// Nodes whose members are fetched at once: when NATS comes back, all of them are to be asked by all.
const FETCHES_MAX: usize = 4;
/// How long after an answer that did not come a node is asked again.
const RETRY: Duration = Duration::from_secs(1);
/// Answers that all members of a node are told in at most: a million of them need some 200.
const ANSWERS_MAX: u32 = 10_000;
/// Changes that are held while the members they belong to are fetched.
const HELD_MAX: usize = 100_000;

/// The other nodes.
pub(super) struct Others {
    roster: Arc<Roster>,
    nodes: HashMap<NodeId, Node>,
    /// Told each time a node is asked, so that a late answer is not taken for one to a later question.
    generation: u16,
}

struct Node {
    heard: Instant,
    state: State,
}

enum State {
    /// To be asked for all its members, but not before then.
    Wanting(Instant),
    /// Is being asked.
    Fetching(Fetch),
    /// Its members are known as of that change.
    Following { number: u64, generation: u16 },
}

struct Fetch {
    generation: u16,
    /// The change that the first part of the answer was surely made after.
    number: Option<u64>,
    answers: u32,
    /// What has been said since it was asked: it may be newer than the answer.
    held: Vec<(u64, Vec<Entry>)>,
    held_entries: usize,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Chore {
    /// Say a beat, for somebody who has just begun.
    Beat,
    /// Ask that node for its members.
    Ask { node: NodeId, generation: u16, next: Option<Next> },
    /// [`Roster::release`].
    Release { node: NodeId, keep: Option<u16>, going: Going },
}

impl Others {
    /// None are known yet; what they say goes into `roster`.
    pub(super) fn new(roster: Arc<Roster>) -> Self {
        Self { roster, nodes: HashMap::new(), generation: 0 }
    }

    /// A node has said something.
    pub(super) fn hear(&mut self, from: NodeId, word: Word, now: Instant) -> Option<Chore> {
        if matches!(word, Word::Bye) {
            let known = self.nodes.remove(&from).is_some();
            tracing::info!(node = %from, "another node has said goodbye");
            return known.then_some(Chore::Release { node: from, keep: None, going: Going::WithGrace });
        }
        if !self.nodes.contains_key(&from) {
            if self.nodes.len() >= NODES_MAX {
                tracing::debug!(node = %from, "one node too many");
                return None;
            }
            tracing::info!(node = %from, "another node is there");
        }
        let node = self.nodes.entry(from).or_insert(Node { heard: now, state: State::Wanting(now) });
        node.heard = now;
        match word {
            Word::Hello(number) => {
                node.expect(number, from, now);
                return Some(Chore::Beat);
            }
            Word::Beat(number) => node.expect(number, from, now),
            Word::Changes(number, entries) => match &mut node.state {
                // The answer to a question that is not asked yet will have it.
                State::Wanting(_) => {}
                State::Fetching(fetch) => {
                    fetch.held_entries += entries.len();
                    fetch.held.push((number, entries));
                    if fetch.held_entries > HELD_MAX || fetch.held.len() > HELD_MAX {
                        node.state = State::Wanting(now + RETRY);
                    }
                }
                State::Following { number: last, generation } => {
                    if number == *last + 1 {
                        *last = number;
                        self.roster.hear(from, *generation, entries);
                    } else if number > *last {
                        node.expect(number, from, now);
                    }
                }
            },
            Word::Bye => {}
        }
        None
    }

    /// Whom to ask now, and who has been silent for too long.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Chore> {
        let mut chores = Vec::new();
        self.nodes.retain(|id, node| {
            let silent = now.saturating_duration_since(node.heard) >= SILENCE;
            if silent {
                tracing::warn!(node = %id, "another node is silent; its members are gone");
                chores.push(Chore::Release { node: *id, keep: None, going: Going::Now });
            }
            !silent
        });
        let fetching = self.nodes.values().filter(|node| matches!(node.state, State::Fetching(_))).count();
        let wanting = self
            .nodes
            .iter_mut()
            .filter(|(_, node)| matches!(node.state, State::Wanting(not_before) if not_before <= now));
        for (id, node) in wanting.take(FETCHES_MAX.saturating_sub(fetching)) {
            self.generation = self.generation.wrapping_add(1);
            let generation = self.generation;
            let fetch = Fetch { generation, number: None, answers: 0, held: Vec::new(), held_entries: 0 };
            node.state = State::Fetching(fetch);
            chores.push(Chore::Ask { node: *id, generation, next: None });
        }
        chores
    }

    /// What came of a [`Chore::Ask`]; `None`: nothing that could be used.
    pub(super) fn answered(
        &mut self,
        from: NodeId,
        generation: u16,
        answer: Option<Members>,
        now: Instant,
    ) -> Option<Chore> {
        let node = self.nodes.get_mut(&from)?;
        let State::Fetching(fetch) = &mut node.state else { return None };
        if fetch.generation != generation {
            return None;
        }
        fetch.answers += 1;
        let Some(members) = answer.filter(|_| fetch.answers < ANSWERS_MAX) else {
            tracing::debug!(node = %from, "did not tell its members");
            node.state = State::Wanting(now + RETRY);
            return None;
        };
        let begun = *fetch.number.get_or_insert(members.number);
        self.roster.hear(from, generation, members.entries);
        if members.next.is_some() {
            return Some(Chore::Ask { node: from, generation, next: members.next });
        }
        // Each entry says how things are, not how they change: to hear one again that was in the answer is no harm, as
        // long as the newest is heard last.
        let mut number = begun;
        let mut whole = true;
        for (said, entries) in std::mem::take(&mut fetch.held) {
            if said > number {
                whole &= said == number + 1;
                number = said;
                self.roster.hear(from, generation, entries);
            }
        }
        tracing::debug!(node = %from, number, "its members are known");
        node.state =
            if whole { State::Following { number, generation } } else { State::Wanting(now + RETRY) };
        Some(Chore::Release { node: from, keep: Some(generation), going: Going::Soon })
    }

    /// This node itself was out for a while: that it has heard nobody says nothing.
    pub(super) fn forgive(&mut self, now: Instant) {
        self.nodes.values_mut().for_each(|node| node.heard = now);
    }

    /// Whether the members of all nodes are known.
    pub(super) fn is_complete(&self) -> bool {
        self.nodes.values().all(|node| matches!(node.state, State::Following { .. }))
    }
}

impl Node {
    /// The node says that this is its last change.
    fn expect(&mut self, number: u64, id: NodeId, now: Instant) {
        // A lower one was said before the answer that has come in the meantime.
        if let State::Following { number: last, .. } = self.state
            && number > last
        {
            tracing::debug!(node = %id, last, number, "missed what it said");
            self.state = State::Wanting(now);
        }
    }
}
