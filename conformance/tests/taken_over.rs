//! Requests of HTTP/1 that wait, an event stream and a poll, among others on their connection: what stands before and
//! behind them on the wire, what HTTP/1.0 makes of them, how often one connection can wait, and what a drain or a client
//! that goes away does to it. A server may well serve who waits in another way than who does not; none of it shows.
#![expect(clippy::unwrap_used, reason = "in a check a failed unwrap is the report")]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use conformance::edge::Settings;
use conformance::polled::Polled;
use conformance::room::{Room, told};
use conformance::wire::event_source::EventSource;
use conformance::wire::{Connection, Dial, RawEvents, Request, Response, Stream, Written, written};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, sleep, timeout};

const SOON: Duration = Duration::from_secs(5);

fn both() -> [Settings; 2] {
    [Settings::profile(), Settings::profile().over_tls()]
}

/// A cursor at the end of each channel.
async fn place(room: &Room) -> String {
    let mut connection = Connection::open(&room.edge.target).await.unwrap();
    Polled::of(&connection.exchange(&room.subscribe("/v1/poll", "")).await.unwrap()).unwrap().cursor
}

fn poll(room: &Room, cursor: &str, wait: u64) -> Request {
    room.subscribe("/v1/poll", &format!("&cursor={cursor}&wait={wait}"))
}

/// A stream that its token ends after about so many seconds.
fn short_stream(room: &Room, seconds: u64) -> Request {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = json!({"sub": "reader", "exp": now + seconds, "channels": {"join": ["*"]}});
    Request::get(format!("/v1/sse?channels={}", room.list())).bearer(&room.edge.target.tokens.mint(&claims))
}

fn short(room: &Room) -> Request {
    room.get(&format!("/v1/channels/{}/presence", room.channels[0]))
}

/// All of them in one write.
async fn pipeline(room: &Room, requests: &[&Request]) -> Connection {
    let mut connection = Connection::open(&room.edge.target).await.unwrap();
    let authority = room.edge.target.authority();
    let bytes: Vec<u8> = requests.iter().flat_map(|request| request.to_bytes(&authority)).collect();
    connection.stream().write_all(&bytes).await.unwrap();
    connection.stream().flush().await.unwrap();
    connection
}

async fn answer(connection: &mut Connection) -> Response {
    timeout(2 * SOON, connection.response()).await.expect("an answer").unwrap()
}

/// RFC 9112 §9.3.2: answered in the order of the requests, each whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_around_polls_are_answered_in_their_order() {
    for settings in both() {
        let mut room = Room::open(&settings, 1).await.unwrap();
        let cursor = place(&room).await;
        let (short, long) = (short(&room), poll(&room, &cursor, 60));
        let requests = [&short, &short, &long, &short, &poll(&room, &cursor, 0), &long, &short];
        let mut connection = pipeline(&room, &requests).await;
        for _ in 0..2 {
            assert!(answer(&mut connection).await.json().unwrap()["total"].is_u64());
        }
        // What comes later, in pieces, stands behind what was there.
        let authority = room.edge.target.authority();
        for piece in short.to_bytes(&authority).chunks(40) {
            connection.stream().write_all(piece).await.unwrap();
            connection.stream().flush().await.unwrap();
            sleep(Duration::from_millis(5)).await;
        }
        assert!(timeout(Duration::from_millis(200), connection.head()).await.is_err(), "it does not wait");
        room.publish(0, "\"news\"").await.unwrap();
        for number in 0..6 {
            let response = answer(&mut connection).await;
            if [1, 4, 5].contains(&number) {
                assert!(response.json().unwrap()["total"].is_u64(), "{number}: {response:?}");
            } else {
                let polled = Polled::of(&response).unwrap();
                assert_eq!(polled.envelopes.len(), 1, "{number}: {}", polled.raw);
            }
            assert_eq!(response.head.header("connection"), None, "{number}");
        }
    }
}

