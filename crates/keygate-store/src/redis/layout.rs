//! The names under which things lie in Redis. All of them hold the prefix in braces, so that a
//! cluster keeps them in one hash slot: a change and its number in the log can then be written in
//! one atomic step.

use std::fmt;

use keygate_core::key::PepperId;
use keygate_core::limit::terms::{Party, Share};
use keygate_core::{AccountId, AppId, KeyDigest, KeyId, TokenId, UnixMillis};

use crate::usage::records::{SourceId, Spender, Step};

/// The layout that this program writes. A store with a higher number is left alone.
pub(super) const FORMAT: u64 = 1;

/// Makes names. Ids and digests are in them as raw bytes, which takes a third of the memory of text.
#[derive(Clone, Debug)]
pub(super) struct Names {
    prefix: Box<str>,
}

impl Names {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: format!("{{{prefix}}}:").into() }
    }

    /// A hash: `format`, `id` (random, made with the store), `seq` (the newest change's number), `mark`
    /// (that change's) and `link` (that of the newest sealed entry of the log, after its number in
    /// eight bytes: an older gateway writes entries without seals, and leaves `link` behind).
    pub(super) fn meta(&self) -> Vec<u8> {
        self.name("meta", &[])
    }

    /// What a party has used of its limits: see [`limits`](super::limits).
    pub(super) fn limit(&self, party: Party) -> Vec<u8> {
        let kind = match party.share() {
            Share::Key => "lk:",
            Share::App => "la:",
            Share::Account => "lc:",
        };
        self.name(kind, &party.id())
    }

    /// What is written only to wait until replicas have it.
    pub(super) fn fence(&self) -> Vec<u8> {
        self.name("fence", &[])
    }

    /// A stream of changes, the entry of number n with the id `n-0`: see [`change`](super::change).
    pub(super) fn log(&self) -> Vec<u8> {
        self.name("log", &[])
    }

    /// The channel on which each change is published.
    pub(super) fn channel(&self) -> Vec<u8> {
        self.name("changes", &[])
    }

    /// A hash of what each gateway reports, by the gateway's id.
    pub(super) fn fleet(&self) -> Vec<u8> {
        self.name("fleet", &[])
    }

    /// A key's record, by its digest: the app's id and the account's, then the JSON. A look-up so
    /// finds them without reading JSON in the server.
    pub(super) fn key(&self, digest: &KeyDigest) -> Vec<u8> {
        self.name(KEYS, digest.as_bytes())
    }

    /// What the names of keys begin with.
    pub(super) fn keys(&self) -> Vec<u8> {
        self.name(KEYS, &[])
    }

    /// A key's digest, by its id.
    pub(super) fn key_digest(&self, id: KeyId) -> Vec<u8> {
        self.name(KEY_DIGESTS, &place(id.as_u128()))
    }

    pub(super) fn key_digests(&self) -> Vec<u8> {
        self.name(KEY_DIGESTS, &[])
    }

    /// An app's JSON.
    pub(super) fn app(&self, id: AppId) -> Vec<u8> {
        self.name(APPS, &place(id.as_u128()))
    }

    pub(super) fn apps(&self) -> Vec<u8> {
        self.name(APPS, &[])
    }

    /// An account's JSON.
    pub(super) fn account(&self, id: AccountId) -> Vec<u8> {
        self.name(ACCOUNTS, &place(id.as_u128()))
    }

    pub(super) fn accounts(&self) -> Vec<u8> {
        self.name(ACCOUNTS, &[])
    }

    /// A sorted set of the ids of all accounts, all with the score 0, so in the order of their bytes.
    pub(super) fn account_ids(&self) -> Vec<u8> {
        self.name("accounts", &[])
    }

    /// The same of an account's apps.
    pub(super) fn app_ids(&self, account: AccountId) -> Vec<u8> {
        self.name("ca:", &place(account.as_u128()))
    }

    /// The same of an app's keys.
    pub(super) fn key_ids(&self, app: AppId) -> Vec<u8> {
        self.name("ak:", &place(app.as_u128()))
    }

    /// A sorted set of an app's keys that are not revoked, each with the time until which it counts
    /// as live: see [`Score`].
    pub(super) fn app_live(&self, app: AppId) -> Vec<u8> {
        self.name("al:", &place(app.as_u128()))
    }

    /// A hash: how many keys that neither are revoked nor ever expire were made with each pepper.
    /// Every pepper that a key was ever made with is in it, if only with 0.
    pub(super) fn peppers(&self) -> Vec<u8> {
        self.name("peppers", &[])
    }

    /// A sorted set of the keys made with a pepper that are not revoked and expire, by that time.
    pub(super) fn pepper_expiring(&self, pepper: PepperId) -> Vec<u8> {
        self.name(PEPPERS_EXPIRING, pepper.as_bytes())
    }

    pub(super) fn peppers_expiring(&self) -> Vec<u8> {
        self.name(PEPPERS_EXPIRING, &[])
    }

    /// A hash: when each key was last used in milliseconds, by the key's id. A sorted set would take
    /// 125 bytes a key instead of 88.
    pub(super) fn used(&self) -> Vec<u8> {
        self.name("used", &[])
    }

    /// The same with the address and the route, as a line: see [`codec::usage`](crate::codec::usage). The
    /// time alone stays apart, since older gateways read and write it.
    pub(super) fn last_uses(&self) -> Vec<u8> {
        self.name("uses", &[])
    }

    /// The number of the newest batch of a source of use.
    pub(super) fn usage_source(&self, source: SourceId) -> Vec<u8> {
        self.name("us:", &place(source.0))
    }

    /// A hash: the number that stands for each route in what was used, by the route's name. The newest
    /// number lies beside it, in `un`.
    pub(super) fn usage_routes(&self) -> Vec<u8> {
        self.name("ur", &[])
    }

    /// What was used in a run of windows: see [`usage`](super::usage).
    pub(super) fn usage(&self, of: Spender, chunk: Chunk) -> Vec<u8> {
        let number = chunk.number.to_be_bytes();
        let kind = chunk.kind();
        match of {
            Spender::Everybody => self.name(kind, &number),
            Spender::Key(key) => {
                self.name(kind, &[number.as_slice(), &place(key.as_u128())].concat())
            }
        }
    }

    /// What all names begin with.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// What was made under the name of a change that is done once: see [`once`](super::once).
    pub(super) fn once(&self, name: &[u8; 32]) -> Vec<u8> {
        self.name("o:", name)
    }

    /// An admin token's record, by its id.
    pub(super) fn token(&self, id: TokenId) -> Vec<u8> {
        self.name(TOKENS, &place(id.as_u128()))
    }

    /// What the names of admin tokens begin with.
    pub(super) fn tokens(&self) -> Vec<u8> {
        self.name(TOKENS, &[])
    }

    /// An admin token's id, by its hash.
    pub(super) fn token_of_hash(&self, sha256: &[u8; 32]) -> Vec<u8> {
        self.name("td:", sha256)
    }

    /// A sorted set of the ids of all admin tokens, like that of accounts.
    pub(super) fn token_ids(&self) -> Vec<u8> {
        self.name("tokens", &[])
    }

    fn name(&self, kind: &str, id: &[u8]) -> Vec<u8> {
        [self.prefix.as_bytes(), kind.as_bytes(), id].concat()
    }
}

