//! One change to the store with its number, its mark, its entry in the log and its message: all of
//! it, or nothing. Knows how the script is told, not what changes mean.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use keygate_core::key::sha256;
use redis::{RedisResult, Script, Value};

use super::change::Mark;
use super::layout::{FORMAT, Names, Score};
use super::primary::{Primary, Written, unavailable};
use super::reply::{self, Malformed, unreadable};
use super::script::Call;
use crate::codec::Record;
use crate::keys::{ChangeNumber, StoreError, Subject};
use crate::records::AuditEntry;
use crate::subject::SubjectText;

static CHANGE: LazyLock<Script> =
    LazyLock::new(|| Script::new(concat!(include_str!("sha256.lua"), include_str!("change.lua"))));

/// What the script begins its answer with when it carried the change out.
const DONE: Value = Value::Int(1);

/// What is to hold, and what is to be written if all of it does.
#[derive(Default)]
pub(super) struct Transaction {
    conditions: Vec<(Vec<u8>, Check, Otherwise)>,
    operations: Vec<(Vec<u8>, Operation)>,
    /// Words that the script will be given, and the bytes of them, about.
    words: usize,
    bytes: usize,
}

/// What is to be so of a name.
pub(super) enum Check {
    Absent,
    Present,
    /// Its value is this, to the byte.
    Equals(Vec<u8>),
    /// This sorted set has fewer live members than so many.
    Room {
        live_max: u32,
        now: Score,
    },
}

/// What it means that a condition does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Otherwise {
    AlreadyExists,
    NotFound(&'static str),
    TooManyLiveKeys,
    /// Somebody else was faster: to be read and decided again.
    Again,
}

pub(super) enum Operation {
    /// Sets a value.
    Set(Vec<u8>),
    /// Sets a value that goes by itself after so many milliseconds.
    Keep { value: Vec<u8>, millis: u64 },
    /// Adds a member to a sorted set, or moves it there.
    Add { member: [u8; 16], score: Score },
    /// Removes one, if it is there.
    Remove { member: [u8; 16] },
    /// Adds to a number of a hash.
    Count { field: [u8; 8], by: i8 },
}

/// What became of it.
pub(super) enum Outcome {
    Done(ChangeNumber),
    /// Somebody else was faster.
    Again,
}

#[derive(Debug, thiserror::Error)]
#[error("the store was emptied, or is not of this program's format")]
pub(super) struct NoStore;

impl Transaction {
    pub(super) fn require(&mut self, name: Vec<u8>, check: Check, otherwise: Otherwise) {
        self.words += 5;
        self.bytes += name.len() + check.bytes();
        self.conditions.push((name, check, otherwise));
    }

