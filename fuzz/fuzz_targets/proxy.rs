//! PROXY headers: one is read to its last byte and no further, whatever comes after it changes nothing, and the address
//! in it is the one that its own text names.

#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use futures_util::FutureExt as _;
use libfuzzer_sys::fuzz_target;
use tidegate::server::proxy::read_header;

/// The load balancer's own, which no input is likely to name.
const PEER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 77)), 443);
/// Version 2's first bytes, HAProxy's proxy-protocol.txt §2.2.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fuzz_target!(|input: &[u8]| {
    let (address, rest) = read(input);
    let Some(address) = address else { return };
    let (header, rest) = input.split_at(input.len() - rest.len());
    assert!(header.len() <= 1024);
    assert_eq!(read(header), (Some(address), &[][..]), "alone");
    assert_eq!(read(&[header, b"\x16\x03\x01"].concat()).0, Some(address), "before TLS");
    assert!(rest.len() < input.len());
    assert_eq!(
        Some(address),
        if header.starts_with(b"PROXY ") { version_1(header) } else { version_2(header) }
    );
});

/// The address, if there is one, and what was not read.
fn read(input: &[u8]) -> (Option<IpAddr>, &[u8]) {
    let mut rest = input;
    let address = read_header(&mut rest, PEER).now_or_never().expect("a slice never waits").ok();
    (address, rest)
}

/// §2.1: `PROXY TCP4 SOURCE DESTINATION PORT PORT`, or `PROXY UNKNOWN` and anything.
fn version_1(header: &[u8]) -> Option<IpAddr> {
    assert!(header.len() <= 107 && header.ends_with(b"\r\n"));
    // After UNKNOWN anything may come.
    let line = String::from_utf8_lossy(&header[..header.len() - 2]);
    let mut words = line.split(' ').skip(1);
    match words.next()? {
        "TCP4" => words.next()?.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        "TCP6" => words.next()?.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        "UNKNOWN" => Some(PEER.ip()),
        _ => None,
    }
}

/// §2.2: signature, version and command, family, length, addresses.
fn version_2(header: &[u8]) -> Option<IpAddr> {
    let [command, family, high, low, addresses @ ..] = header.strip_prefix(SIGNATURE)? else { return None };
    assert_eq!(addresses.len(), usize::from(u16::from_be_bytes([*high, *low])));
    match (command, family >> 4) {
        // LOCAL: the addresses are to be ignored.
        (0x20, _) | (0x21, 0 | 3) => Some(PEER.ip()),
        (0x21, 1) => addresses.first_chunk::<4>().map(|bytes| Ipv4Addr::from(*bytes).into()),
        (0x21, 2) => addresses.first_chunk::<16>().map(|bytes| Ipv6Addr::from(*bytes).into()),
        _ => None,
    }
}
