//! Tyk's session objects as JSON: one object with a session under each key or hash, a list of
//! `{"key", "session"}`, or such objects line by line. An alias becomes an app, tags become scopes.

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::findings::Findings;
use super::jsonl;
use super::record::{End, Place, RECORDS_MAX, Record, Sha256};
use super::scopes::{ScopeRules, add};
use super::values::{count, list, quota, rate, what_fits};

/// What the key in Redis begins with.
const REDIS_PREFIX: &str = "apikey-";
/// What says what a key may do.
const GRANTS: [&str; 4] = ["tags", "access_rights", "apply_policies", "apply_policy_id"];
/// The lengths of Tyk's own hashes, in hex digits: murmur32, murmur64 and murmur128.
const MURMUR_LENGTHS: [usize; 3] = [8, 16, 32];

pub(super) fn read(text: &[u8], rules: &ScopeRules, findings: &mut Findings) -> Vec<Record> {
    let mut records = Vec::new();
    for (place, item) in items(text, findings) {
        if records.len() == RECORDS_MAX {
            let why = format!("there are more than {RECORDS_MAX} keys: split the file");
            findings.problem(Place::File, why);
            break;
        }
        let hash = findings.right(place, item.hash);
        let Some(session) = item.session.as_object() else {
            findings.problem(place, "`session` is not an object");
            continue;
        };
        let record = hash.map(|hash| Record::new(place, hash));
        records.extend(record.and_then(|record| read_session(record, session, rules, findings)));
    }
    records
}

/// A session and the key that it is of.
struct Item {
    hash: Result<Sha256, String>,
    session: Value,
}

fn items(text: &[u8], findings: &mut Findings) -> Vec<(Place, Item)> {
    match serde_json::from_slice(text) {
        Ok(Value::Array(items)) => {
            (1..).map(Place::Key).zip(items.into_iter().map(listed)).collect()
        }
        Ok(Value::Object(members)) if is_listed(&members) => {
            vec![(Place::Key(1), listed(Value::Object(members)))]
        }
        Ok(Value::Object(members)) => {
            let named = |(name, session): (String, Value)| Item { hash: by_name(&name), session };
            (1..).map(Place::Key).zip(members.into_iter().map(named)).collect()
        }
        Ok(_) => {
            findings.problem(
                Place::File,
                "not Tyk's session objects: write them as an object or a list",
            );
            Vec::new()
        }
        Err(_) => lines(text, findings),
    }
}

fn lines(text: &[u8], findings: &mut Findings) -> Vec<(Place, Item)> {
    let mut items = Vec::new();
    for (number, line) in (1..).zip(text.split(|byte| *byte == b'\n')) {
        let (place, line) = (Place::Line(number), line.trim_ascii());
        if !line.is_empty()
            && let Some(members) = findings.right(place, jsonl::object(line))
        {
            items.push((place, listed(Value::Object(members))));
        }
    }
    items
}

/// Whether these are the members of one item of a list, rather than sessions by their keys.
fn is_listed(members: &Map<String, Value>) -> bool {
    ["session", "data"].iter().any(|name| members.get(*name).is_some_and(Value::is_object))
        && ["key", "key_id", "key_hash", "hash"].iter().any(|name| members.contains_key(*name))
}

fn listed(mut item: Value) -> Item {
    let text = |names: [&str; 2]| {
        names.into_iter().find_map(|name| item.get(name)?.as_str().filter(|text| !text.is_empty()))
    };
    let hash = match (text(["key", "key_id"]), text(["key_hash", "hash"])) {
        (Some(key), _) => Sha256::of_key(key).map_err(str::to_owned),
        (None, Some(hash)) => by_hash(hash),
        (None, None) => Err("there is neither a `key` nor a `key_hash`".to_owned()),
    };
    let session = ["session", "data"].into_iter().find_map(|name| Some(item.get_mut(name)?.take()));
    Item { hash, session: session.unwrap_or_default() }
}

fn by_hash(hash: &str) -> Result<Sha256, String> {
    let hash = hash.strip_prefix(REDIS_PREFIX).unwrap_or(hash);
    Sha256::from_hex(hash).ok_or_else(|| {
        "the key's hash is not SHA-256 (Tyk's default is murmur), so no other system can check the \
         key: import the key itself, or create a new one for this client"
            .to_owned()
    })
}

