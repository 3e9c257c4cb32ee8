//! The contract of `tidegate::bus::Bus`, as one suite for every implementation: [`contract`] names each promise. The bus
//! over NATS keeps it too, on two nodes and against a real `nats-server`.

#[expect(dead_code, reason = "presence over nodes needs the rest")]
mod nats_server;
mod over_nats;

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use nats_server::NatsServer;
use parking_lot::Mutex;
use serde_json::value::RawValue;
use tidegate::bus::{Accepted, Bus, BusError, EmbeddedBus, IDEMPOTENCY_WINDOW, Logs, NatsBus, NatsError};
use tidegate::channel::{
    Channel, ChannelName, Cursor, GapReason, Item, MessageId, Publication, Resume, Retention, Viewer,
};
use tidegate::config::{BusKind, Config, Storage};
use uuid::Uuid;

/// Every promise, kept by the nodes that `make` makes.
macro_rules! contract {
    ($name:ident, $make:expr) => {
        mod $name {
            use super::*;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn positions_rise_and_logs_keep_their_order() {
                super::positions_rise_and_logs_keep_their_order(&$make.await).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn what_is_acknowledged_is_in_the_log_where_it_says() {
                super::what_is_acknowledged_is_in_the_log_where_it_says(&$make.await).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn an_id_is_stored_once_for_its_sender_and_channel() {
                super::an_id_is_stored_once_for_its_sender_and_channel(&$make.await).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn of_many_sends_of_one_id_at_once_one_is_stored() {
                super::of_many_sends_of_one_id_at_once_one_is_stored(&$make.await).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn what_has_no_id_is_stored_each_time() {
                super::what_has_no_id_is_stored_each_time(&$make.await).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn a_log_that_is_opened_later_has_all() {
                super::a_log_that_is_opened_later_has_all(&$make.await).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn a_closed_log_can_be_opened_again() {
                super::a_closed_log_can_be_opened_again(&$make.await).await;
            }
        }
    };
}

contract!(embedded, async { Nodes::embedded() });
contract!(nats, Nodes::nats(2, |_| {}));
contract!(
    nats_with_several_streams,
    Nodes::nats(2, |config| {
        config.bus.streams = 3;
        config.bus.storage = Storage::Memory;
    })
);

/// Nodes of one installation, and what they need to live.
struct Nodes {
    all: Vec<Node>,
    server: Option<NatsServer>,
    config: Config,
}

/// A bus and its logs.
struct Node {
    bus: Arc<dyn Bus>,
    logs: Mutex<HashMap<ChannelName, Arc<Channel>>>,
}

impl Nodes {
    fn embedded() -> Self {
        Self { all: vec![Node::new(Arc::new(EmbeddedBus::new()))], server: None, config: Config::default() }
    }

    async fn nats(count: usize, change: impl FnOnce(&mut Config)) -> Self {
        let server = NatsServer::start();
        let mut config = Config::default();
        config.bus.kind = BusKind::Nats;
        config.bus.url = server.url();
        config.channels.default.history_size = 10_000;
        change(&mut config);
        let mut nodes = Self { all: Vec::new(), server: Some(server), config };
        for _ in 0..count {
            let bus = nodes.bus().await.expect("a bus");
            nodes.all.push(Node::new(bus));
        }
        nodes
    }

    /// Another node's bus.
    async fn bus(&self) -> Result<Arc<dyn Bus>, NatsError> {
        Ok(Arc::new(NatsBus::connect(&self.config).await?))
    }

    fn first(&self) -> &Node {
        &self.all[0]
    }

    fn last(&self) -> &Node {
        self.all.last().expect("there are nodes")
    }
}

impl Node {
    fn new(bus: Arc<dyn Bus>) -> Self {
        Self { bus, logs: Mutex::default() }
    }

    /// The log of that channel, open.
    async fn open(&self, name: &str) -> Arc<Channel> {
        let channel = self.log(&name.parse().expect("a name")).expect("a log");
        self.bus.open(&channel).await.expect("opened");
        channel
    }

    async fn publish(&self, channel: &str, sender: &str, id: Option<&str>, data: &str) -> Accepted {
        let publication = publication(channel, sender, id, data);
        self.bus.publish(self, publication).await.expect("accepted")
    }
}

impl Logs for Node {
    fn log(&self, channel: &ChannelName) -> Result<Arc<Channel>, BusError> {
        let mut logs = self.logs.lock();
        let new = || {
            let retention = Retention {
                history_size: 10_000,
                history_bytes: usize::MAX,
                history_ttl: Duration::from_hours(1),
                lag_bytes: 0,
                lag: Duration::ZERO,
            };
            let start = self.bus.blank(channel);
            Arc::new(Channel::new(channel.clone(), retention, &Arc::default(), start, Instant::now()))
        };
        Ok(Arc::clone(logs.entry(channel.clone()).or_insert_with(new)))
    }
}

async fn positions_rise_and_logs_keep_their_order(nodes: &Nodes) {
    let mut logs = Vec::new();
    for node in &nodes.all {
        for name in ["a", "b"] {
            logs.push(node.open(name).await);
        }
    }
    let publishers = (0..4).map(|publisher: usize| async move {
        let node = &nodes.all[publisher % nodes.all.len()];
        let mut last = 0;
        for n in 0..250 {
            let data = format!("[{publisher},{n}]");
            let seq = node.publish(["a", "b"][publisher / 2], "alice", None, &data).await.position.seq;
            assert!(seq > last, "a sender's later publication stands behind its earlier one");
            last = seq;
        }
    });
    futures_util::future::join_all(publishers).await;
    let all: Vec<_> = futures_util::future::join_all(logs.iter().map(|log| read_all_of(log, 500))).await;
    for messages in &all {
        let mut before = 0;
        for (seq, prev, _) in messages {
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
    assert_eq!(all.first(), all.get(2).or(all.first()), "the logs of all nodes agree");
}

async fn what_is_acknowledged_is_in_the_log_where_it_says(nodes: &Nodes) {
    let node = nodes.first();
    let channel = node.open("a").await;
    for n in 0..10 {
        let accepted = node.publish("a", "alice", None, &n.to_string()).await;
        assert!(!accepted.duplicate);
        assert_eq!(accepted.position, channel.head());
        assert_eq!(accepted.position.epoch, node.bus.blank(channel.name()).epoch);
        let (seq, _, data) = read_all(&channel).pop().expect("a message");
        assert_eq!((seq, data), (accepted.position.seq, n.to_string()));
    }
}

async fn an_id_is_stored_once_for_its_sender_and_channel(nodes: &Nodes) {
    let (one, other) = (nodes.first(), nodes.last());
    let (a, b) = (one.open("a").await, one.open("b").await);
    let first = one.publish("a", "alice", Some("m1"), "1").await;
    one.publish("a", "alice", Some("m2"), "2").await;
    for node in [one, other] {
        let again = node.publish("a", "alice", Some("m1"), "3").await;
        assert_eq!(again, Accepted { position: first.position, duplicate: true });
    }
    // Nobody can take an id away from somebody else.
    assert!(!other.publish("a", "bob", Some("m1"), "4").await.duplicate);
    assert!(!other.publish("b", "alice", Some("m1"), "5").await.duplicate);
    read_all_of(&a, 3).await;
    read_all_of(&b, 1).await;
}

async fn of_many_sends_of_one_id_at_once_one_is_stored(nodes: &Nodes) {
    let channel = nodes.first().open("a").await;
    let sends = (0..32).map(|n| nodes.all[n % nodes.all.len()].publish("a", "alice", Some("m1"), "1"));
    let accepted = futures_util::future::join_all(sends).await;
    assert_eq!(accepted.iter().filter(|accepted| !accepted.duplicate).count(), 1);
    assert_eq!(read_all_of(&channel, 1).await.len(), 1);
}

async fn what_has_no_id_is_stored_each_time(nodes: &Nodes) {
    let channel = nodes.first().open("a").await;
    for _ in 0..3 {
        assert!(!nodes.first().publish("a", "alice", None, "1").await.duplicate);
    }
    assert_eq!(read_all_of(&channel, 3).await.len(), 3);
}

async fn a_log_that_is_opened_later_has_all(nodes: &Nodes) {
    for n in 0..600 {
        let accepted = nodes.first().publish("a.b:c", "alice", None, &n.to_string()).await;
        nodes.first().publish("another", "alice", None, "0").await;
        if n % 100 == 0 {
            let log = nodes.last().open("a.b:c").await;
            nodes.last().bus.catch_up(&log).await.expect("caught up");
            assert!(log.head().seq >= accepted.position.seq);
        }
    }
    let late = nodes.last().open("a.b:c").await;
    let messages = read_all_of(&late, 600).await;
    assert!(messages.iter().enumerate().all(|(n, (_, _, data))| *data == n.to_string()));
}

async fn a_closed_log_can_be_opened_again(nodes: &Nodes) {
    let node = nodes.first();
    for round in 1..=3 {
        let log = node.open("a").await;
        node.publish("a", "alice", None, "1").await;
        if node.bus.keeps_messages() {
            read_all_of(&log, round).await;
        }
        node.logs.lock().clear();
        node.bus.close(&log);
        let accepted = node.publish("b", "alice", None, "1").await;
        assert!(accepted.position.seq > log.head().seq);
    }
}

#[tokio::test(start_paused = true)]
async fn embedded_remembers_an_id_for_its_window() {
    let nodes = Nodes::embedded();
    let node = nodes.first();
    node.publish("a", "alice", Some("m1"), "1").await;
    tokio::time::sleep(IDEMPOTENCY_WINDOW.saturating_sub(Duration::from_secs(1))).await;
    assert!(node.publish("a", "alice", Some("m1"), "1").await.duplicate);
    tokio::time::sleep(IDEMPOTENCY_WINDOW + Duration::from_secs(1)).await;
    assert!(!node.publish("a", "alice", Some("m1"), "1").await.duplicate);
}

/// NATS remembers ids by its own clock, which no test can stop: its streams must be told to for as long.
#[tokio::test]
async fn nats_remembers_an_id_for_its_window() {
    let nodes = Nodes::nats(1, |_| {}).await;
    let client = async_nats::connect(nodes.config.bus.url.clone()).await.expect("connected");
    let stream = async_nats::jetstream::new(client).get_stream("TIDEGATE").await.expect("the stream");
    assert_eq!(stream.cached_info().config.duplicate_window, IDEMPOTENCY_WINDOW);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_not_as_needed_is_named_with_what_differs() {
    let mut nodes = Nodes::nats(1, |config| config.channels.default.history_size = 10).await;
    nodes.config.channels.default.history_size = 20;
    nodes.config.bus.storage = Storage::Memory;
    let Err(error) = nodes.bus().await else { panic!("it must not start") };
    let text = error.to_string();
    assert!(text.contains("max_msgs_per_subject is 11 and must be 21 or more"), "{text}");
    assert!(text.contains("storage is File and must be Memory"), "{text}");
    nodes.config.channels.default.history_size = 5;
    nodes.config.bus.storage = Storage::File;
    assert!(nodes.bus().await.is_ok(), "more than is needed does no harm");
    nodes.config.limits.message_bytes = 16 << 20;
    let Err(error) = nodes.bus().await else { panic!("it must not start") };
    assert!(
        error.to_string().starts_with("limits.message_bytes = 16777216 is more than NATS takes"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nats_no_longer_has_is_a_gap_and_what_it_has_is_none() {
    let nodes = Nodes::nats(2, |config| config.channels.default.history_size = 10).await;
    let mut positions = Vec::new();
    for n in 0..30 {
        positions.push(nodes.first().publish("a", "alice", None, &n.to_string()).await.position);
    }
    let log = nodes.last().open("a").await;
    let (_, gap) = log.begin(Resume::After(Some(positions[15])), Instant::now());
    assert_eq!(gap.map(|gap| (gap.reason, gap.first)), Some((GapReason::Expired, positions[19])));
    for held in &positions[18..] {
        assert_eq!(log.begin(Resume::After(Some(*held)), Instant::now()).1, None, "after {held:?}");
    }
    // In a channel where nothing was ever dropped every place is one to go on from.
    let quiet = nodes.last().open("quiet").await;
    let start = quiet.head();
    nodes.first().publish("quiet", "alice", None, "1").await;
    let fresh = nodes.bus().await.expect("a third node");
    let third = Node::new(fresh);
    let log = third.open("quiet").await;
    assert_eq!(log.begin(Resume::After(Some(start)), Instant::now()).1, None);
    assert_eq!(read_all(&log).len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_nats_is_away_nothing_is_acknowledged_and_afterwards_nothing_is_missing() {
    let mut nodes = Nodes::nats(2, |_| {}).await;
    let logs = [nodes.first().open("a").await, nodes.last().open("a").await];
    nodes.first().publish("a", "alice", Some("m0"), "0").await;
    nodes.server.as_mut().expect("a server").kill();
    let refused = nodes.first().bus.publish(nodes.first(), publication("a", "alice", Some("m1"), "1")).await;
    assert!(matches!(refused, Err(BusError::Unavailable { .. })), "{refused:?}");
    assert!(nodes.first().bus.trouble().is_some());
    nodes.server.as_mut().expect("a server").restart();
    let accepted = within(20, || async {
        let publication = publication("a", "alice", Some("m1"), "1");
        nodes.first().bus.publish(nodes.first(), publication).await.ok()
    });
    accepted.await;
    for log in &logs {
        let data: Vec<_> = read_all_of(log, 2).await.into_iter().map(|(_, _, data)| data).collect();
        assert_eq!(data, ["0", "1"]);
    }
    within(10, || async { nodes.first().bus.trouble().is_none().then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_made_again_is_another_epoch() {
    let nodes = Nodes::nats(2, |_| {}).await;
    let logs = [nodes.first().open("a").await, nodes.last().open("a").await];
    let old = nodes.first().publish("a", "alice", None, "1").await.position;
    read_all_of(&logs[1], 1).await;
    let client = async_nats::connect(nodes.config.bus.url.clone()).await.expect("connected");
    let context = async_nats::jetstream::new(client);
    context.delete_stream("TIDEGATE").await.expect("deleted");
    for log in &logs {
        within(20, || async { (log.head().epoch != old.epoch).then_some(()) }).await;
        let (_, gap) = log.begin(Resume::After(Some(old)), Instant::now());
        assert_eq!(gap.map(|gap| gap.reason), Some(GapReason::EpochChanged));
    }
    let new = nodes.first().publish("a", "alice", None, "2").await.position;
    assert_ne!(new.epoch, old.epoch);
    for log in &logs {
        assert_eq!(read_all_of(log, 1).await[0].2, "2");
        assert_eq!(log.head(), new);
    }
}

fn publication(channel: &str, sender: &str, id: Option<&str>, data: &str) -> Publication {
    Publication {
        channel: channel.parse().expect("a name"),
        sender_id: sender.into(),
        client_id: Uuid::nil(),
        idempotent: id.is_some(),
        message_id: id.map_or_else(MessageId::random, |id| MessageId::parse(id).expect("an id")),
        timestamp: SystemTime::now(),
        data: RawValue::from_string(data.to_owned()).expect("JSON"),
    }
}

/// All of the log, once it has that many messages: what was published elsewhere is on its way.
async fn read_all_of(channel: &Channel, count: usize) -> Vec<(u64, u64, String)> {
    within(10, || async {
        let messages = read_all(channel);
        assert!(messages.len() <= count, "{messages:?}");
        (messages.len() == count).then_some(messages)
    })
    .await
}

/// What `look` finds, looked for again and again for at most so many seconds.
async fn within<T, F: Future<Output = Option<T>>>(seconds: u64, mut look: impl FnMut() -> F) -> T {
    let until = Instant::now() + Duration::from_secs(seconds);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < until, "not within {seconds} s");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
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
