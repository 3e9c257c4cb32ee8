//! UTF-8 checked while it arrives, still masked (RFC 6455 §8.1, RFC 3629 §4). The guard feeds it every
//! payload byte of text messages and close reasons once, in order, cut anywhere. It keeps three bytes of
//! state and never text: unmasking happens in a block on the stack.

/// Bytes looked at in one go. A multiple of the mask's four, so that every block starts with the same key
/// byte.
const BLOCK: usize = 512;

/// The highest bit of each byte: clear in all of them means ASCII.
const HIGH_BITS: u64 = 0x8080_8080_8080_8080;

/// How far the current character has come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Utf8 {
    /// Bytes the character still needs; 0 between characters.
    missing: u8,
    /// The next byte must lie in `low..=high`. Narrower than 80–BF only after E0, ED, F0 and F4, which is
    /// what keeps out overlong forms, surrogates and everything above U+10FFFF.
    low: u8,
    high: u8,
}

impl Utf8 {
    /// Between two characters.
    pub(super) const START: Self = Self { missing: 0, low: 0x80, high: 0xBF };

    /// Whether the text so far ends with a whole character.
    pub(super) fn is_whole(self) -> bool {
        self.missing == 0
    }

    /// Takes the next bytes, masked with `key` from its first byte on. False as soon as no continuation could
    /// make the text valid; the state is meaningless from then on.
    #[inline]
    pub(super) fn feed(&mut self, masked: &[u8], key: u32) -> bool {
        (self.is_whole() && is_ascii(masked, key)) || self.characters(masked, key)
    }

    /// What is not all ASCII. Apart, since its block on the stack would slow the short way down.
    #[inline(never)]
    fn characters(&mut self, masked: &[u8], key: u32) -> bool {
        masked.chunks(BLOCK).all(|block| (self.is_whole() && is_ascii(block, key)) || self.block(block, key))
    }

    fn block(&mut self, masked: &[u8], key: u32) -> bool {
        let mut buffer = [0; BLOCK];
        let text = &mut buffer[..masked.len()];
        unmask(masked, key, text);

        let mut text = &*text;
        while let (1.., [byte, rest @ ..]) = (self.missing, text) {
            if !self.push(*byte) {
                return false;
            }
            text = rest;
        }
        // simdutf8 does not say how a text is bad, so only what must be whole characters goes to it.
        let (whole, cut) = text.split_at(text.len() - cut_short(text));
        simdutf8::basic::from_utf8(whole).is_ok() && cut.iter().all(|byte| self.push(*byte))
    }

    /// The table of RFC 3629 §4, one byte at a time.
    fn push(&mut self, byte: u8) -> bool {
        if self.missing > 0 {
            let fits = (self.low..=self.high).contains(&byte);
            *self = Self { missing: self.missing - 1, ..Self::START };
            return fits;
        }
        let (missing, low, high) = match byte {
            0x00..=0x7F => (0, 0x80, 0xBF),
            0xC2..=0xDF => (1, 0x80, 0xBF),
            0xE0 => (2, 0xA0, 0xBF),
            0xED => (2, 0x80, 0x9F),
            0xE1..=0xEF => (2, 0x80, 0xBF),
            0xF0 => (3, 0x90, 0xBF),
            0xF1..=0xF3 => (3, 0x80, 0xBF),
            0xF4 => (3, 0x80, 0x8F),
            _ => return false,
        };
        *self = Self { missing, low, high };
        true
    }
}

/// Whether the unmasked bytes are ASCII, without unmasking them anywhere.
#[inline]
fn is_ascii(masked: &[u8], key: u32) -> bool {
    let (words, tail) = masked.as_chunks::<8>();
    let key_word = doubled(key);
    let mut bits = words.iter().fold(0, |bits, word| bits | (u64::from_le_bytes(*word) ^ key_word));
    if let Some(last) = masked.last_chunk::<8>() {
        // Overlaps the last whole word, which costs less than up to seven single bytes.
        bits |= u64::from_le_bytes(*last) ^ doubled(rotated(key, masked.len()));
    } else {
        for (byte, key) in tail.iter().zip(key_word.to_le_bytes()) {
            bits |= u64::from(byte ^ key);
        }
    }
    bits & HIGH_BITS == 0
}

/// How many bytes at the end of `text` begin a character that does not end in it.
fn cut_short(text: &[u8]) -> usize {
    let ending = text.iter().rev().take(3).zip(1..);
    for (byte, length) in ending {
        let needed = match byte {
            0x00..=0x7F => return 0,
            0x80..=0xBF => continue,
            0xC0..=0xDF => 2,
            0xE0..=0xEF => 3,
            0xF0..=0xFF => 4,
        };
        return if length < needed { length } else { 0 };
    }
    0
}

