//! The limits of verified keys: charges requests to whoever they count for. The rules are
//! `keygate_core::limit`; here are the counters, one meter for each party, and what makes them last.
//!
//! Meters live apart from the key cache: a record that is forgotten or read again resets no limit.

mod leases;
mod marks;
mod meters;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use keygate_core::limit::Moment;
use keygate_core::limit::leased::{Leased, Take};
use keygate_core::limit::meter::{Counters, Meter};
use keygate_core::limit::policy::{Few, Over, Use};
use keygate_core::limit::tally::{Charged, Tally};
use keygate_core::limit::terms::{Party, Terms};
use keygate_core::{KeyRecord, UnixMillis};
use quanta::Instant;

use self::leases::Leases;
pub use self::leases::Lessor;
use self::marks::Marks;
pub use self::marks::MarksError;
use self::meters::Meters;
use crate::keys::StoreError;

/// How often what lies idle is looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// Charges requests to meters. Cheap to clone; all clones share the meters.
#[derive(Clone)]
pub struct Limiter(Arc<Inner>);

struct Inner {
    meters: Meters,
    keeper: Keeper,
    clock: Clock,
}

/// Who keeps count across restarts and gateways.
enum Keeper {
    Nobody,
    File(Marks),
    Fleet(Leases),
}

/// The two clocks that limits go by.
#[derive(Clone, Copy)]
struct Clock {
    began: Instant,
    unix: fn() -> UnixMillis,
}

impl Clock {
    fn now(self) -> Moment {
        self.at(Instant::now(), (self.unix)())
    }

    fn at(self, mono: Instant, unix: UnixMillis) -> Moment {
        Moment { mono_ns: self.since(mono), unix }
    }

    fn now_ns(self) -> u64 {
        self.since(Instant::now())
    }

    fn since(self, mono: Instant) -> u64 {
        let since = mono.saturating_duration_since(self.began).as_nanos();
        u64::try_from(since).unwrap_or(u64::MAX)
    }
}

impl Limiter {
    /// For one gateway, and for as long as it runs.
    #[must_use]
    pub fn in_memory(unix: fn() -> UnixMillis) -> Self {
        Self::new(Keeper::Nobody, unix)
    }

    /// For one gateway. Quotas survive its end, however it ends.
    ///
    /// # Errors
    /// [`MarksError`] when the file cannot be used.
    pub fn on_file(path: &Path, unix: fn() -> UnixMillis) -> Result<Self, MarksError> {
        Ok(Self::new(Keeper::File(Marks::open(path, unix())?), unix))
    }

    /// For a fleet: its store lends each gateway a part, for so long. To be called within a runtime.
    #[must_use]
    pub fn leased(lessor: Lessor, lease: Duration, unix: fn() -> UnixMillis) -> Self {
        let limiter = Self::new(Keeper::Fleet(Leases::new(lessor, lease)), unix);
        leases::keep(&limiter.0);
        limiter
    }

    fn new(keeper: Keeper, unix: fn() -> UnixMillis) -> Self {
        let clock = Clock { began: Instant::now(), unix };
        let inner = Inner { meters: Meters::default(), keeper, clock };
        Self(Arc::new(inner))
    }

    /// A moment that was read already, as the limiter counts.
    #[must_use]
    pub fn moment(&self, mono: Instant, unix: UnixMillis) -> Moment {
        self.0.clock.at(mono, unix)
    }

    /// Charges a request to all of its key's limits, or to none. Waits only where a fleet's store has
    /// to be asked first, and then not for long.
    ///
    /// Dropping the future charges nothing, and leaves what was asked for to the next request.
    ///
    /// # Errors
    /// [`Over`]: what is in the way.
    pub async fn charge(
        &self,
        key: &KeyRecord,
        terms: &Terms<'_>,
        cost: u64,
        now: Moment,
    ) -> Result<Charge, Over> {
        let meter = self.meter_of(key, terms);
        let charged = {
            let mut counters = meter.lock();
            match &mut *counters {
                Counters::Local(tally) => {
                    let charged = tally.charge(terms, cost, now)?;
                    self.0.mark(meter.party(), terms, tally);
                    Some(charged)
                }
                Counters::Leased(leased) => {
                    // A lease ends when it does, however long ago the request began.
                    let mono_ns = now.mono_ns.max(self.0.clock.now_ns());
                    let now = Moment { mono_ns, ..now };
                    leased.demanded(cost, now);
                    match leased.take(terms, cost, now, self.0.fleet()) {
                        Take::Done { charged, is_low } => {
                            drop(counters);
                            if is_low {
                                leases::ask_ahead(&self.0, &meter);
                            }
                            Some(charged)
                        }
                        Take::Over(over) => return Err(over),
                        Take::Ask => None,
                    }
                }
            }
        };
        let has_waited = charged.is_none();
        let charged = match charged {
            Some(charged) => charged,
            // Boxed, so that requests that need not ask carry no room for it.
            None => Box::pin(leases::charge(&self.0, &meter, terms, cost)).await?,
        };
        Ok(Charge::new(self.0.clock, meter, charged, has_waited))
    }

