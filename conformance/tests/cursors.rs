//! Wherever a stream is cut, the last `id:` that was read stands for exactly what had been told by then: on any
//! transport it brings the rest, no more and no less, and a loss that had not been told yet is told then.
#![expect(clippy::unwrap_used, reason = "in a check a failed unwrap is the report")]

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use conformance::edge::{Edge, Settings};
use conformance::envelope::{self, Position, Said};
use conformance::feed::{Feed, Start, Subscription, Transport};
use conformance::wire::{Connection, Dial, Request};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// What was told, in a form that two streams can be compared by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    Joined(String, u64, bool),
    Message(String, u64),
    Gap(String),
}

struct Room {
    edge: Edge,
    channels: Vec<String>,
    http: Connection,
}

impl Room {
    async fn open(settings: &Settings) -> Self {
        let edge = Edge::named_or_started(settings).await.unwrap();
        let run: u32 = rand::random();
        let channels = ["a", "b", "c"].map(|name| format!("cursors:{run:x}.{name}")).into();
        let http = Connection::open(&edge.target).await.unwrap();
        Self { edge, channels, http }
    }

    async fn publish(&mut self, channel: usize, n: u64) {
        let path = format!("/v1/channels/{}/messages", self.channels[channel]);
        let token = self.edge.target.tokens.server("cursors");
        let answer = self.http.exchange(&Request::post(path, &json!({"n": n})).bearer(&token)).await.unwrap();
        answer.expect_status(201).unwrap();
    }

    fn subscription(&self) -> Subscription {
        Subscription {
            target: self.edge.target.clone(),
            dial: Dial::default(),
            token: self.edge.target.tokens.user("reader"),
            channels: self.channels.clone(),
            poll_wait: 1,
        }
    }

    /// Where all channels stand now.
    async fn positions(&self) -> Vec<Position> {
        let mut feed = Feed::open(&self.subscription(), Transport::Poll, &Start::Fresh).await.unwrap();
        let mut envelopes = VecDeque::new();
        feed.next(&mut envelopes).await.unwrap();
        let joined = envelopes.iter().map(|text| match envelope::read(text).unwrap() {
            Said::Joined(joined) => joined.position,
            other => panic!("{other:?}"),
        });
        joined.collect()
    }
}

/// Everything that is told until half a second of silence, with the cursor behind each.
async fn read(
    subscription: &Subscription,
    transport: Transport,
    start: &Start,
) -> Vec<(Told, Option<String>)> {
    let mut feed = Feed::open(subscription, transport, start).await.unwrap();
    let mut told = Vec::new();
    let mut envelopes = VecDeque::new();
    while let Ok(cursor) = timeout(Duration::from_millis(500), feed.next(&mut envelopes)).await {
        let cursor = cursor.unwrap();
        for text in envelopes.drain(..) {
            let what = match envelope::read(&text).unwrap() {
                Said::Joined(joined) => Told::Joined(joined.channel, joined.position.seq, joined.recovered),
                Said::Message(message) => Told::Message(message.channel.into_owned(), message.seq),
                Said::Gap(gap) => Told::Gap(gap.channel),
                Said::Error(error) => panic!("{error:?}"),
                Said::Ack(_) | Said::Other(_) => continue,
            };
            told.push((what, cursor.clone()));
        }
    }
    told
}

/// What is told behind a cursor, in each way to present it on each transport; all at once, for most of it is silence.
async fn resumed(subscription: &Subscription, cursor: &str) -> Vec<(String, Vec<(Told, Option<String>)>)> {
    let mut readers = JoinSet::new();
    for (transport, start) in ways(cursor) {
        let subscription = subscription.clone();
        readers.spawn(async move {
            (format!("{transport} by {}", start.name()), read(&subscription, transport, &start).await)
        });
    }
    readers.join_all().await
}

/// The messages among what was told, each channel's in its order.
fn messages<'a>(told: impl IntoIterator<Item = &'a Told>) -> BTreeMap<String, Vec<u64>> {
    let mut channels: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for what in told {
        if let Told::Message(channel, seq) = what {
            channels.entry(channel.clone()).or_default().push(*seq);
        }
    }
    channels
}

/// The ways to resume with a cursor, on each transport.
fn ways(cursor: &str) -> Vec<(Transport, Start)> {
    let cursor = || cursor.to_owned();
    vec![
        (Transport::Sse, Start::CursorByHeader(cursor())),
        (Transport::Sse, Start::CursorByQuery(cursor())),
        (Transport::Poll, Start::CursorByQuery(cursor())),
        (Transport::WebSocket, Start::CursorByQuery(cursor())),
        (Transport::WebSocket, Start::CursorByJoin(cursor())),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_id_brings_exactly_the_rest() {
    let mut room = Room::open(&Settings::profile()).await;
    let begin = room.positions().await;
    for n in 1..=3 {
        for channel in 0..3 {
            room.publish(channel, n).await;
        }
    }
    let whole = read(&room.subscription(), Transport::Sse, &Start::Recover(begin)).await;
    assert_eq!(whole.len(), 3 + 9, "{whole:?}");
    for cut in 0..whole.len() {
        let (what, cursor) = &whole[cut];
        let cursor = cursor.as_ref().unwrap_or_else(|| panic!("{what:?} has no id"));
        let rest = messages(whole[cut + 1..].iter().map(|(what, _)| what));
        for (way, told) in resumed(&room.subscription(), cursor).await {
            let got = messages(told.iter().map(|(what, _)| what));
            assert_eq!(got, rest, "cut behind {what:?}, resumed on {way}: {told:?}");
            let unrecovered =
                told.iter().any(|(what, _)| matches!(what, Told::Joined(_, _, false) | Told::Gap(_)));
            assert!(!unrecovered, "cut behind {what:?}, resumed on {way}: {told:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loss_is_told_however_the_telling_is_cut() {
    // The log keeps for history four messages, for those who lag what is younger than a second.
    let settings =
        Settings::profile().set("channels.default.history_size", 4).set("limits.write_timeout", "1s");
    let mut room = Room::open(&settings).await;
    let begin = room.positions().await;
    for n in 1..=20 {
        room.publish(1, n).await;
    }
    sleep(Duration::from_millis(1200)).await;
    for channel in 0..3 {
        room.publish(channel, 21).await;
    }
    let whole = read(&room.subscription(), Transport::Sse, &Start::Recover(begin)).await;
    let lossy = &room.channels[1];
    let tells = |(what, _): &(Told, Option<String>)| match what {
        Told::Joined(channel, _, false) | Told::Gap(channel) => channel == lossy,
        _ => false,
    };
    let first = whole.iter().position(tells).unwrap_or_else(|| panic!("no loss is told: {whole:?}"));
    assert!(whole.iter().any(|(what, _)| *what == Told::Gap(lossy.clone())), "no gap: {whole:?}");
    for (what, cursor) in &whole[..first] {
        let cursor = cursor.as_ref().unwrap_or_else(|| panic!("{what:?} has no id"));
        for (way, told) in resumed(&room.subscription(), cursor).await {
            assert!(
                told.iter().any(tells),
                "cut behind {what:?}, before the loss was told; resumed on {way} it never was: \
                 {told:?}"
            );
        }
    }
}
