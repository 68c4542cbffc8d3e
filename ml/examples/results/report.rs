//! Reports of the experiments: Markdown with tables, SVG plots beside it, and the cells they were made of.
//!
//! Nothing is kept in memory between runs: each finished cell is one line of JSON on disk, and a report is made
//! from whatever lines there are. So a long grid may be stopped anywhere, and its report always tells what was run.

use plotters::coord::Shift;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use serde_json::Value;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::Path;

/// Pixels of a plot.
const SIZE: (u32, u32) = (920, 500);

/// Pixels of the legend beside it.
const LEGEND: u32 = 230;

/// Colours that colour-blind readers tell apart (Okabe and Ito 2008).
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(60, 60, 60),
    RGBColor(150, 110, 60),
];

/// A line of a plot.
#[derive(Clone, Debug, Default)]
pub struct Series {
    /// For the legend.
    pub name: String,
    /// x and y, in the order in which they are joined.
    pub points: Vec<(f64, f64)>,
    /// Half width of the interval around each y.
    pub error: Option<Vec<f64>>,
}

/// A report being written.
pub struct Report {
    name: String,
    body: String,
    plots: Vec<(String, Result<String, String>)>,
}

impl Report {
    /// Starts `NAME.md` with a title.
    pub fn new(name: &str, title: &str) -> Self {
        Self { name: name.into(), body: format!("# {title}\n"), plots: Vec::new() }
    }

    /// A paragraph, a heading, a list: any Markdown.
    pub fn text(&mut self, text: &str) -> &mut Self {
        let _ = write!(self.body, "\n{}\n", text.trim_end());
        self
    }

    /// A table.
    pub fn table(&mut self, head: &[&str], rows: &[Vec<String>]) -> &mut Self {
        let _ = write!(self.body, "\n| {} |\n|{}\n", head.join(" | "), "---|".repeat(head.len()));
        for row in rows {
            let _ = writeln!(self.body, "| {} |", row.join(" | "));
        }
        self
    }

    /// Lines, each with its interval. x is logarithmic where it spans more than a factor of 50.
    pub fn plot(
        &mut self,
        file_suffix: &str,
        title: &str,
        x_label: &str,
        y_label: &str,
        series: &[Series],
    ) -> &mut Self {
        let drawn = draw(|svg| lines(svg, title, x_label, y_label, series));
        self.add(file_suffix, title, drawn)
    }

    /// Horizontal bars: name, value, half width of its 95 % interval. `y_label` names the values.
    pub fn bars(&mut self, file_suffix: &str, title: &str, y_label: &str, values: &[(String, f64, f64)]) -> &mut Self {
        let height = 110 + 34 * u32::try_from(values.len()).unwrap_or(0).min(60);
        let mut svg = String::new();
        let area = SVGBackend::with_string(&mut svg, (SIZE.0, height)).into_drawing_area();
        let drawn = bars(&area, title, y_label, values).and_then(|()| area.present().map_err(|e| e.to_string()));
        drop(area);
        self.add(file_suffix, title, drawn.map(|()| svg))
    }

    fn add(&mut self, suffix: &str, title: &str, drawn: Result<String, String>) -> &mut Self {
        let file = format!("{}-{suffix}.svg", self.name);
        let _ = write!(self.body, "\n![{title}]({file})\n");
        self.plots.push((file, drawn));
        self
    }

    /// Writes `NAME.md` and `NAME-*.svg` into a folder.
    ///
    /// # Errors
    /// If a file cannot be written or a plot could not be drawn.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        std::fs::create_dir_all(folder)?;
        for (file, drawn) in &self.plots {
            let svg = drawn.as_ref().map_err(|e| io::Error::other(format!("{file}: {e}")))?;
            std::fs::write(folder.join(file), svg)?;
        }
        std::fs::write(folder.join(format!("{}.md", self.name)), &self.body)
    }
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn fail(e: impl std::fmt::Display) -> String {
    e.to_string()
}

