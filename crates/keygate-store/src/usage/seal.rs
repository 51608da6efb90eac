//! Makes batches of what was counted since the last ones. One batch at a time becomes a file, and then its
//! slots are told; whoever finds the file after a crash tells them again, so that nothing is in two
//! batches, and what is in none stays counted.

use std::io;
use std::sync::Arc;

use keygate_core::{KeyId, UnixMillis};

use super::batch_file::{self, Sealed, SealedSlot};
use super::folder::Folder;
use super::records::{LastUse, UsageCounts, UsageRow};
use super::steps;
use super::tally::{RouteNumber, Slot, Tag, Tally, Totals};
use super::wire;

/// The files that a seal has made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Made {
    /// The number of the newest batch, new or not.
    pub(super) last: u64,
    pub(super) bytes: u64,
    pub(super) rows: usize,
    /// Uses whose route or refusal nobody can name: they are in no batch, and given up.
    pub(super) nameless: u64,
}

/// A slot that has counted what is in no batch, and how far it had when the seal began: what comes while
/// batches are written is the next minute's. There may be millions at a time, so it is no more than that
/// and what it takes to put them in order.
#[derive(Clone, Copy)]
struct Place {
    key: KeyId,
    tag: Tag,
    /// Which of the tallies that are sealed together.
    tally: u32,
    number: u32,
    totals: Totals,
}

/// What a slot has counted that is in no batch.
struct Unsealed<'a> {
    key: KeyId,
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
    (minute, rows_max): (UnixMillis, usize),
    last: u64,
    made: &mut Made,
) -> io::Result<()> {
    made.last = last;
    let mut places = Vec::new();
    for (tally, of) in (0..).zip(tallies) {
        places.extend(of.slots().filter_map(|slot| Place::of(tally, slot)));
    }
    let names = names();
    places.retain(|place| {
        let is_named = place.is_named(&names);
        if !is_named && let Some(one) = place.unsealed(tallies) {
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
    // By the route before the code that it was refused with: so are a tag's bits.
    places.sort_unstable_by_key(|one| (one.key, one.tag.bits(), one.tally));
    let mut chunks = places.chunk_by(|a, b| a.row() == b.row()).peekable();
    while chunks.peek().is_some() {
        let places = chunks.by_ref().take(rows_max).flatten();
        let slots: Vec<_> = places.filter_map(|place| place.unsealed(tallies)).collect();
        let rows = slots.chunk_by(|a, b| (a.key, a.tag.route()) == (b.key, b.tag.route()));
        let sealed = Sealed {
            minute,
            rows: rows.filter_map(|slots| row(slots, &names)).collect(),
            slots: slots.iter().map(Unsealed::sealed).collect(),
        };
        made.rows += sealed.rows.len();
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

impl Place {
    /// None if all that the slot has counted is in batches.
    fn of(tally: u32, (number, slot): (u32, Slot<'_>)) -> Option<Self> {
        let tag = slot.tag()?;
        let totals = slot.totals();
        let is_unsealed = totals.since(slot.sealed()) != Totals::default();
        is_unsealed.then(|| Self { key: slot.key(), tag, tally, number, totals })
    }

    fn row(&self) -> (KeyId, RouteNumber) {
        (self.key, self.tag.route())
    }

    fn is_named(&self, names: &[Arc<str>]) -> bool {
        names.get(self.tag.route().0 as usize).is_some() && self.tag.code().is_ok()
    }

    fn unsealed<'a>(&self, tallies: &[&'a Tally]) -> Option<Unsealed<'a>> {
        let Self { key, tag, number, totals, .. } = *self;
        let tally = *tallies.get(self.tally as usize)?;
        let (generation, slot) = (tally.generation, tally.slot(number)?);
        let since = totals.since(slot.sealed());
        Some(Unsealed { key, tag, generation, number, slot, totals, since })
    }
}

impl Unsealed<'_> {
    fn sealed(&self) -> SealedSlot {
        SealedSlot { generation: self.generation, number: self.number, totals: self.totals }
    }
}

/// One row of all the slots of one key and route. None of nothing, or of a route without a name.
fn row(slots: &[Unsealed<'_>], names: &[Arc<str>]) -> Option<UsageRow> {
    let first = slots.first()?;
    let route = names.get(first.tag.route().0 as usize)?;
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
