//! What a unit of work costs as there is more of something: connections, members of a channel, channels, bytes of a
//! message, history. The work of each point is about the same in a second, so that a line that stays flat says that
//! nothing else grows. Each point has a server of its own.

use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cost::{Family, Meter, precise};
use super::herd::{Herd, spread};
use super::publisher::Pace;
use super::storm::{Storm, storm};
use super::stream::{Audience, Crowd};
use super::subject::Subject;
use crate::edge::Settings;
use crate::feed::Transport;

/// What there is more and more of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
#[value(rename_all = "kebab-case")]
pub enum Growth {
    /// Connections, ten on each channel; a thousand messages in a second over all channels.
    Connections,
    /// Members of one channel.
    Members,
    /// Channels that are open, of which 500 have messages, two thousand in a second.
    Channels,
    /// Bytes of a message's data, to 100 members.
    Size,
    /// Messages that a channel holds, with 100 members.
    History,
    /// How long writes to the 1,000 members of a busy channel are gathered, in microseconds.
    Gathering,
}

/// What it cost with so much of it. What a figure is of depends on what grows.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Point {
    /// How much there was.
    pub at: u64,
    /// CPU time of the server for one delivery, at a steady rate.
    pub cpu_us_per_delivery: Option<f64>,
    /// Latency of those deliveries.
    pub p99_ms: f64,
    /// Memory of the server for each of what has grown (a message held, with history), where there are enough of them.
    pub bytes_each: Option<u64>,
    /// CPU time of the server to make each: a connection with its join, a join, or a message that a client catches up.
    pub cpu_us_each: Option<f64>,
    /// Messages that were lost, doubled or out of order.
    pub wrong: u64,
    /// Why the figures say less than they seem to.
    pub doubts: Vec<String>,
}

/// A whole curve.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct GrowthReport {
    /// Its points, as they were asked for.
    pub points: Vec<Point>,
}

/// Below that many, memory is that of the server and not of what grows.
const ENOUGH: u64 = 500;
/// Deliveries in a second, about.
const DELIVERIES: f64 = 10_000.0;
/// Members where their number is not what grows.
const SOME: usize = 100;
/// Channels that have messages where channels grow, and how many of the others one connection joins.
const ACTIVE: usize = 500;
const JOINED_BY_ONE: usize = 100;
/// Members and messages in a second of the channel whose writes are gathered: each member's own come 1 ms apart.
const BUSY: (usize, f64) = (1000, 1000.0);
const DATA_BYTES: usize = 128;
const PATIENCE: Duration = Duration::from_mins(2);
const SETTLE: Duration = Duration::from_secs(2);

impl Growth {
    /// Each of them, in the order of reports.
    pub const ALL: [Self; 6] =
        [Self::Connections, Self::Members, Self::Channels, Self::Size, Self::History, Self::Gathering];

    /// What stands under the axis.
    pub fn axis(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Members => "members of one channel",
            Self::Channels => "open channels",
            Self::Size => "bytes of a message",
            Self::History => "messages held in history",
            Self::Gathering => "µs of gathering",
        }
    }

    /// What memory and making are of, if anything.
    pub fn each(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Connections => Some(("connection", "connection")),
            Self::Members => Some(("member", "member")),
            Self::Channels => Some(("channel", "join")),
            Self::Size | Self::Gathering => None,
            Self::History => Some(("message held", "message caught up")),
        }
    }

    /// Where it is looked at, as far as that many open files allow.
    pub fn points(self, quick: bool, open_files: u64) -> Vec<u64> {
        let all: &[u64] = match (self, quick) {
            (Self::Connections, false) => &[1000, 2000, 5000, 10_000, 20_000, 50_000],
            (Self::Connections, true) => &[1000, 4000],
            (Self::Members, false) => &[1, 10, 100, 1000, 10_000, 50_000],
            (Self::Members, true) => &[10, 1000],
            (Self::Channels, false) => &[500, 1000, 5000, 20_000, 100_000],
            (Self::Channels, true) => &[500, 10_000],
            (Self::Size, false) => &[64, 256, 1024, 4096, 16_384, 65_536],
            (Self::Size, true) => &[64, 4096, 65_536],
            (Self::History, false) => &[1, 10, 100, 1000, 10_000],
            (Self::History, true) => &[1, 2000],
            (Self::Gathering, false) => &[0, 250, 1000, 2000, 4000, 8000, 16_000],
            (Self::Gathering, true) => &[0, 1000, 4000],
        };
        let room = super::room(open_files);
        let connections = matches!(self, Self::Connections | Self::Members);
        let mut points: Vec<u64> =
            all.iter().map(|point| if connections { (*point).min(room) } else { *point }).collect();
        points.dedup();
        points
    }

    /// What a started edge needs for that much of it.
    #[must_use]
    pub fn settings(self, at: u64, settings: Settings) -> Settings {
        match self {
            Self::Connections | Self::Members | Self::Channels => {
                settings.set("channels.default.history_size", 4096)
            }
            Self::Size => settings.set("limits.message_bytes", 256 << 10),
            Self::Gathering => {
                settings.set("limits.gathering", format!("{at}us")).set("channels.default.history_size", 4096)
            }
            Self::History => settings
                .set("channels.default.history_size", at.max(1))
                .set("channels.default.history_bytes", 256 << 20),
        }
    }
}

