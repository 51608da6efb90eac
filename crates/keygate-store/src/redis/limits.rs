//! Lends parts of a fleet's limits: one script, one value for each party. See `limits.lua` for what
//! is kept and how it is shared out.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use keygate_core::UnixMillis;
use keygate_core::limit::leased::{Answer, Ask, Need, QuotaAnswer, RateAnswer, SlotsAnswer};
use keygate_core::limit::terms::Party;
use redis::{Script, Value};
use serde::Serialize;

use super::fleet;
use super::layout::Names;
use super::primary::{Primary, unavailable};
use super::reply::{self, Malformed, unreadable};
use super::script::Call;
use crate::keys::StoreError;

static LIMITS: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("limits.lua")));

/// A gateway that has not reported for so long has no part in the limits.
const ALIVE_MAX: Duration = Duration::from_secs(5);

/// What lends this gateway its part of the fleet's limits.
#[derive(Clone)]
pub struct Lessor {
    pub(super) primary: Arc<Primary>,
    pub(super) names: Names,
    pub(super) gateway: Arc<str>,
}

impl Lessor {
    /// Whether a question would fail at once.
    pub(crate) fn is_away(&self) -> bool {
        self.primary.is_away()
    }

    /// Asks for units, and tells what is held here.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: what was asked for may have been lent or not.
    pub(crate) async fn ask(&self, party: Party, ask: &Ask) -> Result<Answer, StoreError> {
        self.call(party, ask, Deed::Lend).await
    }

    /// How much is left. Changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub(crate) async fn look(&self, party: Party, ask: &Ask) -> Result<Answer, StoreError> {
        self.call(party, ask, Deed::Look).await
    }

    /// Forgets what was used.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub(crate) async fn reset(&self, party: Party, ask: &Ask) -> Result<(), StoreError> {
        self.call(party, ask, Deed::Reset).await.map(drop)
    }

    /// How many gateways live.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub(crate) async fn gateways(&self) -> Result<u64, StoreError> {
        let fleet = fleet::fleet(&self.primary, &self.names).await?;
        let alive_max = u64::try_from(ALIVE_MAX.as_millis()).unwrap_or(u64::MAX);
        let is_alive = |seen_at: UnixMillis| seen_at.0.saturating_add(alive_max) > fleet.now.0;
        Ok(fleet.members.iter().filter(|member| is_alive(member.seen_at)).count() as u64)
    }

    async fn call(&self, party: Party, ask: &Ask, deed: Deed) -> Result<Answer, StoreError> {
        let form = Form::new(ask, &self.gateway, deed);
        let json = serde_json::to_string(&form).map_err(unavailable)?;
        let call = Call::new(&LIMITS, &self.names.limit(party), 1, json.len() + 16).arg(json);
        let answer = self.primary.lend(async |connection| call.run(connection).await).await?;
        read(ask, answer)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Deed {
    Lend,
    Look,
    Reset,
}

/// A question as the script reads it. Times in milliseconds, but for a rate's period.
#[derive(Serialize)]
struct Form<'a> {
    deed: Deed,
    gateway: &'a str,
    number: u64,
    born: u64,
    held: u64,
    slots_held: u64,
    lease: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<RateForm>,
    quotas: Vec<QuotaForm>,
    #[serde(skip_serializing_if = "Option::is_none")]
    slots: Option<SlotsForm>,
}

#[derive(Serialize)]
struct RateForm {
    count: u64,
    /// In microseconds.
    period: u64,
    burst: u64,
    /// In thousandths of a unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    level: Option<u64>,
    returned: u64,
    debt: u64,
    need: u64,
    want: u64,
}

#[derive(Serialize)]
struct QuotaForm {
    unit: &'static str,
    limit: u64,
    /// The windows' length, but for a month's.
    length: u64,
    ends_at: u64,
    granted: u64,
    need: u64,
    want: u64,
}

#[derive(Serialize)]
struct SlotsForm {
    limit: u64,
    need: u64,
    want: u64,
}

impl<'a> Form<'a> {
    fn new(ask: &Ask, gateway: &'a str, deed: Deed) -> Self {
        let rate = ask.rate.map(|rate| {
            let Need { units: need, wanted: want } = rate.need;
            let period = rate.limit.rate().unit.duration().as_micros();
            RateForm {
                count: rate.limit.rate().count,
                period: u64::try_from(period).unwrap_or(u64::MAX),
                burst: rate.limit.burst(),
                level: rate.level_milli,
                returned: rate.returned,
                debt: rate.debt,
                need,
                want,
            }
        });
        let quotas = ask.quotas.iter().map(|quota| {
            let Need { units: need, wanted: want } = quota.need;
            let unit = quota.quota.unit;
            QuotaForm {
                unit: unit.as_str(),
                limit: quota.quota.count,
                length: u64::try_from(unit.duration().as_millis()).unwrap_or(u64::MAX),
                ends_at: quota.ends_at.0,
                granted: quota.granted,
                need,
                want,
            }
        });
        let slots = ask.slots.map(|slots| {
            let Need { units: need, wanted: want } = slots.need;
            SlotsForm { limit: slots.most, need, want }
        });
        Self {
            deed,
            gateway,
            number: ask.number,
            born: ask.born,
            held: ask.held,
            slots_held: ask.slots_held,
            lease: u64::try_from(ask.lease.as_millis()).unwrap_or(u64::MAX),
            rate,
            quotas: quotas.collect(),
            slots,
        }
    }
}

/// The answer: the time, then for each policy that was asked for its numbers.
fn read(ask: &Ask, answer: Value) -> Result<Answer, StoreError> {
    let numbers = reply::items(answer)?;
    let numbers: Result<Vec<u64>, _> = numbers.iter().map(whole).collect();
    let mut numbers = numbers?.into_iter();
    let mut next = || numbers.next().ok_or_else(|| unreadable(Malformed));
    let now = UnixMillis(next()?);
    let mut answer = Answer { now, rate: None, quotas: Vec::new(), slots: None };
    if ask.rate.is_some() {
        answer.rate = Some(RateAnswer { granted: next()?, level_milli: next()? });
    }
    for _ in &ask.quotas {
        let ends_at = UnixMillis(next()?);
        answer.quotas.push(QuotaAnswer { ends_at, granted: next()?, remaining: next()? });
    }
    if ask.slots.is_some() {
        answer.slots = Some(SlotsAnswer { granted: next()?, free: next()?, allowed: next()? });
    }
    Ok(answer)
}

fn whole(value: &Value) -> Result<u64, StoreError> {
    if let Value::Int(number) = value {
        u64::try_from(*number).map_err(unreadable)
    } else {
        Err(unreadable(Malformed))
    }
}
