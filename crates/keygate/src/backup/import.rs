//! Adds the records of a backup to a store, a part at a time. Done again, it changes nothing.

use std::collections::BTreeSet;
use std::io::Write;

use anyhow::Context;
use keygate_core::UnixMillis;
use keygate_core::key::PepperId;
use keygate_store::backup::Counts;
use keygate_store::keys::{Imported, KeyStore, StoredRecord};
use keygate_store::records::{AuditEntry, Key, KeyStatus};

use super::PART;
use super::read::{Records, Source};

/// A part of a backup ends after so many bytes too: a store writes it in one step, and serves nobody
/// else meanwhile.
const PART_BYTES: u64 = 1 << 20;

/// Whether a backup has to have its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whole {
    Required,
    /// Without it, what there is is taken.
    IfItIs,
}

/// What is asked of a backup.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    pub(super) whole: Whole,
    pub(super) peppers: Peppers,
    /// A key that has expired by now needs no pepper.
    pub(super) now: UnixMillis,
}

/// Those that live keys may have been made with.
#[derive(Clone, Debug)]
pub(super) enum Peppers {
    Any,
    Only(Vec<PepperId>),
}

impl Peppers {
    fn has(&self, id: PepperId) -> bool {
        match self {
            Self::Any => true,
            Self::Only(ids) => ids.contains(&id),
        }
    }
}

/// What is in a backup.
pub(super) struct Contents {
    pub(super) counts: Counts,
    /// Those that live keys in it need to work.
    pub(super) peppers: BTreeSet<PepperId>,
}

/// Reads all of a backup, and fails where an import would.
pub(super) fn check(source: Source, terms: &Terms) -> anyhow::Result<Contents> {
    let mut backup = Backup::new(source, terms);
    while backup.next()?.is_some() {}
    Ok(Contents { counts: backup.records.counts(), peppers: backup.needed })
}

/// What became of a backup.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) created: u64,
    pub(super) unchanged: u64,
    pub(super) different: u64,
    pub(super) peppers: BTreeSet<PepperId>,
}

/// Adds all of a backup to `store`. Writes the ids of records that the store holds otherwise, one a
/// line.
pub(super) async fn all(
    store: &impl KeyStore,
    source: Source,
    terms: &Terms,
    differing: &mut impl Write,
) -> anyhow::Result<Outcome> {
    let mut backup = Backup::new(source, terms);
    let mut outcome = Outcome::default();
    loop {
        let first = backup.records.line() + 1;
        let part = backup.next_part().with_context(|| match first {
            1 => "nothing was imported".to_owned(),
            _ => format!("imported up to line {}, and no further", first - 1),
        })?;
        if part.is_empty() {
            break;
        }
        let lines = format!("{} to {}", backup.records.place(first), backup.records.line());
        let imported = store.import(part, entry(terms.now)).await;
        let Imported { created, unchanged, different } = imported.with_context(|| {
            format!("{lines}: not imported (what came before is; run this again to go on)")
        })?;
        if unchanged > 0 {
            // It may be from a try before this one that was not durable.
            store.settle().await.with_context(|| {
                format!("{lines}: imported, but may be lost yet (run this again to go on)")
            })?;
        }
        outcome.created += created;
        outcome.unchanged += unchanged;
        for id in different {
            outcome.different += 1;
            writeln!(differing, "{id}").context("cannot write to standard output")?;
        }
    }
    outcome.peppers = backup.needed;
    Ok(outcome)
}

/// A backup being read, and held to what is asked of it.
struct Backup<'a> {
    records: Records,
    terms: &'a Terms,
    needed: BTreeSet<PepperId>,
}

impl<'a> Backup<'a> {
    fn new(source: Source, terms: &'a Terms) -> Self {
        Self { records: Records::of(source, terms.whole), terms, needed: BTreeSet::new() }
    }

    fn next(&mut self) -> anyhow::Result<Option<StoredRecord>> {
        let record = self.records.next()?;
        if let Some(StoredRecord::Key(key)) = &record
            && let Some(pepper) = key.pepper
            && is_live(key, self.terms.now)
        {
            anyhow::ensure!(
                self.terms.peppers.has(pepper),
                "{}: this key was made with a pepper that is not configured here (id {}) and would \
                 not work: copy that pepper to `[keys] pepper_file` or `previous_pepper_files` from \
                 where the backup was made, or import it all the same with --other-pepper",
                self.records.place(self.records.line()),
                pepper,
            );
            self.needed.insert(pepper);
        }
        Ok(record)
    }

    fn next_part(&mut self) -> anyhow::Result<Vec<StoredRecord>> {
        let mut part = Vec::with_capacity(PART);
        let end = self.records.bytes() + PART_BYTES;
        while part.len() < PART
            && self.records.bytes() < end
            && let Some(record) = self.next()?
        {
            part.push(record);
        }
        Ok(part)
    }
}

/// Whether anybody can use the key: one that is disabled may be enabled again.
fn is_live(key: &Key, now: UnixMillis) -> bool {
    let has_ended = key.expires_at.is_some_and(|end| end <= now);
    !has_ended && !matches!(key.status, KeyStatus::Revoked { .. })
}

/// One entry for each part, whose records have their own history elsewhere.
fn entry(at: UnixMillis) -> AuditEntry {
    AuditEntry {
        at,
        actor: "cli".into(),
        action: "store.import".into(),
        subject: "store".into(),
        hint: None,
        from: None,
        reason: None,
        refused: None,
        changes: serde_json::Map::new(),
    }
}
