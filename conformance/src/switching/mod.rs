//! The promise of the product, put to the test: publishers keep publishing while subscribers change transport at
//! random, are cut off without a goodbye, and come back with nothing but the cursor of what they had fully read. At
//! the end each must have got every message once, in order. Called by the test of that name and by the soak.

mod publisher;
mod subscriber;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::ledger::{Entry, Faults};
use crate::wire::Target;

use publisher::Publisher;
use subscriber::Subscriber;

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Subscribers that are switched.
    pub subscribers: usize,
    /// Channels; each has one publisher.
    pub channels: usize,
    /// Messages per second, over all channels.
    pub rate: u32,
    /// For how long, on a machine that keeps up.
    pub duration: Duration,
    /// Of everything random.
    pub seed: u64,
}

/// What came of it.
#[derive(Debug, Default, Serialize)]
pub struct Outcome {
    /// The plan's seed.
    pub seed: u64,
    /// Messages that were acknowledged.
    pub acknowledged: u64,
    /// Publishes that were cut before their acknowledgement and sent again under the same id.
    pub published_again: u64,
    /// Of those, how many the first attempt had brought through.
    pub duplicates_acknowledged: u64,
    /// Messages that subscribers got.
    pub delivered: u64,
    /// Sessions of subscribers.
    pub sessions: u64,
    /// Sessions by the transport before and their own.
    pub switches: BTreeMap<String, u64>,
    /// Sessions by the way they were resumed.
    pub resumed: BTreeMap<&'static str, u64>,
    /// Sessions by the way they ended.
    pub cuts: BTreeMap<&'static str, u64>,
    /// What was wrong with deliveries.
    pub faults: Faults,
    /// Everything that the protocol doesn't allow, first ones in words.
    pub violations: Violations,
}

/// Violations, the first in words, all counted.
#[derive(Debug, Default, Serialize)]
pub struct Violations {
    /// How many there were.
    pub count: u64,
    /// The first of them.
    pub first: Vec<String>,
}

/// What subscribers are told at the end: the last position of each channel.
type Finish = Arc<Vec<u64>>;

/// Violations that are told in words.
const TOLD: usize = 40;
/// How long a subscriber may take to catch up when everything was published. Only who never does waits for so long.
const CATCH_UP: Duration = Duration::from_mins(1);

/// Runs the plan.
///
/// # Panics
/// If one of its own tasks does.
pub async fn run(target: &Target, plan: &Plan) -> Outcome {
    let mut seeds = StdRng::seed_from_u64(plan.seed);
    // Its own channels, so that a server may be checked again and again.
    let run: u32 = seeds.random::<u32>() ^ rand::random::<u32>();
    let names: Vec<String> = (0..plan.channels).map(|index| format!("switch:{run:08x}.{index}")).collect();

    let (finish, finished) = watch::channel(None::<Finish>);
    let mut subscribers = JoinSet::new();
    for index in 0..plan.subscribers {
        let subscriber = Subscriber::new(target, index, &names, seeds.random());
        subscribers.spawn(subscriber.run(finished.clone()));
    }
    // Subscribers come and go from the first message on; the publishers need no head start.
    let mut publishers = JoinSet::new();
    let begin = Instant::now();
    let interval = Duration::from_secs(1) * u32::try_from(plan.channels).expect("few channels") / plan.rate;
    for (index, name) in names.iter().enumerate() {
        let publisher = Publisher::new(target, index, name, seeds.random());
        publishers.spawn(publisher.run(begin, interval, plan.duration));
    }

    let mut outcome = Outcome { seed: plan.seed, ..Outcome::default() };
    let mut logs = vec![Vec::new(); names.len()];
    while let Some(publisher) = publishers.join_next().await {
        let publisher = publisher.expect("a publisher does not panic");
        outcome.acknowledged += publisher.log.len() as u64;
        outcome.published_again += publisher.again;
        outcome.duplicates_acknowledged += publisher.duplicates;
        outcome.violations.add_all(publisher.violations);
        logs[publisher.channel] = publisher.log;
    }
    let last = logs.iter().map(|log: &Vec<Entry>| log.last().map_or(0, |entry| entry.seq)).collect();
    // No receiver is left when every subscriber has given up already.
    let _ = finish.send(Some(Arc::new(last)));
    while let Some(subscriber) = subscribers.join_next().await {
        outcome.add(subscriber.expect("a subscriber does not panic"), &logs);
    }
    outcome
}

impl Outcome {
    /// Whether nothing was lost, doubled, out of order, and nothing else was wrong.
    pub fn is_clean(&self) -> bool {
        self.faults.is_none() && self.violations.count == 0
    }

    fn add(&mut self, subscriber: Subscriber, logs: &[Vec<Entry>]) {
        for (channel, ledger) in subscriber.ledgers() {
            self.delivered += ledger.count() as u64;
            if ledger.joined_at().is_none() {
                self.violations.add(format!("{} never joined {channel}", subscriber.name()));
            }
            self.faults += ledger.settle(&logs[channel]);
        }
        let tally = subscriber.into_tally();
        self.sessions += tally.sessions;
        for (sum, part) in [(&mut self.resumed, tally.resumed), (&mut self.cuts, tally.cuts)] {
            for (name, count) in part {
                *sum.entry(name).or_default() += count;
            }
        }
        for ((from, to), count) in tally.switches {
            *self.switches.entry(format!("{from} to {to}")).or_default() += count;
        }
        self.violations.add_all(tally.violations);
    }
}

impl Violations {
    pub(crate) fn add(&mut self, what: String) {
        self.count += 1;
        if self.first.len() < TOLD {
            self.first.push(what);
        }
    }

    pub(crate) fn add_all(&mut self, other: Self) {
        self.add_some(other, TOLD);
    }

    /// Adds others, of which so many are told in words at most: where one mistake shows everywhere, there is room left
    /// for another.
    pub(crate) fn add_some(&mut self, other: Self, most: usize) {
        self.count += other.count;
        let room = TOLD - self.first.len();
        self.first.extend(other.first.into_iter().take(room.min(most)));
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Faults { lost, twice, disordered, chain_broken, gaps } = self.faults;
        writeln!(
            f,
            "seed {}: {} acknowledged ({} sent again after a cut, {} of them duplicates), {} delivered in {} \
             sessions; {lost} lost, {twice} twice, {disordered} out of order, {chain_broken} chains broken, {gaps} \
             gaps, {} violations",
            self.seed,
            self.acknowledged,
            self.published_again,
            self.duplicates_acknowledged,
            self.delivered,
            self.sessions,
            self.violations.count,
        )?;
        writeln!(f, "  switches: {:?}", self.switches)?;
        writeln!(f, "  resumed: {:?}; ended: {:?}", self.resumed, self.cuts)?;
        for violation in &self.violations.first {
            writeln!(f, "  violation: {violation}")?;
        }
        Ok(())
    }
}
