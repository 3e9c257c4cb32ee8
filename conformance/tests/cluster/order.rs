//! One log, whichever node one asks: the same messages in the same order at the same positions, a cursor that is good
//! everywhere, an id that is known everywhere.

use std::time::Duration;

use conformance::envelope;
use conformance::feed::{Start, Transport};
use conformance::wire::{Connection, Request, Target};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::stage::{Listener, SOON, Two, read};

#[tokio::test]
async fn both_nodes_tell_the_same_order_and_positions() {
    const EACH: usize = 60;
    let two = Two::start().await;
    let (mut here, _) = Listener::join(two.target(0), "here", "order:1", json!({})).await;
    let (mut there, _) = Listener::join(two.target(1), "there", "order:1", json!({})).await;
    let publish = async |node: usize| {
        let mut acknowledged = Vec::new();
        for n in 0..EACH {
            let id = format!("{node}-{n}");
            let ack = two.publish(node, "order:1", &id, &json!({"from": node, "n": n})).await;
            acknowledged.push((ack.position.seq, id));
        }
        acknowledged
    };
    let (mut acknowledged, others) = tokio::join!(publish(0), publish(1));
    acknowledged.extend(others);
    acknowledged.sort_unstable();

    let seen = here.messages(2 * EACH, SOON).await;
    assert_eq!(there.messages(2 * EACH, SOON).await, seen);
    let order: Vec<_> = seen.iter().map(|message| (message.seq, message.id.clone())).collect();
    assert_eq!(order, acknowledged, "not where the acknowledgements said");
    assert!(seen.windows(2).all(|pair| pair[1].prev == pair[0].seq), "a chain is broken: {seen:?}");
    for node in 0..2 {
        assert_eq!(two.history(node, "order:1").await, seen);
    }
    two.assert_no_panics();
}

#[tokio::test]
async fn a_cursor_of_one_node_is_served_by_the_other() {
    let two = Two::start().await;
    for (index, from) in Transport::ALL.into_iter().enumerate() {
        for to in Transport::ALL {
            // The second node has never heard of the channel.
            let channel = format!("cursor:{index}.{to}");
            for n in 0..3 {
                two.publish(0, &channel, &format!("a{n}"), &json!(n)).await;
            }
            let (before, _, cursor) = read(&two.reader(0, &channel), from, &Start::History(3), 3).await;
            let cursor = cursor.expect("a cursor");
            for n in 3..6 {
                two.publish(0, &channel, &format!("a{n}"), &json!(n)).await;
            }
            let all = two.history(0, &channel).await;
            assert_eq!(before, all[..3]);
            // The cursor of a WebSocket is that of its room_joined, which stands before what was replayed.
            let missing = if from == Transport::WebSocket { &all[..] } else { &all[3..] };
            let mut starts = vec![Start::CursorByQuery(cursor.clone())];
            match to {
                Transport::WebSocket => starts.push(Start::CursorByJoin(cursor)),
                Transport::Sse => starts.push(Start::CursorByHeader(cursor)),
                Transport::Poll => {}
            }
            for start in starts {
                let (rest, recovered, _) = read(&two.reader(1, &channel), to, &start, missing.len()).await;
                assert_eq!(rest, missing, "from {from} to {to}, {start:?}");
                assert!(recovered || to == Transport::Poll, "from {from} to {to}, {start:?}: not recovered");
            }
        }
    }
    two.assert_no_panics();
}

#[tokio::test]
async fn what_one_node_has_replayed_goes_on_live() {
    let two = Two::start().await;
    for n in 0..20 {
        two.publish(0, "replay:1", &format!("a{n}"), &json!(n)).await;
    }
    let position = two.history(0, "replay:1").await[4].clone();
    let recover = json!({"recover": {"epoch": position.epoch, "seq": position.seq}});
    let (mut there, joined) = Listener::join(two.target(1), "there", "replay:1", recover).await;
    assert_eq!((&joined["recovered"], &joined["seq"]), (&json!(true), &json!(position.seq)));
    for n in 20..40 {
        two.publish(0, "replay:1", &format!("a{n}"), &json!(n)).await;
    }
    let seen = there.messages(35, SOON).await;
    assert_eq!(seen, two.history(0, "replay:1").await[5..]);
    assert_eq!(seen, two.history(1, "replay:1").await[5..]);
}

