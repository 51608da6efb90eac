//! A change as it is told to gateways: in a message of the channel, and in an entry of the log.

use std::fmt;
use std::str::FromStr;

use crate::keys::{ChangeNumber, Subject};
use crate::subject::SubjectText;

/// A random number that each change gets. A number alone can come back with another meaning, after
/// a restore or a failover that lost writes; number and mark together cannot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct Mark(pub(super) u64);

/// How far changes have been followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct Place {
    pub(super) number: ChangeNumber,
    pub(super) mark: Mark,
}

/// One change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) place: Place,
    /// The mark of the change before it.
    pub(super) after: Mark,
    /// When it was made, in microseconds since 1970 by the store's clock.
    pub(super) at_micros: u64,
    pub(super) subject: Subject,
}

/// `1 <number> <mark> <mark before> <microseconds> <subject>`, which `redis-cli` shows as it is.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, after, at_micros, subject } = self;
        write!(f, "1 {} {} {after} {at_micros} ", place.number.0, place.mark)?;
        write!(f, "{}", SubjectText(*subject))
    }
}

#[derive(Debug, thiserror::Error)]
#[error("what was published is not a change")]
pub(super) struct NotAChange;

impl FromStr for Change {
    type Err = NotAChange;

    fn from_str(text: &str) -> Result<Self, NotAChange> {
        let mut words = text.split(' ');
        let mut word = || words.next().ok_or(NotAChange);
        if word()? != "1" {
            return Err(NotAChange);
        }
        let number = word()?.parse().map_err(|_| NotAChange)?;
        let mark = word()?.parse()?;
        let after = word()?.parse()?;
        let at_micros = word()?.parse().map_err(|_| NotAChange)?;
        let subject = subject(word()?);
        let place = Place { number: ChangeNumber(number), mark };
        Ok(Self { place, after, at_micros, subject })
    }
}

/// Sixteen hex digits.
impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for Mark {
    type Err = NotAChange;

    fn from_str(text: &str) -> Result<Self, NotAChange> {
        let is_hex = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let value = is_hex.then(|| u64::from_str_radix(text, 16).ok()).flatten();
        value.map(Self).ok_or(NotAChange)
    }
}

/// What a text of the log or of a message is about.
pub(super) fn subject(text: &str) -> Subject {
    let Ok(SubjectText(subject)) = text.parse();
    subject
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{account_id, app_id, digest};

    fn any_subject() -> impl Strategy<Value = Subject> {
        (0u8..6, 0u64..1_000).prop_map(|(kind, n)| match kind {
            0 => Subject::Key(digest(n)),
            1 => Subject::App(app_id(n)),
            2 => Subject::Account(account_id(n + 1)),
            3 => Subject::Unknown,
            4 => Subject::Nothing,
            _ => Subject::All,
        })
    }

    proptest! {
        #[test]
        fn a_change_survives_its_text(number: u64, mark: u64, after: u64, at_micros: u64, subject in any_subject()) {
            let place = Place { number: ChangeNumber(number), mark: Mark(mark) };
            let change = Change { place, after: Mark(after), at_micros, subject };
            prop_assert_eq!(change.to_string().parse::<Change>().unwrap(), change);
        }

        #[test]
        fn any_text_is_a_change_or_not(text: String) {
            drop(text.parse::<Change>());
        }
    }

    #[test]
    fn a_subject_from_the_future_is_everything() {
        let text = "1 7 0000000000000001 0000000000000000 5 team_01ARZ3NDEKTSV4RRFFQ69G5FAV extra";
        assert_eq!(text.parse::<Change>().unwrap().subject, Subject::All);
    }

    #[test]
    fn what_is_no_change_is_refused() {
        for text in ["", "1", "2 7 0000000000000001 0000000000000000 5 *", "1 7 1 0 5 *"] {
            assert!(text.parse::<Change>().is_err(), "{text}");
        }
    }
}
