//! `/v1/keys/import`: keys that other systems made, many at a time. Takes hashes only: whoever has
//! the keys hashes them.

use axum::extract::{DefaultBodyLimit, State};
use axum::{Extension, Json};
use keygate_core::{AccountId, AppId, Environment, KeyKind, UnixMillis};
use keygate_store::keys::KeyStore;
use keygate_store::records::{KeyStatus, Metadata};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::limits::LimitsRequest;
use crate::problem::{Problem, ProblemCode};
use crate::registry::{
    Actor, Import, ImportAccount, ImportApp, ImportEnd, ImportKey, ImportMode, Landed, Landing,
    Registry, RegistryError, Whose,
};
use crate::request::{Body, Object};
use crate::{fields, limits, openapi, times};

/// The longest body, in KiB: longer than that of other calls.
const BODY_KIB_MAX: usize = 1_024;
const KEYS_MAX: usize = 500;
/// As many as keys: each key may bring its own.
const PARENTS_MAX: usize = KEYS_MAX;
const REF_LENGTH_MAX: usize = 255;
/// Where an import may come from. Names of apps and accounts belong to it.
const SOURCES: [&str; 5] = ["csv", "jsonl", "kong", "tyk", "unkey"];

pub(crate) fn routes<S: KeyStore>() -> OpenApiRouter<Registry<S>> {
    let bound = DefaultBodyLimit::max(BODY_KIB_MAX * 1_024);
    OpenApiRouter::default().routes(routes!(import)).layer(bound)
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = KeysImport)]
struct ImportRequest {
    /// Only say what would happen.
    #[serde(default)]
    dry_run: bool,
    /// The system that the keys come from.
    #[schema(value_type = openapi::ImportSource)]
    source: String,
    #[serde(default)]
    #[schema(value_type = Vec<AccountRequest>)]
    accounts: Vec<Object<AccountRequest>>,
    #[serde(default)]
    #[schema(value_type = Vec<AppRequest>)]
    apps: Vec<Object<AppRequest>>,
    #[serde(default)]
    #[schema(value_type = Vec<KeyRequest>)]
    keys: Vec<Object<KeyRequest>>,
}

/// An account to be made, unless this source's import made it before.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ImportAccount)]
struct AccountRequest {
    /// What the import calls it.
    r#ref: String,
    name: String,
    owner: Option<String>,
    purpose: Option<String>,
}

/// An app to be made, unless this source's import made it before in this account and environment.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ImportApp)]
struct AppRequest {
    /// What the import calls it.
    r#ref: String,
    account_ref: Option<String>,
    #[schema(value_type = Option<openapi::AccountId>)]
    account_id: Option<String>,
    name: String,
    owner: Option<String>,
    purpose: Option<String>,
    #[schema(value_type = openapi::Environment)]
    environment: String,
    /// All that its keys in this request have, if it is left out.
    granted_scopes: Option<Vec<String>>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ImportKey)]
struct KeyRequest {
    /// Of the key as clients send it, in 64 hex digits.
    #[schema(pattern = "^[0-9A-Fa-f]{64}$")]
    sha256: String,
    app_ref: Option<String>,
    #[schema(value_type = Option<openapi::AppId>)]
    app_id: Option<String>,
    #[serde(default = "secret_kind")]
    #[schema(value_type = openapi::KeyKind)]
    kind: String,
    name: Option<String>,
    owner: Option<String>,
    purpose: Option<String>,
    #[serde(default)]
    scopes: Vec<String>,
    #[schema(value_type = Option<openapi::Time>)]
    expires_at: Option<String>,
    ttl: Option<String>,
    tier: Option<String>,
    #[schema(value_type = Option<LimitsRequest>)]
    limits: Option<Object<LimitsRequest>>,
    #[serde(default)]
    metadata: Metadata,
    #[serde(default = "yes")]
    enabled: bool,
}

fn secret_kind() -> String {
    KeyKind::Secret.as_str().to_owned()
}

fn yes() -> bool {
    true
}

#[derive(Serialize, ToSchema)]
#[schema(as = KeysImported)]
struct ImportAnswer {
    /// Nothing was written.
    dry_run: bool,
    /// Whether the gateway lets imported keys in: `[keys] accept_imported`.
    accepted: bool,
    /// Of the keys.
    created: usize,
    existing: usize,
    failed: usize,
    accounts: Vec<LandedAnswer>,
    apps: Vec<LandedAnswer>,
    results: Vec<LandedAnswer>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = ImportedRecord)]
