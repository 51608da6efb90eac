//! What a process that is gone has left behind: its counters become batches, and its batches are sent as
//! its own.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::batch_file;
use super::folder::Folder;
use super::outbox::{Files, Outbox};
use super::routes::Routes;
use super::seal::{self, Made};
use super::steps;
use super::tally::Tally;

/// Takes over all that nobody owns. A folder that cannot be taken over stays as it is. Blocks.
pub(super) fn adopt(root: &Path) -> io::Result<Vec<Outbox>> {
    let mut outboxes = Vec::new();
    for folder in Folder::adopt(root)? {
        let source = folder.source;
        match recover(folder) {
            Ok(outbox) => outboxes.push(outbox),
            Err(error) => tracing::error!(
                %error, source = format!("{:032x}", source.0),
                "what an earlier process has counted cannot be read: it stays where it is"
            ),
        }
    }
    Ok(outboxes)
}

/// May be broken off at any point, and done again.
pub(super) fn recover(folder: Folder) -> io::Result<Outbox> {
    let mut tallies = Vec::new();
    for generation in folder.tallies()? {
        tallies.extend(Tally::open(&folder.tally(generation), generation)?);
    }
    let tallies: Vec<&Tally> = tallies.iter().collect();
    let batches = folder.batches()?;
    for &number in &batches {
        // What is unreadable is seen again by who sends it.
        if let Ok(sealed) = batch_file::read(&folder.batch(number))? {
            seal::tell(&tallies, number, &sealed.slots);
        }
    }
    let last = tallies.iter().map(|tally| tally.number()).chain(batches).max().unwrap_or_default();
    if let Some(minute) = tallies.iter().map(|tally| tally.minute()).max() {
        let names = Routes::read(&folder.routes())?;
        let mut made = Made::default();
        seal::seal(&folder, &tallies, &names, minute, last, &mut made)?;
        for generation in folder.tallies()? {
            steps::pass();
            std::fs::remove_file(folder.tally(generation))?;
        }
    }
    let files = Files::default();
    for number in folder.batches()? {
        files.add(number - 1, number, folder.batch(number).metadata()?.len());
    }
    Ok(Outbox::new(Arc::new(folder), Arc::new(files)))
}
