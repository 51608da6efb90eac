//! `/v1/usage`: what was used, to bill from. `/v1/keys/{id}/usage`: when a key was last used, so that one
//! sees when an old key has gone quiet.

mod csv;
mod query;

use std::collections::BTreeMap;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use keygate_core::KeyId;
use keygate_store::keys::KeyStore;
use keygate_store::usage::records::UsageCounts;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::query::{Form, UsageParams, cursor, group_name, step_name};
use crate::openapi::{self, NotFound, Time, UsageGroupName, UsageStep};
use crate::problem::Problem;
use crate::registry::{Actor, KeyUsage, Registry, UsageAsked, UsageFound, UsageSum};
use crate::request::Id;
use crate::times::rfc3339;

pub(crate) fn routes<S: KeyStore>() -> OpenApiRouter<Registry<S>> {
    OpenApiRouter::default().routes(routes!(show)).routes(routes!(all))
}

#[derive(Serialize, ToSchema)]
#[schema(as = KeyUsage)]
struct Answer {
    #[schema(value_type = openapi::KeyId)]
    key_id: String,
    /// To a few seconds, or about a minute while many keys are in use; nothing if it never was.
    #[schema(value_type = Option<Time>)]
    last_used_at: Option<String>,
    /// The client's address then, if it was noted.
    last_used_from: Option<String>,
    /// The route then, by its name; one of them, if there were several within one millisecond.
    last_used_route: Option<String>,
    /// Since then, in whole seconds.
    idle_s: Option<u64>,
    /// What was used since midnight, UTC.
    today: UsageTotals,
    /// What was used since the first of the month, UTC; null if use is not kept for so long.
    this_month: Option<UsageTotals>,
    #[schema(value_type = Time)]
    as_of: String,
    #[schema(value_type = Option<openapi::KeyId>)]
    rotated_from: Option<String>,
    #[schema(value_type = Option<openapi::KeyId>)]
    rotated_to: Option<String>,
}

impl From<KeyUsage> for Answer {
    fn from(usage: KeyUsage) -> Self {
        let KeyUsage { key, last, today, this_month, as_of } = usage;
        let last_used_at = last.as_ref().map(|last| last.at);
        Self {
            key_id: key.id.to_string(),
            last_used_at: last_used_at.map(rfc3339),
            last_used_from: last.as_ref().and_then(|last| Some(last.address?.to_string())),
            last_used_route: last.and_then(|last| Some(last.route?.to_string())),
            idle_s: last_used_at.map(|used| as_of.0.saturating_sub(used.0) / 1_000),
            today: today.into(),
            this_month: this_month.map(UsageTotals::from),
            as_of: rfc3339(as_of),
            rotated_from: key.rotated_from.map(|id| id.to_string()),
            rotated_to: key.rotated_to.map(|id| id.to_string()),
        }
    }
}

/// Show when a key was last used, and how much lately
#[utoipa::path(
    get, path = "/v1/keys/{id}/usage", operation_id = "keys.usage", tag = "watch",
    params(("id" = openapi::KeyId, Path)),
    responses((status = 200, description = "Its use, as of now", body = Answer)),
)]
async fn show<S: KeyStore>(
    State(registry): State<Registry<S>>,
    Extension(by): Extension<Actor>,
    Id(id): Id<KeyId>,
) -> Result<Json<Answer>, Problem> {
    Ok(Json(registry.key_usage(&by, id).await?.into()))
}

/// What was used.
#[derive(Serialize, ToSchema)]
#[schema(as = Usage)]
struct UsageAnswer {
    #[schema(value_type = UsageStep)]
    by: &'static str,
    #[schema(value_type = UsageGroupName)]
    group: &'static str,
    /// Of windows that begin then or later,
    #[schema(value_type = Time)]
    from: String,
    /// and before this.
    #[schema(value_type = Time)]
    to: String,
    /// Windows before this one are forgotten (`[usage] keep_…`).
    #[schema(value_type = Time)]
    kept_from: String,
    /// Use up to then is counted, but for the last seconds, or minute while many keys are in use.
    #[schema(value_type = Time)]
    as_of: String,
    items: Vec<UsageRow>,
    /// Of all that was asked for, on the first page; null on those after it.
    totals: Option<UsageTotals>,
    next: Option<String>,
}

