//! `keygate keys`, but for imports and rotations.

use anyhow::Context;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::accounts::{patch, set_status, why};
use super::body::{Body, texts};
use super::confirm::sure;
use super::list::{self, Wanted};
use super::{rotate, run};
use crate::cli::{AdminOptions, CreateKey, Keys, KeysCommand, LimitOptions, ListKeys, UpdateKey};
use crate::client::{Call, Client};
use crate::failure::{Exit, Failure};
use crate::output::{self, Shape, Style};
use crate::{clock, import};

pub(crate) fn keys(keys: &Keys) -> Result<(), Failure> {
    let admin = &keys.admin;
    let (call, shape) = match &keys.command {
        KeysCommand::Create(create) => return create_key(admin, create),
        KeysCommand::List(options) => return list_keys(admin, options),
        KeysCommand::Import(options) => return import::run(admin, options),
        KeysCommand::Rotate(options) => return rotate::rotate(admin, options),
        KeysCommand::Update(update) => (update_key_call(update)?, Shape::Record),
        KeysCommand::Show { id } => (Call::get(path(id)), Shape::Record),
        KeysCommand::Usage { id } => (Call::get(format!("/v1/keys/{id}/usage")), Shape::Record),
        KeysCommand::ResetLimits { id, reason, sure: yes } => {
            let what = format!("forget what key {id} has used of its limits");
            sure(yes, &Client::new(admin)?, &what, &path(id))?;
            (
                Call::post(format!("/v1/keys/{id}/limits/reset"), why(reason.as_deref())),
                Shape::Record,
            )
        }
        KeysCommand::Revoke { id, reason, expected, sure: yes } => {
            let what = format!("revoke key {id} for good");
            sure(yes, &Client::new(admin)?, &what, &path(id))?;
            let call = Call::post(format!("/v1/keys/{id}/revoke"), why(reason.as_deref()));
            (call.with_header("if-match", expected.if_match.as_deref()), Shape::Record)
        }
        KeysCommand::Disable { id, sure: yes } => {
            sure(yes, &Client::new(admin)?, &format!("disable key {id}"), &path(id))?;
            (set_status(path(id), "disabled"), Shape::Record)
        }
        KeysCommand::Enable { id } => (set_status(path(id), "active"), Shape::Record),
    };
    run(admin, &call, shape)
}

fn path(id: &impl ToString) -> String {
    format!("/v1/keys/{}", id.to_string())
}

fn create_key(admin: &AdminOptions, create: &CreateKey) -> Result<(), Failure> {
    let client = Client::new(admin)?;
    let scopes = if create.scopes.is_empty() {
        let app = client.send(&Call::get(format!("/v1/apps/{}", create.app)))?;
        app.get("granted_scopes").cloned().unwrap_or_else(|| json!([]))
    } else {
        texts(&create.scopes)
    };
    let answer = client.send(&create_key_call(create, scopes))?;
    show_new(&answer, Style::of(admin))
}

/// Shows a key or token that was made. One that was made before is not shown again.
pub(super) fn show_new(answer: &Value, style: Style) -> Result<(), Failure> {
    let is_replayed = answer.get("replayed").and_then(Value::as_bool) == Some(true);
    if !is_replayed {
        return output::show(answer, Shape::NewKey, style);
    }
    output::show(answer, Shape::Record, style)?;
    eprintln!("It was made by an earlier call of this --idempotency-key, and was shown then.");
    Ok(())
}

fn create_key_call(create: &CreateKey, scopes: Value) -> Call {
    let mut body = Body::default()
        .text("kind", Some(create.kind.as_str()))
        .member("scopes", scopes)
        .text("name", create.name.as_deref())
        .text("ttl", create.ttl.as_deref())
        .text("expires_at", create.expires_at.as_deref())
        .list("allowed_cidrs", &create.cidr)
        .list("allowed_origins", &create.origin)
        .text("tier", create.tier.as_deref())
        .about(&create.about);
    if let Some(limits) = limits(&create.limits) {
        body = body.member("limits", limits);
    }
    let name = create.new.idempotency_key.as_deref();
    Call::post(format!("/v1/apps/{}/keys", create.app), body.done())
        .with_header("idempotency-key", name)
}

fn list_keys(admin: &AdminOptions, options: &ListKeys) -> Result<(), Failure> {
    let client = Client::new(admin)?;
    let wanted = Wanted::of(&options.page, options.all);
    let answer = list::gather(&client, &list_call(options), wanted)?;
    output::show(&answer, Shape::Keys, Style::of(admin))
}

fn list_call(options: &ListKeys) -> Call {
    let path = match options.app {
        Some(app) => format!("/v1/apps/{app}/keys"),
        None => "/v1/keys".to_owned(),
    };
    let flag = |set: bool| set.then_some("true");
    list::call(path, &options.page)
        .with("account_id", options.account)
        .with("status", options.status.as_ref())
        .with("environment", options.environment.map(|one| one.as_str()))
        .with("kind", options.kind.map(|one| one.as_str()))
        .with("hint", options.hint.as_ref())
        .with("expiring_within", options.expiring_within.as_ref())
        .with("expiring_before", options.expiring_before.as_ref())
        .with("older_than", options.older_than.as_ref())
        .with("last_used_before", options.last_used_before.as_ref())
        .with("past_policy", flag(options.past_policy))
        .with("imported", flag(options.imported))
}

