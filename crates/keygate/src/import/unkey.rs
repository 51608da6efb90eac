//! Unkey's `keys.migrateKeys` bodies: hashes with who they are for and what they may do. An
//! `externalId` becomes an app, permissions become scopes.

use jiff::Timestamp;
use keygate_core::Environment;
use keygate_core::limit::{Rate, Unit};
use serde_json::{Map, Value};

use super::findings::Findings;
use super::record::{End, Limits, Place, RECORDS_MAX, Record, Sha256};
use super::scopes::{Credits, ScopeRules, add};
use super::values::{count, list, rate, what_fits};

/// The last word of a permission, if it is what a scope calls an action.
const ACTIONS: [&str; 3] = ["read", "write", "admin"];

/// `environment` is that of the apps that are made.
pub(super) fn read(
    text: &[u8],
    rules: &ScopeRules,
    environment: Environment,
    findings: &mut Findings,
) -> Vec<Record> {
    let mut records = Vec::new();
    let (keys, api) = match serde_json::from_slice(text) {
        Ok(Value::Array(keys)) => (keys, None),
        Ok(Value::Object(mut body)) => match body.remove("keys") {
            Some(Value::Array(keys)) => (keys, body.remove("apiId")),
            Some(_) | None => {
                findings
                    .problem(Place::File, "there is no list `keys`, as keys.migrateKeys takes it");
                return records;
            }
        },
        Ok(_) => {
            findings.problem(Place::File, "not a body of Unkey's keys.migrateKeys");
            return records;
        }
        Err(error) => {
            let (line, column) = (error.line() as u64, error.column());
            findings.problem(Place::Line(line), format!("not JSON, at column {column}"));
            return records;
        }
    };
    let api = api.as_ref().and_then(Value::as_str);
    for (place, key) in (1..).map(Place::Key).zip(keys) {
        if records.len() == RECORDS_MAX {
            let why = format!("there are more than {RECORDS_MAX} keys: split the file");
            findings.problem(Place::File, why);
            break;
        }
        let Some(members) = key.as_object() else {
            findings.problem(place, "not an object");
            continue;
        };
        records.extend(read_key(members, api, place, (rules, environment), findings));
    }
    records
}

fn read_key(
    key: &Map<String, Value>,
    api: Option<&str>,
    place: Place,
    (rules, environment): (&ScopeRules, Environment),
    findings: &mut Findings,
) -> Option<Record> {
    let text = |name: &str| key.get(name)?.as_str().filter(|text| !text.is_empty());
    let hash = findings.right(place, read_hash(key));
    let scopes = read_scopes(key, rules, place, findings);
    let end = findings.right(place, read_end(key.get("expires")));
    let limits = read_limits(key, place, findings);
    let is_used_up = findings.right(place, read_remaining(key, rules.credits))?;
    if is_used_up {
        findings.note(place, "no credits are left, and none come: the key is imported disabled");
    }
    findings.right(place, check_environment(key.get("environment"), environment))?;
    let (metadata, is_all) = key.get("meta").map(what_fits).unwrap_or_default();
    if key.contains_key("meta") && !is_all {
        findings.note(place, "`meta` that is not flat, or too much, is left out");
    }
    let app = text("externalId").or_else(|| text("ownerId")).or_else(|| text("apiId")).or(api);
    Some(Record {
        app: app.map(str::to_owned),
        name: text("name").map(str::to_owned),
        scopes,
        is_granted: ["permissions", "roles"].iter().any(|name| is_filled(key.get(*name))),
        end: end?,
        enabled: key.get("enabled").and_then(Value::as_bool) != Some(false) && !is_used_up,
        limits,
        metadata,
        ..Record::new(place, hash?)
    })
}

fn is_filled(list: Option<&Value>) -> bool {
    list.and_then(Value::as_array).is_some_and(|items| !items.is_empty())
}

/// What counts the uses that a key has left, if anything does.
fn credits(key: &Map<String, Value>) -> Option<&Map<String, Value>> {
    key.get("credits").and_then(Value::as_object)
}

