//! What several fuzz targets share: how a WebSocket's bytes and a DEFLATE stream are read, written down a second time
//! from their RFCs, and the node that requests are asked of. A target is one file in `fuzz_targets/`; it says what must
//! be true of any input, and libFuzzer looks for one of which it is not.

pub mod frames;
pub mod inflate;
pub mod node;
pub mod reads;
