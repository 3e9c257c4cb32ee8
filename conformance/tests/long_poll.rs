//! Long polling as the protocol's page says it: a function of its cursor that answers at once when there is something to
//! say, in one shape, and that nobody is kept waiting by, neither a client that went away nor a server that goes.
#![expect(clippy::unwrap_used, reason = "in a check a failed unwrap is the report")]

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use conformance::edge::Settings;
use conformance::feed::{Feed, Start, Transport};
use conformance::polled::Polled;
use conformance::room::{Room, told};
use conformance::wire::{Connection, Response};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

const SOON: Duration = Duration::from_secs(5);
const ACTIVE: &str = r#"tidegate_connections_active{transport="poll"}"#;

/// The types of an answer's envelopes.
fn kinds(polled: &Polled) -> Vec<String> {
    polled.envelopes.iter().map(|envelope| told(envelope).unwrap().0).collect()
}

/// Channel and data of envelopes all of which are messages.
fn messages(envelopes: &[String]) -> Vec<(String, Value)> {
    let one = |envelope: &String| {
        let envelope: Value = serde_json::from_str(envelope).unwrap();
        assert_eq!(envelope["type"], "message");
        let payload = &envelope["payload"];
        (payload["channel"].as_str().unwrap().to_owned(), payload["data"].clone())
    };
    envelopes.iter().map(one).collect()
}

/// One poll on a connection of its own, and how long it took.
async fn poll(room: &Room, query: &str) -> (Polled, Duration) {
    let begun = Instant::now();
    let response = ask(room, query).await;
    (Polled::of(&response).unwrap(), begun.elapsed())
}

async fn ask(room: &Room, query: &str) -> Response {
    let mut connection = Connection::open(&room.edge.target).await.unwrap();
    let request = room.subscribe("/v1/poll", query);
    timeout(2 * SOON, connection.exchange(&request)).await.expect("an answer").unwrap()
}

/// A cursor at the end of each channel.
async fn place(room: &Room) -> String {
    poll(room, "").await.0.cursor
}

