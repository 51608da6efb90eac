//! `/v1/audit`: who changed what, when, from where and why, and who was refused; oldest first, or with
//! `tail` the newest only, newest first. `/v1/audit/verify`: whether anybody has changed that.

mod query;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::{Extension, Json};
use keygate_store::audit::Finding;
use keygate_store::keys::{ChangeNumber, KeyStore, Page};
use keygate_store::records::Logged;
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::query::{AuditQuery, VerifyQuery, Wanted, wrong};
use crate::Readiness;
use crate::openapi::Time;
use crate::problem::{Problem, ProblemCode};
use crate::registry::{Actor, AuditFilter, AuditPart, AuditTail, Registry, Verified};
use crate::times::rfc3339;

/// The most calls that wait for an entry at one time. Each has a connection of its own.
const WAITERS_MAX: usize = 16;
/// How often a call that waits looks into the log.
const LOOK_EVERY: Duration = Duration::from_millis(250);
const RETRY_AFTER_WAITERS: Duration = Duration::from_secs(5);

pub(crate) fn routes<S: KeyStore>() -> OpenApiRouter<Registry<S>> {
    OpenApiRouter::default().routes(routes!(all)).routes(routes!(verify))
}

/// Those who wait for an entry. They do not keep a gateway from stopping.
pub(crate) struct Waiting {
    places: Semaphore,
    ready: Arc<dyn Fn() -> Readiness + Send + Sync>,
}

impl Waiting {
    pub(crate) fn new(ready: Arc<dyn Fn() -> Readiness + Send + Sync>) -> Self {
        Self { places: Semaphore::new(WAITERS_MAX), ready }
    }
}

/// One entry, as this API shows it and as a file of the audit log holds it.
#[derive(Serialize, ToSchema)]
#[schema(as = AuditEntry)]
pub struct AuditLine {
    /// Its place in the log. The first entry is 1.
    pub number: u64,
    #[schema(value_type = Time)]
    at: String,
    /// Who asked, such as `token:bootstrap`, `token:tok_…`, `demo` or `anonymous`.
    actor: String,
    /// What was done, such as `key.revoke`; `refused` for an attempt; `unreadable` for an entry that
    /// was damaged.
    action: String,
    /// The id of the record that changed; of an attempt, what was asked for, such as
    /// `POST /v1/keys/{id}/revoke`.
    subject: String,
    /// The first characters of the key.
    hint: Option<String>,
    /// The address that the request came from.
    from: Option<String>,
    reason: Option<String>,
    /// The problem's code, if it was refused: nothing has changed then.
    refused: Option<String>,
    /// Each field that changed, with what it was before and after.
    #[schema(value_type = Object)]
    changes: Map<String, Value>,
    /// The link that ties the entry to all before it, in hex digits; none if an older version wrote it.
    pub hash: Option<String>,
}

impl From<Logged> for AuditLine {
    fn from(Logged { number, entry, seal }: Logged) -> Self {
        Self {
            number: number.0,
            at: rfc3339(entry.at),
            actor: entry.actor,
            action: entry.action,
            subject: entry.subject,
            hint: entry.hint,
            from: entry.from.map(|address| address.to_string()),
            reason: entry.reason,
            refused: entry.refused,
            changes: entry.changes,
            hash: seal.map(|seal| seal.link.to_string()),
        }
    }
}

/// A part of the log.
#[derive(Serialize, ToSchema)]
#[schema(as = AuditEntryList)]
struct ListAnswer {
    items: Vec<AuditLine>,
    /// Where to go on, as `cursor`.
    next: Option<String>,
    /// With `tail`, if fewer entries were found than asked for: no entry before this number was looked
    /// at, and there may be some.
    looked_from: Option<u64>,
}

impl ListAnswer {
    fn part(AuditPart { entries, looked_to, has_more }: AuditPart) -> Self {
        let next = has_more.then(|| looked_to.0.to_string());
        Self { items: entries.into_iter().map(AuditLine::from).collect(), next, looked_from: None }
    }

    fn tail(AuditTail { entries, looked_from }: AuditTail) -> Self {
        let items = entries.into_iter().map(AuditLine::from).collect();
        Self { items, next: None, looked_from: looked_from.map(|number| number.0) }
    }
}

