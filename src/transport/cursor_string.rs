//! The cursor as clients carry it: an opaque, URL-safe string that names a position in each of a set of channels. It
//! is plain data, not a secret: whoever makes one up only chooses where to begin, never what to see. Channels are in it
//! by a hash of their names, so that the cursor of 128 channels still fits a header.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::channel::{ChannelName, Epoch, MAX_SEQ, Position};

/// A parsed cursor string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CursorString {
    /// The node whose passing envelopes the places count, if any.
    pub node: Option<u32>,
    /// One per channel.
    pub places: Vec<Place>,
}

/// A position in one channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which channel: [`mark`] of its name.
    mark: u64,
    /// The last message that was read there.
    pub position: Position,
    /// On the node that made the cursor: the next passing envelope.
    pub passing: u64,
}

/// The string is no cursor that an edge made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor of this edge")]
pub struct CursorError;

/// Positions only.
const PLAIN: u8 = 1;
/// Positions, and where a poll left off among one node's passing envelopes.
const WITH_PASSING: u8 = 2;
/// Channels in one cursor: above any sane `limits.channels_per_connection`, below any header limit.
const PLACES_MAX: usize = 1024;
/// Places up to which each is compared with those before it.
const FEW: usize = 16;

impl CursorString {
    /// The place in that channel, if the cursor names one.
    pub fn place(&self, channel: &ChannelName) -> Option<&Place> {
        let mark = mark(channel);
        self.places.iter().find(|place| place.mark == mark)
    }

    /// As clients carry it.
    pub fn encode<'a>(
        node: Option<u32>,
        places: impl Iterator<Item = (&'a ChannelName, Position, u64)>,
    ) -> String {
        let mut bytes = Vec::with_capacity(48);
        write(&mut bytes, node, places.map(Place::of));
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The same, shown to `take`, which must ask for no other: it is where each thread has its last one, which is often the
    /// next one's as well.
    pub(super) fn with<'a, T>(
        node: Option<u32>,
        places: impl Iterator<Item = (&'a ChannelName, Position, u64)>,
        take: impl FnOnce(&[u8]) -> T,
    ) -> T {
        thread_local! {
            static LAST: RefCell<[Vec<u8>; 3]> = const { RefCell::new([const { Vec::new() }; 3]) };
        }
        LAST.with_borrow_mut(|[bytes, last, text]| {
            bytes.clear();
            write(bytes, node, places.map(Place::of));
            if bytes != last {
                text.clear();
                push_base64url(text, bytes);
                std::mem::swap(bytes, last);
            }
            take(text)
        })
    }

    /// Reads one.
    ///
    /// # Errors
    /// [`CursorError`] for anything that [`CursorString::encode`] would not have written.
    pub fn parse(text: &str) -> Result<Self, CursorError> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| CursorError)?;
        let mut input = bytes.as_slice();
        let node = match take(&mut input, 1)? {
            [PLAIN] => None,
            [WITH_PASSING] => {
                Some(u32::from_be_bytes(take(&mut input, 4)?.try_into().map_err(|_| CursorError)?))
            }
            _ => return Err(CursorError),
        };
        let mut places: Vec<Place> = Vec::with_capacity(1);
        // Of a few it is found out faster one by one.
        let mut seen = HashSet::new();
        while !input.is_empty() {
            let mark = u64::from_be_bytes(take(&mut input, 8)?.try_into().map_err(|_| CursorError)?);
            let mut epoch = [0; 8];
            epoch[2..].copy_from_slice(take(&mut input, 6)?);
            let seq = take_varint(&mut input)?;
            let passing = if node.is_some() { take_varint(&mut input)? } else { 0 };
            if seq > MAX_SEQ || places.len() == PLACES_MAX || is_there(&places, &mut seen, mark) {
                return Err(CursorError);
            }
            let position = Position { epoch: Epoch::new(u64::from_be_bytes(epoch)), seq };
            places.push(Place { mark, position, passing });
        }
        Ok(Self { node, places })
    }
}

impl Place {
    fn of((channel, position, passing): (&ChannelName, Position, u64)) -> Self {
        Self { mark: mark(channel), position, passing }
    }
}

/// Whether that channel has a place already; `seen` are the marks of all of them, if they are many.
fn is_there(places: &[Place], seen: &mut HashSet<u64>, mark: u64) -> bool {
    if places.len() < FEW {
        return places.iter().any(|place| place.mark == mark);
    }
    if seen.is_empty() {
        seen.extend(places.iter().map(|place| place.mark));
    }
    !seen.insert(mark)
}

/// As clients carry it: what was parsed, to the letter.
impl fmt::Display for CursorString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = Vec::with_capacity(48);
        write(&mut bytes, self.node, self.places.iter().cloned());
        f.write_str(&URL_SAFE_NO_PAD.encode(bytes))
    }
}

fn write(bytes: &mut Vec<u8>, node: Option<u32>, places: impl Iterator<Item = Place>) {
    match node {
        None => bytes.push(PLAIN),
        Some(node) => {
            bytes.push(WITH_PASSING);
            bytes.extend_from_slice(&node.to_be_bytes());
        }
    }
    for place in places {
        bytes.extend_from_slice(&place.mark.to_be_bytes());
        bytes.extend_from_slice(&place.position.epoch.number().to_be_bytes()[2..]);
        push_varint(bytes, place.position.seq);
        if node.is_some() {
            push_varint(bytes, place.passing);
        }
    }
}

