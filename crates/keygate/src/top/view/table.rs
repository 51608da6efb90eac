//! The keys, a line each: how loud now, how loud lately, how much of all.

use keygate_core::top::{Measure, Window};
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use super::super::figures::{bar, byte_rate, bytes, count, percent, rate, span, sparkline, whole};
use super::super::reading::{Key, Reading};
use super::Palette;

/// The widths of the columns: those that are always there, and what is left for the two that grow.
struct Columns {
    spark: usize,
    bar: usize,
    has_id: bool,
    has_account: bool,
}

const NUMBER: usize = 9;
const HINT: usize = 14;
const ID: usize = 31;
const ACCOUNT: usize = 32;
const SHARE: usize = 7;
/// Place, hint, rate, three counts, share, and the space around them.
const FIXED: usize = 4 + HINT + 11 + 3 * NUMBER + SHARE + 2;
/// With less than this for the line and the bar, ids are left out.
const LIVELY_MIN: usize = 24;
const SPARK_MAX: usize = 60;
const BAR_MAX: usize = 24;

impl Columns {
    fn of(width: usize) -> Self {
        let mut rest = width.saturating_sub(FIXED);
        let mut fits = |column: usize| {
            let fits = rest >= column + LIVELY_MIN;
            rest -= if fits { column } else { 0 };
            fits
        };
        let (has_id, has_account) = (fits(ID), fits(ACCOUNT));
        let bar = (rest * 2 / 5).min(BAR_MAX);
        Self { spark: (rest - bar).saturating_sub(1).min(SPARK_MAX), bar, has_id, has_account }
    }
}

pub(super) fn keys(
    frame: &mut Frame<'_>,
    area: Rect,
    reading: &Reading,
    selected: usize,
    palette: &Palette,
) {
    let columns = Columns::of(area.width.into());
    let by = reading.query.by;
    let mut lines = vec![caption(reading, palette), heads(&columns, by, palette)];
    let top_share = reading.answer.items.iter().map(|key| key.share).fold(0.0, f64::max);
    // What is selected stays in sight.
    let room = usize::from(area.height).saturating_sub(lines.len());
    let hidden = (selected + 1).saturating_sub(room);
    let rows = reading.answer.items.iter().enumerate().skip(hidden).take(room);
    lines.extend(rows.map(|(place, key)| {
        let row = Row { place, key, by, top_share, is_selected: place == selected };
        row.line(&columns, palette)
    }));
    if reading.answer.items.is_empty() {
        lines.push(Line::styled("      no requests with a known key in this window", palette.dim));
    }
    frame.render_widget(Paragraph::new(lines), area);
}

/// What is shown.
fn caption(reading: &Reading, palette: &Palette) -> Line<'static> {
    let answer = &reading.answer;
    let window = match reading.query.window {
        Window::Minute => "last minute",
        Window::TenMinutes => "last 10 minutes",
        Window::Hour => "last hour",
    };
    // The first requests are no hour's worth.
    let covers = span(whole(answer.seconds));
    let totals = format!(
        " ({covers})   {} requests, {} refused, {}",
        count(answer.totals.requests),
        count(answer.totals.refusals),
        bytes(answer.totals.bytes),
    );
    Line::from(vec![
        Span::styled(format!(" {window}"), palette.strong),
        Span::styled(totals, palette.dim),
    ])
}

fn heads(columns: &Columns, by: Measure, palette: &Palette) -> Line<'static> {
    let style = |of: Measure| if of == by { palette.chosen } else { palette.dim };
    let head = |name: &str, of: Measure| {
        let name = if of == by { format!("{name}▼") } else { name.to_owned() };
        Span::styled(format!("{name:>NUMBER$}"), style(of))
    };
    let plain = |text: String| Span::styled(text, palette.dim);
    let rate = match by {
        Measure::Requests => "REQ/S",
        Measure::Refusals => "REFUSED/S",
        Measure::Bytes => "BYTES/S",
    };
    let mut spans = vec![plain(format!("  # {:<HINT$}", "KEY"))];
    if columns.has_id {
        spans.push(plain(format!("{:<ID$}", "ID")));
    }
    if columns.has_account {
        spans.push(plain(format!("{:<ACCOUNT$}", "ACCOUNT")));
    }
    let lately = format!("LAST {} S", columns.spark);
    spans.push(plain(format!("{rate:>10} {lately:<width$}", width = columns.spark + 1)));
    spans.push(head("REQUESTS", Measure::Requests));
    spans.push(head("REFUSED", Measure::Refusals));
    spans.push(head("BYTES", Measure::Bytes));
    spans.push(plain(format!("{:>SHARE$}", "SHARE")));
    Line::from(spans)
}

struct Row<'a> {
    place: usize,
    key: &'a Key,
    by: Measure,
    top_share: f64,
    is_selected: bool,
}

impl Row<'_> {
    fn line(&self, columns: &Columns, palette: &Palette) -> Line<'static> {
        let key = self.key;
        let (mark, name) = match self.is_selected {
            true => ("▸", palette.chosen),
            false => (" ", Style::new()),
        };
        let mut spans = vec![
            Span::styled(format!("{mark}{:>2} ", self.place + 1), palette.dim),
            Span::styled(fitted(&key.hint, HINT), name),
        ];
        if columns.has_id {
            spans.push(Span::styled(fitted(&key.key_id, ID), palette.dim));
        }
        if columns.has_account {
            spans.push(Span::styled(fitted(&key.account_id, ACCOUNT), palette.dim));
        }
        let (now, style) = match self.by {
            Measure::Requests => (rate(key.rate()), palette.line),
            Measure::Refusals => (rate(key.rate()), palette.bad),
            Measure::Bytes => (byte_rate(key.rate()), palette.good),
        };
        spans.push(Span::styled(format!("{now:>10} "), palette.strong));
        spans.push(Span::styled(sparkline(&key.series, columns.spark), style));
        spans.push(Span::raw(" "));
        spans.push(self.number(Measure::Requests, count, palette));
        spans.push(self.number(Measure::Refusals, count, palette));
        spans.push(self.number(Measure::Bytes, bytes, palette));
        spans.push(Span::raw(format!("{:>SHARE$} ", percent(key.share))));
        let part = if self.top_share > 0.0 { key.share / self.top_share } else { 0.0 };
        spans.push(Span::styled(bar(part, columns.bar), palette.bar));
        Line::from(spans)
    }

    /// One of the counts; the one that the list is ordered by stands out.
    fn number(&self, of: Measure, text: fn(u64) -> String, palette: &Palette) -> Span<'static> {
        let value = self.key.counts.of(of);
        let mark = if self.key.error.of(of) > 0 { "≥" } else { "" };
        let style = match of {
            _ if of == self.by => palette.strong,
            Measure::Refusals if value > 0 => palette.warm,
            Measure::Requests | Measure::Refusals | Measure::Bytes => Style::new(),
        };
        Span::styled(format!("{:>NUMBER$}", format!("{mark}{}", text(value))), style)
    }
}

/// As wide as its column, with a space behind it.
fn fitted(text: &str, width: usize) -> String {
    let shown: String = text.chars().take(width - 1).collect();
    format!("{shown:<width$}")
}
