//! Makes batches of what was counted since the last ones. One batch at a time becomes a file, and then its
//! slots are told; whoever finds the file after a crash tells them again, so that nothing is in two
//! batches, and what is in none stays counted.

use std::io;
use std::sync::Arc;

use keygate_core::{KeyId, UnixMillis};

use super::batch_file::{self, Sealed, SealedSlot};
use super::folder::Folder;
use super::records::{BATCH_ROWS_MAX, LastUse, UsageCounts, UsageRow};
use super::steps;
use super::tally::{RouteNumber, Slot, Tag, Tally, Totals};
use super::wire;

/// The files that a seal has made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Made {
    /// The number of the newest batch, new or not.
    pub(super) last: u64,
    pub(super) bytes: u64,
    /// Uses whose route or refusal nobody can name: they are in no batch, and given up.
    pub(super) nameless: u64,
}

/// What a slot has counted that is in no batch.
struct Unsealed<'a> {
    key: KeyId,
    route: RouteNumber,
    tag: Tag,
    generation: u64,
    number: u32,
    slot: Slot<'a>,
    totals: Totals,
    since: Totals,
}

/// Puts all that is in no batch into batches after number `last`, as used within this minute. If it fails
/// midway, what it has made holds, and the rest is as before. The names are asked for when it is known what
/// was counted: then they are all there.
pub(super) fn seal(
    folder: &Folder,
    tallies: &[&Tally],
    names: impl FnOnce() -> Vec<Arc<str>>,
    minute: UnixMillis,
    last: u64,
    made: &mut Made,
) -> io::Result<()> {
    made.last = last;
    let mut unsealed: Vec<_> = tallies.iter().flat_map(|tally| unsealed_of(tally)).collect();
    let names = names();
    unsealed.retain(|one| {
        let is_named = one.is_named(&names);
        if !is_named {
            one.slot.seal(one.totals);
            made.nameless += one.since.requests;
        }
        is_named
    });
    if made.nameless > 0 {
        tracing::error!(
            source = format!("{:032x}", folder.source.0),
            requests = made.nameless,
            "requests were counted whose route, or refusal, is not known here: they are left out"
        );
    }
    unsealed.sort_unstable_by_key(|one| (one.key, one.route, one.tag.bits(), one.generation));
    let mut rows = unsealed.chunk_by(|a, b| (a.key, a.route) == (b.key, b.route)).peekable();
    while rows.peek().is_some() {
        let rows: Vec<_> = rows.by_ref().take(BATCH_ROWS_MAX).collect();
        let sealed = Sealed {
            minute,
            rows: rows.iter().filter_map(|slots| row(slots, &names)).collect(),
            slots: rows.iter().flat_map(|slots| slots.iter().map(Unsealed::sealed)).collect(),
        };
        let number = made.last + 1;
        made.bytes += batch_file::write(&folder.batch(number), &sealed)?;
        steps::pass();
        tell(tallies, number, &sealed.slots);
        made.last = number;
    }
    Ok(())
}

/// Tells counters what is in a batch. To be told twice changes nothing.
pub(super) fn tell(tallies: &[&Tally], number: u64, slots: &[SealedSlot]) {
    for tally in tallies {
        tally.set_number(number);
    }
    for sealed in slots {
        steps::pass();
        let tally = tallies.iter().find(|tally| tally.generation == sealed.generation);
        if let Some(slot) = tally.and_then(|tally| tally.slot(sealed.number)) {
            slot.seal(sealed.totals);
        }
    }
}

fn unsealed_of(tally: &Tally) -> impl Iterator<Item = Unsealed<'_>> {
    tally.slots().filter_map(|(number, slot)| {
        let tag = slot.tag()?;
        let totals = slot.totals();
        let since = totals.since(slot.sealed());
        (since != Totals::default()).then(|| Unsealed {
            key: slot.key(),
            route: tag.route(),
            tag,
            generation: tally.generation,
            number,
            slot,
            totals,
            since,
        })
    })
}

impl Unsealed<'_> {
    fn is_named(&self, names: &[Arc<str>]) -> bool {
        names.get(self.route.0 as usize).is_some() && self.tag.code().is_ok()
    }

    fn sealed(&self) -> SealedSlot {
        SealedSlot { generation: self.generation, number: self.number, totals: self.totals }
    }
}

/// One row of all the slots of one key and route. None of nothing, or of a route without a name.
fn row(slots: &[Unsealed<'_>], names: &[Arc<str>]) -> Option<UsageRow> {
    let first = slots.first()?;
    let route = names.get(first.route.0 as usize)?;
    let mut counts = UsageCounts::default();
    let mut last: Option<LastUse> = None;
    for one in slots {
        match one.tag.code() {
            Ok(None) => {
                counts.requests += one.since.requests;
                counts.cost = counts.cost.saturating_add(one.since.cost);
                counts.bytes_in = counts.bytes_in.saturating_add(one.since.bytes_in);
                counts.bytes_out = counts.bytes_out.saturating_add(one.since.bytes_out);
                let at = one.slot.last();
                if one.since.requests > 0 && last.as_ref().is_none_or(|last| last.at < at) {
                    let (address, route) = (one.slot.address(), Some(Arc::clone(route)));
                    last = Some(LastUse { at, address, route });
                }
            }
            Ok(Some(code)) => match counts.refused.iter_mut().find(|(of, _)| *of == code) {
                Some((_, count)) => *count += one.since.requests,
                None => counts.refused.push((code, one.since.requests)),
            },
            // It was left out before.
            Err(wire::Unknown) => {}
        }
    }
    counts.refused.sort_unstable_by_key(|(code, _)| *code as usize);
    Some(UsageRow { key: first.key, route: Arc::clone(route), counts, last })
}
