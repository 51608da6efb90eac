//! Kong's declarative file (`kong.yml`): consumers with their `keyauth_credentials` and `acls`, nested
//! or at the top level. A consumer becomes an app, its ACL groups become scopes.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use serde_saphyr::{Error, Location, Spanned};

use super::findings::Findings;
use super::record::{End, Place, RECORDS_MAX, Record, Sha256};
use super::scopes::ScopeRules;

/// A file of so many keys needs no more. Aliases, with which a small file could become a large one,
/// have bounds of their own.
const NODES_MAX: usize = 16 * RECORDS_MAX;
const ALIASES_MAX: usize = 10_000;
const ALIASED_EVENTS_MAX: usize = 1_000_000;
const DEPTH_MAX: usize = 64;
const SCALAR_BYTES_MAX: usize = 256 << 20;

#[derive(Deserialize)]
struct KongFile {
    _format_version: Option<String>,
    consumers: Option<Vec<Spanned<Consumer>>>,
    keyauth_credentials: Option<Vec<Spanned<Credential>>>,
    acls: Option<Vec<Spanned<Acl>>>,
    basicauth_credentials: Option<Vec<IgnoredAny>>,
    hmacauth_credentials: Option<Vec<IgnoredAny>>,
    jwt_secrets: Option<Vec<IgnoredAny>>,
    oauth2_credentials: Option<Vec<IgnoredAny>>,
}

#[derive(Deserialize)]
struct Consumer {
    id: Option<String>,
    username: Option<String>,
    custom_id: Option<String>,
    keyauth_credentials: Option<Vec<Spanned<Credential>>>,
    acls: Option<Vec<Spanned<Acl>>>,
    basicauth_credentials: Option<Vec<IgnoredAny>>,
    hmacauth_credentials: Option<Vec<IgnoredAny>>,
    jwt_secrets: Option<Vec<IgnoredAny>>,
    oauth2_credentials: Option<Vec<IgnoredAny>>,
    groups: Option<Vec<IgnoredAny>>,
}

#[derive(Deserialize)]
struct Credential {
    key: Option<String>,
    /// In seconds, from when Kong made it.
    ttl: Option<Value>,
    /// In seconds since 1970.
    created_at: Option<Value>,
    /// At the top level only.
    consumer: Option<Value>,
}

#[derive(Deserialize)]
struct Acl {
    group: Option<String>,
    /// At the top level only.
    consumer: Option<Value>,
}

pub(super) fn read(
    text: &[u8],
    rules: &ScopeRules,
    now: Timestamp,
    findings: &mut Findings,
) -> Vec<Record> {
    let file: KongFile = match serde_saphyr::from_slice_with_options(text, options()) {
        Ok(file) => file,
        Err(error) => {
            findings.problem(place(error.location()), explain(&error));
            return Vec::new();
        }
    };
    check_version(file._format_version.as_deref(), findings);
    let mut reading = Reading { rules, now, findings, parties: Vec::new(), names: HashMap::new() };
    reading.leave_out([
        (&file.basicauth_credentials, "basic-auth"),
        (&file.hmacauth_credentials, "hmac-auth"),
        (&file.jwt_secrets, "jwt"),
        (&file.oauth2_credentials, "oauth2"),
    ]);
    for consumer in file.consumers.unwrap_or_default() {
        reading.consumer(consumer);
    }
    for acl in file.acls.unwrap_or_default() {
        reading.acl(acl);
    }
    for credential in file.keyauth_credentials.unwrap_or_default() {
        reading.credential(credential);
    }
    reading.records()
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: 2 * NODES_MAX,
            max_nodes: NODES_MAX,
            max_aliases: ALIASES_MAX,
            max_anchors: ALIASES_MAX,
            max_depth: DEPTH_MAX,
            max_documents: 1,
            max_total_scalar_bytes: SCALAR_BYTES_MAX,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: ALIASED_EVENTS_MAX,
        },
        // What it shows of a file might be a key.
        with_snippet: false,
    }
}

/// An error of the library without anything of the file in it.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "a list that is not closed, and none of it is ours"
)]
fn explain(error: &Error) -> &'static str {
    let mut error = error;
    while let Error::AliasError { error: inner, .. } = error {
        error = inner;
    }
    match error {
        Error::Budget { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. } => {
            "the YAML is too large, nests too deeply or copies too much of itself by aliases"
        }
        _ => {
            "not YAML as Kong's declarative file has it: `consumers`, `keyauth_credentials` and \
             `acls` are lists of objects, and names and keys are texts"
        }
    }
}

fn place(location: Option<Location>) -> Place {
    location.map_or(Place::File, |location| Place::Line(location.line()))
}

fn check_version(version: Option<&str>, findings: &mut Findings) {
    let known = |version: &str| ["1.", "2.", "3."].iter().any(|known| version.starts_with(known));
    match version {
        Some(version) if known(version) => {}
        Some(_) => findings.problem(
            Place::File,
            "`_format_version` is not one that is known here: 1.1, 2.1 or 3.0",
        ),
        None => findings.problem(
            Place::File,
            "there is no `_format_version`: is this Kong's declarative file? `deck gateway dump` and \
             `kong config db_export` write one",
        ),
    }
}

/// A file on its way to keys.
struct Reading<'a> {
    rules: &'a ScopeRules,
    now: Timestamp,
    findings: &'a mut Findings,
    parties: Vec<Party>,
    /// By each of its names, the consumer's place among the parties.
    names: HashMap<String, usize>,
}

/// A consumer with all that the file says about it, wherever.
struct Party {
    place: Place,
    name: String,
    groups: Vec<String>,
    credentials: Vec<(Place, Credential)>,
}

