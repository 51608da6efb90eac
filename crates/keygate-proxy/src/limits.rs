//! The limits of a key as a request meets them: the terms that count, the charge that it holds to
//! its end, and how its client is told. The counters are the limiter's; what may pass is the core's to
//! say.

use std::time::Duration;

use http::{HeaderName, HeaderValue};
use keygate_config::LimitSettings;
use keygate_core::limit::Moment;
use keygate_core::limit::policy::{Few, Policy, Use};
use keygate_core::limit::terms::Terms;
use keygate_core::{Denial, KeyRecord, Permit, UnixMillis};
use keygate_store::limits::{Charge, Limiter};
use quanta::Instant;

use crate::expiry::KEY_EXPIRES;
use crate::failure::Seldom;
use crate::snapshot::Snapshot;

const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const X_LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const X_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const X_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// The largest integer of a structured field (RFC 9651 section 3.3.1).
const INTEGER_MAX: u64 = 999_999_999_999_999;
/// Room for a rate and a quota, so that nearly every text is made in one piece.
const TEXT_BYTES: usize = 64;
const UNKNOWN_TIER_TOLD_EVERY: Duration = Duration::from_secs(60);

/// Charges requests, and says what their clients are told.
pub(crate) struct KeyLimits {
    limiter: Limiter,
    unix: fn() -> UnixMillis,
    unknown_tier: Seldom,
}

impl KeyLimits {
    pub(crate) fn new(limiter: Limiter, unix: fn() -> UnixMillis) -> Self {
        Self { limiter, unix, unknown_tier: Seldom::every(UNKNOWN_TIER_TOLD_EVERY) }
    }

    /// Two readings of clocks as the limiter counts.
    pub(crate) fn moment(&self, mono: Instant, unix: UnixMillis) -> Moment {
        self.limiter.moment(mono, unix)
    }

    /// Step 11: charges a request to all limits of its key, or to none. Nothing for a key without
    /// limits. `told` is set when the request is refused.
    ///
    /// # Errors
    /// [`Denial::OverLimit`].
    pub(crate) async fn charge(
        &self,
        snapshot: &Snapshot,
        permit: &Permit,
        cost: u64,
        now: Moment,
        told: &mut Told,
    ) -> Result<Option<Charged>, Denial> {
        let Some(key) = permit.key() else { return Ok(None) };
        let tier = key.tier.as_deref().and_then(|name| self.tier(snapshot, name, now));
        let Some(terms) = terms(snapshot, tier, key) else { return Ok(None) };
        match self.limiter.charge(key, &terms, cost, now).await {
            Ok(charge) => Ok(Some(Charged { tier, charge: Some(charge) })),
            Err(over) => {
                *told = self.tell(snapshot, tier, key, now);
                Err(Denial::OverLimit(over))
            }
        }
    }

    /// What the client of a charged request is told now.
    pub(crate) fn told(&self, snapshot: &Snapshot, key: &KeyRecord, charged: &Charged) -> Told {
        let now = self.moment(Instant::now(), (self.unix)());
        self.tell(snapshot, charged.tier, key, now)
    }

    fn tell(&self, snapshot: &Snapshot, tier: Option<usize>, key: &KeyRecord, now: Moment) -> Told {
        let LimitSettings { headers, x_headers, .. } = snapshot.config.limits;
        if !headers && !x_headers {
            return Told::default();
        }
        let Some(terms) = terms(snapshot, tier, key) else { return Told::default() };
        let uses = self.limiter.uses_here(key, &terms, now);
        let known = || tier.and_then(|place| snapshot.policy_text(place)).cloned();
        let policy = || if key.overrides().is_none() { known() } else { policy_text(&terms) };
        Told {
            policy: headers.then(policy).flatten(),
            left: headers.then(|| left_text(&uses)).flatten(),
            nearest: x_headers.then(|| nearest(&uses)).flatten(),
            end: None,
        }
    }

    /// Where in the configuration a tier is. One that is not there any more limits nothing.
    fn tier(&self, snapshot: &Snapshot, name: &str, now: Moment) -> Option<usize> {
        let place = snapshot.tier_place(name);
        if place.is_none() && self.unknown_tier.is_time(now.mono_ns) {
            tracing::warn!(
                tier = name,
                "keys are in a tier that the configuration does not have: its limits are not enforced"
            );
        }
        place
    }
}

fn terms<'a>(snapshot: &'a Snapshot, tier: Option<usize>, key: &'a KeyRecord) -> Option<Terms<'a>> {
    Terms::of(tier.and_then(|place| snapshot.tier_limits(place)), key.overrides())
}

