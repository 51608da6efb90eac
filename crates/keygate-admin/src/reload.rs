//! `/v1/reload`: reads the configuration again, and takes it over or says what is wrong with it.

use axum::extract::State;
use axum::{Extension, Json};
use keygate_core::UnixMillis;
use keygate_core::key::PepperId;
use keygate_store::keys::KeyStore;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::openapi::{Conflict, Time, UnprocessableEntity};
use crate::problem::{Problem, ProblemCode};
use crate::registry::{Actor, Fault, Force, ReloadError, Reloaded, Reloader, Unusable};
use crate::request::BodyOrDefault;
use crate::times::rfc3339;

/// The most problems that are sent; the log has all.
const PROBLEMS_MAX: usize = 100;

pub(crate) fn routes<S: KeyStore>() -> OpenApiRouter<Reloader<S>> {
    OpenApiRouter::default().routes(routes!(reload))
}

#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ConfigReload)]
struct Request {
    /// Drops a pepper even if live keys depend on it, which then work no more.
    #[serde(default)]
    force: bool,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Reloaded)]
struct Answer {
    /// Whether anything is otherwise than before.
    changed: bool,
    /// Of all that was loaded: see `/v1/config`.
    hash: String,
    /// Settings that are others than the gateway started with, and take effect at its next start.
    needs_restart: Vec<&'static str>,
    /// What is legal and probably not meant.
    warnings: Vec<String>,
    #[schema(value_type = Time)]
    loaded_at: String,
}

impl Answer {
    fn new(reloaded: Reloaded, now: UnixMillis) -> Self {
        let Reloaded { is_changed, hash, needs_restart, warnings } = reloaded;
        let hash = hash.to_string();
        Self { changed: is_changed, hash, needs_restart, warnings, loaded_at: rfc3339(now) }
    }
}

/// Read the configuration again
///
/// It is taken over as a whole, or not at all: `invalid_config` lists in `problems` what is wrong, each
/// with its `line`, `setting` and `message`, and the one that runs goes on.
#[utoipa::path(
    post, path = "/v1/reload", operation_id = "config.reload", tag = "run",
    request_body = Option<Request>,
    responses(
        (status = 200, description = "Taken over", body = Answer), Conflict, UnprocessableEntity,
    ),
)]
async fn reload<S: KeyStore>(
    State(reloader): State<Reloader<S>>,
    Extension(by): Extension<Actor>,
    BodyOrDefault(request): BodyOrDefault<Request>,
) -> Result<Json<Answer>, Problem> {
    let force = if request.force { Force::Yes } else { Force::No };
    let reloaded = reloader.reload(&by, force).await?;
    Ok(Json(Answer::new(reloaded, reloader.now())))
}

impl From<ReloadError> for Problem {
    fn from(error: ReloadError) -> Self {
        match error {
            ReloadError::Unusable(unusable) => unusable_problem(&unusable),
            ReloadError::PepperInUse(in_use) => pepper_in_use(&in_use),
            ReloadError::Registry(error) => error.into(),
            ReloadError::BrokenOff => {
                Self::new(ProblemCode::Internal, "Tell the operator the request id.")
            }
        }
    }
}

fn unusable_problem(unusable: &Unusable) -> Problem {
    let count = unusable.problems.len() + unusable.omitted;
    let first = unusable.on_lines().next().unwrap_or_default();
    let more = match count {
        0 | 1 => String::new(),
        count => format!(" And {} more, in `problems` and in the log.", count - 1),
    };
    let detail = format!("The running configuration stays. {first}.{more}");
    let show = |fault: &Fault| {
        let Fault { line, setting, message, help } = fault;
        let help = help.as_ref().map(|help| format!("; {help}")).unwrap_or_default();
        json!({ "line": line, "setting": setting, "message": format!("{message}{help}") })
    };
    let problems: Vec<_> = unusable.problems.iter().take(PROBLEMS_MAX).map(show).collect();
    Problem::new(ProblemCode::InvalidConfig, detail)
        .with("file", unusable.file.clone())
        .with("problems", problems)
}

fn pepper_in_use(in_use: &[(PepperId, u64)]) -> Problem {
    let text = |(id, keys): &(PepperId, u64)| {
        let s = if *keys == 1 { "" } else { "s" };
        format!("pepper {id} ({keys} live key{s})")
    };
    let detail = format!(
        "The running configuration stays. It has what the new one leaves out: {}. Add its file to \
         `previous_pepper_files`, or send `\"force\": true` and those keys work no more.",
        in_use.iter().map(text).collect::<Vec<_>>().join(", ")
    );
    let show = |(id, keys): &(PepperId, u64)| json!({ "id": id.to_string(), "live_keys": keys });
    Problem::new(ProblemCode::PepperInUse, detail)
        .with("peppers", in_use.iter().map(show).collect::<Vec<_>>())
}
