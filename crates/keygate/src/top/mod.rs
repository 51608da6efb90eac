//! `keygate top`: who calls a gateway most, live on a terminal, or once as a table or JSON.
//!
//! `feed.rs` asks the gateway on a thread of its own, `state.rs` is what is known and what keys do,
//! `view.rs` draws it. `screen.rs` is all that touches the terminal.

mod feed;
mod figures;
mod gauges;
mod reading;
mod screen;
mod state;
mod view;

use std::io::{self, IsTerminal};
use std::time::Duration;

use keygate_core::top::TopQuery;

use crate::cli::Top;
use crate::client::{Call, Client};
use crate::failure::{Failure, no_colours};
use crate::output::{self, Shape, Style};

/// How long one answer may take. A view that waits longer shows nothing that is so.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) fn run(top: &Top) -> Result<(), Failure> {
    let query = TopQuery { window: top.window, by: top.by, limit: top.limit.into() };
    let client = Client::new(&top.admin)?.with_patience(PATIENCE);
    let style = Style::of(&top.admin);
    let is_watched = io::stdin().is_terminal() && io::stdout().is_terminal();
    if is_watched && style == Style::Table && !top.once {
        let palette = if no_colours() { view::Palette::plain() } else { view::Palette::coloured() };
        return screen::run(client, query, palette);
    }
    let answer = client.send(&call(query))?;
    output::show(&answer, Shape::Top, style)
}

fn call(query: TopQuery) -> Call {
    let TopQuery { window, by, limit } = query;
    Call::get("/v1/top")
        .with("window", Some(window.as_str()))
        .with("by", Some(by.as_str()))
        .with("limit", Some(limit))
}
