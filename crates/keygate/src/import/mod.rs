//! `keygate keys import`: reads what another system exported, and hands it to the admin API in parts.
//! A key is hashed here and goes no further.
//!
//! Run again with the same file it makes no key twice: the API knows each by its hash.

mod csv;
mod findings;
mod format;
#[cfg(test)]
mod fuzzing;
mod jsonl;
mod kong;
mod plan;
mod progress;
mod record;
mod row;
mod scopes;
mod tyk;
mod unkey;
mod values;

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Instant;

use anyhow::Context;
use jiff::Timestamp;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::cli::{AdminOptions, ImportKeys};
use crate::client::{Call, Client};
use crate::clock;
use crate::failure::{Exit, Failure};
use crate::output::{self, Style, printable};

use self::findings::Findings;
use self::plan::{Destination, Part, Plan, Whose};
use self::progress::Progress;
use self::record::Place;
use self::scopes::{Credits, ScopeRules};

pub(crate) use self::format::Format;
pub(crate) use self::scopes::{Unmapped, group_scope};

/// The longest file. It is read whole: two of the formats cannot be told apart before their end.
const FILE_BYTES_MAX: u64 = 256 << 20;
/// The most keys that failed or differ that are told one by one.
const SHOWN_MAX: usize = 20;

/// Imports a file. Fails with [`Exit::Differs`] if some keys could not be imported, or are there
/// otherwise.
pub(crate) fn run(admin: &AdminOptions, options: &ImportKeys) -> Result<(), Failure> {
    let client = Client::new(admin)?;
    let name = options.file.display().to_string();
    let (source, plan) = read(options, &name)?;
    if plan.len() == 0 && plan.expired == 0 {
        return Err(Failure::new(Exit::Usage, format!("there are no keys in {name}")));
    }
    let style = Style::of(admin);
    let mut tally = Tally::new(options.dry_run, plan.expired);
    send(&client, &plan, source, &mut tally)?;
    tally.show(&plan, style)
}

/// The keys of the file, as they are to be sent, and where they come from.
fn read(options: &ImportKeys, name: &str) -> Result<(&'static str, Plan), Failure> {
    let text = read_file(&options.file)?;
    let format = match options.format {
        Some(format) => format,
        None => Format::detect(&text).ok_or_else(|| {
            let why = format!("cannot tell what {name} is: say it with --format");
            Failure::new(Exit::Usage, why)
        })?,
    };
    let credits = if options.ignore_credits { Credits::Ignore } else { Credits::Refuse };
    let unmapped = options.unmapped_groups;
    let mut rules = ScopeRules { unmapped, credits, ..ScopeRules::default() };
    for (group, scope) in options.group_scope.clone() {
        rules.mapped.entry(group).or_default().push(scope);
    }
    let now = i64::try_from(clock::now().0).ok();
    let now = now.and_then(|now| Timestamp::from_millisecond(now).ok()).unwrap_or(Timestamp::MAX);
    let mut findings = Findings::default();
    let records =
        format.read(&text, &rules, options.exported_at, options.environment, &mut findings);
    drop(text);
    let to = Destination {
        app: options.app,
        account: match (options.account, &options.create_account) {
            (Some(id), _) => Some(Whose::Account(id)),
            (None, Some(name)) => Some(Whose::NewAccount(name.clone())),
            (None, None) => None,
        },
        environment: options.environment,
        scopes: options.scopes.clone(),
    };
    let plan = Plan::new(records, &to, now, &mut findings);
    for note in findings.notes() {
        eprintln!("note: {note}");
    }
    findings.check(name)?;
    Ok((format.as_str(), plan))
}

