//! How an `EventSource` comes back (WHATWG HTML §9.2.3, §9.2.4): with its `Last-Event-ID` and nothing lost or twice, wherever
//! it was cut and whatever that id is; and what a refusal must look like so that it comes back, or stays away.
#![expect(clippy::unwrap_used, reason = "in a check a failed unwrap is the report")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use conformance::edge::Settings;
use conformance::envelope::{self, Said};
use conformance::room::Room;
use conformance::wire::event_source::{Dispatched, EventSource};
use conformance::wire::{Connection, RawEvents, Request, Target, Written, written};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

const SOON: Duration = Duration::from_secs(5);
/// The server has said all that it has to say when it was silent for so long.
const SILENCE: Duration = Duration::from_millis(250);

/// What a subscriber was told, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Told {
    /// A channel was joined; whether it goes on where it was left.
    Joined(String, bool),
    Message(String, u64),
    Gap(String, String),
    Error(u16),
}

fn told(event: &Dispatched) -> Option<Told> {
    Some(match envelope::read(event.data.as_bytes()).unwrap() {
        Said::Joined(joined) => Told::Joined(joined.channel, joined.recovered),
        Said::Message(message) => {
            Told::Message(message.channel.into_owned(), message.data.get().parse().unwrap())
        }
        Said::Gap(gap) => Told::Gap(gap.channel, gap.reason),
        Said::Error(error) => Told::Error(error.code),
        Said::Ack(_) | Said::Other(_) => return None,
    })
}

/// Everything until the stream is silent or at its end.
async fn all(stream: &mut RawEvents) -> Vec<Told> {
    let mut all = Vec::new();
    let mut patience = SOON;
    while let Ok(next) = timeout(patience, stream.next()).await {
        let Some(event) = next.unwrap() else { break };
        all.extend(told(&event));
        patience = SILENCE;
    }
    all
}

/// The numbers of the messages, by channel.
fn messages(told: &[Told]) -> BTreeMap<String, Vec<u64>> {
    let mut messages: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for one in told {
        if let Told::Message(channel, n) = one {
            messages.entry(channel.clone()).or_default().push(*n);
        }
    }
    messages
}

/// Asks with that `Last-Event-ID`, in any bytes.
async fn with_id(target: &Target, request: &Request, id: &[u8]) -> (RawEvents, Vec<Told>) {
    let mut connection = Connection::open(target).await.unwrap();
    let mut head = request.to_bytes(&target.authority());
    head.truncate(head.len() - 2);
    head.extend_from_slice(b"Last-Event-ID: ");
    head.extend_from_slice(id);
    head.extend_from_slice(b"\r\n\r\n");
    connection.stream().write_all(&head).await.unwrap();
    let mut stream = RawEvents::of(connection, EventSource::default()).await.unwrap();
    let told = all(&mut stream).await;
    (stream, told)
}

/// Publishes the numbers to each channel in turn.
async fn count(room: &mut Room, numbers: std::ops::RangeInclusive<u64>) {
    for n in numbers {
        for channel in 0..room.channels.len() {
            room.publish(channel, &n.to_string()).await.unwrap();
        }
    }
}

