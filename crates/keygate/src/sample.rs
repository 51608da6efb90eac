//! The sample upstream of `keygate demo`: answers with the request as it arrived, so that one can
//! see what the gateway adds and what it takes away.

use std::collections::BTreeMap;
use std::net::TcpListener;

use anyhow::Context;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::{Json, Router};
use serde::Serialize;

/// The longest body that is counted.
const BODY_BYTES_MAX: usize = 1 << 20;

/// Serves on `listener` for as long as the runtime lives.
pub(crate) fn start(listener: TcpListener) -> anyhow::Result<()> {
    let listener =
        tokio::net::TcpListener::from_std(listener).context("cannot serve the sample upstream")?;
    let app = Router::new().fallback(echo);
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, app).await {
            tracing::error!(%error, "the sample upstream ended");
        }
    });
    Ok(())
}

/// A request as an upstream sees it.
#[derive(Serialize)]
struct Echo {
    method: String,
    path: String,
    query: Option<String>,
    /// Sorted by name; the values of a repeated header are joined.
    headers: BTreeMap<String, String>,
    /// Nothing if the body was too long to count.
    body_bytes: Option<usize>,
}

async fn echo(request: Request) -> Json<Echo> {
    let (head, body) = request.into_parts();
    Json(Echo {
        method: head.method.to_string(),
        path: head.uri.path().to_owned(),
        query: head.uri.query().map(str::to_owned),
        headers: sorted(&head.headers),
        body_bytes: count(body).await,
    })
}

fn sorted(headers: &HeaderMap) -> BTreeMap<String, String> {
    let mut sorted: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        let joined = sorted.entry(name.to_string()).or_default();
        if !joined.is_empty() {
            joined.push_str(", ");
        }
        joined.push_str(&value);
    }
    sorted
}

async fn count(body: Body) -> Option<usize> {
    to_bytes(body, BODY_BYTES_MAX).await.ok().map(|body| body.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_answer_shows_what_arrived() {
        let request = Request::post("/v1/orders?a=b")
            .header("x-twice", "1")
            .header("accept", "*/*")
            .header("x-twice", "2")
            .body(Body::from("hello"))
            .unwrap();
        let Json(echo) = echo(request).await;
        assert_eq!((echo.method.as_str(), echo.path.as_str()), ("POST", "/v1/orders"));
        assert_eq!(echo.query.as_deref(), Some("a=b"));
        assert_eq!(echo.body_bytes, Some(5));
        let headers: Vec<_> = echo.headers.iter().map(|(n, v)| format!("{n}: {v}")).collect();
        assert_eq!(headers, ["accept: */*", "x-twice: 1, 2"]);
    }
}