fn draw(picture: impl FnOnce(&Area<'_>) -> Result<(), String>) -> Result<String, String> {
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
    picture(&area)?;
    area.present().map_err(fail)?;
    drop(area);
    Ok(svg)
}

/// A range around all values, with some air.
fn around(values: impl Iterator<Item = f64>, air: f64) -> (f64, f64) {
    let (low, high) = values.filter(|v| v.is_finite()).fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(v), h.max(v)));
    if low > high {
        return (0.0, 1.0);
    }
    let margin = if high > low { air * (high - low) } else { (0.05 * high.abs()).max(0.001) };
    (low - margin, high + margin)
}

/// A number with as many digits as people want to see: `1.5 k`, `0.02`.
fn short(value: f64) -> String {
    let (scaled, unit) = match value.abs() {
        v if v >= 1e9 => (value / 1e9, " G"),
        v if v >= 1e6 => (value / 1e6, " M"),
        v if v >= 1e4 => (value / 1e3, " k"),
        _ => (value, ""),
    };
    let digits = format!("{scaled:.4}");
    format!("{}{unit}", digits.trim_end_matches('0').trim_end_matches('.'))
}

/// Ticks at 1 and 3 of each decade.
fn decades(low: f64, high: f64) -> Vec<f64> {
    #[allow(clippy::cast_possible_truncation)]
    let range = (low.floor() as i32)..=(high.ceil() as i32);
    let both = range.flat_map(|d| [f64::from(d), f64::from(d) + 3f64.log10()]);
    both.filter(|t| (low..=high).contains(t)).collect()
}

fn lines(area: &Area<'_>, title: &str, x_label: &str, y_label: &str, series: &[Series]) -> Result<(), String> {
    let every = || series.iter().flat_map(|s| s.points.iter().map(|p| p.0));
    let (least, most) = every().fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(v), h.max(v)));
    let log = least > 0.0 && most / least > 50.0;
    let place = |x: f64| if log { x.log10() } else { x };
    let error = |s: &Series, i: usize| s.error.as_ref().and_then(|e| e.get(i).copied()).unwrap_or(0.0);
    let spread = series
        .iter()
        .flat_map(|s| s.points.iter().enumerate().flat_map(move |(i, (_, y))| [y - error(s, i), y + error(s, i)]));
    let (x, y) = (around(every().map(place), 0.04), around(spread, 0.06));
    area.fill(&WHITE).map_err(fail)?;
    let (left, right) = area.split_horizontally(SIZE.0 - LEGEND);
    let axis = Axis { range: (x.0..x.1).into(), log };
    picture(&left, title, (x_label, y_label), (axis, y.0..y.1), series, &place)?;
    for ((s, colour), row) in series.iter().zip(COLOURS.iter().cycle()).zip(0i32..) {
        let at = 60 + 24 * row;
        right.draw(&PathElement::new([(4, at), (28, at)], colour.stroke_width(2))).map_err(fail)?;
        right.draw(&Circle::new((16, at), 3, colour.filled())).map_err(fail)?;
        right.draw(&Text::new(s.name.clone(), (36, at - 7), ("sans-serif", 14))).map_err(fail)?;
    }
    Ok(())
}

/// The x axis of a plot: plain, or of decimal logarithms shown as the numbers they stand for.
struct Axis {
    range: RangedCoordf64,
    log: bool,
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        self.range.map(value, limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        let range = self.range.range();
        if self.log { decades(range.start, range.end) } else { self.range.key_points(hint) }
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.range.range()
    }
}

impl ValueFormatter<f64> for Axis {
    fn format(value: &f64) -> String {
        short(*value)
    }

    fn format_ext(&self, value: &f64) -> String {
        if self.log { short(10f64.powf(*value)) } else { short(*value) }
    }
}