/// Whether a key has no use left and gets none. One that has some could be used for ever here.
fn read_remaining(key: &Map<String, Value>, rule: Credits) -> Result<bool, &'static str> {
    let refill =
        credits(key).and_then(|credits| credits.get("refill")).or_else(|| key.get("refill"));
    let remaining = match credits(key) {
        Some(credits) => credits.get("remaining"),
        None => key.get("remaining"),
    };
    let Some(remaining) = remaining.filter(|remaining| !remaining.is_null()) else {
        return Ok(false);
    };
    if refill.is_some_and(|refill| !refill.is_null()) {
        return Ok(false);
    }
    let remaining = remaining.as_i64().ok_or("`remaining` is not a whole number")?;
    match rule {
        _ if remaining <= 0 => Ok(true),
        Credits::Ignore => Ok(false),
        Credits::Refuse => Err("the key has credits that are not refilled, which are not counted \
                                here: with --ignore-credits it may be used without that bound"),
    }
}

/// Unkey's environment of a key is free text. Keys of another one must not end up in this one's app.
fn check_environment(
    written: Option<&Value>,
    environment: Environment,
) -> Result<(), &'static str> {
    let Some(written) = written.filter(|written| !written.is_null()) else { return Ok(()) };
    let read = match written.as_str() {
        Some("live" | "prod" | "production") => Environment::Live,
        Some("test") => Environment::Test,
        Some("") => return Ok(()),
        Some(_) | None => return Err("`environment` is neither `live` nor `test`"),
    };
    match read == environment {
        true => Ok(()),
        false => Err("the key is of another `environment` than the apps that are made: import \
                      the keys of each by themselves, with --environment"),
    }
}

fn read_hash(key: &Map<String, Value>) -> Result<Sha256, &'static str> {
    const NO_HASH: &str = "there is no `hash`";
    let plain = key.get("plaintext").and_then(Value::as_str);
    let (text, variant) = match key.get("hash") {
        Some(Value::String(text)) => (text.as_str(), None),
        Some(Value::Object(hash)) => {
            let text = |name: &str| hash.get(name).and_then(Value::as_str);
            (text("value").ok_or(NO_HASH)?, text("variant"))
        }
        Some(_) | None => return plain.map_or(Err(NO_HASH), Sha256::of_key),
    };
    let read = match variant {
        None => Sha256::from_hex(text).or_else(|| from_base64(text)),
        Some("sha256_hex") => Sha256::from_hex(text),
        Some("sha256_base64") => from_base64(text),
        Some(_) => {
            return Err("the `hash` is neither sha256_base64 nor sha256_hex, and so cannot be \
                        checked here: create a new key for this client");
        }
    };
    read.ok_or("the `hash` is not a SHA-256 in hex or base64")
}

fn from_base64(text: &str) -> Option<Sha256> {
    use base64::Engine;
    use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
    let mut bytes = [0; 32];
    let read = [STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD]
        .iter()
        .find_map(|alphabet| alphabet.decode_slice(text, &mut bytes).ok())?;
    (read == bytes.len()).then(|| Sha256::from_bytes(bytes))
}

fn read_scopes(
    key: &Map<String, Value>,
    rules: &ScopeRules,
    place: Place,
    findings: &mut Findings,
) -> Vec<keygate_core::Scope> {
    let texts = |name: &str| {
        key.get(name).and_then(Value::as_array).and_then(|all| list(all)).unwrap_or_default()
    };
    let mut scopes = Vec::new();
    for permission in texts("permissions") {
        let turned = match rules.mapped.contains_key(&permission) {
            true => None,
            false => turned(&permission),
        };
        let word = turned.as_deref().unwrap_or(&permission);
        add(&mut scopes, rules.read([word], "permission", place, findings));
    }
    let roles = texts("roles");
    add(&mut scopes, rules.read(roles.iter().map(String::as_str), "role", place, findings));
    scopes
}

/// `documents.read` as `read:documents`.
fn turned(permission: &str) -> Option<String> {
    let (resource, action) = permission.rsplit_once('.')?;
    ACTIONS.contains(&action).then(|| format!("{action}:{resource}"))
}

/// In milliseconds since 1970.
fn read_end(expires: Option<&Value>) -> Result<End, &'static str> {
    const RULE: &str = "`expires` is not a time in milliseconds since 1970";
    match expires {
        None | Some(Value::Null) => Ok(End::Never),
        Some(value) => match value.as_i64().ok_or(RULE)? {
            ..=0 => Ok(End::Never),
            millis => Timestamp::from_millisecond(millis).map(End::At).map_err(|_| RULE),
        },
    }
}

