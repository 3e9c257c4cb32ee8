//! What a run leaves behind: one figure for each case, with all that was measured, or with why there is none.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::machine::Machine;
use crate::feed::Transport;
use crate::load::{
    Cost, FairnessReport, Growth, GrowthReport, HandshakesReport, IdleReport, Kind, SaturationReport,
    StormReport, StreamReport,
};

/// One thing that is measured of one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Case {
    /// What is measured.
    pub measure: Measure,
    /// Of which server.
    pub kind: Kind,
    /// Over which transport.
    pub transport: Transport,
    /// Behind TLS.
    pub tls: bool,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// A steady rate to one channel.
    FanOut,
    /// As fast as the server takes it.
    Burst,
    /// The highest rate.
    Saturation,
    /// Memory of idle connections.
    Idle,
    /// The same of as many as the machine allows.
    IdleMany,
    /// Many channels with two members each.
    Channels,
    /// TLS handshakes alone.
    Handshake,
    /// Connections up to a joined WebSocket.
    Connect,
    /// The same with a ticket.
    Resume,
    /// All back at once.
    Storm,
    /// A small channel beside a large one.
    Fairness,
    /// Costs as connections grow in number.
    GrowConnections,
    /// As members of a channel do.
    GrowMembers,
    /// As channels do.
    GrowChannels,
    /// As messages grow.
    GrowSize,
    /// As history does.
    GrowHistory,
    /// As writes under load are gathered for longer.
    GrowGathering,
}

/// What was measured of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Value {
    /// Fan-out, burst, channels.
    Stream(StreamReport),
    /// Saturation.
    Saturation(SaturationReport),
    /// Idle connections.
    Idle(IdleReport),
    /// Handshakes.
    Handshakes(HandshakesReport),
    /// Reconnect storm.
    Storm(StormReport),
    /// Fairness.
    Fairness(Box<FairnessReport>),
    /// Costs as something grows.
    Growth(GrowthReport),
    /// Nothing, and why.
    Failed(String),
}

/// A case with what was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Figure {
    /// What, of whom.
    #[serde(flatten)]
    pub case: Case,
    /// The figures.
    pub value: Value,
}

/// A whole run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// How it is run again.
    pub command: String,
    /// Where it ran, and when.
    pub machine: Machine,
    /// The servers' versions, by name.
    pub versions: BTreeMap<String, String>,
    /// How much of everything.
    pub plan: BTreeMap<String, String>,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// All figures, in the order they were taken.
    pub figures: Vec<Figure>,
}

impl Report {
    /// The figures of that kind.
    pub fn of(&self, measure: Measure) -> impl Iterator<Item = &Figure> {
        self.figures.iter().filter(move |figure| figure.case.measure == measure)
    }

    /// What somebody has to know before they believe a figure, each with its case.
    pub fn doubts(&self) -> impl Iterator<Item = (Case, String)> {
        let doubts = |figure: &Figure| {
            let case = figure.case;
            figure.value.doubts().into_iter().map(move |doubt| (case, doubt))
        };
        self.figures.iter().flat_map(doubts)
    }

    /// Whether Tidegate lost nothing, and all was measured.
    pub fn is_clean(&self) -> bool {
        self.figures.iter().all(|figure| match &figure.value {
            Value::Failed(_) => false,
            _ if figure.case.kind != Kind::Tidegate => true,
            Value::Stream(stream) => stream.is_clean(),
            Value::Idle(idle) => idle.is_clean(),
            Value::Storm(storm) => storm.is_clean(),
            Value::Saturation(saturation) => saturation.rate > 0.0,
            Value::Handshakes(handshakes) => handshakes.failed == 0,
            Value::Fairness(fairness) => fairness.is_clean(),
            Value::Growth(growth) => growth.is_clean(),
        })
    }
}

impl Case {
    /// Whether the two are measured in turns.
    pub fn is_beside(self, other: Self) -> bool {
        (self.measure, self.transport, self.tls) == (other.measure, other.transport, other.tls)
    }
}

impl Measure {
    /// How often it is measured of each server, in turns. A shared machine is fast and slow by turns, and a ratio of two
    /// moments says as much of them as of the servers.
    pub fn rounds(self) -> usize {
        if self == Self::FanOut { 3 } else { 1 }
    }

