//! What an idle connection costs the development build, held against `benches/memory.json`: a few hundred of each kind,
//! so that a change that makes each larger is seen before the long run with the release build (`./test memory`).
//! `cargo run -p conformance --bin load -- memory --connections 500 --record` records what is new.

use std::time::Duration;

use conformance::edge::{Edge, Settings};
use conformance::feed::Transport;
use conformance::load::{self, Audience, Idle, Recorded, Subject};
use std::sync::Arc;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_connection_costs_what_is_recorded() {
    load::raise_descriptor_limit().unwrap();
    let recorded = Recorded::read(&Recorded::file()).unwrap();
    let mut measured = Vec::new();
    for (transport, tls) in Transport::ALL.into_iter().flat_map(|one| [(one, false), (one, true)]) {
        let settings = if tls { Settings::open().over_tls() } else { Settings::open().over_tcp() };
        let edge = Edge::start(&settings).await.unwrap();
        let subject = Arc::new(Subject::beside(&edge));
        let audience = Audience { transport, subscribers: CONNECTIONS, channels: 1, at_once: 64 };
        let plan = Idle::of(audience, Duration::from_secs(1));
        let report = load::on_a_thread(&subject, move |subject| load::idle(subject, &plan)).await.unwrap();
        assert!(report.is_clean(), "{report:?}\n{}", edge.log_tail());
        let bytes = report.dirty_bytes_per_connection.expect("the edge was started here");
        measured.push(recorded.compare(Recorded::build(), transport, tls, bytes));
    }
    let table = load::comparisons(&measured);
    println!("{table}");
    assert!(measured.iter().all(load::Comparison::holds), "\n{table}");
}

const CONNECTIONS: usize = 500;