/// Measures one point.
///
/// # Errors
/// When subscribers or publishers can't be served at all, or the server is gone.
pub fn growth(
    subject: &Subject,
    growth: Growth,
    at: u64,
    transport: Transport,
    duration: Duration,
) -> io::Result<Point> {
    let many = usize::try_from(at).unwrap_or(usize::MAX);
    let audience = |subscribers, channels| Audience { transport, subscribers, channels, at_once: 64 };
    let mut point = Point { at, ..Point::default() };
    match growth {
        Growth::Connections => {
            let mut crowd = point.join(subject, audience(many, many.div_ceil(10)))?;
            point.steady(&mut crowd, DELIVERIES / 10.0, duration, DATA_BYTES)?;
        }
        Growth::Members => {
            let mut crowd = point.join(subject, audience(many, 1))?;
            let rate = (DELIVERIES / precise(at)).clamp(0.5, 500.0);
            let at_least = Duration::from_secs_f64(5.0 / rate);
            point.steady(&mut crowd, rate, duration.max(at_least), DATA_BYTES)?;
        }
        Growth::Channels => point.channels(subject, many, transport, duration)?,
        Growth::Size => {
            let mut crowd = Crowd::join(subject, audience(SOME, 1), false)?;
            point.steady(&mut crowd, 20.0, duration, many)?;
        }
        Growth::History => point.history(subject, audience(SOME, 1), duration)?,
        Growth::Gathering => {
            let (members, rate) = BUSY;
            let mut crowd = Crowd::join(subject, audience(members, 1), false)?;
            point.steady(&mut crowd, rate, duration, DATA_BYTES)?;
        }
    }
    Ok(point)
}

