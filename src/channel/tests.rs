//! What a log keeps, and what a cursor sees of it.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::FutureExt as _;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::*;

const EPOCH: Epoch = Epoch::new(7);
const READER: Viewer<'static> = Viewer { user_id: "reader", presence: false };

fn retention(history_size: usize) -> Retention {
    Retention {
        history_size,
        history_bytes: usize::MAX,
        history_ttl: Duration::from_mins(10),
        lag_bytes: 0,
        lag: Duration::ZERO,
    }
}

fn channel(retention: Retention, now: Instant) -> Arc<Channel> {
    Arc::new(Channel::new(
        "chat:a".parse().unwrap(),
        retention,
        &Arc::default(),
        Position { epoch: EPOCH, seq: 0 },
        now,
    ))
}

/// Appends one message with that `seq`.
fn append(channel: &Arc<Channel>, seq: u64, now: Instant) {
    let publication = Publication {
        channel: channel.name().clone(),
        sender_id: "alice".into(),
        client_id: Uuid::nil(),
        message_id: MessageId::random(),
        idempotent: false,
        timestamp: SystemTime::now(),
        data: RawValue::from_string(seq.to_string()).unwrap(),
    };
    channel.append(now, &publication, || seq);
    channel.ring();
}

fn read(channel: &Arc<Channel>, cursor: &mut Cursor, budget: usize) -> Result<(Vec<u64>, bool), Gap> {
    let mut seqs = Vec::new();
    let batch = channel.read(cursor, READER, budget, |item| {
        if let Item::Message(message) = item {
            seqs.push(message.seq);
        }
    })?;
    Ok((seqs, batch.more))
}

fn at(seq: u64) -> Resume {
    Resume::After(Some(Position { epoch: EPOCH, seq }))
}

#[test]
fn a_live_cursor_sees_what_comes_and_nothing_before() {
    let now = Instant::now();
    let channel = channel(retention(10), now);
    append(&channel, 3, now);
    let (mut cursor, gap) = channel.begin(Resume::Live, now);
    assert_eq!((cursor.position().seq, gap), (3, None));
    assert_eq!(read(&channel, &mut cursor, 1000), Ok((vec![], false)));
    assert!(!channel.has_news(&cursor));
    append(&channel, 5, now);
    append(&channel, 9, now);
    assert!(channel.has_news(&cursor));
    assert_eq!(read(&channel, &mut cursor, 10_000), Ok((vec![5, 9], false)));
    assert_eq!(cursor.position().seq, 9);
}

#[test]
fn a_budget_cuts_a_batch_but_never_to_nothing() {
    let now = Instant::now();
    let channel = channel(retention(10), now);
    let (mut cursor, _) = channel.begin(Resume::Live, now);
    for seq in 1..=3 {
        append(&channel, seq, now);
    }
    assert_eq!(read(&channel, &mut cursor, 1), Ok((vec![1], true)));
    assert!(channel.has_news(&cursor));
    assert_eq!(read(&channel, &mut cursor, 1), Ok((vec![2], true)));
    assert_eq!(read(&channel, &mut cursor, 1), Ok((vec![3], false)));
}

#[test]
fn a_cursor_that_the_log_ran_away_from_is_told_once_and_goes_on_from_the_oldest() {
    let now = Instant::now();
    let channel = channel(retention(2), now);
    let (mut cursor, _) = channel.begin(Resume::Live, now);
    for seq in [10, 20, 30, 40] {
        append(&channel, seq, now);
    }
    let first = Position { epoch: EPOCH, seq: 30 };
    assert_eq!(read(&channel, &mut cursor, 1000), Err(Gap { first, reason: GapReason::SlowConsumer }));
    assert_eq!(read(&channel, &mut cursor, 10_000), Ok((vec![30, 40], false)));
}

#[test]
fn a_position_is_recovered_while_nothing_after_it_is_trimmed() {
    let now = Instant::now();
    let channel = channel(retention(2), now);
    for seq in [10, 20, 30, 40] {
        append(&channel, seq, now);
    }
    for (asked, expected) in [(20, vec![30, 40]), (25, vec![30, 40]), (30, vec![40]), (40, vec![])] {
        let (mut cursor, gap) = channel.begin(at(asked), now);
        assert_eq!(gap, None, "after {asked}");
        assert_eq!(read(&channel, &mut cursor, 10_000), Ok((expected, false)), "after {asked}");
    }
    let first = Position { epoch: EPOCH, seq: 30 };
    for (asked, reason) in [(at(19), GapReason::Expired), (at(41), GapReason::EpochChanged)] {
        let (mut cursor, gap) = channel.begin(asked, now);
        assert_eq!(gap, Some(Gap { first, reason }));
        assert_eq!(read(&channel, &mut cursor, 10_000), Ok((vec![30, 40], false)));
    }
    let other = Position { epoch: Epoch::new(8), seq: 30 };
    for resume in [Resume::After(Some(other)), Resume::After(None)] {
        assert_eq!(channel.begin(resume, now).1.map(|gap| gap.reason), Some(GapReason::EpochChanged));
    }
}

