//! Reads requests that make something, with the name under which they are to be carried out once:
//! `Idempotency-Key`. What is remembered of one are two hashes.

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, HeaderName};
use keygate_core::key::sha256;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::problem::{Problem, ProblemCode};
use crate::registry::{Actor, Asked};
use crate::request::{json, json_or_nothing, parse};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const KEY_LENGTH_MAX: usize = 255;

/// A body that is JSON of this type, and says what to make.
pub(crate) struct Creation<T> {
    pub(crate) body: T,
    /// How to tell the same call when it comes again, if it is to be carried out once.
    pub(crate) asked: Option<Asked>,
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Creation<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let name = Name::read(&request)?;
        let body = json(request, state).await?;
        Ok(Self { body: parse(&body)?, asked: asked(name, &body)? })
    }
}

/// The same, where no body at all stands for the type's default.
pub(crate) struct CreationOrDefault<T>(pub(crate) Creation<T>);

impl<T: DeserializeOwned + Default, S: Send + Sync> FromRequest<S> for CreationOrDefault<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let name = Name::read(&request)?;
        let body = json_or_nothing(request, state).await?;
        let Some(body) = body else {
            let asked = asked(name, &Bytes::from_static(b"{}"))?;
            return Ok(Self(Creation { body: T::default(), asked }));
        };
        Ok(Self(Creation { body: parse(&body)?, asked: asked(name, &body)? }))
    }
}

/// The hash of who asks, for what, and of the name that they gave it.
struct Name([u8; 32]);

impl Name {
    /// # Errors
    /// The header is there, and is not one name.
    fn read(request: &Request) -> Result<Option<Self>, Problem> {
        let Some(key) = key(request.headers())? else { return Ok(None) };
        let actor = request.extensions().get::<Actor>().map_or("", |by| &by.name);
        let parts = [actor, request.method().as_str(), request.uri().path(), key];
        let mut text = Vec::new();
        for part in parts {
            // With its length, so that no other parts make the same text.
            text.extend(part.len().to_be_bytes());
            text.extend(part.as_bytes());
        }
        Ok(Some(Self(sha256(&text))))
    }
}

fn key(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let mut sent = headers.get_all(IDEMPOTENCY_KEY).iter();
    let (Some(first), more) = (sent.next(), sent.next()) else { return Ok(None) };
    let text = first.to_str().ok().filter(|_| more.is_none());
    let fits = |text: &&str| {
        (1..=KEY_LENGTH_MAX).contains(&text.len())
            && text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
    };
    match text.filter(fits) {
        Some(key) => Ok(Some(key)),
        None => {
            let detail = format!(
                "Send one `Idempotency-Key` of 1 to {KEY_LENGTH_MAX} visible ASCII characters, such \
                 as a random UUID."
            );
            Err(Problem::new(ProblemCode::BadRequest, detail))
        }
    }
}

fn asked(name: Option<Name>, body: &Bytes) -> Result<Option<Asked>, Problem> {
    let Some(Name(name)) = name else { return Ok(None) };
    let mut text = Vec::with_capacity(body.len());
    canonical(&parse(body)?, &mut text);
    Ok(Some(Asked { name, request: sha256(&text) }))
}

/// Writes JSON in one way, whatever the order of its members. The parser bounds how deep it nests.
fn canonical(value: &Value, into: &mut Vec<u8>) {
    match value {
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_unstable_by_key(|(name, _)| *name);
            into.push(b'{');
            for (name, value) in members {
                into.extend(Value::from(name.as_str()).to_string().as_bytes());
                into.push(b':');
                canonical(value, into);
                into.push(b',');
            }
            into.push(b'}');
        }
        Value::Array(items) => {
            into.push(b'[');
            for item in items {
                canonical(item, into);
                into.push(b',');
            }
            into.push(b']');
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            into.extend(value.to_string().as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> Vec<u8> {
        let mut into = Vec::new();
        canonical(&serde_json::from_str(text).unwrap(), &mut into);
        into
    }

    #[test]
    fn a_request_is_the_same_however_it_is_spelt() {
        let first = written(r#"{"name":"a","metadata":{"x":"1","y":"2"},"list":[1,2]}"#);
        let second = written(
            " { \"list\" : [1, 2], \"metadata\":{\"y\":\"2\",\"x\":\"1\"}, \"name\":\"\\u0061\" } ",
        );
        assert_eq!(first, second);
        for other in [
            r#"{"name":"a","metadata":{"x":"1","y":"2"},"list":[2,1]}"#,
            r#"{"name":"a","metadata":{"x":"1","y":"2"},"list":["1","2"]}"#,
            r#"{"name":"a","metadata":{"x":"1"},"y":"2","list":[1,2]}"#,
            r#"{"name":"a","metadata":{"x":"1","y":"2"},"list":[1,2],"more":null}"#,
        ] {
            assert_ne!(first, written(other), "{other}");
        }
    }
}
