//! `/v1/keys`: finds keys over all apps by what they are.

use std::str::FromStr;
use std::time::Duration;

use axum::extract::{FromRequestParts, Query, State};
use axum::http::request::Parts;
use axum::{Extension, Json};
use keygate_core::{AccountId, AppId, KeyId, UnixMillis};
use keygate_store::keys::KeyStore;
use keygate_telemetry::logging::mask;
use serde::Deserialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::keys::ListedAnswer;
use crate::openapi::{self, PageParams, Time};
use crate::page::{self, List};
use crate::problem::{Problem, ProblemCode};
use crate::registry::{Actor, Found, KeyFilter, KeyState, Place, Registry, Search, Within};
use crate::times;

/// Longer than any hint.
const HINT_LENGTH_MAX: usize = 64;
/// Between the parts of a cursor. It needs no escape in a URL.
const SEPARATOR: char = '~';

pub(crate) fn routes<S: KeyStore>() -> OpenApiRouter<Registry<S>> {
    OpenApiRouter::default().routes(routes!(all))
}

/// List keys over all apps
///
/// A page may be short, or empty, and `next` be there all the same: go on until it is null.
#[utoipa::path(
    get, path = "/v1/keys", operation_id = "keys.list", tag = "keys",
    params(FilterParams, PageParams),
    responses((
        status = 200, description = "Keys, by account and app", body = List<ListedAnswer>,
    )),
)]
async fn all<S: KeyStore>(
    State(registry): State<Registry<S>>,
    Extension(by): Extension<Actor>,
    query: KeysQuery,
) -> Result<Json<List<ListedAnswer>>, Problem> {
    let search = query.search(None, registry.now())?;
    found(&registry, &by, &search).await
}

/// The answer to a search.
pub(crate) async fn found<S: KeyStore>(
    registry: &Registry<S>,
    by: &Actor,
    search: &Search,
) -> Result<Json<List<ListedAnswer>>, Problem> {
    let Found { keys, next } = registry.search(by, search).await?;
    let now = registry.now();
    let items = keys.into_iter().map(|found| ListedAnswer::new(found, now)).collect();
    Ok(Json(List::new(items, next.map(cursor))))
}

/// Which keys are asked for. All that is given has to be so.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only its documentation is used")]
pub(crate) struct FilterParams {
    #[param(value_type = Option<openapi::AccountId>)]
    account_id: Option<String>,
    #[param(value_type = Option<openapi::AppId>)]
    app_id: Option<String>,
    #[param(value_type = Option<openapi::KeyStatus>)]
    status: Option<String>,
    #[param(value_type = Option<openapi::Environment>)]
    environment: Option<String>,
    #[param(value_type = Option<openapi::KeyKind>)]
    kind: Option<String>,
    /// What the hint begins with.
    #[param(max_length = 64)]
    hint: Option<String>,
    /// Live keys that end within this span, such as `7d`.
    expiring_within: Option<String>,
    /// Live keys that end before this.
    #[param(value_type = Option<Time>)]
    expiring_before: Option<String>,
    /// Keys that were made longer ago than this span, such as `90d`.
    older_than: Option<String>,
    /// Keys that have not been used since: last before this, or never and made before this.
    #[param(value_type = Option<Time>)]
    last_used_before: Option<String>,
    /// Live keys that are older than the `max_age` of their tier or app.
    past_policy: Option<bool>,
    /// Keys that another system made.
    imported: Option<bool>,
}

/// The same, and which part of the list, as it is sent.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeysQuery {
    limit: Option<usize>,
    cursor: Option<String>,
    account_id: Option<String>,
    app_id: Option<String>,
    status: Option<String>,
    environment: Option<String>,
    kind: Option<String>,
    hint: Option<String>,
    expiring_within: Option<String>,
    expiring_before: Option<String>,
    older_than: Option<String>,
    last_used_before: Option<String>,
    past_policy: Option<String>,
    imported: Option<String>,
}

impl<S: Send + Sync> FromRequestParts<S> for KeysQuery {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(query)) => Ok(query),
            Err(error) => {
                let detail = format!("The query: {}.", error.body_text());
                Err(Problem::new(ProblemCode::BadRequest, detail))
            }
        }
    }
}

impl KeysQuery {
    /// # Errors
    /// 400: a parameter has a value that it cannot have.
    pub(crate) fn search(
        &self,
        within: Option<Within>,
        now: UnixMillis,
    ) -> Result<Search, Problem> {
        let limit = self.limit.unwrap_or(page::LIMIT_DEFAULT);
        page::check_limit("limit", limit)?;
        let account = id::<AccountId>("account_id", self.account_id.as_deref())?;
        let app = id::<AppId>("app_id", self.app_id.as_deref())?;
        let within = within.unwrap_or(match (account, app) {
            (_, Some(app)) => Within::App(app),
            (Some(account), None) => Within::Account(account),
            (None, None) => Within::Everything,
        });
        let after = self.cursor.as_deref().map(read_cursor).transpose()?;
        if after.is_some_and(|place| !fits(within, place)) {
            return Err(wrong("cursor", CURSOR_RULE));
        }
        let filter = KeyFilter { account, app, ..self.filter(now)? };
        Ok(Search { within, filter, after, limit })
    }

