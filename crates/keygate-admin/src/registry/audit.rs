//! The audit log: read, searched, and checked against its chain; and what is put into it that is no
//! change.

use std::time::Duration;

use keygate_config::Store as StoreSettings;
use keygate_core::UnixMillis;
use keygate_store::audit::{Finding, Link, Verifier};
use keygate_store::keys::{ChangeNumber, KeyStore, Page, Write};
use keygate_store::records::{AuditEntry, Logged, Role};

use super::{Actor, Registry, RegistryError};
use crate::refused::{Attempt, Refused};

/// The action of an attempt that was refused. What was tried is its subject.
const REFUSED: &str = "refused";
const ANONYMOUS: &str = "anonymous";

/// The most entries that one call looks at.
const LOOKED_AT_MAX: usize = 5_000;
/// Entries that are read at once.
const CHUNK: usize = 500;
/// A check stops at so many findings; the next one goes on from there.
const FINDINGS_MAX: usize = 1_000;
/// Entries have the times of the gateways that wrote them: they are in order to within this, if the
/// clocks are.
const CLOCKS_DIFFER_MAX: Duration = Duration::from_secs(600);

/// Which entries are asked for: those to which all of it applies.
#[derive(Clone, Debug, Default)]
pub struct AuditFilter {
    pub actor: Option<String>,
    pub action: Option<ActionFilter>,
    /// The id of a record, or all of a refused attempt's subject.
    pub subject: Option<String>,
    pub since: Option<UnixMillis>,
    /// Not at this moment itself.
    pub until: Option<UnixMillis>,
    pub refused: Option<bool>,
}

#[derive(Clone, Debug)]
pub enum ActionFilter {
    Is(String),
    BeginsWith(String),
}

/// A part of the log.
#[derive(Clone, Debug)]
pub struct AuditPart {
    pub entries: Vec<Logged>,
    /// All up to this number have been looked at.
    pub looked_to: ChangeNumber,
    pub has_more: bool,
}

/// The log's end.
#[derive(Clone, Debug)]
pub struct AuditTail {
    pub entries: Vec<Logged>,
    /// Nothing before this number was looked at, though fewer entries were found than asked for.
    pub looked_from: Option<ChangeNumber>,
}

/// A part of the log, checked.
#[derive(Clone, Debug)]
pub struct Verified {
    /// The first and the last entry that was checked, if there was any.
    pub range: Option<(ChangeNumber, ChangeNumber)>,
    pub checked: u64,
    /// Of the last entry, if it has one.
    pub link: Option<Link>,
    pub findings: Vec<Finding>,
    /// The first entry that the store keeps. Those before it were dropped in time, or are findings.
    pub kept_from: Option<ChangeNumber>,
    /// The entry after which to go on.
    pub next: Option<ChangeNumber>,
}

impl AuditFilter {
    fn takes(&self, entry: &AuditEntry) -> bool {
        let is = |wanted: &Option<String>, found: &str| {
            wanted.as_deref().is_none_or(|wanted| wanted == found)
        };
        let action = match &self.action {
            None => true,
            Some(ActionFilter::Is(wanted)) => *wanted == entry.action,
            Some(ActionFilter::BeginsWith(wanted)) => entry.action.starts_with(wanted),
        };
        // A refused attempt names the record in the path that was asked for.
        let names = |wanted: &str| entry.subject.split(['/', ' ']).any(|part| part == wanted);
        let subject = self.subject.as_deref();
        action
            && is(&self.actor, &entry.actor)
            && subject.is_none_or(|wanted| entry.subject == wanted || names(wanted))
            && self.since.is_none_or(|since| entry.at >= since)
            && self.until.is_none_or(|until| entry.at < until)
            && self.refused.is_none_or(|refused| refused == entry.refused.is_some())
    }

    /// Whether nothing comes after this entry that is asked for.
    fn ends_before(&self, entry: &AuditEntry) -> bool {
        self.until.is_some_and(|until| entry.at >= until.saturating_add(CLOCKS_DIFFER_MAX))
    }
}

