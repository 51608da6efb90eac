//! The commands that manage: each is one call to the admin API and one way to show the answer.
//! The rules are the API's; the only one kept here is that a key is never an argument.

use std::io::{BufRead, IsTerminal, Read};

use anyhow::Context;
use serde_json::{Map, Value, json};
use ureq::http::Method;
use zeroize::Zeroizing;

use crate::cli::{
    Accounts, AccountsCommand, AdminOptions, Apps, AppsCommand, Audit, CreateKey, Fleet, Keys,
    KeysCommand, LimitOptions, PageOptions, UpdateKey, Verify,
};
use crate::client::{Call, Client};
use crate::failure::{Exit, Failure};
use crate::import;
use crate::output::{self, Shape, Style};

/// The longest text that is read as a key; the gateway refuses far shorter ones.
const KEY_BYTES_MAX: usize = 1_024;

pub(crate) fn accounts(accounts: &Accounts) -> Result<(), Failure> {
    let (call, shape) = accounts_call(&accounts.command);
    run(&accounts.admin, &call, shape)
}

fn accounts_call(command: &AccountsCommand) -> (Call, Shape) {
    match command {
        AccountsCommand::Create { name } => {
            (post("/v1/accounts", json!({ "name": name })), Shape::Record)
        }
        AccountsCommand::List(page) => (list("/v1/accounts", page), Shape::Accounts),
        AccountsCommand::Show { id } => (get(format!("/v1/accounts/{id}")), Shape::Record),
        AccountsCommand::Suspend { id } => set_status(format!("/v1/accounts/{id}"), "suspended"),
        AccountsCommand::Activate { id } => set_status(format!("/v1/accounts/{id}"), "active"),
    }
}

pub(crate) fn apps(apps: &Apps) -> Result<(), Failure> {
    let (call, shape) = apps_call(&apps.command);
    run(&apps.admin, &call, shape)
}

fn apps_call(command: &AppsCommand) -> (Call, Shape) {
    match command {
        AppsCommand::Create { account, name, scopes, environment, cidr } => {
            let body = json!({
                "name": name,
                "environment": environment.as_str(),
                "granted_scopes": texts(scopes),
                "allowed_cidrs": texts(cidr),
            });
            (post(format!("/v1/accounts/{account}/apps"), body), Shape::Record)
        }
        AppsCommand::List { account, page } => {
            (list(format!("/v1/accounts/{account}/apps"), page), Shape::Apps)
        }
        AppsCommand::Show { id } => (get(format!("/v1/apps/{id}")), Shape::Record),
        AppsCommand::Disable { id } => set_status(format!("/v1/apps/{id}"), "disabled"),
        AppsCommand::Enable { id } => set_status(format!("/v1/apps/{id}"), "active"),
    }
}

pub(crate) fn keys(keys: &Keys) -> Result<(), Failure> {
    let (call, shape) = match &keys.command {
        KeysCommand::Create(create) => return create_key(&keys.admin, create),
        KeysCommand::Update(update) => return update_key(&keys.admin, update),
        KeysCommand::Import(options) => return import::run(&keys.admin, options),
        KeysCommand::List { app, page } => {
            (list(format!("/v1/apps/{app}/keys"), page), Shape::Keys)
        }
        KeysCommand::Show { id } => (get(format!("/v1/keys/{id}")), Shape::Record),
        KeysCommand::ResetLimits { id, reason } => {
            (post(format!("/v1/keys/{id}/limits/reset"), why(reason.as_deref())), Shape::Record)
        }
        KeysCommand::Revoke { id, reason } => {
            (post(format!("/v1/keys/{id}/revoke"), why(reason.as_deref())), Shape::Record)
        }
        KeysCommand::Disable { id } => set_status(format!("/v1/keys/{id}"), "disabled"),
        KeysCommand::Enable { id } => set_status(format!("/v1/keys/{id}"), "active"),
    };
    run(&keys.admin, &call, shape)
}

fn create_key(admin: &AdminOptions, create: &CreateKey) -> Result<(), Failure> {
    let client = Client::new(admin)?;
    let scopes = if create.scopes.is_empty() {
        let app = client.send(&get(format!("/v1/apps/{}", create.app)))?;
        app.get("granted_scopes").cloned().unwrap_or_else(|| json!([]))
    } else {
        texts(&create.scopes)
    };
    let answer = client.send(&create_key_call(create, scopes))?;
    output::show(&answer, Shape::NewKey, style(admin))
}