    /// How much of each policy is used, as far as this gateway knows. Cheap.
    #[must_use]
    pub fn uses_here(&self, key: &KeyRecord, terms: &Terms<'_>, now: Moment) -> Few<Use> {
        let meter = self.meter_of(key, terms);
        let counters = meter.lock();
        match &*counters {
            Counters::Local(tally) => tally.uses(terms, now),
            Counters::Leased(leased) => leased.uses(terms, now),
        }
    }

    /// How much of each policy is used, by the whole fleet.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when a fleet's store is away.
    pub async fn uses(&self, party: Party, terms: &Terms<'_>) -> Result<Few<Use>, StoreError> {
        if let Keeper::Fleet(leases) = &self.0.keeper {
            return leases.uses(party, terms).await;
        }
        let now = self.0.clock.now();
        let meter = self.0.meters.find(party);
        let tally = |meter: Arc<Meter>| match &*meter.lock() {
            Counters::Local(tally) => tally.uses(terms, now),
            Counters::Leased(leased) => leased.uses(terms, now),
        };
        // Nobody has come by since the start: then what is on record counts.
        let untouched = || self.0.new_tally(party).uses(terms, now);
        Ok(meter.map_or_else(untouched, tally))
    }

    /// How much of each policy a request of this cost could take that came here now: of what nobody has
    /// used, and of what is lent to this gateway. Charges nothing. While a fleet's store is away, as far
    /// as this gateway knows.
    pub async fn room(&self, party: Party, terms: &Terms<'_>, cost: u64) -> Few<Use> {
        let uses = self.uses(party, terms).await;
        let now = self.0.clock.now();
        let meter = self.0.meters.find(party);
        match (uses, meter.as_deref().map(Meter::lock).as_deref()) {
            (Ok(uses), Some(Counters::Leased(leased))) => leased.room(uses, cost, now),
            (Ok(uses), Some(Counters::Local(_)) | None) => uses,
            (Err(_), Some(Counters::Leased(leased))) => leased.uses(terms, now),
            (Err(_), Some(Counters::Local(_)) | None) => Leased::default().uses(terms, now),
        }
    }

    /// Forgets what a party has used. What runs goes on and holds its slot.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when a fleet's store is away, or the file cannot be written.
    pub async fn reset(&self, party: Party, terms: &Terms<'_>) -> Result<(), StoreError> {
        if let Keeper::Fleet(leases) = &self.0.keeper {
            leases.reset(party, terms).await?;
        }
        // One that is made now, or it could be made meanwhile of what is about to be forgotten.
        let meter = self.0.meters.find_or_make(party, || self.0.new_counters(party));
        let forgotten = match &mut *meter.lock() {
            Counters::Local(tally) => {
                tally.reset();
                // Under the meter's lock, or a charge could put what it was back on record.
                if let Keeper::File(marks) = &self.0.keeper { marks.forget(party) } else { Ok(()) }
            }
            Counters::Leased(leased) => {
                leased.forget_refusals();
                Ok(())
            }
        };
        let unavailable = |error: MarksError| StoreError::Unavailable(Box::new(error));
        forgotten.map_err(unavailable)?;
        if let Keeper::File(marks) = &self.0.keeper {
            marks.settle().await.map_err(unavailable)?;
        }
        Ok(())
    }

    /// Looks for what lies idle, for as long as a clone of this limiter lives.
    pub async fn sweep(self) {
        let mut ticks = tokio::time::interval(SWEEP_EVERY);
        loop {
            ticks.tick().await;
            self.0.sweep();
        }
    }

    /// Writes down exactly what was used, or gives back what was lent. To be called when no request
    /// comes any more.
    pub async fn stop(&self) {
        match &self.0.keeper {
            Keeper::Nobody => {}
            Keeper::File(marks) => {
                self.0.meters.each(|meter| {
                    if let Counters::Local(tally) = &mut *meter.lock() {
                        write_exactly(marks, meter.party(), tally);
                    }
                });
                marks.sync();
            }
            Keeper::Fleet(_) => leases::return_all(&self.0).await,
        }
    }

    /// Writes down exactly what was used, and nothing after that: another process takes over the
    /// record of it. What is charged here from now on is forgotten when this process ends.
    pub async fn give_away(&self) {
        self.stop().await;
        if let Keeper::File(marks) = &self.0.keeper {
            marks.give_away();
        }
    }

    /// Parties that are remembered.
    #[must_use]
    pub fn meters(&self) -> usize {
        self.0.meters.count()
    }

