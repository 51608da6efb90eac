//! `/v1/top`: who calls this gateway most, by requests, refusals or bytes.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::{Extension, Json};
use keygate_core::UnixMillis;
use keygate_core::top::{Counts, Measure, TopClient, TopKey, TopQuery, Window};
use keygate_store::keys::KeyStore;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::openapi::{AccountId, AppId, KeyId, Time, TopMeasure, TopWindow};
use crate::page;
use crate::problem::{Problem, ProblemCode};
use crate::registry::{Actor, Registry, TopView};
use crate::times::rfc3339;

const LIMIT_DEFAULT: usize = 20;

pub(crate) fn routes<S: KeyStore>() -> OpenApiRouter<Registry<S>> {
    OpenApiRouter::default().routes(routes!(show))
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Asked {
    /// The last minute, ten minutes or hour; a minute if not given.
    #[param(value_type = Option<TopWindow>)]
    window: Option<String>,
    /// What somebody is at the top by; requests if not given.
    #[param(value_type = Option<TopMeasure>)]
    by: Option<String>,
    /// How many keys at most, and how many clients; 20 if not given.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<usize>,
}

impl Asked {
    fn query(&self) -> Result<TopQuery, Problem> {
        let window = word(self.window.as_deref(), &Window::ALL, |window| window.as_str());
        let by = word(self.by.as_deref(), &Measure::ALL, |measure| measure.as_str());
        let limit = self.limit.unwrap_or(LIMIT_DEFAULT);
        page::check_limit("limit", limit)?;
        Ok(TopQuery {
            window: window.ok_or_else(|| wrong("`window` is `1m`, `10m` or `1h`."))?,
            by: by.ok_or_else(|| wrong("`by` is `requests`, `refusals` or `bytes`."))?,
            limit,
        })
    }
}

/// Which of these is meant; the first if it is not said.
fn word<T: Copy + Default>(
    said: Option<&str>,
    all: &[T],
    name: fn(T) -> &'static str,
) -> Option<T> {
    match said {
        None => Some(T::default()),
        Some(said) => all.iter().copied().find(|one| name(*one) == said),
    }
}

fn wrong(why: impl Into<std::borrow::Cow<'static, str>>) -> Problem {
    Problem::new(ProblemCode::BadRequest, why)
}

/// Those at the top.
#[derive(Serialize, ToSchema)]
#[schema(as = Top)]
struct Answer {
    /// The gateway that counted.
    gateway: String,
    #[schema(value_type = Time)]
    started_at: String,
    #[schema(value_type = TopWindow)]
    window: &'static str,
    #[schema(value_type = TopMeasure)]
    by: &'static str,
    /// When the window begins: its length ago or up to a sixth before that, or when the gateway started.
    #[schema(value_type = Time)]
    from: String,
    /// When it ends: a second or two ago at most.
    #[schema(value_type = Time)]
    as_of: String,
    /// Its length in seconds.
    seconds: f64,
    /// All requests of the gateway that have ended, those without a known key included.
    totals: TopCounts,
    /// No key has more than this without being followed.
    error_max: TopCounts,
    items: Vec<KeyAnswer>,
    /// The addresses (of IPv6: networks) whose requests were refused most often and had no known key. What
    /// the gateway or its store could not do is not counted.
    clients: Vec<ClientAnswer>,
}

#[derive(Serialize, ToSchema)]
struct TopCounts {
    requests: u64,
    refusals: u64,
    /// Of bodies, both ways.
    bytes: u64,
}

impl From<Counts> for TopCounts {
    fn from(Counts { requests, refusals, bytes }: Counts) -> Self {
        Self { requests, refusals, bytes }
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = TopKey)]
struct KeyAnswer {
    #[schema(value_type = KeyId)]
    key_id: String,
    /// The first characters of the key.
    hint: String,
    #[schema(value_type = AppId)]
    app_id: String,
    #[schema(value_type = AccountId)]
    account_id: String,
    /// What the key did for certain; it is more by `error` at most.
    requests: u64,
    refusals: u64,
    bytes: u64,
    error: TopCounts,
    /// Its part of the gateway's total, from 0 to 1.
    share: f64,
    /// What it did in each of the last 60 seconds, by what the list is ordered by; the last one last. Zero
    /// where hundreds of others did more in that second.
    series: Vec<u64>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = TopClient)]
struct ClientAnswer {
    /// An IPv4 address, or an IPv6 network such as `2001:db8::/64`.
    network: String,
    /// How many for certain; there are more by `error` at most.
    refusals: u64,
    error: u64,
    /// Its part of all refusals of the gateway, from 0 to 1.
    share: f64,
}

impl Answer {
    fn new(query: TopQuery, TopView { gateway, list }: TopView) -> Self {
        let covers = u64::try_from(list.covers.as_millis()).unwrap_or(u64::MAX);
        let from = UnixMillis(list.as_of.0.saturating_sub(covers));
        let total = list.all.of(query.by);
        Self {
            gateway: gateway.id,
            started_at: rfc3339(gateway.started_at),
            window: query.window.as_str(),
            by: query.by.as_str(),
            from: rfc3339(from),
            as_of: rfc3339(list.as_of),
            seconds: list.covers.as_secs_f64(),
            totals: list.all.into(),
            error_max: list.missed_max.into(),
            items: list.keys.into_iter().map(|key| key_answer(key, query.by, total)).collect(),
            clients: list
                .clients
                .into_iter()
                .map(|c| client_answer(c, list.all.refusals))
                .collect(),
        }
    }
}

fn key_answer(key: TopKey, by: Measure, total: u64) -> KeyAnswer {
    let TopKey { id, who, counts, missed, series } = key;
    KeyAnswer {
        key_id: id.to_string(),
        hint: who.hint.as_str().to_owned(),
        app_id: who.app.to_string(),
        account_id: who.account.to_string(),
        requests: counts.requests,
        refusals: counts.refusals,
        bytes: counts.bytes,
        error: missed.into(),
        share: share(counts.of(by), total),
        series,
    }
}

fn client_answer(client: TopClient, total: u64) -> ClientAnswer {
    let TopClient { network, refusals, missed } = client;
    let share = share(refusals, total);
    ClientAnswer { network: network.to_string(), refusals, error: missed, share }
}

/// To four digits behind the point.
fn share(part: u64, whole: u64) -> f64 {
    let share = part as f64 / whole.max(1) as f64;
    (share * 10_000.0).round() / 10_000.0
}

/// Who calls this gateway most
///
/// Of the gateway that answers, since it started, of requests that have ended; other gateways of the fleet
/// have lists of their own. Memory is bounded, so small numbers may be too small: each comes with the most
/// that it may lack, and whoever has a thousandth of all requests, refusals or bytes is followed.
#[utoipa::path(
    get, path = "/v1/top", operation_id = "top.show", tag = "watch",
    params(Asked),
    responses((status = 200, description = "The keys and clients at the top", body = Answer)),
)]
async fn show<S: KeyStore>(
    State(registry): State<Registry<S>>,
    Extension(by): Extension<Actor>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Result<Json<Answer>, Problem> {
    let Query(asked) = asked.map_err(|error| wrong(format!("{}.", error.body_text())))?;
    let query = asked.query()?;
    Ok(Json(Answer::new(query, registry.top(&by, query)?)))
}
