//! What the view looks like: the gateway above, its keys below. Draws what `state.rs` holds, and decides
//! nothing.

mod header;
mod table;
#[cfg(test)]
mod tests;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph};

use super::figures;
use super::reading::Reading;
use super::state::App;

/// The smallest window in which all is readable.
const WIDTH_MIN: u16 = 80;
const HEIGHT_MIN: u16 = 24;
/// In which the ids of a key, its app and its account are side by side.
const IDS_WIDTH: u16 = 104;

const HELP: [(&str, &str); 10] = [
    ("r f b", "order by requests, refusals (f), bytes"),
    ("← →", "the same, one after the other"),
    ("1 2 3", "the last minute, ten minutes, hour"),
    ("↑ ↓", "look at another key: its ids are below"),
    ("p", "pause, and go on"),
    ("?", "this, and back"),
    ("q", "quit; so do Esc and Ctrl-C"),
    ("", ""),
    ("≥", "at least so many: the gateway follows the loudest"),
    ("", "thousand keys and more, in bounded memory"),
];

/// What things look like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Palette {
    title: Style,
    dim: Style,
    strong: Style,
    chosen: Style,
    good: Style,
    bad: Style,
    warm: Style,
    line: Style,
    bar: Style,
}

impl Palette {
    pub(super) fn coloured() -> Self {
        let colour = |colour| Style::new().fg(colour);
        Self {
            title: Style::new().fg(Color::Black).bg(Color::Cyan).add_modifier(Modifier::BOLD),
            dim: colour(Color::DarkGray),
            strong: Style::new().add_modifier(Modifier::BOLD),
            chosen: colour(Color::Cyan).add_modifier(Modifier::BOLD),
            good: colour(Color::Green),
            bad: colour(Color::Red).add_modifier(Modifier::BOLD),
            warm: colour(Color::Yellow),
            line: colour(Color::Cyan),
            bar: colour(Color::Blue),
        }
    }

    /// No colours at all.
    pub(super) fn plain() -> Self {
        let (none, strong) = (Style::new(), Style::new().add_modifier(Modifier::BOLD));
        let title = Style::new().add_modifier(Modifier::REVERSED);
        Self {
            title,
            dim: none,
            strong,
            chosen: strong,
            good: none,
            bad: strong,
            warm: none,
            line: none,
            bar: none,
        }
    }
}

pub(super) fn draw(frame: &mut Frame<'_>, app: &App, palette: &Palette) {
    let area = frame.area();
    if area.width < WIDTH_MIN || area.height < HEIGHT_MIN {
        let why = format!(
            "This window is {}×{}: keygate top needs {WIDTH_MIN}×{HEIGHT_MIN}. (q quits)",
            area.width, area.height
        );
        frame.render_widget(Paragraph::new(why).wrap(ratatui::widgets::Wrap::default()), area);
        return;
    }
    let rows = [
        Constraint::Length(1),
        Constraint::Length(header::HEIGHT),
        Constraint::Min(3),
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(1),
    ];
    let [title, gauges, keys, clients, detail, foot] = Layout::vertical(rows).areas(area);
    header::title(frame, title, app, palette);
    header::gauges(frame, gauges, app, palette);
    match &app.reading {
        Some(reading) => {
            table::keys(frame, keys, reading, app.selected, palette);
            frame.render_widget(clients_line(reading, palette), clients);
        }
        None => {
            let waiting = Line::styled("  waiting for the gateway …", palette.dim);
            frame.render_widget(waiting, keys);
        }
    }
    frame.render_widget(detail_line(app, detail.width, palette), detail);
    frame.render_widget(foot_line(app, palette), foot);
    if app.is_helping {
        help(frame, area, palette);
    }
}

/// The addresses that are refused most without a key, as many as fit.
fn clients_line(reading: &Reading, palette: &Palette) -> Line<'static> {
    let mut spans = vec![Span::styled(" refused without a known key  ", palette.dim)];
    for client in &reading.answer.clients {
        spans.push(Span::styled(client.network.clone(), palette.warm));
        spans.push(Span::raw(format!(" {}   ", figures::count(client.refusals))));
    }
    if reading.answer.clients.is_empty() {
        spans.push(Span::styled("nobody", palette.dim));
    }
    Line::from(spans)
}

/// What is wrong, or whose the selected key is.
fn detail_line<'a>(app: &'a App, width: u16, palette: &Palette) -> Line<'a> {
    if let Some(trouble) = &app.trouble {
        let first = trouble.lines().next().unwrap_or_default();
        return Line::styled(format!(" ! {first}"), palette.bad);
    }
    let keys = app.reading.as_ref().map(|reading| reading.answer.items.as_slice());
    let Some(key) = keys.unwrap_or_default().get(app.selected) else { return Line::default() };
    let mut spans = vec![
        Span::styled(" ▸ ", palette.chosen),
        Span::styled(key.key_id.as_str(), palette.strong),
    ];
    let app_id = (width >= IDS_WIDTH).then_some(key.app_id.as_str());
    for id in app_id.into_iter().chain([key.account_id.as_str()]) {
        spans.extend([Span::styled(" of ", palette.dim), Span::raw(id)]);
    }
    Line::from(spans)
}

fn foot_line(app: &App, palette: &Palette) -> Line<'static> {
    let keys = [
        ("q", "quit"),
        ("r f b", "order"),
        ("1 2 3", "window"),
        ("↑↓", "look"),
        ("p", if app.is_paused { "go on" } else { "pause" }),
        ("?", "help"),
    ];
    let words = keys.into_iter().flat_map(|(key, what)| {
        [
            Span::styled(format!(" {key} "), palette.chosen),
            Span::styled(what, palette.dim),
            Span::raw(" "),
        ]
    });
    Line::from_iter(words)
}

fn help(frame: &mut Frame<'_>, area: Rect, palette: &Palette) {
    let lines = HELP.map(|(key, what)| {
        Line::from(vec![Span::styled(format!("  {key:<7}"), palette.chosen), Span::raw(what)])
    });
    let height = u16::try_from(lines.len()).unwrap_or_default() + 2;
    let [area] = Layout::vertical([Constraint::Length(height)])
        .flex(ratatui::layout::Flex::Center)
        .areas(area);
    let [area] = Layout::horizontal([Constraint::Length(64)])
        .flex(ratatui::layout::Flex::Center)
        .areas(area);
    frame.render_widget(Clear, area);
    let block = Block::bordered().title(" keygate top ").border_style(palette.line);
    frame.render_widget(Paragraph::new(lines.to_vec()).block(block), area);
}
