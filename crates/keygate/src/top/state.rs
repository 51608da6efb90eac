//! What the view knows, and what its keys do. Time and terminal are elsewhere.

use keygate_core::top::{Measure, TopQuery, Window};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::feed::News;
use super::gauges::History;
use super::reading::Reading;

#[derive(Debug, Default)]
pub(super) struct App {
    pub(super) query: TopQuery,
    pub(super) reading: Option<Reading>,
    pub(super) history: History,
    /// Why the gateway said nothing, if it did not.
    pub(super) trouble: Option<String>,
    pub(super) is_paused: bool,
    pub(super) is_helping: bool,
    /// The place of the key that is looked at.
    pub(super) selected: usize,
}

/// What is to be done after a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Draw,
    /// Ask for something else.
    Ask,
    Quit,
}

impl App {
    pub(super) fn new(query: TopQuery) -> Self {
        Self { query, ..Self::default() }
    }

    pub(super) fn press(&mut self, key: KeyEvent) -> Next {
        if key.kind == KeyEventKind::Release {
            return Next::Draw;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return if key.code == KeyCode::Char('c') { Next::Quit } else { Next::Draw };
        }
        #[expect(clippy::wildcard_enum_match_arm, reason = "most keys mean nothing")]
        match key.code {
            KeyCode::Char('q') => Next::Quit,
            // What is in front goes first.
            KeyCode::Esc if self.is_helping => self.help(false),
            KeyCode::Esc => Next::Quit,
            KeyCode::Char('?' | 'h') => self.help(!self.is_helping),
            KeyCode::Char('p' | ' ') => {
                self.is_paused = !self.is_paused;
                Next::Ask
            }
            KeyCode::Char('r') => self.order_by(Measure::Requests),
            KeyCode::Char('f') => self.order_by(Measure::Refusals),
            KeyCode::Char('b') => self.order_by(Measure::Bytes),
            KeyCode::Right | KeyCode::Tab => self.order_by(beside(&Measure::ALL, self.query.by, 1)),
            KeyCode::Left | KeyCode::BackTab => {
                self.order_by(beside(&Measure::ALL, self.query.by, Measure::ALL.len() - 1))
            }
            KeyCode::Char('1') => self.look_at(Window::Minute),
            KeyCode::Char('2') => self.look_at(Window::TenMinutes),
            KeyCode::Char('3') => self.look_at(Window::Hour),
            KeyCode::Up | KeyCode::Char('k') => self.select(self.selected.saturating_sub(1)),
            KeyCode::Down | KeyCode::Char('j') => self.select(self.selected.saturating_add(1)),
            KeyCode::Home => self.select(0),
            KeyCode::End => self.select(usize::MAX),
            _ => Next::Draw,
        }
    }

    /// The gateway has said something. Of what was asked before the last key, only trouble counts.
    pub(super) fn told(&mut self, news: News) {
        if self.is_paused {
            return;
        }
        match news {
            Ok((reading, sample)) => {
                self.trouble = None;
                self.history.add(sample);
                if reading.query == self.query {
                    self.reading = Some(reading);
                    self.select(self.selected);
                }
            }
            Err(why) => self.trouble = Some(why),
        }
    }

    fn help(&mut self, is_helping: bool) -> Next {
        self.is_helping = is_helping;
        Next::Draw
    }

    fn order_by(&mut self, by: Measure) -> Next {
        (self.query.by, self.selected, self.is_paused) = (by, 0, false);
        Next::Ask
    }

    fn look_at(&mut self, window: Window) -> Next {
        (self.query.window, self.selected, self.is_paused) = (window, 0, false);
        Next::Ask
    }

    fn select(&mut self, place: usize) -> Next {
        let rows = self.reading.as_ref().map_or(0, |reading| reading.answer.items.len());
        self.selected = place.min(rows.saturating_sub(1));
        Next::Draw
    }
}

/// The one so many places after it, in a ring.
fn beside(all: &[Measure], one: Measure, places: usize) -> Measure {
    let at = all.iter().position(|other| *other == one).unwrap_or_default();
    all.get((at + places) % all.len()).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::gauges::Sample;
    use super::super::reading::example;
    use super::*;

    fn press(app: &mut App, code: KeyCode) -> Next {
        app.press(KeyEvent::new(code, KeyModifiers::NONE))
    }

    #[test]
    fn keys_choose_the_order_and_the_window() {
        let mut app = App::new(TopQuery { limit: 20, ..TopQuery::default() });
        for (code, by) in [
            (KeyCode::Char('f'), Measure::Refusals),
            (KeyCode::Char('b'), Measure::Bytes),
            (KeyCode::Right, Measure::Requests),
            (KeyCode::Left, Measure::Bytes),
            (KeyCode::Char('r'), Measure::Requests),
        ] {
            assert_eq!((press(&mut app, code), app.query.by), (Next::Ask, by));
        }
        for (key, window) in [('2', Window::TenMinutes), ('3', Window::Hour), ('1', Window::Minute)]
        {
            let next = press(&mut app, KeyCode::Char(key));
            assert_eq!((next, app.query.window), (Next::Ask, window));
        }
        assert_eq!(app.query.limit, 20);
    }

    #[test]
    fn the_view_ends_by_q_escape_and_control_c() {
        let mut app = App::default();
        assert_eq!(press(&mut app, KeyCode::Char('q')), Next::Quit);
        assert_eq!(press(&mut app, KeyCode::Esc), Next::Quit);
        let control = |key| KeyEvent::new(KeyCode::Char(key), KeyModifiers::CONTROL);
        assert_eq!(app.press(control('c')), Next::Quit);
        assert_eq!(app.press(control('q')), Next::Draw);
        assert_eq!(press(&mut app, KeyCode::Char('?')), Next::Draw);
        assert_eq!((press(&mut app, KeyCode::Esc), app.is_helping), (Next::Draw, false));
        assert_eq!(press(&mut app, KeyCode::Esc), Next::Quit);
    }

    #[test]
    fn what_is_paused_stays_as_it_is() {
        let mut app = App::default();
        app.told(Ok((example(3, app.query), Sample::default())));
        press(&mut app, KeyCode::Char('p'));
        app.told(Ok((example(1, app.query), Sample::default())));
        app.told(Err("away".to_owned()));
        let rows = |app: &App| app.reading.as_ref().unwrap().answer.items.len();
        assert_eq!((rows(&app), app.trouble.clone()), (3, None));
        press(&mut app, KeyCode::Char('p'));
        app.told(Ok((example(1, app.query), Sample::default())));
        assert_eq!(rows(&app), 1);
    }

    #[test]
    fn trouble_is_told_beside_what_was_known_until_it_is_over() {
        let mut app = App::default();
        app.told(Ok((example(3, app.query), Sample::default())));
        app.told(Err("away".to_owned()));
        assert_eq!((app.trouble.as_deref(), app.reading.is_some()), (Some("away"), true));
        // An answer to what was asked before.
        let other = TopQuery { by: Measure::Bytes, ..app.query };
        app.told(Ok((example(1, other), Sample::default())));
        assert_eq!((app.trouble.clone(), app.reading.as_ref().unwrap().query), (None, app.query));
    }

    #[test]
    fn what_is_selected_is_there() {
        let mut app = App::default();
        press(&mut app, KeyCode::Down);
        assert_eq!(app.selected, 0);
        app.told(Ok((example(3, app.query), Sample::default())));
        press(&mut app, KeyCode::End);
        press(&mut app, KeyCode::Down);
        assert_eq!(app.selected, 2);
        app.told(Ok((example(2, app.query), Sample::default())));
        assert_eq!(app.selected, 1);
    }
}
