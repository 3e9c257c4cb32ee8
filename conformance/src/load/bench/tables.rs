//! The figures of a run as tables in Markdown: each server beside Tidegate, with the ratio of the two. Where somebody is
//! ahead of Tidegate it is said below the table.

use std::fmt::Write as _;

use super::charts::charts;
use super::figures::{Case, Figure, Measure, Report, Value};
use super::plot::figure as short;
use crate::load::Kind;

/// A column: its heading, and what stands in it.
type Column = (&'static str, fn(&Value) -> Option<f64>);

/// A table: what is measured, its heading and explanation, and its columns, of which the first is the one that
/// counts.
struct Table {
    measure: Measure,
    heading: &'static str,
    plan: &'static str,
    less_is_better: bool,
    columns: &'static [Column],
}

const TABLES: [Table; 11] = [
    Table {
        measure: Measure::FanOut,
        heading: "Fan-out at a steady rate",
        plan: "fan-out",
        less_is_better: true,
        columns: &[
            ("CPU µs per delivery", |value| stream(value)?.server_cpu_us_per_delivery),
            ("of it in user space", |value| stream(value)?.server_user_us_per_delivery),
            ("p50 ms", |value| Some(stream(value)?.p50_ms)),
            ("p99 ms", |value| Some(stream(value)?.p99_ms)),
            ("max ms", |value| Some(stream(value)?.max_ms)),
        ],
    },
    Table {
        measure: Measure::Burst,
        heading: "Burst",
        plan: "burst",
        less_is_better: false,
        columns: &[
            ("deliveries per CPU second", |value| stream(value)?.deliveries_per_cpu_second),
            ("CPU µs per delivery", |value| stream(value)?.server_cpu_us_per_delivery),
            ("deliveries per second", |value| Some(stream(value)?.deliveries_per_second)),
        ],
    },
    Table {
        measure: Measure::Saturation,
        heading: "Saturation",
        plan: "saturation",
        less_is_better: false,
        columns: &[
            ("deliveries per second", |value| Some(saturation(value)?.deliveries_per_second)),
            ("messages per second", |value| Some(saturation(value)?.rate)),
        ],
    },
    Table {
        measure: Measure::Idle,
        heading: "Memory of an idle connection",
        plan: "idle",
        less_is_better: true,
        columns: IDLE,
    },
    Table {
        measure: Measure::IdleMany,
        heading: "The same, with as many as one process may have",
        plan: "idle-many",
        less_is_better: true,
        columns: IDLE,
    },
    Table {
        measure: Measure::Channels,
        heading: "Many channels with two members each",
        plan: "channels",
        less_is_better: true,
        columns: &[
            ("CPU µs per delivery", |value| stream(value)?.server_cpu_us_per_delivery),
            ("p50 ms", |value| Some(stream(value)?.p50_ms)),
            ("p99 ms", |value| Some(stream(value)?.p99_ms)),
        ],
    },
    Table {
        measure: Measure::Handshake,
        heading: "TLS handshakes alone",
        plan: "handshakes",
        less_is_better: false,
        columns: HANDSHAKES,
    },
    Table {
        measure: Measure::Connect,
        heading: "Connections up to a joined WebSocket",
        plan: "handshakes",
        less_is_better: false,
        columns: HANDSHAKES,
    },
    Table {
        measure: Measure::Resume,
        heading: "The same by clients with a ticket",
        plan: "handshakes",
        less_is_better: false,
        columns: HANDSHAKES,
    },
    Table {
        measure: Measure::Storm,
        heading: "All back at once",
        plan: "storm",
        less_is_better: true,
        columns: &[
            ("ms until all have what they missed", |value| Some(storm(value)?.caught_up_in_ms)),
            ("ms until all are connected", |value| Some(storm(value)?.joined_in_ms)),
            ("CPU µs per client", |value| storm(value)?.server_cpu_us_each),
        ],
    },
    Table {
        measure: Measure::Fairness,
        heading: "A channel of two beside a large one",
        plan: "fairness",
        less_is_better: true,
        columns: &[
            ("p99 ms while the large one is busy", |value| Some(fairness(value)?.busy_p99_ms)),
            ("p50 ms", |value| Some(fairness(value)?.busy.p50_ms)),
            ("p99 ms while it is quiet", |value| Some(fairness(value)?.quiet_p99_ms)),
            ("p99 ms of the large one", |value| Some(fairness(value)?.large.p99_ms)),
        ],
    },
];

const IDLE: &[Column] = &[
    ("bytes per connection", |value| idle(value)?.bytes_per_connection.map(many)),
    ("connections", |value| Some(many(idle(value)?.connections as u64))),
    ("seconds to open them", |value| Some(idle(value)?.opened_in_seconds)),
];

const HANDSHAKES: &[Column] = &[
    ("per CPU second", |value| handshakes(value)?.per_server_cpu_second),
    ("CPU µs each", |value| handshakes(value)?.server_cpu_us_each),
    ("resumed %", |value| {
        let handshakes = handshakes(value)?;
        Some(100.0 * many(handshakes.resumed) / many(handshakes.connections.max(1)))
    }),
];

/// All tables of a run, with its machine; pictures are linked to in `folder`.
pub fn tables(report: &Report, folder: &str) -> String {
    let mut text = String::new();
    let machine = &report.machine;
    put(
        &mut text,
        &format!("`{}` on {}, in {:.0} minutes.", report.command, machine.date, report.seconds / 60.0),
    );
    put(
        &mut text,
        &format!(
            "{} × {}, {} MB, Linux {}; server, load and publisher share it. One process may have {} files open. Load \
             average before: {}.",
            machine.cpus,
            machine.cpu,
            machine.memory_mb,
            machine.kernel,
            machine.open_files,
            machine.load_before
        ),
    );
    let versions: Vec<String> =
        report.versions.iter().map(|(name, version)| format!("{name} {}", bare(name, version))).collect();
    put(&mut text, &format!("Beside Tidegate: {}.\n", versions.join(", ")));
    for chart in charts(report) {
        put(&mut text, &format!("![{}]({folder}{})\n", chart.title, chart.file));
    }
    for table in &TABLES {
        let figures: Vec<&Figure> = report.of(table.measure).collect();
        if !figures.is_empty() {
            table.write(report, &figures, &mut text);
        }
    }
    for figure in report.figures.iter().filter(|figure| figure.case.measure.growth().is_some()) {
        growth(figure, &mut text);
    }
    let doubts: Vec<String> = report
        .doubts()
        .map(|(case, doubt)| format!("- {:?} of {}: {doubt}", case.measure, named(case)))
        .collect();
    if !doubts.is_empty() {
        put(&mut text, "### What to bear in mind\n");
        put(&mut text, &doubts.join("\n"));
    }
    text
}

impl Table {
    fn write(&self, report: &Report, figures: &[&Figure], text: &mut String) {
        put(text, &format!("### {}\n", self.heading));
        if let Some(plan) = report.plan.get(self.plan) {
            let better = if self.less_is_better { "Less" } else { "More" };
            put(text, &format!("{plan}. {better} is better.\n"));
        }
        let headings: Vec<&str> = self.columns.iter().map(|column| column.0).collect();
        put(text, &format!("| | {} | against Tidegate | |", headings.join(" | ")));
        put(text, &format!("|---{}|---|---|", "|--:".repeat(headings.len())));
        let mut ahead = Vec::new();
        for figure in figures {
            let cells: Vec<String> = self
                .columns
                .iter()
                .map(|column| column.1(&figure.value).map_or_else(String::new, short))
                .collect();
            let ratio = self.ratio(figure, figures);
            if figure.case.kind != Kind::Tidegate
                && figure.case.kind != Kind::Raw
                && let Some(ratio) = ratio
                && (ratio < 0.995) == self.less_is_better
                && (ratio - 1.0).abs() > 0.005
            {
                ahead.push(format!("{} ({ratio:.2})", named(figure.case)));
            }
            let ratio = ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
            let name = named(figure.case);
            let name = if figure.case.kind == Kind::Tidegate { format!("**{name}**") } else { name };
            put(text, &format!("| {name} | {} | {ratio} | {} |", cells.join(" | "), remark(&figure.value)));
        }
        let ahead = if ahead.is_empty() { "nobody".to_owned() } else { ahead.join(", ") };
        put(text, &format!("\nAhead of Tidegate: {ahead}.\n"));
    }

    /// The first column, divided by Tidegate's of the same transport.
    fn ratio(&self, figure: &Figure, figures: &[&Figure]) -> Option<f64> {
        let Case { kind, transport, tls, .. } = figure.case;
        if kind == Kind::Tidegate {
            return None;
        }
        let ours = figures.iter().find(|other| {
            other.case.kind == Kind::Tidegate && other.case.transport == transport && other.case.tls == tls
        })?;
        let first = self.columns[0].1;
        let (theirs, ours) = (first(&figure.value)?, first(&ours.value)?);
        (ours > 0.0).then(|| theirs / ours)
    }
}

/// What a unit costs as there is more of something.
fn growth(figure: &Figure, text: &mut String) {
    let (Some(growth), Value::Growth(report)) = (figure.case.measure.growth(), &figure.value) else {
        put(text, &format!("### {}\n\n{}\n", named(figure.case), remark(&figure.value)));
        return;
    };
    put(text, &format!("### As there are more {} ({})\n", growth.axis(), named(figure.case)));
    let (held, made) = growth.each().unzip();
    let more = [held.map(|held| format!("bytes per {held}")), made.map(|made| format!("CPU µs per {made}"))];
    let more: Vec<String> = more.into_iter().flatten().collect();
    let headings = [&["CPU µs per delivery".to_owned(), "p99 ms".to_owned()], more.as_slice()].concat();
    put(text, &format!("| {} | {} | |", growth.axis(), headings.join(" | ")));
    put(text, &format!("|--:{}|---|", "|--:".repeat(headings.len())));
    for point in &report.points {
        let cells =
            [point.cpu_us_per_delivery, Some(point.p99_ms), point.bytes_each.map(many), point.cpu_us_each];
        let cells = cells.map(|cell| cell.map_or_else(String::new, short));
        let wrong = if point.wrong == 0 { String::new() } else { format!("{} lost or twice", point.wrong) };
        put(text, &format!("| {} | {} | {wrong} |", point.at, cells[..headings.len()].join(" | ")));
    }
    put(text, "");
}

/// What went wrong, if anything did.
fn remark(value: &Value) -> String {
    let mut remarks = Vec::new();
    let mut note = |count: u64, what: &str| {
        if count > 0 {
            remarks.push(format!("{count} {what}"));
        }
    };
    match value {
        Value::Stream(stream) => {
            note(stream.lost, "lost");
            note(stream.lost_while_warming_up, "lost while warming up");
            note(stream.twice_or_disordered, "twice or out of order");
            note(stream.failed as u64, "subscribers failed");
        }
        Value::Idle(idle) => {
            note(idle.failed as u64, "failed");
            note(idle.not_reached, "not reached");
        }
        Value::Handshakes(handshakes) => note(handshakes.failed, "failed"),
        Value::Storm(storm) => {
            note(storm.lost, "lost");
            note(storm.twice_or_disordered, "twice or out of order");
            note(storm.failed as u64, "not back");
        }
        Value::Fairness(fairness) => {
            let of = |of: fn(&crate::load::StreamReport) -> u64| {
                of(&fairness.quiet) + of(&fairness.busy) + of(&fairness.large)
            };
            note(of(|report| report.lost), "lost");
            note(of(|report| report.twice_or_disordered), "twice or out of order");
        }
        Value::Saturation(_) | Value::Growth(_) => {}
        Value::Failed(why) => return why.lines().next().unwrap_or_default().replace('|', "/"),
    }
    remarks.join(", ")
}

fn named(case: Case) -> String {
    let Case { kind, transport, tls, .. } = case;
    format!("{}, {transport}{}", kind.name(), if tls { ", TLS" } else { "" })
}

/// A version without the program's own name before it.
fn bare<'a>(name: &str, version: &'a str) -> &'a str {
    let version = version.trim_start_matches("nginx version: ").trim_start_matches("nginx/");
    version.trim_start_matches(name).trim_start_matches([':', ' ', 'v'])
}

