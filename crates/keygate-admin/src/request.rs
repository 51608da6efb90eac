//! Reads requests: bodies as JSON within a bound, ids from paths. What cannot be read is a problem.

use std::fmt::Formatter;
use std::marker::PhantomData;
use std::str::FromStr;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, MapAccess, Visitor};

use crate::BODY_LENGTH_MAX;
use crate::problem::{Problem, ProblemCode};

/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// A body that is JSON of this type. One that may be longer than others comes by a route with a
/// `DefaultBodyLimit` of its own, which this says in KiB.
pub(crate) struct Body<T, const KIB_MAX: usize = { BODY_LENGTH_MAX / 1024 }>(pub(crate) T);

impl<T, S, const KIB_MAX: usize> FromRequest<S> for Body<T, KIB_MAX>
where
    T: DeserializeOwned,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        check_is_json(request.headers())?;
        parse(&read(request, state, KIB_MAX).await?).map(Self)
    }
}

/// The same, where no body at all stands for the type's default.
pub(crate) struct BodyOrDefault<T>(pub(crate) T);

impl<T: DeserializeOwned + Default, S: Send + Sync> FromRequest<S> for BodyOrDefault<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        match json_or_nothing(request, state).await? {
            Some(body) => parse(&body).map(Self),
            None => Ok(Self(T::default())),
        }
    }
}

/// A body that says that it is JSON, as it was sent.
pub(crate) async fn json<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, Problem> {
    check_is_json(request.headers())?;
    read(request, state, BODY_LENGTH_MAX / 1024).await
}

/// The same; nothing if there is no body, of which nothing needs to be said.
pub(crate) async fn json_or_nothing<S: Send + Sync>(
    request: Request,
    state: &S,
) -> Result<Option<Bytes>, Problem> {
    if request.headers().contains_key(CONTENT_TYPE) {
        return json(request, state).await.map(Some);
    }
    let body = read(request, state, BODY_LENGTH_MAX / 1024).await?;
    Ok(Some(body).filter(|body| !body.is_empty()))
}

async fn read<S: Send + Sync>(
    request: Request,
    state: &S,
    kib_max: usize,
) -> Result<Bytes, Problem> {
    match tokio::time::timeout(BODY_TIMEOUT, Bytes::from_request(request, state)).await {
        Ok(read) => read.map_err(|rejection| unread(rejection, kib_max)),
        Err(_) => {
            let detail = format!("Send the body within {} s.", BODY_TIMEOUT.as_secs());
            Err(Problem::new(ProblemCode::RequestTimeout, detail))
        }
    }
}

fn unread(rejection: BytesRejection, kib_max: usize) -> Problem {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        let detail = format!("Send at most {kib_max} KiB.");
        return Problem::new(ProblemCode::PayloadTooLarge, detail);
    }
    Problem::new(ProblemCode::BadRequest, "The body broke off. Send it whole.")
}

/// The parser bounds how deep JSON may nest.
pub(crate) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(body)
        .map(|Object(body)| body)
        .map_err(|error| Problem::new(ProblemCode::BadRequest, format!("The body: {error}.")))
}

/// A JSON object, which derived code would also read from an array, by the places of the fields.
pub(crate) struct Object<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData)).map(Self)
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = T;

    fn expecting(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map))
    }
}

fn check_is_json(headers: &HeaderMap) -> Result<(), Problem> {
    let essence = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .map(|value| value.split_once(';').map_or(value, |(essence, _)| essence).trim());
    if essence.is_some_and(|essence| essence.eq_ignore_ascii_case("application/json")) {
        return Ok(());
    }
    let detail = "Send JSON, with `Content-Type: application/json`.";
    Err(Problem::new(ProblemCode::UnsupportedMediaType, detail))
}

/// The id in a path. What is no id names nothing, and so is not found.
pub(crate) struct Id<T>(pub(crate) T);

impl<T: FromStr<Err: std::fmt::Display>, S: Send + Sync> FromRequestParts<S> for Id<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let not_found = |why: String| Problem::new(ProblemCode::NotFound, why);
        let Path(text) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|_| not_found("Check the path.".to_owned()))?;
        text.parse().map(Id).map_err(|error: T::Err| not_found(format!("The path: {error}.")))
    }
}

/// For a field that a change may leave out: there, it is read as it is, and `null` is a value like
/// any other. Goes with `#[serde(default)]`.
pub(crate) fn given<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}