fn create_key_call(create: &CreateKey, scopes: Value) -> Call {
    let mut body = Map::new();
    body.insert("kind".into(), create.kind.as_str().into());
    body.insert("scopes".into(), scopes);
    put(&mut body, "name", create.name.as_deref());
    put(&mut body, "ttl", create.ttl.as_deref());
    put(&mut body, "expires_at", create.expires_at.as_deref());
    if !create.cidr.is_empty() {
        body.insert("allowed_cidrs".into(), texts(&create.cidr));
    }
    if !create.origin.is_empty() {
        body.insert("allowed_origins".into(), texts(&create.origin));
    }
    put(&mut body, "tier", create.tier.as_deref());
    if let Some(limits) = limits(&create.limits) {
        body.insert("limits".into(), limits);
    }
    post(format!("/v1/apps/{}/keys", create.app), body.into())
}

fn update_key(admin: &AdminOptions, update: &UpdateKey) -> Result<(), Failure> {
    let call = update_key_call(update)
        .ok_or_else(|| Failure::new(Exit::Usage, "name a tier or a limit: nothing is to change"))?;
    run(admin, &call, Shape::Record)
}

/// Nothing if nothing is to change.
fn update_key_call(update: &UpdateKey) -> Option<Call> {
    let mut body = Map::new();
    put(&mut body, "tier", update.tier.as_deref());
    if update.no_tier {
        body.insert("tier".into(), Value::Null);
    }
    if update.no_limits {
        body.insert("limits".into(), Value::Null);
    }
    if let Some(limits) = limits(&update.limits) {
        body.insert("limits".into(), limits);
    }
    let path = format!("/v1/keys/{}", update.id);
    let patch = || Call { method: Method::PATCH, body: Some(body.clone().into()), ..get(path) };
    (!body.is_empty()).then(patch)
}

/// Those limits of a key's own that are given, if any. At a key that has others, these stay.
fn limits(options: &LimitOptions) -> Option<Value> {
    let LimitOptions { rate, burst, quota, concurrency } = options;
    let mut given = Map::new();
    if let Some(rate) = rate {
        given.insert("rate".into(), rate.to_string().into());
    }
    if let Some(burst) = burst {
        given.insert("burst".into(), (*burst).into());
    }
    if !quota.is_empty() {
        given.insert("quotas".into(), texts(quota));
    }
    if let Some(concurrency) = concurrency {
        given.insert("concurrency".into(), (*concurrency).into());
    }
    (!given.is_empty()).then(|| given.into())
}

/// Succeeds if the key may make the call; else fails as a refusal, for scripts to see.
pub(crate) fn verify(verify: &Verify) -> Result<(), Failure> {
    if verify.key != "-" || verify.stray.is_some() {
        let why = "give the key on standard input: an argument is in the process list and in the \
                   shell's history, so treat that key as leaked and revoke it";
        return Err(Failure::new(Exit::Usage, why));
    }
    let client = Client::new(&verify.admin)?;
    let key = key_from_input()?;
    let answer = client.send(&verify_call(verify, &key))?;
    output::show(&answer, Shape::Record, style(&verify.admin))?;
    if answer.get("valid").and_then(Value::as_bool) == Some(true) {
        return Ok(());
    }
    let code = answer.get("code").and_then(Value::as_str).unwrap_or("unknown");
    Err(Failure::new(Exit::Refused, format!("the key may not make this call ({code})")))
}

fn verify_call(verify: &Verify, key: &str) -> Call {
    let mut body = Map::new();
    body.insert("key".into(), key.into());
    if let Some(path) = &verify.path {
        body.insert("method".into(), verify.method.as_str().into());
        body.insert("path".into(), path.as_str().into());
    }
    put(&mut body, "host", verify.host.as_deref());
    put(&mut body, "ip", verify.ip.map(|ip| ip.to_string()).as_deref());
    put(&mut body, "origin", verify.origin.as_deref());
    post("/v1/keys/verify", body.into())
}

