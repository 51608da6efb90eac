//! What was counted in one stretch of time.

use std::hash::{BuildHasherDefault, Hasher, RandomState};
use std::net::IpAddr;

use super::{CLIENTS_MAX, Counts, KEYS_MAX, SHARE_MIN, Sketch};
use crate::id::{AccountId, AppId, KeyId};
use crate::network::ClientNetwork;
use crate::problem::Code;
use crate::record::KeyRecord;

const _: () = assert!((KEYS_MAX / (3 + 1)) as u64 >= SHARE_MIN, "by three measures");
const _: () = assert!((CLIENTS_MAX / (1 + 1)) as u64 >= SHARE_MIN, "by one");

pub(super) type Keys = Sketch<KeyId, Who, BuildHasherDefault<IdHasher>, 3>;
pub(super) type Clients = Sketch<ClientNetwork, (), RandomState, 1>;

/// A request that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Ended<'a> {
    /// Whose key it had, if the gateway knows the key.
    pub key: Option<&'a KeyRecord>,
    pub client: Option<IpAddr>,
    /// Why it was refused, if it was.
    pub refused: Option<Code>,
    /// Of its body and that of its answer.
    pub bytes: u64,
}

/// Whose key it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Who {
    pub app: AppId,
    pub account: AccountId,
    pub hint: Hint,
}

impl From<&KeyRecord> for Who {
    fn from(key: &KeyRecord) -> Self {
        Self { app: key.app, account: key.account, hint: Hint::new(&key.hint) }
    }
}

/// What was counted: of the keys, of the clients that were refused without one, and in all.
#[derive(Clone, Debug)]
pub struct Slot {
    pub(super) keys: Keys,
    pub(super) clients: Clients,
    pub(super) all: Counts,
}

impl Slot {
    /// `hasher` is for what strangers can choose.
    #[must_use]
    pub fn new(hasher: &RandomState) -> Self {
        Self {
            keys: Sketch::new(KEYS_MAX, BuildHasherDefault::default()),
            clients: Sketch::new(CLIENTS_MAX, hasher.clone()),
            all: Counts::default(),
        }
    }

    /// Counts a request.
    #[inline]
    pub fn count(&mut self, request: Ended<'_>) {
        let Ended { key, client, refused, bytes } = request;
        let counts = Counts { requests: 1, refusals: refused.is_some().into(), bytes };
        self.all.add(counts);
        match (key, client, refused) {
            (Some(key), ..) => self.keys.add(key.id, counts.weights(), || Who::from(key)),
            // What the gateway or its store could not do is nobody's fault.
            (None, Some(client), Some(code)) if code.status() < 500 => {
                self.clients.add(ClientNetwork::from(client), [1], || ());
            }
            (None, ..) => {}
        }
    }

    pub fn merge(&mut self, other: &Self) {
        self.keys.merge(&other.keys);
        self.clients.merge(&other.clients);
        self.all.add(other.all);
    }

    /// Forgets everything, and keeps its memory.
    pub fn clear(&mut self) {
        self.keys.clear();
        self.clients.clear();
        self.all = Counts::default();
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all == Counts::default()
    }
}

const HINT_LENGTH_MAX: usize = 31;

/// The first characters of a key, in place.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Hint {
    length: u8,
    bytes: [u8; HINT_LENGTH_MAX],
}

impl Hint {
    /// As much of the text as there is room for.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let text = text.get(..text.floor_char_boundary(HINT_LENGTH_MAX)).unwrap_or_default();
        let mut bytes = [0; HINT_LENGTH_MAX];
        for (to, from) in bytes.iter_mut().zip(text.bytes()) {
            *to = from;
        }
        Self { length: u8::try_from(text.len()).unwrap_or_default(), bytes }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        let text = self.bytes.get(..usize::from(self.length)).unwrap_or_default();
        str::from_utf8(text).unwrap_or_default()
    }
}

impl std::fmt::Debug for Hint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.as_str().fmt(f)
    }
}

/// Hashes ids of ours, whose random bits nobody chose.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(ODD);
        }
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the halves")]
    fn write_u128(&mut self, id: u128) {
        let mixed = ((id >> 64) as u64 ^ id as u64).wrapping_mul(ODD);
        self.0 = mixed ^ mixed >> 32;
    }
}

/// The golden ratio in 64 bits: spreads neighbours.
const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
