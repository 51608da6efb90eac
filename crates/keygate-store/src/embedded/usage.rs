//! What keys have used. By time first: what is written at one time lies together, and so does what has
//! become too old, which each batch takes away a part of. What is too old goes by a time of its own, so
//! that a clock which is wrong for a while takes nothing away.

use std::collections::BTreeMap;
use std::time::Duration;

use keygate_core::UnixMillis;
use redb::{Database, ReadableDatabase, ReadableTable, Table, WriteTransaction};

use super::tables::{
    LAST_USED, LAST_USES, META, META_USAGE_TIME, USAGE_DAYS, USAGE_HOURS, USAGE_MINUTES,
    USAGE_SOURCES, UsageKey, UsageTable, failed, seal_json, unreadable, unseal_json,
};
use super::write::begin;
use crate::codec::usage::{decode_counts, encode_counts, encode_last};
use crate::keys::StoreError;
use crate::usage::records::{
    LastUse, Retention, SourceId, Spender, Step, UsageBatch, UsageCounts, UsagePoint, UsageQuery,
};

/// What one batch takes away at most, besides twice what it has added: it has to stay a short write.
const PRUNED_MAX: usize = 500;

/// How much faster than real time the time goes after batches. More than once, so that it comes up with them
/// after a machine was off, also one that is off for most of the day.
const CATCH_UP: u32 = 10;

/// After so many rows, a few hundred microseconds of work, who waits for this core has it: the scheduler alone
/// would let a request wait for milliseconds.
const ROWS_AT_ONCE: usize = 16;

const NAME: &str = "usage";

/// Costs one write of the disk. So long ago, by a clock that nobody sets, was the batch before this, or the
/// store opened.
pub(super) fn add(
    db: &Database,
    batch: &UsageBatch,
    keep: &Retention,
    elapsed: Duration,
) -> Result<(), StoreError> {
    let transaction = begin(db)?;
    let time = time(&transaction, batch, elapsed)?;
    // Else the transaction ends here, with nothing to keep.
    if count(&transaction, batch, keep, time)? {
        let oldest = time.min(batch.minute).0;
        let sums = sums(batch);
        for step in Step::ALL {
            let mut table = transaction.open_table(table(step)).map_err(failed)?;
            if keep.of(step) > 0 {
                add_to(&mut table, step.start(batch.minute), &sums)?;
            }
            let over = oldest.saturating_sub(keep.of(step)).saturating_sub(step.millis());
            prune(&mut table, UnixMillis(over), PRUNED_MAX + 2 * sums.len())?;
        }
        note_uses(&transaction, batch)?;
        transaction.commit().map_err(failed)?;
    }
    Ok(())
}

pub(super) fn number(db: &Database, source: SourceId) -> Result<u64, StoreError> {
    let table = db.begin_read().map_err(failed)?.open_table(USAGE_SOURCES).map_err(failed)?;
    Ok(table.get(source.0).map_err(failed)?.map_or(0, |entry| entry.value().0))
}

pub(super) fn read(db: &Database, query: &UsageQuery) -> Result<Vec<UsagePoint>, StoreError> {
    let moment = db.begin_read().map_err(failed)?;
    let table = moment.open_table(table(query.step)).map_err(failed)?;
    let mut points = Vec::new();
    for &of in &query.of {
        for start in query.windows() {
            let (kind, id) = place_of(of);
            let from = query.route.as_deref().unwrap_or_default();
            for entry in table.range((start.0, kind, id, from)..).map_err(failed)? {
                let (key, sealed) = entry.map_err(failed)?;
                let (at, found_kind, found_id, route) = key.value();
                let is_named = query.route.as_deref().is_none_or(|wanted| wanted == route);
                if (at, found_kind, found_id) != (start.0, kind, id) || !is_named {
                    break;
                }
                let counts = unseal(key.value(), sealed.value())?;
                points.push(UsagePoint { of, start, route: route.into(), counts });
            }
        }
    }
    Ok(points)
}

/// Notes what the time is by now: it goes after the batches' minutes, and no faster than it may.
fn time(
    transaction: &WriteTransaction,
    batch: &UsageBatch,
    elapsed: Duration,
) -> Result<UnixMillis, StoreError> {
    let mut meta = transaction.open_table(META).map_err(failed)?;
    let before = meta.get(META_USAGE_TIME).map_err(failed)?.map(|time| time.value());
    let time = before.map_or(batch.minute, |time| follow(UnixMillis(time), batch.minute, elapsed));
    if before != Some(time.0) {
        meta.insert(META_USAGE_TIME, time.0).map_err(failed)?;
    }
    Ok(time)
}

fn follow(time: UnixMillis, minute: UnixMillis, elapsed: Duration) -> UnixMillis {
    let most = elapsed.saturating_mul(CATCH_UP).as_millis();
    let most = u64::try_from(most).unwrap_or(u64::MAX);
    UnixMillis(minute.0.clamp(time.0.saturating_sub(most), time.0.saturating_add(most)))
}

