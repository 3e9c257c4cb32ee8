//! The load tool in small, without loss: a fan-out on each transport, idle connections, and all of them coming back.
//! The figures are printed and not judged; a machine that is busy with other checks has no figures worth judging.

use std::sync::Arc;
use std::time::Duration;

use conformance::edge::{Edge, Settings};
use conformance::feed::Transport;
use conformance::load::{self, Audience, Idle, Storm, Stream, Subject};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_load_is_carried_without_loss() {
    load::raise_descriptor_limit().unwrap();
    for transport in Transport::ALL {
        let edge = Edge::named_or_started(&Settings::profile()).await.unwrap();
        let subject = Arc::new(Subject::beside(&edge));
        // Over polls each delivery is a request; a debug build carries a quarter of it beside its own client.
        let subscribers = if transport == Transport::Poll { 250 } else { 1_000 };
        let audience = Audience { transport, subscribers, channels: 1, at_once: 64 };
        let plan = Stream { audience, rate: 20.0, duration: Duration::from_secs(3), data_bytes: 128 };
        let report = load::on_a_thread(&subject, move |subject| load::stream(subject, &plan)).await.unwrap();
        println!("{}", load::table(&report));
        assert!(report.is_clean(), "{report:?}\n{}", edge.log_tail());
        assert_eq!((report.subscribers, report.delivered), (subscribers, subscribers as u64 * 60));

        let connections = if transport == Transport::WebSocket { 2_000 } else { 500 };
        let audience = Audience { subscribers: connections, ..audience };
        let plan = Idle::of(audience, Duration::from_secs(1));
        let report = load::on_a_thread(&subject, move |subject| load::idle(subject, &plan)).await.unwrap();
        println!("{}", load::table(&report));
        assert_eq!((report.connections, report.failed), (connections, 0), "{report:?}\n{}", edge.log_tail());
        assert_eq!(report.not_reached, 0, "alive and joined are not the same");

        let audience = Audience { subscribers: 250, ..audience };
        let plan = Storm { audience, missed: 10, data_bytes: 128 };
        let report = load::on_a_thread(&subject, move |subject| load::storm(subject, &plan)).await.unwrap();
        println!("{}", load::table(&report));
        assert!(report.is_clean() && report.clients == 250, "{report:?}\n{}", edge.log_tail());
        assert!(edge.panics().is_empty(), "{:?}", edge.panics());
    }
}
