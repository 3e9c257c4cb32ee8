//! What a stream does with each socket and each client there could be.

mod pair;

use std::io::{Read as _, Write as _};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::cipher::{MessageEncrypter, OutboundChunks, OutboundPlainMessage};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{
    AlertDescription, ConnectionTrafficSecrets, ContentType, HandshakeKind, ProtocolVersion,
    SupportedProtocolVersion,
};

use self::pair::{Pair, client, server};
use super::*;
use crate::server::socket::Socket;

const BOTH: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

/// How many records those are.
fn count(mut bytes: &[u8]) -> usize {
    let mut count = 0;
    while let [_, _, _, high, low, rest @ ..] = bytes {
        bytes = &rest[usize::from(u16::from_be_bytes([*high, *low]))..];
        count += 1;
    }
    count
}

fn bytes(length: usize) -> Vec<u8> {
    (0..=250).cycle().take(length).collect()
}

#[test]
fn a_connection_at_rest_holds_nothing_but_its_state() {
    for version in BOTH {
        let mut pair = Pair::new(version);
        assert_eq!(pair.server.alpn_protocol(), Some(&b"http/1.1"[..]));
        let said = pair.records(b"ping");
        pair.server.socket.reads.push_back(said);
        assert_eq!(pair.reads(100), b"ping");
        pair.wrote(b"pong");
        assert_eq!(pair.heard(), b"pong");
        assert!(pair.server.left.is_none());
    }
    // The allocator has no size between 1,024 and 1,280.
    let size = size_of::<TlsStream<Socket>>();
    assert!(size <= 1280, "{size}");
}

#[test]
fn records_come_in_pieces_of_any_length() {
    for version in BOTH {
        for length in [1, 2, 7, 1000] {
            let mut config = client(&[version]);
            // Of messages of the handshake, too.
            config.max_fragment_size = Some(64);
            let mut pair = Pair::begin(server(&[version]), &Arc::new(config));
            pair.handshake(length).unwrap();
            let said = [pair.records(b"one"), pair.records(b"two")].concat();
            pair.server.socket.reads.extend(said.chunks(length).map(<[u8]>::to_vec));
            let mut read = Vec::new();
            while read.len() < 6 {
                read.extend(pair.reads(100));
                pair.wrote(b"between");
            }
            assert_eq!(read, b"onetwo");
            assert!(pair.read(1).is_pending() && pair.server.left.is_none());
        }
    }
}

#[test]
fn one_read_gives_all_that_it_found() {
    let mut pair = Pair::new(&TLS13);
    for _ in 0..2 {
        let said = (0..100).flat_map(|_| pair.records(b"123")).collect();
        pair.server.socket.reads.push_back(said);
    }
    pair.server.socket.waits = 0;
    assert_eq!(pair.reads(1000).len(), 300, "a read has found something: no other follows");
    assert_eq!(pair.server.socket.waits, 0);
    assert_eq!(pair.reads(1000).len(), 300);
    assert!(pair.read(1000).is_pending());
    assert_eq!(pair.server.socket.waits, 1, "who waits has asked the socket");
}

#[test]
fn a_reader_with_little_room_comes_again() {
    for version in BOTH {
        let mut pair = Pair::new(version);
        let sent = bytes(40_000);
        let said = pair.records(&sent);
        pair.server.socket.reads.extend(said.chunks(READ_BYTES).map(<[u8]>::to_vec));
        let mut read = Vec::new();
        while read.len() < sent.len() {
            read.extend(pair.reads(777));
        }
        assert!(read == sent && pair.server.left.is_none());
    }
}

/// What it says behind its last message of the handshake comes with that.
#[test]
fn what_comes_with_the_end_of_the_handshake_is_kept() {
    let mut pair = Pair::begin(server(&BOTH), &Arc::new(client(&BOTH)));
    pair.client.writer().write_all(b"early").unwrap();
    pair.handshake(usize::MAX).unwrap();
    assert_eq!(pair.reads(3), b"ear");
    assert_eq!(pair.reads(3), b"ly");
    assert!(pair.read(3).is_pending() && pair.server.left.is_none());
}