/// A member's name is a key, or a hash if it looks like one.
fn by_name(name: &str) -> Result<Sha256, String> {
    let name = name.strip_prefix(REDIS_PREFIX).unwrap_or(name);
    let is_hex = name.bytes().all(|byte| byte.is_ascii_hexdigit());
    if let Some(hash) = Sha256::from_hex(name) {
        return Ok(hash);
    }
    if is_hex && MURMUR_LENGTHS.contains(&name.len()) {
        return Err(
            "a session is named by what looks like a murmur hash, with which no other system can \
             check a key: if it is the key itself, write {\"key\": …, \"session\": …}"
                .to_owned(),
        );
    }
    Ok(Sha256::of_key(name)?)
}

fn read_session(
    record: Record,
    session: &Map<String, Value>,
    rules: &ScopeRules,
    findings: &mut Findings,
) -> Option<Record> {
    let place = record.place;
    let text = |name: &str| session.get(name)?.as_str().filter(|text| !text.is_empty());
    let scopes = read_scopes(session, rules, place, findings);
    let end = findings.right(place, read_end(session.get("expires")))?;
    let mut limits = Default::default();
    if let Some(rate_count) = count(session.get("rate")) {
        let per_ms = session.get("per").and_then(Value::as_f64).map(|seconds| seconds * 1_000.0);
        match count(per_ms.map(Value::from).as_ref()).and_then(|per| rate(rate_count, per)) {
            Some(read) => limits = read,
            None => findings.note(place, "a rate that no unit here fits exactly is left out"),
        }
    }
    if let Some(quota_max) = count(session.get("quota_max")) {
        match count(session.get("quota_renewal_rate")).and_then(|span| quota(quota_max, span)) {
            Some(read) => {
                limits.quotas.push(read);
                findings
                    .note(place, "a quota goes by the calendar (UTC) from now on, and begins anew");
            }
            None => {
                findings.note(place, "a quota that fits no minute, hour, day or month is left out");
            }
        }
    }
    let (metadata, is_all) = session.get("meta_data").map(what_fits).unwrap_or_default();
    if session.contains_key("meta_data") && !is_all {
        findings.note(place, "`meta_data` that is not flat, or too much, is left out");
    }
    Some(Record {
        app: text("alias").or_else(|| text("org_id")).map(str::to_owned),
        scopes,
        is_granted: GRANTS.iter().any(|name| session.get(*name).is_some_and(is_any)),
        end,
        enabled: session.get("is_inactive").and_then(Value::as_bool) != Some(true),
        limits,
        metadata,
        ..record
    })
}

/// Whether a member says anything.
fn is_any(value: &Value) -> bool {
    match value {
        Value::Array(items) => !items.is_empty(),
        Value::Object(members) => !members.is_empty(),
        Value::String(text) => !text.is_empty(),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

fn read_scopes(
    session: &Map<String, Value>,
    rules: &ScopeRules,
    place: Place,
    findings: &mut Findings,
) -> Vec<keygate_core::Scope> {
    let texts = |name: &str| session.get(name).and_then(Value::as_array).and_then(|all| list(all));
    let tags = texts("tags").unwrap_or_default();
    let mut scopes = rules.read(tags.iter().map(String::as_str), "tag", place, findings);
    let rights = session.get("access_rights").and_then(Value::as_object);
    for (id, right) in rights.into_iter().flatten() {
        let name = right.get("api_name").and_then(Value::as_str).unwrap_or(id);
        let mapped = rules.only_mapped([id.as_str(), name]);
        if mapped.is_empty() {
            let note =
                format!("access to the API `{name}` is not taken over: --group-scope maps it");
            findings.note(place, note);
        }
        add(&mut scopes, mapped);
    }
    let single = session.get("apply_policy_id").and_then(Value::as_str).map(str::to_owned);
    let policies = texts("apply_policies").unwrap_or_default().into_iter().chain(single);
    for policy in policies.filter(|policy| !policy.is_empty()) {
        let mapped = rules.only_mapped([policy.as_str()]);
        if mapped.is_empty() {
            let note = format!("the policy `{policy}` is not taken over: --group-scope maps it");
            findings.note(place, note);
        }
        add(&mut scopes, mapped);
    }
    scopes
}

/// In seconds since 1970; 0 and what is below never ends.
fn read_end(expires: Option<&Value>) -> Result<End, &'static str> {
    const RULE: &str = "`expires` is not a time in seconds since 1970";
    match expires {
        None | Some(Value::Null) => Ok(End::Never),
        Some(value) => match value.as_i64().ok_or(RULE)? {
            ..=0 => Ok(End::Never),
            seconds => Timestamp::from_second(seconds).map(End::At).map_err(|_| RULE),
        },
    }
}

#[cfg(test)]
mod tests;