fn unmask(masked: &[u8], key: u32, text: &mut [u8]) {
    let (words, tail) = masked.as_chunks::<8>();
    let (text_words, text_tail) = text.as_chunks_mut::<8>();
    let key_word = doubled(key);
    for (text, word) in text_words.iter_mut().zip(words) {
        *text = (u64::from_le_bytes(*word) ^ key_word).to_le_bytes();
    }
    for ((text, byte), key) in text_tail.iter_mut().zip(tail).zip(key_word.to_le_bytes()) {
        *text = byte ^ key;
    }
}

/// The key as it goes on after `bytes` bytes.
#[inline]
pub(super) fn rotated(key: u32, bytes: usize) -> u32 {
    key.rotate_right([0, 8, 16, 24][bytes % 4])
}

fn doubled(key: u32) -> u64 {
    u64::from(key) << 32 | u64::from(key)
}

#[cfg(test)]
mod tests {
    use super::{BLOCK, Utf8, is_ascii, rotated};

    const KEY: u32 = 0x3D21_FA37;

    fn masked(text: &[u8], from: usize) -> Vec<u8> {
        (from..).zip(text).map(|(at, byte)| byte ^ KEY.to_le_bytes()[at % 4]).collect()
    }

    /// Feeds the text cut into pieces of `size`; how many bytes were fed when it failed, if it did, and
    /// whether it was whole at its end.
    fn fed(text: &[u8], size: usize) -> (Option<usize>, bool) {
        let mut state = Utf8::START;
        let mut at = 0;
        for piece in text.chunks(size) {
            let fits = state.feed(&masked(piece, at), rotated(KEY, at));
            at += piece.len();
            if !fits {
                return (Some(at), false);
            }
        }
        (None, state.is_whole())
    }

    /// How many bytes the standard library needs to know that the text is bad, and whether all of it is good.
    fn expected(text: &[u8]) -> (Option<usize>, bool) {
        let hopeless =
            |end: &usize| std::str::from_utf8(&text[..*end]).is_err_and(|error| error.error_len().is_some());
        ((1..=text.len()).find(hopeless), std::str::from_utf8(text).is_ok())
    }

    fn assert_as_expected(text: &[u8]) {
        let expected = expected(text);
        assert_eq!(fed(text, 1), expected, "{text:02X?}");
        let whole = (expected.0.map(|_| text.len()), expected.1);
        assert_eq!(fed(text, text.len().max(1)), whole, "{text:02X?} in one piece");
    }

    #[test]
    fn every_edge_of_the_table_is_where_the_standard_library_has_it() {
        let edges = [
            0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1, 0xEC, 0xED,
            0xEE, 0xEF, 0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xFF,
        ];
        for first in 0..=255 {
            for second in 0..=255 {
                assert_as_expected(&[first, second]);
            }
        }
        for first in edges {
            for second in edges {
                for third in edges {
                    assert_as_expected(&[first, second, third]);
                    for fourth in [0x41, 0x80, 0xBF, 0xC2, 0xF0] {
                        assert_as_expected(&[first, second, third, fourth]);
                    }
                }
            }
        }
    }

    #[test]
    fn characters_may_be_cut_by_blocks_and_pieces() {
        let text = "aé日🦀".repeat(BLOCK / 4);
        for shift in 0..8 {
            let text = &text.as_bytes()[10 * shift..];
            for lead in 0..8 {
                let text = [&b"abcdefgh"[..lead], text].concat();
                for size in [1, 2, 3, 5, 7, 64, 255, BLOCK - 1, BLOCK, BLOCK + 1, text.len()] {
                    assert_eq!(fed(&text, size), (None, true), "{lead} {shift} {size}");
                    let cut = &text[..text.len() - 1];
                    assert_eq!(fed(cut, size), (None, false), "{lead} {shift} {size}");
                }
            }
        }
    }

    #[test]
    fn one_bad_byte_is_found_wherever_it_is() {
        for length in [1, 7, 8, 9, 15, 16, 31, 33, 64, 65, BLOCK, BLOCK + 3, 2 * BLOCK + 9] {
            let good = vec![b'x'; length];
            assert!(is_ascii(&masked(&good, 0), KEY), "{length} bytes take the short way");
            assert_eq!(fed(&good, length), (None, true));
            for bad in 0..length {
                let mut text = good.clone();
                text[bad] = 0xFF;
                assert_eq!(fed(&text, length), (Some(length), false), "byte {bad} of {length}");
                let end = (bad / 5 + 1) * 5;
                assert_eq!(fed(&text, 5).0, Some(end.min(length)), "byte {bad} of {length}, by fives");
            }
        }
    }