impl<S: KeyStore> Registry<S> {
    /// Audit entries, oldest first, from the first after `page.after`. Looks at no more than
    /// [`LOOKED_AT_MAX`], so there may be more even if few were found, or none.
    ///
    /// # Errors
    /// [`RegistryError::Forbidden`] and [`RegistryError::Store`].
    pub async fn audit(
        &self,
        by: &Actor,
        filter: &AuditFilter,
        page: Page<ChangeNumber>,
    ) -> Result<AuditPart, RegistryError> {
        by.require_viewer()?;
        let mut last = page.after.unwrap_or_default();
        // Whoever says where to go on has been told by a call that looked for the time.
        if let (Some(since), None) = (filter.since, page.after) {
            let since = UnixMillis(since.0.saturating_sub(millis(CLOCKS_DIFFER_MAX)));
            last = self.last_where(|entry| !entry.is_unreadable() && entry.at < since).await?;
        }
        let mut entries = Vec::new();
        let mut left = LOOKED_AT_MAX;
        while left > 0 {
            let chunk = Page { after: Some(last), limit: left.min(CHUNK) };
            let found = self.store().audit(chunk).await?;
            let is_last = found.len() < chunk.limit;
            left -= found.len().min(left);
            for logged in found {
                last = logged.number;
                if filter.ends_before(&logged.entry) {
                    return Ok(AuditPart { entries, looked_to: last, has_more: false });
                }
                if filter.takes(&logged.entry) {
                    entries.push(logged);
                }
                if entries.len() >= page.limit {
                    let has_more = self.has_entry_after(last).await?;
                    return Ok(AuditPart { entries, looked_to: last, has_more });
                }
            }
            if is_last {
                return Ok(AuditPart { entries, looked_to: last, has_more: false });
            }
        }
        Ok(AuditPart { entries, looked_to: last, has_more: true })
    }

    /// The newest audit entries that are asked for, at most `count`, newest first. Looks at no more than
    /// the newest [`LOOKED_AT_MAX`], and says if that is why there are fewer.
    ///
    /// # Errors
    /// [`RegistryError::Forbidden`] and [`RegistryError::Store`].
    pub async fn audit_tail(
        &self,
        by: &Actor,
        filter: &AuditFilter,
        count: usize,
    ) -> Result<AuditTail, RegistryError> {
        by.require_viewer()?;
        let newest = self.newest().await?;
        let mut entries = Vec::new();
        let (mut end, mut left) = (newest.0, LOOKED_AT_MAX);
        while left > 0 && end > 0 && entries.len() < count {
            // Numbers may have gaps, never doubles: so many numbers hold no more entries than that.
            let size = left.min(CHUNK);
            let begin = end.saturating_sub(u64::try_from(size).unwrap_or(u64::MAX));
            let chunk = Page { after: Some(ChangeNumber(begin)), limit: size };
            let found = self.store().audit(chunk).await?;
            // What was written meanwhile is after what is looked at.
            let found = found.into_iter().rev().filter(|logged| logged.number.0 <= end);
            entries.extend(found.filter(|logged| filter.takes(&logged.entry)));
            (end, left) = (begin, left - size);
        }
        let is_cut_short = end > 0 && entries.len() < count;
        entries.truncate(count);
        let looked_from = is_cut_short.then(|| ChangeNumber(end.saturating_add(1)));
        Ok(AuditTail { entries, looked_from })
    }

    /// The number of the newest entry, 0 if there is none.
    pub(super) async fn newest(&self) -> Result<ChangeNumber, RegistryError> {
        self.last_where(|_| true).await
    }

    /// The number of the last entry of those at the log's beginning of which `is_before` is true.
    ///
    /// The store lists upwards only, so it is searched for: each step asks for the first entry after a
    /// number, and doubles or halves, so that even a long log takes few.
    async fn last_where(
        &self,
        is_before: impl Fn(&AuditEntry) -> bool,
    ) -> Result<ChangeNumber, RegistryError> {
        let goes_on = async |after: u64| {
            let page = Page { after: Some(ChangeNumber(after)), limit: 1 };
            let found = self.store().audit(page).await?;
            Ok::<_, RegistryError>(found.first().is_some_and(|logged| is_before(&logged.entry)))
        };
        let mut step: u64 = 1;
        while goes_on(step).await? && step < u64::MAX / 2 {
            step *= 2;
        }
        // After `end` it is so of nothing; after whatever is below `low` it is of something.
        let (mut low, mut end) = (0, step);
        while low < end {
            let middle = low + (end - low) / 2;
            match goes_on(middle).await? {
                true => low = middle + 1,
                false => end = middle,
            }
        }
        Ok(ChangeNumber(end))
    }

    async fn has_entry_after(&self, number: ChangeNumber) -> Result<bool, RegistryError> {
        let page = Page { after: Some(number), limit: 1 };
        Ok(!self.store().audit(page).await?.is_empty())
    }

    /// Puts an attempt that was refused into the log.
    pub(crate) async fn note_refused(&self, refused: Refused) -> Result<(), RegistryError> {
        let Refused { attempt: Attempt { at, actor, subject, code, from }, others } = refused;
        let name = actor.unwrap_or_else(|| ANONYMOUS.to_owned());
        // No more than who it was and from where: the entry of an attempt needs no rights.
        let by = Actor { name, from, role: Role::Viewer };
        let mut entry = by.entry(at, REFUSED, subject);
        entry.refused = Some(code.to_owned());
        entry.reason = (others > 0).then(|| format!("and {others} more, which have no entries"));
        self.commit(Write::Note, entry).await
    }