    /// What grows, where that is what is looked at.
    pub fn growth(self) -> Option<Growth> {
        Some(match self {
            Self::GrowConnections => Growth::Connections,
            Self::GrowMembers => Growth::Members,
            Self::GrowChannels => Growth::Channels,
            Self::GrowSize => Growth::Size,
            Self::GrowHistory => Growth::History,
            Self::GrowGathering => Growth::Gathering,
            _ => return None,
        })
    }
}

impl Value {
    /// Why its figures say less than they seem to.
    pub fn doubts(&self) -> Vec<String> {
        match self {
            Self::Stream(stream) => stream.doubts.clone(),
            Self::Saturation(saturation) => saturation.doubts.clone(),
            Self::Handshakes(handshakes) => handshakes.doubts.clone(),
            Self::Storm(storm) => storm.doubts.clone(),
            Self::Fairness(fairness) => fairness.doubts.clone(),
            Self::Growth(growth) => {
                let points = growth.points.iter();
                points
                    .flat_map(|point| point.doubts.iter().map(|doubt| format!("at {}: {doubt}", point.at)))
                    .collect()
            }
            Self::Idle(_) | Self::Failed(_) => Vec::new(),
        }
    }

    /// Of a case's rounds the one in the middle, by what a delivery cost; but one that went wrong before all others.
    ///
    /// # Panics
    /// Without any.
    pub fn middle(mut rounds: Vec<Self>) -> Self {
        let cost = |value: &Self| match value {
            Self::Stream(stream) if stream.is_clean() => stream.server_cpu_us_per_delivery.unwrap_or(0.0),
            _ => f64::NEG_INFINITY,
        };
        rounds.sort_by(|one, other| cost(one).total_cmp(&cost(other)));
        let wrong = cost(&rounds[0]) == f64::NEG_INFINITY;
        let middle = if wrong { 0 } else { rounds.len() / 2 };
        rounds.swap_remove(middle)
    }

    /// What was spent, where that is all that counts.
    pub fn cost(&self) -> Option<&Cost> {
        match self {
            Self::Stream(stream) => Some(&stream.cost),
            Self::Handshakes(handshakes) => Some(&handshakes.cost),
            Self::Storm(storm) => Some(&storm.cost),
            Self::Fairness(fairness) => Some(&fairness.large.cost),
            Self::Saturation(_) | Self::Idle(_) | Self::Growth(_) | Self::Failed(_) => None,
        }
    }

    /// One line for whoever watches the run.
    pub fn line(&self) -> String {
        let some = |figure: Option<f64>| figure.map_or_else(|| "?".into(), |figure| format!("{figure:.2}"));
        match self {
            Self::Stream(stream) => format!(
                "{} µs per delivery, {:.0} deliveries/s, p99 {:.1} ms, {} lost",
                some(stream.server_cpu_us_per_delivery),
                stream.deliveries_per_second,
                stream.p99_ms,
                stream.lost
            ),
            Self::Saturation(saturation) => format!("{:.0} deliveries/s", saturation.deliveries_per_second),
            Self::Idle(idle) => format!(
                "{} bytes for each of {}",
                idle.bytes_per_connection.map_or_else(|| "?".into(), |bytes| bytes.to_string()),
                idle.connections
            ),
            Self::Handshakes(handshakes) => format!(
                "{} µs each, {:.0}/s, {} of {} resumed, {} failed",
                some(handshakes.server_cpu_us_each),
                handshakes.per_second,
                handshakes.resumed,
                handshakes.connections,
                handshakes.failed
            ),
            Self::Storm(storm) => format!(
                "all joined after {:.0} ms, caught up after {:.0} ms, {} lost",
                storm.joined_in_ms, storm.caught_up_in_ms, storm.lost
            ),
            Self::Fairness(fairness) => format!(
                "p99 {:.1} ms beside a large channel, {:.1} ms alone",
                fairness.busy_p99_ms, fairness.quiet_p99_ms
            ),
            Self::Growth(growth) => {
                let points = growth.points.iter();
                let points = points.map(|point| format!("{}: {}", point.at, some(point.cpu_us_per_delivery)));
                format!("µs per delivery at {}", points.collect::<Vec<_>>().join(", "))
            }
            Self::Failed(why) => format!("FAILED: {}", why.lines().next().unwrap_or_default()),
        }
    }
}
