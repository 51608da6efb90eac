//! `/v1/keys/verify`: would this key be let through?

use std::net::IpAddr;

use axum::extract::State;
use axum::{Extension, Json};
use keygate_store::keys::KeyStore;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use zeroize::Zeroizing;

use crate::openapi::KeyId;
use crate::problem::Problem;
use crate::registry::{Actor, Call, Question, Registry};
use crate::request::Body;

pub(crate) fn routes<S: KeyStore>() -> OpenApiRouter<Registry<S>> {
    OpenApiRouter::default().routes(routes!(verify))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = KeyVerify)]
struct Request {
    /// As a request would carry it.
    #[schema(value_type = String)]
    key: Presented,
    /// Together with `path`. Without them only the key's own state is looked at.
    method: Option<String>,
    host: Option<String>,
    /// May hold a query, which is not looked at.
    path: Option<String>,
    /// The client's address. A key that is bound to networks is not shown to be in them without it.
    ip: Option<String>,
    /// The `Origin` header.
    origin: Option<String>,
}

/// The key's text, wiped after use, and with no way to print it.
pub(crate) struct Presented(Zeroizing<String>);

impl Presented {
    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl<'de> Deserialize<'de> for Presented {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Zeroizing::new(text)))
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = KeyVerdict)]
struct Answer {
    valid: bool,
    /// Why not: the code that the request would be refused with.
    code: Option<&'static str>,
    /// If the key is known.
    #[schema(value_type = Option<KeyId>)]
    key_id: Option<String>,
    /// What the key may do: its own scopes, as far as its app grants them.
    scopes: Vec<String>,
}

/// Say whether a key would be let through
#[utoipa::path(
    post, path = "/v1/keys/verify", operation_id = "keys.verify", tag = "ask",
    request_body = Request,
    responses((status = 200, description = "What would be decided", body = Answer)),
)]
async fn verify<S: KeyStore>(
    State(registry): State<Registry<S>>,
    Extension(actor): Extension<Actor>,
    Body(request): Body<Request>,
) -> Result<Json<Answer>, Problem> {
    let question = Question {
        key: request.key.as_bytes(),
        call: read_call(&request)?,
        ip: request.ip.as_deref().map(read_ip).transpose()?,
        origin: request.origin.as_deref(),
    };
    let verdict = registry.verify(&actor, question).await?;
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

pub(crate) fn read_ip(text: &str) -> Result<IpAddr, Problem> {
    text.parse().map_err(|_| Problem::field("ip", "write an address, without a port"))
}