    /// Checks entries against their chain, from the first after `after`, which has this link if it is
    /// given; without `after`, from the first that is kept. Looks at no more than [`LOOKED_AT_MAX`].
    ///
    /// # Errors
    /// [`RegistryError::Forbidden`] and [`RegistryError::Store`].
    pub async fn verify_audit(
        &self,
        by: &Actor,
        after: Option<ChangeNumber>,
        link: Option<Link>,
    ) -> Result<Verified, RegistryError> {
        by.require_viewer()?;
        // Before the entries are read: what is written meanwhile is not missing.
        let newest = self.newest_known().await?;
        let (mut verifier, mut findings) = match after {
            None if self.drops_oldest() => (Verifier::from_first_kept(), Vec::new()),
            None => (Verifier::from_start(), Vec::new()),
            Some(after) => self.verifier_after(after, link, newest).await?,
        };
        let mut range: Option<(ChangeNumber, ChangeNumber)> = None;
        let mut last = after.unwrap_or_default();
        let mut left = LOOKED_AT_MAX;
        let next = loop {
            if left == 0 || findings.len() >= FINDINGS_MAX {
                break Some(last);
            }
            let chunk = Page { after: Some(last), limit: left.min(CHUNK) };
            let found = self.store().audit(chunk).await?;
            for logged in &found {
                findings.extend(verifier.check(logged));
                last = logged.number;
                range = Some((range.map_or(last, |(first, _)| first), last));
            }
            left -= found.len().min(left);
            if found.len() < chunk.limit {
                break None;
            }
        };
        if next.is_none() && last < newest {
            findings.extend(verifier.finish(newest));
        }
        // After the entries were read: some may have been dropped meanwhile.
        let kept_from = self.first_kept().await?;
        if self.drops_oldest() {
            findings.retain(|finding| !is_before(finding, kept_from));
        }
        let link = verifier.newest().map(|(_, link)| link);
        Ok(Verified { range, checked: verifier.entries(), link, findings, kept_from, next })
    }

    /// The number of the newest entry as the store counts, whatever has become of that entry.
    async fn newest_known(&self) -> Result<ChangeNumber, RegistryError> {
        match self.store().newest().await? {
            Some(newest) => Ok(newest),
            None => self.newest().await,
        }
    }

    /// Whether the store drops the oldest entries of a long log. How many it keeps may have been set
    /// otherwise before: what is before the first one tells nothing.
    fn drops_oldest(&self) -> bool {
        matches!(self.config().store, StoreSettings::Redis(_))
    }

    async fn first_kept(&self) -> Result<Option<ChangeNumber>, RegistryError> {
        let first = self.store().audit(Page { after: None, limit: 1 }).await?.pop();
        Ok(first.map(|logged| logged.number))
    }

    /// To go on after an entry, which may have been cut off, or be another one by now.
    async fn verifier_after(
        &self,
        after: ChangeNumber,
        link: Option<Link>,
        newest: ChangeNumber,
    ) -> Result<(Verifier, Vec<Finding>), RegistryError> {
        let page = Page { after: Some(ChangeNumber(after.0.saturating_sub(1))), limit: 1 };
        let stored = self.store().audit(page).await?.pop();
        let stored = stored.filter(|logged| logged.number == after);
        let seal = stored.as_ref().and_then(|logged| logged.seal.as_ref());
        let mut findings = Vec::new();
        if after > newest {
            let from = ChangeNumber(newest.0.saturating_add(1));
            findings.push(Finding::Missing { from, to: after });
        }
        if let Some(kept) = link {
            if stored.is_some() && seal.is_none_or(|seal| seal.link != kept) {
                findings.push(Finding::NotAsKept { number: after });
            }
            return Ok((Verifier::after(after, kept), findings));
        }
        if let Some(seal) = seal {
            return Ok((Verifier::after(after, seal.link), findings));
        }
        let mut verifier = Verifier::from_first_kept();
        if let Some(unsealed) = stored {
            if self.is_sealed_from_the_first().await? {
                // Its link was taken away, which the part before has told.
                return Ok((Verifier::after(after, Link::START), findings));
            }
            drop(verifier.check(&unsealed));
        }
        Ok((verifier, findings))
    }

    async fn is_sealed_from_the_first(&self) -> Result<bool, RegistryError> {
        let first = self.store().audit(Page { after: None, limit: 1 }).await?.pop();
        Ok(first.is_some_and(|logged| logged.seal.is_some()))
    }
}

/// Whether all that is missing came before the first entry that is kept.
fn is_before(finding: &Finding, kept_from: Option<ChangeNumber>) -> bool {
    let Finding::Missing { to, .. } = finding else { return false };
    kept_from.is_some_and(|first| *to < first)
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
