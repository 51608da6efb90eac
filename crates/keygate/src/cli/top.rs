//! The words of the command that shows who calls most.

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use keygate_core::top::{Measure, Window};

use super::AdminOptions;

#[derive(Debug, Args)]
pub(crate) struct Top {
    /// Of the last minute, ten minutes or hour
    #[arg(long, default_value = "1m", value_parser = windows())]
    pub(crate) window: Window,
    /// What the keys are ordered by
    #[arg(long, default_value = "requests", value_parser = measures())]
    pub(crate) by: Measure,
    /// How many keys at most
    #[arg(long, value_name = "COUNT", default_value_t = 20, value_parser = clap::value_parser!(u8).range(1..=200))]
    pub(crate) limit: u8,
    /// Print one table and end, as is done anyway if the output is no terminal
    #[arg(long)]
    pub(crate) once: bool,
    #[command(flatten)]
    pub(crate) admin: AdminOptions,
}

fn windows() -> impl TypedValueParser<Value = Window> {
    PossibleValuesParser::new(Window::ALL.map(Window::as_str)).map(|word| {
        Window::ALL.into_iter().find(|window| window.as_str() == word).unwrap_or_default()
    })
}

fn measures() -> impl TypedValueParser<Value = Measure> {
    PossibleValuesParser::new(Measure::ALL.map(Measure::as_str)).map(|word| {
        Measure::ALL.into_iter().find(|measure| measure.as_str() == word).unwrap_or_default()
    })
}
