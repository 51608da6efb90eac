//! Where a line is made before it is put to the others: of fixed size, so that what is short is put there
//! without a call.

use std::io::{self, Write};

use super::LINE_BYTES_MAX;

/// A line that is being made, if it has room.
pub(super) struct Draft {
    bytes: [u8; LINE_BYTES_MAX],
    length: usize,
    is_over: bool,
}

impl Default for Draft {
    fn default() -> Self {
        Self { bytes: [0; LINE_BYTES_MAX], length: 0, is_over: false }
    }
}

impl Draft {
    pub(super) fn clear(&mut self) {
        self.length = 0;
        self.is_over = false;
    }

    /// Adds it, unless there is no room.
    #[inline]
    pub(super) fn put(&mut self, bytes: &[u8]) {
        let end = self.length + bytes.len();
        if let Some(place) = self.bytes.get_mut(self.length..end) {
            place.copy_from_slice(bytes);
            self.length = end;
        } else {
            self.is_over = true;
        }
    }

    /// The same for what has a length that is known when this is compiled.
    #[inline]
    pub(super) fn put_all<const LENGTH: usize>(&mut self, bytes: &[u8; LENGTH]) {
        self.put_first(bytes, LENGTH);
    }

    /// Adds so many of them, and copies all: which takes one step where so many would take several.
    #[inline]
    pub(super) fn put_first<const ALL: usize>(&mut self, bytes: &[u8; ALL], length: usize) {
        let room = self.bytes.get_mut(self.length..).and_then(|room| room.first_chunk_mut());
        if let Some(place) = room {
            *place = *bytes;
            self.length += length;
        } else {
            self.is_over = true;
        }
    }

    /// Whether something had no room.
    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    pub(super) fn written(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl Write for Draft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.put(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