/// The same around a stream that ends while its connection lives on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_around_a_stream_are_answered_in_their_order() {
    for settings in both() {
        let mut room = Room::open(&settings, 1).await.unwrap();
        let cursor = place(&room).await;
        let (short, stream) = (short(&room), short_stream(&room, 3));
        let requests = [&short, &stream, &short, &poll(&room, &cursor, 60), &short];
        let mut connection = pipeline(&room, &requests).await;
        assert!(answer(&mut connection).await.json().unwrap()["total"].is_u64());
        room.publish(0, "\"in the stream\"").await.unwrap();
        let events = answer(&mut connection).await;
        assert_eq!(events.head.header("transfer-encoding"), Some("chunked"));
        let kinds: Vec<_> = written(&events.body)
            .unwrap()
            .into_iter()
            .map(|one| match one {
                Written::Envelope { json, .. } => told(json).unwrap().0,
                other => format!("{other:?}"),
            })
            .collect();
        assert_eq!(kinds, ["Retry(2000)", "connection_established", "room_joined", "message", "error"]);
        assert!(answer(&mut connection).await.json().unwrap()["total"].is_u64());
        assert_eq!(Polled::of(&answer(&mut connection).await).unwrap().envelopes.len(), 1);
        assert!(answer(&mut connection).await.json().unwrap()["total"].is_u64());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_connection_waits_again_and_again() {
    for settings in both() {
        let mut room = Room::open(&settings, 1).await.unwrap();
        let mut cursor = place(&room).await;
        let mut connection = Connection::open(&room.edge.target).await.unwrap();
        for (wait, news) in [(1, false), (60, true), (2, false), (60, true), (0, false), (60, true)] {
            let begun = Instant::now();
            connection.send(&poll(&room, &cursor, wait)).await.unwrap();
            if news {
                sleep(Duration::from_millis(300)).await;
                room.publish(0, "1").await.unwrap();
            }
            let response = answer(&mut connection).await;
            let polled = Polled::of(&response).unwrap();
            assert_eq!(polled.envelopes.len(), usize::from(news), "after {wait} s: {}", polled.raw);
            if !news {
                assert!(begun.elapsed() + Duration::from_millis(50) > Duration::from_secs(wait));
            }
            assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
            assert_eq!(response.head.header("connection"), None);
            // RFC 9110 §6.6.1.
            assert!(response.head.header("date").is_some_and(|date| date.ends_with(" GMT")));
            cursor = polled.cursor;
        }
        connection.send(&room.subscribe("/v1/sse", "")).await.unwrap();
        let mut stream = RawEvents::of(connection, EventSource::default()).await.unwrap();
        timeout(SOON, stream.next()).await.unwrap().unwrap().unwrap();
    }
}

/// An answer that comes late has the headers of one that comes at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_answer_has_the_headers_of_a_prompt_one() {
    let settings = Settings::profile().set("origins.allow", ["https://app.example.com"]);
    let mut room = Room::alone(&settings, 1).await.unwrap();
    for origin in [None, Some("https://app.example.com")] {
        for close in [false, true] {
            let cursor = place(&room).await;
            let mut heads = Vec::new();
            for late in [true, false] {
                let mut request = poll(&room, &cursor, 60);
                if let Some(origin) = origin {
                    request = request.header("origin", origin);
                }
                if close {
                    request = request.header("connection", "close");
                }
                let mut connection = Connection::open(&room.edge.target).await.unwrap();
                connection.send(&request).await.unwrap();
                if late {
                    sleep(Duration::from_millis(200)).await;
                    room.publish(0, "1").await.unwrap();
                }
                let mut head = answer(&mut connection).await.head;
                head.headers.retain(|(name, _)| name != "date");
                head.headers.sort();
                heads.push((head.status, head.headers));
                if close {
                    let end = timeout(SOON, connection.stream().read(&mut [0; 64])).await;
                    assert_eq!(end.expect("it ends").unwrap(), 0);
                }
            }
            assert_eq!(heads[0], heads[1]);
            let has = |name: &str| heads[0].1.iter().any(|(found, _)| found == name);
            assert_eq!(has("access-control-allow-origin"), origin.is_some());
            assert!(has("vary"));
            assert_eq!(has("connection"), close);
        }
    }
}

