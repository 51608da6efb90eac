//! The answer of `/v1/top` as the view needs it.

use jiff::Timestamp;
use keygate_core::top::{Measure, TopQuery};
use serde::de::Error;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::output::printable;

/// Seconds that a rate is the mean of.
const RATE_SECONDS: usize = 5;

/// What a gateway has counted, and what it was asked.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    pub(super) query: TopQuery,
    pub(super) answer: Answer,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Answer {
    pub(super) gateway: String,
    #[serde(deserialize_with = "time")]
    pub(super) started_at: Timestamp,
    #[serde(deserialize_with = "time")]
    pub(super) as_of: Timestamp,
    pub(super) seconds: f64,
    pub(super) totals: Counts,
    pub(super) items: Vec<Key>,
    pub(super) clients: Vec<Client>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct Counts {
    pub(super) requests: u64,
    pub(super) refusals: u64,
    pub(super) bytes: u64,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Key {
    pub(super) key_id: String,
    pub(super) hint: String,
    pub(super) app_id: String,
    pub(super) account_id: String,
    #[serde(flatten)]
    pub(super) counts: Counts,
    pub(super) error: Counts,
    pub(super) share: f64,
    pub(super) series: Vec<u64>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Client {
    pub(super) network: String,
    pub(super) refusals: u64,
}

impl Reading {
    pub(super) fn new(answer: Value, query: TopQuery) -> Result<Self, String> {
        let answer: Result<Answer, _> = serde_json::from_value(answer);
        let mut answer = answer.map_err(|_| {
            "the answer cannot be read: is the gateway of another version?".to_owned()
        })?;
        // A terminal must not be told to do anything by what it shows.
        answer.gateway = printable(&answer.gateway);
        for key in &mut answer.items {
            for text in [&mut key.key_id, &mut key.hint, &mut key.app_id, &mut key.account_id] {
                *text = printable(text);
            }
        }
        for client in &mut answer.clients {
            client.network = printable(&client.network);
        }
        Ok(Self { query, answer })
    }

    /// How long the gateway has run, in seconds.
    pub(super) fn uptime(&self) -> u64 {
        let span = self.answer.as_of.duration_since(self.answer.started_at);
        u64::try_from(span.as_secs()).unwrap_or_default()
    }
}

impl Counts {
    pub(super) fn of(self, measure: Measure) -> u64 {
        match measure {
            Measure::Requests => self.requests,
            Measure::Refusals => self.refusals,
            Measure::Bytes => self.bytes,
        }
    }
}

impl Key {
    /// A second's worth, of the last few seconds.
    pub(super) fn rate(&self) -> f64 {
        let recent = self.series.iter().rev().take(RATE_SECONDS);
        let (sum, count) =
            recent.fold((0.0, 0.0), |(sum, n), value| (sum + *value as f64, n + 1.0));
        if count > 0.0 { sum / count } else { 0.0 }
    }
}

fn time<'de, D: Deserializer<'de>>(from: D) -> Result<Timestamp, D::Error> {
    String::deserialize(from)?.parse().map_err(D::Error::custom)
}

#[cfg(test)]
pub(super) fn example(keys: u64, query: TopQuery) -> Reading {
    let items: Vec<Value> = (0..keys)
        .map(|n| {
            let requests = 1_000_000 / (n + 1);
            serde_json::json!({
                "key_id": format!("key_{n:026}"),
                "hint": format!("sk_live_{n:04}"),
                "app_id": format!("app_{n:026}"),
                "account_id": format!("acct_{n:026}"),
                "requests": requests, "refusals": requests / 10, "bytes": requests * 1_000,
                "error": { "requests": n % 2, "refusals": 0, "bytes": 0 },
                "share": 0.4 / (n + 1) as f64,
                "series": (0..60).map(|second| (second * (n + 3)) % 17).collect::<Vec<_>>(),
            })
        })
        .collect();
    let answer = serde_json::json!({
        "gateway": "gw_0123456789abcdef", "window": "1m", "by": "requests",
        "started_at": "2030-01-01T00:00:00Z", "from": "2030-01-03T03:03:05Z",
        "as_of": "2030-01-03T03:04:05.006Z", "seconds": 61.0,
        "totals": { "requests": 2_500_000, "refusals": 250_000, "bytes": 2_500_000_000_u64 },
        "error_max": { "requests": 1, "refusals": 0, "bytes": 0 },
        "items": items,
        "clients": [
            { "network": "203.0.113.7", "refusals": 1_204, "error": 0, "share": 0.1 },
            { "network": "2001:db8::/64", "refusals": 33, "error": 0, "share": 0.01 },
        ],
    });
    Reading::new(answer, query).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_the_mean_of_the_last_seconds() {
        let mut key = example(1, TopQuery::default()).answer.items.remove(0);
        key.series = vec![1_000, 1, 2, 3, 4, 5];
        assert!((key.rate() - 3.0).abs() < 1e-9);
        key.series = vec![];
        assert!(key.rate().abs() < 1e-9);
    }

    #[test]
    fn what_is_not_an_answer_of_this_version_is_said_to_be_none() {
        for answer in [Value::Null, serde_json::json!({ "items": [] })] {
            let why = Reading::new(answer, TopQuery::default()).unwrap_err();
            assert!(why.contains("another version"), "{why}");
        }
        let uptime = example(0, TopQuery::default()).uptime();
        assert_eq!(uptime, 2 * 86_400 + 3 * 3_600 + 4 * 60 + 5);
    }
}