/// A poll that is waiting by now, on a connection of its own.
async fn waiting(room: &Room, query: &str) -> Connection {
    let mut connection = Connection::open(&room.edge.target).await.unwrap();
    connection.send(&room.subscribe("/v1/poll", query)).await.unwrap();
    assert!(timeout(Duration::from_millis(300), connection.head()).await.is_err(), "it does not wait");
    connection
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_cursor_it_answers_at_once_whatever_it_might_wait() {
    let mut room = Room::open(&Settings::profile(), 2).await.unwrap();
    for query in ["", "&wait=0", "&wait=60", "&cursor="] {
        let (polled, took) = poll(&room, query).await;
        assert!(took < Duration::from_secs(1), "{query} took {took:?}");
        assert_eq!(kinds(&polled), ["room_joined", "room_joined"], "{query}");
        for (envelope, channel) in polled.envelopes.iter().zip(&room.channels) {
            let payload: Value = serde_json::from_str(&told(envelope).unwrap().1).unwrap();
            assert_eq!((&payload["channel"], &payload["recovered"]), (&json!(channel), &json!(false)));
        }
        let (after, _) = poll(&room, &format!("&wait=0&cursor={}", polled.cursor)).await;
        assert_eq!(after.raw, "[]", "{query}");
    }
    for n in 1..=3 {
        for channel in 0..2 {
            room.publish(channel, &n.to_string()).await.unwrap();
        }
    }
    let (polled, _) = poll(&room, "&history=2&wait=60").await;
    assert_eq!(kinds(&polled), ["room_joined", "room_joined", "message", "message", "message", "message"]);
    let mut by_channel: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for (channel, data) in messages(&polled.envelopes[2..]) {
        by_channel.entry(channel).or_default().push(data);
    }
    assert_eq!(
        by_channel,
        room.channels.iter().map(|name| (name.clone(), vec![json!(2), json!(3)])).collect()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_cursor_it_waits_as_long_as_it_is_asked_to() {
    let mut room = Room::open(&Settings::profile(), 1).await.unwrap();
    let cursor = place(&room).await;
    for seconds in [0, 1, 2] {
        let (polled, took) = poll(&room, &format!("&cursor={cursor}&wait={seconds}")).await;
        assert_eq!(polled.raw, "[]");
        let wait = Duration::from_secs(seconds);
        assert!(took >= wait && took < wait + Duration::from_secs(1), "wait={seconds} took {took:?}");
    }
    // Beyond the most that it waits it waits that long, and is not refused; without a word it waits, too.
    let mut patient = Vec::new();
    for wait in ["", "&wait=60", "&wait=61", "&wait=100000"] {
        patient.push(waiting(&room, &format!("&cursor={cursor}{wait}")).await);
    }
    sleep(Duration::from_secs(2)).await;
    room.publish(0, "\"here it is\"").await.unwrap();
    for mut connection in patient {
        let response =
            timeout(SOON, connection.response()).await.expect("the message ends the wait").unwrap();
        assert_eq!(
            messages(&Polled::of(&response).unwrap().envelopes),
            [(room.channels[0].clone(), json!("here it is"))]
        );
    }
    for bad in ["-1", "abc", "", "1.5", "0x10", "1s", "%20", "18446744073709551616"] {
        let answer = ask(&room, &format!("&cursor={cursor}&wait={bad}")).await;
        assert_eq!(answer.head.status, 400, "wait={bad}");
        assert_eq!(answer.json().unwrap()["reason"], "malformed", "wait={bad}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_is_a_function_of_its_cursor() {
    let mut room = Room::open(&Settings::profile(), 3).await.unwrap();
    let begin = place(&room).await;
    let mut cursors = vec![begin];
    for n in 1..=4 {
        for channel in 0..3 {
            room.publish(channel, &n.to_string()).await.unwrap();
        }
        let (polled, _) = poll(&room, &format!("&cursor={}", cursors[cursors.len() - 1])).await;
        assert_eq!(polled.envelopes.len(), 3);
        assert!(!cursors.contains(&polled.cursor), "a cursor that does not move");
        cursors.push(polled.cursor);
    }
    // Asked again in any order, from any connection: the same bytes, and nothing is used up.
    for (n, cursor) in cursors.iter().enumerate().rev() {
        let query = format!("&wait=0&cursor={cursor}");
        let ((one, _), (two, _)) = (poll(&room, &query).await, poll(&room, &query).await);
        assert_eq!(one.raw, two.raw, "cursor {n}");
        assert_eq!(one.cursor, two.cursor, "cursor {n}");
        let mut wanted: Vec<_> = (n as u64 + 1..=4)
            .flat_map(|number| room.channels.iter().map(move |name| (name.clone(), json!(number))))
            .collect();
        let mut data = messages(&one.envelopes);
        data.sort_by_key(|(name, number)| (name.clone(), number.as_u64()));
        wanted.sort_by_key(|(name, number)| (name.clone(), number.as_u64()));
        assert_eq!(data, wanted, "cursor {n}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_answer_has_a_cursor_that_goes_on() {
    let mut room = Room::open(&Settings::profile(), 2).await.unwrap();
    let mut cursor = place(&room).await;
    for n in 1..=3 {
        for _ in 0..2 {
            let (empty, _) = poll(&room, &format!("&wait=0&cursor={cursor}")).await;
            assert_eq!(empty.raw, "[]");
            cursor = empty.cursor;
        }
        room.publish(n % 2, &n.to_string()).await.unwrap();
        let (polled, _) = poll(&room, &format!("&cursor={cursor}")).await;
        assert_eq!(messages(&polled.envelopes), [(room.channels[n % 2].clone(), json!(n))]);
        cursor = polled.cursor;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_that_the_cursor_does_not_name_is_joined_at_once() {
    let mut room = Room::open(&Settings::profile(), 1).await.unwrap();
    let cursor = place(&room).await;
    let known = room.channels[0].clone();
    room.channels.push(format!("{known}.new"));
    let (polled, took) = poll(&room, &format!("&wait=60&cursor={cursor}")).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(kinds(&polled), ["room_joined"]);
    assert!(polled.envelopes[0].contains(&room.channels[1]), "{polled:?}");
    for (channel, number) in [(1, "1"), (0, "2")] {
        room.publish(channel, number).await.unwrap();
    }
    let (polled, _) = poll(&room, &format!("&cursor={}", polled.cursor)).await;
    let mut data = messages(&polled.envelopes);
    data.sort_by_key(|(_, number)| number.as_u64());
    assert_eq!(data, [(room.channels[1].clone(), json!(1)), (known, json!(2))]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cursor_is_the_same_thing_on_every_transport() {
    let mut room = Room::open(&Settings::profile(), 2).await.unwrap();
    let mut cursors = vec![("poll".to_owned(), place(&room).await)];
    for transport in Transport::ALL {
        let mut feed = Feed::open(&room.reader(), transport, &Start::FreshByQuery).await.unwrap();
        let mut envelopes = VecDeque::new();
        while !envelopes.iter().any(|json: &bytes::Bytes| json.starts_with(br#"{"type":"room_joined""#)) {
            envelopes.clear();
            timeout(SOON, feed.next(&mut envelopes)).await.unwrap().unwrap();
        }
        let joined: Value = serde_json::from_slice(&envelopes[0]).unwrap();
        let cursor = joined["payload"]["cursor"].as_str().unwrap().to_owned();
        cursors.push((format!("room_joined of {transport}"), cursor));
    }
    for channel in [0, 1] {
        room.publish(channel, "1").await.unwrap();
    }
    for (whose, cursor) in &cursors {
        let (polled, _) = poll(&room, &format!("&cursor={cursor}")).await;
        let mut data = messages(&polled.envelopes);
        data.sort_by_key(|(name, _)| name.clone());
        assert_eq!(data, [0, 1].map(|n: usize| (room.channels[n].clone(), json!(1))), "{whose}");
        for transport in [Transport::WebSocket, Transport::Sse] {
            let start = Start::CursorByQuery(cursor.clone());
            let mut feed = Feed::open(&room.reader(), transport, &start).await.unwrap();
            let mut envelopes: VecDeque<bytes::Bytes> = VecDeque::new();
            while envelopes.iter().filter(|json| json.starts_with(br#"{"type":"message""#)).count() < 2 {
                timeout(SOON, feed.next(&mut envelopes)).await.expect(whose).unwrap();
            }
            let gaps = envelopes.iter().filter(|json| json.starts_with(br#"{"type":"gap""#)).count();
            assert_eq!(gaps, 0, "{whose} on {transport}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gap_is_told_to_whoever_asks_with_the_old_cursor_and_to_nobody_else() {
    let settings =
        Settings::profile().set("channels.default.history_size", 4).set("limits.write_timeout", "1s");
    let mut room = Room::open(&settings, 2).await.unwrap();
    let old = place(&room).await;
    for n in 1..=10 {
        room.publish(0, &n.to_string()).await.unwrap();
    }
    sleep(Duration::from_millis(1200)).await;
    for channel in [0, 1] {
        room.publish(channel, "11").await.unwrap();
    }
    let mut answers = Vec::new();
    for _ in 0..2 {
        let (polled, _) = poll(&room, &format!("&wait=0&cursor={old}")).await;
        let all: Vec<_> = polled.envelopes.iter().map(|envelope| told(envelope).unwrap()).collect();
        let gaps: Vec<_> = all.iter().filter(|(kind, _)| kind == "gap").collect();
        let [(_, gap)] = gaps[..] else { panic!("{all:?}") };
        let gap: Value = serde_json::from_str(gap).unwrap();
        assert_eq!((&gap["channel"], &gap["reason"]), (&json!(room.channels[0]), &json!("expired")));
        // The gap, then everything from the first that is held; the other channel has lost nothing.
        let held: Vec<_> = all
            .iter()
            .filter(|(kind, payload)| kind == "message" && payload.contains(&room.channels[0]))
            .map(|(_, payload)| serde_json::from_str::<Value>(payload).unwrap())
            .collect();
        assert_eq!(held[0]["seq"], gap["seq"]);
        assert_eq!(
            held.iter().map(|payload| payload["data"].as_u64().unwrap()).collect::<Vec<_>>(),
            [8, 9, 10, 11]
        );
        assert_eq!(all.len(), 1 + 4 + 1);
        let (after, _) = poll(&room, &format!("&wait=0&cursor={}", polled.cursor)).await;
        assert_eq!(after.raw, "[]", "a loss is told once");
        answers.push((all, polled.cursor));
    }
    assert_eq!(answers[0], answers[1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_backlog_comes_in_answers_of_bounded_size_and_whole() {
    let mut room = Room::open(&Settings::profile(), 2).await.unwrap();
    let mut cursor = place(&room).await;
    let filler = "x".repeat(10_000);
    for n in 0..100 {
        room.publish(0, &format!("[{n},\"{filler}\"]")).await.unwrap();
    }
    room.publish(1, "[0]").await.unwrap();
    let mut seen: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let mut answers = 0;
    while seen.values().map(Vec::len).sum::<usize>() < 101 {
        let (polled, _) = poll(&room, &format!("&wait=0&cursor={cursor}")).await;
        assert!(!polled.envelopes.is_empty(), "{:?}", seen.values().map(Vec::len).collect::<Vec<_>>());
        // What an answer may hold, and one message more.
        assert!(polled.raw.len() < (256 + 64) * 1024, "{}", polled.raw.len());
        for (channel, data) in messages(&polled.envelopes) {
            seen.entry(channel).or_default().push(data[0].as_u64().unwrap());
        }
        cursor = polled.cursor;
        answers += 1;
    }
    assert!(answers >= 4, "a megabyte in {answers} answers");
    assert_eq!(seen[&room.channels[0]], (0..100).collect::<Vec<_>>());
    assert_eq!(seen[&room.channels[1]], [0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_that_always_has_more_does_not_hide_the_others() {
    let mut room = Room::open(&Settings::profile(), 3).await.unwrap();
    let mut cursor = place(&room).await;
    for quiet in [1, 2] {
        room.publish(quiet, "[0]").await.unwrap();
    }
    let filler = "x".repeat(30_000);
    let mut waiting = vec![room.channels[1].clone(), room.channels[2].clone()];
    for answers in 0.. {
        // More than fits into one answer, each time.
        for _ in 0..12 {
            room.publish(0, &format!("[1,\"{filler}\"]")).await.unwrap();
        }
        let (polled, _) = poll(&room, &format!("&wait=0&cursor={cursor}")).await;
        waiting.retain(|quiet| !messages(&polled.envelopes).iter().any(|(channel, _)| channel == quiet));
        if waiting.is_empty() {
            break;
        }
        assert!(answers < 60, "{waiting:?} were never read");
        cursor = polled.cursor;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_away_while_it_waits_is_let_go() {
    let room = Room::alone(&Settings::profile(), 1).await.unwrap();
    let cursor = place(&room).await;
    for reset in [false, true] {
        let mut polls = Vec::new();
        for _ in 0..10 {
            polls.push(waiting(&room, &format!("&wait=60&cursor={cursor}")).await);
        }
        room.metric_becomes(ACTIVE, 10.0).await.unwrap();
        for connection in polls {
            let stream = connection.into_stream();
            if reset {
                stream.reset();
            }
        }
        room.metric_becomes(ACTIVE, 0.0).await.unwrap();
        // Whoever publishes is still there.
        room.metric_becomes("tidegate_tcp_connections_active", 1.0).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_goes_answers_at_once() {
    let mut room = Room::alone(&Settings::profile().set("listen.drain", "5s"), 1).await.unwrap();
    let cursor = place(&room).await;
    let mut polls = JoinSet::new();
    for _ in 0..10 {
        let mut connection = waiting(&room, &format!("&wait=60&cursor={cursor}")).await;
        polls.spawn(async move {
            let response = connection.response().await.unwrap();
            let mut rest = Vec::new();
            connection.stream().read_to_end(&mut rest).await.unwrap();
            (response, rest)
        });
    }
    room.edge.begin_drain().unwrap();
    let answers = timeout(Duration::from_secs(2), polls.join_all()).await.expect("at once");
    for (response, rest) in answers {
        let polled = Polled::of(&response).unwrap();
        assert_eq!(polled.raw, "[]");
        // RFC 9112 §9.6: said, and then done.
        assert_eq!(response.head.header("connection"), Some("close"), "{:?}", response.head);
        assert!(rest.is_empty(), "{rest:?}");
    }
    let deadline = Instant::now() + SOON;
    while room.edge.is_alive() {
        assert!(Instant::now() < deadline, "nobody is left, and it does not go");
        sleep(Duration::from_millis(50)).await;
    }
}
