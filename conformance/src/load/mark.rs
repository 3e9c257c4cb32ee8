//! The mark that each message of a load carries: which one it is, and when it was due. It is found in whatever a
//! server wraps around it, so that one reader does for all of them, and costs little: the reader shares the machine.

use std::time::Instant;

use memchr::memmem::Finder;

/// Which message, and when it had to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Its number in its channel, from 1.
    pub number: u32,
    /// When it was due, in microseconds of the run's clock.
    pub due: u64,
}

/// Microseconds since the run began; publisher and subscribers are one process and share it.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

/// Finds marks in bytes.
pub struct Marks(Finder<'static>);

const KEY: &str = "\"load\":\"";
/// Eight hexadecimal digits of the number, sixteen of the time.
const DIGITS: usize = 24;

impl Clock {
    /// Begins now.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Microseconds since it began.
    pub fn now(&self) -> u64 {
        self.of(Instant::now())
    }

    /// The same of another moment.
    pub fn of(&self, moment: Instant) -> u64 {
        u64::try_from(moment.duration_since(self.0).as_micros()).unwrap_or(u64::MAX)
    }
}

impl Mark {
    /// A JSON object that carries the mark, padded to that size (at least 45 bytes).
    pub fn data(self, bytes: usize) -> String {
        let mut data = format!("{{{KEY}{:08x}{:016x}\",\"pad\":\"", self.number, self.due);
        let pad = bytes.saturating_sub(data.len() + 2);
        data.extend(std::iter::repeat_n('x', pad));
        data.push_str("\"}");
        data
    }
}

impl Default for Marks {
    fn default() -> Self {
        Self(Finder::new(KEY))
    }
}

impl Marks {
    /// Calls `with` for each whole mark, in order; returns how many there were.
    pub fn each(&self, bytes: &[u8], mut with: impl FnMut(Mark)) -> usize {
        let (mut found, mut rest) = (0, bytes);
        while let Some(at) = self.0.find(rest) {
            rest = &rest[at + KEY.len()..];
            let Some(digits) = rest.get(..DIGITS) else { break };
            if let (Some(number), Some(due)) = (hex(&digits[..8]), hex(&digits[8..])) {
                with(Mark { number: u32::try_from(number).unwrap_or(u32::MAX), due });
                found += 1;
            }
        }
        found
    }
}

fn hex(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |number, digit| Some(number << 4 | u64::from(char::from(*digit).to_digit(16)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_found_whatever_is_around_it() {
        let (first, second) = (Mark { number: 1, due: 0 }, Mark { number: u32::MAX, due: 1 << 50 });
        let text = format!("MSG a 1 128\r\n{}\r\n[\"m\",{}]", first.data(128), second.data(0));
        let mut found = Vec::new();
        assert_eq!(Marks::default().each(text.as_bytes(), |mark| found.push(mark)), 2);
        assert_eq!(found, [first, second]);
        // Half a mark is none, and neither is one that was cut in its digits.
        assert_eq!(Marks::default().each(&text.as_bytes()[..30], |_| ()), 0);
        assert_eq!(Marks::default().each(b"\"load\":\"0000000g0000000000000000\"", |_| ()), 0);
    }

    #[test]
    fn data_is_json_of_the_size_that_was_asked_for() {
        for bytes in [45, 128, 4096] {
            let data = Mark { number: 7, due: 8 }.data(bytes);
            assert_eq!(data.len(), bytes);
            assert!(serde_json::from_str::<serde_json::Value>(&data).is_ok());
        }
    }
}
