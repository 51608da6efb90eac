//! Keeps a gateway's part of its fleet's limits: asks the store for more before it runs out, gives
//! back what lies idle, and lets each meter fall back to its share while the store is away. What to ask
//! and what to do meanwhile is `keygate_core::limit::leased`'s to say.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use keygate_core::limit::Moment;
use keygate_core::limit::leased::{Ask, Fleet, Leased, Take, Tick};
use keygate_core::limit::meter::{Counters, Meter};
use keygate_core::limit::policy::{Few, Over, Use};
use keygate_core::limit::tally::Charged;
use keygate_core::limit::terms::{Party, Terms};
use quanta::Instant;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::{Inner, Keeper};
use crate::flights::Flights;
use crate::keys::StoreError;
pub use crate::redis::Lessor;

/// What a gateway without a fleet knows of it.
pub(super) const ALONE: Fleet = Fleet { gateways: 1, lease: Duration::ZERO };
/// How often meters that hold something are looked at.
const TICK_EVERY: Duration = Duration::from_millis(100);
/// How often the gateways of the fleet are counted.
const COUNT_EVERY: Duration = Duration::from_secs(1);
/// Questions that one tick asks at a time.
const ASKS_MAX: usize = 256;
/// How often a request asks, if others take what was meant for it.
const ATTEMPTS_MAX: u32 = 8;
/// How long a request goes on asking in all.
const ASKING_MAX: Duration = Duration::from_millis(500);
/// Longer than any call may take, so that a party's questions never overtake each other.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a gateway that stops may take to give everything back.
const GOODBYE_MAX: Duration = Duration::from_secs(1);

pub(super) struct Leases {
    lessor: Lessor,
    lease: Duration,
    /// Those that lived when they were last counted.
    gateways: AtomicU64,
    /// One question about a party at a time, however many requests wait for the answer.
    asking: Arc<Flights<Party, Asked>>,
    /// Meters that hold, or owe, something.
    busy: Mutex<HashMap<Party, Arc<Meter>>>,
    counts: Counts,
}

type Asked = Result<(), Arc<StoreError>>;

/// Questions to the store, by what came of them.
#[derive(Debug, Default)]
struct Counts {
    answered: AtomicU64,
    failed: AtomicU64,
}

impl Leases {
    pub(super) fn new(lessor: Lessor, lease: Duration) -> Self {
        let too_late = || Err(Arc::new(StoreError::Unavailable(Box::new(TooLate))));
        Self {
            lessor,
            lease,
            gateways: AtomicU64::new(1),
            asking: Arc::new(Flights::new(PATIENCE, too_late)),
            busy: Mutex::default(),
            counts: Counts::default(),
        }
    }

    pub(super) fn fleet(&self) -> Fleet {
        Fleet { gateways: self.gateways.load(Relaxed).max(1), lease: self.lease }
    }

    /// How often the store was asked: it answered, or it did not.
    pub(super) fn asked(&self) -> [u64; 2] {
        [self.counts.answered.load(Relaxed), self.counts.failed.load(Relaxed)]
    }

    /// What the whole fleet has used.
    pub(super) async fn uses(
        &self,
        party: Party,
        terms: &Terms<'_>,
    ) -> Result<Few<Use>, StoreError> {
        let look = Ask::only_looking(terms);
        let answer = self.lessor.look(party, &look).await?;
        Ok(look.uses(&answer))
    }

    pub(super) async fn reset(&self, party: Party, terms: &Terms<'_>) -> Result<(), StoreError> {
        self.lessor.reset(party, &Ask::only_looking(terms)).await
    }

    /// Sees to it that the ticks find this meter.
    pub(super) fn note(&self, meter: &Arc<Meter>) {
        self.busy().entry(meter.party()).or_insert_with(|| Arc::clone(meter));
    }