struct LandedAnswer {
    /// Its place in the request.
    index: usize,
    #[schema(value_type = openapi::ImportResult)]
    result: &'static str,
    id: Option<String>,
    /// It is there and has other scopes, another end or another app. It was left so.
    differs: bool,
    error: Option<ErrorAnswer>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = ImportError)]
struct ErrorAnswer {
    code: &'static str,
    detail: String,
}

/// Import keys that another system made
///
/// By their hashes, up to 500 at a time. What cannot be imported fails alone. What is there already
/// stays as it is, so the same import may be sent again.
#[utoipa::path(
    post, path = "/v1/keys/import", operation_id = "keys.import", tag = "keys",
    request_body = ImportRequest,
    responses((status = 200, description = "What has become of each key", body = ImportAnswer)),
)]
async fn import<S: KeyStore>(
    State(registry): State<Registry<S>>,
    Extension(by): Extension<Actor>,
    Body(request): Body<ImportRequest, BODY_KIB_MAX>,
) -> Result<Json<ImportAnswer>, Problem> {
    let dry_run = request.dry_run;
    let (import, unread) = read(request, registry.now())?;
    let outcome = registry.import_keys(&by, &import).await?;
    let answer = ImportAnswer::new(
        dry_run,
        registry.accepts_imported(),
        merge(outcome.accounts, unread.accounts),
        merge(outcome.apps, unread.apps),
        merge(outcome.keys, unread.keys),
    );
    Ok(Json(answer))
}

/// What could not be read, by its place.
#[derive(Default)]
struct Unread {
    accounts: Vec<(usize, Problem)>,
    apps: Vec<(usize, Problem)>,
    keys: Vec<(usize, Problem)>,
}

fn read(request: ImportRequest, now: UnixMillis) -> Result<(Import, Unread), Problem> {
    let source = SOURCES.into_iter().find(|source| *source == request.source);
    let source = source
        .ok_or_else(|| Problem::field("source", format!("write one of {}", SOURCES.join(", "))))?;
    check_count("keys", request.keys.len(), KEYS_MAX)?;
    check_count("apps", request.apps.len(), PARENTS_MAX)?;
    check_count("accounts", request.accounts.len(), PARENTS_MAX)?;
    let mut unread = Unread::default();
    let import = Import {
        source,
        mode: if request.dry_run { ImportMode::DryRun } else { ImportMode::Write },
        accounts: readable(request.accounts, &mut unread.accounts, read_account),
        apps: readable(request.apps, &mut unread.apps, read_app),
        keys: readable(request.keys, &mut unread.keys, |key| read_key(key, now)),
    };
    Ok((import, unread))
}

fn check_count(field: &'static str, count: usize, count_max: usize) -> Result<(), Problem> {
    if count <= count_max {
        return Ok(());
    }
    Err(Problem::field(field, format!("send at most {count_max} at a time")))
}

/// What can be read; the rest, with its place, goes to `unread`.
fn readable<R, T>(
    requests: Vec<R>,
    unread: &mut Vec<(usize, Problem)>,
    read: impl Fn(R) -> Result<T, Problem>,
) -> Vec<T> {
    let mut all = Vec::with_capacity(requests.len());
    for (index, request) in requests.into_iter().enumerate() {
        match read(request) {
            Ok(one) => all.push(one),
            Err(problem) => unread.push((index, problem)),
        }
    }
    all
}

