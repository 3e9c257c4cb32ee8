//! What nobody would notice otherwise: the last messages of a channel lost on their way, a stream that was lost and made
//! again. Looked for when there is reason to (a connection that came back, a leader that changed), and slowly always.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tracing::{info, warn};

use super::Inner;
use super::feed::Feed;
use super::stream::Look;

/// How often the streams are looked at, and a slice of the channels.
const TICK: Duration = Duration::from_secs(2);
/// In how many ticks every channel has its turn, unless there are very many.
const ROUND: usize = 5;
/// Channels in one slice at most: half as many requests a second.
const SLICE: usize = 1000;
/// Questions at once.
const AT_ONCE: usize = 32;
/// After a reason to look: what is on its way arrives first, and the nodes do not ask all at once.
const SETTLE: Duration = Duration::from_millis(200);
/// Failures in a row after which the streams count as away.
const FAILURES: u32 = 2;

/// Runs for as long as the node.
pub(super) async fn run(inner: Arc<Inner>) {
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failures = 0;
    let mut turn = Vec::new();
    loop {
        let all = tokio::select! {
            _ = tick.tick() => false,
            () = inner.doubt.notified() => true,
        };
        if all {
            sleep(SETTLE.mul_f64(rand::random_range(1.0..2.0))).await;
        }
        let looked = look(&inner).await;
        failures = if looked.is_ok() { 0 } else { failures + 1 };
        match &looked {
            Ok(()) => {
                if inner.health.set_streams(None) {
                    info!("the streams answer again");
                }
            }
            Err(error) if failures >= FAILURES => {
                if inner.health.set_streams(Some(error)) {
                    warn!("the streams do not answer: {error}");
                }
            }
            Err(_) => {}
        }
        if looked.is_err() {
            if all {
                // To be done when they answer again.
                inner.doubt.notify_one();
                sleep(TICK / 4).await;
            }
            continue;
        }
        if all {
            turn.clear();
            let feeds = inner.feeds();
            let begun = Instant::now();
            let count = feeds.len();
            compare(&inner, feeds).await;
            if count > 0 {
                info!(channels = count, took = ?begun.elapsed(), "compared all channels with NATS");
            }
        } else {
            if turn.is_empty() {
                turn = inner.feeds();
            }
            let slice = turn.len().div_ceil(ROUND).clamp(1, SLICE).min(turn.len());
            compare(&inner, turn.split_off(turn.len() - slice)).await;
        }
    }
}

/// Whether each stream is still the one it was.
async fn look(inner: &Arc<Inner>) -> Result<(), String> {
    for (shard, stream) in inner.streams.iter().enumerate() {
        match stream.look().await {
            Ok(Look::Same(now)) => {
                let last = inner.lasts[shard].swap(now.last, Ordering::AcqRel);
                if last > 0 && now.first > last + 1 {
                    // Most often this node was away for long. A channel of which nothing is left can't tell what it had.
                    warn!(
                        stream = stream.name(),
                        "the stream has dropped all there was at the last look, and more"
                    );
                    inner.reopen(shard);
                }
            }
            Ok(Look::Another) => {
                warn!(stream = stream.name(), epoch = %stream.epoch(), "the stream has begun anew");
                inner.lasts[shard].store(0, Ordering::Release);
                inner.reopen(shard);
            }
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(())
}

/// Asks for the newest message of each channel, and has what is missing fetched.
async fn compare(inner: &Arc<Inner>, feeds: Vec<Arc<Feed>>) {
    stream::iter(feeds).for_each_concurrent(AT_ONCE, |feed| compare_one(inner, feed)).await;
}

async fn compare_one(inner: &Arc<Inner>, feed: Arc<Feed>) {
    let stream = &inner.streams[feed.place.shard];
    if !feed.is_open() {
        return;
    }
    // Before the question: whatever is stored after it is not spoken for.
    let (epoch, clear) = (stream.epoch(), inner.lasts[feed.place.shard].load(Ordering::Acquire));
    inner.counts.audited.fetch_add(1, Ordering::Relaxed);
    // What can't be asked now is asked in the next round.
    let Ok(last) = stream.last(&feed.place.subject).await else { return };
    let last = last.unwrap_or(0);
    if feed.has(last) {
        feed.clear_up_to(clear, epoch);
        return;
    }
    // It may be on its way, behind others of a busy channel.
    let mut seen = None;
    while seen != Some(feed.seen()) {
        seen = Some(feed.seen());
        sleep(SETTLE).await;
        if feed.has(last) {
            return;
        }
    }
    if feed.want(last) {
        inner.counts.tails.fetch_add(1, Ordering::Relaxed);
        inner.fill(&feed);
    }
}
