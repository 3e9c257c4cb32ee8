//! What an idle connection costs, of each kind, held against what the edge says of it in its metrics: so that neither
//! the sum of sizes rots, nor a connection grows by what is in no sum. The release build is held against recorded figures
//! by `./test memory`.

use std::sync::Arc;
use std::time::Duration;

use conformance::edge::{Edge, Settings};
use conformance::feed::Transport;
use conformance::load::{self, Audience, Idle, Subject};
use conformance::wire::{Connection, Request};

/// The allocator gives back what handshakes took a second after it was last needed.
const SETTLE: Duration = Duration::from_millis(2500);

/// With enough connections that the allocator's pages, and tables that have just doubled, are a small part of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_metrics_say_what_an_idle_connection_costs() {
    let mut problems = Vec::new();
    let descriptors = load::raise_descriptor_limit().unwrap();
    assert!(descriptors > 5000, "5,000 open files are needed, {descriptors} are allowed: raise `ulimit -Hn`");
    for (transport, tls) in Transport::ALL.into_iter().flat_map(|one| [(one, false), (one, true)]) {
        let settings = if tls { Settings::open().over_tls() } else { Settings::open().over_tcp() };
        let edge = Edge::start(&settings).await.unwrap();
        let name = format!("tidegate_connection_memory_bytes{{transport=\"{transport}\",tls=\"{tls}\"}} ");
        let said: u64 = metric(&edge, &name).await;
        let subject = Arc::new(Subject::beside(&edge));
        let (before, subscribers) = if tls { (500, 1500) } else { (1000, 3000) };
        let audience = Audience { transport, subscribers, channels: 1, at_once: 64 };
        let plan = Idle { audience, before, settle: SETTLE };
        let report = load::on_a_thread(&subject, move |subject| load::idle(subject, &plan)).await.unwrap();
        assert!(report.is_clean(), "{report:?}\n{}", edge.log_tail());
        let bytes = report.dirty_bytes_per_connection.expect("the edge was started here");
        println!("{name}{said}, measured {bytes}");
        if bytes.abs_diff(said) * 100 > said * APART_MAX {
            problems.push(format!("{name}{said}, but {bytes} are measured"));
        }
    }
    assert!(problems.is_empty(), "{problems:#?}");
}

/// The number behind that name.
async fn metric(edge: &Edge, name: &str) -> u64 {
    let admin = edge.admin.as_ref().expect("the edge was started here");
    let mut connection = Connection::open(admin).await.expect("connected");
    let page = connection.exchange(&Request::get("/metrics")).await.expect("the metrics");
    let text = String::from_utf8_lossy(&page.body);
    let value =
        text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}\n{text}"));
    value.parse().expect("a number")
}

/// How far the two may be apart, in percent of what the metrics say.
const APART_MAX: u64 = 25;
