//! What a subscriber reads of several channels: through the real node, without a socket.

use std::sync::Arc;
use std::time::SystemTime;

use serde_json::value::RawValue;
use tidegate::auth::Identity;
use tidegate::channel::{ChannelName, MessageId, Position, Publication, Resume};
use tidegate::config::{Access, AuthMode, Config};
use tidegate::presence::Lease;
use tidegate::server::{Running, start};
use tidegate::transport::{CursorString, Edge, Event, Subscriptions};
use uuid::Uuid;

async fn node() -> Running {
    let mut config = Config::default();
    config.listen.addr = ([127, 0, 0, 1], 0).into();
    config.listen.admin = ([127, 0, 0, 1], 0).into();
    config.tls.enabled = false;
    config.auth.mode = AuthMode::Optional;
    config.channels.default.join = Access::Anyone;
    start(Arc::new(config)).await.expect("a node starts on free ports")
}

fn name(name: &str) -> ChannelName {
    name.parse().expect("a channel name")
}

async fn publish(edge: &Edge, channel: &str) {
    let publication = Publication {
        channel: name(channel),
        sender_id: "alice".into(),
        client_id: Uuid::nil(),
        message_id: MessageId::random(),
        idempotent: false,
        timestamp: SystemTime::now(),
        data: RawValue::from_string("1".to_owned()).expect("JSON"),
    };
    edge.hub.publish(publication).await.expect("published");
}

async fn join(edge: &Edge, subscriptions: &mut Subscriptions, channel: &str, resume: Resume) -> bool {
    let who = Identity::guest_of_connection();
    let channel = name(channel);
    let joined = subscriptions.join(edge, &who, &channel, (resume, None), false, Lease::Stream);
    joined.await.expect("joined").recovered
}

/// The types of what is read in one pass of that budget, as `channel:type`.
fn read(edge: &Edge, subscriptions: &mut Subscriptions, budget: usize) -> Vec<String> {
    let mut seen = Vec::new();
    let more = subscriptions.read(edge, "reader", budget, |event: Event<'_>, _| {
        let envelope: serde_json::Value = serde_json::from_slice(event.json()).expect("an envelope");
        seen.push(format!("{}:{}", envelope["payload"]["channel"], envelope["type"]).replace('"', ""));
    });
    more.expect("not closed");
    seen
}

#[tokio::test]
async fn a_channel_that_always_has_more_starves_no_other() {
    let node = node().await;
    let edge = node.edge();
    let mut subscriptions = Subscriptions::new();
    for channel in ["hot", "quiet", "silent"] {
        join(edge, &mut subscriptions, channel, Resume::Live).await;
    }
    publish(edge, "quiet").await;
    let mut passes = 0;
    loop {
        for _ in 0..4 {
            publish(edge, "hot").await;
        }
        passes += 1;
        // Room for one message in each pass, while four come.
        if read(edge, &mut subscriptions, 1).contains(&"quiet:message".to_owned()) {
            break;
        }
        assert!(passes < 4, "the quiet channel's turn never comes");
    }
    node.drain().await;
}

#[tokio::test]
async fn a_cursor_names_the_place_that_was_asked_for_until_its_loss_is_told() {
    let node = node().await;
    let edge = node.edge();
    let mut subscriptions = Subscriptions::new();
    publish(edge, "a").await;
    let asked = Position { epoch: tidegate::channel::Epoch::new(1), seq: 7 };
    assert!(!join(edge, &mut subscriptions, "a", Resume::After(Some(asked))).await);
    let place = |subscriptions: &Subscriptions| {
        let cursor = CursorString::parse(&subscriptions.cursor_string(None)).expect("a cursor");
        cursor.place(&name("a")).expect("names the channel").position
    };
    assert_eq!(place(&subscriptions), asked);
    assert_eq!(read(edge, &mut subscriptions, 10_000), ["a:gap", "a:message"]);
    assert_eq!(place(&subscriptions), edge.hub.find(&name("a")).expect("is there").head());
    node.drain().await;
}
