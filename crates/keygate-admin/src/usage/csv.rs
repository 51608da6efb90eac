//! Use as CSV (RFC 4180), whole: whoever bills from it must not get a part of it for all.

use axum::http::HeaderValue;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use csv::{Terminator, WriterBuilder};
use keygate_core::problem::Code;
use keygate_store::usage::records::UsageCounts;

use super::query::wrong;
use crate::problem::{Problem, ProblemCode};
use crate::registry::{UsageFound, UsageSum};
use crate::times::rfc3339;

/// The most rows: a thousand keys by the day for three months. They are some 10 MB, made in memory.
pub(super) const ROWS_MAX: usize = 100_000;

const COLUMNS: [&str; 8] =
    ["start", "key_id", "route", "requests", "cost", "bytes_in", "bytes_out", "refused"];

/// # Errors
/// 400: there are more rows.
pub(super) fn answer(found: UsageFound) -> Result<Response, Problem> {
    if found.has_more {
        return Err(wrong(format!(
            "That is more than {ROWS_MAX} rows. Ask for a shorter time, for longer windows (`by=day`), or \
             for an account, app or key."
        )));
    }
    let text = write(&found.rows).map_err(|error| {
        tracing::error!(%error, "use cannot be written as CSV");
        Problem::new(ProblemCode::Internal, "Tell the operator the request id.")
    })?;
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/csv; charset=utf-8; header=present")),
        (
            CONTENT_DISPOSITION,
            HeaderValue::from_static("attachment; filename=\"keygate-usage.csv\""),
        ),
    ];
    Ok((headers, text).into_response())
}

/// All codes have a column, so that the columns are the same whatever has happened.
fn write(rows: &[UsageSum]) -> Result<Vec<u8>, csv::Error> {
    let mut writer = WriterBuilder::new().terminator(Terminator::CRLF).from_writer(Vec::new());
    let codes = Code::ALL.map(|code| format!("refused_{}", code.as_str()));
    writer.write_record(COLUMNS.into_iter().chain(codes.iter().map(String::as_str)))?;
    for UsageSum { place, counts } in rows {
        let UsageCounts { requests, cost, bytes_in, bytes_out, refused } = counts;
        let all_refused = refused.iter().map(|(_, count)| count).sum();
        let names = [
            rfc3339(place.start),
            place.key.map(|key| key.to_string()).unwrap_or_default(),
            place.route.as_deref().map(harmless).unwrap_or_default(),
        ];
        let numbers = [*requests, *cost, *bytes_in, *bytes_out, all_refused];
        let of_code =
            |code| refused.iter().find(|(one, _)| *one == code).map_or(0, |found| found.1);
        let numbers = numbers.into_iter().chain(Code::ALL.map(of_code));
        writer.write_record(names.into_iter().chain(numbers.map(|number| number.to_string())))?;
    }
    writer.into_inner().map_err(|error| error.into_error().into())
}

/// A spreadsheet takes a text that begins like this for a formula. Names of routes may begin with `-`.
fn harmless(text: &str) -> String {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        format!("'{text}")
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use keygate_core::UnixMillis;

    use super::*;
    use crate::registry::UsagePlace;

    #[test]
    fn lines_are_as_rfc_4180_has_them_and_no_cell_is_a_formula() {
        let row = |route: &str| {
            let place =
                UsagePlace { key: None, start: UnixMillis(60_000), route: Some(route.into()) };
            let refused = vec![(Code::BadRequest, 5), (Code::QuotaExceeded, 6)];
            let counts = UsageCounts { requests: 1, cost: 2, bytes_in: 3, bytes_out: 4, refused };
            UsageSum { place, counts }
        };
        let rows = ["orders.read", "-2.3", "=1+1", "a,\"b\"\r\nc"].map(row);
        let text = String::from_utf8(write(&rows).unwrap()).unwrap();
        let (header, rest) = text.split_once("\r\n").unwrap();
        assert!(header.starts_with("start,key_id,route,requests,cost,bytes_in,bytes_out,refused,"));
        assert_eq!(header.split(',').count(), COLUMNS.len() + Code::ALL.len());
        let expected = ["orders.read", "'-2.3", "'=1+1", "\"a,\"\"b\"\"\r\nc\""];
        let mut at = rest;
        for name in expected {
            let start = format!("1970-01-01T00:01:00Z,,{name},1,2,3,4,11,5,0,");
            assert!(at.starts_with(&start), "{at:?} and {start:?}");
            at = at.split_once(",6,0,0,0,0,0\r\n").unwrap().1;
        }
        assert_eq!(at, "");
    }
}
