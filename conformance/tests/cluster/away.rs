//! NATS is away, for one node or for all, or has forgotten everything: sends are refused and never lost in silence,
//! readiness goes, connections stay, and when it is back everything goes on by itself.

use std::time::Duration;

use conformance::link::State;
use conformance::nats::Client;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use crate::stage::{Got, Listener, RECOVERY, SOON, Two};

/// A refused send waits five seconds at most before it is told so.
const REFUSED: Duration = Duration::from_secs(8);

/// Sends until it is acknowledged, always under the same id, and says at which `seq`.
async fn insist(two: &Two, node: usize, channel: &str, id: &str) -> u64 {
    let deadline = Instant::now() + RECOVERY;
    loop {
        let response = two.post(node, channel, id, &json!(id)).await.expect("an answer");
        if response.head.status == 201 {
            return response.json().unwrap()["seq"].as_u64().expect("a seq");
        }
        assert_eq!(response.head.status, 503, "{response:?}");
        assert!(Instant::now() < deadline, "still {response:?}");
        sleep(Duration::from_millis(100)).await;
    }
}

async fn is_refused_truly(two: &Two, node: usize, channel: &str) {
    let data = json!(1);
    let response = timeout(REFUSED, two.post(node, channel, "refused-1", &data)).await;
    let response = response.expect("an answer in bounded time").expect("an answer");
    response.expect_status(503).unwrap();
    let seconds = response.head.header("retry-after").expect("when to try again");
    assert!(seconds.parse::<u32>().is_ok(), "{seconds}");
    let problem = response.json().unwrap();
    assert_eq!(problem["reason"], json!("overloaded"));
    assert!(problem["retry_after_ms"].as_u64().is_some_and(|ms| ms > 0), "{problem}");
}

async fn is_unready(two: &Two, node: usize) {
    let deadline = Instant::now() + RECOVERY;
    loop {
        let ready = two.edges.nodes[node].readyz().await.expect("the admin listener answers");
        if ready.head.status == 503 {
            return;
        }
        assert!(Instant::now() < deadline, "it calls itself ready without NATS");
        sleep(Duration::from_millis(50)).await;
    }
}

fn ids(messages: &[Got]) -> Vec<&str> {
    messages.iter().map(|message| message.id.as_str()).collect()
}

async fn one_node_is_cut_off(how: State) {
    let two = Two::start().await;
    let channel = "away:1";
    let (mut here, _) = Listener::join(two.target(0), "here", channel, json!({})).await;
    let (mut there, _) = Listener::join(two.target(1), "there", channel, json!({})).await;
    insist(&two, 0, channel, "before").await;

    two.edges.nodes[0].link(how);
    is_refused_truly(&two, 0, channel).await;
    let message = json!({"channel": channel, "data": 1});
    here.say("message", &message).await;
    let error = here.hear("error", REFUSED).await;
    assert_eq!(
        (&error["payload"]["code"], &error["payload"]["reason"]),
        (&json!(1013), &json!("overloaded"))
    );
    assert!(error["payload"]["retry_after_ms"].as_u64().is_some_and(|ms| ms > 0), "{error}");
    is_unready(&two, 0).await;
    // Whoever is there stays, and is told nothing false.
    here.say("ping", &json!({})).await;
    here.hear("pong", SOON).await;
    // The other node is not concerned.
    assert!(two.edges.nodes[1].is_ready().await);
    for n in 0..5 {
        insist(&two, 1, channel, &format!("meanwhile-{n}")).await;
    }

    let wanted = ["before", "meanwhile-0", "meanwhile-1", "meanwhile-2", "meanwhile-3", "meanwhile-4"];
    assert_eq!(ids(&there.messages(6, SOON).await), wanted);
    two.edges.nodes[0].link(State::Through);
    two.edges.nodes[0].until_ready(RECOVERY).await.unwrap();
    insist(&two, 0, channel, "after").await;
    // What was refused may have been on its way all the same, once; the rest is certain.
    let seen = here.messages(7, RECOVERY).await;
    let certain: Vec<_> = ids(&seen).into_iter().filter(|id| wanted.contains(id) || *id == "after").collect();
    assert_eq!(certain[..6], wanted);
    there.messages(seen.len() - 6, SOON).await;
    assert_eq!(two.history(0, channel).await, two.history(1, channel).await);
    two.assert_no_panics();
}

