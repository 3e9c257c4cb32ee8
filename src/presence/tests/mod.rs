//! Who counts as there, and as typing, as time goes by: on one node, and on several that hear each other or do not.

mod nodes;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use uuid::Uuid;

use super::word::{Keystroke, Typed};
use super::{Lease, Roster, Typing};
use crate::bus::EmbeddedBus;
use crate::channel::{Channel, ChannelName, Cursor, Item, Resume, Viewer};
use crate::config::{Channels, Limits};
use crate::hub::Hub;

fn hub() -> Arc<Hub> {
    Arc::new(Hub::new(Channels::default(), Limits::default(), Arc::new(EmbeddedBus::new())))
}

async fn scene() -> (Arc<Roster>, Typing, Arc<Channel>) {
    let hub = hub();
    let channel = hub.open(&name("chat:a")).await.unwrap();
    (Arc::new(Roster::new(Arc::clone(&hub))), Typing::new(hub), channel)
}

fn name(name: &str) -> ChannelName {
    name.parse().unwrap()
}

fn watcher(channel: &Channel) -> Cursor {
    channel.begin(Resume::Live, Instant::now()).0
}

/// What a watcher who is nobody else is told: `type user online?`.
fn told(channel: &Channel, cursor: &mut Cursor) -> Vec<String> {
    let mut told = Vec::new();
    let viewer = Viewer { user_id: "watcher", presence: true };
    let batch = channel.read(cursor, viewer, usize::MAX, |item| {
        let Item::Passing(json) = item else { return };
        let envelope: serde_json::Value = serde_json::from_slice(json).unwrap();
        let payload = &envelope["payload"];
        told.push(
            format!("{} {} {}", envelope["type"], payload["user_id"], payload["online"]).replace('"', ""),
        );
    });
    batch.unwrap();
    told
}

async fn pass(roster: &Arc<Roster>, typing: &Typing, time: Duration) {
    tokio::time::sleep(time).await;
    roster.sweep();
    typing.sweep();
}

#[tokio::test(start_paused = true)]
async fn a_user_is_there_while_one_connection_is_and_3_s_more() {
    let (roster, typing, channel) = scene().await;
    let mut cursor = watcher(&channel);
    let alice: Arc<str> = "alice".into();
    let one = roster.join(&channel, &alice, None, Lease::Stream);
    let two = roster.join(&channel, &alice, None, Lease::Stream);
    assert_eq!(told(&channel, &mut cursor), ["presence_update alice true"]);
    assert_eq!(roster.list(channel.name()).0[0].connections, 2);
    drop(one);
    pass(&roster, &typing, Duration::from_secs(5)).await;
    assert_eq!(told(&channel, &mut cursor), [""; 0]);
    drop(two);
    pass(&roster, &typing, Duration::from_millis(2900)).await;
    assert_eq!(roster.list(channel.name()).1, 1);
    let back = roster.join(&channel, &alice, None, Lease::Stream);
    pass(&roster, &typing, Duration::from_secs(5)).await;
    assert_eq!(told(&channel, &mut cursor), [""; 0], "who is back within 3 s was never offline");
    drop(back);
    pass(&roster, &typing, Duration::from_millis(3001)).await;
    assert_eq!(told(&channel, &mut cursor), ["presence_update alice false"]);
    assert_eq!(roster.list(channel.name()).1, 0);
}

#[tokio::test(start_paused = true)]
async fn a_poll_keeps_its_user_for_10_s() {
    let (roster, typing, channel) = scene().await;
    let mut cursor = watcher(&channel);
    let alice: Arc<str> = "alice".into();
    for _ in 0..3 {
        drop(roster.join(&channel, &alice, None, Lease::Poll));
        pass(&roster, &typing, Duration::from_secs(9)).await;
    }
    assert_eq!(told(&channel, &mut cursor), ["presence_update alice true"]);
    // A stream that ends later does not cut the poll's time short.
    drop(roster.join(&channel, &alice, None, Lease::Poll));
    drop(roster.join(&channel, &alice, None, Lease::Stream));
    pass(&roster, &typing, Duration::from_secs(9)).await;
    assert_eq!(told(&channel, &mut cursor), [""; 0]);
    pass(&roster, &typing, Duration::from_secs(2)).await;
    assert_eq!(told(&channel, &mut cursor), ["presence_update alice false"]);
}

