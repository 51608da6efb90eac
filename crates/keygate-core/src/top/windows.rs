//! The last minute, ten minutes and hour. Time is an argument, and a clock that is never set back.

use std::collections::VecDeque;
use std::hash::{BuildHasherDefault, RandomState};
use std::time::Duration;

use super::slot::{Clients, Keys, Slot};
use super::{
    CLIENTS_MAX, Counts, KEYS_MAX, Measure, SECOND_KEYS_MAX, SERIES_SECONDS, Sketch, TopClient,
    TopKey, TopList, TopQuery, Window,
};
use crate::id::KeyId;
use crate::time::UnixMillis;

/// What was counted lately. It takes memory as keys come: 31 slots are at most 18 MiB of keys and 4 MiB of
/// clients, the seconds 2 MiB. To be asked for a list takes up to 10 MiB for as long as that takes.
#[derive(Debug)]
pub struct Windows {
    hasher: RandomState,
    rings: [Ring; Window::ALL.len()],
    seconds: VecDeque<Second>,
    /// Until when all is counted.
    until: Duration,
    as_of: UnixMillis,
}

/// One window's slots, the one that runs last.
#[derive(Debug)]
struct Ring {
    slot_seconds: u64,
    whole_slots: u64,
    slots: VecDeque<(u64, Slot)>,
}

/// What the loudest keys did in one second, by their ids.
#[derive(Debug)]
struct Second {
    number: u64,
    keys: Vec<(KeyId, Counts)>,
}

impl Windows {
    /// Counts from time zero on. `hasher` is for what strangers can choose.
    #[must_use]
    pub fn new(hasher: RandomState) -> Self {
        let rings = Window::ALL.map(|window| {
            let (slot_seconds, whole_slots) = window.slots();
            Ring { slot_seconds, whole_slots, slots: VecDeque::new() }
        });
        let (until, as_of) = (Duration::ZERO, UnixMillis::default());
        Self { hasher, rings, seconds: VecDeque::new(), until, as_of }
    }

    /// Adds what was counted since the last time, at `now`, which people call `as_of`. To be called once
    /// a second, soon after the second has ended that was counted.
    pub fn add(&mut self, counted: &Slot, now: Duration, as_of: UnixMillis) {
        let ended = now.saturating_sub(HALF_A_SECOND).as_secs();
        (self.until, self.as_of) = (now, as_of);
        for ring in &mut self.rings {
            ring.add(ended, counted, &self.hasher);
        }
        if !counted.is_empty() {
            self.seconds.push_back(Second::new(ended, counted));
        }
        while self.seconds.front().is_some_and(|second| is_old(second.number, ended)) {
            self.seconds.pop_front();
        }
    }

    /// Those at the top.
    #[must_use]
    pub fn list(&self, query: TopQuery) -> TopList {
        let TopQuery { window, by, limit } = query;
        let now = self.until.saturating_sub(HALF_A_SECOND).as_secs();
        let Some(ring) = self.rings.get(window as usize) else { return TopList::default() };
        let (mut keys, mut clients, mut all) = self.nothing();
        for slot in ring.window(now) {
            keys.merge(&slot.keys);
            clients.merge(&slot.clients);
            all.add(slot.all);
        }
        let top_keys = keys.top(by.place(), limit).into_iter().map(|key| TopKey {
            id: key.key,
            who: key.with,
            counts: Counts::from_weights(key.seen()),
            missed: Counts::from_weights(keys.missed(key)),
            series: self.series(key.key, by, now),
        });
        let top_clients = clients.top(0, limit).into_iter().map(|client| {
            let ([refusals], [missed]) = (client.seen(), clients.missed(client));
            TopClient { network: client.key, refusals, missed }
        });
        TopList {
            as_of: self.as_of,
            covers: self.until.saturating_sub(Duration::from_secs(ring.begins(now))),
            all,
            missed_max: Counts::from_weights(keys.missed_max()),
            keys: top_keys.collect(),
            clients: top_clients.collect(),
        }
    }

    /// Room for all that the slots of one window can follow: a sum that lets nobody go.
    fn nothing(&self) -> (Keys, Clients, Counts) {
        let slots = self.rings.iter().map(|ring| ring.slots.len()).max().unwrap_or_default() + 1;
        let keys = Sketch::new(KEYS_MAX * slots, BuildHasherDefault::default());
        let clients = Sketch::new(CLIENTS_MAX * slots, self.hasher.clone());
        (keys, clients, Counts::default())
    }

    fn series(&self, key: KeyId, by: Measure, now: u64) -> Vec<u64> {
        let mut series = vec![0_u64; SERIES_SECONDS];
        for second in &self.seconds {
            let Ok(ago) = usize::try_from(now.saturating_sub(second.number)) else { continue };
            let place = SERIES_SECONDS.checked_sub(ago + 1);
            if let Some(sum) = place.and_then(|place| series.get_mut(place)) {
                *sum = sum.saturating_add(second.counts(key).of(by));
            }
        }
        series
    }
}

const HALF_A_SECOND: Duration = Duration::from_millis(500);

fn is_old(second: u64, now: u64) -> bool {
    now.saturating_sub(second) >= SERIES_SECONDS as u64
}

impl Ring {
    fn add(&mut self, second: u64, counted: &Slot, hasher: &RandomState) {
        let number = second / self.slot_seconds;
        while self.slots.front().is_some_and(|(old, _)| self.is_over(*old, number)) {
            self.slots.pop_front();
        }
        if counted.is_empty() {
            return;
        }
        if self.slots.back().is_none_or(|(last, _)| *last < number) {
            self.slots.push_back((number, Slot::new(hasher)));
        }
        if let Some((_, slot)) = self.slots.back_mut() {
            slot.merge(counted);
        }
    }

    fn is_over(&self, slot: u64, now: u64) -> bool {
        now.saturating_sub(slot) > self.whole_slots
    }

    /// The slots of the window, of which the last is the one of the second `now`.
    fn window(&self, now: u64) -> impl Iterator<Item = &Slot> {
        let now = now / self.slot_seconds;
        self.slots.iter().filter(move |(slot, _)| !self.is_over(*slot, now)).map(|(_, slot)| slot)
    }

    /// The second at which the window begins.
    fn begins(&self, now: u64) -> u64 {
        (now / self.slot_seconds).saturating_sub(self.whole_slots) * self.slot_seconds
    }
}

impl Second {
    fn new(number: u64, counted: &Slot) -> Self {
        let mut loudest: Keys = Sketch::new(SECOND_KEYS_MAX, BuildHasherDefault::default());
        loudest.merge(&counted.keys);
        let counts = |key: &super::Followed<KeyId, _, 3>| Counts::from_weights(key.seen());
        let mut keys: Vec<_> =
            loudest.followed().iter().map(|key| (key.key, counts(key))).collect();
        keys.sort_unstable_by_key(|(id, _)| *id);
        Self { number, keys }
    }

    fn counts(&self, key: KeyId) -> Counts {
        let found = self.keys.binary_search_by_key(&key, |(id, _)| *id).ok();
        found.and_then(|at| self.keys.get(at)).map(|(_, counts)| *counts).unwrap_or_default()
    }
}

#[cfg(test)]
impl Windows {
    pub(super) fn slots(&self) -> usize {
        self.rings.iter().map(|ring| ring.slots.len()).sum()
    }

    pub(super) fn series_length(&self) -> usize {
        self.seconds.len()
    }
}
