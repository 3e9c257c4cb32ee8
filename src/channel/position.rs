//! Where a message stands: which log, and how far into it.

use std::fmt;
use std::str::FromStr;

/// Largest `seq`: what a JavaScript number holds exactly (2^53 − 1).
pub const MAX_SEQ: u64 = (1 << 53) - 1;

/// Names one life of a log; another epoch means that the log was lost and begun again. Opaque to clients.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch(u64);

/// A place in a channel's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Which life of the log.
    pub epoch: Epoch,
    /// Of the message at this place; strictly rising in a channel, with gaps. 0: before the first.
    pub seq: u64,
}

/// The string is no epoch that this program could have made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an epoch")]
pub struct EpochError;

const BITS: u64 = (1 << 48) - 1;

impl Epoch {
    /// The epoch with that number, of which the low 48 bits count.
    pub const fn new(number: u64) -> Self {
        Self(number & BITS)
    }

    /// An epoch that no log had before.
    pub fn random() -> Self {
        Self::new(rand::random())
    }

    /// Its number, below 2^48.
    pub const fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:012x}", self.0)
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Epoch {
    type Err = EpochError;

    fn from_str(text: &str) -> Result<Self, EpochError> {
        let canonical =
            text.len() == 12 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if !canonical {
            return Err(EpochError);
        }
        u64::from_str_radix(text, 16).map(Self).map_err(|_| EpochError)
    }
}

impl serde::Serialize for Epoch {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_survive_the_wire() {
        for epoch in [Epoch::new(0), Epoch::new(u64::MAX), Epoch::random()] {
            assert_eq!(epoch.to_string().parse(), Ok(epoch));
        }
        for bad in ["", "0", "00000000000A", "0000000000000", "+00000000000"] {
            assert_eq!(bad.parse::<Epoch>(), Err(EpochError), "{bad:?}");
        }
    }
}
