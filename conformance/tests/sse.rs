//! What an event stream is made of, to the byte: its head, its lines (WHATWG HTML §9.2.5), where an `id:` stands, that no
//! payload breaks an event, that the envelopes are those of the other transports, and how it ends.
#![expect(clippy::unwrap_used, reason = "in a check a failed unwrap is the report")]

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use conformance::edge::Settings;
use conformance::envelope::Position;
use conformance::feed::{Feed, Start, Subscription, Transport};
use conformance::room::{Room, told};
use conformance::wire::event_source::EventSource;
use conformance::wire::{Connection, Dial, RawEvents, Request, Written, written};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, sleep, timeout};

/// The server says by then what it has to say at once.
const SOON: Duration = Duration::from_secs(5);

/// Opens the stream of all channels and reads until the last of them is joined.
async fn joined(room: &Room, more: &str) -> RawEvents {
    let mut stream = RawEvents::open(&room.edge.target, &room.subscribe("/v1/sse", more)).await.unwrap();
    for _ in 0..=room.channels.len() {
        timeout(SOON, stream.next()).await.unwrap().unwrap().unwrap();
    }
    stream
}

fn kind(json: &str) -> String {
    told(json).unwrap().0
}

fn seconds_since_1970() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A token that runs out soon.
fn short_lived(room: &Room, seconds: u64) -> String {
    let claims = json!({
        "sub": "reader", "exp": seconds_since_1970() + seconds, "channels": {"join": ["*"]}
    });
    room.edge.target.tokens.mint(&claims)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_head_is_what_browsers_and_proxies_need() {
    let room = Room::open(&Settings::profile(), 1).await.unwrap();
    let stream = joined(&room, "").await;
    let head = &stream.head;
    assert_eq!(head.status, 200);
    for (name, wanted) in [
        // WHATWG HTML §9.2.3: any other type fails the connection for good.
        ("content-type", Some("text/event-stream")),
        ("cache-control", Some("no-cache, no-transform")),
        ("x-accel-buffering", Some("no")),
        // RFC 9112 §6: a body without a known length is chunked, and nothing else.
        ("transfer-encoding", Some("chunked")),
        ("content-length", None),
        ("content-encoding", None),
        ("connection", None),
    ] {
        let values: Vec<_> = head.headers.iter().filter(|(found, _)| found == name).collect();
        assert_eq!(values.first().map(|(_, value)| value.as_str()), wanted, "{name}: {head:?}");
        assert!(values.len() <= 1, "{name} more than once: {head:?}");
    }
    // RFC 9110 §6.6.1.
    assert!(head.header("date").is_some_and(|date| date.ends_with(" GMT")), "{head:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_http_1_0_the_same_stream_ends_with_the_connection() {
    let mut room = Room::open(&Settings::profile(), 1).await.unwrap();
    for connection in ["", "connection: keep-alive\r\n"] {
        let mut stream = room.edge.target.connect(Dial::default()).await.unwrap();
        let token = short_lived(&room, 2);
        let request = format!(
            "GET /v1/sse?channels={} HTTP/1.0\r\n{connection}authorization: Bearer {token}\r\n\r\n",
            room.list()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        sleep(Duration::from_millis(300)).await;
        room.publish(0, "\"over HTTP/1.0\"").await.unwrap();
        let mut answer = Vec::new();
        timeout(SOON, stream.read_to_end(&mut answer)).await.expect("the body has no other end").unwrap();
        let split = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(answer[..split].to_ascii_lowercase()).unwrap();
        assert!(head.starts_with("http/1.0 200 ") || head.starts_with("http/1.1 200 "), "{head}");
        // RFC 9112 §6.1: no transfer coding for a client of 1.0. §9.3: nothing persists without a length.
        for forbidden in ["transfer-encoding", "content-length", "keep-alive"] {
            assert!(!head.contains(forbidden), "{forbidden}: {head}");
        }
        let kinds: Vec<_> = written(&answer[split + 4..])
            .unwrap()
            .into_iter()
            .map(|one| match one {
                Written::Envelope { json, .. } => kind(json),
                other => format!("{other:?}"),
            })
            .collect();
        let wanted = ["Retry(2000)", "connection_established", "room_joined", "message", "error"];
        assert_eq!(kinds, wanted);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_opens_with_retry_then_who_one_is_then_each_channel() {
    let room = Room::open(&Settings::profile(), 3).await.unwrap();
    let stream = joined(&room, "").await;
    let all = written(&stream.body).unwrap();
    assert_eq!(all.len(), 2 + 3, "{all:?}");
    assert!(matches!(all[0], Written::Retry(1000..=10_000)), "{:?}", all[0]);
    let Written::Envelope { id: None, json } = all[1] else { panic!("{:?}", all[1]) };
    assert_eq!(kind(json), "connection_established");
    for (one, channel) in all[2..].iter().zip(&room.channels) {
        let Written::Envelope { id: Some(id), json } = *one else { panic!("{one:?}") };
        let joined: Value = serde_json::from_str(json).unwrap();
        assert_eq!(joined["type"], "room_joined");
        assert_eq!(joined["payload"]["channel"], channel.as_str());
        assert_eq!(joined["payload"]["cursor"], id, "one position, one string");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_stands_where_the_cursor_moves_and_nowhere_else() {
    let mut room = Room::open(&Settings::profile(), 1).await.unwrap();
    room.publish(0, "0").await.unwrap();
    room.token = short_lived(&room, 4);
    let request = room.subscribe("/v1/sse", "&presence=1").header("last-event-id", "of no edge");
    let mut stream = RawEvents::open(&room.edge.target, &request).await.unwrap();
    timeout(SOON, stream.next()).await.unwrap().unwrap();
    let bob = Subscription { token: room.edge.target.tokens.user("bob"), ..room.reader() };
    let bob = Feed::open(&bob, Transport::WebSocket, &Start::FreshByQuery).await.unwrap();
    for typing in ["typing_start", "typing_stop"] {
        let payload = json!({"channel": room.channels[0]});
        room.send("bob", &json!([{"type": typing, "payload": payload}])).await.unwrap();
    }
    room.publish(0, "1").await.unwrap();
    drop(bob);
    timeout(2 * SOON, stream.read_to_end()).await.expect("the token runs out").unwrap();

    let mut with_id: BTreeMap<String, bool> = BTreeMap::new();
    let mut ids = Vec::new();
    for one in written(&stream.body).unwrap() {
        let Written::Envelope { id, json } = one else { continue };
        let had = *with_id.entry(kind(json)).or_insert(id.is_some());
        assert_eq!(had, id.is_some(), "{json}");
        ids.extend(id);
    }
    let wanted = [
        ("connection_established", false),
        ("room_joined", true),
        ("gap", true),
        ("message", true),
        ("presence_update", false),
        ("typing_start", false),
        ("typing_stop", false),
        ("error", false),
    ];
    let wanted: BTreeMap<_, _> = wanted.into_iter().map(|(kind, id)| (kind.to_owned(), id)).collect();
    assert_eq!(with_id, wanted, "{}", String::from_utf8_lossy(&stream.body));
    let moves = ids.len();
    ids.dedup();
    assert_eq!(ids.len(), moves, "each of them moves the cursor: {ids:?}");
    assert_eq!(stream.source.last_event_id(), *ids.last().unwrap(), "what has no id leaves it alone");
}

/// Payloads that a careless server would break its own stream with, as JSON in the sender's spelling.
fn payloads() -> Vec<String> {
    let mut payloads: Vec<String> = [
        r#""\n\r\r\n\u000a\u000d""#,
        r#""\ndata: {}\nid: evil\n\nevent: evil\nretry: 1\n: evil\n\n""#,
        "{\r\n \"id: a\" :\t[ 1.50,\r2 ],\n\n \"data:\"\r\r: null\n}",
        "\"\u{2028}\u{2029}\u{85}\u{7f}\u{fffe}\u{ffff}\"",
        r#""\u0000\u0001\u001f\u007f\u2028""#,
        "\"\u{feff}\"",
        "\"\u{1f600}\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467} \\ud83d\\ude00\"",
        r#""\/ \\ \" \b\f\t""#,
        "\"data: x\"",
        "\":\"",
        "\"\"",
        "0",
        "-0.0e-7",
        "12345678901234567890.123456789012345678901234567890",
        "true",
        "null",
        "[]",
        r#"{"a":1,"a":2,"":{}}"#,
    ]
    .map(str::to_owned)
    .into();
    payloads.push(format!("\"{}\"", "\u{1f600}\\n".repeat(60 * 1024 / 6)));
    payloads.push(format!("[{}0]", "1,\n".repeat(20 * 1024)));
    payloads
}

/// Envelopes of messages as they came over one transport, until there are as many as wanted.
async fn messages(room: &Room, transport: Transport, start: &Start, wanted: usize) -> Vec<Bytes> {
    let subscription = room.reader();
    let mut feed = Feed::open(&subscription, transport, start).await.unwrap();
    let (mut messages, mut envelopes) = (Vec::new(), VecDeque::new());
    while messages.len() < wanted {
        timeout(SOON, feed.next(&mut envelopes)).await.unwrap().unwrap();
        messages
            .extend(envelopes.drain(..).filter(|json| kind(std::str::from_utf8(json).unwrap()) == "message"));
    }
    messages
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_payload_breaks_an_event_and_every_transport_carries_the_same_bytes() {
    let mut room = Room::open(&Settings::profile(), 1).await.unwrap();
    let mut live = joined(&room, "").await;
    let begin = Start::CursorByQuery(live.source.last_event_id().to_owned());
    let opened = live.body.len();
    let payloads = payloads();
    for payload in &payloads {
        room.publish(0, payload).await.unwrap_or_else(|error| panic!("{error}: {payload:.80}"));
    }
    let mut dispatched = Vec::new();
    for _ in &payloads {
        dispatched.push(timeout(SOON, live.next()).await.unwrap().unwrap().unwrap());
    }
    let lines = written(&live.body[opened..]).unwrap();
    assert_eq!(lines.len(), payloads.len());
    for ((one, event), payload) in lines.iter().zip(&dispatched).zip(&payloads) {
        let Written::Envelope { id: Some(id), json } = *one else { panic!("{one:?}") };
        // What a client is given is what was written, whole.
        assert_eq!(
            (event.data.as_str(), event.kind.as_str(), event.last_event_id.as_str()),
            (json, "message", id)
        );
        // As its sender spelled it, but for line breaks between tokens.
        let data = payload.replace(['\r', '\n'], " ");
        assert!(json.contains(&format!(r#","data":{data},"epoch":"#)), "{payload:.80} became {json:.400}");
    }
    let sse: Vec<_> = dispatched.into_iter().map(|event| Bytes::from(event.data)).collect();
    let history = Start::History(payloads.len());
    for (transport, start) in [
        (Transport::WebSocket, &begin),
        (Transport::WebSocket, &history),
        (Transport::Sse, &begin),
        (Transport::Sse, &history),
        (Transport::Poll, &begin),
        (Transport::Poll, &history),
    ] {
        let other = messages(&room, transport, start, payloads.len()).await;
        assert!(other == sse, "{transport} by {} differs from what the live stream said", start.name());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_said_to_each_alone_has_the_same_payload_on_every_transport() {
    let mut room = Room::open(&Settings::profile(), 2).await.unwrap();
    for channel in 0..2 {
        room.publish(channel, "1").await.unwrap();
    }
    let foreign = Start::Recover(vec![Position { epoch: "000000000001".to_owned(), seq: 1 }; 2]);
    let mut by_transport = Vec::new();
    for transport in Transport::ALL {
        let subscription = room.reader();
        let mut feed = Feed::open(&subscription, transport, &foreign).await.unwrap();
        let (mut all, mut envelopes) = (Vec::new(), VecDeque::new());
        // Per channel a room_joined, a gap and a message; then silence.
        while let Ok(next) = timeout(Duration::from_millis(300), feed.next(&mut envelopes)).await {
            next.unwrap();
            all.extend(envelopes.drain(..).map(|json| told(std::str::from_utf8(&json).unwrap()).unwrap()));
        }
        // A WebSocket that joins twice has one cursor per join; its channels' envelopes may come mixed.
        all.retain(|(kind, _)| kind == "gap" || kind == "message");
        all.sort();
        assert_eq!(
            all.iter().map(|(kind, _)| kind.as_str()).collect::<Vec<_>>(),
            ["gap", "gap", "message", "message"]
        );
        by_transport.push(all);
    }
    assert_eq!(by_transport[0], by_transport[1]);
    assert_eq!(by_transport[1], by_transport[2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passing_envelopes_are_the_same_bytes_on_every_transport() {
    let mut room = Room::open(&Settings::profile(), 1).await.unwrap();
    let mut feeds = Vec::new();
    for transport in Transport::ALL {
        let subscription = room.reader();
        let mut feed = Feed::open(&subscription, transport, &Start::FreshByQuery).await.unwrap();
        let mut envelopes = VecDeque::new();
        while !envelopes.iter().any(|json: &Bytes| kind(std::str::from_utf8(json).unwrap()) == "room_joined")
        {
            timeout(SOON, feed.next(&mut envelopes)).await.unwrap().unwrap();
        }
        feeds.push(feed);
    }
    let payload = json!({"channel": room.channels[0]});
    room.send("bob", &json!([{"type": "typing_start", "payload": payload}])).await.unwrap();
    let mut heard = Vec::new();
    for feed in &mut feeds {
        let mut envelopes = VecDeque::new();
        timeout(SOON, feed.next(&mut envelopes)).await.unwrap().unwrap();
        heard.push(envelopes.pop_front().unwrap());
    }
    assert_eq!(kind(std::str::from_utf8(&heard[0]).unwrap()), "typing_start");
    assert!(heard.iter().all(|envelope| *envelope == heard[0]), "{heard:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_comment_comes_every_fifteen_seconds_whatever_else_does() {
    let mut room = Room::open(&Settings::profile(), 1).await.unwrap();
    let nobody_speaks = room.get("/v1/sse?channels=room:quiet");
    let mut quiet = RawEvents::open(&room.edge.target, &nobody_speaks).await.unwrap();
    let mut busy = joined(&room, "").await;
    quiet.next().await.unwrap();
    let begun = Instant::now();
    let mut comments = [None, None];
    while comments.iter().any(Option::is_none) {
        assert!(begun.elapsed() < Duration::from_secs(18), "comments after {comments:?}");
        room.publish(0, "0").await.unwrap();
        for (stream, comment) in [&mut quiet, &mut busy].into_iter().zip(&mut comments) {
            // Events come whole, so what is there by now can be taken apart.
            while let Ok(more) = timeout(Duration::from_millis(50), stream.more()).await {
                assert!(more.unwrap(), "an end");
            }
            let seen = written(&stream.body).unwrap().iter().filter(|one| **one == Written::Comment).count();
            assert!(seen <= 1, "{seen} comments in {:?}", begun.elapsed());
            if seen == 1 && comment.is_none() {
                *comment = Some(begun.elapsed());
            }
        }
    }
    for after in comments.into_iter().flatten() {
        assert!(after > Duration::from_secs(14), "a comment after {after:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_ends_it_with_retry_after_all_that_was_published() {
    let mut room = Room::alone(&Settings::profile().set("listen.drain", "2s"), 1).await.unwrap();
    let mut streams = Vec::new();
    for _ in 0..8 {
        streams.push(joined(&room, "").await);
    }
    for n in 0..10 {
        room.publish(0, &n.to_string()).await.unwrap();
    }
    room.edge.begin_drain().unwrap();
    let mut waits = Vec::new();
    for stream in &mut streams {
        timeout(SOON, stream.read_to_end()).await.expect("the stream ends").expect("with its last chunk");
        let all = written(&stream.body).unwrap();
        let (last, before) = all.split_last().unwrap();
        let Written::Retry(ms) = *last else { panic!("the last event is {last:?}") };
        assert!(ms <= 1000, "half of the window is for coming back: {ms}");
        assert_eq!(stream.source.reconnection_ms(), Some(ms), "what an EventSource will do");
        let messages = before
            .iter()
            .filter(|one| matches!(one, Written::Envelope { json, .. } if kind(json) == "message"));
        assert_eq!(messages.count(), 10);
        assert!(
            before.iter().all(|one| !matches!(one, Written::Envelope { json, .. } if kind(json) == "error")),
            "a restart is no error: {all:?}"
        );
        // RFC 9112 §9.6: and the connection is closed behind the last chunk.
        let after = timeout(SOON, stream.after_end()).await.expect("the connection ends").unwrap();
        assert!(after.is_empty(), "{}", String::from_utf8_lossy(&after));
        waits.push(ms);
    }
    waits.sort_unstable();
    waits.dedup();
    assert!(waits.len() > 1, "all come back in the same moment");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_its_end_the_connection_takes_another_request() {
    let room = Room::open(&Settings::profile(), 1).await.unwrap();
    let mut connection = Connection::open(&room.edge.target).await.unwrap();
    let path = format!("/v1/sse?channels={}", room.list());
    let request = Request::get(&path).bearer(&short_lived(&room, 2));
    let response = timeout(SOON, connection.exchange(&request)).await.expect("the token runs out").unwrap();
    let all = written(&response.body).unwrap();
    let Some(Written::Envelope { id: None, json }) = all.last() else { panic!("{all:?}") };
    assert!(json.contains(r#""code":4002,"reason":"authentication_failed""#), "{json}");
    // RFC 9112 §9.3: the last chunk is its end, so the connection persists.
    connection.send(&room.get(&path)).await.unwrap();
    let mut again = RawEvents::of(connection, EventSource::default()).await.unwrap();
    timeout(SOON, again.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(again.head.status, 200);
}