/// What was used in one window. What nothing was used in has no row.
#[derive(Serialize, ToSchema)]
struct UsageRow {
    /// When the window began, in UTC.
    #[schema(value_type = Time)]
    start: String,
    /// With `group=route`.
    route: Option<String>,
    /// With `group=key`.
    #[schema(value_type = Option<openapi::KeyId>)]
    key_id: Option<String>,
    #[serde(flatten)]
    counts: UsageTotals,
}

#[derive(Serialize, ToSchema)]
struct UsageTotals {
    /// Requests that were admitted.
    requests: u64,
    /// What they cost, in the routes' units.
    cost: u64,
    /// Of requests' bodies.
    bytes_in: u64,
    /// Of answers' bodies.
    bytes_out: u64,
    /// How many requests were refused, by the problem's code.
    #[schema(value_type = Object)]
    refused: BTreeMap<&'static str, u64>,
}

impl From<UsageCounts> for UsageTotals {
    fn from(counts: UsageCounts) -> Self {
        let UsageCounts { requests, cost, bytes_in, bytes_out, refused } = counts;
        let refused = refused.into_iter().map(|(code, count)| (code.as_str(), count)).collect();
        Self { requests, cost, bytes_in, bytes_out, refused }
    }
}

impl From<UsageSum> for UsageRow {
    fn from(UsageSum { place, counts }: UsageSum) -> Self {
        Self {
            start: rfc3339(place.start),
            route: place.route.map(|route| route.to_string()),
            key_id: place.key.map(|key| key.to_string()),
            counts: counts.into(),
        }
    }
}

impl UsageAnswer {
    fn new(asked: &UsageAsked, found: UsageFound) -> Self {
        let UsageFound { rows, has_more, totals, kept_from, as_of } = found;
        let next = rows.last().filter(|_| has_more).map(|row| cursor(&row.place));
        Self {
            by: step_name(asked.step),
            group: group_name(asked.group),
            from: rfc3339(asked.from),
            to: rfc3339(asked.to),
            kept_from: rfc3339(kept_from),
            as_of: rfc3339(as_of),
            items: rows.into_iter().map(UsageRow::from).collect(),
            totals: totals.map(UsageTotals::from),
            next,
        }
    }
}

/// What was used, by whom and when
///
/// Requests that were admitted, what they cost and how many bytes they had, and requests that were refused:
/// of everybody, or of one account, app or key. As pages, or whole as CSV (`format=csv`, or `Accept:
/// text/csv`).
#[utoipa::path(
    get, path = "/v1/usage", operation_id = "usage.list", tag = "watch",
    params(UsageParams),
    responses((
        status = 200, description = "A row for each window and route or key",
        content((UsageAnswer = "application/json"), (String = "text/csv")),
    ), NotFound),
)]
async fn all<S: KeyStore>(
    State(registry): State<Registry<S>>,
    Extension(by): Extension<Actor>,
    headers: HeaderMap,
    query: Result<Query<UsageParams>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(query) = query.map_err(|error| query::wrong(format!("{}.", error.body_text())))?;
    match query.form(&headers)? {
        Form::Json => {
            let asked = query.asked(registry.now())?;
            let found = registry.usage(&by, &asked).await?;
            Ok(Json(UsageAnswer::new(&asked, found)).into_response())
        }
        Form::Csv => {
            let asked = UsageAsked { limit: csv::ROWS_MAX, ..query.asked(registry.now())? };
            csv::answer(registry.usage(&by, &asked).await?)
        }
    }
}
