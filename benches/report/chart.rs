//! Pictures as SVG text: bars in groups, and shares that grow with time. Legible on light and on dark
//! ground. Knows nothing of what is drawn.

use std::fmt::Write;

const WIDTH: f64 = 860.0;
const LEFT: f64 = 190.0;
const RIGHT: f64 = 90.0;
const ROW: f64 = 24.0;
const BAR: f64 = 15.0;
const TOP: f64 = 58.0;
const BOTTOM: f64 = 46.0;
const PLOT_HEIGHT: f64 = 300.0;

const STYLE: &str = "<style>\
    text{font:12px system-ui,sans-serif;fill:#1f2328}.title{font-size:15px;font-weight:600}\
    .small{font-size:11px;fill:#59636e}.group{font-weight:600}.ground{fill:#ffffff}\
    .grid{stroke:#d1d9e0;stroke-width:1}.axis{stroke:#59636e;stroke-width:1}\
    .c0{fill:#2f6fdb}.c1{fill:#9cbcf2}.c2{fill:#d9822b}.c3{fill:#3a8f5c}.dot{fill:#1f2328;opacity:.55}\
    .l0{stroke:#2f6fdb}.l1{stroke:#d9822b}.l2{stroke:#3a8f5c}.line{fill:none;stroke-width:2}\
    @media(prefers-color-scheme:dark){text{fill:#e6edf3}.small{fill:#9198a1}.ground{fill:#0d1117}\
    .grid{stroke:#2a313c}.axis{stroke:#9198a1}.c0{fill:#4c8dff}.c1{fill:#284a80}.c2{fill:#e39a4d}\
    .c3{fill:#4fae78}.dot{fill:#e6edf3}.l0{stroke:#4c8dff}.l1{stroke:#e39a4d}.l2{stroke:#4fae78}}\
    </style>";

/// Rows under a heading.
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) rows: Vec<Row>,
}

pub(crate) struct Row {
    pub(crate) name: String,
    /// One beside the other; the sum is what is written at the end.
    pub(crate) parts: Vec<f64>,
    /// Of single rounds, as dots on the bar.
    pub(crate) dots: Vec<f64>,
}

/// Bars from the left, as long as their values.
pub(crate) struct Bars<'a> {
    pub(crate) title: &'a str,
    /// What the axis shows, with its unit.
    pub(crate) axis: &'a str,
    /// What the parts of a bar are; none for bars of one part.
    pub(crate) parts: &'a [&'a str],
    pub(crate) groups: Vec<Group>,
}

impl Bars<'_> {
    pub(crate) fn draw(&self) -> String {
        let rows = self.groups.iter().map(|group| group.rows.len() + 1).sum::<usize>();
        let height = TOP + rows as f64 * ROW + BOTTOM;
        let all = self.groups.iter().flat_map(|group| &group.rows);
        let longest = all.flat_map(|row| row.dots.iter().copied().chain([row.parts.iter().sum()]));
        let scale = Scale::linear(longest.fold(0.0, f64::max), LEFT, WIDTH - RIGHT);
        let mut svg = begin(self.title, height);
        let bottom = height - BOTTOM;
        scale.draw_below(&mut svg, TOP - 6.0, bottom, self.axis);
        let mut x = LEFT;
        for (at, part) in self.parts.iter().enumerate() {
            put(
                &mut svg,
                format_args!(r#"<rect class="c{at}" x="{x}" y="32" width="11" height="11"/>"#),
            );
            text(&mut svg, x + 16.0, 42.0, "small", "start", part);
            x += 34.0 + 6.5 * part.len() as f64;
        }
        let mut y = TOP;
        for group in &self.groups {
            text(&mut svg, 12.0, y + 16.0, "group", "start", &group.name);
            y += ROW;
            for row in &group.rows {
                draw_row(&mut svg, row, y, &scale);
                y += ROW;
            }
        }
        svg += "</svg>\n";
        svg
    }
}

