//! The bytes of the file of quotas: a header, and slots of the same size behind it, each with one
//! mark and its checksum. Knows no file.

use keygate_core::UnixMillis;
use keygate_core::limit::Unit;
use keygate_core::limit::terms::{Party, Share};

/// In bytes, of the header too. A disk's sector holds whole slots only, so none is ever half written
/// by a disk that writes whole sectors.
pub(super) const SLOT_BYTES: usize = 64;
/// The newest format that is read here.
pub(super) const FORMAT: u32 = 1;

pub(super) type Slot = [u8; SLOT_BYTES];

pub(super) const UNITS: [Unit; 5] =
    [Unit::Second, Unit::Minute, Unit::Hour, Unit::Day, Unit::Month];

/// Everything little-endian, and zeros in between.
mod at {
    use std::ops::Range;

    pub(super) const MAGIC: Range<usize> = 0..16;
    pub(super) const FORMAT: Range<usize> = 16..20;

    /// Kind, share and unit.
    pub(super) const TAGS: Range<usize> = 0..3;
    pub(super) const ID: Range<usize> = 8..24;
    pub(super) const ENDS_AT: Range<usize> = 24..32;
    pub(super) const USED: Range<usize> = 32..40;

    pub(super) const SUMMED: Range<usize> = 0..60;
    pub(super) const SUM: Range<usize> = 60..64;
}

const MAGIC: [u8; 16] = *b"keygate quotas\r\n";
const BLANK: Slot = [0; SLOT_BYTES];
const KIND: u8 = 1;

/// Whose window of which unit: what no two slots are about.
///
/// Bytes, for there may be millions of these in memory and they pack better than what they stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct MarkId {
    share: u8,
    unit: u8,
    id: [u8; 16],
}

impl MarkId {
    pub(super) const fn new(party: Party, unit: Unit) -> Self {
        let share = match party.share() {
            Share::Key => 1,
            Share::App => 2,
            Share::Account => 3,
        };
        let unit = match unit {
            Unit::Second => 1,
            Unit::Minute => 2,
            Unit::Hour => 3,
            Unit::Day => 4,
            Unit::Month => 5,
        };
        Self { share, unit, id: party.id() }
    }

    /// The id of whom it is about.
    pub(super) const fn party(&self) -> &[u8; 16] {
        &self.id
    }

    fn is_known(&self) -> bool {
        matches!((self.share, self.unit), (1..=3, 1..=5))
    }
}

/// What a window's use is at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) ends_at: UnixMillis,
    pub(super) used: u64,
}

/// What a slot of a file holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Held {
    Nothing,
    Mark(MarkId, Mark),
    /// It was torn, or somebody else wrote it.
    Garbage,
}

pub(super) fn encode(id: &MarkId, mark: Mark) -> Slot {
    let mut slot = BLANK;
    put(&mut slot, at::TAGS, &[KIND, id.share, id.unit]);
    put(&mut slot, at::ID, &id.id);
    put(&mut slot, at::ENDS_AT, &mark.ends_at.0.to_le_bytes());
    put(&mut slot, at::USED, &mark.used.to_le_bytes());
    seal(slot)
}

pub(super) const fn blank() -> Slot {
    BLANK
}

pub(super) fn decode(slot: &Slot) -> Held {
    if *slot == BLANK {
        return Held::Nothing;
    }
    let [kind, share, unit] = take(slot, at::TAGS);
    let id = MarkId { share, unit, id: take(slot, at::ID) };
    if !is_sealed(slot) || kind != KIND || !id.is_known() {
        return Held::Garbage;
    }
    let ends_at = UnixMillis(u64::from_le_bytes(take(slot, at::ENDS_AT)));
    Held::Mark(id, Mark { ends_at, used: u64::from_le_bytes(take(slot, at::USED)) })
}

pub(super) fn header() -> Slot {
    header_of(FORMAT)
}

pub(super) fn header_of(format: u32) -> Slot {
    let mut header = BLANK;
    put(&mut header, at::MAGIC, &MAGIC);
    put(&mut header, at::FORMAT, &format.to_le_bytes());
    seal(header)
}

/// What the first bytes of a file say about it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Header {
    Ours(u32),
    /// Of a file that was just being made.
    Unwritten,
    Damaged,
    Foreign,
}

