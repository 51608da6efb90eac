//! What may be asked about use, and what is wrong with what was asked.

use std::borrow::Cow;
use std::str::FromStr;

use axum::http::HeaderMap;
use axum::http::header::ACCEPT;
use keygate_core::UnixMillis;
use keygate_store::usage::records::Step;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::openapi::{AccountId, AppId, KeyId, Time, UsageFormat, UsageGroupName, UsageStep};
use crate::problem::{Problem, ProblemCode};
use crate::registry::{UsageAsked, UsageGroup, UsageOf, UsagePlace};
use crate::times;

const LIMIT_DEFAULT: usize = 200;
const LIMIT_MAX: usize = 1_000;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct UsageParams {
    /// Of this account, or of one app or key; of everybody if none is given.
    #[param(value_type = Option<AccountId>)]
    account_id: Option<String>,
    #[param(value_type = Option<AppId>)]
    app_id: Option<String>,
    #[param(value_type = Option<KeyId>)]
    key_id: Option<String>,
    /// Of this route alone, by its name.
    #[param(max_length = 64)]
    route: Option<String>,
    /// Of windows that begin then or later. If not given: the last hour by the minute, the last day by the
    /// hour, the last 31 days by the day.
    #[param(value_type = Option<Time>)]
    from: Option<String>,
    /// Of windows that begin before this; now if not given.
    #[param(value_type = Option<Time>)]
    to: Option<String>,
    /// How long a window is; an hour if not given. Days are UTC's.
    #[param(value_type = Option<UsageStep>)]
    by: Option<String>,
    /// What has a row of its own in each window: each route, each key of an account, app or key, or nothing.
    /// Each route if not given.
    #[param(value_type = Option<UsageGroupName>)]
    group: Option<String>,
    /// JSON if not given, unless `Accept` prefers CSV.
    #[param(inline, value_type = Option<UsageFormat>)]
    format: Option<String>,
    /// How many rows at most; 200 if not given. CSV is always whole.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// `next` of the page before.
    cursor: Option<String>,
}

pub(super) enum Form {
    Json,
    Csv,
}

impl UsageParams {
    pub(super) fn form(&self, headers: &HeaderMap) -> Result<Form, Problem> {
        let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
        let wants_csv = accept.and_then(|accept| accept.split([',', ';']).next());
        let is_csv = match self.format.as_deref() {
            Some("csv") => true,
            Some("json") => false,
            Some(_) => return Err(wrong("`format` is `json` or `csv`.")),
            None => wants_csv.is_some_and(|first| first.trim().eq_ignore_ascii_case("text/csv")),
        };
        if is_csv && (self.limit.is_some() || self.cursor.is_some()) {
            return Err(wrong("CSV has no pages: leave out `limit` and `cursor`."));
        }
        Ok(if is_csv { Form::Csv } else { Form::Json })
    }

    pub(super) fn asked(&self, now: UnixMillis) -> Result<UsageAsked, Problem> {
        let step = match self.by.as_deref() {
            None | Some("hour") => Step::Hour,
            Some("minute") => Step::Minute,
            Some("day") => Step::Day,
            Some(_) => return Err(wrong("`by` is `minute`, `hour` or `day`.")),
        };
        let of = self.of()?;
        let group = match self.group.as_deref() {
            None | Some("route") => UsageGroup::Route,
            Some("key") if of == UsageOf::Everybody => {
                return Err(wrong("`group=key` goes with `account_id`, `app_id` or `key_id`."));
            }
            Some("key") => UsageGroup::Key,
            Some("none") => UsageGroup::Nothing,
            Some(_) => return Err(wrong("`group` is `route`, `key` or `none`.")),
        };
        let to = time("to", self.to.as_deref())?;
        let to = to.unwrap_or_else(|| UnixMillis(now.0.saturating_add(1)));
        let from = time("from", self.from.as_deref())?.unwrap_or_else(|| before(to, step));
        if to < from {
            return Err(wrong("`from` is later than `to`."));
        }
        let limit = self.limit.unwrap_or(LIMIT_DEFAULT);
        if !(1..=LIMIT_MAX).contains(&limit) {
            return Err(wrong(format!("`limit` is from 1 to {LIMIT_MAX}.")));
        }
        let after = self.cursor.as_deref().map(|text| read_cursor(text, group)).transpose()?;
        let route = self.route.as_deref().map(Into::into);
        Ok(UsageAsked { of, route, step, from, to, group, after, limit })
    }

    fn of(&self) -> Result<UsageOf, Problem> {
        match (self.account_id.as_deref(), self.app_id.as_deref(), self.key_id.as_deref()) {
            (None, None, None) => Ok(UsageOf::Everybody),
            (Some(account), None, None) => id("account_id", account).map(UsageOf::Account),
            (None, Some(app), None) => id("app_id", app).map(UsageOf::App),
            (None, None, Some(key)) => id("key_id", key).map(UsageOf::Key),
            _ => Err(wrong("Send one of `account_id`, `app_id` and `key_id`, or none.")),
        }
    }
}

