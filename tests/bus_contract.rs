//! The contract of `tidegate::bus::Bus`, as one suite for every implementation: [`contract`] names each promise.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde_json::value::RawValue;
use tidegate::bus::{Accepted, Bus, EmbeddedBus, IDEMPOTENCY_WINDOW};
use tidegate::channel::{Channel, Cursor, Item, MessageId, Publication, Resume, Retention, Viewer};
use uuid::Uuid;

/// Every promise, against buses that `make` makes.
macro_rules! contract {
    ($name:ident, $make:expr) => {
        mod $name {
            use super::*;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn positions_rise_and_logs_keep_their_order() {
                super::positions_rise_and_logs_keep_their_order($make).await;
            }

            #[tokio::test]
            async fn what_is_acknowledged_is_in_the_log_where_it_says() {
                super::what_is_acknowledged_is_in_the_log_where_it_says($make).await;
            }

            #[tokio::test]
            async fn an_id_is_stored_once_for_its_sender_and_channel() {
                super::an_id_is_stored_once_for_its_sender_and_channel($make).await;
            }

            #[tokio::test(start_paused = true)]
            async fn an_id_is_remembered_for_its_window() {
                super::an_id_is_remembered_for_its_window($make).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn of_many_sends_of_one_id_at_once_one_is_stored() {
                super::of_many_sends_of_one_id_at_once_one_is_stored($make).await;
            }

            #[tokio::test]
            async fn what_has_no_id_is_stored_each_time() {
                super::what_has_no_id_is_stored_each_time($make).await;
            }
        }
    };
}

contract!(embedded, Arc::new(EmbeddedBus::new()));

async fn positions_rise_and_logs_keep_their_order(bus: Arc<dyn Bus>) {
    let channels = [channel(&bus, "a"), channel(&bus, "b")];
    let publishers = (0..4).map(|publisher: usize| {
        let (bus, channel) = (Arc::clone(&bus), Arc::clone(&channels[publisher % 2]));
        async move {
            let mut last = 0;
            for n in 0..250 {
                let data = format!("[{publisher},{n}]");
                let accepted = bus.publish(&channel, publication(&channel, "alice", None, &data)).await;
                let seq = accepted.expect("accepted").position.seq;
                assert!(seq > last, "a sender's later publication stands behind its earlier one");
                last = seq;
            }
        }
    });
    in_parallel(publishers).await;
    for channel in &channels {
        let messages = read_all(channel);
        assert_eq!(messages.len(), 500);
        let mut before = 0;
        for (seq, prev, _) in &messages {
            assert_eq!(*prev, before, "each message names the one before it");
            assert!(*seq > before);
            before = *seq;
        }
        for publisher in 0..4 {
            let mine =
                messages.iter().filter_map(|(_, _, data)| data.strip_prefix(&format!("[{publisher},")));
            let order: Vec<u32> = mine.map(|n| n.trim_end_matches(']').parse().expect("a number")).collect();
            assert!(order.is_sorted(), "publisher {publisher}: {order:?}");
        }
    }
}

async fn what_is_acknowledged_is_in_the_log_where_it_says(bus: Arc<dyn Bus>) {
    let channel = channel(&bus, "a");
    for n in 0..10 {
        let accepted = publish(&bus, &channel, "alice", None, &n.to_string()).await;
        assert!(!accepted.duplicate);
        assert_eq!(accepted.position, channel.head());
        assert_eq!(accepted.position.epoch, bus.epoch());
        let (seq, _, data) = read_all(&channel).pop().expect("a message");
        assert_eq!((seq, data), (accepted.position.seq, n.to_string()));
    }
}

async fn an_id_is_stored_once_for_its_sender_and_channel(bus: Arc<dyn Bus>) {
    let (a, b) = (channel(&bus, "a"), channel(&bus, "b"));
    let first = publish(&bus, &a, "alice", Some("m1"), "1").await;
    publish(&bus, &a, "alice", Some("m2"), "2").await;
    let again = publish(&bus, &a, "alice", Some("m1"), "3").await;
    assert_eq!(again, Accepted { position: first.position, duplicate: true });
    // Nobody can take an id away from somebody else.
    assert!(!publish(&bus, &a, "bob", Some("m1"), "4").await.duplicate);
    assert!(!publish(&bus, &b, "alice", Some("m1"), "5").await.duplicate);
    assert_eq!(read_all(&a).len(), 3);
    assert_eq!(read_all(&b).len(), 1);
}

async fn an_id_is_remembered_for_its_window(bus: Arc<dyn Bus>) {
    let channel = channel(&bus, "a");
    publish(&bus, &channel, "alice", Some("m1"), "1").await;
    tokio::time::sleep(IDEMPOTENCY_WINDOW.saturating_sub(Duration::from_secs(1))).await;
    assert!(publish(&bus, &channel, "alice", Some("m1"), "1").await.duplicate);
    tokio::time::sleep(IDEMPOTENCY_WINDOW + Duration::from_secs(1)).await;
    assert!(!publish(&bus, &channel, "alice", Some("m1"), "1").await.duplicate);
}

async fn of_many_sends_of_one_id_at_once_one_is_stored(bus: Arc<dyn Bus>) {
    let channel = channel(&bus, "a");
    let sends = (0..32).map(|_| {
        let (bus, channel) = (Arc::clone(&bus), Arc::clone(&channel));
        async move {
            publish(&bus, &channel, "alice", Some("m1"), "1").await;
        }
    });
    in_parallel(sends).await;
    assert_eq!(read_all(&channel).len(), 1);
}

async fn what_has_no_id_is_stored_each_time(bus: Arc<dyn Bus>) {
    let channel = channel(&bus, "a");
    for _ in 0..3 {
        assert!(!publish(&bus, &channel, "alice", None, "1").await.duplicate);
    }
    assert_eq!(read_all(&channel).len(), 3);
}

fn channel(bus: &Arc<dyn Bus>, name: &str) -> Arc<Channel> {
    let retention = Retention {
        history_size: 10_000,
        history_bytes: usize::MAX,
        history_ttl: Duration::from_hours(1),
        lag_bytes: 0,
        lag: Duration::ZERO,
    };
    Arc::new(Channel::new(name.parse().expect("a name"), retention, bus.epoch(), 0, Instant::now()))
}

fn publication(channel: &Channel, sender: &str, id: Option<&str>, data: &str) -> Publication {
    Publication {
        channel: channel.name().clone(),
        sender_id: sender.into(),
        client_id: Uuid::nil(),
        idempotent: id.is_some(),
        message_id: id.map_or_else(MessageId::random, |id| MessageId::parse(id).expect("an id")),
        timestamp: SystemTime::now(),
        data: RawValue::from_string(data.to_owned()).expect("JSON"),
    }
}

async fn publish(
    bus: &Arc<dyn Bus>,
    channel: &Arc<Channel>,
    sender: &str,
    id: Option<&str>,
    data: &str,
) -> Accepted {
    bus.publish(channel, publication(channel, sender, id, data)).await.expect("accepted")
}

/// All of the log: `seq`, `prev` and `data` of each message, through a cursor as any subscriber.
fn read_all(channel: &Channel) -> Vec<(u64, u64, String)> {
    let (mut cursor, gap): (Cursor, _) = channel.begin(Resume::History(usize::MAX), Instant::now());
    assert_eq!(gap, None);
    let mut messages = Vec::new();
    let viewer = Viewer { user_id: "reader", presence: false };
    let batch = channel.read(&mut cursor, viewer, usize::MAX, |item| {
        let Item::Message(message) = item else { return };
        let envelope: serde_json::Value = serde_json::from_slice(&message.json).expect("an envelope");
        messages.push((message.seq, message.prev, envelope["payload"]["data"].to_string()));
    });
    assert!(!batch.expect("no gap").more);
    messages
}

async fn in_parallel(tasks: impl Iterator<Item = impl Future<Output = ()> + Send + 'static>) {
    let mut running = tokio::task::JoinSet::new();
    tasks.for_each(|task| {
        running.spawn(task);
    });
    while let Some(done) = running.join_next().await {
        done.expect("no panic");
    }
}
