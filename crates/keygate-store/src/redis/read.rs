//! What can be asked of the store. Each call is one command or one script: one round trip, and one
//! moment.

use std::sync::LazyLock;

use keygate_core::key::PepperId;
use keygate_core::{AccountId, AppId, KeyDigest, KeyId, UnixMillis};
use redis::{Cmd, Script, Value};

use super::layout::{Names, Score, place};
use super::primary::Primary;
use super::reply::{self, Malformed};
use super::script::Call;
use crate::keys::{ChangeNumber, Page, StoreError};
use crate::records::{Account, App, AuditEntry, Key, OwnedKey};

static FIND: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("find.lua")));
static KEY: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("key.lua")));
static LIST: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("list.lua")));
static PEPPERS: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("peppers.lua")));

pub(super) async fn find(
    primary: &Primary,
    names: &Names,
    digest: &KeyDigest,
) -> Result<Option<OwnedKey>, StoreError> {
    let call = Call::new(&FIND, &names.key(digest), 0, 0);
    let answer = primary.find(async |to| call.run(to).await).await?;
    if answer == Value::Nil {
        return Ok(None);
    }
    let [key, app, account] = reply::array(answer)?;
    let key = reply::named_key(&key)?;
    let app: App = reply::named(&app)?;
    let account: Account = reply::named(&account)?;
    // What got under another's name must let nobody in.
    let is_whole = key.digest == *digest
        && (key.app, key.account) == (app.id, app.account)
        && app.account == account.id;
    if is_whole {
        Ok(Some(OwnedKey { key, app, account }))
    } else {
        Err(reply::unreadable(Malformed))
    }
}

pub(super) async fn account(
    primary: &Primary,
    names: &Names,
    id: AccountId,
) -> Result<Option<Account>, StoreError> {
    reply::record(&get(primary, &names.account(id)).await?)
}

pub(super) async fn app(
    primary: &Primary,
    names: &Names,
    id: AppId,
) -> Result<Option<App>, StoreError> {
    reply::record(&get(primary, &names.app(id)).await?)
}

pub(super) async fn key(
    primary: &Primary,
    names: &Names,
    id: KeyId,
) -> Result<Option<Key>, StoreError> {
    let call = Call::new(&KEY, &names.key_digest(id), 1, 32).arg(names.keys());
    let answer = primary.read(async |to| call.run(to).await).await?;
    if answer == Value::Nil {
        return Ok(None);
    }
    let [key] = reply::array(answer)?;
    reply::named_key(&key).map(Some)
}

pub(super) async fn accounts(
    primary: &Primary,
    names: &Names,
    page: Page<AccountId>,
) -> Result<Vec<Account>, StoreError> {
    let call = list(&names.account_ids(), page.after.map(AccountId::as_u128), page.limit);
    let call = call.arg(names.accounts());
    items(primary, call).await?.iter().map(reply::named).collect()
}

pub(super) async fn apps(
    primary: &Primary,
    names: &Names,
    account: AccountId,
    page: Page<AppId>,
) -> Result<Vec<App>, StoreError> {
    let call = list(&names.app_ids(account), page.after.map(AppId::as_u128), page.limit);
    let call = call.arg(names.apps());
    items(primary, call).await?.iter().map(reply::named).collect()
}

pub(super) async fn keys(
    primary: &Primary,
    names: &Names,
    app: AppId,
    page: Page<KeyId>,
) -> Result<Vec<Key>, StoreError> {
    let call = list(&names.key_ids(app), page.after.map(KeyId::as_u128), page.limit);
    let call = call.arg(names.key_digests()).arg(names.keys());
    items(primary, call).await?.iter().map(reply::named_key).collect()
}

pub(super) async fn audit(
    primary: &Primary,
    names: &Names,
    page: Page<ChangeNumber>,
) -> Result<Vec<(ChangeNumber, AuditEntry)>, StoreError> {
    let from = page.after.map_or(0, |number| number.0.saturating_add(1));
    let mut command = redis::cmd("XRANGE");
    command.arg(names.log()).arg(format!("{from}-0")).arg("+").arg("COUNT").arg(page.limit);
    let entries = primary.read(async |to| command.query_async::<Value>(to).await).await?;
    reply::items(entries)?.into_iter().map(reply::log_entry).collect()
}

pub(super) async fn peppers(
    primary: &Primary,
    names: &Names,
    now: UnixMillis,
) -> Result<Vec<PepperId>, StoreError> {
    let call = Call::new(&PEPPERS, &names.peppers(), 2, 64)
        .arg(names.peppers_expiring())
        .arg(Score::now(now).to_string());
    let answer = primary.read(async |to| call.run(to).await).await?;
    let peppers: Result<Vec<_>, _> = reply::items(answer)?.iter().map(pepper).collect();
    let mut peppers = peppers?;
    peppers.sort_unstable();
    Ok(peppers)
}

fn pepper(value: &Value) -> Result<PepperId, StoreError> {
    let bytes = reply::bytes(value)?.try_into();
    bytes.map(PepperId::from_bytes).map_err(|_| reply::unreadable(Malformed))
}

async fn get(primary: &Primary, name: &[u8]) -> Result<Value, StoreError> {
    let mut command = Cmd::new();
    command.arg("GET").arg(name);
    primary.read(async |to| command.query_async(to).await).await
}

fn list(index: &[u8], after: Option<u128>, limit: usize) -> Call<'static> {
    let from = match after {
        Some(id) => [b"(".as_slice(), &place(id)].concat(),
        None => b"-".to_vec(),
    };
    Call::new(&LIST, index, 4, 128).arg(from).arg(limit)
}

async fn items(primary: &Primary, call: Call<'_>) -> Result<Vec<Value>, StoreError> {
    reply::items(primary.read(async |to| call.run(to).await).await?)
}