/// What it holds is wiped after use: it may be keys.
fn read_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let name = path.display();
    let mut input: Box<dyn Read> = match path.to_str() {
        Some("-") => Box::new(std::io::stdin().lock()),
        _ => Box::new(File::open(path).with_context(|| format!("cannot open {name}"))?),
    };
    let mut text = Zeroizing::new(Vec::new());
    let read = input.by_ref().take(FILE_BYTES_MAX + 1).read_to_end(&mut text);
    let length = read.with_context(|| format!("cannot read {name}"))?;
    if length as u64 > FILE_BYTES_MAX {
        let why = format!("{name} is longer than {} MiB: split it", FILE_BYTES_MAX >> 20);
        return Err(Failure::new(Exit::Usage, why));
    }
    Ok(text)
}

fn send(
    client: &Client,
    plan: &Plan,
    source: &'static str,
    tally: &mut Tally,
) -> Result<(), Failure> {
    let verb = if tally.dry_run { "checked" } else { "imported" };
    let mut progress = Progress::new(verb, plan.len());
    let begun = Instant::now();
    let mut done = 0;
    for part in plan.parts(source, tally.dry_run) {
        let answer = client.send(&Call::post("/v1/keys/import", part.body.clone()));
        let answer = answer.map_err(|failure| {
            progress::end_line();
            let total = plan.len();
            failure.after(&format!("{verb} {done} of {total} keys; run this again to go on"))
        })?;
        tally.add(&part, &answer);
        done += part.places.len();
        progress.report(done, begun.elapsed());
    }
    Ok(())
}

/// What has become of the keys so far.
#[derive(Debug)]
struct Tally {
    dry_run: bool,
    expired: usize,
    created: usize,
    existing: usize,
    differing: usize,
    failed: usize,
    apps_created: usize,
    /// Whether the gateway lets imported keys in.
    accepted: bool,
    created_ids: Vec<String>,
    problems: Vec<(String, String)>,
    /// Of the apps and accounts, which other parts repeat.
    parents: std::collections::BTreeSet<String>,
}

impl Tally {
    fn new(dry_run: bool, expired: usize) -> Self {
        Self {
            dry_run,
            expired,
            created: 0,
            existing: 0,
            differing: 0,
            failed: 0,
            apps_created: 0,
            accepted: true,
            created_ids: Vec::new(),
            problems: Vec::new(),
            parents: std::collections::BTreeSet::new(),
        }
    }

    fn add(&mut self, part: &Part, answer: &Value) {
        self.accepted &= answer.get("accepted").and_then(Value::as_bool).unwrap_or(true);
        for (name, app) in part.apps.iter().zip(items(answer, "apps")) {
            let is_new = self.parents.insert(name.clone());
            match result(app) {
                "created" if is_new => self.apps_created += 1,
                "failed" if is_new => self.problem(format!("app `{name}`"), error(app)),
                _ => {}
            }
        }
        for account in items(answer, "accounts").iter().filter(|one| result(one) == "failed") {
            if self.parents.insert("\0account".into()) {
                self.problem("the account".into(), error(account));
            }
        }
        for (place, key) in part.places.iter().zip(items(answer, "results")) {
            self.add_key(*place, key);
        }
    }

    fn add_key(&mut self, place: Place, key: &Value) {
        match result(key) {
            "created" => {
                self.created += 1;
                self.created_ids.extend(key.get("id").and_then(Value::as_str).map(str::to_owned));
            }
            "existing" => {
                self.existing += 1;
                if key.get("differs").and_then(Value::as_bool) == Some(true) {
                    self.differing += 1;
                    let id = key.get("id").and_then(Value::as_str).unwrap_or_default();
                    let what = "is there with other rights, limits or another end, and left so";
                    self.problem(place.to_string(), format!("{id} {what}"));
                }
            }
            _ => {
                self.failed += 1;
                self.problem(place.to_string(), error(key));
            }
        }
    }

    fn problem(&mut self, place: String, detail: String) {
        if self.problems.len() < SHOWN_MAX {
            self.problems.push((place, printable(&detail)));
        }
    }