/// A run of windows whose use lies in one hash: not many, so that the hash is small and goes at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) step: Step,
    pub(super) number: u32,
}

impl Chunk {
    /// The run that a window is in, and the window's place in it.
    pub(super) fn of(step: Step, start: UnixMillis) -> (Self, u64) {
        let chunk = step.together() * step.millis();
        let number = u32::try_from(start.0 / chunk).unwrap_or(u32::MAX);
        (Self { step, number }, start.0 % chunk / step.millis())
    }

    /// When the window at this place began.
    pub(super) const fn start(self, place: u64) -> UnixMillis {
        let first = self.number as u64 * self.step.together();
        UnixMillis((first + place) * self.step.millis())
    }

    /// When its last window ends.
    pub(super) const fn end(self) -> UnixMillis {
        self.start(self.step.together())
    }

    /// What names of this kind begin with.
    pub(super) const fn kind(self) -> &'static str {
        match self.step {
            Step::Minute => "um:",
            Step::Hour => "uh:",
            Step::Day => "ud:",
        }
    }
}

const KEYS: &str = "k:";
const KEY_DIGESTS: &str = "i:";
const APPS: &str = "a:";
const ACCOUNTS: &str = "c:";
const TOKENS: &str = "t:";
const PEPPERS_EXPIRING: &str = "pe:";

/// An id as it is in names, sets and values: big-endian, so that bytes sort as ids do.
pub(super) const fn place(id: u128) -> [u8; ID_LENGTH] {
    id.to_be_bytes()
}

const ID_LENGTH: usize = size_of::<u128>();

/// A key's value.
pub(super) fn join_key(app: AppId, account: AccountId, json: &[u8]) -> Vec<u8> {
    [&place(app.as_u128()), place(account.as_u128()).as_slice(), json].concat()
}

/// The JSON in a key's value.
pub(super) fn key_json(value: &[u8]) -> Option<&[u8]> {
    value.get(2 * ID_LENGTH..)
}

/// A time as a sorted set's score, which is a floating-point number: exact up to 2^53 ms, far beyond
/// any date. From there on it is for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Score {
    Never,
    At(u64),
}

impl Score {
    const EXACT_MAX: u64 = 1 << 53;

    pub(super) const fn until(end: UnixMillis) -> Self {
        if end.0 < Self::EXACT_MAX { Self::At(end.0) } else { Self::Never }
    }

    /// A moment to compare with. It never is never.
    pub(super) fn now(now: UnixMillis) -> Self {
        Self::At(now.0.min(Self::EXACT_MAX))
    }
}

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Never => f.write_str("+inf"),
            Self::At(millis) => millis.fmt(f),
        }
    }
}
