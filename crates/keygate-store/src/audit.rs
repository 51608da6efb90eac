//! The chain of the audit log: each entry's link is the hash of the link before it, its number and its
//! text, so that an entry cannot be edited, taken out or moved without all links after it changing.
//! Whoever can write the whole store can make a new chain: keep a link elsewhere, and compare.

mod verify;

use std::fmt;
use std::str::FromStr;

use keygate_core::key::sha256;

pub use self::verify::{Finding, Verifier};
use crate::keys::ChangeNumber;

/// The hash that covers an entry and all before it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Link(pub [u8; 32]);

impl Link {
    /// What comes before the first entry of a chain: a new store's, or the first after entries that an
    /// older version wrote.
    pub const START: Self = Self([0; 32]);

    /// The link of the entry of this number and text, which comes after the one with this link. The
    /// text counts by its own hash: where the store's server makes links, between the requests of
    /// others, a long entry then costs it no more than a short one.
    #[must_use]
    pub fn next(self, number: ChangeNumber, bytes: &[u8]) -> Self {
        let parts = [self.0.as_slice(), &number.0.to_be_bytes(), &sha256(bytes)];
        Self(sha256(&parts.concat()))
    }
}

/// 64 hex digits.
impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text is not 64 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a link is 64 hex digits")]
pub struct NotALink;

impl FromStr for Link {
    type Err = NotALink;

    fn from_str(text: &str) -> Result<Self, NotALink> {
        crate::codec::digest_from_hex(text).map(|digest| Self(*digest.as_bytes())).ok_or(NotALink)
    }
}
