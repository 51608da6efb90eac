//! The rules of each change. What they need is read first, and the change then carried out on
//! condition that it is still so.

use keygate_core::UnixMillis;
use redis::{ToRedisArgs, Value};

use super::layout::{Names, Score, join_key, place};
use super::primary::Primary;
use super::reply::{self, Dangling, unreadable};
use super::transaction::{Check, Operation, Otherwise, Outcome, Transaction};
use crate::codec::Record;
use crate::keys::{ChangeNumber, StoreError, Write};
use crate::records::{Account, App, AuditEntry, Key, KeyStatus, Version};

/// How often a change is decided again because somebody else was faster. Once is enough: what they
/// changed is a new version.
const TRIES_MAX: usize = 3;

pub(super) async fn commit(
    primary: &Primary,
    names: &Names,
    log_max: u64,
    write: &Write,
    audit: &AuditEntry,
) -> Result<ChangeNumber, StoreError> {
    for _ in 0..TRIES_MAX {
        let transaction = decide(primary, names, write).await?;
        match transaction.run(primary, names, log_max, write.subject(), audit).await? {
            Outcome::Done(number) => return Ok(number),
            Outcome::Again => {}
        }
    }
    Err(StoreError::Conflict)
}

async fn decide(
    primary: &Primary,
    names: &Names,
    write: &Write,
) -> Result<Transaction, StoreError> {
    let mut transaction = Transaction::default();
    match write {
        Write::CreateAccount(account) => {
            absent(&mut transaction, names.account(account.id));
            create_account(&mut transaction, names, account)?;
        }
        Write::CreateApp(app) => {
            let account = names.account(app.account);
            let otherwise = Otherwise::NotFound("the account");
            transaction.require(account, Check::Present, otherwise);
            absent(&mut transaction, names.app(app.id));
            create_app(&mut transaction, names, app)?;
        }
        Write::CreateKey { key, live_max, now } => {
            let [app] = get(primary, [names.app(key.app)]).await?;
            let app: Option<App> = reply::record(&app)?;
            if app.is_none_or(|app| app.account != key.account) {
                return Err(StoreError::NotFound("the app"));
            }
            // An app never goes, nor over to another account. The store may be another by now.
            let otherwise = Otherwise::NotFound("the app");
            transaction.require(names.app(key.app), Check::Present, otherwise);
            absent(&mut transaction, names.key(&key.digest));
            absent(&mut transaction, names.key_digest(key.id));
            room(&mut transaction, names, key, *live_max, *now);
            create_key(&mut transaction, names, key)?;
        }
        Write::UpdateAccount(account) => {
            let name = names.account(account.id);
            let [value] = get(primary, [&name]).await?;
            let stored: Option<Account> = reply::record(&value)?;
            let stored = stored.ok_or(StoreError::NotFound("the account"))?;
            let version = next(stored.version, account.version)?;
            let account = Account { version, ..account.clone() };
            replace(&mut transaction, name, &value, encode(&account)?)?;
        }
        Write::UpdateApp(app) => {
            let name = names.app(app.id);
            let [value] = get(primary, [&name]).await?;
            let stored: Option<App> = reply::record(&value)?;
            let stored = stored.ok_or(StoreError::NotFound("the app"))?;
            if stored.account != app.account {
                return Err(StoreError::NotFound("the app in this account"));
            }
            let version = next(stored.version, app.version)?;
            let app = App { version, ..app.clone() };
            replace(&mut transaction, name, &value, encode(&app)?)?;
        }
        Write::RotateKey { .. } | Write::CreateToken(_) | Write::UpdateToken(_) | Write::Note => {
            return Err(crate::keys::not_yet());
        }
        Write::UpdateKey { key, live_max, now } => {
            update_key(primary, names, key, (*live_max, *now), &mut transaction).await?;
        }
    }
    Ok(transaction)
}

async fn update_key(
    primary: &Primary,
    names: &Names,
    key: &Key,
    (live_max, now): (u32, UnixMillis),
    transaction: &mut Transaction,
) -> Result<(), StoreError> {
    let [digest, value] = get(primary, [names.key_digest(key.id), names.key(&key.digest)]).await?;
    if digest == Value::Nil {
        return Err(StoreError::NotFound("the key"));
    }
    let another = || StoreError::NotFound("the key with this digest, app and account");
    if reply::bytes(&digest)? != key.digest.as_bytes() {
        return Err(another());
    }
    if value == Value::Nil {
        return Err(unreadable(Dangling(Key::NAME)));
    }
    let stored = reply::named_key(&value)?;
    // What names a key and whose it is never changes: the indexes and caches rely on it.
    let same = |key: &Key| (key.digest, key.pepper, key.app, key.account);
    if same(&stored) != same(key) {
        return Err(another());
    }
    let key = Key { version: next(stored.version, key.version)?, ..key.clone() };
    let json = encode(&key)?;
    let joined = join_key(key.app, key.account, &json);
    replace(transaction, names.key(&key.digest), &value, joined)?;
    let (was, is) = (Life::of(&stored), Life::of(&key));
    if !was.is_live(now) && is.is_live(now) {
        room(transaction, names, &key, live_max, now);
    }
    if was != is {
        was.leave(transaction, names, &stored);
        is.enter(transaction, names, &key);
    }
    Ok(())
}

