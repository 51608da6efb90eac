//! `/v1/audit`: who changed what, when, from where and why; oldest first.

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use keygate_store::keys::{ChangeNumber, KeyStore, Page};
use keygate_store::records::AuditEntry;
use serde::Serialize;

use crate::page::{List, Paging};
use crate::problem::Problem;
use crate::registry::Registry;
use crate::times::rfc3339;

pub(crate) fn routes<S: KeyStore>() -> Router<Registry<S>> {
    Router::new().route("/v1/audit", get(all))
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

impl From<(ChangeNumber, AuditEntry)> for Answer {
    fn from((number, entry): (ChangeNumber, AuditEntry)) -> Self {
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

async fn all<S: KeyStore>(
    State(registry): State<Registry<S>>,
    paging: Paging<u64>,
) -> Result<Json<List<Answer>>, Problem> {
    let Page { after, limit } = paging.page();
    let entries = registry.audit(Page { after: after.map(ChangeNumber), limit }).await?;
    Ok(Json(paging.answer(entries, |(number, _)| number.0.to_string(), Answer::from)))
}