#[test]
fn history_begins_where_it_is_asked_to_and_links_to_what_is_before() {
    let now = Instant::now();
    let channel = channel(retention(3), now);
    assert_eq!(channel.begin(Resume::History(5), now).0.position().seq, 0);
    for seq in [10, 20, 30, 40] {
        append(&channel, seq, now);
    }
    for (newest, before) in [(0, 40), (1, 30), (2, 20), (3, 10), (100, 10)] {
        let (cursor, gap) = channel.begin(Resume::History(newest), now);
        assert_eq!((cursor.position().seq, gap), (before, None), "the newest {newest}");
    }
}

#[test]
fn a_page_of_history_says_whether_there_is_more() {
    let now = Instant::now();
    let channel = channel(retention(3), now);
    for seq in [10, 20, 30, 40] {
        append(&channel, seq, now);
    }
    let page = |after, limit, budget| {
        let page = channel.history(after, limit, budget, now);
        (page.messages.iter().map(|message| message.seq).collect::<Vec<_>>(), page.more)
    };
    assert_eq!(page(0, 2, 10_000), (vec![20, 30], true));
    assert_eq!(page(30, 2, 10_000), (vec![40], false));
    assert_eq!(page(40, 2, 10_000), (vec![], false));
    assert_eq!(page(0, 100, 1), (vec![20], true));
}

#[test]
fn history_is_bounded_by_age_and_bytes_too() {
    let start = Instant::now();
    let later = start + Duration::from_mins(11);
    let channel = channel(retention(10), start);
    append(&channel, 1, start);
    append(&channel, 2, later);
    assert_eq!(channel.history(0, 10, 10_000, later).messages.len(), 1);
    channel.trim(later + Duration::from_mins(11));
    assert_eq!(channel.held_bytes(), 0);
    assert_eq!(channel.head().seq, 2, "what is gone still counts as the position before");

    let small = Retention { history_bytes: 1000, ..retention(10) };
    let channel = self::channel(small, start);
    for seq in 1..=10 {
        append(&channel, seq, start);
    }
    assert!((1..=1000).contains(&channel.held_bytes()));
}

#[test]
fn what_history_gives_up_laggards_may_still_read() {
    let start = Instant::now();
    let kept =
        Retention { history_size: 1, lag_bytes: 1 << 20, lag: Duration::from_secs(10), ..retention(1) };
    let channel = channel(kept, start);
    let (mut cursor, _) = channel.begin(Resume::Live, start);
    for seq in 1..=100 {
        append(&channel, seq, start);
    }
    assert_eq!(read(&channel, &mut cursor, usize::MAX).unwrap().0.len(), 100);
    assert_eq!(channel.history(0, 1000, usize::MAX, start).messages.len(), 1);
    channel.trim(start + Duration::from_secs(11));
    assert_eq!(channel.begin(at(5), start).1.map(|gap| gap.reason), Some(GapReason::Expired));
}

#[test]
fn passing_envelopes_are_for_those_who_are_there_and_meant() {
    let now = Instant::now();
    let channel = channel(retention(10), now);
    let (cursor, _) = channel.begin(Resume::Live, now);
    channel.show(now, Audience::OthersThan("alice".into()), "typing".into());
    channel.show(now, Audience::PresenceWatchers, "presence".into());
    let seen = |mut cursor: Cursor, viewer: Viewer<'_>| {
        let mut seen = Vec::new();
        let batch = channel.read(&mut cursor, viewer, 1000, |item| {
            if let Item::Passing(json) = item {
                seen.push(String::from_utf8(json.to_vec()).unwrap());
            }
        });
        (seen, batch.unwrap())
    };
    assert_eq!(seen(cursor, Viewer { user_id: "alice", presence: false }).0, [""; 0]);
    assert_eq!(seen(cursor, Viewer { user_id: "bob", presence: false }).0, ["typing"]);
    assert_eq!(seen(cursor, Viewer { user_id: "bob", presence: true }).0, ["typing", "presence"]);
    assert_eq!(
        seen(channel.begin(Resume::Live, now).0, Viewer { user_id: "bob", presence: true }).0,
        [""; 0]
    );

    for _ in 0..300 {
        channel.show(now, Audience::PresenceWatchers, "presence".into());
    }
    let (missed, batch) = seen(cursor, Viewer { user_id: "bob", presence: true });
    assert!(batch.missed_passing && missed.is_empty(), "a list that is told anew replaces its updates");
    assert!(!seen(cursor, Viewer { user_id: "bob", presence: false }).1.missed_passing);
}

#[tokio::test]
async fn many_appends_are_one_wake() {
    let now = Instant::now();
    let channel = channel(retention(10), now);
    let wake = Wake::default();
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let watch = channel.watch(&wake);
    assert!(wake.poll_rung(&mut context).is_pending());
    append(&channel, 1, now);
    append(&channel, 2, now);
    assert!(channel.ringer.run().now_or_never().is_none());
    assert!(wake.poll_rung(&mut context).is_ready());
    assert!(wake.poll_rung(&mut context).is_pending());
    drop(watch);
    append(&channel, 3, now);
    assert!(channel.ringer.run().now_or_never().is_none());
    assert!(wake.poll_rung(&mut context).is_pending());
    assert_eq!(channel.watchers(), 0);
}

#[test]
#[should_panic(expected = "strictly rising")]
fn a_bus_that_breaks_the_order_is_stopped() {
    let now = Instant::now();
    let channel = channel(retention(10), now);
    append(&channel, 5, now);
    append(&channel, 5, now);
}
