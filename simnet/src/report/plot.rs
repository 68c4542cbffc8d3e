//! Plots in inline SVG. Text stands beside them as HTML and never inside: an SVG that is scaled down to a telephone
//! takes its letters with it, and then nobody can read them.

use std::fmt::Write as _;

/// Letters that mean something in HTML, written so that they do not.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            _ => out.push(letter),
        }
    }
    out
}

/// How figures become places.
#[derive(Clone, Copy, Debug)]
pub enum Scale {
    /// From, to.
    Linear(f64, f64),
    /// Even in factors of ten on both sides of 0, as far as this; straight between -10 and 10.
    Signed(f64),
}

impl Scale {
    /// Place from 0 to 1; what is outside stands at the edge.
    pub fn place(self, x: f64) -> f64 {
        let place = match self {
            Scale::Linear(from, to) => (x - from) / (to - from),
            Scale::Signed(most) => 0.5 + bent(x) / bent(most.max(10.0)) / 2.0,
        };
        // a margin, so that a mark at the edge is seen whole
        0.02 + place.clamp(0.0, 1.0) * 0.96
    }
}

fn bent(x: f64) -> f64 {
    let size = x.abs();
    x.signum() * if size <= 10.0 { size / 10.0 } else { size.log10() }
}

/// A mark with its interval.
#[derive(Clone, Debug)]
pub struct Row {
    /// What it is.
    pub label: String,
    /// The figures in words.
    pub value: String,
    /// Low end, middle, high end; `None`: nothing to show.
    pub figures: Option<(f64, f64, f64)>,
    /// Class of the mark: `good`, `bad` or `plain`.
    pub class: &'static str,
}

/// Rows of marks over one axis. `guide` is a line through all rows and what it says.
pub fn rows(scale: Scale, ticks: &[(f64, String)], guide: Option<(f64, &str)>, rows: &[Row]) -> String {
    let mut out = String::from("<div class=\"plot\">\n");
    let percent = |x: f64| format!("{:.2}%", scale.place(x) * 1e2);
    let mut grid = String::new();
    for (tick, _) in ticks {
        let _ = write!(grid, "<line class=\"grid\" x1=\"{0}\" x2=\"{0}\" y1=\"0\" y2=\"100%\"/>", percent(*tick));
    }
    if let Some((at, _)) = guide {
        let _ = write!(grid, "<line class=\"guide\" x1=\"{0}\" x2=\"{0}\" y1=\"0\" y2=\"100%\"/>", percent(at));
    }
    for row in rows {
        let mut mark = grid.clone();
        if let Some((low, middle, high)) = row.figures {
            let class = row.class;
            let _ = write!(
                mark,
                "<line class=\"span {class}\" x1=\"{}\" x2=\"{}\" y1=\"50%\" y2=\"50%\"/><circle class=\"{class}\" cx=\"{}\" cy=\"50%\" r=\"5\"/>",
                percent(low),
                percent(high),
                percent(middle)
            );
        }
        let (label, value) = (escaped(&row.label), escaped(&row.value));
        let _ = writeln!(
            out,
            "<div class=\"row\"><div class=\"label\">{label}</div><svg class=\"strip\" role=\"img\" aria-label=\"{label}: {value}\">{mark}</svg><div class=\"value\">{value}</div></div>"
        );
    }
    out.push_str("<div class=\"row axis\"><div class=\"ticks\">");
    for (tick, text) in ticks {
        let _ = write!(out, "<span style=\"left:{}\">{}</span>", percent(*tick), escaped(text));
    }
    out.push_str("</div></div>\n");
    if let Some((_, said)) = guide {
        let _ = write!(out, "<p class=\"said\"><i class=\"dash\"></i> {}</p>", escaped(said));
    }
    out.push_str("</div>\n");
    out
}

/// A line through points, in a box from 0 to 100; what is outside the range of figures is at its edge.
fn line(points: &[(f64, f64)], (width, low, high): (f64, f64, f64), class: &str) -> String {
    let place = |(x, y): &(f64, f64)| {
        let (x, y) = (x / width.max(1e-9) * 100.0, 96.0 - (y - low) / (high - low).max(1e-9) * 92.0);
        format!("{x:.2},{y:.2}")
    };
    let points: Vec<String> = points.iter().map(place).collect();
    format!("<polyline class=\"{class}\" points=\"{}\"/>", points.join(" "))
}

/// Two curves over time in minutes: one, and behind it the other it is compared with.
pub fn curves(title: &str, front: &[(f64, f64)], behind: &[(f64, f64)]) -> String {
    let all = || front.iter().chain(behind);
    let width = all().map(|p| p.0).fold(0.0, f64::max);
    let high = all().map(|p| p.1).fold(f64::MIN, f64::max);
    let low = all().map(|p| p.1).fold(f64::MAX, f64::min);
    let (Some(first), Some(last)) = (front.first(), front.last()) else { return String::new() };
    let grid: String = [4.0, 50.0, 96.0]
        .iter()
        .map(|y| format!("<line class=\"grid\" x1=\"0\" x2=\"100\" y1=\"{y}\" y2=\"{y}\"/>"))
        .collect();
    let title = escaped(title);
    format!(
        "<figure class=\"curve\"><figcaption>{title}</figcaption><div class=\"frame\"><div class=\"ys\"><span>{high:.2}</span><span>{low:.2}</span></div>\
         <svg viewBox=\"0 0 100 100\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{title}: loss from {:.3} to {:.3}\">{grid}{}{}</svg></div>\
         <div class=\"xs\"><span>0</span><span>{width:.0} min</span></div></figure>\n",
        first.1,
        last.1,
        line(behind, (width, low, high), "behind"),
        line(front, (width, low, high), "front"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_in_the_middle_and_nothing_leaves_the_plot() {
        let scale = Scale::Signed(1e4);
        assert!((scale.place(0.0) - 0.5).abs() < 1e-12);
        assert!(scale.place(-1e9) > 0.0 && scale.place(1e9) < 1.0);
        assert!(scale.place(-1e4) < scale.place(-1e3) && scale.place(-11.0) < scale.place(-9.0));
        assert!((Scale::Linear(0.0, 2.0).place(1.0) - 0.5).abs() < 1e-12);
    }

    #[test] // a scenario is a file somebody wrote
    fn names_make_no_elements() {
        let rows_of = |label: &str| {
            let row = Row { label: label.into(), value: "1".into(), figures: None, class: "plain" };
            rows(Scale::Linear(0.0, 1.0), &[], None, &[row])
        };
        assert!(!rows_of("<script>").contains("<script") && rows_of("a\"b").contains("a&quot;b"));
    }
}
