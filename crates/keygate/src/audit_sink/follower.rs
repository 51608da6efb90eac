//! What to write next, given what was written last and what the store holds. Knows neither store nor
//! file.

use keygate_admin::AuditLine;
use keygate_store::keys::ChangeNumber;
use keygate_store::records::Logged;
use keygate_telemetry::logging::mask;
use serde::Serialize;

/// One line: an entry, or what is to be known about those around it.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line {
    /// Entries of these numbers were dropped from the store before they could be copied.
    Gap { from: u64, to: u64 },
    /// After the entry `from` the store's log was another one, such as that of a backup: what follows
    /// is all of that.
    Restarted { from: u64 },
    /// The lines before are in another file, up to this entry.
    Continues { after: u64, hash: Option<String> },
    #[serde(untagged)]
    Entry(Box<AuditLine>),
}

impl Line {
    pub(super) fn is_entry(&self) -> bool {
        matches!(self, Self::Entry(_))
    }

    /// The line, without its end.
    pub(super) fn text(&self) -> serde_json::Result<String> {
        Ok(mask(&serde_json::to_string(self)?).into_owned())
    }

    /// The same, told apart from the lines of the program's own log.
    pub(super) fn tagged(&self) -> serde_json::Result<String> {
        let text = self.text()?;
        Ok(format!("{{\"log\":\"audit\",{}", text.strip_prefix('{').unwrap_or(&text)))
    }
}

/// An entry that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) number: u64,
    /// Not known of an entry that has none, or that a gap ended with.
    pub(super) hash: Option<String>,
}

/// How far the log has been copied.
pub(super) struct Follower {
    place: Place,
    /// Where to begin if the store's log turns out to be another one.
    anew: Place,
}

#[derive(Clone)]
enum Place {
    /// What is the newest entry when somebody looks. It is not copied itself.
    Newest,
    /// This entry; or none, and all are to be copied.
    After(Option<Mark>),
}

impl Follower {
    /// For one who is not interested in what was before.
    pub(super) fn from_the_newest() -> Self {
        Self { place: Place::Newest, anew: Place::Newest }
    }

    /// For one who is to have all of it, and has had it up to here.
    pub(super) fn after(last: Option<Mark>) -> Self {
        Self { place: Place::After(last), anew: Place::After(None) }
    }

    /// After which entry to read: the last one that was written is read once more, to see whether it is
    /// still there. Nothing if the newest one is to be asked for.
    pub(super) fn place(&self) -> Option<ChangeNumber> {
        match &self.place {
            Place::Newest => None,
            Place::After(None) => Some(ChangeNumber(0)),
            Place::After(Some(mark)) => Some(ChangeNumber(mark.number.saturating_sub(1))),
        }
    }

    pub(super) fn begin_after(&mut self, newest: Option<AuditLine>) {
        let mark = newest.map(|newest| Mark { number: newest.number, hash: newest.hash });
        self.place = Place::After(mark);
    }

    /// What to write, given the entries after [`place`](Self::place).
    pub(super) fn take(&self, entries: Vec<Logged>) -> Vec<Line> {
        let mut entries = entries.into_iter().map(AuditLine::from).peekable();
        let mut last = 0;
        if let Place::After(Some(mark)) = &self.place {
            last = mark.number;
            match entries.peek() {
                Some(first) if first.number > mark.number => {}
                Some(first) if first.number == mark.number && agree(mark, first) => {
                    entries.next();
                }
                Some(_) | None => return vec![Line::Restarted { from: mark.number }],
            }
        }
        let mut lines = Vec::new();
        for entry in entries {
            let next = last + 1;
            if entry.number > next {
                lines.push(Line::Gap { from: next, to: entry.number - 1 });
            }
            last = entry.number;
            lines.push(Line::Entry(Box::new(entry)));
        }
        lines
    }

    /// Says that these lines were written.
    pub(super) fn written(&mut self, lines: &[Line]) {
        match lines.last() {
            Some(Line::Entry(entry)) => {
                let mark = Mark { number: entry.number, hash: entry.hash.clone() };
                self.place = Place::After(Some(mark));
            }
            Some(Line::Restarted { .. }) => self.place = self.anew.clone(),
            // A gap ends with an entry.
            Some(Line::Gap { .. } | Line::Continues { .. }) | None => {}
        }
    }

    /// What a new file begins with, when the one before was moved away.
    pub(super) fn continues(&self) -> Line {
        match &self.place {
            Place::After(Some(Mark { number, hash })) => {
                Line::Continues { after: *number, hash: hash.clone() }
            }
            Place::After(None) | Place::Newest => Line::Continues { after: 0, hash: None },
        }
    }
}

