//! Who counts as there, and as typing, as time goes by.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Lease, Roster, Typing};
use crate::channel::{Channel, Cursor, Epoch, Item, Resume, Retention, Viewer};

fn channel() -> Arc<Channel> {
    let retention = Retention {
        history_size: 10,
        history_bytes: usize::MAX,
        history_ttl: Duration::from_mins(10),
        lag_bytes: 0,
        lag: Duration::ZERO,
    };
    Arc::new(Channel::new("chat:a".parse().unwrap(), retention, Epoch::new(1), 0, Instant::now()))
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
    let (roster, typing, channel) = (Arc::<Roster>::default(), Typing::default(), channel());
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
    let (roster, typing, channel) = (Arc::<Roster>::default(), Typing::default(), channel());
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

#[tokio::test(start_paused = true)]
async fn typing_ends_by_itself_after_5_s_of_silence() {
    let (roster, typing, channel) = (Arc::<Roster>::default(), Typing::default(), channel());
    let mut cursor = watcher(&channel);
    let (alice, client) = ("alice".into(), uuid::Uuid::new_v4());
    typing.start(&channel, &alice, client);
    pass(&roster, &typing, Duration::from_secs(4)).await;
    typing.start(&channel, &alice, client);
    pass(&roster, &typing, Duration::from_secs(4)).await;
    assert_eq!(told(&channel, &mut cursor), ["typing_start alice null", "typing_start alice null"]);
    pass(&roster, &typing, Duration::from_millis(1001)).await;
    assert_eq!(told(&channel, &mut cursor), ["typing_stop alice null"]);
    pass(&roster, &typing, Duration::from_mins(1)).await;
    assert_eq!(told(&channel, &mut cursor), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn typing_ends_once_and_with_the_connection_that_began_it() {
    let (typing, channel) = (Typing::default(), channel());
    let mut cursor = watcher(&channel);
    let (alice, client) = ("alice".into(), uuid::Uuid::new_v4());
    typing.stop(channel.name(), &alice);
    assert_eq!(told(&channel, &mut cursor), [""; 0], "who did not type can't stop");
    typing.start(&channel, &alice, client);
    typing.gone(channel.name(), &alice, uuid::Uuid::new_v4());
    assert_eq!(told(&channel, &mut cursor), ["typing_start alice null"]);
    typing.gone(channel.name(), &alice, client);
    typing.stop(channel.name(), &alice);
    assert_eq!(told(&channel, &mut cursor), ["typing_stop alice null"]);
    // A start soon after a stop lasts its own 5 s.
    tokio::time::sleep(Duration::from_secs(3)).await;
    typing.start(&channel, &alice, client);
    tokio::time::sleep(Duration::from_secs(3)).await;
    typing.sweep();
    assert_eq!(told(&channel, &mut cursor), ["typing_start alice null"]);
    tokio::time::sleep(Duration::from_secs(3)).await;
    typing.sweep();
    assert_eq!(told(&channel, &mut cursor), ["typing_stop alice null"]);
}
