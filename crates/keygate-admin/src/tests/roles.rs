//! What each role may do: every call of the registry about accounts, apps and keys, once for each.

use std::time::Duration;

use axum::response::IntoResponse;
use keygate_core::{AccountId, AppId, KeyId, KeyKind};
use keygate_store::keys::Page;
use keygate_store::records::Role;
use serde_json::json;

use super::*;
use crate::RegistryError;
use crate::problem::Problem;
use crate::registry::{
    AccountChange, Actor, AppChange, Expected, KeyChange, KeyFilter, NewAccount, NewApp, NewKey,
    Search, Within,
};

/// Call, and the status for a viewer, an issuer of the account, one of another, an admin.
const TABLE: [(&str, [u16; 4]); 16] = [
    ("accounts.create", [403, 403, 403, 200]),
    ("accounts.list", [200, 200, 200, 200]),
    ("accounts.show", [200, 200, 404, 200]),
    ("accounts.change", [403, 403, 403, 200]),
    ("apps.create", [403, 403, 403, 200]),
    ("apps.list", [200, 200, 404, 200]),
    ("apps.show", [200, 200, 404, 200]),
    ("apps.change", [403, 403, 403, 200]),
    ("keys.create", [403, 200, 404, 200]),
    ("keys.list", [200, 200, 200, 200]),
    ("keys.show", [200, 200, 404, 200]),
    ("keys.usage", [200, 200, 404, 200]),
    ("keys.change", [403, 200, 404, 200]),
    ("keys.reset_limits", [403, 200, 404, 200]),
    ("keys.rotate", [403, 200, 404, 200]),
    ("keys.revoke", [403, 200, 404, 200]),
];

struct Ids {
    account: AccountId,
    app: AppId,
    key: KeyId,
}

async fn ids(api: &Api) -> Ids {
    let app = api.app_with(json!({ "tier": "free" })).await;
    let key = api.key(&app, json!({})).await;
    Ids {
        account: key["account_id"].as_str().unwrap().parse().unwrap(),
        app: app.parse().unwrap(),
        key: id(&key).parse().unwrap(),
    }
}

fn actor(role: Role) -> Actor {
    Actor { name: "token:test".into(), from: None, role }
}

fn new_key() -> NewKey {
    NewKey {
        kind: KeyKind::Secret,
        name: None,
        owner: None,
        purpose: None,
        scopes: Vec::new(),
        expires_at: None,
        tier: None,
        limits: None,
        allowed_cidrs: Vec::new(),
        allowed_origins: Vec::new(),
        metadata: Default::default(),
    }
}

fn new_app() -> NewApp {
    NewApp {
        name: "app".into(),
        owner: None,
        purpose: None,
        environment: keygate_core::Environment::Live,
        granted_scopes: Vec::new(),
        tier: None,
        max_age: None,
        allowed_cidrs: Vec::new(),
        metadata: Default::default(),
    }
}

async fn call(
    registry: &Registry<FaultyStore>,
    by: &Actor,
    name: &str,
    Ids { account, app, key }: &Ids,
) -> Result<(), RegistryError> {
    let (account, app, key, any) = (*account, *app, *key, &Expected::Any);
    let page = Page { after: None, limit: 10 };
    match name {
        "accounts.create" => {
            let (owner, purpose, metadata) = (None, None, Default::default());
            let new = NewAccount { name: "a".into(), owner, purpose, metadata };
            registry.create_account(by, new, None).await.map(drop)
        }
        "accounts.list" => registry.accounts(by, page).await.map(drop),
        "accounts.show" => registry.account(by, account).await.map(drop),
        "accounts.change" => {
            let change = AccountChange { name: Some("new".into()), ..Default::default() };
            registry.change_account(by, account, &change, any).await.map(drop)
        }
        "apps.create" => registry.create_app(by, account, new_app(), None).await.map(drop),
        "apps.list" => registry.apps(by, account, Page { after: None, limit: 10 }).await.map(drop),
        "apps.show" => registry.app(by, app).await.map(drop),
        "apps.change" => {
            let change = AppChange { name: Some("new".into()), ..Default::default() };
            registry.change_app(by, app, &change, any).await.map(drop)
        }
        "keys.create" => registry.create_key(by, app, new_key(), None).await.map(drop),
        "keys.list" => registry.search(by, &everything(10)).await.map(drop),
        "keys.show" => registry.key(by, key).await.map(drop),
        "keys.usage" => registry.key_usage(by, key).await.map(drop),
        "keys.change" => {
            let change = KeyChange { name: Some(Some("new".into())), ..Default::default() };
            registry.change_key(by, key, &change, any).await.map(drop)
        }
        "keys.reset_limits" => registry.reset_limits(by, key, None, any).await.map(drop),
        "keys.rotate" => registry.rotate_key(by, key, Duration::ZERO, any, None).await.map(drop),
        "keys.revoke" => registry.revoke_key(by, key, None, any).await.map(drop),
        _ => panic!("{name}"),
    }
}