/// A node looks at the stream every other second while messages come in: what it has heard of since it asked is no sign
/// that the stream has lost its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_stream_is_not_taken_for_another() {
    const PUBLISHERS: usize = 16;
    let two = Two::start().await;
    let (mut here, _) = Listener::join(two.target(0), "here", "busy:1", json!({})).await;
    let (mut there, _) = Listener::join(two.target(1), "there", "busy:1", json!({})).await;
    let end = Instant::now() + Duration::from_secs(7);
    let mut publishers = JoinSet::new();
    for publisher in 0..PUBLISHERS {
        publishers.spawn(publish_until(end, two.target(publisher % 2).clone()));
    }
    let read = async |listener: &mut Listener| {
        let first = listener.messages(1, SOON).await.remove(0);
        while Instant::now() < end {
            // A `gap` fails here.
            let next = listener.messages(1, SOON).await.remove(0);
            assert_eq!(next.epoch, first.epoch, "the log has begun anew");
        }
        first.epoch
    };
    let (epoch, other) = tokio::join!(read(&mut here), read(&mut there));
    assert_eq!(epoch, other);
    let published: usize = publishers.join_all().await.into_iter().sum();
    assert!(published > 200, "{published} are too few to tell");
    let now = two.publish(0, "busy:1", "last", &json!("last")).await;
    assert_eq!(now.position.epoch, epoch);
}

/// One message after the other; how many were taken.
async fn publish_until(end: Instant, target: Target) -> usize {
    let token = target.tokens.server("backend");
    let mut http = Connection::open(&target).await.expect("a connection");
    let mut count = 0;
    while Instant::now() < end {
        let request = Request::post("/v1/channels/busy:1/messages", &json!(count)).bearer(&token);
        let response = http.exchange(&request).await.expect("an answer");
        response.expect_status(201).expect("it is taken");
        count += 1;
    }
    count
}

/// A history of thousands takes a node that has never seen it some requests; also from servers that tell one message a
/// request (before 2.11) it must be there before a client gives up.
#[tokio::test]
async fn a_long_history_is_opened_by_a_node_that_has_never_seen_it() {
    const MESSAGES: usize = 2_000;
    let two = Two::start().await;
    let token = two.target(0).tokens.server("backend");
    let mut http = Connection::open(two.target(0)).await.unwrap();
    for batch in 0..MESSAGES / 100 {
        let one = |n: usize| envelope::message("long:1", &format!("a{}", batch * 100 + n), &json!(n));
        let all: Vec<_> = (0..100).map(one).collect();
        let request = Request::post("/v1/send", &json!(all)).bearer(&token);
        http.exchange(&request).await.unwrap().expect_status(200).unwrap();
    }
    let oldest = two.history(0, "long:1").await[0].clone();
    let recover = json!({"recover": {"epoch": oldest.epoch, "seq": oldest.seq}});
    let begun = Instant::now();
    let (mut there, joined) = Listener::join(two.target(1), "there", "long:1", recover).await;
    println!("a history of {MESSAGES} was opened in {:?}", begun.elapsed());
    assert_eq!(joined["recovered"], json!(true), "{joined}");
    let seen = there.messages(MESSAGES - 1, SOON * 2).await;
    assert!(seen.windows(2).all(|pair| pair[1].prev == pair[0].seq), "a chain is broken");
}

#[tokio::test]
async fn an_id_is_known_on_every_node() {
    let two = Two::start().await;
    let (mut reader, _) = Listener::join(two.target(1), "reader", "once:1", json!({})).await;
    let first = two.publish(0, "once:1", "the-id", &json!(1)).await;
    let again = two.publish(1, "once:1", "the-id", &json!(1)).await;
    assert!(!first.duplicate && again.duplicate, "{first:?}, {again:?}");
    assert_eq!(first.position, again.position);

    // The same backend, over the two other ways to send.
    let token = two.target(1).tokens.server("backend");
    let envelope = envelope::message("once:1", "the-id", &json!(1));
    let mut http = Connection::open(two.target(1)).await.unwrap();
    let sent = http.exchange(&Request::post("/v1/send", &envelope).bearer(&token)).await.unwrap();
    let sent = sent.json().unwrap();
    assert_eq!(sent[0]["payload"]["seq"], json!(first.position.seq));
    assert_eq!(sent[0]["payload"]["duplicate"], json!(true));
    // Ids count per sender: of somebody else it is another message.
    let (mut other, _) = Listener::join(two.target(0), "other", "once:1", json!({})).await;
    other.socket.send(&envelope.to_string()).await.unwrap();
    let ack = other.hear("message_ack", SOON).await;
    assert_eq!(ack["payload"]["duplicate"], json!(false), "{ack}");

    let seen = reader.messages(2, SOON).await;
    assert_eq!(seen[0].seq, first.position.seq);
    assert_eq!(json!(seen[1].seq), ack["payload"]["seq"]);
    reader.hears_no("message", Duration::from_millis(300)).await;
}
