//! People see each other over nodes: who is there, who types, and who is gone when their node is.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::stage::{Listener, SOON, Two};

/// A node that is silent for ten seconds takes its members with it; then their three seconds of grace.
const GIVEN_UP: Duration = Duration::from_secs(16);

/// Waits until both nodes name exactly these users.
async fn both_name(two: &Two, channel: &str, wanted: &[(&str, u64)], nodes: &[usize]) {
    let wanted: Vec<_> = wanted.iter().map(|(user, count)| ((*user).to_owned(), *count)).collect();
    let deadline = Instant::now() + SOON;
    for node in nodes {
        loop {
            let state = two.get(*node, &format!("/v1/channels/{channel}/presence")).await;
            let user = |user: &Value| {
                let id = user["user_id"].as_str().unwrap_or_default().to_owned();
                (id, user["connections"].as_u64().unwrap_or(0))
            };
            let mut found: Vec<_> = state["users"].as_array().expect("users").iter().map(user).collect();
            found.sort_unstable();
            if found == wanted {
                break;
            }
            assert!(Instant::now() < deadline, "node {node} names {found:?}, not {wanted:?}");
            sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn is_told(listener: &mut Listener, user: &str, online: bool, within: Duration) {
    let update = listener.hear("presence_update", within).await;
    let payload = &update["payload"];
    assert_eq!((&payload["user_id"], &payload["online"]), (&json!(user), &json!(online)), "{update}");
}

#[tokio::test]
async fn presence_is_the_same_on_every_node() {
    let two = Two::start().await;
    let channel = "people:1";
    let watch = json!({"presence": true});
    let (mut ann, _) = Listener::join(two.target(0), "ann", channel, watch.clone()).await;
    is_told_of_itself_or_not(&mut ann).await;
    let (mut bob, _) = Listener::join(two.target(1), "bob", channel, watch.clone()).await;
    is_told(&mut ann, "bob", true, SOON).await;
    both_name(&two, channel, &[("ann", 1), ("bob", 1)], &[0, 1]).await;
    // A second connection of a user on the other node is no news.
    let (second, joined) = Listener::join(two.target(1), "ann", channel, watch).await;
    both_name(&two, channel, &[("ann", 2), ("bob", 1)], &[0, 1]).await;
    let listed = joined["presence"].as_array().expect("the list that was asked for");
    assert!(listed.iter().any(|user| user["user_id"] == "ann") && listed.len() == 2, "{joined}");
    ann.socket.close(1000).await.unwrap();
    drop(ann);
    both_name(&two, channel, &[("ann", 1), ("bob", 1)], &[0, 1]).await;
    drop(second);
    is_told_only(&mut bob, "ann", false).await;
    both_name(&two, channel, &[("bob", 1)], &[0, 1]).await;
    two.assert_no_panics();
}

/// One's own coming may be told to oneself; it is passed over.
async fn is_told_of_itself_or_not(listener: &mut Listener) {
    let _ = listener.hear_or_not("presence_update", Duration::from_millis(200)).await;
}

/// The next update but those about oneself.
async fn is_told_only(listener: &mut Listener, user: &str, online: bool) {
    loop {
        let update = listener.hear("presence_update", SOON + Duration::from_secs(3)).await;
        if update["payload"]["user_id"] == json!(user) && update["payload"]["online"] == json!(online) {
            return;
        }
        assert_eq!(update["payload"]["online"], json!(true), "nobody else has gone: {update}");
    }
}

#[tokio::test]
async fn who_is_gone_with_a_node_is_gone() {
    let mut two = Two::start().await;
    let channel = "people:2";
    let (mut ann, _) = Listener::join(two.target(0), "ann", channel, json!({"presence": true})).await;
    is_told_of_itself_or_not(&mut ann).await;
    let (_bob, _) = Listener::join(two.target(1), "bob", channel, json!({})).await;
    is_told(&mut ann, "bob", true, SOON).await;
    two.edges.nodes[1].kill();
    is_told(&mut ann, "bob", false, GIVEN_UP).await;
    both_name(&two, channel, &[("ann", 1)], &[0]).await;
    // And who comes to the node again is there again, told by a node that is new.
    two.edges.nodes[1].start().await.unwrap();
    two.edges.nodes[1].until_ready(SOON).await.unwrap();
    let (_bob, _) = Listener::join(two.target(1), "bob", channel, json!({})).await;
    is_told(&mut ann, "bob", true, SOON).await;
    both_name(&two, channel, &[("ann", 1), ("bob", 1)], &[0, 1]).await;
}

#[tokio::test]
async fn typing_crosses_nodes() {
    let two = Two::start().await;
    let channel = "people:3";
    let (mut ann, _) = Listener::join(two.target(0), "ann", channel, json!({})).await;
    let (mut bob, _) = Listener::join(two.target(1), "bob", channel, json!({})).await;
    let here = json!({"channel": channel});
    bob.say("typing_start", &here).await;
    let typing = ann.hear("typing_start", SOON).await;
    assert_eq!(typing["payload"], json!({"channel": channel, "user_id": "bob"}));
    bob.say("typing_stop", &here).await;
    ann.hear("typing_stop", SOON).await;
    // Whoever goes while typing has stopped.
    bob.say("typing_start", &here).await;
    ann.hear("typing_start", SOON).await;
    drop(bob);
    ann.hear("typing_stop", SOON).await;
    ann.hears_no("typing_stop", Duration::from_millis(300)).await;
    two.assert_no_panics();
}
