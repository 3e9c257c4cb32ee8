//! Which pictures are made of a run.

use super::figures::{Case, Measure, Report, Value};
use super::grid::{Panel, grid};
use super::plot::{Bar, Curve, bars, curves};
use crate::load::saturation::BOUND_MS;
use crate::load::{Kind, Point};

/// A picture.
pub struct Chart {
    /// Its file, without a folder.
    pub file: &'static str,
    /// What it shows.
    pub title: String,
    /// The picture, SVG.
    pub svg: String,
}

/// The pictures of a run; one that would be empty is left out.
pub fn charts(report: &Report) -> Vec<Chart> {
    let mut charts = Vec::new();
    let mut add = |file, title, unit: &str, measure, value: fn(&Value) -> Option<f64>| {
        let groups = groups(report, measure, value);
        if !groups.is_empty() {
            charts.push(Chart { file, title: String::from(title), svg: bars(title, unit, &groups) });
        }
    };
    add(
        "fan-out.svg",
        "One delivery at a steady rate",
        "CPU µs of the server; less is better",
        Measure::FanOut,
        per_delivery,
    );
    add(
        "burst.svg",
        "Deliveries of a burst",
        "per CPU second of the server; more is better",
        Measure::Burst,
        per_cpu_second,
    );
    add(
        "fairness.svg",
        "A channel of two beside a large one",
        "p99 in ms; less is better",
        Measure::Fairness,
        busy_p99,
    );
    add(
        "idle.svg",
        "One idle connection",
        "bytes of memory in user space; less is better",
        Measure::Idle,
        bytes,
    );
    let saturation: Vec<Curve> = report
        .of(Measure::Saturation)
        .filter_map(|figure| match &figure.value {
            Value::Saturation(saturation) => {
                let points = saturation.trials.iter().filter(|trial| trial.p99_ms > 0.0);
                let mut points: Vec<(f64, f64)> = points
                    .map(|trial| {
                        (trial.rate * f64::from(u32::try_from(trial.subscribers).unwrap_or(0)), trial.p99_ms)
                    })
                    .filter(|point| point.0 > 0.0)
                    .collect();
                // Of two tries at one rate the better one counts, as it does in the search.
                points.sort_by(|one, other| one.0.total_cmp(&other.0).then(one.1.total_cmp(&other.1)));
                points.dedup_by(|next, kept| next.0.total_cmp(&kept.0).is_eq());
                let Case { kind, .. } = figure.case;
                Some(Curve { name: name(figure.case), points, ours: kind == Kind::Tidegate })
            }
            _ => None,
        })
        .collect();
    if !saturation.is_empty() {
        let title = "Latency as the rate rises";
        let axes = ("deliveries asked for in a second", "p99 in ms; the dashed line is 250 ms");
        let svg = curves(title, axes, BOUND_MS, &saturation);
        charts.push(Chart { file: "saturation.svg", title: title.to_owned(), svg });
    }
    charts.extend(GROWTHS.iter().filter_map(|(measure, file)| growth(report, *measure, file)));
    charts
}

const GROWTHS: [(Measure, &str); 6] = [
    (Measure::GrowConnections, "connections.svg"),
    (Measure::GrowMembers, "members.svg"),
    (Measure::GrowChannels, "channels.svg"),
    (Measure::GrowSize, "size.svg"),
    (Measure::GrowHistory, "history.svg"),
    (Measure::GrowGathering, "gathering.svg"),
];

/// What grows, and beside each other what a unit of work costs with so much of it.
fn growth(report: &Report, measure: Measure, file: &'static str) -> Option<Chart> {
    let growth = measure.growth()?;
    let line = |value: fn(&Point) -> Option<f64>| -> Vec<Curve> {
        let figures = report.of(measure).filter_map(|figure| match &figure.value {
            Value::Growth(growth) => Some((figure.case, growth)),
            _ => None,
        });
        let curves = figures.map(|(case, growth)| Curve {
            name: if case.tls { "TLS".to_owned() } else { "plain".to_owned() },
            points: growth.points.iter().filter_map(|point| Some((count(point.at), value(point)?))).collect(),
            ours: !case.tls,
        });
        curves.filter(|curve| !curve.points.is_empty()).collect()
    };
    let mut panels = vec![
        ("CPU µs per delivery".to_owned(), line(|point| point.cpu_us_per_delivery)),
        ("p99 in ms".to_owned(), line(|point| Some(point.p99_ms))),
    ];
    if let Some((held, made)) = growth.each() {
        panels.push((format!("bytes per {held}"), line(|point| point.bytes_each.map(count))));
        panels.push((format!("CPU µs per {made}"), line(|point| point.cpu_us_each)));
    }
    let panels: Vec<Panel> = panels
        .into_iter()
        .filter(|(_, curves)| !curves.is_empty())
        .map(|(title, curves)| Panel { title, curves })
        .collect();
    let title = format!("As there are more {}", growth.axis());
    let svg = grid(&title, growth.axis(), &panels);
    (!panels.is_empty()).then_some(Chart { file, title, svg })
}

/// Bars by transport, plain before TLS.
fn groups(report: &Report, measure: Measure, value: fn(&Value) -> Option<f64>) -> Vec<(String, Vec<Bar>)> {
    let mut groups: Vec<(String, Vec<Bar>)> = Vec::new();
    for figure in report.of(measure) {
        let Some(value) = value(&figure.value) else { continue };
        let Case { kind, transport, tls, .. } = figure.case;
        let group = format!("{transport}{}", if tls { ", TLS" } else { "" });
        let bar = Bar { name: kind.name().to_owned(), value, ours: kind == Kind::Tidegate };
        match groups.iter_mut().find(|(name, _)| *name == group) {
            Some((_, bars)) => bars.push(bar),
            None => groups.push((group, vec![bar])),
        }
    }
    groups
}

fn name(case: Case) -> String {
    let Case { kind, transport, tls, .. } = case;
    match (transport.to_string().as_str(), tls) {
        ("websocket", false) => kind.name().to_owned(),
        ("websocket", true) => format!("{}, TLS", kind.name()),
        (transport, tls) => format!("{}, {transport}{}", kind.name(), if tls { ", TLS" } else { "" }),
    }
}

fn per_delivery(value: &Value) -> Option<f64> {
    if let Value::Stream(stream) = value { stream.server_cpu_us_per_delivery } else { None }
}

fn per_cpu_second(value: &Value) -> Option<f64> {
    if let Value::Stream(stream) = value { stream.deliveries_per_cpu_second } else { None }
}

fn busy_p99(value: &Value) -> Option<f64> {
    if let Value::Fairness(fairness) = value { Some(fairness.busy_p99_ms) } else { None }
}

fn bytes(value: &Value) -> Option<f64> {
    if let Value::Idle(idle) = value { idle.bytes_per_connection.map(count) } else { None }
}

#[expect(clippy::cast_precision_loss, reason = "counts and bytes below 2^52")]
fn count(count: u64) -> f64 {
    count as f64
}