impl Point {
    /// Joins all, and takes note of what each cost.
    fn join<'a>(&mut self, subject: &'a Subject, audience: Audience) -> io::Result<Crowd<'a>> {
        // What a server needs once, whoever comes.
        let few = Audience { subscribers: SOME, channels: 1, ..audience };
        drop(Crowd::join(subject, few, false)?);
        let before = memory(subject)?;
        let meter = Meter::start(subject.family.as_ref())?;
        let mut crowd = Crowd::join(subject, audience, false)?;
        let spent = meter.stop()?.server_seconds();
        self.cpu_us_each = (spent > 0.0 && self.at >= SOME as u64).then(|| spent * 1e6 / precise(self.at));
        crowd.herd.run_until(std::time::Instant::now() + SETTLE, |_| false)?;
        self.bytes_each = self.share(before, memory(subject)?);
        let tally = crowd.herd.tally();
        if let Some(why) = &tally.first_failure {
            return Err(io::Error::other(format!("{} could not join: {why}", tally.failed)));
        }
        Ok(crowd)
    }

    /// Messages at a rate.
    fn steady(
        &mut self,
        crowd: &mut Crowd<'_>,
        rate: f64,
        duration: Duration,
        data_bytes: usize,
    ) -> io::Result<()> {
        let report = crowd.steady(rate, duration, data_bytes)?;
        self.cpu_us_per_delivery = report.server_cpu_us_per_delivery;
        self.p99_ms = report.p99_ms;
        self.wrong += report.lost + report.twice_or_disordered + report.failed as u64;
        self.doubts.extend(report.doubts);
        Ok(())
    }

    /// Channels of which most are quiet: many to a connection, or there would be as many connections.
    fn channels(
        &mut self,
        subject: &Subject,
        many: usize,
        transport: Transport,
        duration: Duration,
    ) -> io::Result<()> {
        let active = many.min(ACTIVE);
        let audience = Audience { transport, subscribers: 2 * active, channels: active, at_once: 64 };
        let mut crowd = Crowd::join(subject, audience, false)?;
        let run = rand::random::<u32>();
        let names: Vec<String> = (active..many).map(|index| format!("load:{run:08x}-{index}")).collect();
        // One name for the herd is a list for the server.
        let lists: Vec<String> = names.chunks(JOINED_BY_ONE).map(|names| names.join(",")).collect();
        let connections = lists.len();
        let before = memory(subject)?;
        let meter = Meter::start(subject.family.as_ref())?;
        let mut quiet = Herd::new(subject, transport, lists.into(), crowd.clock(), false)?;
        quiet.join(spread(connections, connections.max(1)), 16, PATIENCE)?;
        // An answer that a connection stands names its first channel alone.
        quiet.run_until(std::time::Instant::now() + SETTLE, |_| false)?;
        let spent = meter.stop()?.server_seconds();
        if let Some(why) = &quiet.tally().first_failure {
            return Err(io::Error::other(format!("{} could not join: {why}", quiet.tally().failed)));
        }
        let made = Self { at: names.len() as u64, ..Self::default() };
        self.bytes_each = made.share(before, memory(subject)?);
        self.cpu_us_each = (made.at >= ENOUGH && spent > 0.0).then(|| spent * 1e6 / precise(made.at));
        let rate = (DELIVERIES / 5.0).min(precise(active as u64) * 20.0);
        self.steady(&mut crowd, rate, duration, DATA_BYTES)
    }

    /// A channel that holds so many: clients who have missed them all, and then messages as they come.
    fn history(&mut self, subject: &Subject, audience: Audience, duration: Duration) -> io::Result<()> {
        let missed = u32::try_from(self.at).unwrap_or(u32::MAX);
        let mut crowd = Crowd::join(subject, audience, false)?;
        let before = memory(subject)?;
        let held = crowd.publish(Pace::FlatOut, missed, DATA_BYTES)?;
        self.wrong += held.lost + held.twice_or_disordered;
        crowd.herd.run_until(std::time::Instant::now() + SETTLE, |_| false)?;
        self.bytes_each = self.share(before, memory(subject)?);
        self.steady(&mut crowd, DELIVERIES / precise(SOME as u64), duration, DATA_BYTES)?;
        drop(crowd);
        let back = storm(subject, &Storm { audience, missed, data_bytes: DATA_BYTES })?;
        self.cpu_us_each = back.server_cpu_us_each.map(|us| us / f64::from(missed.max(1)));
        self.wrong += back.lost + back.twice_or_disordered + back.failed as u64;
        Ok(())
    }

    /// How much of what has been added belongs to each.
    fn share(&self, before: Option<u64>, after: Option<u64>) -> Option<u64> {
        let grown = after?.saturating_sub(before?);
        (self.at >= ENOUGH).then(|| grown / self.at)
    }
}

impl GrowthReport {
    /// Whether nothing was lost, doubled or out of order.
    pub fn is_clean(&self) -> bool {
        self.points.iter().all(|point| point.wrong == 0)
    }
}

fn memory(subject: &Subject) -> io::Result<Option<u64>> {
    let memory = subject.family.as_ref().map(Family::memory).transpose()?;
    Ok(memory.map(|memory| memory.pss_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_keep_to_the_open_files() {
        for growth in Growth::ALL {
            for quick in [true, false] {
                let points = growth.points(quick, 7000);
                assert!(
                    points.is_sorted_by(|one, next| one < next) && points.len() > 1,
                    "{growth:?} {points:?}"
                );
            }
        }
        assert_eq!(Growth::Connections.points(false, 7000), [1000, 2000, 5000, 6000]);
        assert_eq!(Growth::Channels.points(false, 7000).last(), Some(&100_000));
    }

    #[test]
    fn few_have_no_share() {
        let point = |at| Point { at, ..Point::default() };
        assert_eq!(point(ENOUGH).share(Some(1000), Some(1000 + 7 * ENOUGH)), Some(7));
        assert_eq!(point(ENOUGH - 1).share(Some(0), Some(1 << 20)), None);
        assert_eq!(point(ENOUGH).share(None, Some(0)), None);
    }
}
