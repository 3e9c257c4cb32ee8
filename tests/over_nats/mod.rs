//! What the bus over NATS does beyond the contract, at its edges: who lies to it, where a log begins, what passed by. A
//! part of `tests/bus_contract.rs`, whose nodes it uses.

use std::time::{Duration, Instant};

use async_nats::jetstream;
use tidegate::channel::{GapReason, Position, Resume};
use tidegate::config::Namespace;

use super::{Nodes, read_all_of, within};

/// A server adds its word on where a message stands to the headers that the publisher has chosen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_cannot_say_where_its_message_stands() {
    let nodes = Nodes::nats(2, |config| {
        let orders = Namespace { subject: Some("shop.*".to_owned()), ..Namespace::default() };
        config.channels.namespaces.insert("orders".to_owned(), orders);
    })
    .await;
    let log = nodes.first().open("orders:1").await;
    let epoch = log.head().epoch;
    let client = async_nats::connect(nodes.config.bus.url.clone()).await.expect("connected");
    let context = jetstream::new(client);
    for seq in ["9007199254740993", "4000000", "1"] {
        let mut headers = async_nats::HeaderMap::new();
        for (name, value) in [
            ("Nats-Sequence", seq),
            ("Nats-Last-Sequence", "0"),
            ("Nats-Stream", "another"),
            ("Nats-Num-Pending", "7"),
            ("Nats-Subject", "shop.2"),
        ] {
            headers.insert(name, value);
        }
        let sent = context.publish_with_headers("shop.1", headers, seq.into()).await.expect("sent");
        sent.await.expect("stored");
    }
    nodes.first().publish("orders:1", "alice", None, "4").await;
    let live = read_all_of(&log, 4).await;
    assert_eq!(live.iter().map(|message| message.0).collect::<Vec<_>>(), [1, 2, 3, 4]);
    // The same by fetching.
    let late = nodes.last().open("orders:1").await;
    assert_eq!(read_all_of(&late, 4).await, live);
    assert_eq!(log.head().epoch, epoch);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_changes_nodes_in_a_quiet_channel_is_told_of_no_gap() {
    let nodes = Nodes::nats(2, |config| config.channels.default.history_size = 5).await;
    let early = nodes.first().open("quiet").await;
    for n in 0..30 {
        nodes.first().publish("busy", "alice", None, &n.to_string()).await;
    }
    // The stream begins later now, so a log that is opened now does too.
    let late = nodes.last().open("quiet").await;
    let here = late.head();
    assert!(here.seq > early.head().seq);
    nodes.first().bus.catch_up(&early).await.expect("caught up");
    let resume = here;
    assert_eq!(early.begin(Resume::After(Some(resume)), Instant::now()).1, None);
    // A place that the stream has not come to is none.
    let never = Position { seq: here.seq + 1000, ..here };
    nodes.first().bus.catch_up(&early).await.expect("caught up");
    let resume = never;
    let (_, gap) = early.begin(Resume::After(Some(resume)), Instant::now());
    assert_eq!(gap.map(|gap| gap.reason), Some(GapReason::EpochChanged));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_behind_by_a_whole_history_has_missed_nothing() {
    let nodes = Nodes::nats(2, |config| config.channels.default.history_size = 5).await;
    let mut positions = Vec::new();
    for n in 0..20 {
        positions.push(nodes.first().publish("a", "alice", None, &n.to_string()).await.position);
        nodes.first().publish("another", "alice", None, "0").await;
    }
    let log = nodes.last().open("a").await;
    assert_eq!(log.begin(Resume::After(Some(positions[14])), Instant::now()).1, None);
    assert!(log.begin(Resume::After(Some(positions[12])), Instant::now()).1.is_some());
}

/// Whatever passed by while the node was away can't be told from what it has had: an honest gap.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_stream_has_dropped_between_two_looks_is_a_gap() {
    let nodes = Nodes::nats(1, |config| config.channels.default.history_size = 5).await;
    let quiet = nodes.first().open("quiet").await;
    let had = nodes.first().publish("quiet", "alice", None, "1").await.position;
    // Until it was looked at.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(quiet.begin(Resume::After(Some(had)), Instant::now()).1, None);
    let client = async_nats::connect(nodes.config.bus.url.clone()).await.expect("connected");
    let stream = jetstream::new(client).get_stream("TIDEGATE").await.expect("the stream");
    nodes.first().publish("busy", "alice", None, "1").await;
    stream.purge().await.expect("purged");
    nodes.first().publish("busy", "alice", None, "2").await;
    let gap = within(10, || async { quiet.begin(Resume::After(Some(had)), Instant::now()).1 }).await;
    assert_eq!(gap.reason, GapReason::Expired);
    nodes.first().publish("quiet", "alice", None, "2").await;
    read_all_of(&quiet, 1).await;
}

