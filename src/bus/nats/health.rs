//! Whether NATS can be published to, as far as this node knows: from the connection's events, and from whether the
//! streams answer. Readiness and everyone who is about to wait ask here.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

/// What is known. Cheap to ask.
#[derive(Debug)]
pub(super) struct Health {
    state: watch::Sender<State>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct State {
    connected: bool,
    /// Why the streams can't be written to.
    streams: Option<Arc<str>>,
}

impl Health {
    pub(super) fn new() -> Self {
        Self { state: watch::Sender::new(State::default()) }
    }

    /// The connection is there, or it is lost.
    pub(super) fn set_connected(&self, connected: bool) {
        self.state.send_if_modified(|state| std::mem::replace(&mut state.connected, connected) != connected);
    }

    /// The streams answer, or why they do not. Whether that is news.
    pub(super) fn set_streams(&self, trouble: Option<&str>) -> bool {
        self.state.send_if_modified(|state| {
            let news = state.streams.is_some() != trouble.is_some();
            if news {
                state.streams = trouble.map(Arc::from);
            }
            news
        })
    }

    /// What stands in the way.
    pub(super) fn trouble(&self) -> Option<String> {
        self.state.borrow().trouble()
    }

    /// Waits until nothing stands in the way, or returns what still does at `deadline`.
    pub(super) async fn well_by(&self, deadline: Instant) -> Result<(), String> {
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
