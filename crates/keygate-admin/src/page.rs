//! Lists, a part at a time.

use std::str::FromStr;

use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use keygate_store::keys::Page;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::problem::{Problem, ProblemCode};

pub(crate) const LIMIT_DEFAULT: usize = 50;
const LIMIT_MAX: usize = 200;

/// Which part of a list is asked for.
#[derive(Clone, Copy)]
pub(crate) struct Paging<T> {
    limit: usize,
    after: Option<T>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PagingQuery {
    limit: Option<usize>,
    cursor: Option<String>,
}

/// A part of a list, and where the next one begins.
#[derive(Serialize, ToSchema)]
pub(crate) struct List<A> {
    items: Vec<A>,
    next: Option<String>,
}

impl<A> List<A> {
    pub(crate) fn new(items: Vec<A>, next: Option<String>) -> Self {
        Self { items, next }
    }
}

/// # Errors
/// `limit`, which the query calls `name`, is more than a list may hold, or nothing.
pub(crate) fn check_limit(name: &str, limit: usize) -> Result<(), Problem> {
    if (1..=LIMIT_MAX).contains(&limit) {
        return Ok(());
    }
    Err(Problem::new(ProblemCode::BadRequest, format!("`{name}` is from 1 to {LIMIT_MAX}.")))
}

/// How many items a page is to hold.
///
/// # Errors
/// As [`check_limit`].
pub(crate) fn read_limit(limit: Option<usize>) -> Result<usize, Problem> {
    let limit = limit.unwrap_or(LIMIT_DEFAULT);
    check_limit("limit", limit).map(|()| limit)
}

impl<T: Copy> Paging<T> {
    /// What to ask the store for: one item more than is shown, to know whether there are more.
    pub(crate) fn page(&self) -> Page<T> {
        Page { after: self.after, limit: self.limit + 1 }
    }

    /// The answer made of what the store gave.
    pub(crate) fn answer<I, A>(
        &self,
        mut items: Vec<I>,
        cursor: impl Fn(&I) -> String,
        show: impl FnMut(I) -> A,
    ) -> List<A> {
        let more = items.len() > self.limit;
        items.truncate(self.limit);
        let next = items.last().filter(|_| more).map(cursor);
        List { items: items.into_iter().map(show).collect(), next }
    }
}

impl<T: FromStr, S: Send + Sync> FromRequestParts<S> for Paging<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let wrong = |why: String| Problem::new(ProblemCode::BadRequest, why);
        let Query(PagingQuery { limit, cursor }) =
            Query::from_request_parts(parts, state).await.map_err(|error| {
                wrong(format!("The query takes `limit` and `cursor`: {}.", error.body_text()))
            })?;
        let limit = read_limit(limit)?;
        let after = cursor
            .map(|cursor| cursor.parse())
            .transpose()
            .map_err(|_| wrong("`cursor` is the `next` of the page before.".to_owned()))?;
        Ok(Self { limit, after })
    }
}
