//! For tests: sample records, and the model of a store.

mod model;

use std::sync::Arc;

use keygate_core::key::PepperId;
use keygate_core::limit::overrides::Parts;
use keygate_core::limit::terms::Overrides;
use keygate_core::{AccountId, AppId, Environment, KeyDigest, KeyId, KeyKind, TokenId, UnixMillis};

pub(crate) use self::model::MemoryStore;
use crate::keys::{KeyStore, Once, Write};
use crate::records::{
    Account, AccountStatus, AdminToken, App, AppStatus, AuditEntry, Key, KeyStatus, Metadata, Role,
    TokenStatus, Version,
};
use crate::usage::records::{
    BATCH_ROWS_MAX, LastUse, Retention, SourceId, UsageBatch, UsageCounts, UsageRow,
};

pub(crate) const LIVE_MAX: u32 = 5;
pub(crate) const NOW: UnixMillis = UnixMillis(1_000_000);

fn entropy(n: u64) -> [u8; 10] {
    let mut entropy = [0x5a; 10];
    entropy[2..].copy_from_slice(&n.to_be_bytes());
    entropy
}

pub(crate) fn account_id(n: u64) -> AccountId {
    AccountId::new(UnixMillis(n), entropy(n))
}

pub(crate) fn app_id(n: u64) -> AppId {
    AppId::new(UnixMillis(n), entropy(n))
}

pub(crate) fn key_id(n: u64) -> KeyId {
    KeyId::new(UnixMillis(n), entropy(n))
}

pub(crate) fn token_id(n: u64) -> TokenId {
    TokenId::new(UnixMillis(n), entropy(n))
}

pub(crate) fn digest(n: u64) -> KeyDigest {
    KeyDigest::from_bytes(keygate_core::key::sha256(&n.to_be_bytes()))
}

pub(crate) fn account(n: u64) -> Account {
    Account {
        id: account_id(n),
        name: format!("account {n}"),
        owner: None,
        purpose: Some("tests".to_owned()),
        status: AccountStatus::Active,
        metadata: Metadata::from([("team".to_owned(), "a \"quoted\" one".to_owned())]),
        created_at: UnixMillis(n),
        updated_at: UnixMillis(n),
        version: Version(0),
    }
}

pub(crate) fn app(n: u64, account: &Account) -> App {
    App {
        id: app_id(n),
        account: account.id,
        name: format!("app {n}"),
        owner: Some("team@example.com".to_owned()),
        purpose: None,
        environment: Environment::Live,
        granted_scopes: vec!["read:*".parse().unwrap(), "admin:orders".parse().unwrap()],
        allowed_cidrs: vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()],
        tier: Some("free".to_owned()),
        max_age: None,
        status: AppStatus::Active,
        metadata: Metadata::new(),
        created_at: UnixMillis(n),
        updated_at: UnixMillis(n),
        version: Version(0),
    }
}

pub(crate) fn key(n: u64, app: &App) -> Key {
    Key {
        id: key_id(n),
        digest: digest(n),
        pepper: Some(PepperId::from_bytes([7; 8])),
        app: app.id,
        account: app.account,
        kind: KeyKind::Publishable,
        environment: Environment::Live,
        name: Some(format!("key {n}")),
        owner: None,
        purpose: None,
        hint: "pk_live_abcd".to_owned(),
        scopes: vec!["read:orders".parse().unwrap(), "write:users".parse().unwrap()],
        expires_at: Some(UnixMillis(u64::MAX)),
        tier: None,
        limits: None,
        allowed_cidrs: vec!["192.0.2.0/24".parse().unwrap()],
        allowed_origins: vec!["https://Example.com".to_owned()],
        metadata: Metadata::new(),
        rotated_from: None,
        rotated_to: None,
        status: KeyStatus::Active,
        created_at: UnixMillis(n),
        updated_at: UnixMillis(n),
        version: Version(0),
    }
}

