//! Kong's declarative file (`kong.yml`): consumers with their `keyauth_credentials` and `acls`, nested
//! or at the top level. A consumer becomes an app, its ACL groups become scopes.

use std::collections::{HashMap, HashSet};

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
/// From here on a `ttl` is no span, but a moment in seconds since 1970.
const TTL_MAX: i64 = 1_000_000_000;

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
    /// In seconds: what was left at the export, or since 1970.
    ttl: Option<Value>,
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
    exported: Option<Timestamp>,
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
    let mut reading =
        Reading { rules, exported, findings, parties: Vec::new(), names: Names::default() };
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
    exported: Option<Timestamp>,
    findings: &'a mut Findings,
    parties: Vec<Party>,
    names: Names,
}

/// The consumers' places among the parties, by each kind of name. Kong tells the kinds apart: one
/// consumer's `custom_id` may be another's `username`.
#[derive(Default)]
struct Names {
    username: HashMap<String, usize>,
    custom_id: HashMap<String, usize>,
    id: HashMap<String, usize>,
    /// What the apps will be called.
    apps: HashSet<String>,
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
        let name = [&value.username, &value.custom_id, &value.id].into_iter().flatten().next();
        let Some(name) = name.cloned() else {
            self.findings.problem(place, "a consumer has neither a `username` nor a `custom_id`");
            return;
        };
        let at = self.parties.len();
        for (kind, names, name) in [
            ("username", &mut self.names.username, value.username),
            ("custom_id", &mut self.names.custom_id, value.custom_id),
            ("id", &mut self.names.id, value.id),
        ] {
            if name.is_some_and(|name| names.insert(name, at).is_some()) {
                let why = format!("another consumer has the same `{kind}`");
                self.findings.problem(place, why);
            }
        }
        if !self.names.apps.insert(name.clone()) {
            let why = "this consumer would become the same app as another, which is called by a name \
                       of another kind: give it a `username` of its own";
            self.findings.problem(place, why);
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
        let found = match self.find(consumer) {
            Ok(found) => found,
            Err(why) => {
                self.findings.problem(place, why);
                return None;
            }
        };
        let at = match found {
            Ok(at) => at,
            Err(name) => {
                let at = self.parties.len();
                let (groups, credentials) = (Vec::new(), Vec::new());
                self.names.username.insert(name.clone(), at);
                self.names.apps.insert(name.clone());
                self.parties.push(Party { place, name, groups, credentials });
                at
            }
        };
        self.parties.get_mut(at)
    }

    /// The place of a consumer, or the `username` of one that the file says no more of. A text is
    /// a `username` or an `id`; members say themselves what they are.
    fn find(&self, consumer: Option<&Value>) -> Result<Result<usize, String>, &'static str> {
        const WHICH: &str = "`consumer` has to name one";
        const TWO: &str = "`consumer` fits two consumers: refer to one by its `id` as {id: …}";
        let Names { username, custom_id, id, apps } = &self.names;
        let consumer = consumer.ok_or(WHICH)?;
        if let Some(text) = consumer.as_str() {
            return match (username.get(text), id.get(text)) {
                (Some(one), Some(other)) if one != other => Err(TWO),
                (Some(at), _) | (None, Some(at)) => Ok(Ok(*at)),
                (None, None) if custom_id.contains_key(text) => Err(
                    "`consumer` is only a `custom_id`: Kong takes a text for a `username` or an \
                         `id`; write {custom_id: …} if that is meant",
                ),
                (None, None) => Ok(Err(text.to_owned())),
            };
        }
        let member = |kind: &str| consumer.get(kind).and_then(Value::as_str);
        let mut found = None;
        for (names, name) in
            [(username, member("username")), (custom_id, member("custom_id")), (id, member("id"))]
        {
            let Some(name) = name else { continue };
            match (found, names.get(name)) {
                (Some(one), Some(other)) if one != *other => return Err(TWO),
                (_, Some(at)) => found = Some(*at),
                (_, None) => {}
            }
        }
        match (found, member("username")) {
            (Some(at), _) => Ok(Ok(at)),
            (None, Some(name)) if !apps.contains(name) => Ok(Err(name.to_owned())),
            (None, _) if member("custom_id").or_else(|| member("id")).is_some() => {
                Err("`consumer` refers to one that is not in the file")
            }
            (None, _) => Err(WHICH),
        }
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
        let Self { rules, exported, findings, parties, .. } = self;
        let mut records = Vec::new();
        for Party { place, name, groups, credentials } in parties {
            if credentials.is_empty() {
                findings.note(place, "a consumer without keys is left out");
                continue;
            }
            let is_granted = !groups.is_empty();
            let groups = groups.iter().map(String::as_str);
            let scopes = rules.read(groups, "ACL group", place, findings);
            for (place, credential) in credentials {
                if records.len() == RECORDS_MAX {
                    let why = format!("there are more than {RECORDS_MAX} keys: split the file");
                    findings.problem(Place::File, why);
                    return records;
                }
                let hash = findings.right(place, read_key(credential.key.as_deref()));
                let end = findings.right(place, read_end(credential.ttl.as_ref(), exported));
                let (Some(hash), Some(end)) = (hash, end) else { continue };
                if matches!(end, End::AfterSeconds(_)) {
                    let note = "a `ttl` is counted from now on: say when the file was written with \
                                --exported-at";
                    findings.note(place, note);
                }
                let scopes = scopes.clone();
                let app = Some(name.clone());
                records.push(Record { app, scopes, is_granted, end, ..Record::new(place, hash) });
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

/// From an export, `ttl` is the time left, or in Kong's own database dumps the time of the end. It
/// never counts from `created_at`.
fn read_end(ttl: Option<&Value>, exported: Option<Timestamp>) -> Result<End, &'static str> {
    const RULE: &str = "`ttl` is whole seconds";
    let seconds = match ttl {
        None | Some(Value::Null) => return Ok(End::Never),
        Some(value) => {
            value.as_u64().and_then(|seconds| i64::try_from(seconds).ok()).ok_or(RULE)?
        }
    };
    let end = match seconds {
        0 => return Ok(End::Never),
        TTL_MAX.. => Timestamp::from_second(seconds).ok().map(End::At),
        _ => match exported {
            Some(at) => at.checked_add(SignedDuration::from_secs(seconds)).ok().map(End::At),
            None => Some(End::AfterSeconds(seconds.unsigned_abs())),
        },
    };
    end.ok_or(RULE)
}

#[cfg(test)]
mod tests;
