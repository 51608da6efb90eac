//! What can be asked of the store. Each call is one command or one script: one round trip, and one
//! moment; but for a list of large records, which takes some.

use std::sync::LazyLock;

use keygate_core::key::PepperId;
use keygate_core::{AccountId, AppId, KeyDigest, KeyId, TokenId, UnixMillis};
use redis::{Cmd, Script, Value};

use super::layout::{Names, Score, place};
use super::primary::Primary;
use super::reply::{self, Malformed};
use super::script::Call;
use crate::keys::{ChangeNumber, Page, StoreError};
use crate::records::{Account, AdminToken, App, Key, Logged, OwnedKey};

/// Once a list has so many bytes, the rest of it is asked for anew: no single answer, and no time
/// that the server spends on one, grows with the size of records. A record is bounded far below that.
const ANSWER_BYTES: usize = 1 << 20;

static FIND: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("find.lua")));
static LED_TO: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("led_to.lua")));
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
    let call = Call::new(&LED_TO, &names.key_digest(id), 1, 32).arg(names.keys());
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
    let index = names.account_ids();
    let list = List { index, to: vec![names.accounts()], page: ids(page, AccountId::as_u128) };
    list.read(primary, reply::named, |account: &Account| account.id.as_u128()).await
}

pub(super) async fn apps(
    primary: &Primary,
    names: &Names,
    account: AccountId,
    page: Page<AppId>,
) -> Result<Vec<App>, StoreError> {
    let index = names.app_ids(account);
    let list = List { index, to: vec![names.apps()], page: ids(page, AppId::as_u128) };
    list.read(primary, reply::named, |app: &App| app.id.as_u128()).await
}

pub(super) async fn keys(
    primary: &Primary,
    names: &Names,
    app: AppId,
    page: Page<KeyId>,
) -> Result<Vec<Key>, StoreError> {
    let index = names.key_ids(app);
    let to = vec![names.key_digests(), names.keys()];
    let list = List { index, to, page: ids(page, KeyId::as_u128) };
    list.read(primary, reply::named_key, |key| key.id.as_u128()).await
}

pub(super) async fn token(
    primary: &Primary,
    names: &Names,
    id: TokenId,
) -> Result<Option<AdminToken>, StoreError> {
    reply::record(&get(primary, &names.token(id)).await?)
}

pub(super) async fn token_by_hash(
    primary: &Primary,
    names: &Names,
    sha256: &[u8; 32],
) -> Result<Option<AdminToken>, StoreError> {
    let call = Call::new(&LED_TO, &names.token_of_hash(sha256), 1, 32).arg(names.tokens());
    let answer = primary.read(async |to| call.run(to).await).await?;
    if answer == Value::Nil {
        return Ok(None);
    }
    let [token] = reply::array(answer)?;
    let token: AdminToken = reply::named(&token)?;
    // What got under another's hash must let nobody in.
    if token.sha256 == *sha256 { Ok(Some(token)) } else { Err(reply::unreadable(Malformed)) }
}

pub(super) async fn tokens(
    primary: &Primary,
    names: &Names,
    page: Page<TokenId>,
) -> Result<Vec<AdminToken>, StoreError> {
    let index = names.token_ids();
    let list = List { index, to: vec![names.tokens()], page: ids(page, TokenId::as_u128) };
    list.read(primary, reply::named, |token: &AdminToken| token.id.as_u128()).await
}

pub(super) async fn audit(
    primary: &Primary,
    names: &Names,
    page: Page<ChangeNumber>,
) -> Result<Vec<Logged>, StoreError> {
    let from = page.after.map_or(0, |number| number.0.saturating_add(1));
    let mut command = redis::cmd("XRANGE");
    command.arg(names.log()).arg(format!("{from}-0")).arg("+").arg("COUNT").arg(page.limit);
    let entries = primary.read(async |to| command.query_async::<Value>(to).await).await?;
    reply::items(entries)?.into_iter().map(reply::log_entry).collect()
}

/// The peppers of live keys, and how many live keys each has.
pub(super) async fn pepper_counts(
    primary: &Primary,
    names: &Names,
    now: UnixMillis,
) -> Result<Vec<(PepperId, u64)>, StoreError> {
    let call = Call::new(&PEPPERS, &names.peppers(), 2, 64)
        .arg(names.peppers_expiring())
        .arg(Score::now(now).to_string());
    let answer = primary.read(async |to| call.run(to).await).await?;
    let counts = reply::items(answer)?;
    let counts: Result<Vec<_>, _> = counts.as_chunks::<2>().0.iter().map(pepper_count).collect();
    let mut counts = counts?;
    counts.sort_unstable();
    Ok(counts)
}

fn pepper_count([pepper, count]: &[Value; 2]) -> Result<(PepperId, u64), StoreError> {
    let malformed = || reply::unreadable(Malformed);
    let pepper = reply::bytes(pepper)?.try_into().map_err(|_| malformed())?;
    let Value::Int(count) = count else { return Err(malformed()) };
    Ok((PepperId::from_bytes(pepper), u64::try_from(*count).map_err(|_| malformed())?))
}

async fn get(primary: &Primary, name: &[u8]) -> Result<Value, StoreError> {
    let mut command = Cmd::new();
    command.arg("GET").arg(name);
    primary.read(async |to| command.query_async(to).await).await
}

fn ids<T>(page: Page<T>, id: impl FnOnce(T) -> u128) -> Page<u128> {
    Page { after: page.after.map(id), limit: page.limit }
}

/// A part of a list of records.
struct List {
    index: Vec<u8>,
    /// What the names begin with that lead from an id to its record.
    to: Vec<Vec<u8>>,
    page: Page<u128>,
}

impl List {
    /// One trip, or as many as it takes with records so large that the server would be busy with one
    /// answer for long. Each is a moment of its own.
    async fn read<R>(
        self,
        primary: &Primary,
        record: impl Fn(&Value) -> Result<R, StoreError>,
        id: impl Fn(&R) -> u128,
    ) -> Result<Vec<R>, StoreError> {
        let Page { mut after, limit } = self.page;
        let mut records = Vec::new();
        while records.len() < limit {
            let call = self.call(after, limit - records.len());
            let answer = primary.read(async |to| call.run(to).await).await?;
            let [stopped, found] = reply::array(answer)?;
            for value in reply::items(found)? {
                records.push(record(&value)?);
            }
            after = records.last().map(&id);
            if stopped != Value::Int(1) {
                break;
            }
        }
        Ok(records)
    }

    fn call(&self, after: Option<u128>, limit: usize) -> Call<'static> {
        let from = match after {
            Some(id) => [b"(".as_slice(), &place(id)].concat(),
            None => b"-".to_vec(),
        };
        let call = Call::new(&LIST, &self.index, 5, 128).arg(from).arg(limit).arg(ANSWER_BYTES);
        self.to.iter().fold(call, |call, names| call.arg(names))
    }
}
