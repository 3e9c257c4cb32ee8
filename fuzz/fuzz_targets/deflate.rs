//! Compressed messages: what is sent is what an inflater written from RFC 1951 reads back, and what a client sends is read
//! as that one reads it, up to the limit and not beyond.
//!
//! Input: the limit (2 bytes), then a payload, which is also taken as a message.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::deflate::{InflateError, deflate, inflate};
use tidegate_fuzz::inflate::{self as model, Wrong};

fuzz_target!(|input: &[u8]| {
    let [high, low, bytes @ ..] = input else { return };
    of_a_client(bytes, usize::from(u16::from_be_bytes([*high, *low])));
    of_an_edge(bytes);
});

fn of_a_client(payload: &[u8], limit: usize) {
    let read = inflate(payload, limit);
    match model::inflate(payload, limit) {
        Ok(message) => assert_eq!(read.as_deref(), Ok(&message[..]), "{payload:02x?}"),
        Err(Wrong::Invalid) => assert_eq!(read, Err(InflateError::Invalid), "{payload:02x?}"),
        // One that is full may look at what follows before it says so.
        Err(Wrong::TooLarge) => assert!(read.is_err(), "{payload:02x?}"),
    }
}

fn of_an_edge(message: &[u8]) {
    let Some(payload) = deflate(message) else { return };
    assert!(payload.len() < message.len() || message.is_empty());
    assert_eq!(model::inflate(&payload, message.len()).as_deref(), Ok(message));
    assert_eq!(inflate(&payload, message.len()).as_deref(), Ok(message));
    if let Some(less) = message.len().checked_sub(1) {
        assert_eq!(inflate(&payload, less), Err(InflateError::TooLarge));
    }
}
