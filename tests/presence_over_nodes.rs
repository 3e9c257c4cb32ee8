//! Presence and typing over several real nodes that are joined by a real `nats-server`: who is seen where as nodes start,
//! drain, die, and are cut off.

mod nats_server;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nats_server::NatsServer;
use tidegate::auth::Identity;
use tidegate::channel::{ChannelName, Resume};
use tidegate::config::{Access, AuthMode, BusKind, Config, Storage};
use tidegate::presence::{Lease, Member};
use tidegate::server::{Running, start};
use tidegate::transport::{Edge, Event, Subscriptions};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

/// A node that is silent for 10 s is gone; what is done about it is seen this much later.
const GONE: Duration = Duration::from_secs(13);

#[test]
fn the_server_comes_and_goes() {
    let mut server = NatsServer::start();
    let url = server.url();
    let address = url.trim_start_matches("nats://");
    let greets = || {
        let mut first = [0];
        let socket = std::net::TcpStream::connect(address);
        socket.is_ok_and(|mut socket| {
            socket.set_read_timeout(Some(Duration::from_millis(300))).expect("a time");
            std::io::Read::read(&mut socket, &mut first).is_ok_and(|read| read == 1)
        })
    };
    assert!(greets());
    server.freeze();
    assert!(!greets());
    server.thaw();
    assert!(greets());
    server.stop();
    assert!(!greets());
    server.restart();
    assert_eq!(server.url(), url);
    assert!(greets());
    server.kill();
    assert!(!greets(), "{}", server.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_shows_who_is_anywhere() {
    let server = NatsServer::start();
    let nodes = [node(&server.url()).await, node(&server.url()).await, node(&server.url()).await];
    let mut watcher = Client::join(&nodes[0], "watcher", "chat:a").await;
    let alice = Client::join(&nodes[1], "alice", "chat:a").await;
    let again = Client::join(&nodes[2], "alice", "chat:a").await;
    for node in &nodes {
        shows(node, "chat:a", &["alice×2", "watcher×1"], Duration::from_secs(1)).await;
    }
    watcher.is_told(&["presence_update alice true"], Duration::from_secs(1)).await;
    drop(alice);
    sleep(Duration::from_secs(5)).await;
    watcher.is_told(&[], Duration::ZERO).await;
    drop(again);
    sleep(Duration::from_millis(2800)).await;
    // Back on yet another node in the last moment.
    let back = Client::join(&nodes[1], "alice", "chat:a").await;
    sleep(Duration::from_secs(2)).await;
    watcher.is_told(&[], Duration::ZERO).await;
    drop(back);
    watcher.is_told(&["presence_update alice false"], Duration::from_secs(5)).await;
    for node in &nodes {
        shows(node, "chat:a", &["watcher×1"], Duration::from_secs(1)).await;
    }
    end(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn typing_is_seen_on_the_other_nodes_and_ends_there() {
    let server = NatsServer::start();
    let nodes = [node(&server.url()).await, node(&server.url()).await];
    let mut watcher = Client::join(&nodes[0], "watcher", "chat:a").await;
    let (alice, client): (Arc<str>, _) = ("alice".into(), Uuid::new_v4());
    let typing = &nodes[1].edge().typing;
    // That node does not have the channel.
    typing.start(&name("chat:a"), &alice, client);
    watcher.is_told(&["typing_start alice"], Duration::from_secs(1)).await;
    typing.gone(&name("chat:a"), &alice, client);
    watcher.is_told(&["typing_stop alice"], Duration::from_secs(1)).await;
    typing.start(&name("chat:a"), &alice, client);
    watcher.is_told(&["typing_start alice"], Duration::from_secs(1)).await;
    sleep(Duration::from_secs(4)).await;
    watcher.is_told(&[], Duration::ZERO).await;
    watcher.is_told(&["typing_stop alice"], Duration::from_secs(2)).await;
    sleep(Duration::from_millis(500)).await;
    watcher.is_told(&[], Duration::ZERO).await;
    end(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_starts_knows_everybody_at_once() {
    let server = NatsServer::start();
    let first = node(&server.url()).await;
    let mut members: Vec<Member> = Vec::new();
    for channel in 0..20 {
        let channel = first.edge().hub.open(&name(&format!("chat:{channel}"))).await.expect("opened");
        for user in 0..1000 {
            let user = format!("user-{user:04}").into();
            members.push(first.edge().roster.join(&channel, &user, None, Lease::Stream));
        }
    }
    let began = Instant::now();
    let second = node(&server.url()).await;
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    for channel in 0..20 {
        let channel = name(&format!("chat:{channel}"));
        let (here, there) = (first.edge().roster.list(&channel), second.edge().roster.list(&channel));
        assert_eq!((there.0.len(), there.1), (here.0.len(), 1000), "{channel} {:?}", began.elapsed());
    }
    // All of them go at once, and are told of in words of many.
    members.clear();
    let nobody =
        || (0..20).all(|channel| second.edge().roster.list(&name(&format!("chat:{channel}"))).1 == 0);
    eventually(Duration::from_secs(6), nobody).await;
    end([first, second]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_moves_away_from_a_node_that_drains_was_never_offline() {
    let server = NatsServer::start();
    let [old, other] = [node(&server.url()).await, node(&server.url()).await];
    let mut watcher = Client::join(&other, "watcher", "chat:a").await;
    let alice = Client::join(&old, "alice", "chat:a").await;
    let bob = Client::join(&old, "bob", "chat:a").await;
    shows(&other, "chat:a", &["alice×1", "bob×1", "watcher×1"], Duration::from_secs(1)).await;
    watcher.clear();
    drop((alice, bob));
    old.drain().await;
    let _alice = Client::join(&other, "alice", "chat:a").await;
    let left = Instant::now();
    watcher.is_told(&["presence_update bob false"], Duration::from_secs(6)).await;
    assert!(left.elapsed() > Duration::from_secs(2), "bob has his 3 s, {:?}", left.elapsed());
    // Not as a silent one: it has said goodbye.
    sleep(GONE).await;
    watcher.is_told(&[], Duration::ZERO).await;
    shows(&other, "chat:a", &["alice×1", "watcher×1"], Duration::ZERO).await;
    end([other]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_members_of_a_node_that_dies_are_gone_after_10_s() {
    let server = NatsServer::start();
    let others = [node(&server.url()).await, node(&server.url()).await];
    let mut watcher = Client::join(&others[0], "watcher", "chat:a").await;
    let doomed = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let doomed = doomed.expect("a runtime");
    let url = server.url();
    let node = spawn_on(&doomed, async move { node(&url).await }).await;
    let members = [Client::join(&node, "alice", "chat:a").await, Client::join(&node, "bob", "chat:a").await];
    let _bob = Client::join(&others[1], "bob", "chat:a").await;
    for node in &others {
        shows(node, "chat:a", &["alice×1", "bob×2", "watcher×1"], Duration::from_secs(1)).await;
    }
    watcher.clear();
    doomed.shutdown_background();
    std::mem::forget((node, members));
    sleep(Duration::from_millis(8500)).await;
    watcher.is_told(&[], Duration::ZERO).await;
    watcher.is_told(&["presence_update alice false"], GONE).await;
    for node in &others {
        shows(node, "chat:a", &["bob×1", "watcher×1"], Duration::from_secs(1)).await;
    }
    end(others).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_cut_off_finds_the_others_and_is_found() {
    let server = NatsServer::start();
    let wire = Wire::to(&server.url()).await;
    let [far, near] = [node(&wire.url()).await, node(&server.url()).await];
    let mut watchers =
        [Client::join(&far, "watcher", "chat:a").await, Client::join(&near, "watcher", "chat:a").await];
    let alice = Client::join(&far, "alice", "chat:a").await;
    let bob = Client::join(&near, "bob", "chat:a").await;
    for node in [&far, &near] {
        shows(node, "chat:a", &["alice×1", "bob×1", "watcher×2"], Duration::from_secs(1)).await;
    }
    watchers.iter_mut().for_each(Client::clear);
    // Short: nobody notices.
    wire.set(false);
    sleep(Duration::from_secs(4)).await;
    wire.set(true);
    sleep(Duration::from_secs(4)).await;
    let _carol = Client::enter(&far, "carol", "chat:a").await;
    for watcher in &mut watchers {
        watcher.is_told(&["presence_update carol true"], Duration::from_secs(3)).await;
    }
    // Long: each side is alone, and something happens on both.
    wire.set(false);
    watchers[0].is_told(&["presence_update bob false"], GONE).await;
    watchers[1].is_told_all(&["presence_update alice false", "presence_update carol false"], GONE).await;
    shows(&far, "chat:a", &["alice×1", "carol×1", "watcher×1"], Duration::ZERO).await;
    shows(&near, "chat:a", &["bob×1", "watcher×1"], Duration::ZERO).await;
    drop(alice);
    watchers[0].is_told(&["presence_update alice false"], Duration::from_secs(5)).await;
    let _dora = Client::join(&near, "dora", "chat:a").await;
    watchers[1].is_told(&["presence_update dora true"], Duration::from_secs(1)).await;
    wire.set(true);
    let all = ["bob×1", "carol×1", "dora×1", "watcher×2"];
    for node in [&far, &near] {
        shows(node, "chat:a", &all, Duration::from_secs(6)).await;
    }
    let back = ["presence_update bob true", "presence_update dora true"];
    watchers[0].is_told_all(&back, Duration::from_secs(1)).await;
    watchers[1].is_told(&["presence_update carol true"], Duration::from_secs(1)).await;
    drop(bob);
    end([far, near]).await;
}

async fn node(url: &str) -> Running {
    let mut config = Config::default();
    config.listen.addr = ([127, 0, 0, 1], 0).into();
    config.listen.admin = ([127, 0, 0, 1], 0).into();
    config.listen.drain = Duration::from_secs(1);
    config.tls.enabled = false;
    config.auth.mode = AuthMode::Optional;
    config.channels.default.join = Access::Anyone;
    config.bus.kind = BusKind::Nats;
    config.bus.url = url.to_owned();
    config.bus.storage = Storage::Memory;
    start(Arc::new(config)).await.expect("a node starts")
}

async fn end(nodes: impl IntoIterator<Item = Running>) {
    for node in nodes {
        node.drain().await;
    }
}

fn name(name: &str) -> ChannelName {
    name.parse().expect("a channel name")
}

/// A subscriber with presence in one channel.
struct Client {
    edge: Arc<Edge>,
    user_id: &'static str,
    subscriptions: Subscriptions,
    /// What it was told that nobody has asked for yet: `type user online?`.
    told: Vec<String>,
}

impl Client {
    async fn join(node: &Running, user_id: &'static str, channel: &str) -> Self {
        let edge = Arc::clone(node.edge());
        let mut subscriptions = Subscriptions::new();
        let mut who = Identity::guest_of_connection();
        who.user_id = user_id.into();
        let channel = name(channel);
        let joined = subscriptions.join(&edge, &who, &channel, (Resume::Live, None), true, Lease::Stream);
        joined.await.expect("joined");
        Self { edge, user_id, subscriptions, told: Vec::new() }
    }

    /// Joins as soon as the node is in touch with NATS again.
    async fn enter(node: &Running, user_id: &'static str, channel: &str) -> Self {
        eventually(Duration::from_secs(10), || node.edge().hub.trouble().is_none()).await;
        Self::join(node, user_id, channel).await
    }

    fn read(&mut self) {
        let Self { edge, user_id, subscriptions, told } = self;
        let more = subscriptions.read(edge, user_id, usize::MAX, |event: Event<'_>, _| {
            let envelope: serde_json::Value = serde_json::from_slice(event.json()).expect("an envelope");
            let (kind, payload) = (&envelope["type"], &envelope["payload"]);
            let online = payload["online"].as_bool().map_or(String::new(), |online| format!(" {online}"));
            let line = format!("{kind} {}{online}", payload["user_id"]).replace('"', "");
            if payload["user_id"] != *user_id {
                told.push(line);
            }
        });
        assert!(!more.expect("not closed"));
    }

    /// That is what it is told within `limit`, since it was last asked, and nothing else.
    async fn is_told(&mut self, expected: &[&str], limit: Duration) {
        let deadline = Instant::now() + limit;
        loop {
            self.read();
            if self.told.len() >= expected.len() || Instant::now() >= deadline {
                break;
            }
            sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(std::mem::take(&mut self.told), expected, "told to {}", self.user_id);
    }

    /// As [`Client::is_told`], in whatever order.
    async fn is_told_all(&mut self, expected: &[&str], limit: Duration) {
        let deadline = Instant::now() + limit;
        while self.told.len() < expected.len() && Instant::now() < deadline {
            self.read();
            sleep(Duration::from_millis(20)).await;
        }
        self.told.sort();
        assert_eq!(std::mem::take(&mut self.told), expected, "told to {}", self.user_id);
    }

    fn clear(&mut self) {
        self.read();
        self.told.clear();
    }
}

/// The node's list of that channel is, or becomes within `limit`, that of these `user×connections`.
async fn shows(node: &Running, channel: &str, expected: &[&str], limit: Duration) {
    let list = || {
        let (users, total) = node.edge().roster.list(&name(channel));
        assert_eq!(users.len(), total);
        let shown = users.iter().map(|user| format!("{}×{}", user.user_id, user.connections));
        shown.collect::<Vec<_>>()
    };
    let deadline = Instant::now() + limit;
    while list() != expected && Instant::now() < deadline {
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(list(), expected);
}

async fn eventually(limit: Duration, done: impl Fn() -> bool) {
    let waited = timeout(limit, async {
        while !done() {
            sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(waited.await.is_ok(), "not within {limit:?}");
}

/// A node's way to NATS that can be cut.
struct Wire {
    addr: SocketAddr,
    whole: watch::Sender<bool>,
    _carrying: JoinSet<()>,
}

impl Wire {
    async fn to(url: &str) -> Self {
        let server: SocketAddr = url.trim_start_matches("nats://").parse().expect("an address");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("an address");
        let (whole, state) = watch::channel(true);
        let mut carrying = JoinSet::new();
        carrying.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                let mut state = state.clone();
                connections.spawn(async move {
                    if !*state.borrow_and_update() {
                        return;
                    }
                    let Ok(mut server) = TcpStream::connect(server).await else { return };
                    tokio::select! {
                        _ = copy_bidirectional(&mut client, &mut server) => {}
                        _ = state.changed() => {}
                    }
                });
            }
        });
        Self { addr, whole, _carrying: carrying }
    }

    fn url(&self) -> String {
        format!("nats://{}", self.addr)
    }

    fn set(&self, whole: bool) {
        self.whole.send_replace(whole);
    }
}

/// Runs it there, waited for from here.
#[expect(clippy::disallowed_methods, reason = "a runtime of its own, which is ended as a whole")]
async fn spawn_on<T: Send + 'static>(
    runtime: &tokio::runtime::Runtime,
    future: impl Future<Output = T> + Send + 'static,
) -> T {
    runtime.spawn(future).await.expect("no panic")
}