fn read_limits(key: &Map<String, Value>, place: Place, findings: &mut Findings) -> Limits {
    let mut limits = Limits::default();
    let listed = key.get("ratelimits").and_then(Value::as_array).map(Vec::as_slice);
    let ratelimits = listed.unwrap_or_default().iter().chain(key.get("ratelimit"));
    for (number, ratelimit) in ratelimits.enumerate() {
        let parts = count(ratelimit.get("limit")).zip(count(ratelimit.get("duration")));
        match parts.and_then(|(count, millis)| rate(count, millis)) {
            Some(read) if number == 0 => limits = read,
            Some(read) => {
                findings.note(place, "of several ratelimits the strictest is taken over");
                if is_stricter(&read, &limits) {
                    limits = read;
                }
            }
            None => findings.note(place, "a ratelimit that no unit here fits exactly is left out"),
        }
    }
    if let Some(credits) = credits(key) {
        match read_refill(credits) {
            Some(quota) => limits.quotas.push(quota),
            None => findings.note(place, "credits without a daily or monthly refill are left out"),
        }
    }
    limits
}

/// Fewer in the long run; of as many, fewer at once.
fn is_stricter(one: &Limits, other: &Limits) -> bool {
    let measure = |limits: &Limits| {
        let rate = limits.rate?;
        let day_ms = u128::from(86_400_000_u64);
        Some((u128::from(rate.count) * day_ms / rate.unit.duration().as_millis(), limits.burst))
    };
    match (measure(one), measure(other)) {
        (Some(one), Some(other)) => one < other,
        (one, None) => one.is_some(),
        (None, Some(_)) => false,
    }
}

