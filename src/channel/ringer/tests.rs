//! Whose turn it is, and that nobody is left out.

use std::task::{Context, Poll};

use super::*;
use crate::channel::{Epoch, Life, Position, Reader, Retention, Watch};

const GATHERING: Duration = Duration::from_millis(4);

fn watchers(count: usize) -> Watchers {
    let mut watchers = Watchers::default();
    for _ in 0..count {
        watchers.add(Wake::default());
    }
    watchers
}

/// What is behind the next slice, and how many are in it.
fn next(watchers: &mut Watchers, now: Instant) -> (Slice, usize) {
    let mut slice = Vec::new();
    let behind = watchers.next_slice(now, GATHERING, &mut slice);
    for wake in &slice {
        wake.serve(now.into_std());
    }
    (behind, slice.len())
}

/// As many slices as it takes; how often it was somebody's turn.
fn ring_all(watchers: &mut Watchers, now: Instant) -> usize {
    let mut count = 0;
    loop {
        let (behind, served) = next(watchers, now);
        count += served;
        if !matches!(behind, Slice::Before(_)) {
            return count;
        }
    }
}

fn has_been_rung(wake: &Wake) -> bool {
    let mut context = Context::from_waker(std::task::Waker::noop());
    wake.poll_rung(&mut context).is_ready()
}

/// A channel of that ringer, and the bells that watch it.
fn channel(ringer: &Arc<Ringer>, watchers: usize) -> (Arc<Channel>, Vec<(Wake, Watch)>) {
    let retention = Retention {
        history_size: 1,
        history_bytes: 1,
        history_ttl: Duration::ZERO,
        lag_bytes: 0,
        lag: Duration::ZERO,
    };
    let floor = Position { epoch: Epoch::new(1), seq: 0 };
    let now = std::time::Instant::now();
    let channel = Arc::new(Channel::new("a".parse().unwrap(), retention, ringer, floor, now));
    let bells = std::iter::repeat_with(Wake::default).take(watchers);
    let watched = bells.map(|bell| (bell.clone(), channel.watch(&bell))).collect();
    (channel, watched)
}

#[tokio::test(start_paused = true)]
async fn small_channels_are_not_held_back_and_large_ones_are_served_slice_by_slice() {
    let (ringer, mut later) = (Arc::new(Ringer::new(GATHERING)), VecDeque::new());
    let (large, small, empty) = (channel(&ringer, 300), channel(&ringer, 2), channel(&ringer, 0));
    let mut take = || {
        let (has_small, mut slice) = (ringer.serve_small(&mut Vec::new()), Vec::new());
        let has_large = ringer.next_large(&mut slice, &mut later);
        (has_small, has_large.then_some(slice.len()))
    };
    for (channel, _) in [&large, &small, &empty, &large, &small] {
        channel.ring();
    }
    assert_eq!(take(), (true, Some(SLICE)));
    assert_eq!(take(), (false, Some(SLICE)));
    small.0.ring();
    assert_eq!(take(), (true, Some(300 - 2 * SLICE)));
    assert_eq!(take(), (false, None));
    // The next round of the large one is not due yet.
    large.0.ring();
    small.0.ring();
    assert_eq!(take(), (true, Some(0)));
    assert_eq!(take(), (false, None));
    tokio::time::advance(GATHERING).await;
    assert_eq!(take(), (false, Some(SLICE)));
}

#[tokio::test(start_paused = true)]
async fn the_watchers_of_any_channel_are_rung() {
    let ringer = Arc::new(Ringer::new(GATHERING));
    let channels: Vec<_> = (1..=300).map(|watchers| channel(&ringer, watchers)).collect();
    let rings = async {
        for _ in 0..3 {
            for (channel, _) in &channels {
                channel.ring();
            }
            tokio::time::sleep(2 * GATHERING).await;
            assert!(channels.iter().flat_map(|(_, bells)| bells).all(|(bell, _)| has_been_rung(bell)));
            assert!(ringer.waiting.lock().is_empty());
        }
    };
    tokio::select! {
        () = rings => {}
        () = ringer.run() => {}
        () = ringer.run() => {}
    }
}

/// A subscriber whose news take a while.
struct Slow {
    busy: Duration,
    given: Arc<Mutex<Vec<Duration>>>,
}

impl Reader for Slow {
    fn give(&mut self, now: std::time::Instant) -> bool {
        while now.elapsed() < self.busy {
            std::hint::spin_loop();
        }
        self.given.lock().push(self.busy);
        false
    }

    fn glance(&self) -> usize {
        0
    }

    fn poll_turn(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }

    fn go_on(self: Box<Self>) -> Life {
        unreachable!("nothing but news comes to it")
    }
}

