//! What one subscriber has got of one channel, and whether that is all of it: each message once, in order, each
//! naming the one before it as `prev`. It believes nothing that it has not been shown.

use std::collections::HashSet;

use serde::Serialize;

use crate::envelope::Position;

/// A message, as its publisher and its readers can agree on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// The publisher's count in this channel, from 1, without gaps.
    pub n: u64,
    /// Its place in the log.
    pub seq: u64,
}

/// One subscriber's record of one channel.
#[derive(Debug, Default)]
pub struct Ledger {
    joined: Option<Position>,
    last: u64,
    /// After a gap: the first that the server said it still holds.
    resumes_at: Option<u64>,
    received: Vec<Entry>,
    faults: Faults,
}

/// What was wrong with a delivery, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Faults {
    /// Messages that were acknowledged and never came.
    pub lost: u64,
    /// Messages that came again.
    pub twice: u64,
    /// Messages that came after a later one, or that nobody was told to have published.
    pub disordered: u64,
    /// Messages whose `prev` was not the one before.
    pub chain_broken: u64,
    /// `gap`s that the server told.
    pub gaps: u64,
}

impl Ledger {
    /// The first position it was joined at.
    pub fn joined_at(&self) -> Option<&Position> {
        self.joined.as_ref()
    }

    /// Where to go on.
    pub fn position(&self) -> Option<Position> {
        self.joined.as_ref().map(|at| Position { epoch: at.epoch.clone(), seq: self.last })
    }

    /// The last `seq` it has seen.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// How many messages it has seen.
    pub fn count(&self) -> usize {
        self.received.len()
    }

    /// Takes note of a join. Later ones must continue the first.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn join(&mut self, position: Position, recovered: bool) -> Result<(), String> {
        match self.position() {
            None => {
                self.last = position.seq;
                self.joined = Some(position);
                Ok(())
            }
            Some(own) if own != position => Err(format!("resumed at {own:?}, was joined at {position:?}")),
            Some(_) if !recovered => Err("resumed at its own position, but not recovered".to_owned()),
            Some(_) => Ok(()),
        }
    }

    /// Takes note of a message.
    ///
    /// # Errors
    /// What is wrong with it; it's counted all the same.
    pub fn message(&mut self, epoch: &str, prev: u64, entry: Entry) -> Result<(), String> {
        let Some(joined) = &self.joined else { return Err("a message before room_joined".to_owned()) };
        let (last, epoch_is) = (self.last, joined.epoch == epoch);
        self.received.push(entry);
        self.last = last.max(entry.seq);
        if !epoch_is {
            self.faults.disordered += 1;
            return Err(format!("epoch {epoch} instead of {}", joined.epoch));
        }
        if entry.seq <= last {
            let known = self.received[..self.received.len() - 1].iter().any(|old| old.seq == entry.seq);
            // At or before the join: it was not to be delivered at all, so it counts as twice.
            let twice = known || entry.seq <= joined.seq;
            *if twice { &mut self.faults.twice } else { &mut self.faults.disordered } += 1;
            return Err(format!("{entry:?} after seq {last}"));
        }
        let expected = match self.resumes_at.take() {
            // The first that is held itself, or, where nothing was held, the one behind it.
            Some(first) => entry.seq == first || prev == first,
            None => prev == last,
        };
        if !expected {
            self.faults.chain_broken += 1;
            return Err(format!("{entry:?} has prev {prev}, the one before it was {last}"));
        }
        Ok(())
    }

    /// Takes note of a gap: what follows it is in order again, what was before it is lost.
    pub fn gap(&mut self, first: u64) {
        self.faults.gaps += 1;
        self.resumes_at = Some(first);
    }

    /// Holds it against what was acknowledged to the publisher, in the order of the log.
    pub fn settle(&self, acknowledged: &[Entry]) -> Faults {
        let mut faults = self.against(acknowledged);
        // The log may be in order and still not in the order of its one publisher.
        faults.disordered += self.received.windows(2).filter(|pair| pair[1].n < pair[0].n).count() as u64;
        faults
    }

    /// Holds it against the log, whoever has published to it: all of it from where it was joined, and nothing else.
    pub fn against(&self, log: &[Entry]) -> Faults {
        let mut faults = self.faults;
        let begin = self.joined.as_ref().map_or(0, |at| at.seq);
        let expected = || log.iter().filter(|entry| entry.seq > begin);
        let received: HashSet<Entry> = self.received.iter().copied().collect();
        faults.lost += expected().filter(|entry| !received.contains(entry)).count() as u64;
        let expected: HashSet<Entry> = expected().copied().collect();
        let invented = |entry: &&Entry| entry.seq > begin && !expected.contains(entry);
        faults.disordered += received.iter().filter(invented).count() as u64;
        faults
    }
}

