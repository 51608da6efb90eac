//! The gateway as a whole: what it does, how fast, and whether it is well.

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use super::super::figures::{count, percent, rate, seconds, span, sparkline, whole};
use super::super::gauges::{Quantiles, Recent};
use super::super::state::App;
use super::Palette;

/// With an empty line above and below.
pub(super) const HEIGHT: u16 = 5;
const NAME_WIDTH: usize = 10;
/// What latencies and states need.
const RIGHT_WIDTH: u16 = 44;

/// Who it is, since when, and whether it is well.
pub(super) fn title(frame: &mut Frame<'_>, area: Rect, app: &App, palette: &Palette) {
    let mut left = vec![Span::styled(" keygate top ", palette.title), Span::raw(" ")];
    if let Some(reading) = &app.reading {
        left.push(Span::styled(reading.answer.gateway.clone(), palette.strong));
        left.push(Span::styled(format!("  up {}", span(reading.uptime())), palette.dim));
    }
    let mut right = Vec::new();
    if app.is_paused {
        right.push(Span::styled("paused", palette.warm));
    } else if app.trouble.is_some() {
        right.push(Span::styled("no answer", palette.bad));
    }
    if let Some(sample) = app.history.newest() {
        let mut state = |name: &str, is_up: Option<bool>| {
            let (word, style) = match is_up {
                Some(true) => ("up", palette.good),
                Some(false) => ("DOWN", palette.bad),
                None => ("?", palette.dim),
            };
            right.push(Span::styled(format!("   {name} "), palette.dim));
            right.push(Span::styled(word, style));
        };
        state("store", sample.store_up);
        state("link", sample.link_up);
    }
    if let Some(reading) = &app.reading {
        let time = reading.answer.as_of.strftime("%H:%M:%SZ");
        right.push(Span::styled(format!("   {time} "), palette.dim));
    }
    frame.render_widget(Line::from(left), area);
    frame.render_widget(Paragraph::new(Line::from(right)).alignment(Alignment::Right), area);
}

/// How much, how often in vain and why, and how fast.
pub(super) fn gauges(frame: &mut Frame<'_>, area: Rect, app: &App, palette: &Palette) {
    let rows = [Constraint::Length(1), Constraint::Min(0), Constraint::Length(1)];
    let [_, area, _] = Layout::vertical(rows).areas(area);
    let columns = [Constraint::Min(0), Constraint::Length(RIGHT_WIDTH)];
    let [left, right] = Layout::horizontal(columns).areas(area);
    let recent = app.history.recent();
    let (requests, refused) = app.history.rates();
    let now = |of: fn(&Recent) -> f64| {
        recent.as_ref().map_or_else(|| "-".to_owned(), |recent| format!("{}/s", rate(of(recent))))
    };
    let width = usize::from(left.width).saturating_sub(NAME_WIDTH + 15);
    let line = |name: &'static str, value: String, values: &[u64], style| {
        Line::from(vec![
            name_span(name, palette),
            Span::styled(format!("{value:>10}  "), palette.strong),
            Span::styled(sparkline(values, width), style),
        ])
    };
    let lines = vec![
        line("requests", now(|recent| recent.requests), &requests, palette.line),
        line("refused", now(|recent| recent.refused), &refused, palette.bad),
        reasons(recent.as_ref(), palette),
    ];
    frame.render_widget(Paragraph::new(lines), left);
    let recent = recent.unwrap_or_default();
    let cached = app.history.newest().map(|sample| (sample.cached, sample.in_flight));
    let (cached, in_flight) = cached.unwrap_or_default();
    let lines = vec![
        quantiles("latency", recent.request, palette),
        quantiles("decision", recent.decision, palette),
        Line::from(vec![
            name_span("cache", palette),
            Span::styled(recent.hit_ratio.map_or_else(|| "-".to_owned(), percent), palette.strong),
            Span::styled(format!(" of {} keys · ", count(whole(cached))), palette.dim),
            Span::styled(count(whole(in_flight)), palette.strong),
            Span::styled(" running", palette.dim),
        ]),
    ];
    frame.render_widget(Paragraph::new(lines), right);
}

fn name_span(name: &'static str, palette: &Palette) -> Span<'static> {
    Span::styled(format!(" {name:<width$}", width = NAME_WIDTH - 1), palette.dim)
}

/// Why requests are refused, the most frequent first, as many as fit.
fn reasons(recent: Option<&Recent>, palette: &Palette) -> Line<'static> {
    let mut spans = vec![name_span("", palette)];
    for (why, often) in recent.map(|recent| recent.reasons.as_slice()).unwrap_or_default() {
        spans.push(Span::styled(format!("{why} "), palette.warm));
        spans.push(Span::raw(format!("{}/s  ", rate(*often))));
    }
    Line::from(spans)
}

fn quantiles(name: &'static str, of: Quantiles, palette: &Palette) -> Line<'static> {
    let value = |value| Span::styled(format!("{:<9}", seconds(value)), palette.strong);
    Line::from(vec![
        name_span(name, palette),
        Span::styled("p50 ", palette.dim),
        value(of.half),
        Span::styled(" p99 ", palette.dim),
        value(of.p99),
    ])
}
