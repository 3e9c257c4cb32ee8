//! A publication on its way into a stream: tried again under the same id until it is acknowledged or its time is over.

use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::jetstream::context::PublishErrorKind;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::debug;

use super::Inner;
use super::message;
use crate::bus::{Accepted, BusError};
use crate::channel::{Position, Publication};

/// How long a publication is tried for: the caller waits no longer than 5 s.
const PATIENCE: Duration = Duration::from_millis(4500);
/// How long one attempt may take. A leader's death costs its cluster some seconds.
const ATTEMPT: Duration = Duration::from_millis(1500);
/// Pauses between attempts.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// Publishes.
///
/// # Errors
/// [`BusError`] if it was not acknowledged in time, or too many wait already.
pub(super) async fn publish(inner: &Inner, publication: &Publication) -> Result<Accepted, BusError> {
    let _place = inner
        .publishing
        .try_acquire()
        .map_err(|_| BusError::unavailable("too many publications wait for NATS"))?;
    let until = Instant::now() + PATIENCE;
    let place = inner.subjects.of(&publication.channel);
    let stream = &inner.streams[place.shard];
    let (headers, body) = message::encode(publication);
    let mut pause = PAUSE_MIN;
    let mut attempts = 0_u32;
    loop {
        inner.health.well_by(until).await.map_err(BusError::unavailable)?;
        attempts += 1;
        let attempt = async {
            let sent =
                inner.context.publish_with_headers(place.subject.clone(), headers.clone(), body.clone());
            sent.await?.await
        };
        let deadline = until.min(Instant::now() + ATTEMPT);
        let problem = match timeout_at(deadline, attempt).await {
            Ok(Ok(ack)) if ack.stream == stream.name() => {
                inner.counts.published.fetch_add(1, Ordering::Relaxed);
                let position = Position { epoch: stream.epoch(), seq: ack.sequence };
                let duplicate = ack.duplicate && !is_our_own(inner, publication, position, attempts).await;
                return Ok(Accepted { position, duplicate });
            }
            Ok(Ok(ack)) => {
                return Err(BusError::unavailable(format!("another stream took it: {}", ack.stream)));
            }
            Ok(Err(error)) if error.kind() == PublishErrorKind::MaxPayloadExceeded => {
                return Err(BusError::unavailable("the message is larger than NATS takes"));
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no acknowledgement".to_owned(),
        };
        inner.counts.retried.fetch_add(1, Ordering::Relaxed);
        debug!(channel = %publication.channel, attempts, "published again: {problem}");
        if Instant::now() + pause >= until {
            return Err(BusError::unavailable(format!("NATS did not take it: {problem}")));
        }
        sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Whether what the stream calls a duplicate is one of this very call's attempts, whose acknowledgement was lost.
async fn is_our_own(inner: &Inner, publication: &Publication, position: Position, attempts: u32) -> bool {
    if attempts < 2 {
        return false;
    }
    let stream = &inner.streams[inner.subjects.of(&publication.channel).shard];
    match stream.headers(position.seq).await {
        Ok(Some(stored)) => message::is_same(publication, &stored),
        // Nobody can tell any more; a publication that nobody named is no duplicate of another.
        Ok(None) | Err(_) => !publication.idempotent,
    }
}
