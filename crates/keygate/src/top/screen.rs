//! The terminal while the view is on it. However the view ends, the terminal is as it was before.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use keygate_core::top::TopQuery;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use tokio::signal::unix::{SignalKind, signal};

use super::feed::Feed;
use super::state::{App, Next};
use super::view::{self, Palette};
use crate::client::Client;
use crate::failure::Failure;

/// How long a key is waited for before it is looked whether there is news.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long the view may take to end once a signal has asked for it.
const GONE_AFTER: Duration = Duration::from_secs(2);

/// Shows the view until somebody ends it.
pub(super) fn run(client: Client, query: TopQuery, palette: Palette) -> Result<(), Failure> {
    let is_ended = ended_by_signal().context("cannot catch signals")?;
    let feed = Feed::start(client, query).context("cannot start a thread")?;
    // Also restores the terminal when the program panics.
    let mut terminal = ratatui::try_init().context("cannot use the terminal")?;
    let shown = show(&mut terminal, &feed, query, &palette, &is_ended);
    let restored = ratatui::try_restore();
    shown.and(restored).context("the terminal failed")?;
    Ok(())
}

fn show(
    terminal: &mut DefaultTerminal,
    feed: &Feed,
    query: TopQuery,
    palette: &Palette,
    is_ended: &AtomicBool,
) -> io::Result<()> {
    let mut app = App::new(query);
    while !is_ended.load(Relaxed) {
        terminal.draw(|frame| view::draw(frame, &app, palette))?;
        if has_hung_up()? {
            return Ok(());
        }
        if event::poll(Duration::ZERO)? {
            let next = match event::read()? {
                Event::Key(key) => app.press(key),
                // What is drawn has the new size.
                Event::Resize(..)
                | Event::FocusGained
                | Event::FocusLost
                | Event::Mouse(_)
                | Event::Paste(_) => Next::Draw,
            };
            match next {
                Next::Draw => {}
                Next::Ask => feed.ask(app.query),
                Next::Quit => return Ok(()),
            }
        }
        while let Some(news) = feed.news() {
            app.told(news);
        }
    }
    Ok(())
}

/// Waits for a key, and says whether the terminal has gone away: `event::poll` would then never return.
fn has_hung_up() -> io::Result<bool> {
    let stdin = io::stdin();
    let mut waited = [PollFd::new(&stdin, PollFlags::IN)];
    let timeout = Timespec::try_from(LOOK_EVERY).map_err(io::Error::other)?;
    match poll(&mut waited, Some(&timeout)) {
        // A signal, such as that of another size.
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let gone = PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL;
    Ok(waited.iter().any(|waited| waited.revents().intersects(gone)))
}

/// Turns true at the first signal that asks for the end. Ctrl-C is a key here, and none of them.
fn ended_by_signal() -> io::Result<Arc<AtomicBool>> {
    let is_ended = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&is_ended);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let mut signals = runtime.block_on(async {
        let kinds = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
        kinds.into_iter().map(signal).collect::<io::Result<Vec<_>>>()
    })?;
    let wait = move || {
        runtime.block_on(std::future::poll_fn(|context| {
            let mut polls = signals.iter_mut().map(|signal| signal.poll_recv(context));
            match polls.any(|poll| poll.is_ready()) {
                true => std::task::Poll::Ready(()),
                false => std::task::Poll::Pending,
            }
        }));
        told.store(true, Relaxed);
        // Should the terminal go away while a key is read, nobody looks.
        thread::sleep(GONE_AFTER);
        std::process::exit(1);
    };
    thread::Builder::new().name("signals".to_owned()).spawn(wait)?;
    Ok(is_ended)
}