fn stream(value: &Value) -> Option<&crate::load::StreamReport> {
    if let Value::Stream(stream) = value { Some(stream) } else { None }
}

fn saturation(value: &Value) -> Option<&crate::load::SaturationReport> {
    if let Value::Saturation(saturation) = value { Some(saturation) } else { None }
}

fn idle(value: &Value) -> Option<&crate::load::IdleReport> {
    if let Value::Idle(idle) = value { Some(idle) } else { None }
}

fn handshakes(value: &Value) -> Option<&crate::load::HandshakesReport> {
    if let Value::Handshakes(handshakes) = value { Some(handshakes) } else { None }
}

fn storm(value: &Value) -> Option<&crate::load::StormReport> {
    if let Value::Storm(storm) = value { Some(storm) } else { None }
}

fn fairness(value: &Value) -> Option<&crate::load::FairnessReport> {
    if let Value::Fairness(fairness) = value { Some(fairness) } else { None }
}

#[expect(clippy::cast_precision_loss, reason = "counts and bytes below 2^52")]
fn many(count: u64) -> f64 {
    count as f64
}

fn put(text: &mut String, line: &str) {
    // A String takes all.
    let _ = writeln!(text, "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::Transport;
    use crate::load::StreamReport;
    use crate::load::bench::Machine;

    #[test]
    fn who_is_ahead_is_said() {
        let figure = |kind, cost| {
            let case = Case { measure: Measure::FanOut, kind, transport: Transport::Sse, tls: false };
            let stream = StreamReport { server_cpu_us_per_delivery: Some(cost), ..StreamReport::default() };
            Figure { case, value: Value::Stream(stream) }
        };
        let figures = vec![figure(Kind::Tidegate, 10.0), figure(Kind::Nchan, 9.0), figure(Kind::Ws, 20.0)];
        let (versions, plan) = (std::collections::BTreeMap::default(), std::collections::BTreeMap::default());
        let machine = Machine::now(1024);
        let mut report = Report { command: "c".into(), machine, versions, plan, seconds: 60.0, figures };
        let text = tables(&report, "p/");
        assert!(text.contains("Ahead of Tidegate: Nchan, sse (0.90).") && text.contains("(p/fan-out.svg)"));
        report.figures.remove(1);
        assert!(tables(&report, "").contains("Ahead of Tidegate: nobody."));
        let failed = Figure { value: Value::Failed("it is | gone".into()), ..figure(Kind::Nchan, 1.0) };
        report.figures.push(failed);
        assert!(tables(&report, "").contains("it is / gone") && !report.is_clean());
    }
}
