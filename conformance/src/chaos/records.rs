//! What one client knows: how far it has got in each of its channels, and with what it may go on, whichever node and
//! transport it comes to next. It judges every envelope by its own records alone.

use std::collections::VecDeque;

use bytes::Bytes;
use serde::Deserialize;

use super::publisher;
use crate::envelope::{self, Delivered, Joined, Refusal, Said};
use crate::feed::{Start, Transport};
use crate::ledger::{Entry, Ledger};
use crate::switching::Violations;
use crate::wire::WireError;

pub(super) struct Records {
    names: Vec<String>,
    /// One a channel, in the order of the names.
    ledgers: Vec<Ledger>,
    /// A cursor that stands exactly where the ledgers do.
    cursor: Option<String>,
    pub(super) violations: Violations,
}

/// What came out of some envelopes.
#[derive(Default)]
pub(super) struct Taken {
    /// Joins that were confirmed.
    pub(super) joined: usize,
    /// Messages.
    pub(super) messages: u64,
    /// What the server refuses for now.
    pub(super) refused: Option<Refusal>,
}

#[derive(Deserialize)]
struct Data {
    p: u32,
    n: u32,
}

impl Records {
    pub(super) fn new(names: Vec<String>) -> Self {
        let ledgers = names.iter().map(|_| Ledger::default()).collect();
        Self { names, ledgers, cursor: None, violations: Violations::default() }
    }

    pub(super) fn ledgers(&self) -> &[Ledger] {
        &self.ledgers
    }

    /// Whether it has been joined to all of its channels, so that it has something to lose.
    pub(super) fn is_joined(&self) -> bool {
        self.ledgers.iter().all(|ledger| ledger.joined_at().is_some())
    }

    /// Begins anew if its first joins did not all come through: nothing was promised to it yet.
    pub(super) fn forget_a_half_join(&mut self) {
        if !self.is_joined() {
            self.ledgers = self.names.iter().map(|_| Ledger::default()).collect();
            self.cursor = None;
        }
    }

    /// The ways in which it can go on.
    pub(super) fn starts(&self, transport: Transport) -> Vec<Start> {
        if !self.is_joined() {
            return vec![Start::Fresh, Start::FreshByQuery];
        }
        let positions = self.ledgers.iter().filter_map(Ledger::position).collect();
        let mut ways = vec![Start::Recover(positions)];
        if let Some(cursor) = &self.cursor {
            ways.push(Start::CursorByQuery(cursor.clone()));
            match transport {
                Transport::WebSocket => ways.push(Start::CursorByJoin(cursor.clone())),
                Transport::Sse => ways.push(Start::CursorByHeader(cursor.clone())),
                Transport::Poll => {}
            }
        }
        ways
    }

    /// Takes note of envelopes and of the cursor behind them.
    pub(super) fn take(
        &mut self,
        transport: Transport,
        envelopes: &mut VecDeque<Bytes>,
        cursor: Option<String>,
    ) -> Result<Taken, WireError> {
        let mut taken = Taken::default();
        while let Some(text) = envelopes.pop_front() {
            match envelope::read(&text)? {
                Said::Joined(joined) => {
                    self.joined(transport, joined)?;
                    taken.joined += 1;
                }
                Said::Message(message) => {
                    self.message(&message)?;
                    taken.messages += 1;
                }
                Said::Gap(gap) => {
                    let index = self.index(&gap.channel)?;
                    self.ledgers[index].gap(gap.first.seq);
                    self.violations.add(format!("a gap that need not be: {gap:?}"));
                }
                Said::Error(refusal) => taken.refused = Some(refusal),
                Said::Ack(_) | Said::Other(_) => {}
            }
        }
        match cursor {
            Some(cursor) => self.cursor = Some(cursor),
            // A WebSocket's messages carry no cursor: positions alone are right from now on.
            None if taken.messages > 0 => self.cursor = None,
            None => {}
        }
        Ok(taken)
    }

    fn joined(&mut self, transport: Transport, joined: Joined) -> Result<(), WireError> {
        let index = self.index(&joined.channel)?;
        // On a WebSocket the cursor of one room_joined is known to stand for one channel only.
        if transport == Transport::WebSocket && self.names.len() == 1 {
            self.cursor = Some(joined.cursor);
        }
        if let Err(problem) = self.ledgers[index].join(joined.position, joined.recovered) {
            // What follows tells more; it is judged from where the records are.
            self.violations.add(format!("{}: {problem}", joined.channel));
        }
        Ok(())
    }

    fn message(&mut self, message: &Delivered<'_>) -> Result<(), WireError> {
        let index = self.index(&message.channel)?;
        let Data { p, n } = serde_json::from_str(message.data.get())
            .map_err(|_| WireError::Protocol(format!("data that nobody sent: {}", message.data)))?;
        if message.message_id != publisher::message_id(p, n) {
            self.violations.add(format!("message {n} of publisher {p} named {}", message.message_id));
        }
        let entry = publisher::entry(p, n, message.seq);
        if let Err(problem) = self.ledgers[index].message(&message.epoch, message.prev, entry) {
            self.violations.add(format!("in {}: {problem}", message.channel));
        }
        Ok(())
    }

    fn index(&self, channel: &str) -> Result<usize, WireError> {
        let found = self.names.iter().position(|name| name == channel);
        found.ok_or_else(|| WireError::Protocol(format!("something about {channel}, which was not joined")))
    }
}

/// How an entry's count tells publishers apart.
pub(super) fn split(entry: Entry) -> (u64, u64) {
    (entry.n >> 32, entry.n & u64::from(u32::MAX))
}
