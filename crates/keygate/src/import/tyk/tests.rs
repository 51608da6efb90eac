use serde_json::json;

use super::*;
use crate::import::scopes::Unmapped;

fn parse_with(text: &str, rules: &ScopeRules) -> (Vec<Record>, Findings) {
    let mut findings = Findings::default();
    (read(text.as_bytes(), rules, &mut findings), findings)
}

fn parse(value: &Value) -> (Vec<Record>, Findings) {
    parse_with(&value.to_string(), &ScopeRules::default())
}

fn session() -> Value {
    json!({
        "allowance": 0, "rate": 50, "per": 60, "expires": 1_893_456_000_i64,
        "quota_max": 10_000, "quota_renewal_rate": 86_400, "quota_remaining": 9_000,
        "org_id": "5e9d9544a1dcd60001d0ed20", "alias": "web shop", "is_inactive": true,
        "tags": ["read:orders"], "meta_data": { "crm": "17", "plan": 3 },
        "access_rights": { "api-1": { "api_name": "Orders", "versions": ["Default"] } },
        "apply_policies": [],
    })
}

#[test]
fn a_session_is_a_key_with_its_limits() {
    let (records, findings) = parse(&json!([{ "key": "eyJvcmciOiJhIn0=", "session": session() }]));
    assert_eq!(findings.problems(), [""; 0]);
    let [record] = &records[..] else { panic!() };
    assert_eq!(record.sha256, Sha256::of_key("eyJvcmciOiJhIn0=").unwrap());
    assert_eq!(record.app.as_deref(), Some("web shop"));
    assert_eq!(record.end, End::At("2030-01-01T00:00:00Z".parse().unwrap()));
    assert!(!record.enabled && record.scopes.len() == 1);
    assert_eq!(record.limits.rate.unwrap().to_string(), "50/minute");
    assert_eq!(record.limits.burst, Some(50));
    assert_eq!(record.limits.quotas[0].to_string(), "10000/day");
    assert_eq!((record.metadata["crm"].as_str(), record.metadata["plan"].as_str()), ("17", "3"));
    let notes = findings.notes().join("\n");
    assert!(notes.contains("`Orders`") && notes.contains("calendar"), "{notes}");
}

#[test]
fn the_same_sessions_come_in_four_forms() {
    let one = |name: &str, value: &str| json!({ name: value, "session": session() });
    let hash = Sha256::of_key("k1").unwrap().to_string();
    let lines = format!("{}\n\n{}\n", one("key", "k1"), one("key_hash", &hash));
    for text in [
        json!([one("key", "k1"), one("key_hash", &hash)]).to_string(),
        json!({ "k1": session(), hash.clone(): session() }).to_string(),
        json!({ format!("apikey-{hash}"): session(), "k1": session() }).to_string(),
        lines,
    ] {
        let (records, findings) = parse_with(&text, &ScopeRules::default());
        assert_eq!((records.len(), findings.problems().len()), (2, 0), "{text}: {findings:?}");
        assert!(records.iter().all(|one| one.sha256.to_string() == hash), "{text}");
    }
    let (records, _) = parse(&json!({ "key_id": "k1", "data": { "expires": -1, "org_id": "o" } }));
    assert_eq!((records[0].end, records[0].app.as_deref()), (End::Never, Some("o")));
}

#[test]
fn a_hash_that_only_tyk_can_check_is_refused_with_the_reason() {
    for value in [
        json!([{ "key_hash": "1a2b3c4d", "session": {} }]),
        json!({ "1a2b3c4d": {} }),
        json!({ "apikey-00112233445566778899aabbccddeeff": {} }),
    ] {
        let problems = parse(&value).1.problems();
        assert!(problems.len() == 1 && problems[0].contains("murmur"), "{value}: {problems:?}");
    }
    let key = json!([{ "key": "1a2b3c4d", "session": {} }]);
    assert_eq!(parse(&key).0.len(), 1, "what is said to be a key is one");
}

#[test]
fn apis_and_policies_are_scopes_if_the_operator_says_so() {
    let group = |text| crate::import::scopes::group_scope(text).unwrap();
    let mapped = [group("Orders=read:orders"), group("pol-1=write:orders")];
    let mapped = mapped.into_iter().map(|(word, scope)| (word, vec![scope])).collect();
    let rules = ScopeRules { mapped, unmapped: Unmapped::Skip, ..ScopeRules::default() };
    let mut session = session();
    session["tags"] = json!(["analytics"]);
    session["apply_policies"] = json!(["pol-1", "pol-2"]);
    let text = json!([{ "key": "k1", "session": session }]).to_string();
    let (records, findings) = parse_with(&text, &rules);
    let scopes: Vec<_> = records[0].scopes.iter().map(ToString::to_string).collect();
    assert_eq!(scopes, ["read:orders", "write:orders"]);
    let notes = findings.notes().join("\n");
    assert!(notes.contains("`analytics`") && notes.contains("`pol-2`"), "{notes}");
}

#[test]
fn limits_that_cannot_be_kept_are_told() {
    let session = json!({ "rate": 10, "per": 7, "quota_max": 5, "quota_renewal_rate": 100 });
    let (records, findings) = parse(&json!([{ "key": "k1", "session": session }]));
    assert_eq!(records[0].limits, Default::default());
    assert_eq!(findings.notes().len(), 2, "{findings:?}");
    let session = json!({ "rate": 0, "per": 0, "quota_max": -1 });
    let (records, findings) = parse(&json!([{ "key": "k1", "session": session }]));
    assert!(records[0].limits == Default::default() && findings.notes().is_empty());
}

#[test]
fn what_cannot_be_read_is_told_without_the_key() {
    for text in [
        "\"hush-hush\"",
        "{\"key\": \"hush-hush\"",
        "[{\"key\": \"hush-hush\"}]",
        "[{\"key\": \"hush-hush\", \"session\": {\"expires\": \"soon\"}}]",
        "[{\"session\": {}}]",
        "{\"hush-hush\": 1}",
    ] {
        let problems = parse_with(text, &ScopeRules::default()).1.problems();
        assert_eq!(problems.len(), 1, "{text}: {problems:?}");
        assert!(!problems[0].contains("hush-hush"), "{problems:?}");
    }
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(text in proptest::collection::vec(0_u8.., 0..400)) {
        read(&text, &ScopeRules::default(), &mut Findings::default());
    }

    #[test]
    fn any_numbers_are_read_or_refused(rate in proptest::num::f64::ANY, per in proptest::num::f64::ANY) {
        let session = json!({ "rate": rate, "per": per, "quota_max": per, "quota_renewal_rate": rate,
                              "expires": rate });
        parse(&json!([{ "key": "k", "session": session }]));
    }
}