/// A poll goes and comes with every message: that must not fill a table.
#[tokio::test(start_paused = true)]
async fn who_polls_often_is_looked_after_once() {
    let (roster, typing, channel) = scene().await;
    let mut cursor = watcher(&channel);
    let alice: Arc<str> = "alice".into();
    let looks = || roster.shards.iter().map(|shard| shard.lock().leaving_here.len()).sum::<usize>();
    for _ in 0..1000 {
        drop(roster.join(&channel, &alice, None, Lease::Poll));
        pass(&roster, &typing, Duration::from_millis(50)).await;
        assert_eq!(looks(), 1);
    }
    let stays = roster.join(&channel, &alice, None, Lease::Poll);
    pass(&roster, &typing, Duration::from_secs(20)).await;
    assert_eq!((looks(), told(&channel, &mut cursor)), (0, vec!["presence_update alice true".to_owned()]));
    drop(stays);
    assert_eq!(looks(), 1);
    pass(&roster, &typing, Duration::from_millis(9999)).await;
    assert_eq!(told(&channel, &mut cursor), [""; 0]);
    pass(&roster, &typing, Duration::from_millis(2)).await;
    assert_eq!(told(&channel, &mut cursor), ["presence_update alice false"]);
    assert_eq!(looks(), 0);
}

#[tokio::test(start_paused = true)]
async fn typing_ends_by_itself_after_5_s_of_silence() {
    let (roster, typing, channel) = scene().await;
    let mut cursor = watcher(&channel);
    let (alice, client) = ("alice".into(), Uuid::new_v4());
    typing.start(channel.name(), &alice, client);
    pass(&roster, &typing, Duration::from_secs(4)).await;
    typing.start(channel.name(), &alice, client);
    pass(&roster, &typing, Duration::from_secs(4)).await;
    assert_eq!(told(&channel, &mut cursor), ["typing_start alice null", "typing_start alice null"]);
    pass(&roster, &typing, Duration::from_millis(1001)).await;
    assert_eq!(told(&channel, &mut cursor), ["typing_stop alice null"]);
    pass(&roster, &typing, Duration::from_mins(1)).await;
    assert_eq!(told(&channel, &mut cursor), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn typing_ends_once_and_with_the_connection_that_began_it() {
    let (_, typing, channel) = scene().await;
    let mut cursor = watcher(&channel);
    let (alice, client) = ("alice".into(), Uuid::new_v4());
    typing.stop(channel.name(), &alice);
    assert_eq!(told(&channel, &mut cursor), [""; 0], "who did not type can't stop");
    typing.start(channel.name(), &alice, client);
    typing.gone(channel.name(), &alice, Uuid::new_v4());
    assert_eq!(told(&channel, &mut cursor), ["typing_start alice null"]);
    typing.gone(channel.name(), &alice, client);
    typing.stop(channel.name(), &alice);
    assert_eq!(told(&channel, &mut cursor), ["typing_stop alice null"]);
    // A start soon after a stop lasts its own 5 s.
    tokio::time::sleep(Duration::from_secs(3)).await;
    typing.start(channel.name(), &alice, client);
    tokio::time::sleep(Duration::from_secs(3)).await;
    typing.sweep();
    assert_eq!(told(&channel, &mut cursor), ["typing_start alice null"]);
    tokio::time::sleep(Duration::from_secs(3)).await;
    typing.sweep();
    assert_eq!(told(&channel, &mut cursor), ["typing_stop alice null"]);
}

#[tokio::test(start_paused = true)]
async fn typing_crosses_nodes_and_ends_everywhere() {
    let (hub_a, hub_b) = (hub(), hub());
    let (a, b) = (Typing::new(Arc::clone(&hub_a)), Typing::new(Arc::clone(&hub_b)));
    let (sender, mut outgoing) = mpsc::channel(10);
    a.share_with(sender);
    let mut cross = |b: &Typing| {
        let mut told = Vec::new();
        while let Ok(keystroke) = outgoing.try_recv() {
            told.push(keystroke);
        }
        for keystroke in Keystroke::parse(&Keystroke::write(&told)) {
            b.hear(keystroke);
        }
    };
    let channel = hub_b.open(&name("chat:a")).await.unwrap();
    let mut cursor = watcher(&channel);
    let (alice, one, two): (Arc<str>, _, _) = ("alice".into(), Uuid::new_v4(), Uuid::new_v4());
    // The first node does not have the channel.
    a.start(channel.name(), &alice, one);
    assert!(hub_a.find(channel.name()).is_none());
    cross(&b);
    assert_eq!(told(&channel, &mut cursor), ["typing_start alice null"]);
    a.gone(channel.name(), &alice, one);
    cross(&b);
    assert_eq!(told(&channel, &mut cursor), ["typing_stop alice null"]);
    a.start(channel.name(), &alice, one);
    cross(&b);
    b.start(channel.name(), &alice, two);
    a.gone(channel.name(), &alice, one);
    cross(&b);
    assert_eq!(told(&channel, &mut cursor), ["typing_start alice null", "typing_start alice null"]);
    // The stop never comes.
    tokio::time::sleep(Duration::from_millis(5001)).await;
    b.sweep();
    assert_eq!(told(&channel, &mut cursor), ["typing_stop alice null"]);
    b.hear(Keystroke { typed: Typed::Start, channel: name("chat:none"), user_id: alice, client_id: one });
    assert!(hub_b.find(&name("chat:none")).is_none());
}
