//! RFC 6455 §5.5.1, §7 and §7.4: the closing handshake, its codes, and who ends the TCP connection when.

use std::time::Duration;

use bytes::Bytes;
use conformance::edge::{Edge, Settings};
use conformance::wire::websocket::opcode;
use tokio::io::AsyncWriteExt as _;
use tokio::time::Instant;

use super::{
    CLOSE, INVALID_PAYLOAD, PATHS, PING, PROTOCOL_ERROR, Raw, TEXT, close_frame, edge, frame, refused,
};

/// Below what the server gives a peer for its part of a closing handshake, and far above what it needs itself.
const AT_ONCE: Duration = Duration::from_millis(1500);

/// §7.4.1 without those that must not be on the wire, what IANA has added since, and §7.4.2.
const CODES: [u16; 16] =
    [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999];

#[tokio::test]
async fn section_5_5_1_a_close_is_answered_with_its_code_and_the_server_ends_tcp() {
    let edge = edge().await;
    for path in PATHS {
        for code in CODES {
            let mut raw = Raw::open(&edge, path).await;
            raw.send(&close_frame(code, b"")).await;
            assert_eq!(raw.close().await.0, Some(code), "{path}");
            // §7.1.1: the server is the one to close first. Our side is still open.
            raw.end().await;
        }
    }
}

#[tokio::test]
async fn section_7_1_5_a_close_without_a_code_is_answered_without_one() {
    let edge = edge().await;
    for path in PATHS {
        let mut raw = Raw::open(&edge, path).await;
        raw.send(&frame(CLOSE, b"")).await;
        assert_eq!(raw.frame().await, (CLOSE, Bytes::new()), "{path}");
        raw.end().await;
    }
}

#[tokio::test]
async fn section_5_5_1_a_reason_is_utf8_of_any_length_that_fits() {
    let edge = edge().await;
    for path in PATHS {
        for reason in ["bye".to_owned(), "\u{1f30a}".repeat(30), "r".repeat(123)] {
            let mut raw = Raw::open(&edge, path).await;
            raw.send(&close_frame(1000, reason.as_bytes())).await;
            assert_eq!(raw.close().await.0, Some(1000), "{path} {reason:?}");
            raw.end().await;
        }
    }
    for bad in [&b"\xff"[..], b"fine \xc3\x28", b"cut \xe2\x82", b"\xed\xa0\x80"] {
        refused(&edge, "a reason that is no UTF-8", &close_frame(1000, bad), INVALID_PAYLOAD).await;
    }
}

#[tokio::test]
async fn section_5_5_1_half_a_code_is_none() {
    let edge = edge().await;
    for byte in [0, 3, 0xff] {
        refused(&edge, "half a code", &frame(CLOSE, &[byte]), PROTOCOL_ERROR).await;
    }
}

/// §7.4.1: 1004 is reserved, 1005, 1006 and 1015 are for what never was on a wire. §7.4.2: nothing is below 1000 or
/// above 4999, and 1016 to 2999 are not given out.
#[tokio::test]
async fn section_7_4_codes_that_must_not_be_sent_are_refused() {
    let edge = edge().await;
    for code in [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
        refused(&edge, &format!("code {code}"), &close_frame(code, b""), PROTOCOL_ERROR).await;
    }
}

#[tokio::test]
async fn section_5_5_1_nothing_behind_a_close_is_looked_at() {
    let edge = edge().await;
    for path in PATHS {
        for behind in [frame(TEXT, b"late"), frame(PING, b"late"), close_frame(4000, b""), vec![0xff; 40]] {
            let mut raw = Raw::open(&edge, path).await;
            raw.send(&[close_frame(1000, b""), behind].concat()).await;
            assert_eq!(raw.close().await.0, Some(1000), "{path}");
            raw.end().await;
        }
    }
}

#[tokio::test]
async fn section_5_5_1_what_came_before_a_close_is_answered_before_it() {
    let edge = edge().await;
    let mut raw = Raw::open(&edge, "/echo").await;
    let large = vec![b'l'; 60_000];
    raw.send(&[frame(TEXT, b"first"), frame(TEXT, &large), close_frame(1001, b"")].concat()).await;
    assert_eq!(raw.frame().await, (TEXT, Bytes::from_static(b"first")));
    assert_eq!(raw.frame().await.1, large);
    assert_eq!(raw.close().await.0, Some(1001));
    raw.end().await;
}

#[tokio::test]
async fn section_5_4_a_close_may_stand_between_fragments() {
    let edge = edge().await;
    for path in PATHS {
        let mut raw = Raw::open(&edge, path).await;
        raw.send(&[frame(opcode::TEXT, b"never "), close_frame(1000, b"changed my mind")].concat()).await;
        assert_eq!(raw.close().await.0, Some(1000), "{path}");
        raw.end().await;
    }
}

/// §7.1.7: what comes after a failure is not processed, a Close neither. So there is nothing to wait for, and the
/// server ends its side behind its own Close.
#[tokio::test]
async fn section_7_1_7_after_a_violation_the_server_ends_tcp_at_once() {
    let edge = edge().await;
    for path in PATHS {
        for answers in [true, false] {
            let mut raw = Raw::open(&edge, path).await;
            raw.send(&frame(opcode::PING, b"")).await;
            assert_eq!(raw.close().await.0, Some(PROTOCOL_ERROR), "{path}");
            if answers {
                raw.send(&close_frame(PROTOCOL_ERROR, b"")).await;
            }
            let begun = Instant::now();
            raw.end().await;
            assert!(
                begun.elapsed() < AT_ONCE,
                "{path}: {:?}, our own Close sent: {answers}",
                begun.elapsed()
            );
        }
    }
}

/// §7.1.1 warns of it: a socket that is closed with bytes unread sends a reset, and that takes the Close back.
#[tokio::test]
async fn section_7_1_1_the_close_arrives_however_much_comes_behind_a_violation() {
    let edge = edge().await;
    for path in PATHS {
        let mut raw = Raw::open(&edge, path).await;
        raw.send(&[frame(opcode::PING, b""), vec![0x55; 300_000]].concat()).await;
        // The bytes are there, and the server has had the time to end before it read them.
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(raw.close().await.0, Some(PROTOCOL_ERROR), "{path}");
        raw.end().await;
    }
}

/// §7.1.5, §7.1.7: a peer that ends TCP without a Close is gone (1006), and gets none either. Over plain TCP, for TLS has
/// an end of its own that would come before.
#[tokio::test]
async fn section_7_1_5_a_connection_that_ends_without_a_close_is_ended() {
    let edge = Edge::named_or_started(&Settings::profile().over_tcp()).await.unwrap();
    for path in PATHS {
        for before in
            [Vec::new(), frame(opcode::TEXT, b"half a message"), frame(TEXT, b"half a frame")[..9].to_vec()]
        {
            let mut raw = Raw::open(&edge, path).await;
            raw.send(&before).await;
            raw.stream.shutdown().await.unwrap();
            raw.end().await;
        }
    }
}
