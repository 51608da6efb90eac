//! `keygate check FILE`: every problem of a configuration, found without changing anything. If the
//! gateway that the file is for runs on this machine, it is asked what the file would take from it.

use std::path::Path;
use std::time::Duration;

use keygate_config::{Config, Inputs, Keys, secrets};

use crate::client::{Call, Client};
use crate::failure::Failure;
use crate::reload::pepper_files;
use crate::{clock, output, pepper};

/// How long the gateway may take to answer. Usually it is not asked for long: it is there or not.
const ASKING_MAX: Duration = Duration::from_secs(1);

/// Says that the file is valid, with what may not be meant; or fails with everything wrong in it.
pub(crate) fn run(file: &Path) -> Result<(), Failure> {
    let mut inputs = Inputs::default();
    let config = keygate_config::load_noting(file, &mut inputs).map_err(Failure::Config)?;
    pepper_files(&config.keys).for_each(|path| inputs.note_secret(path));
    let certificates = config.certificate_warnings(clock::now());
    let peppers = dropped_peppers(&config).unwrap_or_default();
    for warning in config.warnings.iter().chain(&certificates).chain(&peppers) {
        eprintln!("warning: {warning}");
    }
    output::print(&format!("{} is valid\n{}\n", file.display(), hash(&inputs)))
}

/// What a gateway will call it in `/v1/config`, if it reads the same.
fn hash(inputs: &Inputs) -> String {
    match inputs.missing() {
        None => format!("hash {}", inputs.hash()),
        Some(path) => format!("hash unknown: {} cannot be read here", path.display()),
    }
}

/// The peppers that live keys depend on and that the file does not name. Nothing if it cannot be told.
fn dropped_peppers(config: &Config) -> Option<Vec<String>> {
    let named = named(&config.keys)?;
    let client = Client::of(&config.admin, ASKING_MAX)?;
    let views = pepper::views(&client.send(&Call::get("/v1/peppers")).ok()?).ok()?;
    let dropped = views.iter().filter(|view| view.live_keys > 0 && !named.contains(&view.id));
    let warn = |view: &pepper::View| {
        let (keys, depend) = match view.live_keys {
            1 => ("1 live key".to_owned(), "depends"),
            count => (format!("{count} live keys"), "depend"),
        };
        format!(
            "{keys} {depend} on pepper {}, which is not among those of this file: add its file to \
             `previous_pepper_files`, or no such key works any more",
            output::printable(&view.id)
        )
    };
    Some(dropped.map(warn).collect())
}

/// The ids of the peppers that the file names, unless they cannot all be read here.
fn named(keys: &Keys) -> Option<Vec<String>> {
    pepper_files(keys)
        .map(|path| Some(secrets::load_pepper(path).ok()??.id().to_string()))
        .collect()
}