fn read_refill(credits: &Map<String, Value>) -> Option<Rate> {
    let refill = credits.get("refill")?;
    let unit = match refill.get("interval")?.as_str()? {
        "daily" => Unit::Day,
        "monthly" => Unit::Month,
        _ => return None,
    };
    Some(Rate { count: count(refill.get("amount"))?, unit })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(value: &Value) -> (Vec<Record>, Findings) {
        let mut findings = Findings::default();
        let records = read(
            value.to_string().as_bytes(),
            &ScopeRules::default(),
            Environment::Live,
            &mut findings,
        );
        (records, findings)
    }

    fn body(key: Value) -> Value {
        json!({ "migrationId": "mig_1", "apiId": "api_1", "keys": [key] })
    }

    /// SHA-256 of `my-secret-key`.
    const BASE64: &str = "ExH4/ICn6ijXjddyPwnETBdUzTUWDKjnEzrj1/Y2oZo=";

    #[test]
    fn a_key_to_be_migrated_is_a_key_with_its_limits() {
        let (records, findings) = parse(&body(json!({
            "hash": { "value": BASE64, "variant": "sha256_base64" },
            "name": "ci", "externalId": "user_17", "meta": { "plan": "pro" }, "enabled": false,
            "permissions": ["documents.read", "write:documents"], "roles": [],
            "expires": 1_893_456_000_000_i64,
            "credits": { "remaining": 5, "refill": { "interval": "monthly", "amount": 900 } },
            "ratelimits": [{ "name": "requests", "limit": 1000, "duration": 60_000, "autoApply": true }],
        })));
        assert_eq!(findings.problems(), [""; 0]);
        let [record] = &records[..] else { panic!() };
        assert_eq!(record.sha256, Sha256::of_key("my-secret-key").unwrap());
        assert_eq!((record.app.as_deref(), record.name.as_deref()), (Some("user_17"), Some("ci")));
        let scopes: Vec<_> = record.scopes.iter().map(ToString::to_string).collect();
        assert_eq!(scopes, ["read:documents", "write:documents"]);
        assert_eq!(record.end, End::At("2030-01-01T00:00:00Z".parse().unwrap()));
        assert!(!record.enabled && record.metadata["plan"] == "pro");
        assert_eq!(record.limits.rate.unwrap().to_string(), "1000/minute");
        assert_eq!(record.limits.quotas[0].to_string(), "900/month");
    }

    #[test]
    fn a_hash_comes_in_hex_or_base64_and_the_app_may_be_the_api() {
        let hex = Sha256::of_key("my-secret-key").unwrap().to_string();
        for hash in [
            json!(hex),
            json!(BASE64),
            json!(BASE64.trim_end_matches('=')),
            json!({ "value": hex, "variant": "sha256_hex" }),
        ] {
            let (records, findings) = parse(&body(json!({ "hash": hash })));
            assert_eq!(findings.problems(), [""; 0], "{hash}");
            assert_eq!(records[0].sha256.to_string(), hex, "{hash}");
            assert_eq!(records[0].app.as_deref(), Some("api_1"));
        }
        let (records, _) = parse(&json!([{ "plaintext": "k1", "ownerId": "o" }]));
        assert_eq!(records[0].sha256, Sha256::of_key("k1").unwrap());
    }

    #[test]
    fn what_cannot_be_imported_is_told_with_the_reason() {
        for (key, says) in [
            (json!({ "hash": { "value": "$2b$12$hush-hush", "variant": "bcrypt" } }), "neither"),
            (json!({ "hash": "hush-hush" }), "not a SHA-256"),
            (json!({ "name": "a" }), "no `hash`"),
            (json!({ "hash": BASE64, "expires": "hush-hush" }), "`expires`"),
            (json!({ "hash": BASE64, "roles": ["editor"] }), "role `editor`"),
            (json!({ "hash": BASE64, "permissions": ["documents.list"] }), "`documents.list`"),
            (json!("hush-hush"), "not an object"),
        ] {
            let problems = parse(&body(key.clone())).1.problems();
            assert!(problems.len() == 1 && problems[0].contains(says), "{key}: {problems:?}");
            assert!(!problems[0].contains("hush-hush"), "{problems:?}");
        }
        for wrong in [json!({}), json!({ "keys": 1 }), json!(1)] {
            assert_eq!(parse(&wrong).1.problems().len(), 1, "{wrong}");
        }
    }

    #[test]
    fn limits_that_cannot_be_kept_are_told() {
        let (records, findings) = parse(&body(json!({
            "hash": BASE64, "credits": { "remaining": null },
            "ratelimits": [{ "limit": 1, "duration": 7_000 }],
        })));
        assert_eq!(records[0].limits, Limits::default());
        assert_eq!(findings.notes().len(), 2, "{findings:?}");
    }

    #[test]
    fn a_key_without_credits_stays_without() {
        for used_up in [json!({ "remaining": 0 }), json!({ "credits": { "remaining": 0 } })] {
            let mut key = json!({ "hash": BASE64, "enabled": true });
            key.as_object_mut().unwrap().extend(used_up.as_object().unwrap().clone());
            let (records, findings) = parse(&body(key));
            assert!(!records[0].enabled, "{used_up}");
            assert!(findings.notes().iter().any(|note| note.contains("disabled")), "{findings:?}");
        }
        let some = json!({ "hash": BASE64, "credits": { "remaining": 5 } });
        assert!(parse(&body(some.clone())).1.problems()[0].contains("--ignore-credits"));
        let rules = ScopeRules { credits: Credits::Ignore, ..ScopeRules::default() };
        let mut findings = Findings::default();
        let text = body(some).to_string();
        let records = read(text.as_bytes(), &rules, Environment::Live, &mut findings);
        assert!(records[0].enabled && findings.problems().is_empty());
    }

    #[test]
    fn a_key_of_another_environment_is_a_problem() {
        let with = |name: Value| json!({ "hash": BASE64, "environment": name });
        for right in [json!("live"), json!("production"), json!(null), json!("")] {
            assert_eq!(parse(&body(with(right))).1.problems(), [""; 0]);
        }
        for (wrong, says) in [("test", "--environment"), ("staging", "neither")] {
            let problems = parse(&body(with(json!(wrong)))).1.problems();
            assert!(problems.len() == 1 && problems[0].contains(says), "{problems:?}");
        }
    }

    #[test]
    fn of_several_ratelimits_the_strictest_stays() {
        let (records, _) = parse(&body(json!({ "hash": BASE64, "ratelimits": [
            { "limit": 100, "duration": 1_000 }, { "limit": 10, "duration": 60_000 },
            { "limit": 900, "duration": 3_600_000 },
        ] })));
        assert_eq!(records[0].limits.rate.unwrap().to_string(), "10/minute");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(text in proptest::collection::vec(0_u8.., 0..400)) {
            read(&text, &ScopeRules::default(), Environment::Live, &mut Findings::default());
            let begun = [b"{\"keys\":[", &text[..]].concat();
            read(&begun, &ScopeRules::default(), Environment::Live, &mut Findings::default());
        }
    }
}
