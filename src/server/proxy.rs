//! The PROXY protocol (HAProxy's, versions 1 and 2): which client stands behind the load balancer in front. Read
//! before everything else, and only where the operator says that it always comes.

use std::io;
use std::net::{IpAddr, SocketAddr};

use ppp::{HeaderResult, v1, v2};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Version 1 has at most this many bytes, its line end included.
const V1_MAX: usize = 107;
/// Version 2 announces its length in its first 16 bytes; longer ones than this no proxy sends.
const V2_HEAD: usize = 16;
const V2_MAX: usize = 1024;

/// Reads the header, byte for byte no more than it, and returns the client's address.
///
/// # Errors
/// `InvalidData` for anything but a header.
pub async fn read_header<R: AsyncRead + Unpin>(tcp: &mut R, peer: SocketAddr) -> io::Result<IpAddr> {
    let mut header = vec![tcp.read_u8().await?];
    if header == *b"P" {
        // One byte at a time: what follows the line is TLS's.
        while !header.ends_with(b"\r\n") {
            if header.len() == V1_MAX {
                return Err(invalid("a line longer than version 1 allows"));
            }
            header.push(tcp.read_u8().await?);
        }
    } else {
        header.resize(V2_HEAD, 0);
        tcp.read_exact(&mut header[1..]).await?;
        let length = V2_HEAD + usize::from(u16::from_be_bytes([header[V2_HEAD - 2], header[V2_HEAD - 1]]));
        if !header.starts_with(v2::PROTOCOL_PREFIX) || length > V2_MAX {
            return Err(invalid("neither version 1 nor 2"));
        }
        header.resize(length, 0);
        tcp.read_exact(&mut header[V2_HEAD..]).await?;
    }
    address(&HeaderResult::parse(&header), peer)
}

fn address(header: &HeaderResult<'_>, peer: SocketAddr) -> io::Result<IpAddr> {
    match header {
        HeaderResult::V1(Ok(header)) => Ok(match header.addresses {
            v1::Addresses::Tcp4(ref addresses) => addresses.source_address.into(),
            v1::Addresses::Tcp6(ref addresses) => addresses.source_address.into(),
            v1::Addresses::Unknown => peer.ip(),
        }),
        // The load balancer's own health check, whatever addresses it writes (HAProxy's proxy-protocol.txt §2.2).
        HeaderResult::V2(Ok(header)) if header.command == v2::Command::Local => Ok(peer.ip()),
        HeaderResult::V2(Ok(header)) => Ok(match header.addresses {
            v2::Addresses::IPv4(ref addresses) => addresses.source_address.into(),
            v2::Addresses::IPv6(ref addresses) => addresses.source_address.into(),
            v2::Addresses::Unspecified | v2::Addresses::Unix(_) => peer.ip(),
        }),
        HeaderResult::V1(Err(error)) => Err(invalid(&error.to_string())),
        HeaderResult::V2(Err(error)) => Err(invalid(&error.to_string())),
    }
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("no PROXY header: {why}"))
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    const SIGNATURE: &[u8] = v2::PROTOCOL_PREFIX;
    const ADDRESSES: &[u8] = &[192, 0, 2, 1, 198, 51, 100, 7, 0xdc, 0x04, 0x01, 0xbb];

    fn read(input: &[u8]) -> Option<(String, &[u8])> {
        let mut rest = input;
        let peer = SocketAddr::from(([203, 0, 113, 77], 443));
        let address = read_header(&mut rest, peer).now_or_never().unwrap().ok()?;
        Some((address.to_string(), rest))
    }

    fn version_2(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
        let length = u16::try_from(addresses.len()).unwrap().to_be_bytes();
        [SIGNATURE, &[command, family], &length, addresses, b"rest"].concat()
    }

    #[test]
    fn names_the_client_and_leaves_the_rest() {
        let line = b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\nrest";
        assert_eq!(read(line), Some(("192.0.2.1".to_owned(), &b"rest"[..])));
        assert_eq!(read(b"PROXY UNKNOWN\r\n"), Some(("203.0.113.77".to_owned(), &b""[..])));
        let header = version_2(0x21, 0x11, ADDRESSES);
        assert_eq!(read(&header), Some(("192.0.2.1".to_owned(), &b"rest"[..])));
        for bad in [&b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"[..], b"PROXY TCP4 192.0.2.1\r\n", b"PROXY"]
        {
            assert_eq!(read(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_local_header_names_nobody_even_with_addresses() {
        for header in [version_2(0x20, 0x11, ADDRESSES), version_2(0x20, 0, &[])] {
            assert_eq!(read(&header), Some(("203.0.113.77".to_owned(), &b"rest"[..])), "{header:02x?}");
        }
    }
}
