//! What is used of a key's limits: a bar for people, plain numbers for programs, one line each.

use std::time::Duration;

use serde_json::Value;

use super::{Reader, cell};

/// Where a record has it.
pub(super) const MEMBER: &str = "current_use";
/// The length of a bar, in characters.
const BAR_LENGTH: u64 = 20;

/// A name and what it says, for each limit.
pub(super) fn rows(uses: &Value, reader: Reader) -> Vec<[String; 2]> {
    match uses.as_array() {
        Some(uses) if uses.is_empty() => vec![[MEMBER.into(), "no limits".into()]],
        Some(uses) => uses.iter().map(|one| row(one, reader)).collect(),
        None => vec![[MEMBER.into(), "unknown: the store is away".into()]],
    }
}

fn row(one: &Value, reader: Reader) -> [String; 2] {
    let name = format!("used.{}", cell(one.get("policy")));
    let number = |name: &str| one.get(name).and_then(Value::as_u64).unwrap_or_default();
    let (used, limit) = (number("used"), number("limit"));
    let text = match reader {
        Reader::Program => format!("{used}/{limit}"),
        Reader::Person | Reader::PersonInColour => {
            let ends = one.get("resets_in_s").and_then(Value::as_f64);
            let ends =
                ends.filter(|_| used > 0).map(|seconds| format!(", all back in {}", span(seconds)));
            format!("{} {used} of {limit}{}", bar(used, limit), ends.unwrap_or_default())
        }
    };
    [name, text]
}

/// Something used is never nothing, and only all is all.
fn bar(used: u64, limit: u64) -> String {
    let full = match u128::from(used) * u128::from(BAR_LENGTH) / u128::from(limit.max(1)) {
        0 if used > 0 => 1,
        full => u64::try_from(full).unwrap_or(BAR_LENGTH).min(BAR_LENGTH),
    };
    (0..BAR_LENGTH).map(|at| if at < full { '█' } else { '░' }).collect()
}

/// To the two largest units, rounded up.
fn span(seconds: f64) -> String {
    if seconds < 10.0 {
        return format!("{:.1} s", (seconds * 10.0).ceil() / 10.0);
    }
    let whole = Duration::try_from_secs_f64(seconds.ceil()).map_or(u64::MAX, |d| d.as_secs());
    let (minutes, hours) = (whole.div_ceil(60), whole.div_ceil(3_600));
    match whole {
        0..60 => format!("{whole} s"),
        60..3_600 => format!("{} min {} s", whole / 60, whole % 60),
        3_600..86_400 => format!("{} h {} min", minutes / 60, minutes % 60),
        86_400.. => format!("{} d {} h", hours / 24, hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn uses() -> Value {
        json!([
            { "policy": "concurrency", "limit": 5, "remaining": 4, "used": 1,
              "window_s": null, "resets_in_s": null },
            { "policy": "rate", "limit": 20, "remaining": 15, "used": 5,
              "window_s": 2, "resets_in_s": 0.25 },
            { "policy": "day", "limit": 1000, "remaining": 1000, "used": 0,
              "window_s": 86_400, "resets_in_s": 3_661 },
        ])
    }

    fn lines(reader: Reader) -> Vec<String> {
        rows(&uses(), reader).iter().map(|[name, text]| format!("{name} {text}")).collect()
    }

    #[test]
    fn a_program_gets_numbers() {
        let lines = lines(Reader::Program);
        assert_eq!(lines, ["used.concurrency 1/5", "used.rate 5/20", "used.day 0/1000"]);
    }

    #[test]
    fn a_person_gets_a_bar_and_when_it_will_be_empty() {
        let lines = lines(Reader::Person);
        assert_eq!(lines[0], "used.concurrency ████░░░░░░░░░░░░░░░░ 1 of 5");
        assert_eq!(lines[1], "used.rate █████░░░░░░░░░░░░░░░ 5 of 20, all back in 0.3 s");
        assert_eq!(lines[2], "used.day ░░░░░░░░░░░░░░░░░░░░ 0 of 1000");
    }

    #[test]
    fn a_bar_shows_every_use_and_is_full_only_at_the_end() {
        let full = |used, limit| bar(used, limit).matches('█').count();
        assert_eq!([full(0, 1_000), full(1, 1_000_000), full(999, 1_000)], [0, 1, 19]);
        assert_eq!([full(1_000, 1_000), full(7, 5), full(1, 0)], [20, 20, 20]);
        assert_eq!(full(u64::MAX, u64::MAX), 20);
    }

    #[test]
    fn spans_are_short_and_never_too_short() {
        let spans = [0.001, 9.91, 10.0, 59.5, 61.0, 3_661.0, 90_001.0].map(span);
        let expected =
            ["0.1 s", "10.0 s", "10 s", "1 min 0 s", "1 min 1 s", "1 h 2 min", "1 d 2 h"];
        assert_eq!(spans, expected);
    }

    #[test]
    fn no_limits_and_no_answer_are_told_apart() {
        let first = |uses: &Value| rows(uses, Reader::Program)[0][1].clone();
        assert_eq!(first(&json!([])), "no limits");
        assert!(first(&Value::Null).starts_with("unknown"));
    }
}
