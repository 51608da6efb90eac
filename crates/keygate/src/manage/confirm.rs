//! Asks before something is cut off. A script says `--yes`.

use std::io::{BufRead, IsTerminal, Read};

use anyhow::Context;

use crate::cli::Sure;
use crate::client::{Call, Client};
use crate::failure::{Exit, Failure};
use crate::output::printable;

/// The longest answer that is read.
const ANSWER_BYTES_MAX: u64 = 64;

/// Asks whether to do `what` to the record at `path`, which is shown by its name.
///
/// # Errors
/// [`Exit::Usage`] if there is nobody to ask; [`Exit::Refused`] if the answer is not yes.
pub(super) fn sure(sure: &Sure, client: &Client, what: &str, path: &str) -> Result<(), Failure> {
    if sure.yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        let why = format!("to {what} takes a yes: add --yes, where there is nobody to ask");
        return Err(Failure::new(Exit::Usage, why));
    }
    let record = client.send(&Call::get(path))?;
    let member = |name| record.get(name).and_then(serde_json::Value::as_str);
    let names: Vec<String> =
        ["hint", "name"].into_iter().filter_map(member).map(printable).collect();
    let called = if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) };
    eprint!("{what}{called}? [y/N] ");
    let mut line = String::new();
    let mut input = std::io::stdin().lock().take(ANSWER_BYTES_MAX);
    input.read_line(&mut line).context("cannot read the answer")?;
    if is_yes(&line) { Ok(()) } else { Err(Failure::new(Exit::Refused, "nothing was done")) }
}

fn is_yes(line: &str) -> bool {
    matches!(line.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_yes_is_a_yes() {
        assert!(["y\n", "Y", " yes \n"].into_iter().all(is_yes));
        assert!(!["", "\n", "n", "yep", "yes!"].into_iter().any(is_yes));
    }
}
