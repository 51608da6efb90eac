use std::time::{Duration, Instant};

use keygate_core::top::{Measure, TopQuery};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::style::Color;

use super::super::gauges::Sample;
use super::super::reading::example;
use super::*;

fn app(keys: u64, by: Measure) -> App {
    let query = TopQuery { by, limit: 20, ..TopQuery::default() };
    let mut app = App::new(query);
    let began = Instant::now();
    for second in 0..40_u64 {
        let (admitted, limited) = (second * second * 30, second * second * 3);
        let text = format!(
            "keygate_requests_total{{outcome=\"admitted\",route=\"a\"}} {admitted}\n\
             keygate_requests_total{{outcome=\"rate_limit_exceeded\",route=\"a\"}} {limited}\n\
             keygate_request_seconds_bucket{{route=\"a\",le=\"0.002\"}} {admitted}\n\
             keygate_decision_seconds_bucket{{le=\"0.0000004\"}} {admitted}\n\
             keygate_cache_hits_total {admitted}\nkeygate_cache_misses_total {second}\n\
             keygate_cache_entries 1024\nkeygate_inflight_requests 7\n\
             keygate_store_up 1\nkeygate_link_up 0\n"
        );
        let sample = Sample::read(&text, began + Duration::from_secs(second));
        app.told(Ok((example(keys, query), sample)));
    }
    app
}

fn drawn(app: &App, width: u16, height: u16, palette: Palette) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, app, &palette)).unwrap();
    terminal
}

fn text(app: &App, width: u16, height: u16) -> String {
    let terminal = drawn(app, width, height, Palette::coloured());
    let buffer = terminal.backend().buffer();
    let rows = buffer.content.chunks(width.into());
    rows.map(|row| row.iter().map(|cell| cell.symbol()).collect::<String>() + "\n").collect()
}

#[test]
fn a_window_of_any_sensible_size_shows_what_matters() {
    for (width, height) in [(80, 24), (100, 30), (120, 40), (200, 60), (500, 100)] {
        let shown = text(&app(20, Measure::Requests), width, height);
        let rows = usize::from(height).saturating_sub(11).min(20);
        for said in [
            "keygate top",
            "gw_0123456789abcdef",
            "up 2d 3h",
            "store up",
            "link DOWN",
            "03:04:05Z",
            "rate_limit_exceeded",
            "p99",
            "of 1,024 keys",
            "7 running",
            "last minute (1m 1s)",
            "REQUESTS▼",
            "sk_live_0000",
            &format!("sk_live_{:04}", rows - 1),
            "≥500k",
            "40.0%",
            "203.0.113.7 1,204",
            "key_00000000000000000000000000",
            "q quit",
            "? help",
            "acct_00000000000000000000000000",
        ] {
            assert!(shown.contains(said), "{said} is not there at {width}×{height}:\n{shown}");
        }
    }
}

#[test]
fn columns_are_under_their_heads() {
    for (width, by) in [(80, Measure::Bytes), (120, Measure::Requests), (180, Measure::Refusals)] {
        let shown = text(&app(5, by), width, 30);
        let lines: Vec<Vec<char>> = shown.lines().map(|line| line.chars().collect()).collect();
        let heads = lines.iter().position(|line| line.iter().collect::<String>().contains("SHARE"));
        let (heads, first) = (heads.unwrap(), heads.unwrap() + 1);
        let end = |line: usize, word: &str| {
            let line: String = lines[line].iter().collect();
            let at = line.find(word).unwrap_or_else(|| panic!("{word}: {line}"));
            line[..at].chars().count() + word.chars().count()
        };
        assert_eq!(end(heads, "SHARE"), end(first, "40.0%"), "{shown}");
        let bytes = if by == Measure::Bytes { "BYTES▼" } else { "BYTES" };
        assert_eq!(end(heads, bytes), end(first, "1.00 GB"), "{shown}");
    }
}

#[test]
fn a_window_that_is_too_small_says_so() {
    for (width, height) in [(79, 24), (80, 23), (20, 5), (1, 1)] {
        let shown = text(&app(20, Measure::Requests), width, height);
        assert!(!shown.contains("REQUESTS"), "{shown}");
        if width >= 79 {
            assert!(shown.contains("needs 80×24"), "{shown}");
        }
    }
}

#[test]
fn trouble_is_shown_over_what_was_known() {
    let mut app = app(3, Measure::Requests);
    app.told(Err("nothing listens at http://127.0.0.1:1".to_owned()));
    let shown = text(&app, 100, 30);
    for said in ["no answer", "! nothing listens at", "sk_live_0000"] {
        assert!(shown.contains(said), "{said}:\n{shown}");
    }
    let mut new = App::new(TopQuery::default());
    assert!(text(&new, 100, 30).contains("waiting for the gateway"));
    new.told(Err("Unauthorized: x (unauthorized)\n  more".to_owned()));
    assert!(text(&new, 100, 30).contains("! Unauthorized: x (unauthorized)"));
}

#[test]
fn what_is_selected_is_in_sight_and_help_is_in_front() {
    let mut app = app(20, Measure::Requests);
    app.selected = 19;
    let shown = text(&app, 80, 24);
    assert!(shown.contains("▸20 sk_live_0019"), "{shown}");
    app.is_helping = true;
    let shown = text(&app, 80, 24);
    assert!(shown.contains("quit; so do Esc and Ctrl-C"), "{shown}");
}

#[test]
fn without_colours_there_is_none() {
    let mut app = app(20, Measure::Refusals);
    app.is_helping = true;
    app.told(Err("x".to_owned()));
    let terminal = drawn(&app, 120, 40, Palette::plain());
    for cell in &terminal.backend().buffer().content {
        assert_eq!((cell.fg, cell.bg), (Color::Reset, Color::Reset), "{cell:?}");
    }
    let terminal = drawn(&app, 120, 40, Palette::coloured());
    assert!(terminal.backend().buffer().content.iter().any(|cell| cell.fg == Color::Cyan));
}
