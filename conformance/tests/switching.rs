//! Subscribers that change transport at random and are cut off without a goodbye lose nothing and get nothing
//! twice: 50 of them under 200 messages a second for a minute (`SWITCHING_SECONDS`), then for a shorter while over TLS.

use std::time::Duration;

use conformance::edge::{Edge, Settings, environment};
use conformance::switching::{self, Outcome, Plan};

fn plan(seconds: u64) -> Plan {
    Plan {
        subscribers: 50,
        channels: 8,
        rate: 200,
        duration: Duration::from_secs(seconds),
        seed: environment::seed(),
    }
}

async fn check(mut edge: Edge, plan: &Plan) -> Outcome {
    println!("{plan:?}");
    let outcome = switching::run(&edge.target, plan).await;
    println!("{outcome}");
    assert!(edge.is_alive() && edge.panics().is_empty(), "the server is broken:\n{}", edge.log_tail());
    assert!(outcome.is_clean(), "see above; the server's log:\n{}", edge.log_tail());
    outcome
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_and_nothing_comes_twice() {
    let seconds = environment::number("SWITCHING_SECONDS", 60);
    let plan = plan(seconds);
    let edge = Edge::named_or_started(&Settings::profile()).await.unwrap();
    let outcome = check(edge, &plan).await;
    // A run that hardly switched, published or delivered would prove nothing. How long it takes to publish all is no
    // matter of this check: where there is little CPU to be had, it ends with less.
    assert!(outcome.acknowledged >= seconds * 200 / 10, "only {} published", outcome.acknowledged);
    assert!(outcome.delivered >= seconds * 500, "only {} delivered", outcome.delivered);
    assert_eq!(outcome.switches.len(), 9, "each transport follows each: {:?}", outcome.switches);
    assert!(outcome.sessions >= seconds * 20, "only {} sessions", outcome.sessions);
    assert!(outcome.resumed.len() == 5 && outcome.cuts.len() >= 7, "{outcome}");
    assert!(outcome.duplicates_acknowledged > 0, "no publish was ever sent again in vain");

    // One after the other: both want the whole machine.
    let shorter = Plan { duration: Duration::from_secs(seconds.div_ceil(10)), ..plan };
    let over_tls = Edge::start(&Settings::profile().over_tls()).await.unwrap();
    let outcome = check(over_tls, &shorter).await;
    assert!(outcome.switches.len() == 9 && outcome.delivered > 0, "{outcome}");
}
