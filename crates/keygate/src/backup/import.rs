//! Adds the records of a backup to a store, a part at a time. Done again, it changes nothing.

use std::collections::BTreeSet;
use std::io::Write;

use anyhow::Context;
use keygate_core::UnixMillis;
use keygate_core::key::PepperId;
use keygate_store::backup::Counts;
use keygate_store::keys::{Imported, KeyStore, StoredRecord};
use keygate_store::records::{AuditEntry, KeyStatus};

use super::PART;
use super::read::{Records, Source};

/// Whether a backup has to have its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whole {
    Required,
    /// Without it, what there is is taken.
    IfItIs,
}

/// What is in a backup.
pub(super) struct Contents {
    pub(super) counts: Counts,
    /// Those that keys in it need to work.
    pub(super) peppers: Vec<PepperId>,
}

/// Reads all of a backup, and fails where an import would.
pub(super) fn check(source: Source, whole: Whole) -> anyhow::Result<Contents> {
    let mut records = Records::of(source, whole);
    let mut peppers = Peppers::default();
    while let Some(record) = records.next()? {
        peppers.note(&record);
    }
    Ok(Contents { counts: records.counts(), peppers: peppers.all() })
}

/// What became of a backup.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) created: u64,
    pub(super) unchanged: u64,
    pub(super) different: u64,
    pub(super) peppers: Vec<PepperId>,
}

/// Adds all of a backup to `store`. Writes the ids of records that the store holds otherwise, one a
/// line.
pub(super) async fn all(
    store: &impl KeyStore,
    source: Source,
    whole: Whole,
    now: UnixMillis,
    differing: &mut impl Write,
) -> anyhow::Result<Outcome> {
    let mut records = Records::of(source, whole);
    let mut peppers = Peppers::default();
    let mut outcome = Outcome::default();
    loop {
        let first = records.line() + 1;
        let part = next_part(&mut records, &mut peppers)?;
        if part.is_empty() {
            break;
        }
        let lines = format!("{} to {}", records.place(first), records.line());
        let imported = store.import(part, entry(now)).await;
        let Imported { created, unchanged, different } = imported.with_context(|| {
            format!("{lines}: not imported (what came before is; run this again to go on)")
        })?;
        outcome.created += created;
        outcome.unchanged += unchanged;
        for id in different {
            outcome.different += 1;
            writeln!(differing, "{id}").context("cannot write to standard output")?;
        }
    }
    // What was there already may be from a try before this one that was not durable.
    store.settle().await.context("all is imported, but may be lost yet: run this again")?;
    outcome.peppers = peppers.all();
    Ok(outcome)
}

fn next_part(records: &mut Records, peppers: &mut Peppers) -> anyhow::Result<Vec<StoredRecord>> {
    let mut part = Vec::with_capacity(PART);
    while part.len() < PART
        && let Some(record) = records.next()?
    {
        peppers.note(&record);
        part.push(record);
    }
    Ok(part)
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
    }
}

#[derive(Default)]
struct Peppers(BTreeSet<PepperId>);

impl Peppers {
    fn note(&mut self, record: &StoredRecord) {
        if let StoredRecord::Key(key) = record
            && !matches!(key.status, KeyStatus::Revoked { .. })
        {
            self.0.insert(key.pepper);
        }
    }

    fn all(self) -> Vec<PepperId> {
        self.0.into_iter().collect()
    }
}