/// RFC 9112 §9.3: it persists if it asks for that; it knows no chunks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_http_1_0_wait_as_well() {
    let mut room = Room::open(&Settings::profile(), 1).await.unwrap();
    for (connection, polls) in [("", 1), ("connection: keep-alive\r\n", 2)] {
        let cursor = place(&room).await;
        let list = room.list();
        let request = |wait: u64, connection: &str| {
            format!(
                "GET /v1/poll?channels={list}&cursor={cursor}&wait={wait} HTTP/1.0\r\n{connection}authorization: Bearer {}\r\n\r\n",
                room.token
            )
        };
        let requests = request(1, connection) + &request(60, "");
        let mut stream = room.edge.target.connect(Dial::default()).await.unwrap();
        stream.write_all(requests.as_bytes()).await.unwrap();
        sleep(Duration::from_millis(1500)).await;
        room.publish(0, "1").await.unwrap();
        let mut text = String::new();
        timeout(SOON, stream.read_to_string(&mut text)).await.expect("it ends").unwrap();
        assert_eq!(text.matches(" 200 OK\r\n").count(), polls, "{text}");
        assert_eq!(text.matches("connection: keep-alive").count(), polls - 1, "{text}");
        assert!(!text.contains("transfer-encoding"), "{text}");
        for part in text.split("HTTP/1.").skip(1) {
            let (head, body) = part.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("content-length: {}", body.len())), "{head}\n{body}");
        }
    }
}

/// A `GET` may have a body (RFC 9110 §9.3.1), which means nothing here: it is no request, either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_of_one_that_waits_is_no_request() {
    let room = Room::open(&Settings::profile(), 1).await.unwrap();
    let cursor = place(&room).await;
    let authority = room.edge.target.authority();
    let body = String::from_utf8(short(&room).to_bytes(&authority)).unwrap();
    let head = String::from_utf8(poll(&room, &cursor, 1).to_bytes(&authority)).unwrap();
    let head = head.strip_suffix("\r\n").unwrap().to_owned();
    for in_pieces in [false, true] {
        let mut stream = room.edge.target.connect(Dial::default()).await.unwrap();
        let framed = format!("{head}content-length: {}\r\n\r\n", body.len());
        stream.write_all(framed.as_bytes()).await.unwrap();
        if in_pieces {
            sleep(Duration::from_millis(200)).await;
        }
        stream.write_all(body.as_bytes()).await.unwrap();
        let mut text = String::new();
        timeout(SOON, stream.read_to_string(&mut text)).await.expect("it ends").unwrap();
        assert_eq!(text.matches("HTTP/1.1 200 OK\r\n").count(), 1, "{text}");
        assert!(text.contains("connection: close\r\n"), "{text}");
    }
}

