//! The admin API as an OpenAPI 3.1 document, made from the handlers. How to write one (`fleet.rs`):
//! 1. `routes()` says `.routes(routes!(all, create))`: the handlers of one path. No other paths.
//! 2. `#[utoipa::path(get, path = "/v1/x/{id}", operation_id = "xs.show", tag = "xs", …)]`: success
//!    answers in `responses`, bodies as `request_body = XCreate`, and of refusals only `Conflict` (409)
//!    or `UnprocessableEntity` (422 without a body). `finish` knows all others, and says which.
//! 3. Requests and answers derive `ToSchema` with `#[schema(as = XCreate)]`; ids, times and words
//!    are `#[schema(value_type = KeyId)]` of `parts.rs`. An `Option` of an answer is always there.
//! 4. `KEYGATE_WRITE_OPENAPI=1 cargo test -p keygate-admin openapi` writes `deploy/openapi.json`.

mod finish;
mod parts;

use axum::extract::State;
use axum::http::HeaderName;
use axum::http::header::CONTENT_TYPE;
use keygate_store::keys::KeyStore;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(crate) use self::finish::finish;
pub(crate) use self::parts::*;

/// The document's text, made once.
#[derive(Clone)]
pub(crate) struct Document(axum::body::Bytes);

impl Document {
    pub(crate) fn new(api: OpenApi) -> Self {
        Self(finish(api).to_string().into())
    }
}

/// All that is documented, as the handlers say it.
pub(crate) fn api<S: KeyStore>() -> OpenApi {
    let mut api = crate::managed::<S>().into_openapi();
    api.merge(crate::reload::routes::<S>().into_openapi());
    api.merge(crate::config::routes::<S>().into_openapi());
    api.merge(crate::health::routes::<S>().into_openapi());
    api.merge(routes().into_openapi());
    api
}

pub(crate) fn routes() -> OpenApiRouter<Document> {
    OpenApiRouter::default().routes(routes!(show))
}

/// This document
#[utoipa::path(
    get, path = "/openapi.json", operation_id = "openapi.show", tag = "watch",
    responses((status = 200, description = "The admin API as OpenAPI 3.1", body = Object)),
)]
async fn show(
    State(Document(text)): State<Document>,
) -> ([(HeaderName, &'static str); 1], axum::body::Bytes) {
    ([(CONTENT_TYPE, "application/json")], text)
}
