//! What a process that is gone has left behind: its counters become batches, and its batches are sent as
//! its own.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::batch_file::{self, Unreadable};
use super::folder::{Folder, Stuck};
use super::outbox::{Files, Outbox};
use super::records::BATCH_ROWS_MAX;
use super::routes::Routes;
use super::seal::{self, Made};
use super::steps;
use super::tally::Tally;

/// What nobody owned, and is owned now.
pub(super) struct Recovered {
    pub(super) outbox: Outbox,
    /// Uses that had to be given up.
    pub(super) nameless: u64,
    /// Why there are counters yet that are in no batch, if there are. What is in batches is sent, and with
    /// the room that this makes the rest may be.
    pub(super) unsealed: Option<Stuck>,
}

/// A folder that nobody owned, and that is ours now.
pub(super) struct Taken {
    pub(super) folder: Folder,
    /// How many batches are there.
    pub(super) batches: u64,
    /// When the oldest of them was sealed, in seconds.
    pub(super) oldest: Option<u64>,
}

/// Takes all that nobody owns, and says what could not be taken. Blocks.
pub(super) fn take(root: &Path) -> (Vec<Taken>, Vec<Stuck>) {
    let (folders, stuck) = Folder::adopt(root);
    let taken = |folder: Folder| {
        // What fails here fails again when it is read, and is said then.
        let numbers = folder.batches().unwrap_or_default();
        let oldest = numbers.first().and_then(|&number| folder.sealed_at(number));
        Taken { folder, batches: numbers.len() as u64, oldest }
    };
    (folders.into_iter().map(taken).collect(), stuck)
}

/// Reads one folder, of whose batches the store has so many. May be broken off at any point, and done
/// again. Blocks.
///
/// # Errors
/// When it cannot be read now: it stays as it is.
pub(super) fn recover(folder: Folder, has: u64) -> Result<Recovered, Stuck> {
    let path = folder.path().to_owned();
    recover_all(folder, has).map_err(|error| Stuck { path, error })
}

fn recover_all(folder: Folder, has: u64) -> io::Result<Recovered> {
    let mut tallies = Vec::new();
    for generation in folder.tallies()? {
        tallies.extend(Tally::open(&folder.tally(generation), generation)?);
    }
    let tallies: Vec<&Tally> = tallies.iter().collect();
    let batches = folder.batches()?;
    for &number in &batches {
        match batch_file::read(&folder.batch(number))? {
            Ok(sealed) => seal::tell(&tallies, number, &sealed.slots),
            // A newer version knows what is in batches; to seal that again would double it.
            Err(why @ Unreadable::Newer) => return Err(io::Error::other(why)),
            // It is seen again by who sends it.
            Err(Unreadable::Damaged) => {}
        }
    }
    // A disk that lost what it was told last may know of fewer batches than the store has, which would take
    // none of those numbers again.
    let last = tallies.iter().map(|tally| tally.number()).chain(batches).fold(has, u64::max);
    let mut made = Made::default();
    let sealed = seal_rest(&folder, &tallies, last, &mut made);
    let unsealed = sealed.err().map(|error| Stuck { path: folder.path().to_owned(), error });
    let files = Files::default();
    for number in folder.batches()? {
        files.add(number - 1, number, folder.batch(number).metadata()?.len());
    }
    let outbox = Outbox::new(Arc::new(folder), Arc::new(files));
    Ok(Recovered { outbox, nameless: made.nameless, unsealed })
}

/// Makes batches of what is in none, and removes the counters.
fn seal_rest(folder: &Folder, tallies: &[&Tally], last: u64, made: &mut Made) -> io::Result<()> {
    let Some(minute) = tallies.iter().map(|tally| tally.minute()).max() else { return Ok(()) };
    let names = Routes::read(&folder.routes())?;
    seal::seal(folder, tallies, || names, (minute, BATCH_ROWS_MAX), last, made)?;
    for generation in folder.tallies()? {
        steps::pass();
        std::fs::remove_file(folder.tally(generation))?;
    }
    Ok(())
}
