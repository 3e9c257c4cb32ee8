//! One message's bytes, compressed as permessage-deflate wants them (RFC 7692 §7.2) and back. Channels compress a
//! message once for all its subscribers, a WebSocket inflates what its client sends. No message knows of another: each
//! thread has one compressor and one inflater, and nothing is kept per connection.

use std::cell::RefCell;

use bytes::Bytes;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use thiserror::Error;

/// The end of a sync flush, which does not go over the wire (RFC 7692 §7.2.1).
const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];
/// A final, empty, stored block: where it is read as that, every block before it was whole.
const FINAL_BLOCK: [u8; 5] = [0x01, 0x00, 0x00, 0xff, 0xff];
/// What an empty message is compressed to (RFC 7692 §7.2.3.6).
const EMPTY: &[u8] = &[0x00];

thread_local! {
    /// Some 270 KB each, made when the first message needs it.
    static COMPRESSOR: RefCell<Compress> = RefCell::new(Compress::new(Compression::new(LEVEL), false));
    /// Some 50 KB each.
    static INFLATER: RefCell<Decompress> = RefCell::new(Decompress::new(false));
}

/// Messages of a few KB become no shorter with 6, zlib's own choice; a page of history a tenth, in twice the time.
const LEVEL: u32 = 3;

/// Why bytes could not be inflated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum InflateError {
    /// They are not whole DEFLATE blocks (RFC 1951).
    #[error("compressed data is invalid")]
    Invalid,
    /// There is more in them than is allowed.
    #[error("compressed message too large")]
    TooLarge,
}

/// A message as the payload of a compressed one: raw DEFLATE that refers to nothing before it. `None` if that is no
/// shorter. References reach back as far as the message is long, 32 KB at most.
pub fn deflate(message: &[u8]) -> Option<Bytes> {
    if message.is_empty() {
        return Some(Bytes::from_static(EMPTY));
    }
    let mut deflated = Vec::with_capacity(message.len() + TAIL.len());
    let done = COMPRESSOR.with_borrow_mut(|compressor| {
        compressor.reset();
        compressor.compress_vec(message, &mut deflated, FlushCompress::Sync).is_ok()
            && compressor.total_in() == message.len() as u64
    });
    // A flush that filled its room may have had more to say.
    if !done || deflated.len() == deflated.capacity() || !deflated.ends_with(&TAIL) {
        return None;
    }
    deflated.truncate(deflated.len() - TAIL.len());
    deflated.shrink_to_fit();
    (deflated.len() < message.len()).then(|| deflated.into())
}

/// The message in such a payload. Never holds more than the limit and one byte.
///
/// # Errors
/// [`InflateError::TooLarge`] when the message has more than `limit` bytes, found before they are there;
/// [`InflateError::Invalid`] when it has no end, or can't be read.
pub fn inflate(deflated: &[u8], limit: usize) -> Result<Bytes, InflateError> {
    INFLATER.with_borrow_mut(|inflater| {
        inflater.reset(false);
        // Text shrinks to a third or a quarter.
        let mut message = Vec::with_capacity(deflated.len().saturating_mul(4).min(limit) + 1);
        let ended = read(inflater, deflated, limit, &mut message)?;
        // A sender may end its last block as final (RFC 7692 §7.2.3.4).
        if !ended {
            let ended_early = read(inflater, &TAIL, limit, &mut message)?;
            let had = message.len();
            // Where the data is cut off, this block is taken for a part of it: it ends nothing, or it becomes bytes that
            // nobody has sent, which may even be too many.
            let is_whole =
                read(inflater, &FINAL_BLOCK, limit, &mut message) == Ok(true) && message.len() == had;
            if ended_early || !is_whole {
                return Err(InflateError::Invalid);
            }
        }
        message.shrink_to_fit();
        Ok(message.into())
    })
}