/// The audit log, oldest entries first
///
/// One call looks at no more than 5000 entries: a page may be short, or empty, and still have a `next`.
/// With `tail` these are the newest 5000, and `looked_from` says so if it matters.
#[utoipa::path(
    get, path = "/v1/audit", operation_id = "audit.list", tag = "watch",
    params(AuditQuery),
    responses((status = 200, description = "A page of the log", body = ListAnswer)),
)]
async fn all<S: KeyStore>(
    State(registry): State<Registry<S>>,
    Extension(by): Extension<Actor>,
    Extension(waiting): Extension<Arc<Waiting>>,
    query: Result<Query<AuditQuery>, QueryRejection>,
) -> Result<Json<ListAnswer>, Problem> {
    let Query(query) = query.map_err(|error| wrong(format!("{}.", error.body_text())))?;
    let filter = query.filter()?;
    let (page, wait) = match query.wanted()? {
        Wanted::Newest(count) => {
            return Ok(Json(ListAnswer::tail(registry.audit_tail(&by, &filter, count).await?)));
        }
        Wanted::Part { page, wait } => (page, wait),
    };
    let part = match wait {
        Some(wait) => next_part(&registry, &by, &waiting, &filter, page, wait).await?,
        None => registry.audit(&by, &filter, page).await?,
    };
    Ok(Json(ListAnswer::part(part)))
}

/// The entries that are asked for, as soon as there is one.
async fn next_part<S: KeyStore>(
    registry: &Registry<S>,
    by: &Actor,
    waiting: &Waiting,
    filter: &AuditFilter,
    mut page: Page<ChangeNumber>,
    wait: Duration,
) -> Result<AuditPart, Problem> {
    let Ok(_place) = waiting.places.try_acquire() else {
        let detail =
            format!("{WAITERS_MAX} calls wait already. Ask again later, or without `wait`.");
        return Err(
            Problem::new(ProblemCode::TooManyWaiters, detail).retry_after(RETRY_AFTER_WAITERS)
        );
    };
    let end = Instant::now() + wait;
    loop {
        let part = registry.audit(by, filter, page).await?;
        let is_over = Instant::now() >= end || (waiting.ready)() != Readiness::Ready;
        if !part.entries.is_empty() || part.has_more || is_over {
            return Ok(part);
        }
        page.after = Some(part.looked_to);
        sleep(LOOK_EVERY).await;
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = AuditVerification)]
struct VerifyAnswer {
    /// The first entry that was checked.
    from: Option<u64>,
    /// The last one.
    to: Option<u64>,
    checked: u64,
    /// Of the last one. Keep it elsewhere: a log that was made anew has other links.
    link: Option<String>,
    /// What is not as it was written; empty if all is.
    findings: Vec<FindingAnswer>,
    /// The first entry that is kept. A log in Redis loses its oldest ones in time (`log_max`): that
    /// those before this one are gone is no finding there.
    kept_from: Option<u64>,
    /// The entry after which to go on, if that was not all.
    next: Option<u64>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = AuditFinding)]
struct FindingAnswer {
    /// The entry's.
    number: u64,
    #[schema(value_type = crate::openapi::FindingKind)]
    kind: &'static str,
    detail: String,
}

impl From<Finding> for FindingAnswer {
    fn from(finding: Finding) -> Self {
        let number = finding.number().0;
        Self { number, kind: finding.as_str(), detail: finding.to_string() }
    }
}

/// Whether anybody has changed the audit log
///
/// Each entry's link covers all before it. One call checks no more than 5000 entries.
#[utoipa::path(
    get, path = "/v1/audit/verify", operation_id = "audit.verify", tag = "watch",
    params(VerifyQuery),
    responses((status = 200, description = "What was found", body = VerifyAnswer)),
)]
async fn verify<S: KeyStore>(
    State(registry): State<Registry<S>>,
    Extension(by): Extension<Actor>,
    query: Result<Query<VerifyQuery>, QueryRejection>,
) -> Result<Json<VerifyAnswer>, Problem> {
    let Query(query) = query.map_err(|error| wrong(format!("{}.", error.body_text())))?;
    let (after, link) = query.place()?;
    let verified = registry.verify_audit(&by, after, link).await?;
    let Verified { range, checked, link, findings, kept_from, next } = verified;
    Ok(Json(VerifyAnswer {
        from: range.map(|(from, _)| from.0),
        to: range.map(|(_, to)| to.0),
        checked,
        link: link.map(|link| link.to_string()),
        findings: findings.into_iter().map(FindingAnswer::from).collect(),
        kept_from: kept_from.map(|number| number.0),
        next: next.map(|number| number.0),
    }))
}
