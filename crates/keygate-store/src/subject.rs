//! What a change is about, as text: what gateways tell each other.

use std::fmt;
use std::str::FromStr;

use keygate_core::{AccountId, AppId, UnixMillis};

use crate::codec::digest_from_hex;
use crate::keys::Subject;

/// A subject as text: a digest in hex, an id, `?` for keys that were unknown, or `*` for everything.
pub(crate) struct SubjectText(pub(crate) Subject);

impl fmt::Display for SubjectText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Subject::Key(digest) => {
                digest.as_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
            Subject::App(app) => app.fmt(f),
            Subject::Account(account) => account.fmt(f),
            // Nobody's account: an older gateway forgets nothing for it.
            Subject::Nothing => AccountId::new(UnixMillis(0), [0; 10]).fmt(f),
            Subject::Unknown => f.write_str("?"),
            Subject::All => f.write_str("*"),
        }
    }
}

/// Never fails: what a newer gateway says and this one does not know may concern anything.
impl FromStr for SubjectText {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let app = || text.parse::<AppId>().ok().map(Subject::App);
        let account = || {
            let id = text.parse::<AccountId>().ok()?;
            Some(if id.as_u128() == 0 { Subject::Nothing } else { Subject::Account(id) })
        };
        let key = digest_from_hex(text).map(Subject::Key);
        let unknown = || (text == "?").then_some(Subject::Unknown);
        Ok(Self(key.or_else(app).or_else(account).or_else(unknown).unwrap_or(Subject::All)))
    }
}