/// Inflates one part of the input; whether a final block ends with it.
fn read(
    inflater: &mut Decompress,
    mut input: &[u8],
    limit: usize,
    message: &mut Vec<u8>,
) -> Result<bool, InflateError> {
    loop {
        if message.len() > limit {
            return Err(InflateError::TooLarge);
        }
        if message.len() == message.capacity() {
            message.reserve_exact(message.len().max(64).min(limit + 1 - message.len()));
        }
        let (before, had) = (inflater.total_in(), message.len());
        let status = inflater
            .decompress_vec(input, message, FlushDecompress::Sync)
            .map_err(|_| InflateError::Invalid)?;
        let taken = usize::try_from(inflater.total_in() - before).map_err(|_| InflateError::Invalid)?;
        input = &input[taken..];
        if message.len() > limit {
            return Err(InflateError::TooLarge);
        }
        if status == Status::StreamEnd {
            inflater.reset(false);
            if input.is_empty() {
                return Ok(true);
            }
        } else if message.len() < message.capacity() {
            // There was room: it has taken and given all that it could.
            return if input.is_empty() { Ok(false) } else { Err(InflateError::Invalid) };
        } else if taken == 0 && message.len() == had {
            return Err(InflateError::Invalid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(message: &[u8]) {
        let deflated = deflate(message).expect("it shrinks");
        assert_eq!(inflate(&deflated, message.len()).as_deref(), Ok(message));
        let less = inflate(&deflated, message.len() - 1);
        assert_eq!(less, Err(InflateError::TooLarge));
    }

    #[test]
    fn comes_back_as_it_was() {
        round(&b"tide ".repeat(100));
        round(&vec![b'x'; 1_000_000]);
        let json: Vec<_> = (0..500).map(|n| format!(r#"{{"seq":{n},"data":"{}"}}"#, n * 7919)).collect();
        round(json.concat().as_bytes());
    }

    #[test]
    fn what_does_not_shrink_stays_as_it_is() {
        assert_eq!(deflate(b"x"), None);
        let mut state = 1u32;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        })
        .take(70_000)
        .collect();
        assert_eq!(deflate(&noise), None);
    }

    #[test]
    fn the_examples_of_the_rfc_are_read() {
        // RFC 7692 §7.2.3.1 to §7.2.3.6: one block, two blocks, no compression, a final block, nothing.
        for (deflated, message) in [
            (&[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00][..], "Hello"),
            (&[0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00], "Hello"),
            (&[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00], "Hello"),
            (&[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00], "Hello"),
            (&[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00], "Hello"),
            (&[0x00], ""),
            (&[0x02, 0x00], ""),
        ] {
            assert_eq!(inflate(deflated, 100).as_deref(), Ok(message.as_bytes()), "{deflated:02x?}");
        }
        assert_eq!(deflate(b"").as_deref(), Some(EMPTY));
    }

    #[test]
    fn a_bomb_ends_at_the_limit() {
        let bomb = deflate(&vec![0; 16 << 20]).unwrap();
        assert!(bomb.len() < 20_000);
        assert_eq!(inflate(&bomb, 65_536), Err(InflateError::TooLarge));
    }

    #[test]
    fn what_is_cut_or_broken_is_told() {
        let deflated = deflate(&b"a message that is cut off somewhere ".repeat(5)).unwrap();
        for end in 0..deflated.len() {
            assert_eq!(inflate(&deflated[..end], 1000), Err(InflateError::Invalid), "cut at {end}");
        }
        // Whole codes of 11 bytes, and the beginning of one more: it is not too large for what nobody has sent.
        let cut = [12, 193, 1, 1, 0, 48, 8, 2, 176, 42, 84, 67, 64, 233, 159, 224, 223];
        assert_eq!(inflate(&cut, 11), Err(InflateError::Invalid));
        // A final block without its end: what tells it from a whole one must not become a part of it.
        assert_eq!(inflate(&[59, 48, 117], 1000), Err(InflateError::Invalid));
        assert_eq!(inflate(&[0xff; 10], 1000), Err(InflateError::Invalid));
        // After an error the next one is read as ever.
        assert!(inflate(&deflated, 1000).is_ok());
    }
}
