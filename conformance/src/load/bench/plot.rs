//! Pictures in SVG, written by hand: bars and curves, and no more than that. Nothing that draws plots in Rust is both
//! kept up and small, and a picture that is text can be reviewed.

use std::fmt::Write as _;

/// A bar of a bar chart.
#[derive(Clone, Debug)]
pub struct Bar {
    /// What stands beside it.
    pub name: String,
    /// How long it is.
    pub value: f64,
    /// Which one is ours.
    pub ours: bool,
}

/// A line of a chart with curves.
#[derive(Clone, Debug)]
pub struct Curve {
    /// What it is of.
    pub name: String,
    /// Its points, both above zero.
    pub points: Vec<(f64, f64)>,
    /// Which one is ours.
    pub ours: bool,
}

pub(super) const WIDTH: f64 = 760.0;
const FONT: &str = "font-family=\"system-ui, sans-serif\" font-size=\"12\"";
pub(super) const OURS: &str = "#0b6bcb";
pub(super) const THEIRS: [&str; 7] =
    ["#8a8f98", "#c2703d", "#5b8a3c", "#9a5aa0", "#b0413e", "#3d8c8c", "#7a6a2f"];

/// Horizontal bars, in groups with a heading each.
pub fn bars(title: &str, unit: &str, groups: &[(String, Vec<Bar>)]) -> String {
    const LEFT: f64 = 150.0;
    const ROW: f64 = 18.0;
    let most = groups.iter().flat_map(|(_, bars)| bars).map(|bar| bar.value).fold(0.0, f64::max);
    let scale = (WIDTH - LEFT - 110.0) / if most > 0.0 { most } else { 1.0 };
    let (mut body, mut y) = (String::new(), 62.0);
    for (name, bars) in groups {
        text(&mut body, 8.0, y, "start", &format!("<tspan font-weight=\"600\">{}</tspan>", escape(name)));
        y += 8.0;
        for bar in bars {
            let color = if bar.ours { OURS } else { THEIRS[0] };
            let length = (bar.value * scale).max(1.0);
            put(
                &mut body,
                &format!(
                    "<rect x=\"{LEFT}\" y=\"{y:.0}\" width=\"{length:.1}\" height=\"13\" fill=\"{color}\"/>"
                ),
            );
            text(&mut body, LEFT - 6.0, y + 11.0, "end", &escape(&bar.name));
            text(&mut body, LEFT + length + 5.0, y + 11.0, "start", &figure(bar.value));
            y += ROW;
        }
        y += 20.0;
    }
    page(title, unit, y, &body)
}

/// Curves over two logarithmic axes; a dashed line at `bound`.
pub fn curves(title: &str, axes: (&str, &str), bound: f64, curves: &[Curve]) -> String {
    const LEFT: f64 = 60.0;
    const RIGHT: f64 = 600.0;
    const TOP: f64 = 50.0;
    const BOTTOM: f64 = 360.0;
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let (low_x, high_x) = decades(points().map(|point| point.0));
    let (low_y, high_y) = decades(points().map(|point| point.1).chain([bound]));
    let x = |value: f64| LEFT + (value.log10() - low_x) / (high_x - low_x) * (RIGHT - LEFT);
    let y = |value: f64| BOTTOM - (value.log10() - low_y) / (high_y - low_y) * (BOTTOM - TOP);
    let mut body = String::new();
    for decade in steps(low_x, high_x) {
        let at = x(10f64.powf(decade));
        put(&mut body, &line((at, TOP), (at, BOTTOM), "#e3e5e8", ""));
        text(&mut body, at, BOTTOM + 16.0, "middle", &figure(10f64.powf(decade)));
    }
    for decade in steps(low_y, high_y) {
        let at = y(10f64.powf(decade));
        put(&mut body, &line((LEFT, at), (RIGHT, at), "#e3e5e8", ""));
        text(&mut body, LEFT - 6.0, at + 4.0, "end", &figure(10f64.powf(decade)));
    }
    put(&mut body, &line((LEFT, y(bound)), (RIGHT, y(bound)), "#b0413e", " stroke-dasharray=\"4 4\""));
    text(&mut body, f64::midpoint(LEFT, RIGHT), BOTTOM + 36.0, "middle", &escape(axes.0));
    let mut others = THEIRS.iter().cycle();
    for (index, curve) in curves.iter().enumerate() {
        let color = if curve.ours { OURS } else { others.next().unwrap_or(&OURS) };
        let path: Vec<String> =
            curve.points.iter().map(|point| format!("{:.1},{:.1}", x(point.0), y(point.1))).collect();
        let path = path.join(" ");
        let width = if curve.ours { 3 } else { 2 };
        put(
            &mut body,
            &format!(
                "<polyline points=\"{path}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"{width}\"/>"
            ),
        );
        // One that failed at its second rate is a point and no line.
        for point in &curve.points {
            put(&mut body, &dot((x(point.0), y(point.1)), color));
        }
        let row = TOP + 16.0 * f64::from(u8::try_from(index).unwrap_or(u8::MAX));
        put(&mut body, &line((RIGHT + 14.0, row), (RIGHT + 34.0, row), color, " stroke-width=\"3\""));
        text(&mut body, RIGHT + 40.0, row + 4.0, "start", &escape(&curve.name));
    }
    page(title, axes.1, BOTTOM + 50.0, &body)
}

