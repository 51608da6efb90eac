//! What is to be sent for the keys of a file: where each goes, which apps have to be made for that,
//! and in which parts.

use std::collections::HashMap;

use jiff::Timestamp;
use keygate_core::scope::SCOPES_MAX;
use keygate_core::{AccountId, AppId, Environment, Scope};
use serde_json::{Map, Value, json};

use super::findings::Findings;
use super::record::{End, Limits, Place, Record};
use super::scopes::add;

/// What the API takes at a time.
const PART_KEYS_MAX: usize = 500;
/// The API's bound is 1 MiB; a key is far less than what is left.
const PART_BYTES_MAX: usize = 900 << 10;

/// Where keys go.
#[derive(Clone, Debug)]
pub(super) struct Destination {
    /// All of them, whatever the file calls their apps.
    pub(super) app: Option<AppId>,
    /// Whose the apps are that the file names.
    pub(super) account: Option<Whose>,
    pub(super) environment: Environment,
    /// Of keys that the file gives none.
    pub(super) scopes: Vec<Scope>,
}

#[derive(Clone, Debug)]
pub(super) enum Whose {
    Account(AccountId),
    /// One of this name, to be made by the first import and found by the next.
    NewAccount(String),
}

/// A whole import.
#[derive(Debug)]
pub(super) struct Plan {
    account: Option<Whose>,
    environment: Environment,
    apps: Vec<NewApp>,
    keys: Vec<(Record, App)>,
    /// Those left out.
    pub(super) expired: usize,
}

#[derive(Debug)]
struct NewApp {
    name: String,
    granted: Vec<Scope>,
}

#[derive(Clone, Copy, Debug)]
enum App {
    Id(AppId),
    /// Its place among the new ones.
    New(usize),
}

/// One request, and which keys it is about.
pub(super) struct Part {
    pub(super) body: Value,
    pub(super) places: Vec<Place>,
    /// What the file calls the request's apps, in their order.
    pub(super) apps: Vec<String>,
}

impl Plan {
    pub(super) fn new(
        records: Vec<Record>,
        to: &Destination,
        now: Timestamp,
        findings: &mut Findings,
    ) -> Self {
        let mut plan = Self {
            account: to.account.clone(),
            environment: to.environment,
            apps: Vec::new(),
            keys: Vec::with_capacity(records.len()),
            expired: 0,
        };
        let mut names = HashMap::new();
        for mut record in records {
            if matches!(record.end, End::At(end) if end <= now) {
                plan.expired += 1;
                continue;
            }
            // One that the file says something about may not get more by that being left out.
            if record.scopes.is_empty() && !record.is_granted {
                record.scopes.clone_from(&to.scopes);
            }
            if record.scopes.is_empty() {
                findings
                    .note(record.place, "the key has no scopes, and may do little: see --scopes");
            }
            if let Some(app) = plan.place(&mut record, to, &mut names, findings) {
                plan.keys.push((record, app));
            }
        }
        for app in plan.apps.iter().filter(|app| app.granted.len() > SCOPES_MAX) {
            let (name, count) = (&app.name, app.granted.len());
            let why = format!(
                "the keys of `{name}` have {count} scopes; an app has at most {SCOPES_MAX}"
            );
            findings.problem(Place::File, why);
        }
        plan
    }

    /// The app of a key; one that is new is granted what the key has.
    fn place(
        &mut self,
        record: &mut Record,
        to: &Destination,
        names: &mut HashMap<String, usize>,
        findings: &mut Findings,
    ) -> Option<App> {
        let name = record.app.take();
        if let Some(app) = to.app {
            // What the file calls the app is then the best name for the key.
            record.name =
                record.name.take().or_else(|| name.filter(|name| name.parse::<AppId>().is_err()));
            return Some(App::Id(app));
        }
        let Some(name) = name else {
            let why = "nothing says which app the key is for: give --app ID for all such keys";
            findings.problem(record.place, why);
            return None;
        };
        if let Ok(id) = name.parse() {
            return Some(App::Id(id));
        }
        if to.account.is_none() {
            findings.problem(
                Place::File,
                "the file names apps: say whose they are with --account ID or --create-account NAME, \
                 or put all keys into one app with --app ID",
            );
            return None;
        }
        let next = self.apps.len();
        let at = *names.entry(name.clone()).or_insert(next);
        if at == next {
            self.apps.push(NewApp { name, granted: Vec::new() });
        }
        add(&mut self.apps.get_mut(at)?.granted, record.scopes.clone());
        Some(App::New(at))
    }

    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// How many apps are named that may have to be made.
    pub(super) fn apps(&self) -> usize {
        self.apps.len()
    }