/// RFC 4648 §5, without padding. The engine is made for more than a cursor's 30 bytes, of which it needs three times as
/// long.
fn push_base64url(text: &mut Vec<u8>, bytes: &[u8]) {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let letter = |bits: u32, index: u32| LETTERS[(bits >> (18 - 6 * index)) as usize & 63];
    let (groups, rest) = bytes.as_chunks::<3>();
    text.reserve(4 * groups.len() + 4);
    for [a, b, c] in groups {
        let bits = u32::from_be_bytes([0, *a, *b, *c]);
        text.extend_from_slice(&[0, 1, 2, 3].map(|index| letter(bits, index)));
    }
    match *rest {
        [a] => text.extend_from_slice(&[0, 1].map(|index| letter(u32::from(a) << 16, index))),
        [a, b] => {
            let bits = u32::from_be_bytes([0, a, b, 0]);
            text.extend_from_slice(&[0, 1, 2].map(|index| letter(bits, index)));
        }
        _ => {}
    }
}

/// FNV-1a in 64 bits: the same on every node and in every version. Two of a client's channels would meet once in 10^17.
fn mark(channel: &ChannelName) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    channel.as_str().as_bytes().iter().fold(0xcbf2_9ce4_8422_2325, step)
}

fn take<'a>(input: &mut &'a [u8], length: usize) -> Result<&'a [u8], CursorError> {
    let (taken, rest) = input.split_at_checked(length).ok_or(CursorError)?;
    *input = rest;
    Ok(taken)
}

/// Seven bits a byte, low ones first.
fn push_varint(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push((number & 0x7f) as u8);
}

fn take_varint(input: &mut &[u8]) -> Result<u64, CursorError> {
    let mut number = 0;
    for shift in (0..63).step_by(7) {
        let byte = take(input, 1)?[0];
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            // One way to write each number: no trailing zero byte.
            return if byte == 0 && shift > 0 { Err(CursorError) } else { Ok(number) };
        }
    }
    Err(CursorError)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> ChannelName {
        name.parse().unwrap()
    }

    fn position(seq: u64) -> Position {
        Position { epoch: Epoch::new(0x1234_5678_9abc), seq }
    }

    fn encode(node: Option<u32>, places: &[(&str, u64, u64)]) -> String {
        let names: Vec<_> = places.iter().map(|(text, ..)| name(text)).collect();
        let places =
            names.iter().zip(places).map(|(name, (_, seq, passing))| (name, position(*seq), *passing));
        CursorString::encode(node, places)
    }

    #[test]
    fn cursors_survive_the_wire() {
        let long = "b".repeat(200);
        let places = [("a", 0, 0), (&long as &str, MAX_SEQ, 300), ("c:d", 127, 1)];
        for node in [None, Some(7)] {
            let text = encode(node, &places);
            assert!(
                text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'),
                "{text}"
            );
            let cursor = CursorString::parse(&text).unwrap();
            assert_eq!((cursor.node, cursor.places.len()), (node, 3));
            for (channel, seq, passing) in places {
                let place = cursor.place(&name(channel)).unwrap();
                assert_eq!(place.position, position(seq));
                assert_eq!(place.passing, if node.is_some() { passing } else { 0 });
            }
            assert_eq!(cursor.place(&name("e")), None);
            assert_eq!(cursor.to_string(), text);
        }
    }

    #[test]
    fn letters_are_those_of_the_engine() {
        let bytes: Vec<u8> = (0..=255_u8).map(|byte| byte.wrapping_mul(167)).collect();
        for end in 0..bytes.len() {
            let mut text = b"before".to_vec();
            push_base64url(&mut text, &bytes[..end]);
            let engine = URL_SAFE_NO_PAD.encode(&bytes[..end]);
            assert_eq!(text.strip_prefix(b"before").unwrap(), engine.as_bytes());
        }
    }

    #[test]
    fn who_is_shown_a_cursor_sees_what_is_encoded() {
        let name = name("a");
        let places = || [(&name, position(300), 7)].into_iter();
        for node in [None, Some(7)] {
            let encoded = CursorString::encode(node, places());
            assert!(CursorString::with(node, places(), |text| text == encoded.as_bytes()), "{encoded}");
        }
    }

    #[test]
    fn a_cursor_means_the_same_in_every_version() {
        assert_eq!(encode(None, &[("chat:lobby", 300, 0)]), "AbgtnZBilfSZEjRWeJq8rAI");
    }

    #[test]
    fn a_cursor_of_many_channels_fits_a_header() {
        let names: Vec<_> = (0..128).map(|n| format!("{n}{}", "x".repeat(190))).collect();
        let places: Vec<_> = names.iter().map(|name| (name.as_str(), MAX_SEQ, 0)).collect();
        assert!(encode(None, &places).len() < 4096);
    }

    #[test]
    fn what_no_edge_wrote_is_refused() {
        let good = URL_SAFE_NO_PAD.decode(encode(None, &[("a", 300, 0)])).unwrap();
        for end in 0..good.len() {
            // The empty set is a cursor, too; every other prefix is none.
            let cut = URL_SAFE_NO_PAD.encode(&good[..end]);
            assert_eq!(CursorString::parse(&cut).is_ok(), end == 1, "{cut}");
        }
        let twice = encode(None, &[("a", 1, 0), ("a", 2, 0)]);
        for bad in [&twice as &str, "!!", "AQ==", "Aw", "AQFh", "AQEgAAAAAAAAAA"] {
            assert_eq!(CursorString::parse(bad), Err(CursorError), "{bad}");
        }
    }
}
