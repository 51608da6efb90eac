//! `/v1/config`: the configuration that runs, without its secrets, and what was read it from.

use axum::extract::State;
use axum::{Extension, Json};
use keygate_store::keys::KeyStore;
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::openapi::Time;
use crate::problem::{Problem, ProblemCode};
use crate::registry::{Actor, FailedReload, Reloader, RunningConfig};
use crate::times::rfc3339;

pub(crate) fn routes<S: KeyStore>() -> OpenApiRouter<Reloader<S>> {
    OpenApiRouter::default().routes(routes!(show))
}

#[derive(Serialize, ToSchema)]
#[schema(as = Config)]
struct Answer {
    /// The file that it was read from.
    file: String,
    /// The SHA-256 of all that was loaded, in hex digits: of the file, and of the certificates, keys,
    /// passwords and peppers that it names. The same on all gateways that were given the same files,
    /// wherever those are. What environment variables hold is not in it.
    hash: String,
    /// When it was taken over, or was last found to be what the files hold.
    #[schema(value_type = Time)]
    loaded_at: String,
    /// Every setting that counts, with its value: what the file says, or the default. A `${NAME}` stands
    /// as it is in the file, a file is named and not shown, and of headers that routes set the values are
    /// `[redacted]`. What has no value and no default is not there.
    #[schema(value_type = Object)]
    settings: Box<RawValue>,
    /// Settings that are others than the gateway started with, and take effect at its next start.
    needs_restart: Vec<&'static str>,
    /// What is legal and probably not meant.
    warnings: Vec<String>,
    /// The newest reload, if it failed: then the files hold something else than what runs.
    failed_reload: Option<Failed>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = FailedReload)]
struct Failed {
    #[schema(value_type = Time)]
    at: String,
    /// Who asked for it, such as `token:tok_…`, `signal:SIGHUP` or `file:gateway.toml`.
    actor: String,
    /// What was wrong, each with its place.
    problems: Vec<String>,
}

impl From<FailedReload> for Failed {
    fn from(FailedReload { at, by, problems }: FailedReload) -> Self {
        Self { at: rfc3339(at), actor: by, problems }
    }
}

/// The configuration that runs
///
/// Holds no secrets.
#[utoipa::path(
    get, path = "/v1/config", operation_id = "config.show", tag = "run",
    responses((status = 200, description = "The configuration", body = Answer)),
)]
async fn show<S: KeyStore>(
    State(reloader): State<Reloader<S>>,
    Extension(by): Extension<Actor>,
) -> Result<Json<Answer>, Problem> {
    let RunningConfig { config, file, hash, loaded_at, needs_restart, failed } =
        reloader.running(&by)?;
    let settings = RawValue::from_string(config.shown.to_string())
        .map_err(|_| Problem::new(ProblemCode::Internal, "Tell the operator the request id."))?;
    Ok(Json(Answer {
        file,
        hash: hash.to_string(),
        loaded_at: rfc3339(loaded_at),
        settings,
        needs_restart,
        warnings: config.warnings.clone(),
        failed_reload: failed.map(Failed::from),
    }))
}