    fn busy(&self) -> MutexGuard<'_, HashMap<Party, Arc<Meter>>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the store did not answer in time")]
struct TooLate;

/// Charges a request that the meter has nothing for: asks, and again if others were faster.
pub(super) async fn charge(
    inner: &Arc<Inner>,
    meter: &Arc<Meter>,
    terms: &Terms<'_>,
    cost: u64,
) -> Result<Charged, Over> {
    let Some(leases) = inner.leases() else { return Err(Leased::outrun(terms)) };
    let _waiting = Waiting::begin(meter, cost);
    let began = Instant::now();
    for attempt in 0..ATTEMPTS_MAX {
        if attempt > 0 && began.elapsed() > ASKING_MAX {
            break;
        }
        let now = inner.clock.now();
        let is_failing = with(meter, |leased| leased.is_failing(now)).unwrap_or(true);
        if is_failing || leases.lessor.is_away() {
            return take_away(inner, leases, meter, terms, cost);
        }
        let load = || exchange(Arc::clone(inner), Arc::clone(meter), Question::For(cost));
        match leases.asking.join(meter.party(), load).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return take_away(inner, leases, meter, terms, cost),
        }
        let now = inner.clock.now();
        match with(meter, |leased| leased.take(terms, cost, now, leases.fleet())) {
            Some(Take::Done { charged, is_low: _ }) => return Ok(charged),
            Some(Take::Over(over)) => return Err(over),
            Some(Take::Ask) | None => {}
        }
    }
    Err(Leased::outrun(terms))
}

/// A request that waits, so that the next question is for it too. Stops when dropped.
struct Waiting<'a> {
    meter: &'a Meter,
    cost: u64,
}

impl<'a> Waiting<'a> {
    fn begin(meter: &'a Meter, cost: u64) -> Self {
        with(meter, |leased| leased.wait(cost));
        Self { meter, cost }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        with(self.meter, |leased| leased.stop_waiting(self.cost));
    }
}

fn take_away(
    inner: &Inner,
    leases: &Leases,
    meter: &Arc<Meter>,
    terms: &Terms<'_>,
    cost: u64,
) -> Result<Charged, Over> {
    let now = inner.clock.now();
    let taken = with(meter, |leased| leased.take_away(terms, cost, now, leases.fleet()));
    let charged = taken.unwrap_or_else(|| Err(Leased::outrun(terms)))?;
    leases.note(meter);
    Ok(charged)
}

/// Asks for more beside a request that has left little.
#[cold]
pub(super) fn ask_ahead(inner: &Arc<Inner>, meter: &Arc<Meter>) {
    let Some(leases) = inner.leases() else { return };
    if !leases.lessor.is_away() {
        let load = || exchange(Arc::clone(inner), Arc::clone(meter), Question::For(0));
        leases.asking.launch(meter.party(), load);
    }
}

/// What is to be asked.
enum Question {
    /// For a request of this cost, or 0: for those to come.
    For(u64),
    /// What was worked out already.
    This(Ask),
}

/// One question and its answer. Goes on if nobody waits for it any more.
async fn exchange(inner: Arc<Inner>, meter: Arc<Meter>, question: Question) -> Asked {
    let Some(leases) = inner.leases() else { return Ok(()) };
    let fleet = leases.fleet();
    let asked = inner.clock.now();
    let ask = match question {
        Question::For(cost) => with(&meter, |leased| leased.ask(cost, asked, fleet)),
        Question::This(ask) => Some(ask),
    };
    let Some(ask) = ask else { return Ok(()) };
    // From here on it may hold something, whether the answer arrives or not.
    leases.note(&meter);
    match leases.lessor.ask(meter.party(), &ask).await {
        Ok(answer) => {
            leases.counts.answered.fetch_add(1, Relaxed);
            let now = inner.clock.now();
            with(&meter, |leased| leased.answered(&ask, &answer, asked, now, fleet));
            Ok(())
        }
        Err(error) => {
            leases.counts.failed.fetch_add(1, Relaxed);
            tracing::debug!(%error, "the store lends nothing");
            let now = inner.clock.now();
            with(&meter, |leased| leased.failed(now));
            Err(Arc::new(error))
        }
    }
}