fn read_account(Object(request): Object<AccountRequest>) -> Result<ImportAccount, Problem> {
    Ok(ImportAccount {
        name_here: read_ref("ref", request.r#ref)?,
        name: fields::name(request.name)?,
        owner: request.owner.map(fields::owner).transpose()?,
        purpose: request.purpose.map(fields::purpose).transpose()?,
    })
}

fn read_app(Object(request): Object<AppRequest>) -> Result<ImportApp, Problem> {
    let environment: Environment =
        request.environment.parse().map_err(|error| Problem::field("environment", error))?;
    let scopes = request.granted_scopes.as_deref();
    Ok(ImportApp {
        name_here: read_ref("ref", request.r#ref)?,
        account: read_whose::<AccountId>(
            ["account_ref", "account_id"],
            request.account_ref,
            request.account_id,
        )?,
        name: fields::name(request.name)?,
        owner: request.owner.map(fields::owner).transpose()?,
        purpose: request.purpose.map(fields::purpose).transpose()?,
        environment,
        granted_scopes: scopes.map(|all| fields::scopes("granted_scopes", all)).transpose()?,
    })
}

fn read_key(Object(request): Object<KeyRequest>, now: UnixMillis) -> Result<ImportKey, Problem> {
    let kind: KeyKind = request.kind.parse().map_err(|error| Problem::field("kind", error))?;
    let end = match (request.expires_at.as_deref(), request.ttl.as_deref()) {
        (Some(_), Some(_)) => {
            return Err(Problem::field("ttl", "send `ttl` or `expires_at`, not both"));
        }
        (Some(at), None) => ImportEnd::At(times::expires_at(at)?),
        (None, Some(span)) => ImportEnd::After(times::ttl(span, now)?),
        (None, None) => ImportEnd::Never,
    };
    Ok(ImportKey {
        sha256: read_sha256(&request.sha256)?,
        app: read_whose::<AppId>(["app_ref", "app_id"], request.app_ref, request.app_id)?,
        kind,
        name: request.name.map(fields::name).transpose()?,
        owner: request.owner.map(fields::owner).transpose()?,
        purpose: request.purpose.map(fields::purpose).transpose()?,
        scopes: fields::scopes("scopes", &request.scopes)?,
        end,
        tier: request.tier,
        limits: request.limits.map(limits::read).transpose()?.flatten(),
        metadata: fields::metadata(request.metadata)?,
        status: if request.enabled { KeyStatus::Active } else { KeyStatus::Disabled },
    })
}

fn read_ref(field: &'static str, text: String) -> Result<String, Problem> {
    if (1..=REF_LENGTH_MAX).contains(&text.len()) {
        return Ok(text);
    }
    Err(Problem::field(field, format!("write 1 to {REF_LENGTH_MAX} bytes")))
}

fn read_whose<I: std::str::FromStr<Err: std::fmt::Display>>(
    [ref_field, id_field]: [&'static str; 2],
    name_here: Option<String>,
    id: Option<String>,
) -> Result<Whose<I>, Problem> {
    match (name_here, id) {
        (Some(name), None) => Ok(Whose::Here(read_ref(ref_field, name)?)),
        (None, Some(id)) => {
            id.parse().map(Whose::Id).map_err(|error| Problem::field(id_field, error))
        }
        (Some(_), Some(_)) | (None, None) => {
            Err(Problem::field(id_field, format!("send this or `{ref_field}`")))
        }
    }
}

fn read_sha256(text: &str) -> Result<[u8; 32], Problem> {
    from_hex(text).ok_or_else(|| {
        // Not a word about what was sent: it may be a key.
        Problem::field("sha256", "send the SHA-256 of the key as 64 hex digits")
    })
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let is_hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut digest = [0; 32];
    if !is_hex || text.len() != 2 * digest.len() {
        return None;
    }
    for (byte, digits) in digest.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(digest)
}

/// Both in the order of the request.
fn merge<I: ToString>(
    landed: Vec<Result<Landed<I>, RegistryError>>,
    unread: Vec<(usize, Problem)>,
) -> Vec<LandedAnswer> {
    let count = landed.len() + unread.len();
    let (mut landed, mut unread) = (landed.into_iter(), unread.into_iter().peekable());
    let answer = |index| match unread.next_if(|(at, _)| *at == index) {
        Some((_, problem)) => LandedAnswer::failed(index, &problem),
        None => match landed.next() {
            Some(Ok(landed)) => LandedAnswer::new(index, &landed),
            Some(Err(error)) => LandedAnswer::failed(index, &error.into()),
            // Each is in one of the two.
            None => LandedAnswer::failed(index, &Problem::new(ProblemCode::Internal, "")),
        },
    };
    (0..count).map(answer).collect()
}

impl ImportAnswer {
    fn new(
        dry_run: bool,
        accepted: bool,
        accounts: Vec<LandedAnswer>,
        apps: Vec<LandedAnswer>,
        results: Vec<LandedAnswer>,
    ) -> Self {
        let count = |result| results.iter().filter(|one| one.result == result).count();
        Self {
            dry_run,
            accepted,
            created: count("created"),
            existing: count("existing"),
            failed: count("failed"),
            accounts,
            apps,
            results,
        }
    }
}

impl LandedAnswer {
    fn new<I: ToString>(index: usize, landed: &Landed<I>) -> Self {
        let (result, differs) = match landed.how {
            Landing::Created => ("created", false),
            Landing::Existing => ("existing", false),
            Landing::Differs => ("existing", true),
        };
        Self { index, result, id: Some(landed.id.to_string()), differs, error: None }
    }

    fn failed(index: usize, problem: &Problem) -> Self {
        let error = ErrorAnswer { code: problem.code(), detail: problem.detail() };
        Self { index, result: "failed", id: None, differs: false, error: Some(error) }
    }
}
