//! A key's own limits in requests and answers, what is used of its limits, and how that is reset.

use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use keygate_core::KeyId;
use keygate_core::limit::overrides::{InvalidParts, Parts};
use keygate_core::limit::policy::{Few, Policy, Use};
use keygate_core::limit::terms::{Overrides, RateLimit};
use keygate_core::limit::{InvalidRate, Rate};
use keygate_store::keys::KeyStore;
use keygate_store::records::Key;
use serde::{Deserialize, Serialize};
use serde_json::Number;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::etag::{IfMatch, Tagged, tagged};
use crate::fields;
use crate::keys::ShownAnswer;
use crate::openapi::{self, Conflict};
use crate::problem::{Problem, chain};
use crate::registry::{Actor, LimitsChange, LimitsMerge, Registry};
use crate::request::{BodyOrDefault, Id, Object, given};

pub(crate) fn routes<S: KeyStore>() -> OpenApiRouter<Registry<S>> {
    OpenApiRouter::default().routes(routes!(reset))
}

/// Instead of its tier's.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = LimitsOfKey)]
pub(crate) struct LimitsRequest {
    /// Such as `100/s`.
    rate: Option<String>,
    burst: Option<u64>,
    quotas: Option<Vec<String>>,
    concurrency: Option<u64>,
}

/// What is left out stays, and `null` is as the key's tier says again.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = LimitsChange)]
pub(crate) struct LimitsChangeRequest {
    #[serde(default, deserialize_with = "given")]
    rate: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    burst: Option<Option<u64>>,
    #[serde(default, deserialize_with = "given")]
    quotas: Option<Option<Vec<String>>>,
    #[serde(default, deserialize_with = "given")]
    concurrency: Option<Option<u64>>,
}

/// Limits of the key's own; nothing if no part is there.
pub(crate) fn read(
    Object(request): Object<LimitsRequest>,
) -> Result<Option<Box<Overrides>>, Problem> {
    let parts = Parts {
        rate: request.rate.map(read_rate).transpose()?,
        burst: request.burst,
        quotas: request.quotas.map(read_quotas).transpose()?,
        concurrency: request.concurrency,
    };
    let overrides = Overrides::from_parts(parts);
    let overrides = overrides.map_err(|error| Problem::field(field(error), error))?;
    Ok(overrides.map(Box::new))
}

pub(crate) fn read_change(
    request: Option<Object<LimitsChangeRequest>>,
) -> Result<LimitsChange, Problem> {
    let Some(Object(request)) = request else { return Ok(LimitsChange::TakeAway) };
    Ok(LimitsChange::Merge(LimitsMerge {
        rate: request.rate.map(|text| text.map(read_rate).transpose()).transpose()?,
        burst: request.burst,
        quotas: request.quotas.map(|texts| texts.map(read_quotas).transpose()).transpose()?,
        concurrency: request.concurrency,
    }))
}

fn read_rate(text: String) -> Result<Rate, Problem> {
    text.parse().map_err(|error: InvalidRate| Problem::field("limits.rate", error))
}

fn read_quotas(texts: Vec<String>) -> Result<Vec<Rate>, Problem> {
    let quotas = texts.iter().map(|text| text.parse()).collect::<Result<_, InvalidRate>>();
    quotas.map_err(|error| Problem::field("limits.quotas", error))
}

pub(crate) fn field(error: InvalidParts) -> &'static str {
    match error {
        InvalidParts::Rate => "limits.rate",
        InvalidParts::Burst | InvalidParts::BurstWithoutRate | InvalidParts::SlowBucket(_) => {
            "limits.burst"
        }
        InvalidParts::Quota | InvalidParts::Quotas => "limits.quotas",
        InvalidParts::Concurrency => "limits.concurrency",
    }
}

/// What is `null` is as the key's tier says.
#[derive(Serialize, ToSchema)]
#[schema(as = Limits)]
pub(crate) struct LimitsAnswer {
    rate: Option<String>,
    burst: Option<u64>,
    quotas: Option<Vec<String>>,
    concurrency: Option<u64>,
}

