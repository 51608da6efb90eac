//! `/v1/keys/verify`: would this key be let through?

use std::net::IpAddr;

use axum::Json;
use axum::extract::State;
use axum::routing::post;
use keygate_store::keys::KeyStore;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa_axum::router::OpenApiRouter;
use zeroize::Zeroizing;

use crate::problem::Problem;
use crate::registry::{Call, Question, Registry};
use crate::request::Body;

pub(crate) fn routes<S: KeyStore>() -> OpenApiRouter<Registry<S>> {
    OpenApiRouter::default().route("/v1/keys/verify", post(verify))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    key: Presented,
    method: Option<String>,
    host: Option<String>,
    path: Option<String>,
    ip: Option<String>,
    origin: Option<String>,
}

/// The key's text, wiped after use, and with no way to print it.
struct Presented(Zeroizing<String>);

impl<'de> Deserialize<'de> for Presented {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Zeroizing::new(text)))
    }
}

#[derive(Serialize)]
struct Answer {
    valid: bool,
    /// Why not.
    code: Option<&'static str>,
    key_id: Option<String>,
    /// What the key may do: its own scopes, as far as its app grants them.
    scopes: Vec<String>,
}

async fn verify<S: KeyStore>(
    State(registry): State<Registry<S>>,
    Body(request): Body<Request>,
) -> Result<Json<Answer>, Problem> {
    let question = Question {
        key: request.key.0.as_bytes(),
        call: read_call(&request)?,
        ip: request.ip.as_deref().map(read_ip).transpose()?,
        origin: request.origin.as_deref(),
    };
    let verdict = registry.verify(question).await?;
    let scopes = verdict.key.as_ref().map(|key| key.scopes.as_str()).unwrap_or_default();
    Ok(Json(Answer {
        valid: verdict.decision.is_ok(),
        code: verdict.decision.err().map(|denial| denial.code().as_str()),
        key_id: verdict.key.as_ref().map(|key| key.id.to_string()),
        scopes: scopes.split_ascii_whitespace().map(ToOwned::to_owned).collect(),
    }))
}

/// The call that is asked about, if any. A part that would be passed over is an error: the answer
/// would seem to be about more than it is.
fn read_call(request: &Request) -> Result<Option<Call<'_>>, Problem> {
    let needs_call = |field| Problem::field(field, "send it together with `method` and `path`");
    match (&request.method, &request.path) {
        (Some(method), Some(path)) => {
            Ok(Some(Call { method, path, host: request.host.as_deref() }))
        }
        (Some(_), None) => Err(Problem::field("path", "send it together with `method`")),
        (None, Some(_)) => Err(Problem::field("method", "send it together with `path`")),
        (None, None) if request.host.is_some() => Err(needs_call("host")),
        (None, None) if request.origin.is_some() => Err(needs_call("origin")),
        (None, None) => Ok(None),
    }
}

fn read_ip(text: &str) -> Result<IpAddr, Problem> {
    text.parse().map_err(|_| Problem::field("ip", "write an address, without a port"))
}