impl Faults {
    /// Whether there are none.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

impl std::ops::AddAssign for Faults {
    fn add_assign(&mut self, other: Self) {
        self.lost += other.lost;
        self.twice += other.twice;
        self.disordered += other.disordered;
        self.chain_broken += other.chain_broken;
        self.gaps += other.gaps;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: [Entry; 4] =
        [Entry { n: 1, seq: 2 }, Entry { n: 2, seq: 3 }, Entry { n: 3, seq: 7 }, Entry { n: 4, seq: 9 }];

    fn at(seq: u64) -> Position {
        Position { epoch: "e".to_owned(), seq }
    }

    /// A ledger joined at 2 that was shown these entries of the log, each with the `prev` the log gives it.
    fn shown(entries: &[usize]) -> Ledger {
        let mut ledger = Ledger::default();
        ledger.join(at(2), false).unwrap();
        for index in entries {
            let prev = index.checked_sub(1).map_or(0, |before| LOG[before].seq);
            let _ = ledger.message("e", prev, LOG[*index]);
        }
        ledger
    }

    #[test]
    fn all_once_in_order_is_no_fault() {
        assert_eq!(shown(&[1, 2, 3]).settle(&LOG), Faults::default());
        assert_eq!(shown(&[]).settle(&LOG[..1]), Faults::default());
    }

    #[test]
    fn every_fault_is_counted() {
        let none = Faults::default();
        assert_eq!(shown(&[1, 2]).settle(&LOG), Faults { lost: 1, ..none });
        assert_eq!(shown(&[1, 3]).settle(&LOG), Faults { lost: 1, chain_broken: 1, ..none });
        assert_eq!(shown(&[1, 2, 2, 3]).settle(&LOG), Faults { twice: 1, ..none });
        let swapped = shown(&[2, 1, 3]).settle(&LOG);
        assert!(swapped.disordered > 0 && swapped.chain_broken > 0 && swapped.lost == 0, "{swapped:?}");
        let mut invented = shown(&[1, 2, 3]);
        invented.message("e", 9, Entry { n: 5, seq: 10 }).unwrap();
        assert_eq!(invented.settle(&LOG).disordered, 1);
        assert!(shown(&[1]).message("f", 3, LOG[2]).is_err());
        // Delivered although it lay at the join already.
        assert_eq!(shown(&[0, 1, 2, 3]).settle(&LOG).twice, 1);
    }

    #[test]
    fn behind_a_gap_the_order_goes_on() {
        let mut ledger = shown(&[1]);
        ledger.gap(9);
        ledger.message("e", 7, LOG[3]).unwrap();
        assert_eq!(ledger.settle(&LOG), Faults { lost: 1, gaps: 1, ..Faults::default() });
        let mut ledger = shown(&[]);
        ledger.gap(7);
        assert!(ledger.message("e", 2, LOG[1]).is_err());
    }

    #[test]
    fn a_resumption_must_continue() {
        let mut ledger = shown(&[1]);
        assert!(ledger.join(at(3), true).is_ok());
        assert!(ledger.join(at(3), false).is_err());
        assert!(ledger.join(at(2), true).is_err());
        assert!(ledger.join(Position { epoch: "f".to_owned(), seq: 3 }, true).is_err());
    }
}
