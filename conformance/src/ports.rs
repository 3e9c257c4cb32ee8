//! Ports for servers that are to come back where they were. They are taken from below the range out of which the
//! kernel serves outgoing connections: while a server is down, nobody's client can sit down on its place.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;

use parking_lot::Mutex;
use rand::RngExt as _;

/// Below 32768, where `net.ipv4.ip_local_port_range` begins unless somebody has changed it.
const RANGE: Range<u16> = 20_000..32_000;
const ATTEMPTS: u32 = 1_000;

/// What this process has given out; it takes nothing back.
static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// A loopback address on which nobody listens, and that this process gives to nobody else.
///
/// # Errors
/// When none of many ports is free.
pub fn free() -> io::Result<SocketAddr> {
    for _ in 0..ATTEMPTS {
        let port = rand::rng().random_range(RANGE);
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if GIVEN.lock().insert(port) && TcpListener::bind(addr).is_ok() {
            return Ok(addr);
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_is_given_twice() {
        let given: BTreeSet<_> = (0..50).map(|_| free().unwrap()).collect();
        assert_eq!(given.len(), 50);
        assert!(given.iter().all(|addr| RANGE.contains(&addr.port())));
    }
}
