//! `/v1/explain`: what would become of this request, and why?

use axum::extract::State;
use axum::{Extension, Json};
use keygate_core::Code;
use keygate_store::keys::KeyStore;
use keygate_telemetry::logging::mask;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::openapi::{KeyId, NotFound, StepName, StepResult as ResultWord};
use crate::problem::Problem;
use crate::registry::{About, Actor, Call, Explanation, Inquiry, Registry, Step, StepResult};
use crate::request::Body;
use crate::verify::{Presented, read_ip};

pub(crate) fn routes<S: KeyStore>() -> OpenApiRouter<Registry<S>> {
    OpenApiRouter::default().routes(routes!(explain))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Explain)]
struct Request {
    /// Of the key that the request comes with. Either this or `key`.
    #[schema(value_type = Option<KeyId>)]
    key_id: Option<String>,
    /// The key itself, as the request would carry it.
    #[schema(value_type = Option<String>)]
    key: Option<Presented>,
    method: String,
    /// Without one, only routes for any host are found.
    host: Option<String>,
    /// May hold a query, which is not looked at.
    path: String,
    /// The client's address. What depends on it is skipped without it.
    ip: Option<String>,
    /// The `Origin` header.
    origin: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Explanation)]
struct Answer {
    admitted: bool,
    /// What the client would be told: the code of the first step that fails.
    code: Option<&'static str>,
    /// If the key is known.
    #[schema(value_type = Option<KeyId>)]
    key_id: Option<String>,
    /// If there is one.
    route: Option<String>,
    /// All steps in their order, also those after one that fails.
    steps: Vec<StepAnswer>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = ExplanationStep)]
struct StepAnswer {
    #[schema(value_type = StepName)]
    step: &'static str,
    /// `skip`: not taken, or what it has to look at was not sent.
    #[schema(value_type = ResultWord)]
    result: &'static str,
    /// If it fails.
    code: Option<&'static str>,
    /// What it looked at, in plain words.
    detail: String,
}

/// Explain what would become of a request
///
/// Takes each step of a request's way, and charges nothing.
#[utoipa::path(
    post, path = "/v1/explain", operation_id = "keys.explain", tag = "ask",
    request_body = Request,
    responses((status = 200, description = "Each step", body = Answer), NotFound),
)]
async fn explain<S: KeyStore>(
    State(registry): State<Registry<S>>,
    Extension(actor): Extension<Actor>,
    Body(request): Body<Request>,
) -> Result<Json<Answer>, Problem> {
    let inquiry = Inquiry {
        about: read_about(&request)?,
        call: Call { method: &request.method, host: request.host.as_deref(), path: &request.path },
        ip: request.ip.as_deref().map(read_ip).transpose()?,
        origin: request.origin.as_deref(),
    };
    let explanation = registry.explain(&actor, inquiry).await?;
    let code = explanation.code();
    let Explanation { key, route, steps } = explanation;
    Ok(Json(Answer {
        admitted: code.is_none(),
        code: code.map(Code::as_str),
        key_id: key.map(|id| id.to_string()),
        route,
        steps: steps.into_iter().map(StepAnswer::new).collect(),
    }))
}

impl StepAnswer {
    fn new(step: Step) -> Self {
        let (result, code) = match step.result {
            StepResult::Pass => ("pass", None),
            StepResult::Fail(code) => ("fail", Some(code.as_str())),
            StepResult::Skip => ("skip", None),
        };
        // Some of it is the request's, and somebody may have put a key there.
        Self { step: step.name, result, code, detail: mask(&step.detail).into_owned() }
    }
}

fn read_about(request: &Request) -> Result<About<'_>, Problem> {
    match (&request.key_id, &request.key) {
        (Some(id), None) => {
            let id = id.parse().map_err(|error| Problem::field("key_id", error))?;
            Ok(About::Id(id))
        }
        (None, Some(key)) => Ok(About::Key(key.as_bytes())),
        (Some(_), Some(_)) => Err(Problem::field("key", "send it or `key_id`, not both")),
        (None, None) => Err(Problem::field("key_id", "send it, or `key`")),
    }
}
