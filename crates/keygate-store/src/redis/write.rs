//! The rules of each change. What they need is read first, and the change then carried out on
//! condition that it is still so.

mod keys;

use redis::{ToRedisArgs, Value};

pub(super) use self::keys::create_key;
use super::layout::{Names, Score, place};
use super::primary::Primary;
use super::reply::{self, unreadable};
use super::transaction::{Check, Operation, Otherwise, Outcome, Transaction};
use crate::codec::Record;
use crate::keys::{ChangeNumber, StoreError, Write};
use crate::records::{Account, AdminToken, App, AuditEntry, Version};

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
        let transaction = decide(primary, names, write, Transaction::default()).await?;
        match transaction.run(primary, names, log_max, write.subject(), audit).await? {
            Outcome::Done(number) => return Ok(number),
            Outcome::Again => {}
        }
    }
    Err(StoreError::Conflict)
}

/// Adds to a transaction what carries out a change.
pub(super) async fn decide(
    primary: &Primary,
    names: &Names,
    write: &Write,
    mut transaction: Transaction,
) -> Result<Transaction, StoreError> {
    let to = &mut transaction;
    match write {
        Write::CreateAccount(account) => {
            absent(to, names.account(account.id));
            create_account(to, names, account)?;
        }
        Write::CreateApp(app) => {
            let account = names.account(app.account);
            to.require(account, Check::Present, Otherwise::NotFound("the account"));
            absent(to, names.app(app.id));
            create_app(to, names, app)?;
        }
        Write::CreateKey { key, live_max, now } => {
            keys::create(primary, names, key, (*live_max, *now), to).await?;
        }
        Write::UpdateAccount(account) => update_account(primary, names, account, to).await?,
        Write::UpdateApp(app) => update_app(primary, names, app, to).await?,
        Write::UpdateKey { key, live_max, now } => {
            keys::update(primary, names, key, (*live_max, *now), to).await?;
        }
        Write::RotateKey { old, new, live_max, now } => {
            keys::rotate(primary, names, [old, new], (*live_max, *now), to).await?;
        }
        Write::CreateToken(token) => create_token(to, names, token)?,
        Write::UpdateToken(token) => update_token(primary, names, token, to).await?,
        Write::Note => {}
    }
    Ok(transaction)
}

async fn update_account(
    primary: &Primary,
    names: &Names,
    account: &Account,
    transaction: &mut Transaction,
) -> Result<(), StoreError> {
    let name = names.account(account.id);
    let [value] = get(primary, [&name]).await?;
    let stored: Option<Account> = reply::record(&value)?;
    let stored = stored.ok_or(StoreError::NotFound("the account"))?;
    let version = next(stored.version, account.version)?;
    let account = Account { version, ..account.clone() };
    replace(transaction, name, &value, encode(&account)?)
}

async fn update_app(
    primary: &Primary,
    names: &Names,
    app: &App,
    transaction: &mut Transaction,
) -> Result<(), StoreError> {
    let name = names.app(app.id);
    let [value] = get(primary, [&name]).await?;
    let stored: Option<App> = reply::record(&value)?;
    let stored = stored.ok_or(StoreError::NotFound("the app"))?;
    if stored.account != app.account {
        return Err(StoreError::NotFound("the app in this account"));
    }
    let version = next(stored.version, app.version)?;
    let app = App { version, ..app.clone() };
    replace(transaction, name, &value, encode(&app)?)
}

async fn update_token(
    primary: &Primary,
    names: &Names,
    token: &AdminToken,
    transaction: &mut Transaction,
) -> Result<(), StoreError> {
    let name = names.token(token.id);
    let [value] = get(primary, [&name]).await?;
    let stored: Option<AdminToken> = reply::record(&value)?;
    let stored = stored.ok_or(StoreError::NotFound("the admin token"))?;
    if stored.sha256 != token.sha256 {
        return Err(StoreError::NotFound("the admin token with this hash"));
    }
    let version = next(stored.version, token.version)?;
    let token = AdminToken { version, ..token.clone() };
    replace(transaction, name, &value, encode(&token)?)
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

fn create_token(
    transaction: &mut Transaction,
    names: &Names,
    token: &AdminToken,
) -> Result<(), StoreError> {
    let (name, of_hash) = (names.token(token.id), names.token_of_hash(&token.sha256));
    absent(transaction, name.clone());
    absent(transaction, of_hash.clone());
    transaction.write(name, Operation::Set(encode(token)?));
    transaction.write(of_hash, Operation::Set(place(token.id.as_u128()).to_vec()));
    index(transaction, names.token_ids(), token.id.as_u128());
    Ok(())
}

fn absent(transaction: &mut Transaction, name: Vec<u8>) {
    transaction.require(name, Check::Absent, Otherwise::AlreadyExists);
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

/// The version to store, if the writer saw the one that is stored.
fn next(stored: Version, seen: Version) -> Result<Version, StoreError> {
    if stored == seen { Ok(stored.next()) } else { Err(StoreError::Conflict) }
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