    /// What the Autobahn suite sends in its cases 6.2 to 6.23, after the UTF-8 decoder stress test of Markus
    /// Kuhn.
    #[test]
    fn autobahn_chapter_6_valid() {
        let greek = b"\xCE\xBA\xE1\xBD\xB9\xCF\x83\xCE\xBC\xCE\xB5";
        let prefixes: Vec<&[u8]> = (1..=greek.len()).map(|end| &greek[..end]).collect();
        assert!(prefixes.iter().all(|text| fed(text, 1) == (None, [2, 5, 7, 9, 11].contains(&text.len()))));

        let good: &[&[u8]] = &[
            b"hello$world",
            b"hello\xC2\xA2world",
            b"hello\xE2\x82\xACworld",
            b"hello\xF0\xA4\xAD\xA2world",
            b"\x00",
            b"\xC2\x80",
            b"\xE0\xA0\x80",
            b"\xF0\x90\x80\x80",
            b"\x7F",
            b"\xDF\xBF",
            b"\xEF\xBF\xBF",
            b"\xF4\x8F\xBF\xBF",
            b"\xED\x9F\xBF",
            b"\xEE\x80\x80",
            b"\xEF\xBF\xBD",
            b"\xEF\xBF\xBE",
            b"\xF0\x9F\xBF\xBE",
            b"\xF1\x8F\xBF\xBF",
            b"\xF3\xBF\xBF\xBE",
            b"\xEF\xBF\xB9",
            b"\xEF\xBF\xBA",
            b"\xEF\xBF\xBB",
            b"\xEF\xBF\xBC",
        ];
        for text in good {
            assert_eq!(fed(text, 1), (None, true), "{text:02X?}");
            assert_as_expected(text);
        }
    }

    /// Its other cases, each with the byte it must fail at.
    #[test]
    fn autobahn_chapter_6_invalid() {
        let bad: &[(usize, &[u8])] = &[
            (1, b"\xF8\x88\x80\x80\x80"),
            (1, b"\xFC\x84\x80\x80\x80\x80"),
            (1, b"\xF7\xBF\xBF\xBF"),
            (1, b"\xFB\xBF\xBF\xBF\xBF"),
            (1, b"\xFD\xBF\xBF\xBF\xBF\xBF"),
            (2, b"\xF4\x90\x80\x80"),
            (1, b"\x80"),
            (1, b"\xBF"),
            (1, b"\x80\xBF\x80"),
            (1, b"\xC0 \xC1 "),
            (2, b"\xC2 \xC3 "),
            (2, b"\xE0 \xE1 "),
            (2, b"\xF0 \xF1 "),
            (1, b"\xF8 \xF9 "),
            (1, b"\xC0\xE0\x80\xF0\x80\x80"),
            (2, b"\xDF\xEF\xBF"),
            (2, b"\xE0\x80"),
            (2, b"\xF0\x80\x80"),
            (1, b"\xFE"),
            (1, b"\xFF"),
            (1, b"\xFE\xFE\xFF\xFF"),
            (1, b"\xC0\xAF"),
            (2, b"\xE0\x80\xAF"),
            (2, b"\xF0\x80\x80\xAF"),
            (1, b"\xC1\xBF"),
            (2, b"\xE0\x9F\xBF"),
            (2, b"\xF0\x8F\xBF\xBF"),
            (1, b"\xC0\x80"),
            (2, b"\xE0\x80\x80"),
            (2, b"\xF0\x80\x80\x80"),
            (2, b"\xED\xA0\x80"),
            (2, b"\xED\xAD\xBF"),
            (2, b"\xED\xBE\x80"),
            (2, b"\xED\xBF\xBF"),
            (2, b"\xED\xA0\x80\xED\xB0\x80"),
            (2, b"\xED\xAF\xBF\xED\xBF\xBF"),
            (13, b"\xCE\xBA\xE1\xBD\xB9\xCF\x83\xCE\xBC\xCE\xB5\xED\xA0\x80edited"),
            (13, b"\xCE\xBA\xE1\xBD\xB9\xCF\x83\xCE\xBC\xCE\xB5\xF4\x90\x80\x80edited"),
        ];
        for (at, text) in bad {
            assert_eq!(fed(text, 1), (Some(*at), false), "{text:02X?}");
            assert_as_expected(text);
        }
    }
}
