//! §3.4, §4 and §6: the preface, the layout of frames, and the definition of each.

use conformance::edge::Edge;
use conformance::wire::h2::code::{COMPRESSION_ERROR, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR, PROTOCOL_ERROR};
use conformance::wire::h2::{self, H2, PREFACE, flag, kind, setting};

use super::Outcome::{Ended, GoAway, Ignored, Reset, Status};
use super::{
    CODES, FIRST, PATH, PING, case, data, fields, get, headers, judge, next, outcome, ping, post, settings,
};

#[tokio::test]
async fn section_3_4_preface() {
    let edge = Edge::named_or_started(&settings()).await.unwrap();
    for wrong in [
        case("another text", b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n\0\0\0\x04\0\0\0\0\0", GoAway(PROTOCOL_ERROR)),
        case("HTTP/1.1", b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", GoAway(PROTOCOL_ERROR)),
        case("no SETTINGS first", [PREFACE, &ping()].concat(), GoAway(PROTOCOL_ERROR)).but(Ignored, FIRST),
        case("a request first", [PREFACE, &get(1)].concat(), GoAway(PROTOCOL_ERROR)).but(Status(200), FIRST),
    ] {
        let wrong = wrong.or(Ended);
        let mut h2 = H2::connect(&edge.target).await.unwrap();
        h2.write(&wrong.bytes).await.unwrap();
        let complaint = wrong.complaint(outcome(&mut h2).await);
        assert_eq!(complaint, None, "{}", wrong.name);
    }
}

/// §6.5.2, §6.5.3: what it announces, and that it acknowledges what it is told.
#[tokio::test]
async fn section_6_5_settings_of_the_server() {
    let edge = Edge::named_or_started(&settings()).await.unwrap();
    let mut h2 = H2::connect(&edge.target).await.unwrap();
    let told = h2.greet(&[(setting::ENABLE_PUSH, 0)]).await.unwrap().parameters();
    let value = |id| told.iter().find(|(found, _)| *found == id).map(|(_, value)| *value);
    assert_eq!(value(setting::MAX_CONCURRENT_STREAMS), Some(100), "{told:?}");
    assert_eq!(value(setting::MAX_HEADER_LIST_SIZE), Some(65_536), "{told:?}");
    // "A server MUST NOT explicitly set this value to 1".
    assert_ne!(value(setting::ENABLE_PUSH), Some(1), "{told:?}");
    for _ in 0..3 {
        h2.write(&h2::settings(&[(setting::INITIAL_WINDOW_SIZE, 70_000)])).await.unwrap();
        let ack = loop {
            let frame = next(&mut h2).await.unwrap();
            if frame.kind == kind::SETTINGS {
                break frame;
            }
        };
        assert!(ack.has(flag::ACK) && ack.payload.is_empty(), "{ack:?}");
    }
}

#[tokio::test]
async fn section_4_1_frames_that_are_not_known() {
    let mut reserved = get(1);
    reserved[5] |= 0x80;
    judge(&[
        case("an unknown type", h2::frame(0x2a, 0, 0, b"whatever"), Ignored),
        case("an unknown type on a stream", h2::frame(0x2a, 0xff, 7, b""), Ignored),
        case("unknown flags", h2::frame(kind::PING, 0xfe, 0, PING), Ignored),
        case("the reserved bit", reserved, Status(200)),
    ])
    .await;
}

#[tokio::test]
async fn section_4_2_frame_size() {
    let too_long = vec![b'1'; 16_385];
    let fits = [b"\"", &too_long[3..], b"\""].concat();
    judge(&[
        case("16,384 bytes", [post(1), data(1, flag::END_STREAM, &fits)].concat(), Status(201)),
        case("DATA of 16,385 bytes", [post(1), data(1, 0, &too_long)].concat(), GoAway(FRAME_SIZE_ERROR))
            .or(Reset(FRAME_SIZE_ERROR)),
        case("HEADERS of 16,385 bytes", h2::frame(kind::HEADERS, 5, 1, &too_long), GoAway(FRAME_SIZE_ERROR)),
        case(
            "SETTINGS of 16,386 bytes",
            h2::frame(kind::SETTINGS, 0, 0, &vec![0; 16_386]),
            GoAway(FRAME_SIZE_ERROR),
        ),
        case("an unknown frame of 16,385 bytes", h2::frame(0x2a, 0, 0, &too_long), GoAway(FRAME_SIZE_ERROR)),
        case(
            "a frame of 2^24-1 bytes",
            [&[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1][..], b"x"].concat(),
            GoAway(FRAME_SIZE_ERROR),
        ),
    ])
    .await;
}

/// RFC 7541: a block that cannot be read leaves the two sides with different tables, so the connection ends.
#[tokio::test]
async fn section_4_3_field_section_compression() {
    let block = |bytes: &[u8]| h2::frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, 1, bytes);
    judge(&[
        case("index 0", block(&[0x80]), GoAway(COMPRESSION_ERROR)).but(GoAway(PROTOCOL_ERROR), CODES),
        case("an index beyond the tables", block(&[0xff, 0x80, 0x01]), GoAway(COMPRESSION_ERROR))
            .but(GoAway(PROTOCOL_ERROR), CODES),
        case(
            "an index of 40 bits",
            block(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
            GoAway(COMPRESSION_ERROR),
        )
        .but(GoAway(PROTOCOL_ERROR), CODES),
        case("a string longer than the block", block(&[0, 5, b'a']), GoAway(COMPRESSION_ERROR))
            .but(GoAway(PROTOCOL_ERROR), CODES),
        case("a block that ends early", block(&[0x82, 0x87, 0x04]), GoAway(COMPRESSION_ERROR))
            .but(GoAway(PROTOCOL_ERROR), CODES),
        case("Huffman with EOS", block(&[0, 0x84, 0xff, 0xff, 0xff, 0xff, 0]), GoAway(COMPRESSION_ERROR))
            .but(GoAway(PROTOCOL_ERROR), CODES),
        case("Huffman padded by zeros", block(&[0, 0x81, 0x18, 1, b'a']), GoAway(COMPRESSION_ERROR))
            .but(GoAway(PROTOCOL_ERROR), CODES),
        case("a table larger than allowed", block(&[0x3f, 0xe1, 0xff, 0x03]), GoAway(COMPRESSION_ERROR))
            .but(GoAway(PROTOCOL_ERROR), CODES),
        case("a table's size behind a field", block(&[0x82, 0x20]), GoAway(COMPRESSION_ERROR))
            .but(GoAway(PROTOCOL_ERROR), CODES),
    ])
    .await;
}

#[tokio::test]
async fn section_6_1_data() {
    let padded = |pad: u8, bytes: &[u8]| data(1, flag::PADDED | flag::END_STREAM, &[&[pad], bytes].concat());
    judge(&[
        case("on stream 0", data(0, 0, b"1"), GoAway(PROTOCOL_ERROR)),
        case("padding", [post(1), padded(3, b"1\0\0\0")].concat(), Status(201)),
        case(
            "nothing but padding",
            [post(1), data(1, flag::PADDED, &[2, 0, 0]), data(1, 1, b"1")].concat(),
            Status(201),
        ),
        case("padding of all", [post(1), padded(2, b"1")].concat(), GoAway(PROTOCOL_ERROR)),
        case("padding beyond all", [post(1), padded(255, b"1")].concat(), GoAway(PROTOCOL_ERROR)),
        case(
            "padded, without its length",
            [post(1), data(1, flag::PADDED, b"")].concat(),
            GoAway(PROTOCOL_ERROR),
        )
        .or(GoAway(FRAME_SIZE_ERROR)),
    ])
    .await;
}

#[tokio::test]
async fn section_6_2_headers() {
    let block = h2::block(&fields("GET", PATH, &[]));
    let with = |flags: u8, before: &[u8], after: &[u8]| {
        h2::frame(kind::HEADERS, flags | 5, 1, &[before, &block, after].concat())
    };
    judge(&[
        case("on stream 0", h2::frame(kind::HEADERS, 5, 0, &block), GoAway(PROTOCOL_ERROR)),
        case("padding", with(flag::PADDED, &[3], &[0; 3]), Status(200)),
        case("a priority", with(flag::PRIORITY, &[0, 0, 0, 0, 200], b""), Status(200)),
        case(
            "padding and priority",
            with(flag::PADDED | flag::PRIORITY, &[1, 0, 0, 0, 3, 0], &[0]),
            Status(200),
        ),
        case(
            "padding beyond all",
            h2::frame(kind::HEADERS, flag::PADDED | 5, 1, &[200, 0x82]),
            GoAway(PROTOCOL_ERROR),
        ),
    ])
    .await;
}

#[tokio::test]
async fn section_6_3_priority_is_ignored() {
    judge(&[
        case("on an idle stream", h2::frame(kind::PRIORITY, 0, 9, &[0, 0, 0, 1, 5]), Ignored),
        case("on stream 0", h2::frame(kind::PRIORITY, 0, 0, &[0, 0, 0, 1, 5]), GoAway(PROTOCOL_ERROR)),
        case(
            "of 4 bytes",
            [post(1), h2::frame(kind::PRIORITY, 0, 1, &[0; 4])].concat(),
            Reset(FRAME_SIZE_ERROR),
        )
        .or(GoAway(FRAME_SIZE_ERROR))
        .but(GoAway(PROTOCOL_ERROR), CODES),
    ])
    .await;
}

#[tokio::test]
async fn section_6_4_rst_stream() {
    judge(&[
        case("on stream 0", h2::reset(0, 8), GoAway(PROTOCOL_ERROR)),
        case("on an idle stream", h2::reset(9, 8), GoAway(PROTOCOL_ERROR)),
        case(
            "of 3 bytes",
            [post(1), h2::frame(kind::RST_STREAM, 0, 1, &[0; 3])].concat(),
            GoAway(FRAME_SIZE_ERROR),
        )
        .but(GoAway(PROTOCOL_ERROR), CODES),
        // §7: unknown codes mean nothing special.
        case("of an unknown code", [post(1), h2::reset(1, 0xff)].concat(), Ignored),
    ])
    .await;
}

#[tokio::test]
async fn section_6_5_settings() {
    let set = |id, value| h2::settings(&[(id, value)]);
    judge(&[
        case("on a stream", h2::frame(kind::SETTINGS, 0, 1, &[]), GoAway(PROTOCOL_ERROR)),
        case("of 5 bytes", h2::frame(kind::SETTINGS, 0, 0, &[0; 5]), GoAway(FRAME_SIZE_ERROR))
            .but(GoAway(PROTOCOL_ERROR), CODES),
        case(
            "an ACK with a payload",
            h2::frame(kind::SETTINGS, flag::ACK, 0, &[0; 6]),
            GoAway(FRAME_SIZE_ERROR),
        )
        .but(GoAway(PROTOCOL_ERROR), CODES),
        case("ENABLE_PUSH of 2", set(setting::ENABLE_PUSH, 2), GoAway(PROTOCOL_ERROR)),
        case("a window of 2^31", set(setting::INITIAL_WINDOW_SIZE, 1 << 31), GoAway(FLOW_CONTROL_ERROR))
            .but(GoAway(PROTOCOL_ERROR), CODES),
        case("frames of 16,383", set(setting::MAX_FRAME_SIZE, 16_383), GoAway(PROTOCOL_ERROR)),
        case("frames of 2^24", set(setting::MAX_FRAME_SIZE, 1 << 24), GoAway(PROTOCOL_ERROR)),
        case("frames of 2^24-1", set(setting::MAX_FRAME_SIZE, (1 << 24) - 1), Ignored),
        case("an unknown one", set(0x2a2a, u32::MAX), Ignored),
        case(
            "the same twice",
            h2::settings(&[(setting::INITIAL_WINDOW_SIZE, 1), (setting::INITIAL_WINDOW_SIZE, 2)]),
            Ignored,
        ),
    ])
    .await;
}

#[tokio::test]
async fn section_6_6_to_6_8_other_frames() {
    let promise = [&4_u32.to_be_bytes()[..], &h2::block(&fields("GET", PATH, &[]))].concat();
    let goaway = |code: u32| [0_u32.to_be_bytes(), code.to_be_bytes()].concat();
    judge(&[
        // §8.4: "A client cannot push."
        case(
            "PUSH_PROMISE",
            [post(1), h2::frame(kind::PUSH_PROMISE, flag::END_HEADERS, 1, &promise)].concat(),
            GoAway(PROTOCOL_ERROR),
        ),
        case("PING on a stream", h2::frame(kind::PING, 0, 1, PING), GoAway(PROTOCOL_ERROR)),
        case("PING of 7 bytes", h2::frame(kind::PING, 0, 0, &PING[1..]), GoAway(FRAME_SIZE_ERROR))
            .but(GoAway(PROTOCOL_ERROR), CODES),
        case("an ACK nobody waits for", h2::frame(kind::PING, flag::ACK, 0, PING), Ignored),
        case("GOAWAY on a stream", h2::frame(kind::GOAWAY, 0, 1, &goaway(0)), GoAway(PROTOCOL_ERROR)),
        case("GOAWAY of 7 bytes", h2::frame(kind::GOAWAY, 0, 0, &[0; 7]), GoAway(FRAME_SIZE_ERROR))
            .or(GoAway(PROTOCOL_ERROR)),
        // A client that goes has been told all: its connection may end as soon as nothing is under way.
        case("GOAWAY of an unknown code", h2::frame(kind::GOAWAY, 0, 0, &goaway(0xff)), GoAway(0)).or(Ended),
    ])
    .await;
}

/// §6.7: "identical opaque data", and an answer has a higher priority than any other frame.
#[tokio::test]
async fn section_6_7_ping() {
    let edge = Edge::named_or_started(&settings()).await.unwrap();
    let mut h2 = H2::open(&edge.target, &[]).await.unwrap();
    for data in [*PING, [0; 8], [0xff; 8]] {
        h2.write(&h2::frame(kind::PING, 0, 0, &data)).await.unwrap();
        let pong = loop {
            let frame = next(&mut h2).await.unwrap();
            if frame.kind == kind::PING {
                break frame;
            }
        };
        assert!(pong.has(flag::ACK) && pong.payload[..] == data, "{pong:?}");
    }
}

#[tokio::test]
async fn section_6_10_continuation() {
    let block = h2::block(&fields("GET", PATH, &[("x", "y")]));
    let (first, rest) = block.split_at(20);
    let begun = h2::frame(kind::HEADERS, flag::END_STREAM, 1, first);
    let more = |stream, flags, bytes: &[u8]| h2::frame(kind::CONTINUATION, flags, stream, bytes);
    let mut bytewise = begun.clone();
    for byte in &rest[..4] {
        bytewise.extend(more(1, 0, &[*byte]));
    }
    bytewise.extend(more(1, flag::END_HEADERS, &rest[4..]));
    judge(&[
        case("a block in two", [begun.clone(), more(1, flag::END_HEADERS, rest)].concat(), Status(200)),
        case("a block in many, some of a byte", bytewise, Status(200)),
        case(
            "an empty one",
            [begun.clone(), more(1, 0, b""), more(1, flag::END_HEADERS, rest)].concat(),
            Status(200),
        ),
        case("another frame in between", [begun.clone(), ping()].concat(), GoAway(PROTOCOL_ERROR)),
        case(
            "an unknown frame in between",
            [begun.clone(), h2::frame(0x2a, 0, 0, b"")].concat(),
            GoAway(PROTOCOL_ERROR),
        ),
        case(
            "of another stream",
            [begun.clone(), more(3, flag::END_HEADERS, rest)].concat(),
            GoAway(PROTOCOL_ERROR),
        ),
        case("of stream 0", [begun, more(0, flag::END_HEADERS, rest)].concat(), GoAway(PROTOCOL_ERROR)),
        case(
            "behind a whole block",
            [post(1), more(1, flag::END_HEADERS, b"")].concat(),
            GoAway(PROTOCOL_ERROR),
        ),
        case("behind nothing", more(1, flag::END_HEADERS, &block), GoAway(PROTOCOL_ERROR)),
        case(
            "trailers in two",
            [
                post(1),
                data(1, 0, b"1"),
                h2::frame(kind::HEADERS, flag::END_STREAM, 1, &h2::block(&[("x-t", "y")])),
                more(1, flag::END_HEADERS, &h2::block(&[("x-u", "z")])),
            ]
            .concat(),
            Status(201),
        ),
        case("a request behind it", [headers(1, 1, &fields("GET", PATH, &[])), get(3)].concat(), Status(200)),
    ])
    .await;
}
