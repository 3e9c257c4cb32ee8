//! Messages through a server: many subscribers on one thread, one publisher on another, and what became of each
//! delivery: lost, doubled, out of order, how late, at what cost. Latency counts from when a message was *due*, so that
//! a stall is not left out. Fixed rates, bursts and the search for the highest rate are made of this.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::cost::{Cost, Meter, ms, precise};
use super::herd::{Herd, spread};
use super::mark::Clock;
use super::publisher::{Pace, Publication, Publisher};
use super::subject::Subject;
use crate::feed::Transport;

/// Who reads what.
#[derive(Clone, Copy, Debug)]
pub struct Audience {
    /// Over which transport.
    pub transport: Transport,
    /// How many subscribers.
    pub subscribers: usize,
    /// How many channels they are spread over, one each.
    pub channels: usize,
    /// Connections that are made at once.
    pub at_once: usize,
}

/// A steady rate.
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    /// To whom.
    pub audience: Audience,
    /// Messages per second, over all channels.
    pub rate: f64,
    /// For how long.
    pub duration: Duration,
    /// Size of a message's data, in bytes; at least 45.
    pub data_bytes: usize,
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct StreamReport {
    /// Subscribers that stood.
    pub subscribers: usize,
    /// Messages that were sent.
    pub published: u64,
    /// Messages per second that were asked for; 0 for as many as possible.
    pub rate: f64,
    /// Deliveries that there had to be.
    pub expected: u64,
    /// Deliveries that there were.
    pub delivered: u64,
    /// Messages that did not come, or not within ten seconds.
    pub lost: u64,
    /// The same before the counts began.
    pub lost_while_warming_up: u64,
    /// Messages that came again, or after a later one.
    pub twice_or_disordered: u64,
    /// Subscribers that could not join, or ended early.
    pub failed: usize,
    /// Why the first of them did.
    pub first_failure: Option<String>,
    /// Latency from when a message was due.
    pub p50_ms: f64,
    /// The same.
    pub p90_ms: f64,
    /// The same.
    pub p99_ms: f64,
    /// The longest.
    pub max_ms: f64,
    /// By how much the publisher itself was late at most.
    pub publisher_late_ms: f64,
    /// CPU time of the server, user and kernel, for one delivery.
    pub server_cpu_us_per_delivery: Option<f64>,
    /// The user part of it.
    pub server_user_us_per_delivery: Option<f64>,
    /// Deliveries in each second, from the first message to the last delivery.
    pub deliveries_per_second: f64,
    /// Deliveries for each second of CPU time of the server.
    pub deliveries_per_cpu_second: Option<f64>,
    /// CPU time of this program for one delivery.
    pub load_cpu_us_per_delivery: f64,
    /// All that was spent.
    pub cost: Cost,
    /// Why the figures say less than they seem to.
    pub doubts: Vec<String>,
}

/// Subscribers that stand, and what was published to them.
pub struct Crowd<'a> {
    subject: &'a Subject,
    channels: Arc<[String]>,
    clock: Clock,
    /// The subscribers' connections.
    pub herd: Herd<'a>,
    published: u32,
    /// Whether a server that is a second behind is given up.
    pub hurried: bool,
}

/// How long the last message may take to the last subscriber.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between the last join and the first message: some servers don't say when a subscription stands.
const SETTLE: Duration = Duration::from_millis(500);

/// Joins all subscribers, publishes at the rate, and waits for the last delivery.
///
/// # Errors
/// When subscribers or publisher can't be served at all, or the server is gone.
pub fn stream(subject: &Subject, plan: &Stream) -> io::Result<StreamReport> {
    let mut crowd = Crowd::join(subject, plan.audience, false)?;
    crowd.steady(plan.rate, plan.duration, plan.data_bytes)
}

/// Publishes so many messages as fast as the server takes them, again and again for about that time: what a delivery
/// costs when messages queue up.
///
/// # Errors
/// As [`stream`].
pub fn burst(
    subject: &Subject,
    audience: Audience,
    messages: u32,
    duration: Duration,
    data_bytes: usize,
) -> io::Result<StreamReport> {
    let mut crowd = Crowd::join(subject, audience, false)?;
    let begun = Instant::now();
    let mut sum = crowd.publish(Pace::FlatOut, messages, data_bytes)?;
    while begun.elapsed() < duration && sum.is_clean() {
        sum.add(&crowd.publish(Pace::FlatOut, messages, data_bytes)?);
    }
    Ok(sum)
}

impl<'a> Crowd<'a> {
    /// Makes the connections, on channels that nobody else has.
    ///
    /// # Errors
    /// When they don't stand within two minutes.
    pub fn join(subject: &'a Subject, audience: Audience, remember: bool) -> io::Result<Self> {
        let run = rand::random::<u32>();
        let channels: Arc<[String]> =
            (0..audience.channels).map(|index| format!("load:{run:08x}-{index}")).collect();
        let clock = Clock::start();
        let mut herd = Herd::new(subject, audience.transport, Arc::clone(&channels), clock, remember)?;
        let seats = spread(audience.subscribers, audience.channels);
        herd.join(seats, audience.at_once, Duration::from_mins(2))?;
        herd.run_until(Instant::now() + SETTLE, |_| false)?;
        Ok(Self { subject, channels, clock, herd, published: 0, hurried: false })
    }

    /// The name of each channel.
    pub fn channels(&self) -> Arc<[String]> {
        Arc::clone(&self.channels)
    }