#[tokio::test]
async fn a_node_whose_link_is_refused_says_so_and_goes_on_when_it_is_back() {
    one_node_is_cut_off(State::Refusing).await;
}

#[tokio::test]
async fn a_node_whose_link_is_silent_says_so_and_goes_on_when_it_is_back() {
    one_node_is_cut_off(State::Silent).await;
}

#[tokio::test]
async fn nats_itself_goes_and_comes_back() {
    let mut two = Two::start().await;
    let channel = "restart:1";
    let (mut here, _) = Listener::join(two.target(0), "here", channel, json!({})).await;
    let (mut there, _) = Listener::join(two.target(1), "there", channel, json!({})).await;
    for n in 0..5 {
        insist(&two, n % 2, channel, &format!("before-{n}")).await;
    }
    two.nats.kill();
    is_refused_truly(&two, 0, channel).await;
    is_unready(&two, 0).await;
    is_unready(&two, 1).await;
    two.nats.restart().await.unwrap();
    for node in &two.edges.nodes {
        node.until_ready(RECOVERY).await.unwrap();
    }
    for n in 0..5 {
        insist(&two, n % 2, channel, &format!("after-{n}")).await;
    }
    // "refused-1" may have got through.
    let all = two.history(0, channel).await;
    let certain = ids(&all).into_iter().filter(|id| *id != "refused-1").count();
    assert_eq!(certain, 10, "{all:?}");
    assert_eq!(here.messages(all.len(), SOON).await, all);
    assert_eq!(there.messages(all.len(), SOON).await, all);
    two.assert_no_panics();
}

#[tokio::test]
async fn a_stream_that_was_deleted_begins_another_epoch() {
    let two = Two::start().await;
    let channel = "epoch:1";
    let (mut here, joined) = Listener::join(two.target(0), "here", channel, json!({})).await;
    for n in 0..3 {
        insist(&two, 0, channel, &format!("old-{n}")).await;
    }
    let old = here.messages(3, SOON).await;
    assert_eq!(joined["epoch"], json!(old[0].epoch));

    let mut nats = Client::connect(two.nats_addr(), Value::Null).await.unwrap();
    nats.api("STREAM.DELETE.TIDEGATE", &Value::Null).await.unwrap();
    let told = here.hear("gap", RECOVERY).await;
    assert_eq!(told["payload"]["reason"], json!("epoch_changed"), "{told}");
    assert_ne!(told["payload"]["epoch"], json!(old[0].epoch));
    for node in 0..2 {
        insist(&two, node, channel, &format!("new-{node}")).await;
    }
    let new = here.messages(2, SOON).await;
    assert_eq!(ids(&new), ["new-0", "new-1"]);
    assert!(new.iter().all(|message| json!(message.epoch) == told["payload"]["epoch"]), "{new:?}, {told}");
    here.hears_no("gap", Duration::from_millis(300)).await;

    // Who comes to the other node with a position of the old one is told the same.
    let last = &old[2];
    let recover = json!({"recover": {"epoch": last.epoch, "seq": last.seq}});
    let (mut there, joined) = Listener::join(two.target(1), "there", channel, recover).await;
    assert_eq!(joined["recovered"], json!(false));
    let gap = there.hear("gap", SOON).await;
    assert_eq!(gap["payload"]["reason"], json!("epoch_changed"));
    assert_eq!(there.messages(2, SOON).await, new);
    two.assert_no_panics();
}
