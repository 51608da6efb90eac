//! How a key's own limits are written down: `{"rate":"100/second","burst":50,"quotas":["1000/day"],
//! "concurrency":5}`, of which what is absent is as the key's tier says.

use keygate_core::limit::overrides::Parts;
use keygate_core::limit::terms::{Overrides, RateLimit};
use keygate_core::limit::{InvalidRate, Rate};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[derive(Serialize, Deserialize)]
struct Form {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rate: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    burst: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    quotas: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    concurrency: Option<u64>,
}

pub(super) fn serialize<S: Serializer>(
    overrides: &Option<Box<Overrides>>,
    to: S,
) -> Result<S::Ok, S::Error> {
    let form = overrides.as_ref().map(|overrides| Form {
        rate: overrides.rate.map(|limit| limit.rate().to_string()),
        burst: overrides.rate.as_ref().map(RateLimit::burst),
        quotas: overrides.quotas.as_ref().map(|all| all.iter().map(Rate::to_string).collect()),
        concurrency: overrides.concurrency,
    });
    form.serialize(to)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<Box<Overrides>>, D::Error> {
    let Some(form) = Option::<Form>::deserialize(from)? else { return Ok(None) };
    let parts = parts(form).map_err(D::Error::custom)?;
    // Bounds hold for what comes from a backup, too.
    let overrides = Overrides::from_parts(parts).map_err(D::Error::custom)?;
    Ok(overrides.map(Box::new))
}

fn parts(form: Form) -> Result<Parts, InvalidRate> {
    let read = |texts: Vec<String>| texts.iter().map(|text| text.parse()).collect();
    Ok(Parts {
        rate: form.rate.map(|text| text.parse()).transpose()?,
        burst: form.burst,
        quotas: form.quotas.map(read).transpose()?,
        concurrency: form.concurrency,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::super::{CodecError, Record};
    use super::*;
    use crate::records::Key;
    use crate::testing::{account, app, key};

    fn key_with(limits: Option<Box<Overrides>>) -> Key {
        Key { limits, ..key(1, &app(1, &account(1))) }
    }

    fn as_json(key: &Key) -> Value {
        serde_json::from_slice(&key.encode().unwrap()).unwrap()
    }

    fn read(limits: Value) -> Result<Key, CodecError> {
        let mut json = as_json(&key_with(None));
        json["record"]["limits"] = limits;
        Key::decode(json.to_string().as_bytes())
    }

    /// This text may be added to, not changed.
    #[test]
    fn the_form_of_version_1_stays_as_it_is() {
        let form = json!({
            "rate": "100/second", "burst": 50, "quotas": ["1000/day", "20000/month"],
            "concurrency": 5,
        });
        let key = read(form.clone()).unwrap();
        let limits = key.limits.as_ref().unwrap();
        assert_eq!(limits.rate, Some(RateLimit::new("100/s".parse().unwrap(), Some(50))));
        assert_eq!(limits.concurrency, Some(5));
        assert_eq!(as_json(&key)["record"]["limits"], form);
    }

    #[test]
    fn a_record_from_before_there_were_limits_has_none() {
        let json = as_json(&key_with(None));
        assert!(json["record"].get("limits").is_none(), "{json}");
        assert_eq!(Key::decode(json.to_string().as_bytes()).unwrap().limits, None);
        assert_eq!(read(Value::Null).unwrap().limits, None);
        assert_eq!(read(json!({})).unwrap().limits, None);
    }

    /// A restriction that cannot be read must not be read as none.
    #[test]
    fn limits_that_make_no_sense_are_refused() {
        for limits in [
            json!("100/s"),
            json!({ "rate": "fast" }),
            json!({ "rate": 100 }),
            json!({ "burst": 5 }),
            json!({ "rate": "1/s", "burst": 0 }),
            json!({ "quotas": ["1/day", "2/day"] }),
            json!({ "quotas": ["1/week"] }),
            json!({ "concurrency": 0 }),
            json!({ "concurrency": -1 }),
        ] {
            let error = read(limits.clone()).unwrap_err();
            assert!(matches!(error, CodecError::Malformed(_)), "{limits}: {error:?}");
        }
    }

    fn any_rate() -> impl Strategy<Value = Rate> {
        let unit = prop::sample::select(vec!["s", "m", "h", "d", "month"]);
        (1u64..1_000_000_000, unit).prop_map(|(n, unit)| format!("{n}/{unit}").parse().unwrap())
    }

    proptest! {
        #[test]
        fn any_limits_are_read_as_they_were_written(
            rate in prop::option::of((any_rate(), prop::option::of(1u64..=1_000_000_000))),
            quotas in prop::option::of(prop::collection::vec(any_rate(), 0..4)),
            concurrency in prop::option::of(1u64..=1_000_000),
        ) {
            let (rate, burst) = rate.map_or((None, None), |(rate, burst)| (Some(rate), burst));
            let parts = Parts { rate, burst, quotas, concurrency };
            if let Ok(limits) = Overrides::from_parts(parts) {
                let key = key_with(limits.map(Box::new));
                prop_assert_eq!(Key::decode(&key.encode().unwrap()).unwrap(), key);
            }
        }
    }
}
