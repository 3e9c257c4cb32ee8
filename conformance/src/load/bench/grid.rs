//! Small pictures side by side over one logarithmic axis, each with an axis of its own that begins at zero: whether a
//! line is flat is seen at once. Made for costs that ought not to grow.

use super::plot::{Curve, OURS, THEIRS, WIDTH, dot, escape, figure, line, page, put, text};

/// One of the small pictures.
#[derive(Clone, Debug)]
pub struct Panel {
    /// What its lines are of, with the unit.
    pub title: String,
    /// Its lines.
    pub curves: Vec<Curve>,
}

/// Where a small picture is, and how large.
struct Frame {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
}

/// All of them, two in a row.
pub fn grid(title: &str, axis: &str, panels: &[Panel]) -> String {
    const ROW: f64 = 200.0;
    let half = WIDTH / 2.0;
    let mut body = String::new();
    let (mut bottom, mut names) = (0.0, Vec::new());
    for (index, panel) in (0u8..).zip(panels) {
        let (left, top) = (f64::from(index % 2) * half, 66.0 + f64::from(index / 2) * ROW);
        let frame = Frame { left: left + 52.0, right: left + half - 24.0, top, bottom: top + 120.0 };
        draw(&mut body, &frame, panel, axis);
        bottom = frame.bottom;
        names = panel.curves.iter().map(|curve| (curve.name.clone(), color(curve))).collect();
    }
    // With one line there is nothing to tell apart.
    for (index, (name, color)) in (0u8..).zip(&names).filter(|_| names.len() > 1) {
        let at = WIDTH - 150.0 + f64::from(index) * 70.0;
        put(&mut body, &line((at, 16.0), (at + 18.0, 16.0), color, " stroke-width=\"3\""));
        text(&mut body, at + 23.0, 20.0, "start", &escape(name));
    }
    page(title, "", bottom + 46.0, &body)
}

fn draw(body: &mut String, frame: &Frame, panel: &Panel, axis: &str) {
    let Frame { left, right, top, bottom } = *frame;
    let points = || panel.curves.iter().flat_map(|curve| &curve.points);
    let (low, high) = points().fold((f64::INFINITY, 0.0), |(low, high): (f64, f64), point| {
        (low.min(point.0.max(1.0)), high.max(point.0))
    });
    let (low, high) = (low.log10(), high.max(low * 1.1).log10());
    let most = round_up(points().map(|point| point.1).fold(0.0, f64::max));
    let x = |value: f64| left + (value.max(1.0).log10() - low) / (high - low) * (right - left);
    let y = |value: f64| bottom - value / most * (bottom - top);
    text(body, left - 44.0, top - 12.0, "start", &escape(&panel.title));
    for step in [0.0, 0.5, 1.0] {
        let at = y(most * step);
        put(body, &line((left, at), (right, at), "#e3e5e8", ""));
        text(body, left - 6.0, at + 4.0, "end", &figure(most * step));
    }
    let mut ticks: Vec<f64> = points().map(|point| point.0).collect();
    ticks.sort_by(f64::total_cmp);
    let mut free = f64::NEG_INFINITY;
    for tick in ticks {
        if x(tick) >= free {
            text(body, x(tick), bottom + 16.0, "middle", &figure(tick));
            free = x(tick) + 36.0;
        }
    }
    text(
        body,
        f64::midpoint(left, right),
        bottom + 32.0,
        "middle",
        &format!("<tspan fill=\"#666b73\">{}</tspan>", escape(axis)),
    );
    for curve in &panel.curves {
        let color = color(curve);
        let path: Vec<String> =
            curve.points.iter().map(|point| format!("{:.1},{:.1}", x(point.0), y(point.1))).collect();
        let path = path.join(" ");
        put(
            body,
            &format!("<polyline points=\"{path}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"2\"/>"),
        );
        for point in &curve.points {
            put(body, &dot((x(point.0), y(point.1)), color));
        }
    }
}

fn color(curve: &Curve) -> &'static str {
    if curve.ours { OURS } else { THEIRS[1] }
}

/// The next larger of 1, 2, 4, 6, 8 and 10 times a power of ten.
fn round_up(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(value.log10().floor());
    let step = [1.0, 2.0, 4.0, 6.0, 8.0, 10.0].into_iter().find(|step| step * power >= value);
    step.unwrap_or(10.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_ends_at_a_round_figure() {
        for (value, expected) in
            [(0.0, 1.0), (9.3, 10.0), (10.0, 10.0), (13.0, 20.0), (0.031, 0.04), (7000.0, 8000.0)]
        {
            assert!((round_up(value) - expected).abs() < 1e-9, "{value}");
        }
    }

    #[test]
    fn flat_is_flat_and_one_point_is_drawn() {
        let curve =
            |points: &[(f64, f64)]| Curve { name: "plain".into(), points: points.to_vec(), ours: true };
        let panel = |points| Panel { title: "µs <each>".into(), curves: vec![curve(points)] };
        let picture = grid("t", "x", &[panel(&[(1.0, 5.0), (100.0, 5.0)]), panel(&[(10.0, 0.0)])]);
        assert!(picture.contains("µs &lt;each&gt;") && !picture.contains("NaN") && !picture.contains("inf"));
        let path = picture.lines().find(|line| line.starts_with("<polyline")).unwrap();
        let ys: Vec<&str> =
            path.split('"').nth(1).unwrap().split(' ').map(|at| at.split(',').nth(1).unwrap()).collect();
        assert!(ys.len() == 2 && ys[0] == ys[1], "{path}");
        assert_eq!(picture.matches("<circle").count(), 3);
    }
}
