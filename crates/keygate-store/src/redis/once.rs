//! Changes that are carried out once, whoever sends them however often: what was made is kept under
//! the change's name by the same step that makes it.

use keygate_core::UnixMillis;
use redis::Cmd;

use super::layout::Names;
use super::primary::Primary;
use super::reply;
use super::transaction::{Check, Operation, Otherwise, Outcome, Transaction};
use super::write::{decide, encode};
use crate::codec::{DoneOnce, Record};
use crate::keys::{Done, Once, Remembered, StoreError, Write};
use crate::records::AuditEntry;

/// How often it is decided again: because somebody else changed what it needs, or because what was
/// remembered is over.
const TRIES_MAX: usize = 4;

/// The server drops what is over only so many milliseconds later, and no later than that. Gateways
/// decide by what is written there, the more so as their clocks differ.
const KEPT_PAST: u64 = 60_000;
const KEPT_MAX: u64 = 1 << 53;

/// What lies under a change's name.
enum Kept {
    Nothing,
    /// What is no longer remembered.
    Over(Vec<u8>),
    Still(Box<Remembered>),
}

pub(super) async fn commit_once(
    primary: &Primary,
    names: &Names,
    log_max: u64,
    (write, audit): (&Write, &AuditEntry),
    once: &Once,
) -> Result<Done, StoreError> {
    let (name, subject) = (names.once(&once.name), write.subject());
    let mut kept = None;
    for _ in 0..TRIES_MAX {
        let transaction = async || {
            let transaction = take(&name, kept.as_deref(), write, once)?;
            let transaction = decide(primary, names, write, transaction).await?;
            transaction.run(primary, names, log_max, subject, audit).await
        };
        let refusal = match transaction().await {
            Ok(Outcome::Done(number)) => return Ok(Done::Now(number)),
            Ok(Outcome::Again) => None,
            Err(error) if is_refusal(&error) => Some(error),
            Err(error) => return Err(error),
        };
        // Another try with this name may have been faster, and have made what is in the way now.
        kept = match (look(primary, &name, once.now).await?, refusal) {
            (Kept::Still(remembered), _) => return before(primary, *remembered).await,
            (Kept::Nothing | Kept::Over(_), Some(refusal)) => return Err(refusal),
            (Kept::Over(value), None) => Some(value),
            (Kept::Nothing, None) => None,
        };
    }
    Err(StoreError::Conflict)
}

/// What the change of this name made, if it was carried out.
pub(super) async fn remembered(
    primary: &Primary,
    names: &Names,
    name: &[u8; 32],
    now: UnixMillis,
) -> Result<Option<Remembered>, StoreError> {
    let Kept::Still(remembered) = look(primary, &names.once(name), now).await? else {
        return Ok(None);
    };
    primary.settle().await?;
    Ok(Some(*remembered))
}

/// Begins a transaction: takes the name, unless it is taken by anything but what is over.
fn take(
    name: &[u8],
    over: Option<&[u8]>,
    write: &Write,
    once: &Once,
) -> Result<Transaction, StoreError> {
    let made = write.made().ok_or(StoreError::NotFound("a record that the change makes"))?;
    let value = encode(&DoneOnce { request: once.request, until: once.until, made })?;
    let millis = once.until.0.saturating_sub(once.now.0).saturating_add(KEPT_PAST).min(KEPT_MAX);
    let check = over.map_or(Check::Absent, |value| Check::Equals(value.to_vec()));
    let mut transaction = Transaction::default();
    // The first of all conditions: of whoever repeats the change none of the others holds.
    transaction.require(name.to_vec(), check, Otherwise::Again);
    transaction.write(name.to_vec(), Operation::Keep { value, millis });
    Ok(transaction)
}

async fn look(primary: &Primary, name: &[u8], now: UnixMillis) -> Result<Kept, StoreError> {
    let mut command = Cmd::new();
    command.arg("GET").arg(name);
    let value = primary.read(async |to| command.query_async(to).await).await?;
    let Some(value) = reply::into_bytes(value)? else { return Ok(Kept::Nothing) };
    let DoneOnce { request, until, made } = DoneOnce::decode(&value).map_err(reply::unreadable)?;
    Ok(if until > now {
        Kept::Still(Box::new(Remembered { request, made }))
    } else {
        Kept::Over(value)
    })
}

/// The try that carried it out may have ended before replicas had it.
async fn before(primary: &Primary, remembered: Remembered) -> Result<Done, StoreError> {
    primary.settle().await?;
    Ok(Done::Before(remembered))
}

/// Whether it says that nothing was changed, and why.
fn is_refusal(error: &StoreError) -> bool {
    match error {
        StoreError::Conflict
        | StoreError::AlreadyExists
        | StoreError::NotFound(_)
        | StoreError::TooManyLiveKeys { .. } => true,
        StoreError::Unavailable(_) | StoreError::NotDurable { .. } | StoreError::Unreadable(_) => {
            false
        }
    }
}
