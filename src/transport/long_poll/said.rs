//! What a poll is answered: the envelopes as they are read, then the cursor behind them, in one buffer that has room for
//! the head before it. Nothing is allocated until there is something to say.

use bytes::Bytes;

use crate::transport::http::late;

const BEGIN: &[u8] = b"{\"messages\":[";
const BETWEEN: &[u8] = b"],\"cursor\":\"";
const END: &[u8] = b"\"}";
/// A cursor of one channel, and what stands around it.
const CURSOR_BYTES: usize = 64;

/// The body of an answer, so far.
#[derive(Debug, Default)]
pub struct Said {
    /// Empty, or room for a head and what was said.
    bytes: Vec<u8>,
    envelopes: u64,
}

impl Said {
    /// Says one envelope more.
    pub fn push(&mut self, envelope: &[u8]) {
        if self.envelopes == 0 {
            self.begin(envelope.len());
        } else {
            self.bytes.push(b',');
        }
        self.bytes.extend_from_slice(envelope);
        self.envelopes += 1;
    }

    /// Whether nothing is said yet.
    pub fn is_empty(&self) -> bool {
        self.envelopes == 0
    }

    /// How many envelopes.
    pub fn envelopes(&self) -> u64 {
        self.envelopes
    }

    /// The whole body, behind [`late::ROOM_BYTES`]; `write_cursor` puts the cursor at its end.
    pub fn finish(mut self, write_cursor: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        if self.bytes.is_empty() {
            self.begin(0);
        }
        self.bytes.extend_from_slice(BETWEEN);
        // A cursor is base64url: nothing in it needs escaping.
        write_cursor(&mut self.bytes);
        self.bytes.extend_from_slice(END);
        self.bytes
    }

    /// The same without the room.
    pub fn into_body(self, write_cursor: impl FnOnce(&mut Vec<u8>)) -> Bytes {
        Bytes::from(self.finish(write_cursor)).slice(late::ROOM_BYTES..)
    }

    fn begin(&mut self, expected_bytes: usize) {
        let around = BEGIN.len() + BETWEEN.len() + CURSOR_BYTES + END.len();
        self.bytes.reserve_exact(late::ROOM_BYTES + around + expected_bytes);
        self.bytes.resize(late::ROOM_BYTES, 0);
        self.bytes.extend_from_slice(BEGIN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_json_of_what_was_said() {
        for (envelopes, expected) in [
            (&[][..], r#"{"messages":[],"cursor":"c"}"#),
            (&["{}"], r#"{"messages":[{}],"cursor":"c"}"#),
            (&["1", "22", "3"], r#"{"messages":[1,22,3],"cursor":"c"}"#),
        ] {
            let mut said = Said::default();
            for envelope in envelopes {
                said.push(envelope.as_bytes());
            }
            assert_eq!(said.is_empty(), envelopes.is_empty());
            assert_eq!(said.envelopes(), envelopes.len() as u64);
            assert_eq!(said.into_body(|body| body.push(b'c')), expected);
        }
    }
}