#[test]
fn a_client_comes_back_with_a_ticket() {
    for version in BOTH {
        let (server, client) = (server(&[version]), Arc::new(client(&[version])));
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let mut pair = Pair::begin(server.clone(), &client);
            pair.handshake(usize::MAX).unwrap();
            assert_eq!(pair.client.handshake_kind(), Some(kind));
        }
    }
}

#[test]
fn what_is_written_at_once_goes_out_at_once() {
    for version in BOTH {
        let mut pair = Pair::new(version);
        pair.wrote(&bytes(16 * 1024));
        assert_eq!(pair.server.socket.writes.iter().map(|write| count(write)).collect::<Vec<_>>(), [1]);
        assert_eq!(pair.heard(), bytes(16 * 1024));
        let slices = [io::IoSlice::new(b"head"), io::IoSlice::new(b""), io::IoSlice::new(b"body")];
        let written = pair.poll(|server, task| server.poll_write_vectored(task, &slices));
        assert!(matches!(written, Poll::Ready(Ok(8))));
        assert_eq!(pair.server.socket.writes.iter().map(|write| count(write)).collect::<Vec<_>>(), [1]);
        assert_eq!(pair.heard(), b"headbody");
        assert!(matches!(pair.write(&bytes(1 << 20)), Poll::Ready(Ok(WRITE_BYTES))));
        assert_eq!(pair.server.socket.writes.iter().map(|write| count(write)).collect::<Vec<_>>(), [4]);
        assert!(matches!(pair.write(b""), Poll::Ready(Ok(0))));
        assert_eq!(pair.server.socket.writes.len(), 1);
        assert_eq!(pair.heard(), bytes(WRITE_BYTES));
    }
}

#[test]
fn a_socket_that_takes_little_takes_all() {
    for version in BOTH {
        let mut pair = Pair::new(version);
        pair.server.socket.room = 10;
        pair.wrote(&bytes(50_000));
        assert!(pair.write(b"more").is_pending(), "what is left goes first");
        assert!(pair.poll(AsyncWrite::poll_flush).is_pending());
        let slices = [io::IoSlice::new(b"mo"), io::IoSlice::new(b"re")];
        assert!(pair.poll(|server, task| server.poll_write_vectored(task, &slices)).is_pending());
        while pair.poll(AsyncWrite::poll_flush).is_pending() {
            pair.server.socket.room = 1000;
        }
        assert!(pair.server.left.is_none());
        pair.server.socket.room = 1000;
        pair.wrote(b"more");
        assert_eq!(pair.heard(), [&bytes(50_000)[..], b"more"].concat());
    }
}

#[test]
fn an_end_is_said_once_and_behind_all_that_was_written() {
    for version in BOTH {
        let mut pair = Pair::new(version);
        pair.server.socket.room = 10;
        pair.wrote(b"last words");
        assert!(pair.poll(AsyncWrite::poll_shutdown).is_pending() && !pair.server.socket.is_shut);
        pair.server.socket.room = 1000;
        for _ in 0..2 {
            assert!(matches!(pair.poll(AsyncWrite::poll_shutdown), Poll::Ready(Ok(()))));
        }
        assert!(pair.server.socket.is_shut && pair.server.left.is_none());
        assert_eq!(count(&pair.server.socket.writes.concat()), 2);
        let Poll::Ready(Err(error)) = pair.write(b"more") else { panic!("it is over") };
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(pair.heard(), b"last words");
        assert_eq!(pair.client.reader().read(&mut [0]).unwrap(), 0, "a clean end");
        let said = pair.records(b"heard");
        pair.server.socket.reads.push_back(said);
        assert_eq!(pair.reads(100), b"heard");
    }
}