pub(super) fn page(title: &str, unit: &str, height: f64, body: &str) -> String {
    let mut page = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH:.0} {height:.0}\" {FONT} fill=\"#22252a\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    let heading = format!("<tspan font-size=\"15\" font-weight=\"600\">{}</tspan>", escape(title));
    text(&mut page, 8.0, 20.0, "start", &heading);
    if !unit.is_empty() {
        text(&mut page, 8.0, 37.0, "start", &format!("<tspan fill=\"#666b73\">{}</tspan>", escape(unit)));
    }
    page.push_str(body);
    page.push_str("</svg>\n");
    page
}

pub(super) fn put(into: &mut String, element: &str) {
    into.push_str(element);
    into.push('\n');
}

pub(super) fn text(into: &mut String, x: f64, y: f64, anchor: &str, content: &str) {
    // A String takes all.
    let _ = writeln!(into, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{content}</text>");
}

pub(super) fn line(from: (f64, f64), to: (f64, f64), color: &str, more: &str) -> String {
    format!(
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{color}\"{more}/>",
        from.0, from.1, to.0, to.1
    )
}

pub(super) fn dot(at: (f64, f64), color: &str) -> String {
    format!("<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{color}\"/>", at.0, at.1)
}

/// Logarithms of the powers of ten around all values; one decade at least.
fn decades(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let logarithms = values.filter(|value| *value > 0.0).map(f64::log10);
    let (low, high) = logarithms
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    if low.is_finite() { (low.floor(), high.ceil().max(low.floor() + 1.0)) } else { (0.0, 1.0) }
}

fn steps(low: f64, high: f64) -> impl Iterator<Item = f64> {
    std::iter::successors(Some(low), |step| Some(step + 1.0)).take_while(move |step| *step <= high + 0.01)
}

/// A figure with at most three digits that matter.
pub fn figure(value: f64) -> String {
    match value {
        value if value >= 999_500.0 => format!("{}M", digits(value / 1e6)),
        value if value >= 9_995.0 => format!("{}k", digits(value / 1e3)),
        value if value >= 1000.0 => format!("{:.0}", (value / 10.0).round() * 10.0),
        value => digits(value),
    }
}

fn digits(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}").trim_end_matches(".0").to_owned(),
        value => {
            let text = format!("{value:.2}");
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
    }
}

pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short() {
        for (value, expected) in
            [(0.126, "0.13"), (9.5, "9.5"), (12.04, "12"), (2087.0, "2090"), (54_100.0, "54.1k"), (1e6, "1M")]
        {
            assert_eq!(figure(value), expected);
        }
    }

    #[test]
    fn pictures_are_whole_and_escaped() {
        let bar = |value| Bar { name: "a<b".into(), value, ours: value > 1.0 };
        let picture = bars("t", "µs", &[("g & h".into(), vec![bar(1.0), bar(2.0)])]);
        assert!(picture.starts_with("<svg ") && picture.ends_with("</svg>\n"));
        assert_eq!((picture.matches("<rect").count(), picture.matches("a&lt;b").count()), (3, 2));
        assert!(picture.contains("g &amp; h") && bars("t", "", &[]).contains("</svg>"));
        let curve = Curve { name: "c".into(), points: vec![(10.0, 1.0), (1000.0, 99.0)], ours: true };
        let picture = curves("t", ("x", "y"), 250.0, &[curve]);
        assert!(picture.contains("60.0,360.0 600.0,") && !picture.contains("NaN"));
    }
}