fn draw_row(svg: &mut String, row: &Row, y: f64, scale: &Scale) {
    text(svg, LEFT - 8.0, y + 16.0, "", "end", &row.name);
    let mut from = 0.0;
    for (at, part) in row.parts.iter().enumerate() {
        let (x, to) = (scale.at(from), scale.at(from + part));
        let width = to - x;
        let top = y + 4.0;
        put(
            svg,
            format_args!(
                r#"<rect class="c{at}" x="{x:.1}" y="{top:.1}" width="{width:.1}" height="{BAR}"/>"#
            ),
        );
        from += part;
    }
    let mut end = scale.at(from);
    for dot in &row.dots {
        let (x, middle) = (scale.at(*dot), y + 4.0 + BAR / 2.0);
        put(svg, format_args!(r#"<circle class="dot" cx="{x:.1}" cy="{middle:.1}" r="2"/>"#));
        end = end.max(x);
    }
    text(svg, end + 8.0, y + 16.0, "", "start", &short(from));
}

/// Which share of all took how long at most.
pub(crate) struct Shares<'a> {
    pub(crate) title: &'a str,
    pub(crate) axis: &'a str,
    /// Each with its values, sorted.
    pub(crate) lines: Vec<(String, Vec<f64>)>,
}

impl Shares<'_> {
    pub(crate) fn draw(&self) -> String {
        let height = TOP + PLOT_HEIGHT + BOTTOM;
        let mut svg = begin(self.title, height);
        let left = 64.0;
        let values = || self.lines.iter().flat_map(|line| line.1.iter().copied());
        let least = values().filter(|value| *value > 0.0).fold(f64::MAX, f64::min);
        let most = values().fold(0.0, f64::max);
        let scale = Scale::log(least, most, left, WIDTH - 30.0);
        let bottom = TOP + PLOT_HEIGHT;
        scale.draw_below(&mut svg, TOP, bottom, self.axis);
        for percent in [0, 25, 50, 75, 100] {
            let y = bottom - PLOT_HEIGHT * f64::from(percent) / 100.0;
            let right = WIDTH - 30.0;
            put(&mut svg, format_args!(r#"<path class="grid" d="M{left} {y:.1}H{right}"/>"#));
            text(&mut svg, left - 8.0, y + 4.0, "small", "end", &format!("{percent} %"));
        }
        let mut x = left;
        for (at, (name, values)) in self.lines.iter().enumerate() {
            put(
                &mut svg,
                format_args!(
                    r#"<rect class="c{}" x="{x}" y="32" width="11" height="11"/>"#,
                    [0, 2, 3][at % 3]
                ),
            );
            text(&mut svg, x + 16.0, 42.0, "small", "start", name);
            x += 34.0 + 6.5 * name.len() as f64;
            let mut path = String::new();
            for (rank, value) in values.iter().enumerate() {
                let share = (rank + 1) as f64 / values.len() as f64;
                let (x, y) = (scale.at(value.max(least)), bottom - PLOT_HEIGHT * share);
                put(&mut path, format_args!("{}{x:.1} {y:.1}", if rank == 0 { "M" } else { "L" }));
            }
            put(&mut svg, format_args!(r#"<path class="line l{}" d="{path}"/>"#, at % 3));
        }
        svg += "</svg>\n";
        svg
    }
}

/// Where a value is, between two ends.
struct Scale {
    place: fn(f64) -> f64,
    least: f64,
    most: f64,
    left: f64,
    right: f64,
    ticks: Vec<f64>,
}

impl Scale {
    fn linear(most: f64, left: f64, right: f64) -> Self {
        let most = if most > 0.0 { most } else { 1.0 };
        let rough = most / 6.0;
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|one| one * power);
        let step = step.into_iter().find(|step| *step >= rough).unwrap_or(power);
        let count = (most / step).ceil() as usize;
        let ticks: Vec<f64> = (0..=count).map(|at| at as f64 * step).collect();
        Self { place: |value| value, least: 0.0, most: count as f64 * step, left, right, ticks }
    }

    fn log(least: f64, most: f64, left: f64, right: f64) -> Self {
        let (low, high) = (least.log10().floor() as i32, (most.log10().ceil() as i32).max(1));
        let ticks = (low..=high).map(|power| 10_f64.powi(power)).collect();
        Self { place: f64::log10, least: f64::from(low), most: f64::from(high), left, right, ticks }
    }

    fn at(&self, value: f64) -> f64 {
        let share = ((self.place)(value) - self.least) / (self.most - self.least);
        self.left + share * (self.right - self.left)
    }

    fn draw_below(&self, svg: &mut String, top: f64, bottom: f64, name: &str) {
        for tick in &self.ticks {
            let x = self.at(*tick);
            put(svg, format_args!(r#"<path class="grid" d="M{x:.1} {top:.1}V{bottom:.1}"/>"#));
            text(svg, x, bottom + 16.0, "small", "middle", &short(*tick));
        }
        let (left, right) = (self.left, self.right);
        put(svg, format_args!(r#"<path class="axis" d="M{left} {bottom:.1}H{right}"/>"#));
        text(svg, (left + right) / 2.0, bottom + 36.0, "small", "middle", name);
    }
}

fn begin(title: &str, height: f64) -> String {
    let mut svg = String::new();
    put(
        &mut svg,
        format_args!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img">"#
        ),
    );
    svg += STYLE;
    put(&mut svg, format_args!("<title>{}</title>", escaped(title)));
    put(&mut svg, format_args!(r#"<rect class="ground" width="{WIDTH}" height="{height}"/>"#));
    text(&mut svg, 12.0, 22.0, "title", "start", title);
    svg
}

fn text(svg: &mut String, x: f64, y: f64, class: &str, anchor: &str, words: &str) {
    let words = escaped(words);
    put(
        svg,
        format_args!(
            r#"<text class="{class}" x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{words}</text>"#
        ),
    );
}

fn put(svg: &mut String, what: std::fmt::Arguments<'_>) {
    svg.write_fmt(what).expect("a text has room");
    svg.push('\n');
}

fn escaped(words: &str) -> String {
    words.replace('&', "&amp;").replace('<', "&lt;")
}

/// Three digits that count.
pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        small if small < 0.001 => format!("{value:.6}"),
        small if small < 1.0 => format!("{value:.3}").trim_end_matches('0').to_owned(),
        small if small < 10.0 => {
            format!("{value:.2}").trim_end_matches(['0']).trim_end_matches('.').to_owned()
        }
        small if small < 100.0 => format!("{value:.1}").trim_end_matches(".0").to_owned(),
        small if small < 10_000.0 => format!("{value:.0}"),
        small if small < 1e6 => format!("{:.0} k", value / 1e3),
        _ => format!("{:.1} M", value / 1e6),
    }
}
