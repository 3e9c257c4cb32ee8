//! Which pictures are made of a run.

use super::figures::{Case, Measure, Report, Value};
use super::plot::{Bar, Curve, bars, curves};
use crate::load::Kind;
use crate::load::saturation::BOUND_MS;

/// A picture.
pub struct Chart {
    /// Its file, without a folder.
    pub file: &'static str,
    /// What it shows.
    pub title: &'static str,
    /// The picture, SVG.
    pub svg: String,
}

/// The pictures of a run; one that would be empty is left out.
pub fn charts(report: &Report) -> Vec<Chart> {
    let mut charts = Vec::new();
    let mut add = |file, title, unit: &str, measure, value: fn(&Value) -> Option<f64>| {
        let groups = groups(report, measure, value);
        if !groups.is_empty() {
            charts.push(Chart { file, title, svg: bars(title, unit, &groups) });
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
                let points: Vec<(f64, f64)> = points
                    .map(|trial| {
                        (trial.rate * f64::from(u32::try_from(trial.subscribers).unwrap_or(0)), trial.p99_ms)
                    })
                    .filter(|point| point.0 > 0.0)
                    .collect();
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
        charts.push(Chart { file: "saturation.svg", title, svg });
    }
    charts
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

#[expect(clippy::cast_precision_loss, reason = "memory below 2^52 bytes")]
fn bytes(value: &Value) -> Option<f64> {
    if let Value::Idle(idle) = value { idle.bytes_per_connection.map(|bytes| bytes as f64) } else { None }
}