    /// How often a fleet's store was asked for units: how often it answered, and how often not.
    #[must_use]
    pub fn asked(&self) -> [u64; 2] {
        match &self.0.keeper {
            Keeper::Fleet(leases) => leases.asked(),
            Keeper::Nobody | Keeper::File(_) => [0, 0],
        }
    }

    /// Gateways that share the limits, this one included, as far as is known.
    #[must_use]
    pub fn gateways(&self) -> u64 {
        self.0.fleet().gateways
    }

    /// Requests that hold a slot of a limited concurrency. Looks at every meter.
    #[must_use]
    pub fn running(&self) -> u64 {
        let mut running = 0;
        self.0.meters.each(|meter| {
            running += match &*meter.lock() {
                Counters::Local(tally) => u64::from(tally.slots_taken()),
                Counters::Leased(leased) => leased.slots_taken(),
            };
        });
        running
    }

    fn meter_of(&self, key: &KeyRecord, terms: &Terms<'_>) -> Arc<Meter> {
        let party = terms.party(key);
        let find = || self.0.meters.find_or_make(party, || self.0.new_counters(party));
        let meter = key.meter.get_or_init(find);
        // A tier that is shared otherwise than it was when the record was read.
        if meter.party() == party { Arc::clone(meter) } else { find() }
    }
}

impl Inner {
    fn new_counters(&self, party: Party) -> Counters {
        match &self.keeper {
            Keeper::Nobody | Keeper::File(_) => Counters::Local(self.new_tally(party)),
            Keeper::Fleet(_) => Counters::Leased(Box::default()),
        }
    }

    fn new_tally(&self, party: Party) -> Tally {
        let mut tally = Tally::default();
        if let Keeper::File(marks) = &self.keeper {
            for (unit, ends_at, used) in marks.of(party) {
                tally.restore(unit, ends_at, used);
            }
        }
        tally
    }

    fn fleet(&self) -> keygate_core::limit::leased::Fleet {
        match &self.keeper {
            Keeper::Fleet(leases) => leases.fleet(),
            Keeper::Nobody | Keeper::File(_) => leases::ALONE,
        }
    }

    /// Puts on record what was charged, before the request goes on: with some to spare, so that not
    /// every request has to, and never more than the quota.
    fn mark(&self, party: Party, terms: &Terms<'_>, tally: &mut Tally) {
        let Keeper::File(marks) = &self.keeper else { return };
        for quota in tally.unmarked() {
            let most = terms.quota(quota.unit).unwrap_or(quota.used);
            quota.marked = (quota.used + marks::spare(most)).min(most).max(quota.used);
            marks.mark(party, quota.unit, quota.ends_at, quota.marked);
        }
    }

    fn sweep(&self) {
        let now = self.clock.now();
        self.meters.drop_idle(|meter| match &mut *meter.lock() {
            Counters::Local(tally) => match &self.keeper {
                // What was used is on record, so that it need not be in memory.
                Keeper::File(marks) if tally.rests(now) => {
                    write_exactly(marks, meter.party(), tally);
                    true
                }
                Keeper::File(_) | Keeper::Nobody | Keeper::Fleet(_) => tally.is_idle(now),
            },
            Counters::Leased(leased) => leased.is_idle(now),
        });
        if let Keeper::File(marks) = &self.keeper {
            marks.tidy(now.unix);
        }
    }
}

/// Puts on record what was used, with nothing to spare.
fn write_exactly(marks: &Marks, party: Party, tally: &mut Tally) {
    for quota in tally.quotas().filter(|quota| quota.marked != quota.used) {
        quota.marked = quota.used;
        marks.mark(party, quota.unit, quota.ends_at, quota.used);
    }
}

/// A request that was charged. Dropping it frees its slot, and gives back its units unless the
/// request was [kept](Self::keep): one that reached nobody costs nothing.
#[must_use]
pub struct Charge {
    meter: Arc<Meter>,
    charged: Charged,
    clock: Clock,
    is_kept: bool,
    has_waited: bool,
}

impl Charge {
    fn new(clock: Clock, meter: Arc<Meter>, charged: Charged, has_waited: bool) -> Self {
        Self { meter, charged, clock, is_kept: false, has_waited }
    }

    /// Whether the request had to wait for it, so that what was decided before may be out of date.
    #[must_use]
    pub fn has_waited(&self) -> bool {
        self.has_waited
    }

    /// An upstream is being sent the request: it costs, whatever becomes of it.
    pub fn keep(&mut self) {
        self.is_kept = true;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let refund_at = (!self.is_kept).then(|| self.clock.now());
        match &mut *self.meter.lock() {
            Counters::Local(tally) => {
                if let Some(now) = refund_at {
                    tally.refund(&self.charged, now);
                }
                tally.end(&self.charged);
            }
            Counters::Leased(leased) => {
                if let Some(now) = refund_at {
                    leased.refund(&self.charged, now);
                }
                leased.end(&self.charged);
            }
        }
    }
}

#[cfg(test)]
mod tests;
