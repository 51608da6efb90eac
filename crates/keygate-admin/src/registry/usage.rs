//! What was used, by whom, when and of what. Stores keep it of each key and of everybody; that of an app
//! or account is added up here, over its keys.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use keygate_core::{AccountId, AppId, KeyId, UnixMillis};
use keygate_store::keys::KeyStore;
use keygate_store::records::Key;
use keygate_store::usage::records::{LastUse, Spender, Step, UsageCounts, UsagePoint, UsageQuery};

use super::walk::{Walk, Within};
use super::{Actor, Registry, RegistryError};

/// The most windows, times keys, that one call looks at: a second or two.
const CELLS_MAX: u64 = 1_000_000;
/// How many of them the store is asked for at a time.
const CELLS_PART: u64 = 2_000;
/// The most keys of an app or account that are added up.
const KEYS_MAX: usize = 20_000;
/// How many keys are read at a time.
const KEYS_PART: usize = 200;

/// What is asked.
#[derive(Clone, Debug)]
pub struct UsageAsked {
    pub of: UsageOf,
    /// Of all routes if none is named.
    pub route: Option<Box<str>>,
    pub step: Step,
    /// Of windows that begin then or later,
    pub from: UnixMillis,
    /// and before this.
    pub to: UnixMillis,
    pub group: UsageGroup,
    /// Where the answer before ended.
    pub after: Option<UsagePlace>,
    /// The most rows.
    pub limit: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsageOf {
    Everybody,
    Account(AccountId),
    App(AppId),
    Key(KeyId),
}

/// What has a row of its own in each window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsageGroup {
    Route,
    /// The rows of a key follow each other.
    Key,
    Nothing,
}

/// The use of one window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageSum {
    pub place: UsagePlace,
    pub counts: UsageCounts,
}

/// What a row is about. Rows come in this order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UsagePlace {
    /// If it is of one: see [`UsageGroup::Key`].
    pub key: Option<KeyId>,
    /// When the window began.
    pub start: UnixMillis,
    /// If it is of one: see [`UsageGroup::Route`].
    pub route: Option<Arc<str>>,
}

#[derive(Debug)]
pub struct UsageFound {
    pub rows: Vec<UsageSum>,
    /// Whether there are more.
    pub has_more: bool,
    /// Of all that was asked for; not of what comes after a place.
    pub totals: Option<UsageCounts>,
    /// What was before is forgotten.
    pub kept_from: UnixMillis,
    pub as_of: UnixMillis,
}

/// When a key was last used, and how much lately.
pub struct KeyUsage {
    pub key: Key,
    /// Nothing if it never was.
    pub last: Option<LastUse>,
    /// Since midnight, UTC.
    pub today: UsageCounts,
    /// Since the first of the month, UTC; nothing if use is not kept for so long.
    pub this_month: Option<UsageCounts>,
    /// When this was so.
    pub as_of: UnixMillis,
}

impl<S: KeyStore> Registry<S> {
    /// # Errors
    /// [`RegistryError::NotFound`] and [`RegistryError::Store`].
    pub async fn key_usage(&self, by: &Actor, id: KeyId) -> Result<KeyUsage, RegistryError> {
        let key = self.key(by, id).await?;
        let last = self.store().last_used(vec![id]).await?.into_iter().next().flatten();
        let as_of = self.now();
        let (today, month) = (Step::Day.start(as_of), month_start(as_of));
        let query = UsageQuery {
            of: vec![Spender::Key(id)],
            route: None,
            step: Step::Day,
            from: month,
            to: as_of.saturating_add(Duration::from_millis(1)),
        };
        let (mut of_today, mut of_month) = (UsageCounts::default(), UsageCounts::default());
        for point in self.store().usage(query).await? {
            of_month.add(&point.counts);
            if point.start == today {
                of_today.add(&point.counts);
            }
        }
        let is_kept = self.usage_kept_from(Step::Day, as_of).is_ok_and(|from| from <= month);
        let this_month = is_kept.then_some(of_month);
        Ok(KeyUsage { key, last, today: of_today, this_month, as_of })
    }