/// Reads the header of a file that begins like this and has so many bytes. `start` is all of a file
/// that is not longer than a header.
pub(super) fn read_header(start: &[u8], length: u64) -> Header {
    let whole = Slot::try_from(start);
    let (ours, is_blank) = (header(), start.iter().all(|&byte| byte == 0));
    // A header is on the disk before anything is written behind it.
    let is_alone = length <= SLOT_BYTES as u64;
    if (is_blank && is_alone) || (whole.is_err() && ours.starts_with(start)) {
        return Header::Unwritten;
    }
    if !start.starts_with(&MAGIC) {
        return Header::Foreign;
    }
    match whole {
        Ok(header) if is_sealed(&header) => {
            Header::Ours(u32::from_le_bytes(take(&header, at::FORMAT)))
        }
        Ok(_) | Err(_) => Header::Damaged,
    }
}

fn seal(mut slot: Slot) -> Slot {
    let sum = sum(&slot);
    put(&mut slot, at::SUM, &sum.to_le_bytes());
    slot
}

fn is_sealed(slot: &Slot) -> bool {
    u32::from_le_bytes(take(slot, at::SUM)) == sum(slot)
}

fn sum(slot: &Slot) -> u32 {
    crc32fast::hash(&slot[at::SUMMED])
}

fn put(slot: &mut Slot, place: std::ops::Range<usize>, bytes: &[u8]) {
    #[expect(clippy::indexing_slicing, reason = "within the slot")]
    slot[place].copy_from_slice(bytes);
}

fn take<const N: usize>(slot: &Slot, place: std::ops::Range<usize>) -> [u8; N] {
    let mut bytes = [0; N];
    #[expect(clippy::indexing_slicing, reason = "within the slot")]
    bytes.copy_from_slice(&slot[place]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> (MarkId, Mark) {
        let party = Party::from_parts(Share::App, *b"0123456789abcdef");
        let mark = Mark { ends_at: UnixMillis(1_800_000_000_000), used: 77 };
        (MarkId::new(party, Unit::Day), mark)
    }

    #[test]
    fn a_slot_is_read_as_it_was_written() {
        let (id, mark) = example();
        assert_eq!(decode(&encode(&id, mark)), Held::Mark(id, mark));
        assert_eq!(decode(&blank()), Held::Nothing);
    }

    #[test]
    fn every_party_and_unit_has_an_id_of_its_own_that_can_be_read() {
        let mut seen = std::collections::HashSet::new();
        for share in [Share::Key, Share::App, Share::Account] {
            for unit in UNITS {
                let id = MarkId::new(Party::from_parts(share, [7; 16]), unit);
                assert!(id.is_known() && seen.insert(id), "{share:?} {unit:?}");
            }
        }
    }

    #[test]
    fn a_changed_bit_makes_a_slot_garbage() {
        let (id, mark) = example();
        for bit in 0..SLOT_BYTES * 8 {
            let mut slot = encode(&id, mark);
            slot[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&slot), Held::Garbage, "bit {bit}");
        }
    }

    #[test]
    fn a_whole_slot_of_an_unknown_kind_is_garbage() {
        let (id, mark) = example();
        for place in 0..3 {
            let mut slot = encode(&id, mark);
            slot[place] = 99;
            assert_eq!(decode(&seal(slot)), Held::Garbage);
        }
    }

    fn header_of_file(whole: &[u8]) -> Header {
        read_header(whole, whole.len() as u64)
    }

    #[test]
    fn a_header_that_was_being_written_is_told_from_one_that_is_broken() {
        let whole = header();
        assert_eq!(header_of_file(&whole), Header::Ours(FORMAT));
        for length in 0..SLOT_BYTES {
            assert_eq!(header_of_file(&whole[..length]), Header::Unwritten, "{length}");
            assert_eq!(header_of_file(&vec![0; length]), Header::Unwritten, "{length}");
        }
        assert_eq!(header_of_file(&BLANK), Header::Unwritten);
        assert_eq!(read_header(&BLANK, SLOT_BYTES as u64 + 1), Header::Foreign, "somebody's zeros");
        assert_eq!(header_of_file(&header_of(7)), Header::Ours(7));
        let mut torn = whole;
        torn[40..].fill(0);
        assert_eq!(header_of_file(&torn), Header::Damaged);
        assert_eq!(header_of_file(b"hello"), Header::Foreign);
        assert_eq!(header_of_file(&[7; SLOT_BYTES]), Header::Foreign);
    }
}