    fn filter(&self, now: UnixMillis) -> Result<KeyFilter, Problem> {
        let within = span("expiring_within", self.expiring_within.as_deref())?;
        let before = time("expiring_before", self.expiring_before.as_deref())?;
        let ends_within = within.map(|span| now.saturating_add(span));
        let older_than = span("older_than", self.older_than.as_deref())?;
        Ok(KeyFilter {
            account: None,
            app: None,
            state: self.status.as_deref().map(read_state).transpose()?,
            environment: word("environment", self.environment.as_deref(), "write live or test")?,
            kind: word("kind", self.kind.as_deref(), "write sk, pk or rk")?,
            hint: self.hint.as_deref().map(read_hint).transpose()?,
            ends_before: ends_within.into_iter().chain(before).min(),
            created_before: older_than.map(|span| ago(now, span)),
            used_before: time("last_used_before", self.last_used_before.as_deref())?,
            past_policy: word("past_policy", self.past_policy.as_deref(), "write true or false")?,
            imported: word("imported", self.imported.as_deref(), "write true or false")?,
        })
    }
}

fn ago(now: UnixMillis, span: Duration) -> UnixMillis {
    UnixMillis(now.0.saturating_sub(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
}

fn wrong(parameter: &str, rule: &str) -> Problem {
    Problem::new(ProblemCode::BadRequest, format!("`{parameter}`: {rule}."))
}

fn id<T: FromStr>(parameter: &str, text: Option<&str>) -> Result<Option<T>, Problem> {
    word(parameter, text, "write an id, with its prefix")
}

fn word<T: FromStr>(parameter: &str, text: Option<&str>, rule: &str) -> Result<Option<T>, Problem> {
    text.map(|text| text.parse().map_err(|_| wrong(parameter, rule))).transpose()
}

fn span(parameter: &str, text: Option<&str>) -> Result<Option<Duration>, Problem> {
    let read = |text| {
        times::span(text)
            .ok_or_else(|| wrong(parameter, "write a span with its unit: `12h` or `7d`"))
    };
    text.map(read).transpose()
}

fn time(parameter: &str, text: Option<&str>) -> Result<Option<UnixMillis>, Problem> {
    text.map(|text| times::time(text).ok_or_else(|| wrong(parameter, times::TIME_RULE))).transpose()
}

fn read_state(word: &str) -> Result<KeyState, Problem> {
    match word {
        "active" => Ok(KeyState::Active),
        "disabled" => Ok(KeyState::Disabled),
        "revoked" => Ok(KeyState::Revoked),
        "expired" => Ok(KeyState::Expired),
        _ => Err(wrong("status", "write active, disabled, revoked or expired")),
    }
}

fn read_hint(text: &str) -> Result<String, Problem> {
    if mask(text) != text {
        return Err(wrong("hint", "write the first characters of the key, never the key"));
    }
    if !(1..=HINT_LENGTH_MAX).contains(&text.len()) {
        return Err(wrong("hint", "write the first characters of the key: `sk_live_9f`"));
    }
    Ok(text.to_owned())
}

const CURSOR_RULE: &str = "it is the `next` of the page before, of the same list";

/// The place as a text that the next call sends back.
fn cursor(Place { account, app, key }: Place) -> String {
    let app = app.map(|app| app.to_string());
    let key = key.map(|key| key.to_string());
    let parts: Vec<String> = [Some(account.to_string()), app, key].into_iter().flatten().collect();
    parts.join(&SEPARATOR.to_string())
}

fn read_cursor(text: &str) -> Result<Place, Problem> {
    let place = || {
        let mut parts = text.split(SEPARATOR);
        let account = parts.next()?.parse::<AccountId>().ok()?;
        let app = parts.next().map(|part| part.parse::<AppId>()).transpose().ok()?;
        let key = parts.next().map(|part| part.parse::<KeyId>()).transpose().ok()?;
        parts.next().is_none().then_some(Place { account, app, key })
    };
    place().ok_or_else(|| wrong("cursor", CURSOR_RULE))
}

/// Whether a list of these keys can have got there.
fn fits(within: Within, place: Place) -> bool {
    match within {
        Within::Everything => true,
        Within::Account(account) => place.account == account,
        Within::App(app) => place.app == Some(app),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_was_written() {
        let (at, entropy) = (UnixMillis(1_893_456_000_000), [7; 10]);
        let (account, app) = (AccountId::new(at, entropy), AppId::new(at, entropy));
        let key = KeyId::new(at, entropy);
        for (app, key) in [(None, None), (Some(app), None), (Some(app), Some(key))] {
            let place = Place { account, app, key };
            assert_eq!(read_cursor(&cursor(place)).unwrap(), place);
        }
        for text in [
            "",
            "x",
            &format!("{account}~"),
            &format!("{account}~{key}"),
            &format!("{account}~{app}~{key}~"),
        ] {
            assert!(read_cursor(text).is_err(), "{text}");
        }
    }
}
