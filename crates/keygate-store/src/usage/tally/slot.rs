//! One slot of the tally: whose use of what it counts, how much that is, and how much of it is in
//! batches already. All of it only grows, so that a writer who comes late is never lost.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{
    AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
    fence,
};

use keygate_core::problem::Code;
use keygate_core::{KeyId, UnixMillis};
use vm_memory::{MmapRegion, VolatileMemory};

use crate::usage::wire;

/// Two lines of a processor's cache; nearly all that a request touches is in the first.
pub(super) const SLOT_BYTES: usize = 128;

/// The words of a slot. Those of the first line come first.
mod word {
    pub(super) const TAG: usize = 0;
    /// Two words, as is the address: the high one first.
    pub(super) const KEY: usize = 1;
    /// Four words: requests, cost, bytes in, bytes out.
    pub(super) const TOTALS: usize = 3;
    pub(super) const LAST: usize = 7;
    /// As many as the totals: what of them is in batches.
    pub(super) const SEALED: usize = 8;
    /// Odd while the address is being written.
    pub(super) const ADDRESS_VERSION: usize = 12;
    pub(super) const ADDRESS: usize = 13;
}

/// What a slot counts, besides whose use. Never zero, which is an unwritten slot's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::usage) struct Tag(u64);

const WRITTEN: u64 = 1 << 63;

impl Tag {
    /// The requests of a route that were admitted.
    pub(in crate::usage) const fn admitted(route: RouteNumber) -> Self {
        Self(WRITTEN | (route.0 as u64) << 8)
    }

    /// Those that were refused with this code.
    pub(in crate::usage) const fn refused(route: RouteNumber, code: Code) -> Self {
        Self(Self::admitted(route).0 | wire::number(code) as u64)
    }

    pub(in crate::usage) fn route(self) -> RouteNumber {
        RouteNumber(u32::try_from((self.0 & !WRITTEN) >> 8).unwrap_or(u32::MAX))
    }

    /// Why the requests were refused that it counts. None for those that were admitted; an error for a
    /// code that this version does not know.
    pub(in crate::usage) fn code(self) -> Result<Option<Code>, wire::Unknown> {
        match self.0.to_le_bytes() {
            [0, ..] => Ok(None),
            [number, ..] => wire::code(number).map(Some),
        }
    }

    pub(in crate::usage) const fn bits(self) -> u64 {
        self.0
    }
}

/// The number of a route's name among the names of one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteNumber(pub u32);

/// What a slot has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::usage) struct Totals {
    pub(in crate::usage) requests: u64,
    pub(in crate::usage) cost: u64,
    pub(in crate::usage) bytes_in: u64,
    pub(in crate::usage) bytes_out: u64,
}

impl Totals {
    const fn words(self) -> [u64; 4] {
        [self.requests, self.cost, self.bytes_in, self.bytes_out]
    }

    pub(in crate::usage) const fn since(self, sealed: Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(sealed.requests),
            cost: self.cost.saturating_sub(sealed.cost),
            bytes_in: self.bytes_in.saturating_sub(sealed.bytes_in),
            bytes_out: self.bytes_out.saturating_sub(sealed.bytes_out),
        }
    }
}

/// A slot in mapped memory.
#[derive(Clone, Copy)]
pub(in crate::usage) struct Slot<'a> {
    region: &'a MmapRegion,
    /// In bytes, within the region.
    at: usize,
}

impl<'a> Slot<'a> {
    pub(super) const fn new(region: &'a MmapRegion, at: usize) -> Self {
        Self { region, at }
    }

    /// What it counts, if it was written. What belongs to it can be read from then on.
    #[inline]
    pub(in crate::usage) fn tag(self) -> Option<Tag> {
        let tag = self.word(word::TAG).load(Acquire);
        (tag & WRITTEN != 0).then_some(Tag(tag))
    }

    #[inline]
    pub(in crate::usage) fn is_of(self, key: KeyId, tag: Tag) -> bool {
        self.tag() == Some(tag) && self.wide(word::KEY) == key.as_u128()
    }

    /// Gives an unwritten slot away. Whoever sees its tag sees all of this.
    pub(super) fn write(self, key: KeyId, tag: Tag) {
        self.set_wide(word::KEY, key.as_u128());
        self.word(word::TAG).store(tag.0, Release);
    }

