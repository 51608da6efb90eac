//! `keygate store export` and `import`: all accounts, apps and keys as a file, straight from the
//! configured store and back. The pepper is not among them, and both say so.

mod export;
mod import;
mod read;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

use anyhow::Context;
use keygate_config::{Config, secrets};
use keygate_core::key::PepperId;
use keygate_store::backup::Counts;
use keygate_telemetry::logging;

use crate::cli::{Store, StoreCommand};
use crate::failure::{Exit, Failure};
use crate::stores::{self, IfMissing};
use crate::{clock, output, serve};

use self::import::{Outcome, Peppers, Terms, Whole};
use self::read::Source;

/// Records that are read from a store, or written to it, in one step.
const PART: usize = 500;

/// The path that stands for standard input and output.
const STANDARD: &str = "-";

pub(crate) fn run(options: &Store) -> Result<(), Failure> {
    let config = serve::load(&options.config)?;
    // Without it the store's own words about what is wrong are not heard; that is no reason to stop.
    if let Err(error) = logging::warn_on_stderr() {
        eprintln!("warning: {error}");
    }
    match &options.command {
        StoreCommand::Export { out } => serve::block_on(export(&config, out)),
        StoreCommand::Import { file, partial, other_pepper, dry_run } => {
            let source = Source::open(file)?;
            let whole = if *partial { Whole::IfItIs } else { Whole::Required };
            let peppers = match other_pepper {
                true => Peppers::Any,
                false => Peppers::Only(configured_peppers(&config)?),
            };
            let terms = Terms { whole, peppers, now: clock::now() };
            match dry_run {
                true => check(&config, source, &terms),
                false => serve::block_on(import(&config, source, &terms)),
            }
        }
    }
}

async fn export(config: &Config, out: &Path) -> Result<(), Failure> {
    let now = clock::now();
    let store = stores::open_for_command(config, now, IfMissing::Fail).await?;
    let counts = match out == Path::new(STANDARD) {
        true => export::to_stdout(&store, now).await?,
        false => export::to_file(&store, now, out).await?,
    };
    let pepper = config.keys.pepper_file.display();
    eprintln!(
        "exported {}\nThe pepper is not in it: copy {pepper} too, or no key in it will ever work.\n\
         What keys used and the audit log are not in it.",
        shown(counts)
    );
    Ok(())
}

fn check(config: &Config, source: Source, terms: &Terms) -> Result<(), Failure> {
    let contents = import::check(source, terms)?;
    eprintln!("can be imported: {}", shown(contents.counts));
    say_of_peppers(config, &contents.peppers)
}

async fn import(config: &Config, source: Source, terms: &Terms) -> Result<(), Failure> {
    // Nothing is written of a file that is not good to its end; only a stream is read once.
    let source = match source.again() {
        Some(again) => {
            import::check(source, terms)?;
            again?
        }
        None => source,
    };
    let store = stores::open_for_command(config, terms.now, IfMissing::Make).await?;
    let mut out = output::writer();
    let imported = import::all(&store, source, terms, &mut out).await;
    out.flush().context("cannot write to standard output")?;
    let Outcome { created, unchanged, different, peppers } = imported?;
    eprintln!("created {created}, unchanged {unchanged}, different {different}");
    say_of_peppers(config, &peppers)?;
    match different {
        0 => Ok(()),
        _ => {
            let why = format!(
                "{different} records differ from those in the store, which were left as they are"
            );
            Err(Failure::new(Exit::Differs, why))
        }
    }
}

/// Says whether the keys will work here.
fn say_of_peppers(config: &Config, needed: &BTreeSet<PepperId>) -> Result<(), Failure> {
    let there = configured_peppers(config)?;
    let missing: Vec<String> =
        needed.iter().filter(|id| !there.contains(id)).map(PepperId::to_string).collect();
    let file = config.keys.pepper_file.display();
    match missing.as_slice() {
        [] => eprintln!("The pepper is not in a backup; the keys in this one fit {file}."),
        missing => eprintln!(
            "The pepper is not in a backup, and keys in this one were made with another than is \
             configured here (id {}): copy it to {file} from where the backup was made, or they will \
             not work.",
            missing.join(", ")
        ),
    }
    Ok(())
}

fn configured_peppers(config: &Config) -> Result<Vec<PepperId>, Failure> {
    let keys = &config.keys;
    let mut ids = Vec::new();
    for file in std::iter::once(&keys.pepper_file).chain(&keys.previous_pepper_files) {
        let pepper = secrets::load_pepper(file).map_err(anyhow::Error::new)?;
        ids.extend(pepper.map(|pepper| pepper.id()));
    }
    Ok(ids)
}

fn shown(Counts { accounts, apps, keys }: Counts) -> String {
    format!("{accounts} accounts, {apps} apps, {keys} keys")
}

#[cfg(test)]
mod tests;
