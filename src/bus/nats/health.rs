//! Whether NATS can be published to, as far as this node knows: from the connection's events, and from whether the
//! streams answer. Readiness and everyone who is about to wait ask here.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

/// What is known. Cheap to ask.
#[derive(Debug)]
pub(super) struct Health {
    state: watch::Sender<State>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    connected: bool,
    /// It was connected once.
    begun: bool,
    /// Why the streams can't be written to.
    streams: Option<Arc<str>>,
    /// Since when it is as it is.
    since: Instant,
}

/// How long NATS may be away until nobody waits for it any more: who then has something to publish is told at once.
const HOPE: Duration = Duration::from_secs(5);

impl Health {
    pub(super) fn new() -> Self {
        let state = State { connected: false, begun: false, streams: None, since: Instant::now() };
        Self { state: watch::Sender::new(state) }
    }

    /// The connection is there, or it is lost. Whether it was otherwise before, the very first time left out.
    pub(super) fn set_connected(&self, connected: bool) -> bool {
        let mut news = false;
        self.state.send_if_modified(|state| {
            let changes = state.connected != connected;
            if changes {
                news = state.begun;
                (state.connected, state.begun, state.since) = (connected, true, Instant::now());
            }
            changes
        });
        news
    }

    /// The streams answer, or why they do not. Whether that is news.
    pub(super) fn set_streams(&self, trouble: Option<&str>) -> bool {
        self.state.send_if_modified(|state| {
            let news = state.streams.is_some() != trouble.is_some();
            if news {
                (state.streams, state.since) = (trouble.map(Arc::from), Instant::now());
            }
            news
        })
    }

    /// What stands in the way.
    pub(super) fn trouble(&self) -> Option<String> {
        self.state.borrow().trouble()
    }

    /// Waits until nothing stands in the way, or returns what still does at `deadline`, or has for so long that waiting
    /// is in vain.
    pub(super) async fn well_by(&self, deadline: Instant) -> Result<(), String> {
        if let (Some(trouble), true) = (self.trouble(), self.state.borrow().since.elapsed() > HOPE) {
            return Err(trouble);
        }
        let mut state = self.state.subscribe();
        let well = timeout_at(deadline, state.wait_for(|state| state.trouble().is_none())).await;
        if well.is_ok() { Ok(()) } else { Err(self.trouble().unwrap_or_default()) }
    }
}

impl State {
    fn trouble(&self) -> Option<String> {
        if !self.connected {
            return Some("no connection to NATS".to_owned());
        }
        self.streams.as_deref().map(ToOwned::to_owned)
    }
}