    pub(in crate::usage) fn key(self) -> KeyId {
        wire::key_id(self.wide(word::KEY))
    }

    /// Counts one request. Whoever sees it sees what was noted of it before.
    #[inline]
    pub(in crate::usage) fn add_request(self, cost: u64) {
        self.word(word::TOTALS).fetch_add(1, Release);
        if cost != 0 {
            self.word(word::TOTALS + 1).fetch_add(cost, Relaxed);
        }
    }

    #[inline]
    pub(in crate::usage) fn add_bytes(self, bytes_in: u64, bytes_out: u64) {
        if bytes_in != 0 {
            self.word(word::TOTALS + 2).fetch_add(bytes_in, Relaxed);
        }
        if bytes_out != 0 {
            self.word(word::TOTALS + 3).fetch_add(bytes_out, Relaxed);
        }
    }

    /// Notes when and by whom the key was used. Who comes while somebody else notes an address does not
    /// wait: theirs is as new.
    #[inline]
    pub(in crate::usage) fn note_use(self, at: UnixMillis, address: IpAddr) {
        let last = self.word(word::LAST);
        if last.load(Relaxed) < at.0 {
            last.store(at.0, Relaxed);
        }
        let address = match address {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        if self.wide(word::ADDRESS) != address.to_bits() {
            self.note_address(address.to_bits());
        }
    }

    #[inline(never)]
    fn note_address(self, address: u128) {
        let version = self.word(word::ADDRESS_VERSION);
        let before = version.load(Relaxed);
        let is_free = before.is_multiple_of(2);
        if is_free && version.compare_exchange(before, before + 1, AcqRel, Relaxed).is_ok() {
            fence(Release);
            self.set_wide(word::ADDRESS, address);
            version.store(before + 2, Release);
        }
    }

    /// When it was last used, as far as it was.
    pub(in crate::usage) fn last(self) -> UnixMillis {
        UnixMillis(self.word(word::LAST).load(Relaxed))
    }

    /// Who used it last, unless that was just being written when its process was killed.
    pub(in crate::usage) fn address(self) -> Option<IpAddr> {
        const TRIES: usize = 8;
        let version = self.word(word::ADDRESS_VERSION);
        for _ in 0..TRIES {
            let before = version.load(Acquire);
            let address = self.wide(word::ADDRESS);
            fence(Acquire);
            if before.is_multiple_of(2) && version.load(Relaxed) == before {
                let is_known = before != 0;
                return is_known.then(|| IpAddr::V6(Ipv6Addr::from_bits(address)).to_canonical());
            }
        }
        None
    }

    pub(in crate::usage) fn totals(self) -> Totals {
        self.four(word::TOTALS)
    }

    /// What of the totals is in batches.
    pub(in crate::usage) fn sealed(self) -> Totals {
        self.four(word::SEALED)
    }

    /// Notes that so much is in batches. To be told the same again changes nothing.
    pub(in crate::usage) fn seal(self, totals: Totals) {
        for (place, total) in totals.words().into_iter().enumerate() {
            self.word(word::SEALED + place).fetch_max(total, Relaxed);
        }
    }

    fn four(self, first: usize) -> Totals {
        let read = |place| self.word(first + place).load(Acquire);
        Totals { requests: read(0), cost: read(1), bytes_in: read(2), bytes_out: read(3) }
    }

    #[inline]
    fn wide(self, first: usize) -> u128 {
        let (high, low) = (self.word(first).load(Relaxed), self.word(first + 1).load(Relaxed));
        u128::from(high) << 64 | u128::from(low)
    }

    fn set_wide(self, first: usize, value: u128) {
        let half = |value: u128| u64::try_from(value & u128::from(u64::MAX)).unwrap_or_default();
        self.word(first).store(half(value >> 64), Relaxed);
        self.word(first + 1).store(half(value), Relaxed);
    }

    #[inline]
    fn word(self, place: usize) -> &'a AtomicU64 {
        word_at(self.region, self.at + place * size_of::<u64>())
    }
}

/// The word at this many bytes from the beginning of a region.
#[inline]
pub(super) fn word_at(region: &MmapRegion, at: usize) -> &AtomicU64 {
    #[expect(clippy::expect_used, reason = "slots are made within their region, of whole words")]
    region.get_atomic_ref(at).expect("a word of the region")
}
