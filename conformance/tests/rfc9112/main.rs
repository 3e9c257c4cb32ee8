//! HTTP/1.1 (RFC 9112), by section: what a message looks like, where it ends, and what becomes of a connection on
//! which somebody makes that a matter of opinion.
#![expect(clippy::unwrap_used, reason = "in a check a failed unwrap is the report")]

mod chunks;
mod connections;
mod fields;
mod framing;
mod request_line;

use conformance::edge::{Edge, Settings};
use conformance::shapes::{self, Shape};

/// Sends each shape, and holds what comes back, and what has become of the channel, against what is right.
async fn judge(shapes: &[Shape]) {
    let edge = Edge::named_or_started(&Settings::profile()).await.unwrap();
    let report = shapes::judge(&edge.target, shapes).await;
    assert!(report.is_empty(), "\n{report}");
    assert_eq!(shapes::smuggled(&edge.target).await.unwrap(), Vec::<String>::new());
    assert!(edge.panics().is_empty(), "{:?}", edge.panics());
}
