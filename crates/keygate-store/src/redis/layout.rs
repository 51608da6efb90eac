//! The names under which things lie in Redis. All of them hold the prefix in braces, so that a
//! cluster keeps them in one hash slot: a change and its number in the log can then be written in
//! one atomic step.

use keygate_core::key::PepperId;
use keygate_core::{AccountId, AppId, KeyDigest, KeyId};

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

    /// What every name begins with.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// A hash: `format`, `id` (random, made with the store), `seq` (the newest change's number) and
    /// `mark` (that change's).
    pub(super) fn meta(&self) -> Vec<u8> {
        self.name("meta", &[])
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

    /// A key's record: the app's id and the account's, 16 bytes each, then the JSON.
    pub(super) fn key(&self, digest: &KeyDigest) -> Vec<u8> {
        self.name("k:", digest.as_bytes())
    }

    /// A key's digest.
    pub(super) fn key_digest(&self, id: KeyId) -> Vec<u8> {
        self.name("i:", &id.as_u128().to_be_bytes())
    }

    pub(super) fn app(&self, id: AppId) -> Vec<u8> {
        self.name("a:", &id.as_u128().to_be_bytes())
    }

    pub(super) fn account(&self, id: AccountId) -> Vec<u8> {
        self.name("c:", &id.as_u128().to_be_bytes())
    }

    /// A sorted set of the ids of all accounts, all with the score 0, so in the order of their bytes.
    pub(super) fn accounts(&self) -> Vec<u8> {
        self.name("accounts", &[])
    }

    /// The same of an account's apps.
    pub(super) fn account_apps(&self, account: AccountId) -> Vec<u8> {
        self.name("ca:", &account.as_u128().to_be_bytes())
    }

    /// The same of an app's keys.
    pub(super) fn app_keys(&self, app: AppId) -> Vec<u8> {
        self.name("ak:", &app.as_u128().to_be_bytes())
    }

    /// A sorted set of an app's keys that are not revoked, each with the time until which it counts
    /// as live, in Unix milliseconds or `+inf`.
    pub(super) fn app_live(&self, app: AppId) -> Vec<u8> {
        self.name("al:", &app.as_u128().to_be_bytes())
    }

    /// A hash: how many keys that neither are revoked nor ever expire were made with each pepper.
    pub(super) fn peppers(&self) -> Vec<u8> {
        self.name("peppers", &[])
    }

    /// A sorted set of the keys made with a pepper that are not revoked and expire, by that time.
    pub(super) fn pepper_expiring(&self, pepper: PepperId) -> Vec<u8> {
        self.name("pe:", pepper.as_bytes())
    }

    fn name(&self, kind: &str, id: &[u8]) -> Vec<u8> {
        [self.prefix.as_bytes(), kind.as_bytes(), id].concat()
    }
}