    /// The run's clock.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Publishes at a rate for that time, after half a second of the same that is not counted: some servers deliver
    /// nothing for a moment after they have said that a subscription stands, and all have something to warm up.
    ///
    /// # Errors
    /// As [`Crowd::publish`].
    pub fn steady(&mut self, rate: f64, duration: Duration, data_bytes: usize) -> io::Result<StreamReport> {
        let messages = |duration: Duration| count(rate * duration.as_secs_f64()).max(1);
        let warm_up = self.publish(Pace::PerSecond(rate), messages(SETTLE), data_bytes)?;
        if self.hurried && !warm_up.is_clean() {
            return Ok(warm_up);
        }
        let mut report = self.publish(Pace::PerSecond(rate), messages(duration), data_bytes)?;
        report.lost_while_warming_up = warm_up.lost;
        Ok(report)
    }

    /// Publishes so many messages over the channels in turn, and waits for the last delivery.
    ///
    /// # Errors
    /// When the publisher can't be served at all, or the server is gone.
    ///
    /// # Panics
    /// If the publisher's thread does.
    pub fn publish(&mut self, pace: Pace, messages: u32, data_bytes: usize) -> io::Result<StreamReport> {
        self.herd.forget_deliveries();
        let publication = Publication { pace, messages, before: self.published, data_bytes };
        let (before, channels) = (self.published, self.channels());
        let mut publisher = Publisher::open(self.subject, &channels, self.clock)?;
        self.published += messages;
        let new = |channel| {
            share(before + messages, channel, channels.len()) - share(before, channel, channels.len())
        };
        let expected: u64 = self.herd.members().map(|(channel, _)| u64::from(new(channel))).sum();

        let meter = Meter::start(self.subject.family.as_ref())?;
        let (sent, stop) = (AtomicBool::new(false), AtomicBool::new(false));
        let late = std::thread::scope(|scope| {
            let publishing = scope.spawn(|| publisher.run(publication, &sent, &stop));
            let reading = self.read(expected, &sent, || publishing.is_finished());
            stop.store(true, Ordering::Relaxed);
            let late = publishing.join().expect("a publisher does not panic");
            reading.and(late)
        })?;
        let cost = meter.stop()?;
        Ok(self.report(publication, expected, late, cost))
    }

    fn read(&mut self, expected: u64, sent: &AtomicBool, ended: impl Fn() -> bool) -> io::Result<()> {
        let mut end = None;
        loop {
            self.herd.turn(Duration::from_millis(10))?;
            let tally = self.herd.tally();
            let all = sent.load(Ordering::Relaxed);
            if all && tally.delivered - tally.again >= expected || ended() {
                return Ok(());
            }
            // What is missing then shows in the counts.
            if all && Instant::now() > *end.get_or_insert_with(|| Instant::now() + PATIENCE) {
                return Ok(());
            }
            if self.hurried && tally.latencies.quantile(0.5) > Duration::from_secs(1) {
                return Ok(());
            }
        }
    }

    fn report(&self, publication: Publication, expected: u64, late: Duration, cost: Cost) -> StreamReport {
        let tally = self.herd.tally();
        let at = |share| ms(tally.latencies.quantile(share));
        let mut report = StreamReport {
            subscribers: tally.joined,
            published: publication.messages.into(),
            rate: if let Pace::PerSecond(rate) = publication.pace { rate } else { 0.0 },
            expected,
            delivered: tally.delivered,
            lost: expected.saturating_sub(tally.delivered - tally.again),
            twice_or_disordered: tally.again,
            failed: tally.failed,
            first_failure: tally.first_failure.clone(),
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            max_ms: at(1.0),
            publisher_late_ms: ms(late),
            cost,
            ..StreamReport::default()
        };
        report.divide();
        report
    }
}

impl StreamReport {
    /// Whether everything came once and in order to everybody.
    pub fn is_clean(&self) -> bool {
        self.lost == 0 && self.twice_or_disordered == 0 && self.failed == 0
    }

    /// Takes another run of the same into account; of latencies the worse ones stay.
    fn add(&mut self, other: &Self) {
        self.published += other.published;
        self.expected += other.expected;
        self.delivered += other.delivered;
        self.lost += other.lost;
        self.twice_or_disordered += other.twice_or_disordered;
        self.failed = other.failed;
        self.first_failure.clone_from(&other.first_failure);
        self.p50_ms = self.p50_ms.max(other.p50_ms);
        self.p90_ms = self.p90_ms.max(other.p90_ms);
        self.p99_ms = self.p99_ms.max(other.p99_ms);
        self.max_ms = self.max_ms.max(other.max_ms);
        self.publisher_late_ms = self.publisher_late_ms.max(other.publisher_late_ms);
        self.cost.add(&other.cost);
        self.divide();
    }

    /// The figures that are quotients of others.
    fn divide(&mut self) {
        let each = |seconds: f64| seconds * 1e6 / precise(self.delivered.max(1));
        let spent = self.cost.server_seconds();
        // A server whose process is not known has spent nothing at all.
        let known = spent > 0.0;
        self.server_cpu_us_per_delivery = known.then(|| each(spent));
        self.server_user_us_per_delivery = known.then(|| each(self.cost.server_user_seconds));
        self.deliveries_per_cpu_second = known.then(|| precise(self.delivered) / spent);
        self.deliveries_per_second = precise(self.delivered) / self.cost.seconds.max(1e-9);
        self.load_cpu_us_per_delivery = each(self.cost.load_seconds);
        self.doubts = self.cost.doubts();
    }
}

/// How many of so many messages went to one of the channels, in turn.
fn share(messages: u32, channel: usize, channels: usize) -> u32 {
    let (channel, channels) =
        (u32::try_from(channel).unwrap_or(u32::MAX), u32::try_from(channels).unwrap_or(1));
    messages / channels + u32::from(channel < messages % channels)
}

/// A count that was calculated.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "rounded, and of a size that can be waited for"
)]
pub(super) fn count(number: f64) -> u32 {
    number.round() as u32
}