/// The first line of standard input.
fn key_from_input() -> Result<Zeroizing<String>, Failure> {
    let input = std::io::stdin();
    if input.is_terminal() {
        eprintln!("Paste the key and press Enter:");
    }
    let mut line = Zeroizing::new(String::with_capacity(KEY_BYTES_MAX));
    input
        .lock()
        .take(KEY_BYTES_MAX as u64)
        .read_line(&mut line)
        .context("cannot read the key from standard input")?;
    let key = Zeroizing::new(line.trim().to_owned());
    if key.is_empty() {
        return Err(Failure::new(Exit::Usage, "no key came on standard input"));
    }
    Ok(key)
}

pub(crate) fn audit(audit: &Audit) -> Result<(), Failure> {
    run(&audit.admin, &audit_call(audit), Shape::Audit)
}

fn audit_call(audit: &Audit) -> Call {
    match audit.tail {
        Some(count) => Call { query: vec![("tail", count.to_string())], ..get("/v1/audit") },
        None => list("/v1/audit", &audit.page),
    }
}

/// Fails if a gateway is not told of changes at once, for scripts to see.
pub(crate) fn fleet(fleet: &Fleet) -> Result<(), Failure> {
    let answer = Client::new(&fleet.admin)?.send(&get("/v1/fleet"))?;
    output::show(&answer, Shape::Fleet, style(&fleet.admin))?;
    all_are_live(&answer)
}

fn all_are_live(answer: &Value) -> Result<(), Failure> {
    let gateways = answer.get("gateways").and_then(Value::as_array);
    let gateways = gateways.map(Vec::as_slice).unwrap_or_default();
    let is_live = |gateway: &&Value| gateway.get("link").is_some_and(|link| link == "live");
    match gateways.iter().filter(is_live).count() {
        live if live == gateways.len() => Ok(()),
        live => {
            let why = format!("{live} of {} gateways follow the store live", gateways.len());
            Err(Failure::new(Exit::Failed, why))
        }
    }
}

fn run(admin: &AdminOptions, call: &Call, shape: Shape) -> Result<(), Failure> {
    let answer = Client::new(admin)?.send(call)?;
    output::show(&answer, shape, style(admin))
}

fn style(admin: &AdminOptions) -> Style {
    Style::of(admin)
}

fn get(path: impl Into<String>) -> Call {
    Call::get(path)
}

fn list(path: impl Into<String>, page: &PageOptions) -> Call {
    let limit = page.limit.map(|limit| ("limit", limit.to_string()));
    let cursor = page.cursor.clone().map(|cursor| ("cursor", cursor));
    Call { query: limit.into_iter().chain(cursor).collect(), ..get(path) }
}

fn post(path: impl Into<String>, body: Value) -> Call {
    Call { method: Method::POST, body: Some(body), ..get(path) }
}

fn set_status(path: String, status: &str) -> (Call, Shape) {
    let body = Some(json!({ "status": status }));
    (Call { method: Method::PATCH, body, ..get(path) }, Shape::Record)
}

fn why(reason: Option<&str>) -> Value {
    let mut body = Map::new();
    put(&mut body, "reason", reason);
    body.into()
}

fn texts(items: &[impl ToString]) -> Value {
    items.iter().map(ToString::to_string).collect()
}

