//! The tasks of one bus. They end with it.

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Where they are started.
#[derive(Clone, Debug, Default)]
pub(super) struct Tasks {
    tracker: TaskTracker,
    over: CancellationToken,
}

impl Tasks {
    /// Runs it; its output is none if the bus ends before.
    pub(super) fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<Option<T>> {
        self.tracker.spawn(self.over.clone().run_until_cancelled_owned(task))
    }

    /// Ends all of them, and those that are begun later.
    pub(super) fn end(&self) {
        self.over.cancel();
    }
}