impl Reading<'_> {
    fn consumer(&mut self, Spanned { value, referenced, .. }: Spanned<Consumer>) {
        let place = place(Some(referenced));
        let names: Vec<&String> =
            [&value.username, &value.custom_id, &value.id].into_iter().flatten().collect();
        let Some(name) = names.first().map(|name| (*name).clone()) else {
            self.findings.problem(place, "a consumer has neither a `username` nor a `custom_id`");
            return;
        };
        for one in names {
            self.names.entry(one.clone()).or_insert(self.parties.len());
        }
        self.leave_out([
            (&value.basicauth_credentials, "basic-auth"),
            (&value.hmacauth_credentials, "hmac-auth"),
            (&value.jwt_secrets, "jwt"),
            (&value.oauth2_credentials, "oauth2"),
        ]);
        if value.groups.is_some_and(|groups| !groups.is_empty()) {
            let note = "consumer groups are not taken over, only the groups of `acls` are";
            self.findings.note(place, note);
        }
        let mut party = Party { place, name, groups: Vec::new(), credentials: Vec::new() };
        for acl in value.acls.unwrap_or_default() {
            party.groups.extend(acl.value.group);
        }
        for Spanned { value, referenced, .. } in value.keyauth_credentials.unwrap_or_default() {
            party.credentials.push((self::place(Some(referenced)), value));
        }
        self.parties.push(party);
    }

    fn acl(&mut self, Spanned { value, referenced, .. }: Spanned<Acl>) {
        if let Some(party) = self.party(value.consumer.as_ref(), place(Some(referenced))) {
            party.groups.extend(value.group);
        }
    }

    fn credential(&mut self, Spanned { value, referenced, .. }: Spanned<Credential>) {
        let place = place(Some(referenced));
        if let Some(party) = self.party(value.consumer.as_ref(), place) {
            party.credentials.push((place, value));
        }
    }

    /// Whose something at the top level is. A consumer that is only named there is one too.
    fn party(&mut self, consumer: Option<&Value>, place: Place) -> Option<&mut Party> {
        let member =
            |name| consumer.and_then(|consumer| consumer.get(name)).and_then(Value::as_str);
        let by_member = || ["username", "custom_id", "id"].into_iter().find_map(member);
        let Some(name) = consumer.and_then(Value::as_str).or_else(by_member) else {
            self.findings.problem(place, "`consumer` has to name one");
            return None;
        };
        let next = self.parties.len();
        let at = *self.names.entry(name.to_owned()).or_insert(next);
        if at == next {
            let name = name.to_owned();
            let (groups, credentials) = (Vec::new(), Vec::new());
            self.parties.push(Party { place, name, groups, credentials });
        }
        self.parties.get_mut(at)
    }

    fn leave_out<const N: usize>(&mut self, others: [(&Option<Vec<IgnoredAny>>, &str); N]) {
        for (credentials, what) in others {
            if credentials.as_ref().is_some_and(|all| !all.is_empty()) {
                let note = format!("credentials for {what} are left out: they are no API keys");
                self.findings.note(Place::File, note);
            }
        }
    }

    fn records(self) -> Vec<Record> {
        let Self { rules, now, findings, parties, .. } = self;
        let mut records = Vec::new();
        for Party { place, name, groups, credentials } in parties {
            if credentials.is_empty() {
                findings.note(place, "a consumer without keys is left out");
                continue;
            }
            let groups = groups.iter().map(String::as_str);
            let scopes = rules.read(groups, "ACL group", place, findings);
            for (place, credential) in credentials {
                if records.len() == RECORDS_MAX {
                    let why = format!("there are more than {RECORDS_MAX} keys: split the file");
                    findings.problem(Place::File, why);
                    return records;
                }
                let hash = findings.right(place, read_key(credential.key.as_deref()));
                let end = findings.right(place, read_end(&credential, now));
                let (Some(hash), Some(end)) = (hash, end) else { continue };
                if matches!(end, End::AfterSeconds(_)) {
                    let note = "a `ttl` without `created_at` is counted from the import on";
                    findings.note(place, note);
                }
                let scopes = scopes.clone();
                let app = Some(name.clone());
                records.push(Record { app, scopes, end, ..Record::new(place, hash) });
            }
        }
        records
    }
}

fn read_key(key: Option<&str>) -> Result<Sha256, &'static str> {
    match key {
        None => Err("a credential has no `key`: Kong made it up at its start; export what runs"),
        Some(key) if key.starts_with("{vault://") || key.contains("${{") => {
            Err("`key` only refers to the key: export the file with the keys themselves")
        }
        Some(key) => Sha256::of_key(key),
    }
}

fn read_end(credential: &Credential, now: Timestamp) -> Result<End, &'static str> {
    const RULE: &str = "`ttl` and `created_at` are whole seconds";
    let seconds = |value: &Option<Value>| match value {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value.as_u64().map(Some).ok_or(RULE),
    };
    match (seconds(&credential.ttl)?, seconds(&credential.created_at)?) {
        (None | Some(0), _) => Ok(End::Never),
        (Some(ttl), None) => {
            let fits = i64::try_from(ttl).map(SignedDuration::from_secs);
            fits.ok().and_then(|ttl| now.checked_add(ttl).ok()).ok_or(RULE)?;
            Ok(End::AfterSeconds(ttl))
        }
        (Some(ttl), Some(created)) => {
            let end = created.checked_add(ttl).and_then(|end| i64::try_from(end).ok());
            end.and_then(|end| Timestamp::from_second(end).ok()).map(End::At).ok_or(RULE)
        }
    }
}

#[cfg(test)]
mod tests;