    fn show(&self, plan: &Plan, style: Style) -> Result<(), Failure> {
        for (place, detail) in &self.problems {
            eprintln!("{place}: {detail}");
        }
        let unshown = (self.failed + self.differing).saturating_sub(self.problems.len());
        if unshown > 0 {
            eprintln!("and {unshown} more");
        }
        if !self.accepted {
            eprintln!(
                "warning: the gateway refuses imported keys until its configuration says `[keys] \
                 accept_imported = true`"
            );
        }
        output::print(&match style {
            Style::Json => format!("{:#}\n", self.json()),
            Style::Ids => self.created_ids.iter().map(|id| format!("{id}\n")).collect(),
            Style::Table => format!("{}\n", self.sentence(plan)),
        })?;
        match self.failed + self.differing {
            0 => Ok(()),
            _ => {
                let (failed, differing) = (self.failed, self.differing);
                let why = format!("{failed} keys could not be imported, and {differing} differ");
                Err(Failure::new(Exit::Differs, why))
            }
        }
    }

    fn sentence(&self, plan: &Plan) -> String {
        let done = if self.dry_run { "would import" } else { "imported" };
        let mut text = format!("{done} {} keys", self.created);
        if plan.apps() > 0 {
            text.push_str(&format!(" of {} apps ({} new)", plan.apps(), self.apps_created));
        }
        for (count, what) in [
            (self.existing, "were there already"),
            (self.failed, "could not be imported"),
            (self.expired, "have expired and are left out"),
        ] {
            if count > 0 {
                text.push_str(&format!("; {count} {what}"));
            }
        }
        text
    }

    fn json(&self) -> Value {
        let problems: Vec<Value> = self
            .problems
            .iter()
            .map(|(place, detail)| json!({ "place": place, "detail": detail }))
            .collect();
        json!({
            "dry_run": self.dry_run,
            "accepted": self.accepted,
            "created": self.created,
            "existing": self.existing,
            "differing": self.differing,
            "failed": self.failed,
            "expired": self.expired,
            "apps_created": self.apps_created,
            "problems": problems,
        })
    }
}

fn items<'a>(answer: &'a Value, name: &str) -> &'a [Value] {
    answer.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn result(item: &Value) -> &str {
    item.get("result").and_then(Value::as_str).unwrap_or_default()
}

fn error(item: &Value) -> String {
    let detail = item.get("error").and_then(|error| error.get("detail"));
    detail.and_then(Value::as_str).unwrap_or("it could not be imported").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally() -> Tally {
        let part = Part {
            body: Value::Null,
            places: (2..=5).map(Place::Line).collect(),
            apps: vec!["shop".into(), "till".into()],
        };
        let answer = json!({
            "accepted": false, "created": 1, "existing": 2, "failed": 1,
            "accounts": [{ "index": 0, "result": "existing", "id": "acct_1" }],
            "apps": [
                { "index": 0, "result": "created", "id": "app_1", "error": null },
                { "index": 1, "result": "failed", "id": null, "error": { "detail": "`name`: no." } },
            ],
            "results": [
                { "index": 0, "result": "created", "id": "key_1", "differs": false },
                { "index": 1, "result": "existing", "id": "key_2", "differs": false },
                { "index": 2, "result": "existing", "id": "key_3", "differs": true },
                { "index": 3, "result": "failed", "id": null, "error": { "detail": "no\u{1b}" } },
            ],
        });
        let mut tally = Tally::new(false, 3);
        tally.add(&part, &answer);
        tally
    }

    #[test]
    fn every_key_is_counted_and_what_went_wrong_has_its_place() {
        let tally = tally();
        let expected = json!({
            "dry_run": false, "accepted": false, "created": 1, "existing": 2, "differing": 1,
            "failed": 1, "expired": 3, "apps_created": 1,
            "problems": [
                { "place": "app `till`", "detail": "`name`: no." },
                { "place": "line 4", "detail": "key_3 is there with other rights, limits or \
                                                another end, and left so" },
                { "place": "line 5", "detail": "no\u{fffd}" },
            ],
        });
        assert_eq!(tally.json(), expected);
        assert_eq!(tally.created_ids, ["key_1"]);
    }
}