/// As much as one looks at, up to then.
fn before(to: UnixMillis, step: Step) -> UnixMillis {
    let windows = match step {
        Step::Minute => 60,
        Step::Hour => 24,
        Step::Day => 31,
    };
    let last = step.start(UnixMillis(to.0.saturating_sub(1)));
    UnixMillis(last.0.saturating_sub((windows - 1) * step.millis()))
}

pub(super) const fn step_name(step: Step) -> &'static str {
    match step {
        Step::Minute => "minute",
        Step::Hour => "hour",
        Step::Day => "day",
    }
}

pub(super) const fn group_name(group: UsageGroup) -> &'static str {
    match group {
        UsageGroup::Route => "route",
        UsageGroup::Key => "key",
        UsageGroup::Nothing => "none",
    }
}

/// The place of the last row as a text that the next call sends back.
pub(super) fn cursor(place: &UsagePlace) -> String {
    let UsagePlace { key, start, route } = place;
    match (key, route) {
        (Some(key), _) => format!("{}~{key}", start.0),
        (None, Some(route)) => format!("{}~{route}", start.0),
        (None, None) => start.0.to_string(),
    }
}

fn read_cursor(text: &str, group: UsageGroup) -> Result<UsagePlace, Problem> {
    let place = || {
        let (start, rest) = match text.split_once('~') {
            Some((start, rest)) => (start, Some(rest)),
            None => (text, None),
        };
        let start = UnixMillis(start.parse().ok()?);
        match (group, rest) {
            (UsageGroup::Route, Some(route)) => {
                Some(UsagePlace { key: None, start, route: Some(route.into()) })
            }
            (UsageGroup::Key, Some(key)) => {
                Some(UsagePlace { key: Some(key.parse().ok()?), start, route: None })
            }
            (UsageGroup::Nothing, None) => Some(UsagePlace { key: None, start, route: None }),
            (UsageGroup::Route | UsageGroup::Key, None) | (UsageGroup::Nothing, Some(_)) => None,
        }
    };
    place().ok_or_else(|| wrong("`cursor` is the `next` of the page before, of the same question."))
}

pub(super) fn wrong(why: impl Into<Cow<'static, str>>) -> Problem {
    Problem::new(ProblemCode::BadRequest, why)
}

fn id<T: FromStr>(parameter: &str, text: &str) -> Result<T, Problem> {
    text.parse().map_err(|_| wrong(format!("`{parameter}`: write an id, with its prefix.")))
}

fn time(parameter: &str, text: Option<&str>) -> Result<Option<UnixMillis>, Problem> {
    let read = |text| {
        times::time(text).ok_or_else(|| wrong(format!("`{parameter}`: {}.", times::TIME_RULE)))
    };
    text.map(read).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_was_written() {
        let start = UnixMillis(1_893_456_000_000);
        let key = Some(keygate_core::KeyId::new(start, [7; 10]));
        for (group, key, route) in [
            (UsageGroup::Route, None, Some("a~b ~")),
            (UsageGroup::Route, None, Some("")),
            (UsageGroup::Key, key, None),
            (UsageGroup::Nothing, None, None),
        ] {
            let place = UsagePlace { key, start, route: route.map(Into::into) };
            assert_eq!(read_cursor(&cursor(&place), group).unwrap(), place);
            for text in ["", "x", "~", "-1~a"] {
                assert!(read_cursor(text, group).is_err(), "{text}");
            }
        }
        assert!(read_cursor("1~a", UsageGroup::Nothing).is_err());
        assert!(read_cursor("1~a", UsageGroup::Key).is_err());
        assert!(read_cursor("1", UsageGroup::Route).is_err());
    }

    #[test]
    fn what_is_not_said_is_the_last_hour_day_or_month() {
        // A quarter past eleven on the last day of January 2030.
        let now = UnixMillis(1_893_456_000_000 + 30 * 86_400_000 + 11 * 3_600_000 + 900_000);
        let span = |by: &str| {
            let query = axum::extract::Query::<UsageParams>::try_from_uri(
                &format!("/v1/usage?by={by}").parse().unwrap(),
            );
            let asked = query.unwrap().0.asked(now).unwrap();
            (times::rfc3339(asked.from), times::rfc3339(asked.to))
        };
        let to = "2030-01-31T11:15:00.001Z".to_owned();
        assert_eq!(span("minute"), ("2030-01-31T10:16:00Z".to_owned(), to.clone()));
        assert_eq!(span("hour"), ("2030-01-30T12:00:00Z".to_owned(), to.clone()));
        assert_eq!(span("day"), ("2030-01-01T00:00:00Z".to_owned(), to));
    }
}
