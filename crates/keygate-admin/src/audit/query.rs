//! What may be asked of the audit log, and what is wrong with what was asked.

use std::borrow::Cow;
use std::time::Duration;

use jiff::Timestamp;
use keygate_core::UnixMillis;
use keygate_store::audit::Link;
use keygate_store::keys::{ChangeNumber, Page};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::openapi::Time;
use crate::page;
use crate::problem::{Problem, ProblemCode};
use crate::registry::{ActionFilter, AuditFilter};

const WAIT_MAX: Duration = Duration::from_secs(60);

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct AuditQuery {
    /// How many entries at most; 50 if not given.
    #[param(minimum = 1, maximum = 200)]
    pub(super) limit: Option<usize>,
    /// `next` of the page before.
    pub(super) cursor: Option<String>,
    /// The same as a number: what comes after this entry.
    pub(super) after: Option<u64>,
    /// Only so many of the newest, newest first. With filters: of the newest 5000 entries.
    #[param(minimum = 1, maximum = 200)]
    pub(super) tail: Option<usize>,
    /// Such as `token:bootstrap`.
    pub(super) actor: Option<String>,
    /// Such as `key.revoke`, or `key.*` for all that begin so.
    pub(super) action: Option<String>,
    /// An id: what was done to that record, and attempts on it that were refused.
    pub(super) subject: Option<String>,
    #[param(value_type = Option<Time>)]
    pub(super) since: Option<String>,
    #[param(value_type = Option<Time>)]
    pub(super) until: Option<String>,
    /// Only attempts that were refused, or only changes.
    pub(super) refused: Option<bool>,
    /// If there is no entry yet: how long to wait for one, such as `30s`; at most a minute.
    pub(super) wait: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct VerifyQuery {
    /// The entry after which to go on: `to` of the answer before.
    pub(super) after: Option<u64>,
    /// That entry's link, as it was kept: `link` of the answer before, or of one from long ago.
    pub(super) link: Option<String>,
}

/// A part of the log that is asked for.
pub(super) enum Wanted {
    Newest(usize),
    Part { page: Page<ChangeNumber>, wait: Option<Duration> },
}

impl AuditQuery {
    pub(super) fn wanted(&self) -> Result<Wanted, Problem> {
        let Self { limit, cursor, after, tail, wait, .. } = self;
        if let Some(tail) = *tail {
            if limit.is_some() || cursor.is_some() || after.is_some() || wait.is_some() {
                return Err(wrong("`tail` goes with filters only."));
            }
            page::check_limit("tail", tail)?;
            return Ok(Wanted::Newest(tail));
        }
        let page = Page { after: self.place()?, limit: page::read_limit(*limit)? };
        Ok(Wanted::Part { page, wait: wait.as_deref().map(read_wait).transpose()? })
    }

    pub(super) fn filter(&self) -> Result<AuditFilter, Problem> {
        let action = self.action.as_deref().map(|action| match action.strip_suffix('*') {
            Some(beginning) => ActionFilter::BeginsWith(beginning.to_owned()),
            None => ActionFilter::Is(action.to_owned()),
        });
        Ok(AuditFilter {
            actor: self.actor.clone(),
            action,
            subject: self.subject.clone(),
            since: self.since.as_deref().map(|text| read_moment("since", text)).transpose()?,
            until: self.until.as_deref().map(|text| read_moment("until", text)).transpose()?,
            refused: self.refused,
        })
    }

    fn place(&self) -> Result<Option<ChangeNumber>, Problem> {
        match (&self.cursor, self.after) {
            (Some(_), Some(_)) => Err(wrong("Send `cursor` or `after`, not both.")),
            (Some(cursor), None) => match cursor.parse() {
                Ok(number) => Ok(Some(ChangeNumber(number))),
                Err(_) => Err(wrong("`cursor` is the `next` of the page before.")),
            },
            (None, after) => Ok(after.map(ChangeNumber)),
        }
    }
}

impl VerifyQuery {
    /// The entry after which to go on, and its link.
    pub(super) fn place(&self) -> Result<(Option<ChangeNumber>, Option<Link>), Problem> {
        let link = self.link.as_deref().map(str::parse::<Link>).transpose();
        let link = link.map_err(|error| wrong(format!("`link`: {error}.")))?;
        if link.is_some() && self.after.is_none() {
            return Err(wrong("`link` is that of the entry `after`: send both."));
        }
        Ok((self.after.map(ChangeNumber), link))
    }
}

pub(super) fn wrong(why: impl Into<Cow<'static, str>>) -> Problem {
    Problem::new(ProblemCode::BadRequest, why)
}

fn read_moment(name: &str, text: &str) -> Result<UnixMillis, Problem> {
    let millis = text.parse::<Timestamp>().ok().map(Timestamp::as_millisecond);
    millis.and_then(|millis| u64::try_from(millis).ok()).map(UnixMillis).ok_or_else(|| {
        wrong(format!("`{name}` is a time as RFC 3339 has it: `2031-12-31T23:59:59Z`."))
    })
}

fn read_wait(text: &str) -> Result<Duration, Problem> {
    match humantime::parse_duration(text) {
        Ok(span) if span <= WAIT_MAX => Ok(span),
        Ok(_) | Err(_) => Err(wrong("`wait` is a span of at most a minute: `30s`.")),
    }
}
