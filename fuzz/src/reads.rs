//! The server's frame reader against the model of `frames`: a client's bytes, cut into reads at fuzzed places, with and
//! without compression. The messages, the fault and its moment are the model's, however the bytes are cut; nothing is
//! held between messages, and never more than a few times the limit.

use std::alloc::System;
use std::collections::VecDeque;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tidegate::transport::websocket::guard::Fault;
use tidegate::transport::websocket::{FrameReader, Inbound};

use crate::frames::{Judgement, Rules, judge};

#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const LIMITS: [usize; 4] = [125, 160, 1024, 65_536];

/// Checks one input: which limit (1 byte), how many lengths (1 byte, modulo 8), so many lengths of reads, used in turn
/// (1 byte each), then the stream.
///
/// # Panics
/// If something is not as it must be.
pub fn check(input: &[u8], deflate: bool) {
    let [limit, count, rest @ ..] = input else { return };
    let rules = Rules { message_bytes: LIMITS[usize::from(*limit) % LIMITS.len()], deflate };
    let Some((lengths, stream)) = rest.split_at_checked(usize::from(*count) % 8) else { return };
    let whole = read(&[stream], rules);
    for lengths in [lengths, &[1]] {
        assert_eq!(read(&pieces(stream, lengths), rules), whole, "in reads of {lengths:?}");
    }
    let mut model = judge(stream, rules);
    // An inflater that has given one byte too many may look at what follows before it says so.
    if (model.fault, whole.fault) == (Some(Fault::MessageTooLarge), Some(Fault::InvalidDeflate)) {
        model.fault = whole.fault;
    }
    assert_eq!(whole, model);
    holds_little(&pieces(stream, lengths), rules);
}

/// The stream in reads of these lengths, in turn; whole, if there are none or only empty ones.
fn pieces<'a>(stream: &'a [u8], lengths: &[u8]) -> Vec<&'a [u8]> {
    if lengths.iter().all(|length| *length == 0) {
        return vec![stream];
    }
    let mut rest = stream;
    let mut pieces = Vec::new();
    for length in lengths.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, left) = rest.split_at(usize::from(*length).min(rest.len()));
        pieces.push(piece);
        rest = left;
    }
    pieces
}

fn read(pieces: &[&[u8]], rules: Rules) -> Judgement {
    let mut reader = FrameReader::new(rules.message_bytes, rules.deflate);
    let mut arrived = VecDeque::new();
    let fault = pieces.iter().find_map(|piece| reader.feed(piece, &mut arrived).err());
    // As a connection serves them, one after the other, before it looks at the fault behind them.
    let mut served = arrived.into_iter().map(|inbound| match inbound {
        Inbound::Deflated(deflated) => reader.inflate(&deflated),
        inbound => Ok(inbound),
    });
    let mut messages = Vec::new();
    let wrong = served.find_map(|inbound| inbound.map(|inbound| messages.push(inbound)).err());
    let fault = wrong.or(fault);
    let between_messages = fault.is_none() && reader.is_between_messages();
    Judgement { arrived: messages, fault, between_messages }
}

/// The reader's own memory, after each read and without what it has handed on. What a thread has for all its
/// connections was made when the stream was judged before.
fn holds_little(pieces: &[&[u8]], rules: Rules) {
    let longest = pieces.iter().map(|piece| piece.len()).max().unwrap_or_default();
    // The unfinished frame with the read that it came in, and the fragments before it; a buffer that grows doubles.
    let most = 6 * rules.message_bytes + 2 * longest + 1024;
    let heap = Region::new(HEAP);
    let mut reader = FrameReader::new(rules.message_bytes, rules.deflate);
    for piece in pieces {
        // After a violation too: whoever waits for the end of a connection reads on.
        let failed = reader.feed(piece, &mut VecDeque::new()).is_err();
        let change = heap.change();
        let held = change.bytes_allocated - change.bytes_deallocated;
        assert!(held <= most, "holds {held} bytes of {rules:?}, reads of up to {longest}");
        let needs_nothing = failed || reader.is_between_messages();
        assert!(!needs_nothing || held == 0, "holds {held} bytes for nothing");
    }
}
