//! `keygate audit`: entries of the log, what is new in it, and whether it is whole.

use serde_json::{Value, json};

use super::{list, run};
use crate::cli::{AdminOptions, Audit, AuditCommand, ListAudit};
use crate::client::{Call, Client};
use crate::failure::{Exit, Failure};
use crate::output::{self, Shape, Style, printable};

/// How long a call waits for what is new: shorter than a call may take.
const WAIT: &str = "20s";
/// How many entries come before what is new.
const SHOWN_BEFORE: u32 = 10;
/// The most findings that are told one by one.
const FINDINGS_MAX: usize = 100;

pub(crate) fn audit(audit: &Audit) -> Result<(), Failure> {
    match &audit.command {
        Some(AuditCommand::Verify { expect }) => verify(&audit.admin, expect),
        None if audit.list.follow => follow(&audit.admin, &audit.list),
        None => run(&audit.admin, &list_call(&audit.list), Shape::Audit),
    }
}

fn list_call(options: &ListAudit) -> Call {
    let call = match options.tail {
        Some(count) => Call::get("/v1/audit").with("tail", Some(count)),
        None => list::call("/v1/audit", &options.page),
    };
    filtered(call, options)
}

fn filtered(call: Call, options: &ListAudit) -> Call {
    call.with("actor", options.actor.as_ref())
        .with("action", options.action.as_ref())
        .with("subject", options.subject.as_ref())
        .with("since", options.since.as_ref())
        .with("until", options.until.as_ref())
        .with("refused", options.refused.then_some("true"))
}

/// Goes on until it is interrupted, or nobody reads any more.
fn follow(admin: &AdminOptions, options: &ListAudit) -> Result<(), Failure> {
    let (client, style) = (Client::new(admin)?, Style::of(admin));
    let mut place = options.page.cursor.clone();
    if place.is_none() && options.since.is_none() {
        let tail = |count: u32| Call::get("/v1/audit").with("tail", Some(count));
        let newest = client.send(&tail(1))?;
        let newest = items(&newest).first().and_then(number).unwrap_or(0);
        let before = client.send(&filtered(tail(SHOWN_BEFORE), options))?;
        for entry in items(&before).iter().rev() {
            // What came since then comes again.
            if number(entry).is_some_and(|number| number <= newest) {
                output::entry(entry, style)?;
            }
        }
        place = Some(newest.to_string());
    }
    loop {
        let call = Call::get("/v1/audit").with("cursor", place.clone()).with("wait", Some(WAIT));
        let answer = client.send(&filtered(call, options))?;
        for entry in items(&answer) {
            output::entry(entry, style)?;
        }
        let last = items(&answer).last().and_then(number).map(|number| number.to_string());
        place = answer.get("next").and_then(Value::as_str).map(str::to_owned).or(last).or(place);
    }
}