pub(super) fn create_account(
    transaction: &mut Transaction,
    names: &Names,
    account: &Account,
) -> Result<(), StoreError> {
    transaction.write(names.account(account.id), Operation::Set(encode(account)?));
    index(transaction, names.account_ids(), account.id.as_u128());
    Ok(())
}

pub(super) fn create_app(
    transaction: &mut Transaction,
    names: &Names,
    app: &App,
) -> Result<(), StoreError> {
    transaction.write(names.app(app.id), Operation::Set(encode(app)?));
    index(transaction, names.app_ids(app.account), app.id.as_u128());
    Ok(())
}

pub(super) fn create_key(
    transaction: &mut Transaction,
    names: &Names,
    key: &Key,
) -> Result<(), StoreError> {
    let value = join_key(key.app, key.account, &encode(key)?);
    transaction.write(names.key(&key.digest), Operation::Set(value));
    let digest = key.digest.as_bytes().to_vec();
    transaction.write(names.key_digest(key.id), Operation::Set(digest));
    index(transaction, names.key_ids(key.app), key.id.as_u128());
    Life::of(key).enter(transaction, names, key);
    Ok(())
}

/// Until when a key counts, against its app's cap and for its pepper. A disabled one does, it may be
/// enabled again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Life {
    /// Revoked: for good.
    Over,
    Until(Score),
}

impl Life {
    fn of(key: &Key) -> Self {
        match (&key.status, key.expires_at) {
            (KeyStatus::Revoked { .. }, _) | (_, Some(UnixMillis(0))) => Self::Over,
            (KeyStatus::Active | KeyStatus::Disabled, None) => Self::Until(Score::Never),
            (KeyStatus::Active | KeyStatus::Disabled, Some(end)) => Self::Until(Score::until(end)),
        }
    }

    fn is_live(self, now: UnixMillis) -> bool {
        match self {
            Self::Over => false,
            Self::Until(Score::Never) => true,
            Self::Until(Score::At(end)) => end > now.0,
        }
    }

    fn enter(self, transaction: &mut Transaction, names: &Names, key: &Key) {
        let Self::Until(score) = self else { return };
        let member = place(key.id.as_u128());
        transaction.write(names.app_live(key.app), Operation::Add { member, score });
        let Some(pepper) = key.pepper else { return };
        let field = *pepper.as_bytes();
        let by = i8::from(score == Score::Never);
        // Also with nothing to add: the pepper is known by it.
        transaction.write(names.peppers(), Operation::Count { field, by });
        if score != Score::Never {
            let expiring = names.pepper_expiring(pepper);
            transaction.write(expiring, Operation::Add { member, score });
        }
    }

    fn leave(self, transaction: &mut Transaction, names: &Names, key: &Key) {
        let Self::Until(score) = self else { return };
        let member = place(key.id.as_u128());
        transaction.write(names.app_live(key.app), Operation::Remove { member });
        let Some(pepper) = key.pepper else { return };
        let field = *pepper.as_bytes();
        if score == Score::Never {
            transaction.write(names.peppers(), Operation::Count { field, by: -1 });
        } else {
            transaction.write(names.pepper_expiring(pepper), Operation::Remove { member });
        }
    }
}

fn absent(transaction: &mut Transaction, name: Vec<u8>) {
    transaction.require(name, Check::Absent, Otherwise::AlreadyExists);
}

/// The app may have one live key more.
fn room(transaction: &mut Transaction, names: &Names, key: &Key, live_max: u32, now: UnixMillis) {
    let check = Check::Room { live_max, now: Score::now(now) };
    transaction.require(names.app_live(key.app), check, Otherwise::TooManyLiveKeys);
}

fn replace(
    transaction: &mut Transaction,
    name: Vec<u8>,
    was: &Value,
    is: Vec<u8>,
) -> Result<(), StoreError> {
    let was = reply::bytes(was)?.to_vec();
    transaction.require(name.clone(), Check::Equals(was), Otherwise::Again);
    transaction.write(name, Operation::Set(is));
    Ok(())
}

fn index(transaction: &mut Transaction, name: Vec<u8>, id: u128) {
    transaction.write(name, Operation::Add { member: place(id), score: Score::At(0) });
}

/// The version to store, if the writer saw the one that is stored. Versions are only told apart, so
/// after the last comes the first: a key that was imported with the last can still be revoked.
fn next(stored: Version, seen: Version) -> Result<Version, StoreError> {
    if stored == seen { Ok(Version(stored.0.wrapping_add(1))) } else { Err(StoreError::Conflict) }
}

pub(super) fn encode(record: &impl Record) -> Result<Vec<u8>, StoreError> {
    record.encode().map_err(unreadable)
}

async fn get<const N: usize>(
    primary: &Primary,
    names: [impl ToRedisArgs; N],
) -> Result<[Value; N], StoreError> {
    let mut command = redis::cmd("MGET");
    for name in names {
        command.arg(name);
    }
    reply::array(primary.read(async |to| command.query_async(to).await).await?)
}
