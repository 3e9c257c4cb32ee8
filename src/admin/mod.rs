//! The admin listener: metrics and health over plain HTTP/1.1, for a scraper and a load balancer; and the one thing that
//! an operator can do, which is to revoke tokens.
//!
//! It has its own port, its own limits and no way to a channel's content; the public listener never serves these
//! pages. The server starts [`serve`] first and ends it last, so that a drain can be watched.

mod page;
mod readiness;
mod revocations;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::auth::Revocations;
use crate::bus::RevokedBucket;
use crate::hub::Hub;
use crate::metrics::Metrics;
use page::Pages;
pub use readiness::{Phase, Readiness};

/// Connections at once: more wait in the listener's backlog. At most some 2 MB of buffers.
const MAX_CONNECTIONS: usize = 64;
/// How long a request's head may take, and a connection may be idle: longer than the usual time between scrapes.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest request head, hyper's smallest buffer.
const HEAD_BYTES: usize = 8 * 1024;
/// How long a connection lives, so that clients who read nothing can't hold all places for good.
const LIFETIME: Duration = Duration::from_mins(2);
/// How long an answer that has begun may still take when the connection's time is over.
const GRACE: Duration = Duration::from_secs(2);
/// The pause after a failed accept, which most often is a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the pages tell of.
pub struct AdminState {
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// The channels, for how many they are and what they hold.
    pub hub: Arc<Hub>,
    /// Whether the node wants new clients.
    pub readiness: Arc<Readiness>,
    /// The tokens that were taken back.
    pub revocations: Arc<Revocations>,
    /// How the other nodes are told of them, where there can be any.
    pub revoked: Option<Arc<RevokedBucket>>,
}

/// Serves until `shutdown` is cancelled, and some 2 s more for answers that have begun. Failures to accept are logged
/// and survived.
///
/// # Cancel safety
/// Dropping it closes the listener and all of its connections.
pub async fn serve(listener: TcpListener, state: Arc<AdminState>, shutdown: CancellationToken) {
    let pages = Arc::new(Pages::new(state));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some(ended) = connections.join_next() => log_panic(ended),
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, peer)) => {
                    connections.spawn(serve_connection(stream, peer, Arc::clone(&pages), shutdown.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "the admin listener could not accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    while let Some(ended) = connections.join_next().await {
        log_panic(ended);
    }
}

async fn serve_connection(
    stream: TcpStream,
    peer: SocketAddr,
    pages: Arc<Pages>,
    shutdown: CancellationToken,
) {
    let service = service_fn(|request| {
        let pages = Arc::clone(&pages);
        async move { Ok::<_, Infallible>(pages.answer(request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let finished = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = shutdown.cancelled() => None,
        () = tokio::time::sleep(LIFETIME) => None,
    };
    let ended = if let Some(ended) = finished {
        ended
    } else {
        connection.as_mut().graceful_shutdown();
        let Ok(ended) = tokio::time::timeout(GRACE, connection).await else {
            tracing::debug!(%peer, "admin connection cut: it did not take its answer");
            return;
        };
        ended
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "admin connection ended");
    }
}

fn log_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "an admin connection's task panicked");
    }
}

#[cfg(test)]
mod tests;
