//! Reads a log and says where it is not what was written. Knows no store: it is fed the entries.

use std::fmt;

use super::Link;
use crate::codec::Record;
use crate::keys::ChangeNumber;
use crate::records::{AuditEntry, Logged, Seal};

/// Takes a log's entries in their order. After a finding it goes on from the link that is stored, so
/// that one entry that was edited is one finding.
#[derive(Clone, Debug)]
pub struct Verifier {
    /// The number of the entry before. Unknown before the first one of a log whose beginning is not
    /// kept.
    before: Option<ChangeNumber>,
    /// What the next link follows, if that is known.
    link: Option<Link>,
    /// Whether an entry with a link came: from there on all have one.
    is_sealed: bool,
    /// The link of an entry as somebody kept it elsewhere.
    kept: Option<(ChangeNumber, Link)>,
    entries: u64,
}

impl Verifier {
    /// For a log from its first entry on, which has number 1.
    #[must_use]
    pub fn from_start() -> Self {
        let (before, link) = (Some(ChangeNumber(0)), Some(Link::START));
        Self { before, link, is_sealed: false, kept: None, entries: 0 }
    }

    /// For what is kept of a log whose oldest entries may have been dropped. The link of the first one
    /// is taken as it is, unless that has number 1.
    #[must_use]
    pub fn from_first_kept() -> Self {
        Self { before: None, link: None, ..Self::from_start() }
    }

    /// For the entries after the one of this number, which has this link.
    #[must_use]
    pub fn after(number: ChangeNumber, link: Link) -> Self {
        Self { before: Some(number), link: Some(link), is_sealed: true, ..Self::from_start() }
    }

    /// Compares with what was kept elsewhere, too: that the entry of this number has this link. It
    /// shows whether the whole chain was made anew.
    #[must_use]
    pub fn expecting(self, number: ChangeNumber, link: Link) -> Self {
        Self { kept: Some((number, link)), ..self }
    }

    /// The next entry. Gives what is wrong with it, and between it and the one before: mostly nothing.
    #[must_use]
    pub fn check(&mut self, logged: &Logged) -> Vec<Finding> {
        let number = logged.number;
        self.entries += 1;
        if let Some(before) = self.before.filter(|&before| number <= before) {
            return vec![Finding::OutOfOrder { number, before }];
        }
        if self.before.is_none() && number == FIRST {
            self.link = Some(Link::START);
        }
        let missing = self.missing_before(number);
        if missing.is_some() {
            self.link = None;
        }
        self.before = Some(number);
        let wrong = match &logged.seal {
            Some(seal) => self.check_seal(number, seal, &logged.entry),
            // What its link was is not known either.
            None if logged.entry.is_unreadable() => {
                self.link = None;
                Some(Finding::Unreadable { number })
            }
            None => self.pass_unsealed(number),
        };
        let link = logged.seal.as_ref().map(|seal| seal.link);
        let differs = self.kept.is_some_and(|(kept, was)| kept == number && link != Some(was));
        let differs = differs.then_some(Finding::NotAsKept { number });
        [missing, wrong, differs].into_iter().flatten().collect()
    }

    /// Says whether entries are missing at the end of the log, whose newest entry has the number
    /// `newest` as far as the caller knows.
    #[must_use]
    pub fn finish(&self, newest: ChangeNumber) -> Option<Finding> {
        let newest = self.kept.map_or(newest, |(kept, _)| newest.max(kept));
        self.before.or(Some(ChangeNumber(0))).and_then(|last| gap(last, newest.0.checked_add(1)?))
    }

    /// The newest entry so far and its link, if it has one: what to keep elsewhere.
    #[must_use]
    pub fn newest(&self) -> Option<(ChangeNumber, Link)> {
        let sealed = self.before.zip(self.link);
        sealed.filter(|&(number, link)| number >= FIRST && link != Link::START)
    }