/// A request that was charged. Dropping it gives its slot back, and its units too unless they were
/// [kept](Self::keep), however it is that the request ends.
pub(crate) struct Charged {
    tier: Option<usize>,
    charge: Option<Charge>,
}

impl Charged {
    /// An upstream is about to be sent the request: from here on it costs, whatever comes of it.
    pub(crate) fn keep(&mut self) {
        if let Some(charge) = &mut self.charge {
            charge.keep();
        }
    }

    /// Whether the request had to wait for its charge.
    pub(crate) fn has_waited(&self) -> bool {
        self.charge.as_ref().is_some_and(Charge::has_waited)
    }

    /// Nothing more is done on behalf of the key, even if its client still has to be answered.
    pub(crate) fn end(&mut self) {
        self.charge = None;
    }
}

/// What a client is told of its limits and of its key's end: nothing if it has none, or if the operator
/// says so.
#[derive(Clone, Default)]
pub(crate) struct Told {
    policy: Option<HeaderValue>,
    left: Option<HeaderValue>,
    nearest: Option<Use>,
    /// When the key ends, if that is soon.
    end: Option<HeaderValue>,
}

impl Told {
    /// The same, with when the key ends.
    pub(crate) fn of_end(self, end: Option<HeaderValue>) -> Self {
        Self { end, ..self }
    }

    /// As headers, which take the place of any that an upstream has sent.
    pub(crate) fn headers(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        let number = |name, read: fn(&Use) -> u64| {
            self.nearest.as_ref().map(|nearest| (name, HeaderValue::from(read(nearest))))
        };
        [
            self.policy.clone().map(|text| (RATE_LIMIT_POLICY, text)),
            self.left.clone().map(|text| (RATE_LIMIT, text)),
            number(X_LIMIT, |nearest| nearest.limit),
            number(X_REMAINING, |nearest| nearest.remaining),
            number(X_RESET, |nearest| whole_seconds(nearest.resets_in)),
            self.end.clone().map(|end| (KEY_EXPIRES, end)),
        ]
        .into_iter()
        .flatten()
    }
}

/// The value of `RateLimit-Policy`: the same for every request under these terms. Concurrency has no
/// item, since no time brings it back.
pub(crate) fn policy_text(terms: &Terms<'_>) -> Option<HeaderValue> {
    let rate = terms.rate.map(|limit| (Policy::Rate, limit.burst(), limit.refill()));
    let quotas = terms.quotas.iter();
    let quotas =
        quotas.map(|quota| (Policy::Quota(quota.unit), quota.count, quota.unit.duration()));
    let mut text = Vec::with_capacity(TEXT_BYTES);
    for (policy, limit, window) in rate.into_iter().chain(quotas) {
        push_item(&mut text, policy, [(b"q", limit), (b"w", whole_seconds(window))]);
    }
    header_value(text)
}

/// The value of `RateLimit`.
fn left_text(uses: &Few<Use>) -> Option<HeaderValue> {
    let mut text = Vec::with_capacity(TEXT_BYTES);
    for used in timed(uses) {
        let resets_in = whole_seconds(used.resets_in);
        push_item(&mut text, used.policy, [(b"r", used.remaining), (b"t", resets_in)]);
    }
    header_value(text)
}

/// The policy that leaves the least; of several, the one that takes longest to come back.
fn nearest(uses: &Few<Use>) -> Option<Use> {
    timed(uses).min_by_key(|used| (used.remaining, std::cmp::Reverse(used.resets_in)))
}

fn timed(uses: &Few<Use>) -> impl Iterator<Item = Use> {
    uses.iter().filter(|used| used.policy != Policy::Concurrency)
}

/// One member of a list: a string with two parameters (RFC 9651 section 3.1).
fn push_item(text: &mut Vec<u8>, policy: Policy, parameters: [(&[u8; 1], u64); 2]) {
    if !text.is_empty() {
        text.extend_from_slice(b", ");
    }
    text.push(b'"');
    text.extend_from_slice(policy.name().as_bytes());
    text.push(b'"');
    for (name, value) in parameters {
        text.push(b';');
        text.extend_from_slice(name);
        text.push(b'=');
        push_number(text, value.min(INTEGER_MAX));
    }
}

fn push_number(text: &mut Vec<u8>, number: u64) {
    text.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

fn header_value(text: Vec<u8>) -> Option<HeaderValue> {
    if text.is_empty() {
        None
    } else {
        HeaderValue::from_maybe_shared(bytes::Bytes::from(text)).ok()
    }
}

/// Rounded up: a client that waits this long has waited long enough.
pub(crate) fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs().saturating_add(u64::from(duration.subsec_nanos() > 0))
}