    /// # Errors
    /// [`RegistryError::Forbidden`], [`RegistryError::NotFound`], [`RegistryError::TooMuchUsage`],
    /// [`RegistryError::TooManyKeysForUsage`], [`RegistryError::UsageNotKept`] and
    /// [`RegistryError::Store`].
    pub async fn usage(&self, by: &Actor, asked: &UsageAsked) -> Result<UsageFound, RegistryError> {
        let as_of = self.now();
        let kept_from = self.usage_kept_from(asked.step, as_of)?;
        let of = self.spenders(by, asked.of).await?;
        let windows = windows(asked);
        if windows.saturating_mul(of.len() as u64) > CELLS_MAX {
            let keys = of.len();
            return Err(RegistryError::TooMuchUsage { windows, keys, most: CELLS_MAX });
        }
        let mut rows = Rows::new(asked);
        match asked.group {
            UsageGroup::Key => self.sum_by_key(asked, &of, windows, &mut rows).await?,
            UsageGroup::Route | UsageGroup::Nothing => {
                self.sum_by_window(asked, &of, &mut rows).await?;
            }
        }
        let Rows { rows, has_more, totals, .. } = rows;
        Ok(UsageFound { rows, has_more, totals, kept_from, as_of })
    }

    fn usage_kept_from(&self, step: Step, now: UnixMillis) -> Result<UnixMillis, RegistryError> {
        let keep = self.config().usage.keep;
        let (kept, setting) = match step {
            Step::Minute => (keep.minutes, "keep_minutes"),
            Step::Hour => (keep.hours, "keep_hours"),
            Step::Day => (keep.days, "keep_days"),
        };
        if kept == Duration::ZERO {
            return Err(RegistryError::UsageNotKept { setting });
        }
        let kept = u64::try_from(kept.as_millis()).unwrap_or(u64::MAX);
        // A window is kept for so long after its end.
        Ok(step.start(UnixMillis(now.0.saturating_sub(kept))))
    }

    /// Whose use it is: everybody's, or that of keys, in their order.
    async fn spenders(&self, by: &Actor, of: UsageOf) -> Result<Vec<Spender>, RegistryError> {
        let within = match of {
            UsageOf::Everybody => {
                by.require_viewer()?;
                return Ok(vec![Spender::Everybody]);
            }
            UsageOf::Key(id) => {
                return Ok(vec![Spender::Key(self.key(by, id).await?.id)]);
            }
            UsageOf::App(id) => Within::App(self.app(by, id).await?.id),
            UsageOf::Account(id) => Within::Account(self.account(by, id).await?.id),
        };
        let mut walk = Walk::start(self, by, within, None).await?;
        let mut spenders = Vec::new();
        while let Some(step) = walk.step(KEYS_PART).await? {
            let keys = step.keys.map(|(_, keys)| keys).unwrap_or_default();
            spenders.extend(keys.iter().map(|key| Spender::Key(key.id)));
            if spenders.len() > KEYS_MAX {
                return Err(RegistryError::TooManyKeysForUsage { most: KEYS_MAX });
            }
        }
        spenders.sort_unstable();
        Ok(spenders)
    }