fn everything(limit: usize) -> Search {
    Search { within: Within::Everything, filter: KeyFilter::default(), after: None, limit }
}

#[tokio::test]
async fn each_role_may_do_what_it_is_for_and_nothing_else() {
    let api = Api::start().await;
    let registry = api.registry(|| NOW);
    let elsewhere = ids(&api).await.account;
    for (name, expected) in TABLE {
        for (at, expected) in expected.into_iter().enumerate() {
            let ids = ids(&api).await;
            let roles = [
                Role::Viewer,
                Role::Issuer(vec![ids.account]),
                Role::Issuer(vec![elsewhere]),
                Role::Admin,
            ];
            let role = &roles[at];
            let before = api.actions().await;
            let status = match call(&registry, &actor(role.clone()), name, &ids).await {
                Ok(()) => 200,
                Err(error) => Problem::from(error).into_response().status().as_u16(),
            };
            assert_eq!(status, expected, "{name} by {role:?}");
            if status != 200 {
                assert_eq!(api.actions().await, before, "{name} by {role:?}");
            }
        }
    }
}

#[tokio::test]
async fn what_an_issuer_may_not_see_cannot_be_told_from_what_does_not_exist() {
    let api = Api::start().await;
    let registry = api.registry(|| NOW);
    let (own, foreign) = (ids(&api).await, ids(&api).await);
    let none = Ids {
        account: AccountId::new(NOW, [9; 10]),
        app: AppId::new(NOW, [9; 10]),
        key: KeyId::new(NOW, [9; 10]),
    };
    let by = actor(Role::Issuer(vec![own.account]));
    for (name, _) in TABLE {
        let found = call(&registry, &by, name, &foreign).await.map_err(|error| error.to_string());
        let missing = call(&registry, &by, name, &none).await.map_err(|error| error.to_string());
        assert_eq!(found, missing, "{name}");
    }
}

#[tokio::test]
async fn lists_hold_only_what_an_issuer_may_see() {
    let api = Api::start().await;
    let registry = api.registry(|| NOW);
    let mut all = Vec::new();
    for _ in 0..5 {
        all.push(ids(&api).await);
    }
    let named = [4, 0, 2].map(|at: usize| all[at].account);
    let missing = AccountId::new(NOW, [9; 10]);
    let by = actor(Role::Issuer([named.as_slice(), &[missing, named[0]]].concat()));
    let mut expected = named.to_vec();
    expected.sort_unstable();
    for limit in 1..=4 {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = registry.accounts(&by, Page { after, limit }).await;
            let page = page.unwrap_or_else(|error| panic!("{error}"));
            after = page.last().map(|account| account.id);
            found.extend(page.into_iter().map(|account| account.id));
            if after.is_none() {
                break;
            }
        }
        assert_eq!(found, expected);
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let part = registry.search(&by, &Search { after, ..everything(limit) }).await;
            let part = part.unwrap_or_else(|error| panic!("{error}"));
            found.extend(part.keys.into_iter().map(|found| found.key.account));
            after = part.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(found, expected);
    }
    // Neither a filter nor a cursor that somebody made up leads elsewhere.
    let foreign = &all[1];
    for within in [Within::Account(foreign.account), Within::App(foreign.app)] {
        let part = registry.search(&by, &Search { within, ..everything(10) }).await;
        let part = part.unwrap_or_else(|error| panic!("{error}"));
        assert!(part.keys.is_empty() && part.next.is_none());
    }
    let place =
        crate::registry::Place { account: foreign.account, app: Some(foreign.app), key: None };
    let smuggled = crate::registry::Place { account: named[0], ..place };
    for after in [place, smuggled] {
        let part = registry.search(&by, &Search { after: Some(after), ..everything(10) }).await;
        let part = part.unwrap_or_else(|error| panic!("{error}"));
        assert!(part.keys.iter().all(|found| named.contains(&found.key.account)));
    }
}