#[cfg(test)]
mod tests {
    use keygate_core::limit::terms::{Limits, RateLimit};
    use keygate_core::limit::{Rate, Unit};

    use super::*;

    fn rate(text: &str) -> Rate {
        text.parse().unwrap()
    }

    fn policies(rate_and_burst: Option<(&str, u64)>, quotas: &[&str]) -> Option<String> {
        let limits = Limits {
            rate: rate_and_burst.map(|(text, burst)| RateLimit::new(rate(text), Some(burst))),
            quotas: quotas.iter().map(|text| rate(text)).collect(),
            concurrency: Some(5),
            ..Limits::default()
        };
        let text = policy_text(&Terms::of(Some(&limits), None).unwrap());
        text.map(|text| text.to_str().unwrap().to_owned())
    }

    fn used(policy: Policy, limit: u64, remaining: u64, resets_in_ms: u64) -> Use {
        let resets_in = Duration::from_millis(resets_in_ms);
        Use { policy, limit, remaining, window: Duration::ZERO, resets_in }
    }

    fn uses(all: &[Use]) -> Few<Use> {
        let mut uses = Few::default();
        all.iter().for_each(|one| uses.push(*one));
        uses
    }

    #[test]
    fn every_policy_with_a_window_has_its_item_in_order() {
        assert_eq!(
            policies(Some(("200/s", 200)), &["1000/day", "20000/month"]).as_deref(),
            Some("\"rate\";q=200;w=1, \"day\";q=1000;w=86400, \"month\";q=20000;w=2592000")
        );
        assert_eq!(policies(None, &["5/minute"]).as_deref(), Some("\"minute\";q=5;w=60"));
        assert_eq!(policies(None, &[]), None, "concurrency alone has no item");
    }

    #[test]
    fn the_window_of_a_rate_is_what_refills_its_bucket_rounded_up() {
        assert_eq!(policies(Some(("3/s", 10)), &[]).as_deref(), Some("\"rate\";q=10;w=4"));
        assert_eq!(policies(Some(("1000/s", 1)), &[]).as_deref(), Some("\"rate\";q=1;w=1"));
    }

    #[test]
    fn what_is_left_is_said_for_the_same_policies_with_whole_seconds() {
        let uses = uses(&[
            used(Policy::Concurrency, 5, 4, 0),
            used(Policy::Rate, 200, 150, 250),
            used(Policy::Quota(Unit::Day), 1_000, 0, 3_600_000),
            used(Policy::Quota(Unit::Month), u64::MAX, u64::MAX, 0),
        ]);
        assert_eq!(
            left_text(&uses).unwrap(),
            "\"rate\";r=150;t=1, \"day\";r=0;t=3600, \"month\";r=999999999999999;t=0"
        );
        assert_eq!(left_text(&Few::default()), None);
    }

    #[test]
    fn the_older_headers_tell_of_the_policy_that_leaves_the_least() {
        let headers = |all: &[Use]| {
            let told = Told { nearest: nearest(&uses(all)), ..Told::default() };
            told.headers()
                .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
                .collect::<Vec<_>>()
        };
        let slots = used(Policy::Concurrency, 5, 0, 0);
        let day = used(Policy::Quota(Unit::Day), 1_000, 20, 7_000);
        assert_eq!(
            headers(&[slots, used(Policy::Rate, 200, 150, 250), day]),
            ["x-ratelimit-limit: 1000", "x-ratelimit-remaining: 20", "x-ratelimit-reset: 7"]
        );
        assert_eq!(
            headers(&[slots, used(Policy::Rate, 200, 20, 250), day]),
            ["x-ratelimit-limit: 1000", "x-ratelimit-remaining: 20", "x-ratelimit-reset: 7"],
            "of two that leave the same, the one that takes longer to come back"
        );
        assert!(headers(&[slots]).is_empty());
    }

    #[test]
    fn seconds_are_rounded_up() {
        assert_eq!(whole_seconds(Duration::ZERO), 0);
        assert_eq!(whole_seconds(Duration::from_nanos(1)), 1);
        assert_eq!(whole_seconds(Duration::from_millis(1_000)), 1);
        assert_eq!(whole_seconds(Duration::from_millis(1_001)), 2);
    }

    #[test]
    fn numbers_are_written_in_decimal() {
        for number in [0, 7, 10, 109, u64::MAX] {
            let mut text = b"=".to_vec();
            push_number(&mut text, number);
            assert_eq!(String::from_utf8(text).unwrap(), format!("={number}"));
        }
    }
}