fn picture(
    area: &Area<'_>,
    title: &str,
    (x_label, y_label): (&str, &str),
    (x, y): (Axis, std::ops::Range<f64>),
    series: &[Series],
    place: &dyn Fn(f64) -> f64,
) -> Result<(), String> {
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(70)
        .build_cartesian_2d(x, y)
        .map_err(fail)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.12))
        .x_desc(x_label)
        .y_desc(y_label)
        .axis_desc_style(("sans-serif", 15))
        .label_style(("sans-serif", 13))
        .y_label_formatter(&|v| short(*v))
        .draw()
        .map_err(fail)?;
    let one_pixel = 4.0 / f64::from(SIZE.0);
    let range = chart.x_range();
    let width = one_pixel * (range.end - range.start);
    for (s, colour) in series.iter().zip(COLOURS.iter().cycle()) {
        let points: Vec<(f64, f64)> = s.points.iter().map(|(x, y)| (place(*x), *y)).collect();
        chart.draw_series(LineSeries::new(points.clone(), colour.stroke_width(2))).map_err(fail)?;
        chart.draw_series(points.iter().map(|p| Circle::new(*p, 3, colour.filled()))).map_err(fail)?;
        for ((x, y), half) in points.iter().zip(s.error.iter().flatten()) {
            let (low, high) = (y - half, y + half);
            let bar =
                [[(*x, low), (*x, high)], [(x - width, low), (x + width, low)], [(x - width, high), (x + width, high)]];
            chart.draw_series(bar.map(|b| PathElement::new(b, colour.stroke_width(1)))).map_err(fail)?;
        }
    }
    Ok(())
}

fn bars(area: &Area<'_>, title: &str, label: &str, values: &[(String, f64, f64)]) -> Result<(), String> {
    area.fill(&WHITE).map_err(fail)?;
    let ends = values.iter().flat_map(|(_, v, half)| [v - half, v + half]).chain([0.0]);
    let x = around(ends, 0.08);
    #[allow(clippy::cast_precision_loss)]
    let rows = values.len() as f64;
    let (left, right) = area.split_horizontally(LEGEND);
    let mut chart = ChartBuilder::on(&right)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(44)
        .build_cartesian_2d(x.0..x.1, rows..0.0)
        .map_err(fail)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.12))
        .x_desc(label)
        .axis_desc_style(("sans-serif", 15))
        .label_style(("sans-serif", 13))
        .x_label_formatter(&|v| short(*v))
        .draw()
        .map_err(fail)?;
    let zero = PathElement::new([(0.0, 0.0), (0.0, rows)], BLACK.stroke_width(1));
    chart.draw_series([zero]).map_err(fail)?;
    for ((name, value, half), row) in values.iter().zip(0i32..) {
        let (top, colour) = (f64::from(row), COLOURS[0]);
        let bar = Rectangle::new([(0.0, top + 0.2), (*value, top + 0.8)], colour.mix(0.7).filled());
        chart.draw_series([bar]).map_err(fail)?;
        let interval = PathElement::new([(value - half, top + 0.5), (value + half, top + 0.5)], BLACK.stroke_width(2));
        chart.draw_series([interval]).map_err(fail)?;
        let at = chart.backend_coord(&(0.0, top + 0.5)).1;
        left.draw(&Text::new(name.clone(), (12, at - 7), ("sans-serif", 14))).map_err(fail)?;
    }
    Ok(())
}

/// Two-sided 95 % quantiles of Student's t for 1 to 30 degrees of freedom.
const STUDENT: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
];

/// Mean and half width of its 95 % interval by Student's t; 0 wide for a single value.
#[allow(clippy::cast_precision_loss)]
pub fn mean_ci(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    if values.is_empty() {
        return (f64::NAN, 0.0);
    }
    let mean = values.iter().sum::<f64>() / n;
    if values.len() < 2 {
        return (mean, 0.0);
    }
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0);
    let freedom = values.len() - 1;
    // Cornish-Fisher beyond the table: within 0.001
    let t = STUDENT.get(freedom - 1).copied().unwrap_or(1.96 + 2.37 / (n - 1.0));
    (mean, t * (variance / n).sqrt())
}

/// Appends a finished cell.
///
/// # Errors
/// If the file cannot be written.
pub fn append(path: &Path, cell: &Value) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
    file.write_all(format!("{cell}\n").as_bytes())
}

/// All cells of a file; none if there is none. A line cut short by an interruption is left out.
pub fn load(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}
