//! What one idle connection holds of this process's memory, by transport: the sum of its parts as the compiler lays them
//! out, so that it follows them. Told to the metrics at the start; a check holds it against what is measured.
//!
//! Counted is what is allocated for the connection, joined to one channel as a user that nobody else is: not the
//! kernel's part (some 4 KB), nor what the allocator does not get rid of, nor the news of its coming, which the channel
//! holds for a moment.

use super::connection::Stream;
use super::parked::{Events, Parked, Polling};
use super::socket::Socket;
use super::tls::TlsStream;
use crate::auth::Identity;
use crate::channel::{Life, Watch};
use crate::presence::Member;
use crate::quota::{ConnectionQuota, Quotas};
use crate::transport::websocket::Session;
use crate::transport::{Doorbell, Subscriptions};

/// What tokio puts around a connection's future in its task: a head, a tail, and the tracker's word. It aligns all of it to
/// 128 bytes, which the future just fits.
const TASK_BYTES: usize = 104 + size_of::<usize>();
const TASK_ALIGN: usize = 128;
/// A socket's registration with tokio's reactor (`ScheduledIo`).
const REGISTRATION_BYTES: usize = 256;
/// What rustls 0.23 with aws-lc allocates for a TLS 1.3 connection beside its `TlsStream`, in blocks (heap profile of
/// idle connections): room for 16 pieces of a handshake, each way's key and its box, the state after the handshake, two
/// queues of records, the names of the server and of the protocol.
const TLS_BLOCKS: [usize; 9] = [640, 608, 608, 224, 96, 96, 48, 48, 16];

/// In the order of the metrics' transports: WebSocket, event stream, poll; each plain and over TLS.
pub fn of_each() -> [[usize; 2]; 3] {
    let session = class(size_of::<Session<Stream>>());
    // What counts bad tokens is shared between the requests of a connection.
    let guesses = class(2 * size_of::<usize>() + size_of::<ConnectionQuota>());
    let request = guesses + in_table(Quotas::PLACE_BYTES);
    let events = class(size_of::<Parked<Events>>()) + request;
    let poll = class(size_of::<Parked<Polling>>()) + request;
    let tls = class(size_of::<TlsStream<Socket>>()) + TLS_BLOCKS.map(class).iter().sum::<usize>();
    [session, events, poll].map(|own| [own + common(), own + common() + tls])
}

/// What all of them have.
fn common() -> usize {
    let task = (size_of::<Life>() + TASK_BYTES).next_multiple_of(TASK_ALIGN);
    let blocks = [task, REGISTRATION_BYTES].into_iter().chain(Identity::BLOCKS).chain(Subscriptions::BLOCKS);
    let blocks: usize = blocks.chain(Member::BLOCKS).map(class).sum();
    blocks + in_table(Watch::PLACE_BYTES + Doorbell::PLACE_BYTES + Member::PLACE_BYTES)
}

/// What a place takes: tables double when they are full, so that three quarters of them are in use on the average.
fn in_table(bytes: usize) -> usize {
    bytes * 4 / 3
}

/// What jemalloc takes for a block: multiples of 16 up to 128, then four sizes to each doubling.
fn class(bytes: usize) -> usize {
    let step = (bytes.next_power_of_two() / 8).max(16);
    bytes.next_multiple_of(step)
}

#[cfg(test)]
mod tests {
    use super::super::accept::Place;
    use super::*;

    #[test]
    fn blocks_have_the_sizes_that_jemalloc_has() {
        let sizes =
            [(1, 16), (17, 32), (128, 128), (129, 160), (256, 256), (257, 320), (377, 384), (520, 640)];
        for (bytes, expected) in sizes {
            assert_eq!(class(bytes), expected, "{bytes}");
        }
        assert_eq!([1025, 4096, 4097].map(class), [1280, 4096, 5120]);
    }

    /// The allocator has no size between 320 and 384: a session with a socket just fits. With debug assertions a socket is a
    /// word larger.
    #[test]
    fn a_session_fits_its_size_class() {
        let size = size_of::<Session<Stream>>() - 8 * usize::from(cfg!(debug_assertions));
        assert!(size <= 320, "{size}");
        assert_eq!(size_of::<Place>(), 16);
    }

    /// Targets: 1,300 bytes plain and 5,000 over TLS; one that grows beyond what it is now is worth a thought.
    #[test]
    fn an_idle_connection_stays_light() {
        for [plain, tls] in of_each() {
            assert!((900..=1300).contains(&plain) && (4500..=5000).contains(&tls), "{:?}", of_each());
        }
    }
}