    /// The requests, one after the other.
    pub(super) fn parts(&self, source: &'static str, dry_run: bool) -> Parts<'_> {
        Parts { plan: self, source, dry_run, next: 0 }
    }

    fn part(&self, from: usize, source: &str, dry_run: bool) -> Part {
        let (mut keys, mut places, mut apps) = (Vec::new(), Vec::new(), Vec::new());
        let mut bytes = 0;
        let rest = self.keys.iter().skip(from).take(PART_KEYS_MAX);
        for (record, app) in rest {
            let key = key(record, self.reference(*app));
            bytes += key.to_string().len();
            if let App::New(at) = app
                && !apps.contains(at)
            {
                bytes += self.app(*at).to_string().len();
                apps.push(*at);
            }
            if bytes > PART_BYTES_MAX && !keys.is_empty() {
                break;
            }
            keys.push(key);
            places.push(record.place);
        }
        let accounts = match &self.account {
            Some(Whose::NewAccount(name)) if !apps.is_empty() => {
                json!([{ "ref": name, "name": name }])
            }
            Some(_) | None => json!([]),
        };
        let names = apps.iter().filter_map(|at| self.apps.get(*at)).map(|app| app.name.clone());
        let names = names.collect();
        let apps: Vec<Value> = apps.into_iter().map(|at| self.app(at)).collect();
        let body = json!({ "source": source, "dry_run": dry_run, "accounts": accounts,
                           "apps": apps, "keys": keys });
        Part { body, places, apps: names }
    }

    fn reference(&self, app: App) -> (&'static str, String) {
        match app {
            App::Id(id) => ("app_id", id.to_string()),
            App::New(at) => {
                ("app_ref", self.apps.get(at).map(|app| app.name.clone()).unwrap_or_default())
            }
        }
    }

    fn app(&self, at: usize) -> Value {
        let Some(NewApp { name, granted }) = self.apps.get(at) else { return Value::Null };
        let granted: Vec<String> = granted.iter().map(ToString::to_string).collect();
        let mut app = Map::new();
        app.insert("ref".into(), name.as_str().into());
        app.insert("name".into(), name.as_str().into());
        app.insert("environment".into(), self.environment.as_str().into());
        app.insert("granted_scopes".into(), granted.into());
        let (member, whose) = match &self.account {
            Some(Whose::Account(id)) => ("account_id", id.to_string()),
            Some(Whose::NewAccount(name)) => ("account_ref", name.clone()),
            None => return app.into(),
        };
        app.insert(member.into(), whose.into());
        app.into()
    }
}

pub(super) struct Parts<'a> {
    plan: &'a Plan,
    source: &'static str,
    dry_run: bool,
    next: usize,
}

impl Iterator for Parts<'_> {
    type Item = Part;

    fn next(&mut self) -> Option<Part> {
        if self.next == self.plan.keys.len() {
            return None;
        }
        let part = self.plan.part(self.next, self.source, self.dry_run);
        self.next += part.places.len();
        Some(part)
    }
}