/// The id of somebody who stands at the end of each channel.
async fn place(room: &Room) -> String {
    let mut stream = RawEvents::open(&room.edge.target, &room.subscribe("/v1/sse", "")).await.unwrap();
    all(&mut stream).await;
    stream.source.last_event_id().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_at_any_byte_loses_nothing_and_repeats_nothing() {
    let mut room = Room::open(&Settings::profile(), 2).await.unwrap();
    let begin = place(&room).await;
    count(&mut room, 1..=3).await;
    let request = room.subscribe("/v1/sse", &format!("&cursor={begin}"));
    let mut whole = RawEvents::open(&room.edge.target, &request).await.unwrap();
    let everything = messages(&all(&mut whole).await);
    assert_eq!(everything.len(), 2);
    assert!(everything.values().all(|numbers| *numbers == [1, 2, 3]), "{everything:?}");

    // A client that is cut at this byte knows these messages and this id. Most cuts are alike.
    let mut cuts: Vec<(EventSource, Vec<Told>)> = Vec::new();
    for end in 0..=whole.body.len() {
        let mut source = EventSource::default();
        let known: Vec<_> = source.feed(&whole.body[..end]).iter().filter_map(told).collect();
        let last = cuts.last().map(|(source, known)| (source.last_event_id(), known));
        if last != Some((source.last_event_id(), &known)) {
            cuts.push((source, known));
        }
    }
    // Nothing yet, 2 room_joined, 6 messages: a half event never was, and no id comes before its event has ended.
    assert_eq!(cuts.len(), 1 + 2 + 6);
    for (source, known) in cuts {
        let id = source.last_event_id().to_owned();
        let mut stream = RawEvents::reopen(&room.edge.target, &request, source).await.unwrap();
        let rest = all(&mut stream).await;
        for (channel, numbers) in &everything {
            let mut got = messages(&known).remove(channel).unwrap_or_default();
            got.extend(messages(&rest).remove(channel).unwrap_or_default());
            assert_eq!(got, *numbers, "{channel}, cut behind {known:?}, resumed from {id:?}: {rest:?}");
        }
        let lossy = |one: &Told| matches!(one, Told::Gap(..) | Told::Joined(_, false) | Told::Error(_));
        assert!(!rest.iter().any(lossy), "resumed from {id:?}: {rest:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn last_event_id_wins_over_whatever_the_url_says() {
    let mut room = Room::open(&Settings::profile(), 1).await.unwrap();
    let old = place(&room).await;
    let first = room.publish(0, "1").await.unwrap();
    count(&mut room, 2..=3).await;
    let new = place(&room).await;
    count(&mut room, 4..=5).await;
    // An EventSource repeats the URL it was made with: history=3 and the rest would come twice.
    let recover = format!("&recover={}:{}", first.position.epoch, first.position.seq);
    for url in [String::new(), format!("&cursor={old}"), "&history=3".to_owned(), recover] {
        let (_, told) = with_id(&room.edge.target, &room.subscribe("/v1/sse", &url), new.as_bytes()).await;
        assert_eq!(told[0], Told::Joined(room.channels[0].clone(), true), "{url}");
        assert_eq!(messages(&told)[&room.channels[0]], [4, 5], "{url}: {told:?}");
        // An empty one is none (§9.2.3 sends none at all).
        let (_, told) = with_id(&room.edge.target, &room.subscribe("/v1/sse", &url), b"").await;
        let wanted: &[u64] = match url.get(..5) {
            None => &[],
            Some("&curs") => &[1, 2, 3, 4, 5],
            Some("&hist") => &[3, 4, 5],
            _ => &[2, 3, 4, 5],
        };
        let got = messages(&told).remove(&room.channels[0]).unwrap_or_default();
        assert_eq!(got, wanted, "{url} with an empty id: {told:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_that_nobody_gave_is_a_gap_and_no_refusal() {
    let mut room = Room::open(&Settings::profile(), 2).await.unwrap();
    let good = place(&room).await;
    count(&mut room, 1..=2).await;
    let long = "A".repeat(60_000);
    let strange: [&[u8]; 14] = [
        b"1",
        b"of no edge",
        b"0",
        b"%41%41",
        b"!!",
        &good.as_bytes()[..good.len() - 3],
        &[good.as_bytes(), b"="].concat(),
        &[good.as_bytes(), b"AAAA"].concat(),
        &[good.as_bytes(), b", ", good.as_bytes()].concat(),
        b"\xc3\xa9\xe2\x82\xac",
        b"\xff\xfe",
        "\u{1f600}".as_bytes(),
        b"a\tb",
        long.as_bytes(),
    ];
    let mut readers = JoinSet::new();
    for id in strange {
        // A cursor in the URL is older than any id: it does not come back in its place.
        for url in [String::new(), format!("&cursor={good}")] {
            let (target, request) = (room.edge.target.clone(), room.subscribe("/v1/sse", &url));
            let (channels, id) = (room.channels.clone(), id.to_vec());
            readers.spawn(async move { is_told_of_a_gap(&target, &request, &channels, &id).await });
        }
    }
    readers.join_all().await;
}

/// Who comes with that id is told in each channel of a gap, once, and then all that is held.
async fn is_told_of_a_gap(target: &Target, request: &Request, channels: &[String], id: &[u8]) {
    let shown = String::from_utf8_lossy(&id[..id.len().min(60)]);
    let (mut stream, told) = with_id(target, request, id).await;
    assert_eq!(stream.head.status, 200, "{shown}");
    for channel in channels {
        let of = |one: &&Told| match one {
            Told::Joined(name, _) | Told::Message(name, _) | Told::Gap(name, _) => name == channel,
            Told::Error(_) => true,
        };
        let wanted = [
            Told::Joined(channel.clone(), false),
            Told::Gap(channel.clone(), "epoch_changed".to_owned()),
            Told::Message(channel.clone(), 1),
            Told::Message(channel.clone(), 2),
        ];
        assert_eq!(told.iter().filter(of).collect::<Vec<_>>(), wanted.each_ref(), "{shown}");
    }
    // From here on it has a place again.
    let source = std::mem::take(&mut stream.source);
    let mut again = RawEvents::reopen(target, request, source).await.unwrap();
    let wanted: Vec<_> = channels.iter().map(|name| Told::Joined(name.clone(), true)).collect();
    assert_eq!(all(&mut again).await, wanted, "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_of_another_log_or_of_other_channels_is_known_for_what_it_is() {
    let mut room = Room::open(&Settings::profile(), 3).await.unwrap();
    let [a, b, c] = room.channels.clone().try_into().unwrap();
    let id = place(&room).await;
    count(&mut room, 1..=2).await;
    // Fewer channels than it names, in another order, and one that it does not name: that one begins now.
    let stranger = format!("{a}.stranger");
    room.channels = vec![c.clone(), stranger.clone(), a.clone()];
    let (_, told) = with_id(&room.edge.target, &room.subscribe("/v1/sse", ""), id.as_bytes()).await;
    let joined = [(&c, true), (&stranger, false), (&a, true)];
    assert_eq!(told[..3], joined.map(|(name, recovered)| Told::Joined(name.clone(), recovered)));
    assert_eq!(messages(&told), BTreeMap::from([(a.clone(), vec![1, 2]), (c.clone(), vec![1, 2])]));
    assert!(!told.iter().any(|one| matches!(one, Told::Gap(..))), "nothing was asked for there: {told:?}");

    // The same channel on an edge that has begun again: its log is another one, though its numbers may fit.
    let mut other = Room::alone(&Settings::profile(), 0).await.unwrap();
    other.channels = vec![b.clone()];
    let foreign = place(&other).await;
    drop(other);
    room.channels = vec![b.clone()];
    let (_, told) = with_id(&room.edge.target, &room.subscribe("/v1/sse", ""), foreign.as_bytes()).await;
    let gap = Told::Gap(b.clone(), "epoch_changed".to_owned());
    assert_eq!(told[..2], [Told::Joined(b.clone(), false), gap], "{told:?}");
    assert_eq!(messages(&told)[&b], [1, 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_id_of_as_many_channels_as_may_be_fits_a_header() {
    let mut room = Room::open(&Settings::profile(), 128).await.unwrap();
    let id = place(&room).await;
    // Servers in front take 8 KB for a line or for all of a head (nginx, Apache), the URL included.
    assert!(id.len() < 4096, "{}", id.len());
    for channel in [0, 64, 127] {
        room.publish(channel, "1").await.unwrap();
    }
    let (_, told) = with_id(&room.edge.target, &room.subscribe("/v1/sse", ""), id.as_bytes()).await;
    assert_eq!(told.iter().filter(|one| matches!(one, Told::Joined(_, true))).count(), 128);
    let got: BTreeSet<_> = messages(&told).into_keys().collect();
    assert_eq!(got, [0, 64, 127].map(|channel: usize| room.channels[channel].clone()).into());
}

/// Opens streams until one is refused, and holds the others meanwhile.
async fn until_refused(target: &Target, request: &Request, held: &mut Vec<RawEvents>) -> RawEvents {
    for _ in 0..20 {
        let mut stream = RawEvents::open(target, request).await.unwrap();
        let event = timeout(SOON, stream.next()).await.unwrap().unwrap().unwrap();
        if matches!(told(&event), Some(Told::Error(_))) {
            return stream;
        }
        held.push(stream);
    }
    panic!("nobody was refused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_temporary_refusal_is_a_stream_that_says_when_to_come_again() {
    for (key, limit, code, status) in [
        ("quota.connections_per_ip", 4, 4004, 429),
        ("quota.connects_per_ip_per_minute", 4, 4004, 429),
        ("quota.requests_per_connection_per_minute", 4, 4004, 429),
        ("listen.max_connections", 4, 1013, 503),
    ] {
        let room = Room::open(&Settings::profile().set(key, limit), 1).await.unwrap();
        let id = "AQ";
        let request = room.subscribe("/v1/sse", "").header("last-event-id", id);
        let mut held = Vec::new();
        let mut refused = until_refused(&room.edge.target, &request, &mut held).await;
        timeout(SOON, refused.read_to_end()).await.expect("it ends").unwrap();
        assert_eq!(refused.head.status, 200, "{key}: any other is the end of an EventSource");
        assert_eq!(refused.head.header("content-type"), Some("text/event-stream"), "{key}");
        assert_eq!(refused.head.header("cache-control"), Some("no-cache, no-transform"), "{key}");
        let all = written(&refused.body).unwrap();
        let [Written::Retry(ms), Written::Envelope { id: None, json }] = all[..] else { panic!("{all:?}") };
        let error: Value = serde_json::from_str(json).unwrap();
        assert_eq!(error["type"], "error", "{key}");
        assert_eq!(error["payload"]["code"], code, "{key}");
        assert_eq!(error["payload"]["limit"], key);
        let wait = error["payload"]["retry_after_ms"].as_u64().unwrap();
        assert!(ms >= wait && wait > 0, "{key}: retry {ms}, retry_after_ms {wait}");

        // Who is no EventSource is told by the status.
        let plain = Connection::open(&room.edge.target).await.unwrap().exchange(&request).await.unwrap();
        assert_eq!(plain.head.status, status, "{key}");
        assert_eq!(plain.head.header("content-type"), Some("application/problem+json"), "{key}");
        let seconds: u64 = plain.head.header("retry-after").unwrap().parse().unwrap();
        let problem = plain.json().unwrap();
        assert!(seconds * 1000 >= problem["retry_after_ms"].as_u64().unwrap(), "{key}: {problem}");
        assert_eq!((&problem["code"], &problem["status"]), (&json!(code), &json!(status)), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_was_refused_for_a_while_comes_back_to_its_place() {
    let settings = Settings::profile().set("quota.connections_per_ip", 3);
    let mut room = Room::open(&settings, 1).await.unwrap();
    let request = room.subscribe("/v1/sse", "");
    let target = room.edge.target.clone();
    let (mut mine, told) = until_admitted(&target, &request, EventSource::default()).await;
    assert_eq!(told.len(), 1);
    let source = std::mem::take(&mut mine.source);
    let first = until_admitted(&target, &request, EventSource::default()).await;
    room.publish(0, "1").await.unwrap();
    // Another client has taken the place before it is back.
    drop(mine);
    let second = until_admitted(&target, &request, EventSource::default()).await;
    let mut refused = RawEvents::reopen(&target, &request, source).await.unwrap();
    assert_eq!(all(&mut refused).await, [Told::Error(4004)]);
    let source = std::mem::take(&mut refused.source);
    assert!(source.reconnection_ms().is_some());
    drop((first, second));
    let (_, told) = until_admitted(&target, &request, source).await;
    let channel = &room.channels[0];
    assert_eq!(told, [Told::Joined(channel.clone(), true), Told::Message(channel.clone(), 1)]);
}

/// Comes again until there is room, as an `EventSource` does, only sooner.
async fn until_admitted(
    target: &Target,
    request: &Request,
    mut source: EventSource,
) -> (RawEvents, Vec<Told>) {
    for _ in 0..50 {
        let mut stream = RawEvents::reopen(target, request, source).await.unwrap();
        let told = all(&mut stream).await;
        if told != [Told::Error(4004)] {
            return (stream, told);
        }
        source = std::mem::take(&mut stream.source);
        sleep(Duration::from_millis(100)).await;
    }
    panic!("there is never room");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_for_good_has_its_status_and_is_no_stream() {
    let settings = Settings::profile().set("auth.mode", "required");
    let room = Room::open(&settings, 1).await.unwrap();
    let tokens = &room.edge.target.tokens;
    let expired = tokens.mint(&json!({"sub": "reader", "exp": 1_000_000_000, "channels": {"join": ["*"]}}));
    let granted_nothing = tokens.mint(&json!({"sub": "reader", "exp": 4_000_000_000_u64}));
    let many: Vec<_> = (0..129).map(|n| format!("room:{n}")).collect();
    let get = |query: &str| room.get(&format!("/v1/sse{query}"));
    let cases = [
        (get(""), 400, 4000, "malformed"),
        (get("?channels="), 400, 4000, "malformed"),
        (get("?channels=a%20b"), 400, 4000, "malformed"),
        (get("?channels=a,,b"), 400, 4000, "malformed"),
        (get("?channels=a&cursor=of.no.edge"), 400, 4000, "malformed"),
        (get("?channels=a&history=many"), 400, 4000, "malformed"),
        (get("?channels=a&presence=perhaps"), 400, 4000, "malformed"),
        (get("?channels=a&recover=1"), 400, 4000, "malformed"),
        (get(&format!("?channels={}", many.join(","))), 400, 4000, "too_many_channels"),
        (Request::get("/v1/sse?channels=a"), 401, 4001, "authentication_required"),
        (Request::get("/v1/sse?channels=a").bearer("x.y.z"), 401, 4002, "authentication_failed"),
        (Request::get("/v1/sse?channels=a").bearer(&expired), 401, 4002, "authentication_failed"),
        (Request::get("/v1/sse?channels=a&ticket=used"), 401, 4002, "authentication_failed"),
        (Request::get("/v1/sse?channels=closed:a").bearer(&granted_nothing), 403, 4000, "forbidden"),
        (get("?channels=a").header("origin", "https://evil.example.com"), 403, 4003, "origin_not_allowed"),
        (room.get("/v1/sse/?channels=a"), 404, 4000, "not_found"),
        (
            Request::post("/v1/sse?channels=a", &json!({})).bearer(&room.token),
            405,
            4000,
            "method_not_allowed",
        ),
    ];
    for (request, status, code, reason) in cases {
        let mut answer = RawEvents::open(&room.edge.target, &request).await.unwrap();
        timeout(SOON, answer.read_to_end()).await.unwrap().unwrap();
        assert_eq!(answer.head.status, status, "{request:?}");
        assert_eq!(answer.head.header("content-type"), Some("application/problem+json"), "{request:?}");
        assert_eq!(answer.head.header("cache-control"), Some("no-store"), "{request:?}");
        let problem: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!((&problem["code"], &problem["reason"]), (&json!(code), &json!(reason)), "{request:?}");
        assert_eq!(problem["status"], status, "{request:?}");
    }
}