    /// How many entries it was given.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.entries
    }

    fn missing_before(&self, number: ChangeNumber) -> Option<Finding> {
        self.before.and_then(|before| gap(before, number.0))
    }

    fn check_seal(
        &mut self,
        number: ChangeNumber,
        seal: &Seal,
        entry: &AuditEntry,
    ) -> Option<Finding> {
        let expected = self.link.replace(seal.link).map(|link| link.next(number, &seal.bytes));
        self.is_sealed = true;
        if entry.is_unreadable() {
            return Some(Finding::Unreadable { number });
        }
        if expected.is_some_and(|expected| expected != seal.link) {
            return Some(Finding::Altered { number });
        }
        let is_its_text = AuditEntry::decode(&seal.bytes).is_ok_and(|decoded| decoded == *entry);
        (!is_its_text).then_some(Finding::NotItsText { number })
    }

    /// A new chain begins after an entry without a link.
    fn pass_unsealed(&mut self, number: ChangeNumber) -> Option<Finding> {
        self.link = Some(Link::START);
        self.is_sealed.then_some(Finding::Unsealed { number })
    }
}

const FIRST: ChangeNumber = ChangeNumber(1);

/// What is missing between the entry of the number `before` and that of `number`.
fn gap(before: ChangeNumber, number: u64) -> Option<Finding> {
    let (from, to) = (before.0.checked_add(1)?, number.checked_sub(1)?);
    (from <= to).then_some(Finding::Missing { from: ChangeNumber(from), to: ChangeNumber(to) })
}

/// Something in a log that is not as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The entries of these numbers, both included.
    Missing { from: ChangeNumber, to: ChangeNumber },
    /// The entry does not come after the one before it.
    OutOfOrder { number: ChangeNumber, before: ChangeNumber },
    /// The link is not that of this text after the link before: the text was edited or is another
    /// entry's, or one of the two links was changed.
    Altered { number: ChangeNumber },
    /// What was read is not what the sealed text says.
    NotItsText { number: ChangeNumber },
    /// What is stored is no entry that can be read.
    Unreadable { number: ChangeNumber },
    /// The entry has no link, though one before it has. An older version wrote it, or its link was
    /// taken away.
    Unsealed { number: ChangeNumber },
    /// The entry has another link than the one that was kept elsewhere.
    NotAsKept { number: ChangeNumber },
}

impl Finding {
    /// Where it is.
    #[must_use]
    pub const fn number(&self) -> ChangeNumber {
        match *self {
            Self::Missing { from: number, .. }
            | Self::OutOfOrder { number, .. }
            | Self::Altered { number }
            | Self::NotItsText { number }
            | Self::Unreadable { number }
            | Self::Unsealed { number }
            | Self::NotAsKept { number } => number,
        }
    }

    /// Its name for programs.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "missing",
            Self::OutOfOrder { .. } => "out_of_order",
            Self::Altered { .. } => "altered",
            Self::NotItsText { .. } => "not_its_text",
            Self::Unreadable { .. } => "unreadable",
            Self::Unsealed { .. } => "unsealed",
            Self::NotAsKept { .. } => "not_as_kept",
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.number().0;
        match self {
            Self::Missing { to, .. } if to.0 == number => write!(f, "entry {number} is missing"),
            Self::Missing { to, .. } => write!(f, "entries {number} to {} are missing", to.0),
            Self::OutOfOrder { before, .. } => write!(f, "entry {number} comes after {}", before.0),
            Self::Altered { .. } => write!(f, "entry {number} does not match its link"),
            Self::NotItsText { .. } => write!(f, "entry {number} is not what its sealed text says"),
            Self::Unreadable { .. } => write!(f, "entry {number} cannot be read"),
            Self::Unsealed { .. } => {
                write!(f, "entry {number} has no link, though one before it has")
            }
            Self::NotAsKept { .. } => {
                write!(f, "entry {number} has another link than the one that was kept")
            }
        }
    }
}

#[cfg(test)]
mod tests;