fn put(body: &mut Map<String, Value>, name: &str, value: Option<&str>) {
    if let Some(value) = value {
        body.insert(name.into(), value.into());
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Mode};

    const APP: &str = "app_01ARZ3NDEKTSV4RRFFQ69G5FAV";
    const ACCOUNT: &str = "acct_01ARZ3NDEKTSV4RRFFQ69G5FAV";

    fn parse(line: &str) -> Mode {
        Cli::try_parse_from(line.split_whitespace()).unwrap().mode
    }

    #[test]
    fn an_app_is_created_with_what_was_asked() {
        let line = format!(
            "keygate apps create --account {ACCOUNT} --name web --scopes read:a,write:a --cidr 192.0.2.0/24"
        );
        let Mode::Apps(apps) = parse(&line) else { panic!("not apps") };
        let (call, _) = apps_call(&apps.command);
        assert_eq!(call.method, Method::POST);
        assert_eq!(call.path, format!("/v1/accounts/{ACCOUNT}/apps"));
        let expected = json!({
            "name": "web", "environment": "live",
            "granted_scopes": ["read:a", "write:a"], "allowed_cidrs": ["192.0.2.0/24"],
        });
        assert_eq!(call.body, Some(expected));
    }

    #[test]
    fn a_key_is_created_with_no_more_than_was_asked() {
        let line = format!("keygate keys create --app {APP} --ttl 30d");
        let Mode::Keys(keys) = parse(&line) else { panic!("not keys") };
        let KeysCommand::Create(create) = &keys.command else { panic!("not create") };
        let call = create_key_call(create, json!(["read:a"]));
        let expected = json!({ "kind": "sk", "scopes": ["read:a"], "ttl": "30d" });
        assert_eq!(call.body, Some(expected));
    }

    const KEY: &str = "key_01ARZ3NDEKTSV4RRFFQ69G5FAV";

    fn update(options: &str) -> Option<Value> {
        let mode = parse(&format!("keygate keys update {KEY} {options}"));
        let Mode::Keys(Keys { command: KeysCommand::Update(update), .. }) = mode else { panic!() };
        let call = update_key_call(&update)?;
        assert_eq!((call.method, call.path), (Method::PATCH, format!("/v1/keys/{KEY}")));
        call.body
    }

    #[test]
    fn a_key_is_created_with_limits_of_its_own() {
        let options = "--tier free --rate 100/s --burst 5 --quota 9/day --quota 99/month";
        let mode = parse(&format!("keygate keys create --app {APP} {options}"));
        let Mode::Keys(Keys { command: KeysCommand::Create(create), .. }) = mode else { panic!() };
        let body = create_key_call(&create, json!([])).body.unwrap();
        let limits = json!({ "rate": "100/second", "burst": 5, "quotas": ["9/day", "99/month"] });
        assert_eq!((&body["tier"], &body["limits"]), (&json!("free"), &limits));
    }

    #[test]
    fn limits_that_are_not_named_are_left_to_the_gateway_that_knows_them() {
        let changed = |options| update(options).unwrap();
        assert_eq!(changed("--burst 7"), json!({ "limits": { "burst": 7 } }));
        assert_eq!(changed("--rate 1/s"), json!({ "limits": { "rate": "1/second" } }));
        let expected = json!({ "limits": { "rate": "1/second", "burst": 9 } });
        assert_eq!(changed("--rate 1/s --burst 9"), expected);
        let expected = json!({ "limits": { "quotas": ["1/day"], "concurrency": 4 } });
        assert_eq!(changed("--quota 1/day --concurrency 4"), expected);
    }

    #[test]
    fn a_tier_and_limits_can_be_taken_away_and_something_must_be_asked() {
        let expected = json!({ "tier": null, "limits": null });
        assert_eq!(update("--no-tier --no-limits"), Some(expected));
        assert_eq!(update("--tier pro"), Some(json!({ "tier": "pro" })));
        assert_eq!(update(""), None);
    }

    #[test]
    fn a_key_as_an_argument_is_refused_and_not_repeated() {
        for line in ["keygate verify --key sk_live_abc", "keygate verify sk_live_abc"] {
            let Mode::Verify(options) = parse(line) else { panic!("not verify") };
            let Err(Failure::Other(exit, error)) = verify(&options) else { panic!("accepted") };
            assert_eq!(exit, Exit::Usage);
            assert!(!error.to_string().contains("sk_live_"), "{error}");
        }
    }

    #[test]
    fn the_newest_audit_entries_are_asked_for_by_their_number() {
        let Mode::Audit(audit) = parse("keygate audit --tail 20") else { panic!() };
        assert_eq!(audit_call(&audit).query, [("tail", "20".to_owned())]);
        let both = "keygate audit --tail 20 --limit 5";
        assert!(Cli::try_parse_from(both.split_whitespace()).is_err());
    }

    #[test]
    fn a_fleet_is_well_if_every_gateway_follows_live() {
        let fleet = |links: &[&str]| {
            let gateways: Vec<Value> = links.iter().map(|link| json!({ "link": link })).collect();
            all_are_live(&json!({ "gateways": gateways })).map_err(|failure| failure.exit())
        };
        assert_eq!(fleet(&[]), Ok(()));
        assert_eq!(fleet(&["live", "live"]), Ok(()));
        assert_eq!(fleet(&["live", "polling"]), Err(Exit::Failed));
        assert_eq!(fleet(&["down"]), Err(Exit::Failed));
    }

    #[test]
    fn verify_without_a_path_asks_about_the_key_alone() {
        let Mode::Verify(options) = parse("keygate verify --ip 192.0.2.1") else { panic!() };
        let call = verify_call(&options, "K");
        assert_eq!(call.body, Some(json!({ "key": "K", "ip": "192.0.2.1" })));
    }
}