/// A token that was good on a connection is looked at again each time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_good_no_longer_than_it_is_anywhere() {
    let mut room = Room::alone(&Settings::profile(), 1).await.unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    for (name, end) in [("short", now + 4), ("taken-back", now + 600)] {
        let claims = json!({"sub": name, "jti": name, "exp": end, "channels": {"join": ["*"]}});
        room.token = room.edge.target.tokens.mint(&claims);
        let mut cursor = place(&room).await;
        let mut connection = Connection::open(&room.edge.target).await.unwrap();
        for _ in 0..3 {
            connection.send(&poll(&room, &cursor, 60)).await.unwrap();
            sleep(Duration::from_millis(100)).await;
            room.publish(0, "1").await.unwrap();
            cursor = Polled::of(&answer(&mut connection).await).unwrap().cursor;
        }
        // Somebody else's, in between, is somebody else.
        let other =
            Request::get("/v1/poll?channels=user:other").bearer(&room.edge.target.tokens.user("other"));
        answer_of(&mut connection, &other).await.expect_status(200).unwrap();
        answer_of(&mut connection, &poll(&room, &cursor, 0)).await.expect_status(200).unwrap();
        if name == "taken-back" {
            let mut admin = Connection::open(room.edge.admin.as_ref().unwrap()).await.unwrap();
            let revoke = Request::post("/revocations", &json!({"jti": name, "seconds": 600}));
            assert!((200..300).contains(&admin.exchange(&revoke).await.unwrap().head.status));
        } else {
            sleep(Duration::from_secs(4)).await;
        }
        let refused = answer_of(&mut connection, &poll(&room, &cursor, 0)).await;
        assert_eq!(refused.head.status, 401, "{name}");
        assert_eq!(refused.json().unwrap()["code"], 4002, "{name}");
        // The connection is good all the same.
        answer_of(&mut connection, &other).await.expect_status(200).unwrap();
    }
}

/// Behind a late answer a connection is idle as any other: for so long, and with so long for the next head.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_late_answer_time_runs_as_anywhere() {
    let settings = Settings::profile().set("listen.idle_timeout", "3s").set("listen.request_timeout", "1s");
    for settings in [settings.clone(), settings.over_tls()] {
        let room = Room::alone(&settings, 1).await.unwrap();
        // One whose time as a poll would be over before that as an idle connection, and one with more.
        for (wait, begins) in [(1, false), (60, false), (60, true)] {
            let cursor = place(&room).await;
            let mut connection = pipeline(&room, &[&poll(&room, &cursor, wait)]).await;
            sleep(Duration::from_millis(100)).await;
            // On a connection of its own, since time runs on the room's as well.
            let news = Request::post(format!("/v1/channels/{}/messages", room.channels[0]), &json!(1));
            let news = news.bearer(&room.edge.target.tokens.server("publisher"));
            let mut publisher = Connection::open(&room.edge.target).await.unwrap();
            answer_of(&mut publisher, &news).await.expect_status(201).unwrap();
            assert_eq!(Polled::of(&answer(&mut connection).await).unwrap().envelopes.len(), 1);
            sleep(Duration::from_millis(1500)).await;
            let mut expected = Duration::from_millis(1500);
            if begins {
                connection.stream().write_all(b"GET /v1/poll").await.unwrap();
                connection.stream().flush().await.unwrap();
                expected = Duration::from_secs(1);
            }
            let begun = Instant::now();
            let mut rest = Vec::new();
            timeout(SOON, connection.stream().read_to_end(&mut rest)).await.expect("it ends").unwrap();
            let took = begun.elapsed();
            assert!(
                rest.is_empty() && took + Duration::from_millis(100) > expected,
                "{wait} {begins}: {took:?}"
            );
            assert!(took < expected + Duration::from_secs(1), "{wait} {begins}: {took:?}");
        }
        let cursor = place(&room).await;
        let mut connection = pipeline(&room, &[&poll(&room, &cursor, 1)]).await;
        assert_eq!(Polled::of(&answer(&mut connection).await).unwrap().envelopes.len(), 0);
        let begun = Instant::now();
        room.edge.begin_drain().unwrap();
        assert_eq!(connection.stream().read(&mut [0; 64]).await.unwrap(), 0);
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    }
}

async fn answer_of(connection: &mut Connection, request: &Request) -> Response {
    connection.send(request).await.unwrap();
    answer(connection).await
}