#[tokio::test]
async fn a_small_channel_has_its_turn_within_a_slice_that_takes_long() {
    const WATCHERS: usize = 8 * BY_ONE_LOOK;
    let (ringer, given) = (Arc::new(Ringer::default()), Arc::<Mutex<Vec<_>>>::default());
    let (large, small) = (channel(&ringer, WATCHERS), channel(&ringer, 1));
    let leave = |bells: &[(Wake, Watch)], busy| -> Vec<_> {
        let reader = || Box::new(Slow { busy, given: Arc::clone(&given) });
        bells.iter().map(|(bell, _)| bell.clone().leave(reader())).collect()
    };
    let waits = [leave(&large.1, 2 * TURN), leave(&small.1, Duration::ZERO)];
    large.0.ring();
    tokio::select! {
        biased;
        () = ringer.run() => {}
        () = async {
            // The ringer gives way for the first time.
            small.0.ring();
            while given.lock().len() <= WATCHERS {
                yield_now().await;
            }
        } => {}
    }
    let small_came = given.lock().iter().position(Duration::is_zero).unwrap();
    assert!((1..=2 * BY_ONE_LOOK).contains(&small_came), "after {small_came} of {WATCHERS}");
    drop(waits);
}

#[test]
fn each_is_served_once_for_all_that_has_gathered() {
    let (mut watchers, now) = (watchers(1000), Instant::now());
    assert!(watchers.tell_all());
    assert!(matches!(next(&mut watchers, now), (Slice::Before(_), SLICE)));
    assert_eq!(watchers.wakes.iter().filter(|(_, wake)| has_been_rung(wake)).count(), SLICE);
    // More news: who has been served is to be served again, after those who have not been.
    assert!(!watchers.tell_all());
    let later = now + GATHERING;
    assert_eq!(ring_all(&mut watchers, later), 1000);
    assert!(watchers.wakes.iter().all(|(_, wake)| has_been_rung(wake)));
    assert_eq!(next(&mut watchers, later), (Slice::Last, 0));
}

#[test]
fn rounds_begin_some_milliseconds_apart_and_a_quiet_channel_is_not_held_back() {
    let (mut watchers, now) = (watchers(200), Instant::now());
    watchers.tell_all();
    assert_eq!(ring_all(&mut watchers, now), 200);
    assert!(watchers.tell_all());
    assert_eq!(next(&mut watchers, now), (Slice::NotBefore(now + GATHERING), 0));
    assert_eq!(ring_all(&mut watchers, now + GATHERING), 200);
    watchers.tell_all();
    assert_eq!(ring_all(&mut watchers, now + 2 * GATHERING), 200);
}

#[test]
fn who_is_within_a_round_is_not_held_back_by_news() {
    let (mut watchers, now) = (watchers(300), Instant::now());
    watchers.tell_all();
    assert!(matches!(next(&mut watchers, now), (Slice::Before(_), SLICE)));
    watchers.tell_all();
    assert!(matches!(next(&mut watchers, now), (Slice::Before(_), SLICE)));
}

#[test]
fn a_newcomer_for_whom_the_table_grows_costs_nobody_the_news() {
    for amid in [false, true] {
        let (mut watchers, now) = (watchers(256), Instant::now());
        watchers.wakes.shrink_to_fit();
        watchers.tell_all();
        assert!(matches!(next(&mut watchers, now), (Slice::Before(_), SLICE)));
        if !amid {
            ring_all(&mut watchers, now);
        }
        watchers.tell_all();
        watchers.add(Wake::default());
        assert!(watchers.wakes.capacity() > 256);
        assert!(ring_all(&mut watchers, now + GATHERING) >= 256, "{amid}");
    }
}

#[test]
fn nothing_is_left_of_a_round_whose_watchers_have_all_gone() {
    for gathering in [Duration::ZERO, GATHERING] {
        let (mut watchers, now) = (watchers(200), Instant::now());
        watchers.tell_all();
        ring_all(&mut watchers, now);
        watchers.tell_all();
        watchers.wakes = Slab::new();
        let behind = watchers.next_slice(now, gathering, &mut Vec::new());
        assert_eq!((behind, watchers.left), (Slice::Last, 0));
    }
}

#[test]
fn who_comes_and_goes_meanwhile_does_no_harm() {
    let (mut watchers, now) = (watchers(300), Instant::now());
    watchers.tell_all();
    assert!(matches!(next(&mut watchers, now), (Slice::Before(_), SLICE)));
    for key in 50..300 {
        watchers.wakes.remove(key);
    }
    watchers.wakes.shrink_to_fit();
    for _ in 0..500 {
        watchers.add(Wake::default());
    }
    watchers.tell_all();
    assert_eq!(ring_all(&mut watchers, now + GATHERING), 550);
}
