//! The list of what is measured, and the run through it: each case with a server of its own, so that none inherits
//! another's memory. Servers take turns within a measure, so that what they are compared with was taken minutes apart.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use super::figures::{Case, Figure, Measure, Report, Value};
use super::machine::{Machine, versions};
use crate::edge::Settings;
use crate::feed::Transport;
use crate::load::{
    self, Audience, Cost, Fairness, Growth, GrowthReport, Handshakes, Idle, Kind, Saturation, Storm, Stream,
    Subject, Tools, Until, can_resume,
};

/// How much of everything.
#[derive(Clone, Debug)]
pub struct Scale {
    /// How it was asked for.
    pub command: String,
    /// A look in a few minutes instead of figures to keep.
    pub quick: bool,
    /// Only measures and servers of these names; all if empty.
    pub only: Vec<String>,
    /// How many files a process may have open.
    pub open_files: u64,
}

/// How much, in numbers.
struct Plan {
    subscribers: usize,
    rate: f64,
    data_bytes: usize,
    steady: Duration,
    burst_messages: u32,
    burst: Duration,
    trial: Duration,
    halvings: u32,
    idle: usize,
    idle_many: usize,
    settle: Duration,
    members: usize,
    channels: usize,
    channels_rate: f64,
    handshakes: Duration,
    storm: usize,
    missed: u32,
    large: usize,
    large_rate: f64,
    small_rate: f64,
    quick: bool,
    open_files: u64,
}

/// Runs all of it, telling each figure as it is there; a case that fails is a figure that says so. Has to be called from
/// a runtime's thread for blocking work.
///
/// # Panics
/// Outside of a runtime.
pub fn run(scale: &Scale, tools: &Tools, mut tell: impl FnMut(&Figure)) -> Report {
    let plan = Plan::of(scale);
    let begun = Instant::now();
    let mut report = Report {
        command: scale.command.clone(),
        machine: Machine::now(scale.open_files),
        versions: versions(tools),
        plan: plan.said(),
        seconds: 0.0,
        figures: Vec::new(),
    };
    for rivals in cases(scale).chunk_by(|one, other| one.is_beside(*other)) {
        let mut rounds = vec![Vec::new(); rivals.len()];
        for _ in 0..rivals[0].measure.rounds() {
            for (case, values) in rivals.iter().zip(&mut rounds) {
                values.push(measure_undisturbed(*case, &plan, tools, begun + scale.patience()));
            }
        }
        for (case, values) in rivals.iter().zip(rounds) {
            let figure = Figure { case: *case, value: Value::middle(values) };
            tell(&figure);
            report.figures.push(figure);
        }
    }
    report.seconds = begun.elapsed().as_secs_f64();
    report
}

fn measure_undisturbed(case: Case, plan: &Plan, tools: &Tools, patience: Instant) -> Value {
    let value = measure(case, plan, tools).unwrap_or_else(Value::Failed);
    // Somebody else was at work: a second try is fair to all, as long as there is time for it.
    if value.cost().is_some_and(Cost::is_disturbed) && Instant::now() < patience {
        let again = measure(case, plan, tools).unwrap_or_else(Value::Failed);
        let others = |value: &Value| value.cost().map(|cost| cost.others_seconds / cost.seconds);
        if others(&again) < others(&value) && again.cost().is_some() {
            return again;
        }
    }
    value
}

impl Scale {
    /// Until when disturbed cases are tried again.
    fn patience(&self) -> Duration {
        Duration::from_mins(if self.quick { 3 } else { 20 })
    }
}

impl Plan {
    fn of(scale: &Scale) -> Self {
        let seconds = Duration::from_secs;
        let room = usize::try_from(crate::load::room(scale.open_files)).unwrap_or(usize::MAX);
        let full = Self {
            subscribers: 1000,
            rate: 20.0,
            data_bytes: 128,
            steady: seconds(10),
            burst_messages: 500,
            burst: seconds(6),
            trial: seconds(3),
            halvings: 3,
            idle: 10_000.min(room),
            idle_many: 50_000.min(room),
            settle: seconds(5),
            members: 10_000.min(room),
            channels: 5000,
            channels_rate: 2000.0,
            handshakes: seconds(5),
            storm: 5000.min(room),
            missed: 10,
            large: 5000.min(room),
            large_rate: 10.0,
            small_rate: 100.0,
            quick: scale.quick,
            open_files: scale.open_files,
        };
        if !scale.quick {
            return full;
        }
        Self {
            steady: seconds(3),
            burst_messages: 100,
            burst: seconds(2),
            trial: seconds(1),
            halvings: 1,
            idle: 2000.min(room),
            settle: seconds(2),
            members: 2000,
            channels: 1000,
            channels_rate: 1000.0,
            handshakes: seconds(2),
            storm: 2000.min(room),
            large: 2000.min(room),
            ..full
        }
    }