/// A late answer that is larger than what is in flight goes out in pieces, whatever stands behind it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_late_answer_is_whole_for_who_reads_slowly() {
    for settings in both() {
        let mut room = Room::open(&settings, 2).await.unwrap();
        let cursor = place(&room).await;
        let dial = Dial { receive_buffer: Some(4096), ..Dial::default() };
        let mut connection = Connection::dial(&room.edge.target, dial).await.unwrap();
        connection.send(&poll(&room, &cursor, 60)).await.unwrap();
        sleep(Duration::from_millis(200)).await;
        connection.send(&short(&room)).await.unwrap();
        let big = json!("x".repeat(60_000)).to_string();
        room.publish(0, &big).await.unwrap();
        sleep(Duration::from_millis(500)).await;
        let polled = Polled::of(&answer(&mut connection).await).unwrap();
        assert_eq!(polled.envelopes.len(), 1);
        assert!(polled.raw.len() > 60_000, "{}", polled.raw.len());
        assert!(answer(&mut connection).await.json().unwrap()["total"].is_u64());
    }
}

async fn cut(stream: Stream, how: usize) -> Option<Stream> {
    let mut stream = stream;
    match how {
        0 => drop(stream),
        1 => stream.reset(),
        _ => {
            stream.shutdown().await.unwrap();
            return Some(stream);
        }
    }
    None
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_goes_away_is_let_go_at_once() {
    for settings in both() {
        let room = Room::alone(&settings, 1).await.unwrap();
        let cursor = place(&room).await;
        for (transport, request) in
            [("poll", poll(&room, &cursor, 60)), ("sse", room.subscribe("/v1/sse", ""))]
        {
            let active = format!("tidegate_connections_active{{transport=\"{transport}\"}}");
            let mut waiting = Vec::new();
            for _ in 0..9 {
                // The second round on a connection that has waited before.
                let first = poll(&room, &cursor, 1);
                waiting.push(pipeline(&room, &[&first, &request]).await);
            }
            for connection in &mut waiting {
                Polled::of(&answer(connection).await).unwrap();
            }
            room.metric_becomes(&active, 9.0).await.unwrap();
            let mut half_closed = Vec::new();
            for (index, connection) in waiting.into_iter().enumerate() {
                half_closed.extend(cut(connection.into_stream(), index % 3).await);
            }
            let begun = Instant::now();
            room.metric_becomes(&active, 0.0).await.unwrap();
            assert!(begun.elapsed() < Duration::from_secs(2), "{transport}: {:?}", begun.elapsed());
            // Whoever publishes is still there, and those whose goodbye is on its way for a moment.
            room.metric_becomes("tidegate_tcp_connections_active", 1.0).await.unwrap();
        }
    }
}

/// RFC 9112 §9.6: told in the answer that is due, and nothing behind it is begun.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_answers_who_waits_and_begins_nothing_else() {
    for settings in both() {
        let room = Room::alone(&settings.set("listen.drain", "4s"), 1).await.unwrap();
        let cursor = place(&room).await;
        let (short, long) = (short(&room), poll(&room, &cursor, 60));
        let mut fresh = pipeline(&room, &[&long]).await;
        let mut behind = pipeline(&room, &[&short, &poll(&room, &cursor, 1), &long, &short]).await;
        let mut stream = pipeline(&room, &[&room.subscribe("/v1/sse", ""), &short]).await;
        for _ in 0..2 {
            answer(&mut behind).await;
        }
        sleep(Duration::from_millis(200)).await;
        room.edge.begin_drain().unwrap();
        for connection in [&mut fresh, &mut behind] {
            let begun = Instant::now();
            let response = answer(connection).await;
            assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
            assert_eq!(Polled::of(&response).unwrap().raw, "[]");
            assert_eq!(response.head.header("connection"), Some("close"));
            let mut rest = Vec::new();
            timeout(SOON, connection.stream().read_to_end(&mut rest)).await.expect("it ends").unwrap();
            assert!(rest.is_empty() && connection.has_read_all(), "{rest:?}");
        }
        let events = answer(&mut stream).await;
        let all = written(&events.body).unwrap();
        assert!(matches!(all.last(), Some(Written::Retry(_))), "{all:?}");
        let mut rest = Vec::new();
        timeout(SOON, stream.stream().read_to_end(&mut rest)).await.expect("it ends").unwrap();
        assert!(rest.is_empty() && stream.has_read_all(), "{rest:?}");
    }
}