/// More channels of one group than are subscribed to one by one: the many subscriptions become one under load. A machine
/// that stands still, as beside all other tests, makes messages late as well, but not each time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_while_one_subscription_takes_over_from_many() {
    let mut late = Vec::new();
    for _ in 0..12 {
        match found_late_while_one_takes_over().await {
            0 => return,
            count => late.push(count),
        }
    }
    panic!("what comes after a pause is found late: {late:?}");
}

async fn found_late_while_one_takes_over() -> u64 {
    let nodes = Nodes::nats(2, |_| {}).await;
    let bucket = |name: &String| crc32fast::hash(name.as_bytes()) % 1024 == 7;
    let names: Vec<String> = (0..).map(|n| format!("c{n}")).filter(bucket).take(9).collect();
    let mut logs = Vec::new();
    for name in &names[..8] {
        logs.push(nodes.last().open(name).await);
    }
    let client = async_nats::connect(nodes.config.bus.url.clone()).await.expect("connected");
    // Without waiting for acknowledgements: many are on their way at once.
    let publish = async {
        for n in 0..200 {
            for name in &names[..8] {
                client.publish(format!("tidegate.pub.0.7.{name}"), n.to_string().into()).await.expect("sent");
            }
        }
        client.flush().await.expect("sent");
    };
    let take_over = async {
        tokio::time::sleep(Duration::from_millis(15)).await;
        nodes.last().open(&names[8]).await
    };
    tokio::join!(publish, take_over);
    assert_eq!(nodes.last().bus.report().subscriptions, 1);
    for log in &logs {
        read_all_of(log, 200).await;
    }
    let events = nodes.last().bus.report().events;
    events.into_iter().find(|(name, _)| *name == "lost_tail").expect("it is counted").1
}

/// Nodes that start at once make the stream at once; so they do when it was deleted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_make_the_stream_at_once_agree_on_its_epoch() {
    let nodes = Nodes::nats(1, |_| {}).await;
    let client = async_nats::connect(nodes.config.bus.url.clone()).await.expect("connected");
    let context = jetstream::new(client);
    let name = "a".parse().expect("a name");
    for round in 0..10 {
        context.delete_stream("TIDEGATE").await.expect("deleted");
        let starts = (0..4).map(|_| nodes.bus());
        let started = futures_util::future::try_join_all(starts).await.expect("buses");
        let info = context.get_stream("TIDEGATE").await.expect("the stream").cached_info().clone();
        let epochs: Vec<_> = started.iter().map(|bus| bus.blank(&name).epoch).collect();
        assert!(epochs.iter().all(|epoch| *epoch == epochs[0]), "round {round}: {epochs:?} {info:?}");
    }
}

/// A busy channel whose stream keeps few: what was dropped while it was fetched is a gap, and never a silent hole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_busy_channel_drops_while_it_is_opened_leaves_no_hole() {
    let nodes = Nodes::nats(1, |config| config.channels.default.history_size = 20).await;
    let client = async_nats::connect(nodes.config.bus.url.clone()).await.expect("connected");
    let bucket = crc32fast::hash(b"hot") % 1024;
    let mut flood = tokio::task::JoinSet::new();
    flood.spawn(async move {
        for n in 0..u32::MAX {
            client.publish(format!("tidegate.pub.0.{bucket}.hot"), n.to_string().into()).await.expect("sent");
            // As fast as the stream stores them, and no faster.
            if n % 10 == 0 {
                client.flush().await.expect("sent");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    });
    let node = nodes.first();
    for _ in 0..100 {
        let log = node.open("hot").await;
        tokio::time::sleep(Duration::from_millis(5)).await;
        // The stream has this channel alone: each sequence is one of its messages.
        let page = log.history(0, usize::MAX, usize::MAX, Instant::now());
        let seqs: Vec<u64> = page.messages.iter().map(|message| message.seq).collect();
        assert!(seqs.windows(2).all(|pair| pair[1] == pair[0] + 1), "{seqs:?}");
        node.bus.close(&log);
        node.logs.lock().clear();
    }
    flood.abort_all();
}
