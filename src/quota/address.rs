//! What a limit per IP address means: who counts as one address, and how many connections each has open. The table
//! holds an entry per network with a connection, so `listen.max_connections` bounds it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::time::Duration;

use parking_lot::Mutex;

use super::CONNECTIONS;
use crate::close::Fault;

/// When to come again for somebody whose address has too many connections open. Nobody knows when one of them ends;
/// this is long enough not to make it worse and shorter than a dead peer is kept.
pub const COME_AGAIN: Duration = Duration::from_secs(10);

/// One IPv4 address, or one IPv6 network of 64 bits: that is the least a subscriber is given (RFC 6177), and whoever has
/// it can use any of its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network(u64);

impl Network {
    /// That of an address.
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::of_v4(address.to_bits()),
            IpAddr::V6(address) => match address.segments() {
                // RFC 6052 §2.1: an IPv4 client behind a translator. All of them share this prefix.
                [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Self::of_v4(u32::from(high) << 16 | u32::from(low)),
                [a, b, c, d, ..] => {
                    Self([a, b, c, d].iter().fold(0, |prefix, &part| prefix << 16 | u64::from(part)))
                }
            },
        }
    }

    /// In `ffff::/16`, which is multicast and never anybody's source (RFC 4291 §2.7).
    fn of_v4(address: u32) -> Self {
        Self(0xffff_0000_0000_0000 | u64::from(address))
    }
}

/// How many connections each network has open.
#[derive(Debug)]
pub(super) struct Connections {
    limit: u32,
    open: Mutex<HashMap<Network, u32>>,
}

impl Connections {
    pub(super) fn new(limit: u32) -> Self {
        Self { limit, open: Mutex::new(HashMap::new()) }
    }

    /// Counts one more, which is beyond the limit if the fault says so; `None`, and not counted, beyond twice the limit.
    pub(super) fn enter(&self, network: Network) -> Option<Result<(), Fault>> {
        let mut open = self.open.lock();
        let count = open.get(&network).map_or(1, |count| count.saturating_add(1));
        if self.limit != 0 && count > self.limit.saturating_mul(2) {
            return None;
        }
        open.insert(network, count);
        let is_over = self.limit != 0 && count > self.limit;
        Some(if is_over { Err(Fault::rate_limited(CONNECTIONS, COME_AGAIN)) } else { Ok(()) })
    }

    /// Counts one less.
    pub(super) fn leave(&self, network: Network) {
        if let Entry::Occupied(mut open) = self.open.lock().entry(network) {
            *open.get_mut() -= 1;
            if *open.get() == 0 {
                open.remove();
            }
        }
    }

    pub(super) fn shrink(&self) {
        let mut open = self.open.lock();
        if open.len() < open.capacity() / 4 {
            let room = open.len() * 2;
            open.shrink_to(room);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.open.lock().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(address: &str) -> Network {
        Network::of(address.parse().unwrap())
    }

    #[test]
    fn a_network_is_one_ipv4_address_or_64_bits_of_ipv6() {
        assert_ne!(network("192.0.2.1"), network("192.0.2.2"));
        assert_eq!(network("192.0.2.1"), network("::ffff:192.0.2.1"));
        assert_eq!(network("192.0.2.1"), network("64:ff9b::192.0.2.1"));
        assert_ne!(network("64:ff9b::192.0.2.1"), network("64:ff9b::192.0.2.2"));
        assert_eq!(network("2001:db8:1:2::1"), network("2001:db8:1:2:ffff::9"));
        assert_ne!(network("2001:db8:1:2::1"), network("2001:db8:1:3::1"));
        assert_ne!(network("0.0.0.1"), network("::1"));
    }

    #[test]
    fn connections_are_counted_and_given_back() {
        let (connections, here) = (Connections::new(2), network("192.0.2.1"));
        for expected_ok in [true, true, false, false] {
            match connections.enter(here).unwrap() {
                Ok(()) => assert!(expected_ok),
                Err(fault) => {
                    assert!(!expected_ok);
                    assert_eq!((fault.limit, fault.retry_after), (Some(CONNECTIONS), Some(COME_AGAIN)));
                }
            }
        }
        assert!(connections.enter(here).is_none());
        assert!(connections.enter(network("192.0.2.2")).unwrap().is_ok());
        (0..3).for_each(|_| connections.leave(here));
        assert!(connections.enter(here).unwrap().is_ok());
        for network in [here, here, network("192.0.2.2")] {
            connections.leave(network);
        }
        assert_eq!(connections.len(), 0);
    }

    #[test]
    fn no_limit_still_counts() {
        let (connections, here) = (Connections::new(0), network("192.0.2.1"));
        assert!((0..1000).all(|_| connections.enter(here).unwrap().is_ok()));
        assert_eq!(connections.len(), 1);
        (0..1000).for_each(|_| connections.leave(here));
        connections.shrink();
        assert_eq!(connections.len(), 0);
    }
}
