//! A key as the file of another system has it, whatever that system is.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use keygate_core::Scope;
use keygate_core::credential::CREDENTIAL_LENGTH_MAX;
use keygate_core::key::{PresentedKey, sha256};
use keygate_core::limit::Rate;

/// The most keys that are read of one file.
pub(super) const RECORDS_MAX: usize = 1_000_000;
const HEX_DIGITS: usize = 64;

/// One key, by its hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) place: Place,
    pub(super) sha256: Sha256,
    /// What the file calls the app: its id, or a name.
    pub(super) app: Option<String>,
    pub(super) name: Option<String>,
    pub(super) owner: Option<String>,
    pub(super) purpose: Option<String>,
    pub(super) scopes: Vec<Scope>,
    /// Whether the file says anything about what it may do, even if no scope came of it.
    pub(super) is_granted: bool,
    pub(super) end: End,
    pub(super) enabled: bool,
    pub(super) tier: Option<String>,
    pub(super) limits: Limits,
    pub(super) metadata: BTreeMap<String, String>,
}

impl Record {
    /// A key that may do nothing yet, for ever.
    pub(super) fn new(place: Place, sha256: Sha256) -> Self {
        Self {
            place,
            sha256,
            app: None,
            name: None,
            owner: None,
            purpose: None,
            scopes: Vec::new(),
            is_granted: false,
            end: End::Never,
            enabled: true,
            tier: None,
            limits: Limits::default(),
            metadata: BTreeMap::new(),
        }
    }
}

/// Where in a file something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// Counted from 1.
    Line(u64),
    /// The number of a key in a file without lines to speak of, counted from 1.
    Key(u64),
    /// About the file as a whole.
    File,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(number) => write!(f, "line {number}"),
            Self::Key(number) => write!(f, "key {number}"),
            Self::File => f.write_str("the file"),
        }
    }
}

/// The hash of a key: all that leaves this machine of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Sha256([u8; 32]);

impl Sha256 {
    /// Hashes a key. The problem says what to do, never what the key is.
    pub(super) fn of_key(key: &str) -> Result<Self, &'static str> {
        let is_sendable = key.bytes().all(|byte| byte.is_ascii_graphic());
        if key.is_empty() {
            return Err("there is no key: leave the line out");
        }
        if key.len() > CREDENTIAL_LENGTH_MAX || !is_sendable {
            return Err("a client could not send this key: it has to be up to 512 visible ASCII \
                        characters");
        }
        if PresentedKey::parse(key.as_bytes(), None).is_ok() {
            return Err(
                "this has the shape of a key of Keygate's own, which is never looked up as \
                        an imported one: create a key for this client instead",
            );
        }
        Ok(Self(sha256(key.as_bytes())))
    }

    /// Reads 64 hex digits.
    pub(super) fn from_hex(text: &str) -> Option<Self> {
        if text.len() != HEX_DIGITS || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        }
        Some(Self(bytes))
    }

    pub(super) fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

/// 64 hex digits.
impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// When a key ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Never,
    At(Timestamp),
    /// So many seconds after it is imported.
    AfterSeconds(u64),
}

/// What a key has instead of its tier's limits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) rate: Option<Rate>,
    pub(super) burst: Option<u64>,
    pub(super) quotas: Vec<Rate>,
    pub(super) concurrency: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_hashed_as_any_other_program_would() {
        let hash = Sha256::of_key("my-secret-key").unwrap();
        let hex = "1311f8fc80a7ea28d78dd7723f09c44c1754cd35160ca8e7133ae3d7f636a19a";
        assert_eq!(hash.to_string(), hex);
        assert_eq!(Sha256::from_hex(&hex.to_uppercase()), Some(hash));
        for wrong in ["", "1311", &format!("{}g", &hex[1..]), &format!("{hex}0")] {
            assert_eq!(Sha256::from_hex(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_key_that_nobody_could_use_is_a_problem_that_does_not_repeat_it() {
        for key in ["", "two words", "k\u{e9}y", "line\nbreak", &"x".repeat(513)] {
            let problem = Sha256::of_key(key).unwrap_err();
            assert!(key.is_empty() || !problem.contains(key), "{problem}");
        }
    }

    #[test]
    fn a_key_of_our_own_is_refused_and_one_that_only_begins_so_is_not() {
        let mut refused = 0;
        for length in 30..60 {
            let text = format!("sk_live_{}{}", "A".repeat(length), "0".repeat(6));
            let is_ours = PresentedKey::parse(text.as_bytes(), None).is_ok();
            assert_eq!(Sha256::of_key(&text).is_err(), is_ours, "{length}");
            refused += usize::from(is_ours);
        }
        assert_eq!(refused, 1);
        assert!(Sha256::of_key("sk_live_abc").is_ok());
    }
}