fn update_key_call(update: &UpdateKey) -> Result<Call, Failure> {
    let ends_at = match &update.ttl {
        Some(ttl) => Some(from_now(ttl)?),
        None => update.expires_at.clone(),
    };
    let mut body = Body::default()
        .change("name", update.name.as_deref(), false)
        .changed_about(&update.about)
        .list("scopes", &update.scopes)
        .change("expires_at", ends_at.as_deref(), update.no_expiry)
        .changed_list("allowed_cidrs", &update.cidr, update.no_cidr)
        .changed_list("allowed_origins", &update.origin, update.no_origin)
        .change("tier", update.tier.as_deref(), update.no_tier);
    if update.no_limits {
        body = body.member("limits", Value::Null);
    }
    if let Some(limits) = limits(&update.limits) {
        body = body.member("limits", limits);
    }
    patch(path(&update.id), body, update.expected.if_match.as_deref())
}

/// The moment that lies so far ahead.
fn from_now(ttl: &str) -> Result<String, Failure> {
    const RULE: &str = "--ttl takes a span with its unit: 12h or 30d";
    let span = humantime::parse_duration(ttl).map_err(|_| Failure::new(Exit::Usage, RULE))?;
    let end = i64::try_from(clock::now().saturating_add(span).0).ok();
    let end = end.and_then(|end| Timestamp::from_millisecond(end).ok());
    Ok(end.context(RULE).map_err(|error| Failure::Other(Exit::Usage, error))?.to_string())
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

#[cfg(test)]
mod tests {
    use clap::Parser;
    use ureq::http::Method;

    use super::*;
    use crate::cli::{Cli, Mode};

    const APP: &str = "app_01ARZ3NDEKTSV4RRFFQ69G5FAV";
    const KEY: &str = "key_01ARZ3NDEKTSV4RRFFQ69G5FAV";

    fn command(line: &str) -> KeysCommand {
        let words = format!("keygate keys {line}");
        let Mode::Keys(keys) = Cli::try_parse_from(words.split_whitespace()).unwrap().mode else {
            panic!("not keys")
        };
        keys.command
    }

    fn create(options: &str) -> Value {
        let KeysCommand::Create(create) = command(&format!("create --app {APP} {options}")) else {
            panic!("not create")
        };
        create_key_call(&create, json!(["read:a"])).body.unwrap()
    }

    #[test]
    fn a_key_is_created_with_no_more_than_was_asked() {
        let expected = json!({ "kind": "sk", "scopes": ["read:a"], "ttl": "30d" });
        assert_eq!(create("--ttl 30d"), expected);
        let expected = json!({ "kind": "sk", "scopes": ["read:a"], "purpose": "ci" });
        assert_eq!(create("--purpose ci --owner="), expected);
    }

    fn update(options: &str) -> Option<Value> {
        let KeysCommand::Update(update) = command(&format!("update {KEY} {options}")) else {
            panic!("not update")
        };
        let call = update_key_call(&update).ok()?;
        assert_eq!((call.method, call.path), (Method::PATCH, format!("/v1/keys/{KEY}")));
        call.body
    }

    #[test]
    fn a_key_is_created_with_limits_of_its_own() {
        let body = create("--tier free --rate 100/s --burst 5 --quota 9/day --quota 99/month");
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
    fn what_people_write_about_a_key_can_be_changed_and_taken_away() {
        let expected = json!({
            "name": "ci", "owner": null, "metadata": { "crm": "1=7" }, "scopes": ["read:a"],
            "expires_at": null, "allowed_cidrs": ["192.0.2.0/24"], "allowed_origins": [],
        });
        let options = "--name ci --owner= --metadata crm=1=7 --scopes read:a --no-expiry \
                       --cidr 192.0.2.0/24 --no-origin";
        assert_eq!(update(options), Some(expected));
        let end = update("--ttl 30d").unwrap()["expires_at"].as_str().unwrap().to_owned();
        let span = end.parse::<Timestamp>().unwrap().as_millisecond() - clock::now().0 as i64;
        assert!((29 * 86_400_000..=30 * 86_400_000).contains(&span), "{end}");
        assert_eq!(update("--ttl soon"), None);
    }

    #[test]
    fn a_list_is_asked_for_by_what_the_keys_are() {
        let list = |options: &str| {
            let KeysCommand::List(list) = command(&format!("list {options}")) else { panic!() };
            let call = list_call(&list);
            let query: Vec<String> =
                call.query.iter().map(|(name, value)| format!("{name}={value}")).collect();
            (call.path, query.join("&"))
        };
        assert_eq!(list(""), ("/v1/keys".into(), String::new()));
        assert_eq!(list(&format!("--app {APP}")), (format!("/v1/apps/{APP}/keys"), String::new()));
        let options = "--status active --environment live --hint sk_ --expiring-within 7d \
                       --older-than 90d --past-policy --imported --limit 9";
        let query = "limit=9&status=active&environment=live&hint=sk_&expiring_within=7d&\
                     older_than=90d&past_policy=true&imported=true";
        assert_eq!(list(options), ("/v1/keys".into(), query.into()));
    }
}