    fn said(&self) -> BTreeMap<String, String> {
        let said = [
            (
                "fan-out",
                format!(
                    "{} subscribers of one channel, {} messages/s of {} bytes for {} s",
                    self.subscribers,
                    self.rate,
                    self.data_bytes,
                    self.steady.as_secs()
                ),
            ),
            (
                "burst",
                format!(
                    "{} subscribers, {} messages at once, again and again for {} s",
                    self.subscribers,
                    self.burst_messages,
                    self.burst.as_secs()
                ),
            ),
            (
                "saturation",
                format!(
                    "{} subscribers, the highest rate over {} s with p99 < 250 ms and nothing lost",
                    self.subscribers,
                    self.trial.as_secs()
                ),
            ),
            ("idle", format!("{} connections, {} s of rest", self.idle, self.settle.as_secs())),
            ("idle-many", format!("{} connections", self.idle_many)),
            (
                "channels",
                format!(
                    "{} members of {} channels, {} messages/s over all of them",
                    self.members, self.channels, self.channels_rate
                ),
            ),
            ("handshakes", format!("32 at once for {} s", self.handshakes.as_secs())),
            (
                "fairness",
                format!(
                    "{} messages/s to a channel of two, {} messages/s to one of {}",
                    self.small_rate, self.large_rate, self.large
                ),
            ),
            ("storm", format!("{} clients that missed {} messages, all at once", self.storm, self.missed)),
        ];
        said.map(|(name, text)| (name.to_owned(), text)).into()
    }

    fn audience(&self, transport: Transport) -> Audience {
        Audience { transport, subscribers: self.subscribers, channels: 1, at_once: 64 }
    }
}

/// All cases, in the order of the run.
fn cases(scale: &Scale) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |measure, transport, tls, kinds: &[Kind]| {
        let speak = kinds.iter().filter(|kind| kind.speaks(transport, tls));
        cases.extend(speak.map(|kind| Case { measure, kind: *kind, transport, tls }));
    };
    let (all, both) = (&Kind::ALL, &[Kind::Tidegate, Kind::Nchan]);
    let small = &[Kind::Tidegate, Kind::UWebSockets, Kind::Nchan];
    for measure in [Measure::FanOut, Measure::Idle] {
        for tls in [false, true] {
            add(measure, Transport::WebSocket, tls, if scale.quick && tls { both } else { all });
            add(measure, Transport::Sse, tls, both);
            add(measure, Transport::Poll, tls, both);
        }
    }
    for measure in [Measure::Burst, Measure::Saturation] {
        add(measure, Transport::WebSocket, false, all);
        if !scale.quick {
            add(measure, Transport::WebSocket, true, both);
            add(measure, Transport::Sse, false, both);
        }
    }
    add(Measure::Channels, Transport::WebSocket, false, all);
    for measure in [Measure::Handshake, Measure::Connect, Measure::Resume] {
        add(measure, Transport::WebSocket, true, both);
    }
    add(Measure::Connect, Transport::WebSocket, false, all);
    for transport in Transport::ALL {
        for tls in [false, true] {
            let resume: Vec<Kind> =
                both.iter().copied().filter(|kind| can_resume(*kind, transport)).collect();
            if !(scale.quick && tls) {
                add(Measure::Storm, transport, tls, &resume);
            }
        }
    }
    if !scale.quick {
        add(Measure::IdleMany, Transport::WebSocket, false, small);
        add(Measure::IdleMany, Transport::WebSocket, true, both);
        add(Measure::IdleMany, Transport::Sse, false, both);
        add(Measure::IdleMany, Transport::Poll, false, both);
    }
    add(Measure::Fairness, Transport::WebSocket, false, all);
    add(Measure::Fairness, Transport::WebSocket, true, both);
    let grow = [
        Measure::GrowConnections,
        Measure::GrowMembers,
        Measure::GrowChannels,
        Measure::GrowSize,
        Measure::GrowHistory,
        Measure::GrowGathering,
    ];
    for measure in grow {
        add(measure, Transport::WebSocket, false, &[Kind::Tidegate]);
        if !scale.quick {
            add(measure, Transport::WebSocket, true, &[Kind::Tidegate]);
        }
    }
    cases.retain(|case| case.is_wanted(&scale.only));
    cases
}