#[test]
fn who_has_ended_is_still_written_to() {
    for version in BOTH {
        let mut pair = Pair::new(version);
        let words = pair.records(b"last words");
        pair.client.send_close_notify();
        let mut said = [words, pair.said()].concat();
        said.extend_from_slice(b"not looked at");
        pair.server.socket.reads.extend([said, b"nor read".to_vec()]);
        assert_eq!(pair.reads(100), b"last words");
        for _ in 0..2 {
            assert_eq!(pair.reads(100), b"");
        }
        assert!(pair.server.left.is_none() && pair.server.socket.reads.len() == 1);
        pair.wrote(b"answer");
        assert!(matches!(pair.poll(AsyncWrite::poll_shutdown), Poll::Ready(Ok(()))));
        assert_eq!(pair.heard(), b"answer");
        assert_eq!(pair.client.reader().read(&mut [0]).unwrap(), 0);
    }
}

#[test]
fn who_was_cut_off_does_not_pass_for_one_who_has_ended() {
    for version in BOTH {
        let mut pair = Pair::new(version);
        let mut said = [pair.records(b"half of"), pair.records(b"it")].concat();
        said.pop();
        pair.server.socket.reads.extend([said, Vec::new(), Vec::new()]);
        assert_eq!(pair.reads(100), b"half of");
        assert_eq!(pair.fails(), io::ErrorKind::UnexpectedEof);
        assert_eq!(pair.fails(), io::ErrorKind::UnexpectedEof);
        let mut pair = Pair::begin(server(&[version]), &Arc::new(client(&[version])));
        pair.server.socket.reads.push_back(Vec::new());
        assert_eq!(pair.handshake(usize::MAX).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}

#[test]
fn a_client_that_is_not_agreed_with_is_told_why() {
    let mut stranger = client(&BOTH);
    stranger.alpn_protocols = vec![b"spdy/3".to_vec()];
    for (server, client, why) in [
        (server(&[&TLS13]), client(&[&TLS12]), AlertDescription::ProtocolVersion),
        (server(&BOTH), stranger, AlertDescription::NoApplicationProtocol),
    ] {
        let mut pair = Pair::begin(server, &Arc::new(client));
        let said = pair.said();
        pair.server.socket.reads.push_back(said);
        let refused = pair.poll(|mut server, task| server.poll_handshake(task));
        let Poll::Ready(Err(error)) = refused else { panic!("it was agreed with") };
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert_eq!(pair.hear(), Err(Error::AlertReceived(why)));
    }
    let mut pair = Pair::begin(server(&BOTH), &Arc::new(client(&BOTH)));
    pair.server.socket.reads.push_back(b"GET / HTTP/1.1\r\n\r\n".to_vec());
    let refused = pair.poll(|mut server, task| server.poll_handshake(task));
    assert!(matches!(refused, Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::InvalidData));
    // RFC 8446 §6: an alert, fatal, that it could not be decoded.
    assert!(matches!(pair.server.socket.writes.concat()[..], [21, 3, _, 0, 2, 2, 50]));
}

#[test]
fn a_broken_record_ends_it_behind_what_came_before() {
    for version in BOTH {
        let mut pair = Pair::new(version);
        let mut said = [pair.records(b"good"), pair.records(b"bad")].concat();
        *said.last_mut().unwrap() ^= 1;
        let more = pair.records(b"unread");
        pair.server.socket.reads.extend([said, more]);
        assert_eq!(pair.reads(3), b"goo");
        assert_eq!(pair.hear(), Err(Error::AlertReceived(AlertDescription::BadRecordMac)));
        assert_eq!(pair.reads(3), b"d");
        assert_eq!(pair.fails(), io::ErrorKind::InvalidData);
        assert_eq!(pair.fails(), io::ErrorKind::ConnectionAborted);
        assert!(matches!(pair.write(b"answer"), Poll::Ready(Err(_))));
        assert!(matches!(pair.poll(AsyncWrite::poll_shutdown), Poll::Ready(Ok(()))));
        assert!(pair.server.socket.is_shut && pair.server.socket.writes.is_empty());
    }
}

/// RFC 8446 §4.6.3: whoever is asked for new keys says that it has them before it writes anything else.
#[test]
fn new_keys_are_answered_with_new_keys() {
    let mut pair = Pair::new(&TLS13);
    for _ in 0..3 {
        pair.client.refresh_traffic_keys().unwrap();
        let said = [pair.said(), pair.records(b"fresh")].concat();
        pair.server.socket.reads.push_back(said);
        assert_eq!(pair.reads(100), b"fresh");
        pair.wrote(b"answer");
        assert_eq!(count(&pair.server.socket.writes.concat()), 2);
        assert_eq!(pair.heard(), b"answer");
    }
    pair.wrote(b"again");
    assert_eq!(count(&pair.server.socket.writes.concat()), 1);
    assert_eq!(pair.heard(), b"again");
}

/// One of a client that makes its records itself.
fn record(encrypter: &mut dyn MessageEncrypter, sequence: u64, typ: ContentType, payload: &[u8]) -> Vec<u8> {
    let payload = OutboundChunks::Single(payload);
    let message = OutboundPlainMessage { typ, version: ProtocolVersion::TLSv1_2, payload };
    encrypter.encrypt(message, sequence).unwrap().encode()
}

#[test]
fn half_a_message_and_none_at_all_are_no_end() {
    let mut pair = Pair::new(&TLS13);
    let aead = pair.client.negotiated_cipher_suite().unwrap().tls13().unwrap().aead_alg;
    let client = std::mem::replace(&mut pair.client, Pair::new(&TLS13).client);
    let (sequence, secrets) = client.dangerous_extract_secrets().unwrap().tx;
    let ConnectionTrafficSecrets::Aes256Gcm { key, iv } = secrets else { panic!("another cipher") };
    let mut encrypter = aead.encrypter(key, iv);
    let mut say = |offset, typ, payload: &[u8]| record(&mut *encrypter, sequence + offset, typ, payload);
    let reads = [
        say(0, ContentType::ApplicationData, b""),
        say(1, ContentType::ApplicationData, b"ping"),
        // A KeyUpdate that asks for none (RFC 8446 §4.6.3), in two records.
        say(2, ContentType::Handshake, &[24, 0, 0]),
    ];
    pair.server.socket.reads.push_back(reads.concat());
    assert_eq!(pair.reads(100), b"ping");
    assert!(pair.read(100).is_pending());
    assert!(pair.server.left.is_some());
    pair.wrote(b"pong");
    let mut rest = say(3, ContentType::Handshake, &[1, 0]);
    let last = rest.split_off(9);
    pair.server.socket.reads.extend([rest]);
    assert!(pair.read(100).is_pending());
    pair.wrote(b"pong");
    pair.server.socket.reads.extend([last]);
    assert!(pair.read(100).is_pending());
    assert!(pair.server.left.is_none());
    pair.wrote(b"pong");
}

#[tokio::test]
async fn all_arrives_over_a_socket_that_takes_little() {
    for version in BOTH {
        let (near, far) = tokio::io::duplex(300);
        let sent = bytes(200_000);
        let mut heard = Vec::new();
        let client = async {
            let connector = TlsConnector::from(Arc::new(client(&[version])));
            let stream = connector.connect("localhost".try_into().unwrap(), far).await.unwrap();
            let (mut source, mut sink) = tokio::io::split(stream);
            let say = async {
                sink.write_all(&sent).await.unwrap();
                sink.shutdown().await.unwrap();
            };
            tokio::join!(say, source.read_to_end(&mut heard)).1.unwrap();
        };
        let server = async {
            let stream = TlsStream::accept(Arc::new(server(&[version])), near).await.unwrap();
            let (mut source, mut sink) = tokio::io::split(stream);
            tokio::io::copy(&mut source, &mut sink).await.unwrap();
            sink.shutdown().await.unwrap();
        };
        let echo = async { tokio::join!(client, server) };
        tokio::time::timeout(Duration::from_secs(20), echo).await.unwrap();
        assert!(heard == sent);
    }
}