fn agree(mark: &Mark, entry: &AuditLine) -> bool {
    let (Some(ours), Some(theirs)) = (&mark.hash, &entry.hash) else { return true };
    ours == theirs
}

#[cfg(test)]
mod tests {
    use keygate_core::UnixMillis;
    use keygate_store::audit::Link;
    use keygate_store::records::{AuditEntry, Seal};
    use serde_json::{Map, Value};

    use super::*;

    fn logged(number: u64, hash: u8) -> Logged {
        let entry = AuditEntry {
            at: UnixMillis(1_000),
            actor: "a".to_owned(),
            action: "b".to_owned(),
            subject: "c".to_owned(),
            hint: None,
            from: None,
            reason: None,
            refused: None,
            changes: Map::new(),
        };
        let seal = Some(Seal { link: Link([hash; 32]), bytes: Vec::new() });
        Logged { number: ChangeNumber(number), entry, seal }
    }

    fn log(numbers: impl IntoIterator<Item = u64>) -> Vec<Logged> {
        numbers.into_iter().map(|number| logged(number, 7)).collect()
    }

    /// Copies a part, and shows what was written: numbers of entries, or the other lines.
    fn copy(follower: &mut Follower, entries: Vec<Logged>) -> Vec<Value> {
        let lines = follower.take(entries);
        follower.written(&lines);
        let show = |line: &Line| -> Value {
            let value: Value = serde_json::from_str(&line.text().unwrap()).unwrap();
            value.get("number").unwrap_or(&value).clone()
        };
        lines.iter().map(show).collect()
    }

    #[test]
    fn each_entry_is_written_once() {
        let mut follower = Follower::after(None);
        assert_eq!(follower.place(), Some(ChangeNumber(0)));
        assert_eq!(copy(&mut follower, log(1..=3)), [1, 2, 3]);
        assert_eq!(follower.place(), Some(ChangeNumber(2)), "the third is looked at again");
        assert_eq!(copy(&mut follower, log([3])), [0; 0]);
        assert_eq!(copy(&mut follower, log(3..=5)), [4, 5]);
    }

    #[test]
    fn what_was_dropped_before_it_was_copied_is_said() {
        let gap = |from: u64, to: u64| serde_json::json!({ "gap": { "from": from, "to": to } });
        let mut follower = Follower::after(None);
        assert_eq!(copy(&mut follower, log([4])), [gap(1, 3), 4.into()]);
        assert_eq!(copy(&mut follower, log([5])), [5], "the last one was dropped, and no other");
        assert_eq!(copy(&mut follower, log([9, 10])), [gap(6, 8), 9.into(), 10.into()]);
        assert_eq!(copy(&mut follower, log([10, 12])), [gap(11, 11), 12.into()]);
    }

    #[test]
    fn a_log_that_is_another_one_is_copied_from_its_beginning() {
        let restarted = |from: u64| serde_json::json!({ "restarted": { "from": from } });
        let after = || {
            let hash = Some(Link([7; 32]).to_string());
            Follower::after(Some(Mark { number: 5, hash }))
        };
        for other in [Vec::new(), vec![logged(5, 8), logged(6, 8)]] {
            let mut follower = after();
            assert_eq!(copy(&mut follower, other), [restarted(5)]);
            assert_eq!(follower.place(), Some(ChangeNumber(0)));
            assert_eq!(copy(&mut follower, log([1, 2])), [1, 2]);
        }
        assert_eq!(copy(&mut after(), log([5, 6])), [6]);
    }

    #[test]
    fn a_log_of_the_program_has_what_happens_from_its_start_on() {
        let mut follower = Follower::from_the_newest();
        assert_eq!(follower.place(), None);
        follower.begin_after(Some(logged(3, 7).into()));
        assert_eq!(copy(&mut follower, log([3, 4])), [4]);
        assert_eq!(copy(&mut follower, Vec::new()).len(), 1);
        assert_eq!(follower.place(), None, "the newest one is asked for again");
    }

    #[test]
    fn a_line_can_be_told_apart_from_the_programs_own() {
        let line = Line::Entry(Box::new(logged(1, 7).into()));
        let text = line.tagged().unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        assert!(text.starts_with("{\"log\":\"audit\",\"number\":1,\"at\":\"1970"), "{text}");
        assert_eq!(value["log"], "audit");
    }
}