impl Case {
    /// Whether each kind of name that was given (of measures, of servers, of transports) has one of this case's.
    fn is_wanted(self, only: &[String]) -> bool {
        let name = |value: serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let own = [
            serde_json::to_value(self.measure).map(name).unwrap_or_default(),
            serde_json::to_value(self.kind).map(name).unwrap_or_default(),
            self.transport.to_string(),
            if self.tls { "tls" } else { "plain" }.to_owned(),
        ];
        only.iter().all(|wanted| wanted.split(',').any(|wanted| own.iter().any(|own| own == wanted)))
    }
}

fn measure(case: Case, plan: &Plan, tools: &Tools) -> Result<Value, String> {
    let Case { measure, kind, transport, tls } = case;
    if let Some(growth) = measure.growth() {
        return grow(growth, case, plan, tools);
    }
    // What a burst runs ahead of its readers; the others are given 256 MB for it.
    let settings = Settings::open().set("channels.default.history_size", 4096);
    let runtime = tokio::runtime::Handle::current();
    let subject =
        runtime.block_on(Subject::start(kind, tls, tools, &settings)).map_err(|error| error.to_string())?;
    let audience = plan.audience(transport);
    let idle = |connections| -> io::Result<Value> {
        let audience = Audience { subscribers: connections, ..audience };
        Ok(Value::Idle(load::idle(&subject, &Idle::of(audience, plan.settle))?))
    };
    let handshakes = |until, resumed| {
        let plan = Handshakes { until, resumed, at_once: 32, duration: plan.handshakes };
        load::handshakes(&subject, &plan).map(Value::Handshakes)
    };
    let stream = |audience, rate| {
        let stream = Stream { audience, rate, duration: plan.steady, data_bytes: plan.data_bytes };
        load::stream(&subject, &stream).map(Value::Stream)
    };
    let value = match measure {
        Measure::FanOut => stream(audience, plan.rate),
        Measure::Channels => {
            let audience = Audience { subscribers: plan.members, channels: plan.channels, ..audience };
            stream(audience, plan.channels_rate)
        }
        Measure::Burst => load::burst(&subject, audience, plan.burst_messages, plan.burst, plan.data_bytes)
            .map(Value::Stream),
        Measure::Saturation => {
            let Plan { data_bytes, trial, halvings, .. } = *plan;
            let plan = Saturation { audience, data_bytes, trial, first: 25.0, halvings };
            load::saturation(&subject, &plan).map(Value::Saturation)
        }
        Measure::Idle => idle(plan.idle),
        Measure::IdleMany => idle(plan.idle_many),
        Measure::Handshake => handshakes(Until::Secured, false),
        Measure::Connect => handshakes(Until::Joined, false),
        Measure::Resume => handshakes(Until::Joined, true),
        Measure::Storm => {
            let audience = Audience { subscribers: plan.storm, ..audience };
            let plan = Storm { audience, missed: plan.missed, data_bytes: plan.data_bytes };
            load::storm(&subject, &plan).map(Value::Storm)
        }
        Measure::Fairness => {
            let plan = Fairness {
                audience: Audience { subscribers: plan.large, ..audience },
                rate: plan.large_rate,
                small_rate: plan.small_rate,
                duration: plan.steady,
                data_bytes: plan.data_bytes,
            };
            load::fairness(&subject, &plan).map(|report| Value::Fairness(Box::new(report)))
        }
        Measure::GrowConnections
        | Measure::GrowMembers
        | Measure::GrowChannels
        | Measure::GrowSize
        | Measure::GrowHistory
        | Measure::GrowGathering => unreachable!("each of its points has a server of its own"),
    };
    value.map_err(|error| error.to_string())
}

fn grow(growth: Growth, case: Case, plan: &Plan, tools: &Tools) -> Result<Value, String> {
    let runtime = tokio::runtime::Handle::current();
    let mut report = GrowthReport::default();
    for at in growth.points(plan.quick, plan.open_files) {
        let settings = growth.settings(at, Settings::open());
        let subject = runtime
            .block_on(Subject::start(case.kind, case.tls, tools, &settings))
            .map_err(|error| error.to_string())?;
        let duration = plan.steady / 2;
        let point = load::growth(&subject, growth, at, case.transport, duration)
            .map_err(|error| format!("at {at}: {error}"))?;
        report.points.push(point);
    }
    Ok(Value::Growth(report))
}