    /// Key after key, each over the whole time.
    async fn sum_by_key(
        &self,
        asked: &UsageAsked,
        of: &[Spender],
        windows: u64,
        rows: &mut Rows,
    ) -> Result<(), RegistryError> {
        let before = rows.after.as_ref().and_then(|place| place.key);
        let begun = of.partition_point(|of| before.is_some_and(|key| *of < Spender::Key(key)));
        let left = of.get(begun..).unwrap_or_default();
        let together = usize::try_from(CELLS_PART / windows.max(1)).unwrap_or(1).max(1);
        for part in left.chunks(together) {
            // Of several keys all at once, or their rows would come in turns.
            let whole = (part.len() > 1).then_some((asked.from, asked.to));
            let pieces = parts(asked, asked.from, 1).filter(|_| whole.is_none());
            for (from, to) in whole.into_iter().chain(pieces) {
                let points = self.points(asked, part, from, to).await?;
                let same = |a: &UsagePoint, b: &UsagePoint| (a.of, a.start) == (b.of, b.start);
                for points in points.chunk_by(same) {
                    let mut counts = UsageCounts::default();
                    points.iter().for_each(|point| counts.add(&point.counts));
                    let Some(first) = points.first() else { continue };
                    rows.push(
                        UsagePlace { key: key_of(first.of), start: first.start, route: None },
                        counts,
                    );
                }
                if rows.is_enough() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Window after window, over all keys.
    async fn sum_by_window(
        &self,
        asked: &UsageAsked,
        of: &[Spender],
        rows: &mut Rows,
    ) -> Result<(), RegistryError> {
        let from = rows.after.as_ref().map_or(asked.from, |place| place.start);
        for (from, to) in parts(asked, from, of.len()) {
            let mut sums: BTreeMap<UsagePlace, UsageCounts> = BTreeMap::new();
            let windows = (to.0 - from.0).div_ceil(asked.step.millis()).max(1);
            let together = usize::try_from(CELLS_PART / windows).unwrap_or(1).max(1);
            for part in of.chunks(together) {
                for point in self.points(asked, part, from, to).await? {
                    let route = (asked.group == UsageGroup::Route).then_some(point.route);
                    let place = UsagePlace { key: None, start: point.start, route };
                    sums.entry(place).or_default().add(&point.counts);
                }
            }
            sums.into_iter().for_each(|(place, counts)| rows.push(place, counts));
            if rows.is_enough() {
                break;
            }
        }
        Ok(())
    }

    async fn points(
        &self,
        asked: &UsageAsked,
        of: &[Spender],
        from: UnixMillis,
        to: UnixMillis,
    ) -> Result<Vec<UsagePoint>, RegistryError> {
        let (of, route, step) = (of.to_vec(), asked.route.clone(), asked.step);
        Ok(self.store().usage(UsageQuery { of, route, step, from, to }).await?)
    }
}

/// When the month began, UTC.
fn month_start(now: UnixMillis) -> UnixMillis {
    let moment = i64::try_from(now.0).ok().and_then(|at| Timestamp::from_millisecond(at).ok());
    let first = moment.map(|moment| moment.to_zoned(TimeZone::UTC).date().first_of_month());
    let start = first.and_then(|first| first.to_zoned(TimeZone::UTC).ok());
    let start = start.and_then(|start| u64::try_from(start.timestamp().as_millisecond()).ok());
    start.map_or(now, UnixMillis)
}

fn key_of(spender: Spender) -> Option<KeyId> {
    match spender {
        Spender::Everybody => None,
        Spender::Key(key) => Some(key),
    }
}

/// How many windows begin within the time that is asked for.
fn windows(asked: &UsageAsked) -> u64 {
    let step = asked.step.millis();
    let first = asked.from.0.div_ceil(step);
    asked.to.0.div_ceil(step).saturating_sub(first)
}

/// The time from then on, in parts for so many spenders: whole runs of windows that lie together, so that
/// no run is read for a few of its windows and then read again.
fn parts(
    asked: &UsageAsked,
    from: UnixMillis,
    spenders: usize,
) -> impl Iterator<Item = (UnixMillis, UnixMillis)> + use<> {
    let run = asked.step.together();
    let runs = (CELLS_PART / (spenders as u64).max(1) / run).max(1);
    let (length, to) = (runs * run * asked.step.millis(), asked.to.0);
    let mut at = from.0;
    std::iter::from_fn(move || {
        if at >= to {
            return None;
        }
        let end = (at - at % length).saturating_add(length).min(to);
        let part = (UnixMillis(at), UnixMillis(end));
        at = end;
        Some(part)
    })
}

/// Rows in their order, as many as were asked for.
struct Rows {
    after: Option<UsagePlace>,
    limit: usize,
    rows: Vec<UsageSum>,
    has_more: bool,
    totals: Option<UsageCounts>,
}

impl Rows {
    fn new(asked: &UsageAsked) -> Self {
        Self {
            after: asked.after.clone(),
            limit: asked.limit,
            rows: Vec::new(),
            has_more: false,
            totals: asked.after.is_none().then(UsageCounts::default),
        }
    }

    fn push(&mut self, place: UsagePlace, counts: UsageCounts) {
        if self.after.as_ref().is_some_and(|after| place <= *after) {
            return;
        }
        if let Some(totals) = &mut self.totals {
            totals.add(&counts);
        }
        if self.rows.len() < self.limit {
            self.rows.push(UsageSum { place, counts });
        } else {
            self.has_more = true;
        }
    }

    /// Whether nothing that comes could change the answer.
    fn is_enough(&self) -> bool {
        self.has_more && self.totals.is_none()
    }
}
