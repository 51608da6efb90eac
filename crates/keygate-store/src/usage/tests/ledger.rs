//! A store of use that can be away, lose its answers, and lose what it has acknowledged.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use keygate_core::problem::Code;
use keygate_core::{KeyId, UnixMillis};

use crate::keys::StoreError;
use crate::usage::outbox::Sink;
use crate::usage::records::{Retention, SourceId, UsageBatch, UsageCounts, UsageRow};

pub(super) type Used = BTreeMap<(KeyId, String), UsageCounts>;

#[derive(Default)]
pub(super) struct Ledger(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    batches: BTreeMap<SourceId, Vec<UsageBatch>>,
    /// In the order in which they came.
    order: Vec<SourceId>,
    /// How many of them can be lost no more.
    settled: usize,
    mood: Mood,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Mood {
    #[default]
    Fine,
    /// It does what it is asked, and does not say so.
    Mute,
    Away,
}

fn unavailable() -> StoreError {
    StoreError::Unavailable("away".into())
}

impl Ledger {
    pub(super) fn be(&self, mood: Mood) {
        self.lock().mood = mood;
    }

    /// Nothing that it has can be lost any more.
    pub(super) fn settle(&self) {
        let mut inner = self.lock();
        inner.settled = inner.order.len();
    }

    /// Loses the last batches that it has, but for settled ones.
    pub(super) fn forget(&self, batches: usize) {
        let mut inner = self.lock();
        for _ in 0..batches {
            if inner.order.len() > inner.settled
                && let Some(source) = inner.order.pop()
            {
                inner.batches.get_mut(&source).unwrap().pop().unwrap();
            }
        }
    }

    pub(super) fn forget_all(&self) {
        *self.lock() = Inner::default();
    }

    pub(super) fn rows(&self) -> Vec<UsageRow> {
        let inner = self.lock();
        inner.batches.values().flatten().flat_map(|batch| batch.rows.clone()).collect()
    }

    pub(super) fn minutes(&self) -> Vec<UnixMillis> {
        self.lock().batches.values().flatten().map(|batch| batch.minute).collect()
    }

    pub(super) fn used(&self) -> Used {
        let mut used = Used::new();
        for row in self.rows() {
            let UsageCounts { requests, cost, bytes_in, bytes_out, refused } = row.counts;
            let counts = used.entry((row.key, row.route.to_string())).or_default();
            counts.requests += requests;
            counts.cost += cost;
            counts.bytes_in += bytes_in;
            counts.bytes_out += bytes_out;
            refused.into_iter().for_each(|(code, n)| add_refused(&mut counts.refused, code, n));
        }
        used
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }
}

pub(super) fn add_refused(refused: &mut Vec<(Code, u64)>, code: Code, count: u64) {
    match refused.binary_search_by_key(&(code as usize), |(code, _)| *code as usize) {
        Ok(place) => refused[place].1 += count,
        Err(place) => refused.insert(place, (code, count)),
    }
}

impl Sink for Ledger {
    async fn add(&self, batch: UsageBatch, _: Retention) -> Result<(), StoreError> {
        let mut inner = self.lock();
        if inner.mood == Mood::Away {
            return Err(unavailable());
        }
        let rows = &batch.rows;
        assert!(rows.len() <= crate::usage::records::BATCH_ROWS_MAX && !rows.is_empty());
        let is_one = |a: &UsageRow, b: &UsageRow| (a.key, &*a.route) < (b.key, &*b.route);
        let mut sorted: Vec<_> = rows.iter().collect();
        sorted.sort_by(|a, b| (a.key, &*a.route).cmp(&(b.key, &*b.route)));
        assert!(sorted.windows(2).all(|two| is_one(two[0], two[1])), "a row twice");
        let has = inner.batches.entry(batch.source).or_default();
        match batch.number.checked_sub(has.len() as u64) {
            Some(1) => {
                let source = batch.source;
                has.push(batch);
                inner.order.push(source);
            }
            None | Some(0) => {}
            Some(_) if batch.after_loss => {
                // The gap counts as numbers, and holds nothing.
                let (source, number) = (batch.source, batch.number);
                let gap = UsageBatch { rows: Vec::new(), ..batch.clone() };
                while (has.len() as u64) + 1 < number {
                    has.push(gap.clone());
                }
                has.push(batch);
                inner.order.push(source);
            }
            Some(_) => return Err(StoreError::Conflict),
        }
        if inner.mood == Mood::Mute { Err(unavailable()) } else { Ok(()) }
    }

    async fn number(&self, source: SourceId) -> Result<u64, StoreError> {
        let inner = self.lock();
        if inner.mood == Mood::Away {
            return Err(unavailable());
        }
        Ok(inner.batches.get(&source).map_or(0, |batches| batches.len() as u64))
    }
}
