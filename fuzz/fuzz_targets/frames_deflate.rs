//! The frame layer with permessage-deflate: `src/reads.rs` says what is held to what.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_fuzz::reads;

fuzz_target!(|input: &[u8]| reads::check(input, true));