impl LimitsAnswer {
    pub(crate) fn new(overrides: &Overrides) -> Self {
        Self {
            rate: overrides.rate.map(|limit| limit.rate().to_string()),
            burst: overrides.rate.as_ref().map(RateLimit::burst),
            quotas: overrides.quotas.as_ref().map(|all| all.iter().map(Rate::to_string).collect()),
            concurrency: overrides.concurrency,
        }
    }
}

/// How much of one policy is used.
#[derive(Serialize, ToSchema)]
#[schema(as = LimitUse)]
pub(crate) struct UseAnswer {
    policy: &'static str,
    limit: u64,
    remaining: u64,
    used: u64,
    /// Nothing for concurrency: it has no window.
    #[schema(value_type = Option<f64>)]
    window_s: Option<Number>,
    #[schema(value_type = Option<f64>)]
    resets_in_s: Option<Number>,
}

impl UseAnswer {
    fn new(one: Use) -> Self {
        let windowed = |span: Duration| match one.policy {
            Policy::Concurrency => None,
            Policy::Rate | Policy::Quota(_) => Some(seconds(span)),
        };
        Self {
            policy: one.policy.name(),
            limit: one.limit,
            remaining: one.remaining,
            used: one.limit.saturating_sub(one.remaining),
            window_s: windowed(one.window),
            resets_in_s: windowed(one.resets_in),
        }
    }
}

/// In milliseconds' precision, rounded up; whole seconds as a whole number.
fn seconds(span: Duration) -> Number {
    let millis = u64::try_from(span.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
    let whole = Number::from(millis / 1_000);
    if millis.is_multiple_of(1_000) {
        return whole;
    }
    Number::from_f64(Duration::from_millis(millis).as_secs_f64()).unwrap_or(whole)
}

/// What is used of a key's limits, or nothing if nobody can tell now: the record is shown all the same.
pub(crate) async fn current_use<S: KeyStore>(
    registry: &Registry<S>,
    key: &Key,
) -> Option<Vec<UseAnswer>> {
    match registry.current_use(key).await {
        Ok(uses) => Some(Few::iter(&uses).map(UseAnswer::new).collect()),
        Err(error) => {
            tracing::warn!(cause = chain(&error), "what is used of a key's limits is unknown now");
            None
        }
    }
}

#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = LimitsReset)]
struct ResetRequest {
    reason: Option<String>,
}

/// Forget what is used of a key's limits
///
/// By it, and by all who share them.
#[utoipa::path(
    post, path = "/v1/keys/{id}/limits/reset", operation_id = "keys.reset_limits", tag = "keys",
    params(("id" = openapi::KeyId, Path), openapi::IfMatch),
    request_body = Option<ResetRequest>,
    responses(
        (
            status = 200, description = "The key's record", body = ShownAnswer,
            headers(("ETag" = String)),
        ),
        Conflict,
    ),
)]
async fn reset<S: KeyStore>(
    State(registry): State<Registry<S>>,
    Extension(by): Extension<Actor>,
    Id(id): Id<KeyId>,
    IfMatch(expected): IfMatch,
    BodyOrDefault(request): BodyOrDefault<ResetRequest>,
) -> Result<Tagged<ShownAnswer>, Problem> {
    let reason = request.reason.map(fields::reason).transpose()?;
    let key = registry.reset_limits(&by, id, reason.as_deref(), &expected).await?;
    Ok(tagged(key.version, ShownAnswer::new(&registry, key).await))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn spans_are_in_seconds_and_never_too_short() {
        let shown = |nanos: u64| json!(seconds(Duration::from_nanos(nanos)));
        assert_eq!(shown(0), json!(0));
        assert_eq!(shown(1), json!(0.001));
        assert_eq!(shown(250_000_000), json!(0.25));
        assert_eq!(shown(2_000_000_000), json!(2));
        assert_eq!(shown(2_000_000_001), json!(2.001));
        assert!(seconds(Duration::MAX).as_f64() > Some(1e15));
    }
}
