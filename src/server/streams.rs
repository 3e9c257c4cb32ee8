//! The tasks of HTTP/2 connections' streams, all in the server's tracker, each watched over. A stream whose client never
//! opens its window is reset, however well its connection is; a socket's own clock does not see it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Sleep, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::connection::LINGER;
use crate::close::Kind;
use crate::metrics::{Metrics, Transport};
use crate::transport::Edge;
use crate::transport::http::{UNTAKEN, Untaken};

/// A piece of an answer may wait for so many times `limits.write_timeout`: what is seen are whole pieces of some 16 KB,
/// and many streams may share a slow line.
const PATIENCE: u32 = 3;

tokio::task_local! {
    /// In the task of a stream: cancelled when the WebSocket that it has become lets go of it.
    pub static LET_GO: CancellationToken;
}

/// Runs what hyper serves an HTTP/2 connection with.
#[derive(Clone)]
pub struct Streams {
    tasks: TaskTracker,
    patience: Duration,
    metrics: Arc<Metrics>,
}

impl Streams {
    /// Runs it in `tasks`.
    pub fn new(edge: &Arc<Edge>, tasks: TaskTracker) -> Self {
        let patience = edge.config.limits.write_timeout * PATIENCE;
        Self { tasks, patience, metrics: Arc::clone(&edge.metrics) }
    }
}

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        if let Ok(let_go) = LET_GO.try_with(Clone::clone) {
            // Begun by a stream's own task: the half that writes for the WebSocket that it has become.
            self.tasks.spawn(write_until(let_go, task));
            return;
        }
        let untaken = Arc::new(Untaken::default());
        let watched = Watched {
            stream: Box::pin(task),
            untaken: Arc::clone(&untaken),
            patience: self.patience,
            clock: None,
        };
        let metrics = Arc::clone(&self.metrics);
        let stream = async move {
            if !watched.await {
                debug!("a stream is reset: its client takes nothing");
                metrics.fault(Transport::Http, Kind::SlowConsumer);
            }
        };
        self.tasks.spawn(LET_GO.scope(CancellationToken::new(), UNTAKEN.scope(untaken, stream)));
    }
}

/// Writes until all is written, or the session has gone and the client does not take the rest. What is dropped then
/// resets the stream with `CANCEL`, the abort of a TCP connection (RFC 8441 §5); hyper alone would wait for as long
/// as the client keeps its window closed.
async fn write_until(let_go: CancellationToken, write: impl Future<Output = ()>) {
    let gone = async {
        let_go.cancelled().await;
        // Boxed: a timer that an idle session has no use for.
        Box::pin(sleep(LINGER)).await;
    };
    tokio::select! {
        () = write => {}
        () = gone => {}
    }
}

/// A stream until it ends or has waited too long; whether it ended. Dropped with something unsent it resets itself
/// (RFC 9113 §5.4.2), and what was unsent is forgotten.
struct Watched<F> {
    stream: Pin<Box<F>>,
    untaken: Arc<Untaken>,
    patience: Duration,
    /// Runs only while a piece waits, so that an idle stream has no timer.
    clock: Option<Pin<Box<Sleep>>>,
}

impl<F: Future> Future for Watched<F> {
    type Output = bool;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<bool> {
        let this = self.get_mut();
        if this.stream.as_mut().poll(context).is_ready() {
            return Poll::Ready(true);
        }
        let Some(since) = this.untaken.since() else {
            this.clock = None;
            return Poll::Pending;
        };
        let due = since + this.patience;
        let clock = this.clock.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if clock.deadline() != due {
            clock.as_mut().reset(due);
        }
        clock.as_mut().poll(context).map(|()| false)
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use hyper::rt::Executor as _;
    use tokio::time::Instant;

    use super::*;

    fn watched<F: Future>(stream: F, untaken: &Arc<Untaken>) -> Watched<F> {
        let patience = Duration::from_secs(30);
        Watched { stream: Box::pin(stream), untaken: Arc::clone(untaken), patience, clock: None }
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_for_its_client_ends_and_what_waits_for_news_does_not() {
        let untaken = Arc::new(Untaken::default());
        let begun = Instant::now();
        untaken.begin();
        assert!(!watched(pending::<()>(), &untaken).await);
        assert_eq!(begun.elapsed(), Duration::from_secs(30));

        untaken.end();
        let news = sleep(Duration::from_secs(3600));
        assert!(watched(news, &untaken).await);
    }

    #[tokio::test(start_paused = true)]
    async fn each_piece_has_its_own_time() {
        let untaken = Arc::new(Untaken::default());
        let taking = Arc::clone(&untaken);
        let slowly = async move {
            for _ in 0..10 {
                taking.begin();
                sleep(Duration::from_secs(20)).await;
            }
        };
        assert!(watched(slowly, &untaken).await);
    }

    #[tokio::test(start_paused = true)]
    async fn who_writes_for_a_session_has_a_moment_after_its_end() {
        let ended = CancellationToken::new();
        let tasks = TaskTracker::new();
        let metrics = Arc::new(Metrics::new());
        let streams = Streams { tasks: tasks.clone(), patience: Duration::MAX, metrics };
        let within = streams.clone();
        let let_go = ended.clone();
        streams.execute(async move {
            // As hyper does it: the stream's task begins the writer, and ends.
            within.execute(pending());
            let token = LET_GO.with(Clone::clone);
            let_go.cancelled().await;
            token.cancel();
        });
        tasks.close();
        sleep(Duration::from_mins(1)).await;
        assert_eq!(tasks.len(), 2, "it writes for as long as the session lives");
        ended.cancel();
        let began = Instant::now();
        tasks.wait().await;
        assert_eq!(began.elapsed().as_secs(), LINGER.as_secs());
    }
}
