//! `keygate check FILE`: every problem of a configuration, found without touching anything else.

use std::path::Path;

use crate::failure::Failure;
use crate::output;

/// Says that the file is valid, with what may not be meant; or fails with everything wrong in it.
pub(crate) fn run(file: &Path) -> Result<(), Failure> {
    let config = keygate_config::load(file).map_err(Failure::Config)?;
    for warning in &config.warnings {
        eprintln!("warning: {warning}");
    }
    output::print(&format!("{} is valid\n", file.display()))
}
