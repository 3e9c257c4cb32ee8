//! Subscribers who stand at the same place are given what one of them has read. Each still gets its own channels, all
//! of each and nothing else, while some have other channels beside the one that they share and all are busy.
#![expect(clippy::unwrap_used, reason = "in a check a failed unwrap is the report")]

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use conformance::edge::{Edge, Settings};
use conformance::envelope::{self, Said};
use conformance::feed::{Feed, Start, Subscription, Transport};
use conformance::wire::{Connection, Dial, Request};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::timeout;

const MEMBERS: usize = 24;
/// Every other member has joined so many more: between the look at which have news and the end of a read there is time for
/// news in another one.
const SIDES: usize = 40;
const BUSY: Duration = Duration::from_secs(4);

/// What one member was given of each channel: how many messages, and the `seq` of the newest.
type Given = BTreeMap<String, (u64, u64)>;

/// Reads until half a second of silence; fails with what is not this member's, out of order or missing.
async fn read(name: String, mut feed: Feed, channels: Vec<String>) -> Given {
    let mut given = Given::new();
    let mut envelopes = VecDeque::new();
    while let Ok(next) = timeout(Duration::from_millis(1500), feed.next(&mut envelopes)).await {
        next.unwrap();
        for text in envelopes.drain(..) {
            let (channel, prev, seq) = match envelope::read(&text).unwrap() {
                Said::Joined(joined) => {
                    given.insert(joined.channel.clone(), (0, joined.position.seq));
                    continue;
                }
                Said::Message(message) => (message.channel.into_owned(), message.prev, message.seq),
                Said::Gap(gap) => panic!("{name} lost messages of {}", gap.channel),
                Said::Error(error) => panic!("{name}: {error:?}"),
                Said::Ack(_) | Said::Other(_) => continue,
            };
            assert!(channels.contains(&channel), "{name} is no member of {channel}");
            let (count, newest) = given.get_mut(&channel).unwrap();
            assert_eq!(prev, *newest, "{name} in {channel}: {seq} does not follow");
            (*count, *newest) = (*count + 1, seq);
        }
    }
    given
}

/// Publishes to these channels in turn for a while; how many messages each has got.
async fn publish(edge: &Edge, channels: Vec<String>, begun: Instant) -> BTreeMap<String, u64> {
    let mut http = Connection::open(&edge.target).await.unwrap();
    let token = edge.target.tokens.server("backend");
    let mut counts = BTreeMap::new();
    for channel in channels.iter().cycle() {
        if begun.elapsed() > BUSY {
            break;
        }
        let path = format!("/v1/channels/{channel}/messages");
        let answer = http.exchange(&Request::post(path, &json!({"n": 1})).bearer(&token)).await.unwrap();
        answer.expect_status(201).unwrap();
        *counts.entry(channel.clone()).or_default() += 1;
    }
    counts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_member_gets_its_own_channels_and_no_others() {
    let edge = Edge::start(&Settings::open()).await.unwrap();
    let room = "chat:shared".to_owned();
    let sides: Vec<String> = (0..SIDES).map(|side| format!("side:{side}")).collect();
    let mut members = JoinSet::new();
    for member in 0..MEMBERS {
        let name = format!("member{member}");
        let mut channels = vec![room.clone()];
        if member % 2 == 1 {
            channels.extend(sides.iter().cloned());
        }
        let subscription = Subscription {
            target: edge.target.clone(),
            dial: Dial::default(),
            token: edge.target.tokens.user(&name),
            channels: channels.clone(),
            poll_wait: 1,
        };
        let feed = Feed::open(&subscription, Transport::WebSocket, &Start::Fresh).await.unwrap();
        members.spawn(async move { (member, read(name, feed, channels).await) });
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let begun = Instant::now();
    let (one, two, three) = tokio::join!(
        publish(&edge, vec![room.clone()], begun),
        publish(&edge, sides.clone(), begun),
        publish(&edge, sides.clone(), begun),
    );
    let mut published = one;
    for (channel, count) in two.into_iter().chain(three) {
        *published.entry(channel).or_default() += count;
    }
    let all = members.join_all().await;
    for (member, given) in all {
        assert_eq!(given.len(), if member % 2 == 1 { 1 + SIDES } else { 1 });
        for (channel, (count, _)) in given {
            assert_eq!(count, published[&channel], "member{member} in {channel}");
        }
    }
    println!("{MEMBERS} members, {} messages", published.values().sum::<u64>());
}