/// Notes that the store has this batch. False if it had.
fn count(
    transaction: &WriteTransaction,
    batch: &UsageBatch,
    keep: &Retention,
    time: UnixMillis,
) -> Result<bool, StoreError> {
    let mut sources = transaction.open_table(USAGE_SOURCES).map_err(failed)?;
    let (source, number) = (batch.source.0, batch.number);
    let found = sources.get(source).map_err(failed)?.map(|entry| entry.value().0);
    let had = found.unwrap_or(0);
    if number <= had {
        return Ok(false);
    }
    if number - had > 1 {
        if !batch.after_loss {
            return Err(StoreError::Conflict);
        }
        batch.log_loss(had);
    }
    sources.insert(source, (number, batch.minute.max(time).0)).map_err(failed)?;
    // Sources are as many as processes that were started: this is seldom.
    if found.is_none() {
        let over = batch.minute.min(time).0.saturating_sub(keep.of_sources());
        sources.retain(|_, (_, last)| last >= over).map_err(failed)?;
    }
    Ok(true)
}

type Sums<'a> = BTreeMap<(u8, u128, &'a str), UsageCounts>;

/// In the order in which they lie.
fn sums(batch: &UsageBatch) -> Sums<'_> {
    let mut sums = Sums::new();
    for row in &batch.rows {
        for of in [Spender::Everybody, Spender::Key(row.key)] {
            let (kind, id) = place_of(of);
            sums.entry((kind, id, &*row.route)).or_default().add(&row.counts);
        }
    }
    sums
}

fn add_to(
    table: &mut Table<'_, UsageKey, &'static [u8]>,
    start: UnixMillis,
    sums: &Sums<'_>,
) -> Result<(), StoreError> {
    for (at, (&(kind, id, route), sum)) in sums.iter().enumerate() {
        let_others_run(at);
        let key = (start.0, kind, id, route);
        let mut counts = match table.get(key).map_err(failed)? {
            Some(sealed) => unseal(key, sealed.value()).unwrap_or_else(|error| {
                // To fail would be to fail for ever, and to lose what comes after it, too.
                tracing::error!(%error, route, "use that was stored is damaged; it begins anew");
                UsageCounts::default()
            }),
            None => UsageCounts::default(),
        };
        counts.add(sum);
        let sealed = seal_json(NAME, &place(key), encode_counts(&counts).as_bytes());
        table.insert(key, sealed.as_slice()).map_err(failed)?;
    }
    Ok(())
}

/// Takes away what is of windows that began at `over` or before, the oldest first.
fn prune(
    table: &mut Table<'_, UsageKey, &'static [u8]>,
    over: UnixMillis,
    most: usize,
) -> Result<(), StoreError> {
    for at in 0..most {
        let_others_run(at);
        let first = table.first().map_err(failed)?;
        if first.is_none_or(|(key, _)| key.value().0 > over.0) {
            break;
        }
        table.pop_first().map_err(failed)?;
    }
    Ok(())
}

/// The time alone too, in the table that an older program reads and writes.
fn note_uses(transaction: &WriteTransaction, batch: &UsageBatch) -> Result<(), StoreError> {
    let mut times = transaction.open_table(LAST_USED).map_err(failed)?;
    let mut uses = transaction.open_table(LAST_USES).map_err(failed)?;
    for (at, (key, last)) in batch.last_uses().into_iter().enumerate() {
        let_others_run(at);
        let id = key.as_u128();
        let noted = times.get(id).map_err(failed)?.map(|noted| noted.value());
        if noted.is_none_or(|noted| noted < last.at.0) {
            times.insert(id, last.at.0).map_err(failed)?;
            let line = encode_last(last);
            let sealed = seal_json(LastUse::NAME, &id.to_be_bytes(), line.as_bytes());
            uses.insert(id, sealed.as_slice()).map_err(failed)?;
        }
    }
    Ok(())
}

fn let_others_run(row: usize) {
    if row.is_multiple_of(ROWS_AT_ONCE) {
        std::thread::yield_now();
    }
}

const fn table(step: Step) -> UsageTable {
    match step {
        Step::Minute => USAGE_MINUTES,
        Step::Hour => USAGE_HOURS,
        Step::Day => USAGE_DAYS,
    }
}

fn place_of(spender: Spender) -> (u8, u128) {
    match spender {
        Spender::Everybody => (0, 0),
        Spender::Key(key) => (1, key.as_u128()),
    }
}

/// What a checksum covers besides the counts.
fn place((start, kind, id, route): (u64, u8, u128, &str)) -> Vec<u8> {
    [&start.to_be_bytes(), [kind].as_slice(), &id.to_be_bytes(), route.as_bytes()].concat()
}

fn unseal(key: (u64, u8, u128, &str), sealed: &[u8]) -> Result<UsageCounts, StoreError> {
    decode_counts(unseal_json(NAME, &place(key), sealed)?).map_err(unreadable)
}

#[cfg(test)]
mod tests;