    pub(super) fn write(&mut self, name: Vec<u8>, operation: Operation) {
        self.words += 6;
        self.bytes += name.len() + operation.bytes();
        self.operations.push((name, operation));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// Carries it out, unless a condition does not hold. Cancelled on the way it may happen, unheard.
    ///
    /// # Errors
    /// [`StoreError::NotDurable`] if it was carried out, what the conditions say or
    /// [`StoreError::Unreadable`] if it was not, and [`StoreError::Unavailable`] for either.
    pub(super) async fn run(
        &self,
        primary: &Primary,
        names: &Names,
        log_max: u64,
        subject: Subject,
        audit: &AuditEntry,
    ) -> Result<Outcome, StoreError> {
        let call = self.call(names, log_max, subject, audit)?;
        let answer = primary.write(async |connection| written(call.run(connection).await)).await?;
        match reply::items(answer)?.as_slice() {
            [Value::Int(0)] => Err(unavailable(NoStore)),
            [DONE, number] => Ok(Outcome::Done(ChangeNumber(reply::number(number)?))),
            [Value::Int(2), Value::Int(place), Value::Int(live)] => {
                let place = usize::try_from(*place).ok().and_then(|place| place.checked_sub(1));
                match place.and_then(|place| self.conditions.get(place)) {
                    Some((_, _, otherwise)) => otherwise.refuse(*live),
                    // What lies there is not ours.
                    None => Err(unreadable(Malformed)),
                }
            }
            _ => Err(unreadable(Malformed)),
        }
    }

    fn call(
        &self,
        names: &Names,
        log_max: u64,
        subject: Subject,
        audit: &AuditEntry,
    ) -> Result<Call<'static>, StoreError> {
        let audit = audit.encode().map_err(unreadable)?;
        // An operation on something of another type would fail after others were carried out.
        let types: BTreeSet<_> = self.operations.iter().filter_map(typed).collect();
        let mark = Mark(fastrand::u64(..));
        let bytes = self.bytes + audit.len() + 160;
        let mut call = Call::new(&CHANGE, &names.meta(), self.words + 3 * types.len() + 7, bytes)
            .arg(FORMAT)
            .arg(mark.to_string())
            .arg(SubjectText(subject).to_string())
            .arg(&audit)
            .arg(sha256(&audit).as_slice())
            .arg(log_max)
            .arg(self.conditions.len() + types.len());
        for (name, check, _) in &self.conditions {
            check.tell(name, &mut call);
        }
        for (name, kind) in types {
            call.push(("type", name, kind));
        }
        for (name, operation) in &self.operations {
            operation.tell(name, &mut call);
        }
        Ok(call)
    }
}

fn typed((name, operation): &(Vec<u8>, Operation)) -> Option<(&[u8], &'static str)> {
    match operation {
        Operation::Set(_) | Operation::Keep { .. } => None,
        Operation::Add { .. } | Operation::Remove { .. } => Some((name, "zset")),
        Operation::Count { .. } => Some((name, "hash")),
    }
}

/// Whether replicas have something to wait for.
fn written(answer: RedisResult<Value>) -> RedisResult<Written<Value>> {
    answer.map(|answer| {
        let is_done = matches!(&answer, Value::Array(parts) if parts.first() == Some(&DONE));
        if is_done { Written::Changed(answer) } else { Written::Nothing(answer) }
    })
}

impl Otherwise {
    fn refuse(self, live: i64) -> Result<Outcome, StoreError> {
        match self {
            Self::AlreadyExists => Err(StoreError::AlreadyExists),
            Self::NotFound(what) => Err(StoreError::NotFound(what)),
            Self::TooManyLiveKeys => {
                let live = u32::try_from(live).unwrap_or(u32::MAX);
                Err(StoreError::TooManyLiveKeys { live })
            }
            Self::Again => Ok(Outcome::Again),
        }
    }
}

impl Check {
    fn bytes(&self) -> usize {
        match self {
            Self::Equals(value) => value.len(),
            Self::Absent | Self::Present | Self::Room { .. } => 32,
        }
    }

    fn tell(&self, name: &[u8], call: &mut Call<'_>) {
        match self {
            Self::Absent => call.push(("absent", name)),
            Self::Present => call.push(("present", name)),
            Self::Equals(value) => call.push(("equals", name, value)),
            Self::Room { live_max, now } => {
                call.push(("room", name, now.to_string(), *live_max));
            }
        }
    }
}

impl Operation {
    fn bytes(&self) -> usize {
        match self {
            Self::Set(value) | Self::Keep { value, .. } => value.len(),
            Self::Add { .. } | Self::Remove { .. } | Self::Count { .. } => 48,
        }
    }

    /// The number of words, then the words.
    fn tell(&self, name: &[u8], call: &mut Call<'_>) {
        match self {
            Self::Set(value) => call.push((3, "SET", name, value)),
            Self::Keep { value, millis } => call.push((5, "SET", name, value, "PX", *millis)),
            Self::Add { member, score } => {
                call.push((4, "ZADD", name, score.to_string(), member.as_slice()));
            }
            Self::Remove { member } => call.push((3, "ZREM", name, member.as_slice())),
            Self::Count { field, by } => call.push((4, "HINCRBY", name, field.as_slice(), *by)),
        }
    }
}
