//! The streams of HTTP/2 connections: tasks of the server's tracker, each watched over. A stream whose client never
//! opens its window is reset, however well its connection is; a socket's own clock does not see it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::connection::LINGER;
use crate::close::Kind;
use crate::metrics::Transport;
use crate::transport::Edge;
use crate::transport::http::{STALL, Stall};

/// A piece of an answer may wait for so many times `limits.write_timeout`: what is seen are whole pieces of some 16 KB,
/// and many streams may share a slow line.
const PATIENCE: u32 = 3;

tokio::task_local! {
    /// In the task of a stream: cancelled when the WebSocket that it has become lets go of it.
    pub static LET_GO: CancellationToken;
}

/// Runs streams.
#[derive(Clone)]
pub struct Streams {
    edge: Arc<Edge>,
    tasks: TaskTracker,
}

impl Streams {
    /// Runs them in `tasks`.
    pub fn new(edge: &Arc<Edge>, tasks: TaskTracker) -> Self {
        Self { edge: Arc::clone(edge), tasks }
    }
}

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        if let Ok(let_go) = LET_GO.try_with(Clone::clone) {
            // Begun by a stream's own task: the half that writes for the WebSocket that it has become.
            self.tasks.spawn(write_until(let_go, stream));
            return;
        }
        let stall = Arc::new(Stall::default());
        let watched = Watched {
            stream: Box::pin(stream),
            stall: Arc::clone(&stall),
            patience: self.edge.config.limits.write_timeout * PATIENCE,
            clock: None,
        };
        let edge = Arc::clone(&self.edge);
        let run = async move {
            if !watched.await {
                debug!("a stream is reset: its client takes nothing");
                edge.metrics.fault(Transport::Http, Kind::SlowConsumer);
            }
        };
        self.tasks.spawn(STALL.scope(stall, LET_GO.scope(CancellationToken::new(), run)));
    }
}

/// Writes until all is written, or the session has gone and the client does not take the rest. What is dropped then
/// resets the stream with `CANCEL`, the abort of a TCP connection (RFC 8441 §5); hyper alone would wait for as long
/// as the client keeps its window closed.
async fn write_until(let_go: CancellationToken, write: impl Future<Output = ()>) {
    let gone = async {
        let_go.cancelled().await;
        // Boxed: a timer that an idle session has no use for.
        Box::pin(tokio::time::sleep(LINGER)).await;
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
    stall: Arc<Stall>,
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
        let Some(since) = this.stall.since() else {
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
    use super::*;

    fn watched<F: Future>(stream: F, stall: &Arc<Stall>) -> Watched<F> {
        let patience = Duration::from_secs(30);
        Watched { stream: Box::pin(stream), stall: Arc::clone(stall), patience, clock: None }
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_for_its_client_ends_and_what_waits_for_news_does_not() {
        let stall = Arc::new(Stall::default());
        let begun = tokio::time::Instant::now();
        stall.begin();
        assert!(!watched(std::future::pending::<()>(), &stall).await);
        assert_eq!(begun.elapsed(), Duration::from_secs(30));

        stall.end();
        let news = tokio::time::sleep(Duration::from_hours(1));
        assert!(watched(news, &stall).await);
    }

    #[tokio::test(start_paused = true)]
    async fn each_piece_has_its_own_time() {
        let stall = Arc::new(Stall::default());
        let taking = Arc::clone(&stall);
        let slowly = async move {
            for _ in 0..10 {
                taking.begin();
                tokio::time::sleep(Duration::from_secs(20)).await;
            }
        };
        assert!(watched(slowly, &stall).await);
    }

    #[tokio::test(start_paused = true)]
    async fn who_writes_for_a_session_has_a_moment_after_its_end() {
        let let_go = CancellationToken::new();
        let mut writing = std::pin::pin!(write_until(let_go.clone(), std::future::pending()));
        let lives = tokio::time::timeout(Duration::from_mins(1), writing.as_mut()).await;
        assert!(lives.is_err(), "it writes for as long as the session lives");
        let_go.cancel();
        let begun = tokio::time::Instant::now();
        writing.await;
        assert_eq!(begun.elapsed().as_secs(), LINGER.as_secs());
    }
}
