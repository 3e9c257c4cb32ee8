//! The load tool in small, without loss: a fan-out on each transport, idle connections on each. The figures are
//! printed and not judged; a machine that is busy with other checks has no figures worth judging.

use std::time::Duration;

use conformance::edge::{Edge, Settings};
use conformance::feed::Transport;
use conformance::load::{self, FanOut, Idle};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_load_is_carried_without_loss() {
    load::raise_descriptor_limit().unwrap();
    for transport in Transport::ALL {
        let edge = Edge::named_or_started(&Settings::profile()).await.unwrap();
        // Over polls each delivery is a request; a debug build carries a quarter of it beside its own client.
        let subscribers = if transport == Transport::Poll { 250 } else { 1_000 };
        let plan =
            FanOut { transport, subscribers, rate: 20, duration: Duration::from_secs(3), data_bytes: 128 };
        let report = load::fan_out(&edge.target, edge.process.as_ref(), &plan).await.unwrap();
        println!("{}", load::table(&report));
        assert!(report.is_clean(), "{report:?}\n{}", edge.log_tail());
        assert_eq!((report.subscribers, report.delivered), (subscribers, subscribers as u64 * 60));

        let connections = if transport == Transport::WebSocket { 2_000 } else { 500 };
        let plan = Idle { transport, connections, settle: Duration::from_secs(1), at_once: 64 };
        let report = load::idle(&edge.target, edge.process.as_ref(), &plan).await.unwrap();
        println!("{}", load::table(&report));
        assert_eq!((report.connections, report.failed), (connections, 0), "{report:?}\n{}", edge.log_tail());
        assert_eq!(report.reached, connections, "alive and joined are not the same");
        assert!(edge.panics().is_empty(), "{:?}", edge.panics());
    }
}
