//! The PROXY protocol (HAProxy's, versions 1 and 2): which client stands behind the load balancer in front. Read
//! before everything else, and only where the operator says that it always comes.

use std::io;
use std::net::{IpAddr, SocketAddr};

use ppp::{HeaderResult, PartialResult as _, v1, v2};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

/// Longest header: version 1 has 107 bytes, version 2 16 and what it announces.
const HEADER_MAX: usize = 1024;

/// Reads the header, byte for byte no more than it, and returns the client's address.
///
/// # Errors
/// `InvalidData` for anything but a header.
pub async fn read_header(tcp: &mut TcpStream, peer: SocketAddr) -> io::Result<IpAddr> {
    let mut header = Vec::with_capacity(128);
    loop {
        let result = HeaderResult::parse(&header);
        if !header.is_empty() && result.is_complete() {
            return address(&result, peer);
        }
        if header.len() >= HEADER_MAX {
            return Err(invalid("longer than a PROXY header may be"));
        }
        // One byte at a time: what follows the header is TLS's.
        header.push(tcp.read_u8().await?);
    }
}

fn address(header: &HeaderResult<'_>, peer: SocketAddr) -> io::Result<IpAddr> {
    match header {
        HeaderResult::V1(Ok(header)) => Ok(match header.addresses {
            v1::Addresses::Tcp4(ref addresses) => addresses.source_address.into(),
            v1::Addresses::Tcp6(ref addresses) => addresses.source_address.into(),
            v1::Addresses::Unknown => peer.ip(),
        }),
        HeaderResult::V2(Ok(header)) => Ok(match header.addresses {
            v2::Addresses::IPv4(ref addresses) => addresses.source_address.into(),
            v2::Addresses::IPv6(ref addresses) => addresses.source_address.into(),
            // LOCAL: the load balancer's own health check.
            v2::Addresses::Unspecified | v2::Addresses::Unix(_) => peer.ip(),
        }),
        HeaderResult::V1(Err(error)) => Err(invalid(&error.to_string())),
        HeaderResult::V2(Err(error)) => Err(invalid(&error.to_string())),
    }
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("no PROXY header: {why}"))
}