fn key(record: &Record, (app_member, app): (&str, String)) -> Value {
    let mut key = Map::new();
    let scopes: Vec<String> = record.scopes.iter().map(ToString::to_string).collect();
    key.insert("sha256".into(), record.sha256.to_string().into());
    key.insert(app_member.into(), app.into());
    key.insert("scopes".into(), scopes.into());
    for (name, value) in [
        ("name", &record.name),
        ("owner", &record.owner),
        ("purpose", &record.purpose),
        ("tier", &record.tier),
    ] {
        if let Some(value) = value {
            key.insert(name.into(), value.as_str().into());
        }
    }
    match record.end {
        End::Never => {}
        End::At(end) => drop(key.insert("expires_at".into(), end.to_string().into())),
        End::AfterSeconds(span) => drop(key.insert("ttl".into(), format!("{span}s").into())),
    }
    if !record.enabled {
        key.insert("enabled".into(), false.into());
    }
    if record.limits != Limits::default() {
        key.insert("limits".into(), limits(&record.limits));
    }
    if !record.metadata.is_empty() {
        key.insert("metadata".into(), json!(record.metadata));
    }
    key.into()
}

fn limits(limits: &Limits) -> Value {
    let mut members = Map::new();
    if let Some(rate) = limits.rate {
        members.insert("rate".into(), rate.to_string().into());
    }
    if let Some(burst) = limits.burst {
        members.insert("burst".into(), burst.into());
    }
    if !limits.quotas.is_empty() {
        let quotas: Vec<String> = limits.quotas.iter().map(ToString::to_string).collect();
        members.insert("quotas".into(), quotas.into());
    }
    if let Some(concurrency) = limits.concurrency {
        members.insert("concurrency".into(), concurrency.into());
    }
    members.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::record::Sha256;

    const APP: &str = "app_01ARZ3NDEKTSV4RRFFQ69G5FAV";

    fn record(number: u64, app: Option<&str>, scopes: &[&str]) -> Record {
        let hash = Sha256::of_key(&format!("k{number}")).unwrap();
        Record {
            app: app.map(str::to_owned),
            scopes: scopes.iter().map(|scope| scope.parse().unwrap()).collect(),
            ..Record::new(Place::Line(number), hash)
        }
    }

    fn to() -> Destination {
        let account = Some(Whose::NewAccount("Acme".into()));
        Destination { app: None, account, environment: Environment::Live, scopes: Vec::new() }
    }

    fn plan(records: Vec<Record>, to: &Destination) -> (Plan, Findings) {
        let mut findings = Findings::default();
        let now = "2030-01-01T00:00:00Z".parse().unwrap();
        (Plan::new(records, to, now, &mut findings), findings)
    }

    fn bodies(plan: &Plan) -> Vec<Value> {
        plan.parts("csv", false).map(|part| part.body).collect()
    }

    #[test]
    fn an_app_that_is_made_is_granted_what_its_keys_have_in_the_whole_file() {
        let records = (1..=501)
            .map(|n| record(n, Some("shop"), if n == 501 { &["write:a"] } else { &["read:a"] }));
        let (plan, findings) = plan(records.collect(), &to());
        assert!(findings.problems().is_empty());
        let bodies = bodies(&plan);
        assert_eq!(bodies.len(), 2);
        for body in &bodies {
            assert_eq!(body["accounts"], json!([{ "ref": "Acme", "name": "Acme" }]));
            let app = json!({ "ref": "shop", "name": "shop", "environment": "live",
                              "account_ref": "Acme", "granted_scopes": ["read:a", "write:a"] });
            assert_eq!(body["apps"], json!([app]));
        }
        assert_eq!(bodies[1]["keys"].as_array().unwrap().len(), 1);
        assert_eq!(bodies[1]["keys"][0]["app_ref"], "shop");
    }

    #[test]
    fn one_app_may_be_named_for_all_keys_and_an_id_is_an_app() {
        let to_app = Destination { app: Some(APP.parse().unwrap()), account: None, ..to() };
        let (one, _) = plan(vec![record(1, Some("shop"), &["read:a"])], &to_app);
        let body = &bodies(&one)[0];
        assert_eq!(
            (&body["keys"][0]["app_id"], &body["keys"][0]["name"]),
            (&json!(APP), &json!("shop"))
        );
        assert_eq!((&body["apps"], &body["accounts"]), (&json!([]), &json!([])));
        let (by_id, findings) =
            plan(vec![record(1, Some(APP), &["read:a"])], &Destination { account: None, ..to() });
        assert!(findings.problems().is_empty());
        assert_eq!(bodies(&by_id)[0]["keys"][0]["app_id"], APP);
    }

    #[test]
    fn a_key_without_a_place_to_go_is_a_problem() {
        let (_, findings) = plan(vec![record(7, None, &["read:a"])], &to());
        assert!(
            findings.problems()[0].contains("line 7: ") && findings.problems()[0].contains("--app")
        );
        let nowhere = Destination { account: None, ..to() };
        let (_, findings) = plan(vec![record(7, Some("shop"), &[])], &nowhere);
        assert!(findings.problems()[0].contains("--create-account"), "{findings:?}");
    }

    #[test]
    fn keys_that_have_expired_are_left_out_and_those_without_scopes_get_the_given_ones() {
        let mut expired = record(1, Some("a"), &["read:a"]);
        expired.end = End::At("2029-12-31T23:59:59Z".parse().unwrap());
        let to = Destination { scopes: vec!["read:b".parse().unwrap()], ..to() };
        let (plan, _) = plan(vec![expired, record(2, Some("a"), &[])], &to);
        assert_eq!((plan.len(), plan.expired), (1, 1));
        let body = &bodies(&plan)[0];
        assert_eq!(body["keys"][0]["scopes"], json!(["read:b"]));
        assert_eq!(body["apps"][0]["granted_scopes"], json!(["read:b"]));
    }

    #[test]
    fn a_key_whose_own_groups_were_left_out_gets_no_other_scopes_for_that() {
        let mut dropped = record(1, Some("a"), &[]);
        dropped.is_granted = true;
        let to = Destination { scopes: vec!["read:b".parse().unwrap()], ..to() };
        let (plan, findings) = plan(vec![dropped, record(2, Some("a"), &[])], &to);
        let body = &bodies(&plan)[0];
        assert_eq!(body["keys"][0]["scopes"], json!([]));
        assert_eq!(body["keys"][1]["scopes"], json!(["read:b"]));
        assert!(findings.notes()[0].contains("no scopes"), "{findings:?}");
    }

    #[test]
    fn no_part_is_longer_than_the_api_takes() {
        let long = |n| {
            let mut record = record(n, Some(&format!("app {n}")), &["read:a"]);
            record.metadata = (0..16).map(|m| (format!("m{m}"), "x".repeat(512))).collect();
            record
        };
        let (plan, _) = plan((1..=400).map(long).collect(), &to());
        let parts: Vec<Part> = plan.parts("csv", true).collect();
        assert!(parts.len() > 1 && parts.iter().all(|part| part.body.to_string().len() < 1 << 20));
        assert_eq!(parts.iter().map(|part| part.places.len()).sum::<usize>(), 400);
        let mut keys = parts.iter().flat_map(|part| &part.places);
        assert!((1..=400).all(|n| keys.next() == Some(&Place::Line(n))));
    }

    #[test]
    fn a_key_is_sent_with_all_that_it_has_and_nothing_else() {
        let mut record = record(1, Some(APP), &["read:a"]);
        record.end = End::AfterSeconds(60);
        record.enabled = false;
        record.limits.rate = Some("5/s".parse().unwrap());
        record.limits.burst = Some(9);
        record.limits.quotas = vec!["7/day".parse().unwrap()];
        let hash = record.sha256.to_string();
        let (plan, _) = plan(vec![record], &to());
        let expected = json!({
            "sha256": hash, "app_id": APP, "scopes": ["read:a"], "ttl": "60s", "enabled": false,
            "limits": { "rate": "5/second", "burst": 9, "quotas": ["7/day"] },
        });
        assert_eq!(bodies(&plan)[0]["keys"][0], expected);
    }
}
