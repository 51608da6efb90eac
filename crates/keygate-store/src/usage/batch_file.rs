//! A batch as it lies in a file until the store has it, with what it means for the counters: the slots
//! that it was read from, and up to where. That such a file has its name is what makes its rows sealed.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv6Addr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use keygate_core::UnixMillis;

use super::records::{LastUse, UsageCounts, UsageRow};
use super::steps;
use super::tally::Totals;
use super::wire;

const MAGIC: &[u8; 8] = b"kg batch";
/// The newest format that is read here.
const FORMAT: u32 = 1;

/// What a batch holds, but for its source and number, which its file's place says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sealed {
    pub(super) minute: UnixMillis,
    pub(super) rows: Vec<UsageRow>,
    pub(super) slots: Vec<SealedSlot>,
}

/// Up to where a slot is in batches with this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SealedSlot {
    pub(super) generation: u64,
    pub(super) number: u32,
    pub(super) totals: Totals,
}

/// A file holds no batch that this version can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("it is damaged")]
    Damaged,
    #[error("it was written by a newer version")]
    Newer,
}

/// Writes a batch under its name: all of it, or nothing.
pub(super) fn write(path: &Path, sealed: &Sealed) -> io::Result<u64> {
    let bytes = encode(sealed);
    let partial = path.with_file_name("batch.partial");
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
    file.write_all(&bytes)?;
    drop(file);
    steps::pass();
    fs::rename(&partial, path)?;
    Ok(bytes.len() as u64)
}

pub(super) fn read(path: &Path) -> io::Result<Result<Sealed, Unreadable>> {
    Ok(decode(&fs::read(path)?))
}

fn encode(sealed: &Sealed) -> Vec<u8> {
    let mut body = Writer(Vec::new());
    body.u64(sealed.minute.0);
    // Rows come in the order of routes within a key, so names are looked for among few.
    let mut names: Vec<&Arc<str>> = sealed.rows.iter().map(|row| &row.route).collect();
    names.sort_unstable();
    names.dedup();
    body.count(names.len());
    for name in &names {
        body.text(name);
    }
    body.count(sealed.rows.len());
    for row in &sealed.rows {
        let name = names.binary_search(&&row.route).unwrap_or_default();
        body.row(row, name);
    }
    body.count(sealed.slots.len());
    for slot in &sealed.slots {
        body.u64(slot.generation);
        body.u32(slot.number);
        let Totals { requests, cost, bytes_in, bytes_out } = slot.totals;
        [requests, cost, bytes_in, bytes_out].into_iter().for_each(|total| body.u64(total));
    }
    let Writer(body) = body;
    let mut file = Writer(MAGIC.to_vec());
    file.u32(FORMAT);
    file.u32(crc32fast::hash(&body));
    let Writer(mut file) = file;
    file.extend_from_slice(&body);
    file
}

fn decode(bytes: &[u8]) -> Result<Sealed, Unreadable> {
    let mut file = Reader(bytes);
    let (magic, format, sum) = (file.take::<8>()?, file.u32()?, file.u32()?);
    match format {
        _ if magic != *MAGIC => return Err(Unreadable::Damaged),
        FORMAT if crc32fast::hash(file.0) == sum => {}
        newer if newer > FORMAT => return Err(Unreadable::Newer),
        _ => return Err(Unreadable::Damaged),
    }
    let minute = UnixMillis(file.u64()?);
    let names = file.list(Reader::text)?;
    let rows = file.list(|file| file.row(&names))?;
    let slots = file.list(|file| {
        Ok(SealedSlot {
            generation: file.u64()?,
            number: file.u32()?,
            totals: Totals {
                requests: file.u64()?,
                cost: file.u64()?,
                bytes_in: file.u64()?,
                bytes_out: file.u64()?,
            },
        })
    })?;
    if file.0.is_empty() { Ok(Sealed { minute, rows, slots }) } else { Err(Unreadable::Damaged) }
}

/// Everything little-endian, and counts before lists and texts.
struct Writer(Vec<u8>);

impl Writer {
    fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn u128(&mut self, value: u128) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn count(&mut self, count: usize) {
        // Rows, slots and names of one batch: thousands at most.
        self.u32(u32::try_from(count).unwrap_or(u32::MAX));
    }

    fn text(&mut self, text: &str) {
        self.count(text.len());
        self.0.extend_from_slice(text.as_bytes());
    }

    fn row(&mut self, row: &UsageRow, name: usize) {
        let UsageRow { key, route: _, counts, last } = row;
        self.u128(key.as_u128());
        self.count(name);
        for count in [counts.requests, counts.cost, counts.bytes_in, counts.bytes_out] {
            self.u64(count);
        }
        self.count(counts.refused.len());
        for &(code, count) in &counts.refused {
            self.u8(wire::number(code));
            self.u64(count);
        }
        let address = last.as_ref().and_then(|last| last.address);
        self.u8(u8::from(last.is_some()) + u8::from(address.is_some()));
        if let Some(last) = last {
            self.u64(last.at.0);
        }
        if let Some(address) = address {
            self.u128(match address {
                IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
                IpAddr::V6(address) => address.to_bits(),
            });
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Unreadable> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(Unreadable::Damaged)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u8(&mut self) -> Result<u8, Unreadable> {
        self.take().map(u8::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, Unreadable> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Unreadable> {
        self.take().map(u64::from_le_bytes)
    }

    fn u128(&mut self) -> Result<u128, Unreadable> {
        self.take().map(u128::from_le_bytes)
    }

    fn list<T>(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Result<T, Unreadable>,
    ) -> Result<Vec<T>, Unreadable> {
        let count = self.u32()?;
        (0..count).map(|_| item(self)).collect()
    }

    fn text(&mut self) -> Result<Arc<str>, Unreadable> {
        let length = usize::try_from(self.u32()?).unwrap_or(usize::MAX);
        let (text, rest) = self.0.split_at_checked(length).ok_or(Unreadable::Damaged)?;
        self.0 = rest;
        str::from_utf8(text).map(Arc::from).map_err(|_| Unreadable::Damaged)
    }

    fn row(&mut self, names: &[Arc<str>]) -> Result<UsageRow, Unreadable> {
        let key = wire::key_id(self.u128()?);
        let name = usize::try_from(self.u32()?).unwrap_or(usize::MAX);
        let route = names.get(name).map(Arc::clone).ok_or(Unreadable::Damaged)?;
        let counts = UsageCounts {
            requests: self.u64()?,
            cost: self.u64()?,
            bytes_in: self.u64()?,
            bytes_out: self.u64()?,
            refused: self.list(|file| {
                let code = wire::code(file.u8()?).map_err(|wire::Unknown| Unreadable::Newer)?;
                Ok((code, file.u64()?))
            })?,
        };
        let knows = self.u8()?;
        let at = if knows > 0 { Some(UnixMillis(self.u64()?)) } else { None };
        let address = match knows {
            2 => Some(IpAddr::V6(Ipv6Addr::from_bits(self.u128()?)).to_canonical()),
            _ => None,
        };
        let last = at.map(|at| LastUse { at, address, route: Some(Arc::clone(&route)) });
        Ok(UsageRow { key, route, counts, last })
    }
}

#[cfg(test)]
mod tests;
