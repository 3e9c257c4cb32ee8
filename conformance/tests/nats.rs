//! The NATS servers that checks of many nodes stand on do what those checks take for granted: they keep what they have
//! stored through a kill, elect another leader, freeze and go on, and can be cut off.

use std::time::Duration;

use conformance::link::{Link, State};
use conformance::nats::{Client, Nats, NatsCluster, NatsError, Options};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);

fn stream(replicas: usize) -> Value {
    json!({"name": "CHECK", "subjects": ["check.>"], "storage": "file", "num_replicas": replicas,
        "retention": "limits", "discard": "old"})
}

async fn connect(nats: &Nats) -> Client {
    Client::connect(nats.addr(), Value::Null).await.expect("it lets everybody in")
}

/// Publishes until it is acknowledged, through whichever server answers but the one that does not; JetStream stands
/// still for an election.
async fn store(cluster: &NatsCluster, out: Option<usize>, n: u64) {
    let id = n.to_string();
    for _ in 0..100 {
        for index in (0..cluster.nodes.len()).filter(|index| Some(*index) != out) {
            let addr = cluster.nodes[index].addr();
            let Ok(mut client) = Client::connect(addr, Value::Null).await else { continue };
            let stored = client.request("check.a", &[("Nats-Msg-Id", &id)], id.as_bytes()).await;
            let stored = stored.ok().and_then(|heard| serde_json::from_slice::<Value>(&heard.body).ok());
            if stored.is_some_and(|ack| ack.get("seq").is_some()) {
                return;
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("message {n} is not stored");
}

#[tokio::test]
async fn what_is_stored_outlives_a_kill() {
    let mut nats = Nats::start(&Options::default()).await.unwrap();
    let mut client = connect(&nats).await;
    client.api("STREAM.CREATE.CHECK", &stream(1)).await.unwrap();
    for n in 0..10 {
        let body = n.to_string();
        let ack = client.request("check.a", &[("Check-N", &body)], body.as_bytes()).await.unwrap();
        let ack: Value = serde_json::from_slice(&ack.body).unwrap();
        assert_eq!(ack["seq"], json!(n + 1));
    }
    nats.restart().await.unwrap();
    nats.until_healthy(SOON).await.unwrap();
    assert!(client.flush().await.is_err(), "the connection outlived the server");
    let mut client = connect(&nats).await;
    let info = client.api("STREAM.INFO.CHECK", &Value::Null).await.unwrap();
    assert_eq!(info["state"]["last_seq"], json!(10));
    let refused = client.api("STREAM.INFO.NONE", &Value::Null).await;
    assert!(matches!(refused, Err(NatsError::Said(_))), "{refused:?}");
}

#[tokio::test]
async fn messages_have_subject_headers_and_body() {
    let nats = Nats::start(&Options::default()).await.unwrap();
    let mut hears = connect(&nats).await;
    hears.subscribe("check.>").await.unwrap();
    let mut says = connect(&nats).await;
    says.publish("check.plain", &[], b"a\r\nb").await.unwrap();
    says.publish("check.head", &[("One", "1"), ("Two", "2: 2")], b"").await.unwrap();
    let plain = hears.next().await.unwrap();
    assert_eq!((plain.subject.as_str(), &plain.body[..]), ("check.plain", &b"a\r\nb"[..]));
    let head = hears.next().await.unwrap();
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!((head.headers, head.body), (vec![pair("One", "1"), pair("Two", "2: 2")], Vec::new()));
}

#[tokio::test]
async fn more_configuration_holds() {
    let users =
        "authorization { users = [ { user: a, password: b, permissions: { publish: [\"ok.>\"] } } ] }\n";
    let nats = Nats::start(&Options { extra: users.to_owned(), ..Options::default() }).await.unwrap();
    let stranger = Client::connect(nats.addr(), Value::Null).await;
    assert!(matches!(stranger, Err(NatsError::Said(_))));
    let mut known = Client::connect(nats.addr(), json!({"user": "a", "pass": "b"})).await.unwrap();
    known.publish("ok.1", &[], b"x").await.unwrap();
    known.flush().await.unwrap();
    known.publish("other", &[], b"x").await.unwrap();
    assert!(known.flush().await.is_err(), "a subject that was not granted");
    // A configuration that is none is said so, with the server's own words.
    let broken = Nats::start(&Options { extra: "nonsense {".to_owned(), ..Options::default() }).await;
    let Err(NatsError::Late { log, .. }) = broken else { panic!("it has started") };
    assert!(log.contains("nats-server"), "{log}");
}

#[tokio::test]
async fn a_link_cuts_a_client_off() {
    let nats = Nats::start(&Options::default()).await.unwrap();
    let link = Link::to(nats.addr()).await.unwrap();
    let mut client = Client::connect(link.addr(), Value::Null).await.unwrap();
    client.flush().await.unwrap();
    link.set(State::Refusing);
    assert!(client.flush().await.is_err());
    assert!(Client::connect(link.addr(), Value::Null).await.is_err());
    link.restore();
    Client::connect(link.addr(), Value::Null).await.unwrap().flush().await.unwrap();
}

#[tokio::test]
async fn a_cluster_goes_on_without_its_leader_and_with_a_frozen_follower() {
    let mut cluster = NatsCluster::start(3, &Options::default()).await.unwrap();
    let mut client = connect(&cluster.nodes[0]).await;
    client.api("STREAM.CREATE.CHECK", &stream(3)).await.unwrap();
    let first = cluster.stream_leader("CHECK", SOON).await.unwrap();
    for n in 0..20 {
        store(&cluster, None, n).await;
    }
    cluster.nodes[first].kill();
    for n in 20..40 {
        store(&cluster, Some(first), n).await;
    }
    let second = cluster.stream_leader("CHECK", SOON).await.unwrap();
    assert_ne!(first, second);
    cluster.nodes[first].restart().await.unwrap();
    cluster.until_replicated("CHECK", SOON).await.unwrap();

    let leader = cluster.stream_leader("CHECK", SOON).await.unwrap();
    let follower = (leader + 1) % 3;
    cluster.nodes[follower].pause().unwrap();
    for n in 40..60 {
        store(&cluster, Some(follower), n).await;
    }
    cluster.nodes[follower].resume().unwrap();
    cluster.until_replicated("CHECK", SOON).await.unwrap();
    let mut client = connect(&cluster.nodes[follower]).await;
    let info = client.api("STREAM.INFO.CHECK", &Value::Null).await.unwrap();
    assert_eq!(info["state"]["messages"], json!(60));
}