/// Looks after the meters, and counts the fleet, for as long as the limiter lives.
pub(super) fn keep(inner: &Arc<Inner>) {
    let (ticked, counted) = (Arc::downgrade(inner), Arc::downgrade(inner));
    drop(tokio::spawn(every(TICK_EVERY, ticked, async |inner, leases| {
        tick(inner, leases).await;
    })));
    // Beside the ticks, which must not wait for it: slots in use are renewed there.
    drop(tokio::spawn(every(COUNT_EVERY, counted, async |_, leases| leases.count().await)));
}

/// Does something again and again, while the store can be reached.
async fn every(
    period: Duration,
    inner: Weak<Inner>,
    act: impl AsyncFn(&Arc<Inner>, &Leases) + Send,
) {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(inner) = inner.upgrade() else { return };
        let Some(leases) = inner.leases() else { return };
        if !leases.lessor.is_away() {
            act(&inner, leases).await;
        }
    }
}

impl Leases {
    async fn count(&self) {
        match self.lessor.gateways().await {
            Ok(gateways) => self.gateways.store(gateways.max(1), Relaxed),
            Err(error) => tracing::debug!(%error, "the fleet cannot be counted"),
        }
    }
}

async fn tick(inner: &Arc<Inner>, leases: &Leases) {
    let now = inner.clock.now();
    let fleet = leases.fleet();
    // Not all under one lock: requests take it, too.
    let busy: Vec<_> = leases.busy().values().cloned().collect();
    let (mut asks, mut done) = (Vec::new(), Vec::new());
    for meter in busy {
        match with(&meter, |leased| leased.tick(now, fleet)) {
            Some(Tick::Tell(ask)) => asks.push((meter, ask)),
            Some(Tick::Wait) => {}
            Some(Tick::Forget) | None => done.push(meter.party()),
        }
    }
    leases.forget(&done, now);
    // What keeps others out, if it lapses, first.
    asks.sort_by_key(|(_, ask)| ask.slots_held == 0);
    tell(inner, leases, asks).await;
}

impl Leases {
    fn forget(&self, parties: &[Party], now: Moment) {
        let mut busy = self.busy();
        for party in parties {
            // It may have been lent something since.
            let is_done = |meter: &Arc<Meter>| with(meter, |leased| leased.holds_nothing(now));
            if busy.get(party).and_then(is_done).unwrap_or(false) {
                busy.remove(party);
            }
        }
    }
}

async fn tell(inner: &Arc<Inner>, leases: &Leases, asks: Vec<(Arc<Meter>, Ask)>) {
    let tell = |(meter, ask): (Arc<Meter>, Ask)| async move {
        let load = || exchange(Arc::clone(inner), Arc::clone(&meter), Question::This(ask));
        // What could not be told is told with the next tick.
        match leases.asking.join(meter.party(), load).await {
            Ok(_) | Err(_) => {}
        }
    };
    stream::iter(asks).for_each_concurrent(ASKS_MAX, tell).await;
}

/// Gives everything back that is not in use.
pub(super) async fn return_all(inner: &Arc<Inner>) {
    let Some(leases) = inner.leases() else { return };
    let (now, fleet) = (inner.clock.now(), leases.fleet());
    let busy: Vec<_> = leases.busy().values().cloned().collect();
    let ask = |meter: Arc<Meter>| {
        let ask = with(&meter, |leased| leased.give_all_back(now, fleet))?;
        Some((meter, ask))
    };
    let asks = busy.into_iter().filter_map(ask).collect();
    if timeout(GOODBYE_MAX, tell(inner, leases, asks)).await.is_err() {
        tracing::debug!("not all that was lent went back in time");
    }
}

impl Inner {
    fn leases(&self) -> Option<&Leases> {
        match &self.keeper {
            Keeper::Fleet(leases) => Some(leases),
            Keeper::Nobody | Keeper::File(_) => None,
        }
    }
}

/// Does something with a leased meter.
fn with<T>(meter: &Meter, act: impl FnOnce(&mut Leased) -> T) -> Option<T> {
    match &mut *meter.lock() {
        Counters::Leased(leased) => Some(act(leased)),
        Counters::Local(_) => None,
    }
}
