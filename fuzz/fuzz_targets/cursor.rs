//! Cursor strings: what was written is read back, what was read is written again to the letter, and nobody is held up
//! by a long one. The input is taken twice, as a string that a client sends and as positions that an edge writes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::channel::{ChannelName, Epoch, MAX_SEQ, Position};
use tidegate::transport::CursorString;

/// A number that the wire has no room for is counted by nobody: passing envelopes stay below 2^63.
const MOST_PASSING: u64 = u64::MAX >> 1;

fuzz_target!(|input: &[u8]| {
    if let Ok(text) = std::str::from_utf8(input) {
        of_a_client(text);
    }
    of_an_edge(input);
});

fn of_a_client(text: &str) {
    let Ok(cursor) = CursorString::parse(text) else { return };
    assert_eq!(cursor.to_string(), text, "one way to write it");
    // 15 bytes is the least that a place takes, in 20 characters.
    assert!(cursor.places.len() <= 1024 && cursor.places.len() * 20 <= text.len());
    for place in &cursor.places {
        assert!(place.position.seq <= MAX_SEQ && place.position.epoch.number() < 1 << 48);
        assert!(cursor.node.is_some() || place.passing == 0);
    }
}

fn of_an_edge(input: &[u8]) {
    let [flags, rest @ ..] = input else { return };
    let node = (flags & 1 != 0).then(|| u32::from(*flags) << 24 | 7);
    let places: Vec<_> = rest.as_chunks::<23>().0.iter().take(1024).enumerate().map(place).collect();
    let text = CursorString::encode(
        node,
        places.iter().map(|(name, position, passing)| (name, *position, *passing)),
    );
    let cursor = CursorString::parse(&text).expect("an edge reads what an edge wrote");
    assert_eq!((cursor.node, cursor.places.len()), (node, places.len()));
    assert_eq!(cursor.to_string(), text);
    for (name, position, passing) in &places {
        let read = cursor.place(name).expect("each channel has its place");
        assert_eq!(read.position, *position);
        assert_eq!(read.passing, if node.is_some() { *passing } else { 0 });
    }
}

/// Names differ by their number, whatever the rest of them is.
fn place((number, bytes): (usize, &[u8; 23])) -> (ChannelName, Position, u64) {
    let (seed, numbers) = bytes.split_at(1);
    let field = |at: usize, length: usize| {
        numbers[at..at + length].iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
    };
    let name = format!("{number}:{}", "x".repeat(usize::from(seed[0]) % 190));
    let position = Position { epoch: Epoch::new(field(0, 6)), seq: field(6, 8) & MAX_SEQ };
    (name.parse().expect("digits and letters"), position, field(14, 8) & MOST_PASSING)
}
