//! `/v1/audit`: who changed what, when, from where and why; oldest first, or with
//! `tail` the newest only, newest first.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::routing::get;
use keygate_store::keys::{ChangeNumber, KeyStore, Page};
use keygate_store::records::Logged;
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;

use crate::page::{self, List, Paging};
use crate::problem::Problem;
use crate::registry::Registry;
use crate::times::rfc3339;

pub(crate) fn routes<S: KeyStore>() -> OpenApiRouter<Registry<S>> {
    OpenApiRouter::default().route("/v1/audit", get(all))
}

#[derive(Serialize)]
struct Answer {
    number: u64,
    at: String,
    actor: String,
    action: String,
    subject: String,
    hint: Option<String>,
    from: Option<String>,
    reason: Option<String>,
}

impl From<Logged> for Answer {
    fn from(Logged { number, entry, .. }: Logged) -> Self {
        Self {
            number: number.0,
            at: rfc3339(entry.at),
            actor: entry.actor,
            action: entry.action,
            subject: entry.subject,
            hint: entry.hint,
            from: entry.from.map(|address| address.to_string()),
            reason: entry.reason,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tail {
    tail: usize,
}

async fn all<S: KeyStore>(
    State(registry): State<Registry<S>>,
    tail: Result<Query<Tail>, QueryRejection>,
    paging: Result<Paging<u64>, Problem>,
) -> Result<Json<List<Answer>>, Problem> {
    if let Ok(Query(Tail { tail })) = tail {
        page::check_limit("tail", tail)?;
        let entries = registry.audit_tail(tail).await?;
        return Ok(Json(List::last(entries.into_iter().map(Answer::from).collect())));
    }
    let paging = paging?;
    let Page { after, limit } = paging.page();
    let entries = registry.audit(Page { after: after.map(ChangeNumber), limit }).await?;
    Ok(Json(paging.answer(entries, |logged| logged.number.0.to_string(), Answer::from)))
}