fn items(answer: &Value) -> &[Value] {
    answer.get("items").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn number(entry: &Value) -> Option<u64> {
    entry.get("number").and_then(Value::as_u64)
}

/// Fails if anything was found.
fn verify(admin: &AdminOptions, expect: &[(u64, String)]) -> Result<(), Failure> {
    let client = Client::new(admin)?;
    let mut log = Checked::default();
    loop {
        let call = Call::get("/v1/audit/verify").with("after", log.next);
        let answer = client.send(&call.with("link", log.next.and_then(|_| log.link.clone())))?;
        log.add(&answer);
        if log.next.is_none() {
            break;
        }
    }
    for (noted, link) in expect {
        let after = noted.saturating_sub(1);
        let call = Call::get("/v1/audit").with("after", Some(after)).with("limit", Some(1));
        log.compare(*noted, link, items(&client.send(&call)?).first());
    }
    output::print(&log.text(Style::of(admin)))?;
    log.verdict().map_err(|failure| Failure::new(Exit::Failed, failure))
}

/// What was checked of the log so far.
#[derive(Debug, Default)]
struct Checked {
    entries: u64,
    /// Of the newest entry.
    to: Option<u64>,
    link: Option<String>,
    found: u64,
    findings: Vec<Value>,
    /// The first entry that the store keeps.
    kept_from: Option<u64>,
    /// The newest noted entry that came before that one.
    too_old: Option<u64>,
    /// Where to go on.
    next: Option<u64>,
}

impl Checked {
    fn add(&mut self, answer: &Value) {
        let number = |name: &str| answer.get(name).and_then(Value::as_u64);
        self.entries += number("checked").unwrap_or_default();
        self.to = number("to").or(self.to);
        self.kept_from = number("kept_from").or(self.kept_from);
        let link = answer.get("link").and_then(Value::as_str).map(str::to_owned);
        self.link = link.or_else(|| self.link.take());
        // One that does not move would go on for ever.
        self.next = number("next").filter(|next| Some(*next) != self.next);
        for finding in answer.get("findings").and_then(Value::as_array).into_iter().flatten() {
            self.find(finding.clone());
        }
    }

    fn find(&mut self, finding: Value) {
        self.found += 1;
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        }
    }

    /// Holds an entry against what was noted of it.
    fn compare(&mut self, noted: u64, link: &str, entry: Option<&Value>) {
        let entry = entry.filter(|entry| number(entry) == Some(noted));
        if entry.is_none() && self.kept_from.is_some_and(|first| noted < first) {
            self.too_old = self.too_old.max(Some(noted));
            return;
        }
        let detail = match entry.map(|entry| entry.get("hash").and_then(Value::as_str)) {
            Some(Some(hash)) if hash.eq_ignore_ascii_case(link) => return,
            Some(_) => format!("entry {noted} has another link than the one that was noted"),
            None => format!("entry {noted}, which was noted, is missing"),
        };
        self.find(json!({ "number": noted, "kind": "not_as_kept", "detail": detail }));
    }

    /// What is wrong, if anything is.
    fn verdict(&self) -> Result<(), String> {
        match (self.found, self.too_old, self.kept_from) {
            (0, None, _) => Ok(()),
            (0, Some(noted), first) => Err(format!(
                "entry {noted} is too old to compare: the log is kept from {} on",
                first.unwrap_or_default()
            )),
            (found, _, _) => Err(format!("the audit log was changed: {found} findings")),
        }
    }

    fn text(&self, style: Style) -> String {
        let newest =
            self.to.zip(self.link.as_ref()).map(|(number, link)| format!("{number}:{link}"));
        match style {
            Style::Json => {
                let all = json!({ "checked": self.entries, "to": self.to, "link": self.link,
                                  "found": self.found, "findings": self.findings,
                                  "kept_from": self.kept_from });
                format!("{all:#}\n")
            }
            Style::Ids => newest.map(|newest| format!("{newest}\n")).unwrap_or_default(),
            Style::Table => {
                let mut lines: Vec<String> = Vec::new();
                for finding in &self.findings {
                    let detail = finding.get("detail").and_then(Value::as_str);
                    lines.push(printable(detail.unwrap_or("something was changed")));
                }
                let unshown = self.found.saturating_sub(FINDINGS_MAX as u64);
                if unshown > 0 {
                    lines.push(format!("and {unshown} more"));
                }
                lines.push(format!("{} entries checked, {} findings", self.entries, self.found));
                if let Some(newest) = newest {
                    lines.push(format!("the newest is {newest}"));
                    lines.push(format!(
                        "note that elsewhere; later: keygate audit verify --expect {newest}"
                    ));
                }
                lines.join("\n") + "\n"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Mode};

    fn parse(line: &str) -> Result<Audit, clap::Error> {
        let Mode::Audit(audit) = Cli::try_parse_from(line.split_whitespace())?.mode else {
            panic!("not audit")
        };
        Ok(audit)
    }

    #[test]
    fn the_newest_audit_entries_are_asked_for_by_their_number() {
        let audit = parse("keygate audit --tail 20").unwrap();
        assert_eq!(list_call(&audit.list).query, [("tail", "20".to_owned())]);
        for wrong in ["--tail 20 --limit 5", "--tail 20 --follow", "verify --expect 7"] {
            assert!(parse(&format!("keygate audit {wrong}")).is_err(), "{wrong}");
        }
    }

    #[test]
    fn entries_are_asked_for_by_who_did_what_to_what_and_when() {
        let line = "keygate audit --actor token:ci --action key.revoke --subject key_1 \
                    --since 2030-01-01T00:00:00Z --refused --json";
        let query = list_call(&parse(line).unwrap().list).query;
        let names: Vec<&str> = query.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["actor", "action", "subject", "since", "refused"]);
    }

    #[test]
    fn a_log_is_checked_to_its_end_and_against_what_was_noted() {
        let (a, b) = ("a".repeat(64), "b".repeat(64));
        let mut log = Checked::default();
        log.add(&json!({ "checked": 5000, "to": 5000, "link": a, "findings": [], "next": 5000 }));
        assert_eq!(log.next, Some(5000));
        let finding = json!({ "number": 5003, "kind": "altered", "detail": "entry 5003 is not" });
        log.add(
            &json!({ "checked": 9, "to": 5009, "link": b, "findings": [finding], "next": null }),
        );
        assert_eq!((log.next, log.entries, log.found), (None, 5009, 1));
        let entry = json!({ "number": 7, "hash": a });
        log.compare(7, &a, Some(&entry));
        assert_eq!(log.found, 1);
        log.compare(7, &b, Some(&entry));
        log.compare(6, &a, Some(&entry));
        log.compare(6, &a, None);
        assert_eq!(log.found, 4);
        let table = log.text(Style::Table);
        assert!(table.contains("entry 5003 is not") && table.contains("4 findings"), "{table}");
        assert_eq!(log.text(Style::Ids), format!("5009:{b}\n"));
    }

    #[test]
    fn what_was_noted_of_an_entry_that_is_kept_no_more_is_no_finding_and_no_success() {
        let link = "a".repeat(64);
        let mut log = Checked::default();
        log.add(&json!({ "checked": 9, "to": 58, "link": link, "findings": [], "kept_from": 50 }));
        assert_eq!(log.verdict(), Ok(()));
        log.compare(49, &link, Some(&json!({ "number": 50, "hash": link })));
        assert_eq!(log.found, 0);
        let too_old = "entry 49 is too old to compare: the log is kept from 50 on";
        assert_eq!(log.verdict(), Err(too_old.to_owned()));
        log.compare(59, &link, None);
        assert_eq!(log.verdict(), Err("the audit log was changed: 1 findings".to_owned()));
    }
}
