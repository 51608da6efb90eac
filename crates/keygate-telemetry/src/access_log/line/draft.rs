//! Where a line is made before it is put to the others: of fixed size, so that what is short is put there
//! without a call.

use std::io::{self, Write};
use std::mem;

use super::LINE_BYTES_MAX;
use crate::access_log::record::LANE;

/// A small place that stays in the processor's cache. With a lane more than a line has, so that what is
/// copied with some more behind it finds room up to a line's end.
pub(super) struct Draft([u8; LINE_BYTES_MAX + LANE]);

impl Default for Draft {
    fn default() -> Self {
        Self([0; LINE_BYTES_MAX + LANE])
    }
}

impl Draft {
    /// All of it: what was drafted before is gone.
    #[inline]
    pub(super) fn room(&mut self) -> Room<'_> {
        Room { left: &mut self.0 }
    }

    /// What was written if so much room is left; nothing if it is no line, being too long.
    #[inline]
    pub(super) fn written(&self, left: usize) -> Option<&[u8]> {
        let written = self.0.get(..self.0.len().checked_sub(left)?)?;
        (left > 0 && written.len() <= LINE_BYTES_MAX).then_some(written)
    }
}

/// What is left of a draft. Nothing is, as soon as something had no room.
#[derive(Default)]
pub(super) struct Room<'a> {
    left: &'a mut [u8],
}

impl<'a> Room<'a> {
    /// Adds it, unless there is no room.
    #[inline]
    pub(super) fn put(&mut self, bytes: &[u8]) {
        if let Some((place, rest)) = mem::take(&mut self.left).split_at_mut_checked(bytes.len()) {
            place.copy_from_slice(bytes);
            self.left = rest;
        }
    }

    /// The same for what has a length that is known when this is compiled.
    #[inline]
    pub(super) fn put_all<const LENGTH: usize>(&mut self, bytes: &[u8; LENGTH]) {
        if let Some((place, rest)) = mem::take(&mut self.left).split_first_chunk_mut() {
            *place = *bytes;
            self.left = rest;
        }
    }

    /// Adds so many of them, and copies all: which takes one step where so many would take several.
    #[inline]
    pub(super) fn put_first<const ALL: usize>(&mut self, bytes: &[u8; ALL], length: usize) {
        const { assert!(ALL <= LANE) };
        let left = mem::take(&mut self.left);
        if let Some(place) = left.first_chunk_mut() {
            *place = *bytes;
            self.left = left.get_mut(length..).unwrap_or_default();
        }
    }

    /// How much there is.
    #[inline]
    pub(super) fn left(self) -> usize {
        self.left.len()
    }
}

impl Write for Room<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.put(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