/// The token has hash `digest(n)`.
pub(crate) fn token(n: u64) -> AdminToken {
    AdminToken {
        id: token_id(n),
        name: format!("token {n}"),
        role: Role::Issuer(vec![account_id(1), account_id(2)]),
        sha256: *digest(n).as_bytes(),
        status: TokenStatus::Active,
        expires_at: Some(UnixMillis(NOW.0 + n)),
        created_at: UnixMillis(n),
        updated_at: UnixMillis(n),
        version: Version(0),
    }
}

/// Limits of a key's own, of each kind.
pub(crate) fn limits() -> Option<Box<Overrides>> {
    let parts = Parts {
        rate: Some("100/s".parse().unwrap()),
        burst: Some(50),
        quotas: Some(vec!["1000/day".parse().unwrap(), "20000/month".parse().unwrap()]),
        concurrency: Some(5),
    };
    Overrides::from_parts(parts).unwrap().map(Box::new)
}

pub(crate) fn revoked(key: &Key) -> Key {
    let status = KeyStatus::Revoked { at: NOW, reason: Some("leaked".to_owned()) };
    Key { status, ..key.clone() }
}

pub(crate) fn create(key: &Key) -> Write {
    Write::CreateKey { key: key.clone(), live_max: LIVE_MAX, now: NOW }
}

pub(crate) fn update(key: Key) -> Write {
    Write::UpdateKey { key, live_max: LIVE_MAX, now: NOW }
}

/// `old` gives way to `new`, which lives to the end of the sample's time.
pub(crate) fn rotate(old: &Key, new: &Key, live_max: u32) -> Write {
    let overlap_ends = Some(UnixMillis(NOW.0 + 10));
    let old = Key { rotated_to: Some(new.id), expires_at: overlap_ends, ..old.clone() };
    let new = Key { rotated_from: Some(old.id), ..new.clone() };
    Write::RotateKey { old, new, live_max, now: NOW }
}

/// A name for a change that is done once, which is remembered for 100 s.
pub(crate) fn once(name: u8, request: u8) -> Once {
    let until = UnixMillis(NOW.0 + 100_000);
    Once { name: [name; 32], request: [request; 32], now: NOW, until }
}

pub(crate) fn audit(action: &str) -> AuditEntry {
    AuditEntry {
        at: NOW,
        actor: "token:bootstrap".to_owned(),
        action: action.to_owned(),
        subject: key_id(1).to_string(),
        hint: Some("pk_live_abcd".to_owned()),
        from: Some("2001:db8::1".parse().unwrap()),
        reason: None,
        refused: None,
        changes: serde_json::Map::new(),
    }
}

/// Writes an account, an app of it, and a key of that, all with number 1.
pub(crate) async fn seed<S: KeyStore>(store: &S) -> (Account, App, Key) {
    let account = account(1);
    let app = app(1, &account);
    let key = key(1, &app);
    for write in
        [Write::CreateAccount(account.clone()), Write::CreateApp(app.clone()), create(&key)]
    {
        store.commit(write, audit("seed")).await.unwrap();
    }
    (account, app, key)
}

/// When each of these keys was last used.
pub(crate) async fn last_times<S: KeyStore>(
    store: &S,
    keys: Vec<KeyId>,
) -> Vec<Option<UnixMillis>> {
    let uses = store.last_used(keys).await.unwrap();
    uses.into_iter().map(|last| last.map(|last| last.at)).collect()
}

/// Notes when keys were last used.
pub(crate) async fn mark_used<S: KeyStore>(store: &S, uses: Vec<(KeyId, UnixMillis)>) {
    let keep = Retention { minutes: 0, hours: 0, days: 0 };
    for part in uses.chunks(BATCH_ROWS_MAX) {
        // Each of another route: a key may be there twice.
        let row = |(n, &(key, at)): (usize, &(KeyId, UnixMillis))| UsageRow {
            key,
            route: format!("route {n}").into(),
            counts: UsageCounts::default(),
            last: Some(LastUse { at, address: None, route: None }),
        };
        let batch = UsageBatch {
            source: SourceId(fastrand::u128(..)),
            number: 1,
            after_loss: false,
            minute: UnixMillis(0),
            rows: part.iter().enumerate().map(row).collect(),
        };
        store.add_usage(Arc::new(batch), keep).await.unwrap();
    }
}
