//! One sequence of calls, each held to what the model says.

use fastrand::Rng;
use serde_json::{Value, json};

use super::model::{Account, App, Key, Model, State, covers};
use crate::harness::{Admin, Answer, Caller, Gateway, Request, get, post, request};

const CALLS_MAX: usize = 30;
const SCOPES: [&str; 6] =
    ["read:orders", "write:orders", "admin:orders", "read:*", "read:reports", "read:audit"];
/// A path and the one scope that its route asks for.
const CALLS: [(&str, &str, &str); 2] =
    [("GET", "/v1/orders", "read:orders"), ("POST", "/v1/orders", "write:orders")];

pub(super) struct Play {
    admin: Admin,
    reader: Admin,
    caller: Caller,
    random: Rng,
    model: Model,
    /// The name of this play, and each call so far: what a failure is understood by.
    history: Vec<String>,
    names: u32,
    /// The newest entry of the audit log before this play.
    log_began: u64,
}

/// What an `If-Match` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sight {
    Unsaid,
    Current,
    Stale,
}

impl Play {
    pub(super) fn new(first: &Gateway, last: &Gateway, random: Rng, name: String) -> Self {
        let (admin, reader, caller) = (first.admin(), last.admin(), first.caller());
        let (model, history) = (Model::default(), vec![name]);
        let newest = admin.read("/v1/audit?tail=1");
        let log_began = newest["items"][0]["number"].as_u64().unwrap_or_default();
        Self { admin, reader, caller, random, model, history, names: 0, log_began }
    }

    pub(super) fn run(mut self) {
        self.create_account();
        self.create_app();
        for _ in 0..self.random.usize(8..CALLS_MAX) {
            match self.random.u8(..20) {
                0 => self.create_account(),
                1 | 2 => self.create_app(),
                3..=6 => self.create_key(),
                7 => self.change_account(),
                8 | 9 => self.change_app(),
                10..=12 => self.change_key(),
                13 | 14 => self.rotate(),
                15 | 16 => self.revoke(),
                _ => self.use_keys(),
            }
        }
        self.use_keys();
        self.compare();
    }

    fn create_account(&mut self) {
        let name = self.name();
        let answer = self.create("/v1/accounts", &json!({ "name": name }));
        self.check(&answer, 201, "");
        let (id, etag) = (id(&answer), etag(&answer));
        self.model.accounts.push(Account { id, name, suspended: false, etag });
    }

    fn create_app(&mut self) {
        let (name, granted) = (self.name(), self.scopes(1));
        let account = self.random.usize(..self.model.accounts.len());
        let path = format!("/v1/accounts/{}/apps", self.model.accounts[account].id);
        let answer = self.create(&path, &json!({ "name": name, "granted_scopes": granted }));
        self.check(&answer, 201, "");
        let (id, etag) = (id(&answer), etag(&answer));
        self.model.apps.push(App { id, account, name, granted, disabled: false, etag });
    }

    fn create_key(&mut self) {
        let app = self.random.usize(..self.model.apps.len());
        let (scopes, ends) = (self.scopes(0), self.random.bool());
        let name = if self.random.bool() { json!(self.name()) } else { Value::Null };
        let body = json!({ "name": name, "scopes": scopes, "ttl": ends.then_some("30d") });
        let path = format!("/v1/apps/{}/keys", self.model.apps[app].id);
        let answer = self.create(&path, &body);
        if !self.are_granted(app, &scopes) {
            return self.check(&answer, 422, "scope_not_granted");
        }
        if self.model.is_full(app) {
            return self.check(&answer, 422, "too_many_live_keys");
        }
        self.check(&answer, 201, "");
        let made = Key {
            id: id(&answer),
            secret: text(&answer, "key"),
            app,
            name,
            scopes,
            state: State::Active,
            ends,
            is_over: false,
            successor: None,
            predecessor: None,
            etag: etag(&answer),
            log: vec!["key.create"],
        };
        self.model.keys.push(made);
    }

    fn change_account(&mut self) {
        let at = self.random.usize(..self.model.accounts.len());
        let (suspended, name) = (self.random.bool(), self.name());
        let status = if suspended { "suspended" } else { "active" };
        let account = &self.model.accounts[at];
        let path = format!("/v1/accounts/{}", account.id);
        let etag_before = account.etag.clone();
        let body = json!({ "name": name, "status": status });
        if let Some(etag) = self.patch(&path, &body, &etag_before) {
            let account = &mut self.model.accounts[at];
            (account.name, account.suspended, account.etag) = (name, suspended, etag);
        }
    }

    fn change_app(&mut self) {
        let at = self.random.usize(..self.model.apps.len());
        let (disabled, name, granted) = (self.random.u8(..4) == 0, self.name(), self.scopes(1));
        let status = if disabled { "disabled" } else { "active" };
        let app = &self.model.apps[at];
        let (path, etag_before) = (format!("/v1/apps/{}", app.id), app.etag.clone());
        let body = json!({ "name": name, "status": status, "granted_scopes": granted });
        if let Some(etag) = self.patch(&path, &body, &etag_before) {
            let app = &mut self.model.apps[at];
            (app.name, app.disabled, app.granted, app.etag) = (name, disabled, granted, etag);
        }
    }

    fn change_key(&mut self) {
        let Some(at) = self.any_key() else { return };
        let (scopes, disabled, name) = (self.scopes(0), self.random.bool(), self.name());
        let status = if disabled { "disabled" } else { "active" };
        let key = &self.model.keys[at];
        let (path, etag_before) = (format!("/v1/keys/{}", key.id), key.etag.clone());
        let body = json!({ "name": name, "scopes": scopes, "status": status });
        if key.state == State::Revoked {
            let answer = self.send(&patch_request(&path, &body));
            return self.check(&answer, 409, "key_revoked");
        }
        if scopes != key.scopes && !self.are_granted(key.app, &scopes) {
            let answer = self.send(&patch_request(&path, &body));
            return self.check(&answer, 422, "scope_not_granted");
        }
        let Some(etag) = self.patch(&path, &body, &etag_before) else { return };
        let key = &mut self.model.keys[at];
        let state = if disabled { State::Disabled } else { State::Active };
        key.log.push(match (key.state, state) {
            (State::Active, State::Disabled) => "key.disable",
            (State::Disabled, State::Active) => "key.enable",
            _ => "key.update",
        });
        (key.name, key.scopes, key.state, key.etag) = (json!(name), scopes, state, etag);
    }

    fn rotate(&mut self) {
        let Some(at) = self.any_key() else { return };
        let at_once = self.random.bool();
        let overlap = if at_once { "0s" } else { "1h" };
        let path = format!("/v1/keys/{}/rotate", self.model.keys[at].id);
        let answer = self.create(&path, &json!({ "overlap": overlap }));
        let key = &self.model.keys[at];
        if key.state != State::Active || key.is_over || key.successor.is_some() {
            return self.check(&answer, 409, "");
        }
        self.check(&answer, 201, "");
        let made = Key {
            id: id(&answer),
            secret: text(&answer, "key"),
            app: key.app,
            name: key.name.clone(),
            scopes: key.scopes.clone(),
            state: State::Active,
            ends: key.ends,
            is_over: false,
            successor: None,
            predecessor: Some(key.id.clone()),
            etag: etag(&answer),
            log: Vec::new(),
        };
        assert_eq!(answer.json()["rotated_from"], key.id, "{:#?}", self.history);
        let old = self.reader.send(&get(&format!("/v1/keys/{}", key.id)));
        let key = &mut self.model.keys[at];
        (key.successor, key.is_over, key.ends) = (Some(made.id.clone()), at_once, true);
        key.etag = etag(&old);
        key.log.push("key.rotate");
        self.model.keys.push(made);
    }

    fn revoke(&mut self) {
        let Some(at) = self.any_key() else { return };
        let path = format!("/v1/keys/{}/revoke", self.model.keys[at].id);
        let answer = self.send(&post(&path, json!({ "reason": "played" }).to_string()));
        self.check(&answer, 200, "");
        let key = &mut self.model.keys[at];
        if key.state != State::Revoked {
            (key.state, key.etag) = (State::Revoked, etag(&answer));
            key.log.push("key.revoke");
        }
    }

    /// What was acknowledged holds from that moment on.
    fn use_keys(&mut self) {
        for key in &self.model.keys {
            let (method, path, needed) = CALLS[self.random.usize(..CALLS.len())];
            let answer = self.caller.send(&request(method, path).bearer(&key.secret));
            let (status, code) = self.model.decides(key, needed);
            let found = (answer.status, answer.code());
            assert_eq!(found, (status, code.to_owned()), "{} {:#?}", key.id, self.history);
        }
    }

    /// Sends a change, in the sight of the record or not, and returns its new tag if it was made.
    fn patch(&mut self, path: &str, body: &Value, etag_now: &str) -> Option<String> {
        let sight = match self.random.u8(..4) {
            0 => Sight::Current,
            1 => Sight::Stale,
            _ => Sight::Unsaid,
        };
        let request = match sight {
            Sight::Unsaid => patch_request(path, body),
            Sight::Current => patch_request(path, body).header("If-Match", etag_now),
            Sight::Stale => patch_request(path, body).header("If-Match", "\"4711\""),
        };
        let answer = self.send(&request);
        if sight == Sight::Stale {
            self.check(&answer, 412, "precondition_failed");
            return None;
        }
        self.check(&answer, 200, "");
        let etag = etag(&answer);
        assert_ne!(etag, etag_now, "each change has a new name: {:#?}", self.history);
        Some(etag)
    }

    fn compare(&self) {
        for account in &self.model.accounts {
            let path = format!("/v1/accounts/{}", account.id);
            let found = self.read(&path, &account.etag);
            let status = if account.suspended { "suspended" } else { "active" };
            assert_eq!(
                (&found["name"], &found["status"]),
                (&json!(account.name), &json!(status)),
                "{:#?}",
                self.history
            );
        }
        for (at, app) in self.model.apps.iter().enumerate() {
            let found = self.read(&format!("/v1/apps/{}", app.id), &app.etag);
            let status = if app.disabled { "disabled" } else { "active" };
            let known =
                json!({ "name": app.name, "status": status, "granted_scopes": app.granted });
            assert_has(&found, &known, &self.history);
            let keys: Vec<&Key> = self.model.keys.iter().filter(|key| key.app == at).collect();
            self.compare_keys(app, &keys);
        }
    }

    fn compare_keys(&self, app: &App, keys: &[&Key]) {
        for key in keys {
            let found = self.read(&format!("/v1/keys/{}", key.id), &key.etag);
            assert_has(&found, &self.model.shown(key), &self.history);
            assert_eq!(found["expires_at"].is_string(), key.ends, "{found} {:#?}", self.history);
            assert_eq!(self.actions(&key.id), key.log, "{} {:#?}", key.id, self.history);
        }
        let mut listed = self.list(&format!("/v1/apps/{}/keys?limit=2", app.id));
        let mut expected: Vec<_> = keys.iter().map(|key| key.id.clone()).collect();
        listed.sort_unstable();
        expected.sort_unstable();
        assert_eq!(listed, expected, "{:#?}", self.history);
        for status in ["active", "disabled", "revoked", "expired"] {
            let path = format!("/v1/keys?app_id={}&status={status}&limit=2", app.id);
            let mut listed = self.list(&path);
            let of_status = keys.iter().filter(|key| key.status() == status);
            let mut expected: Vec<_> = of_status.map(|key| key.id.clone()).collect();
            listed.sort_unstable();
            expected.sort_unstable();
            assert_eq!(listed, expected, "{status} {:#?}", self.history);
        }
    }

    /// What the audit log says was done to a record, in order.
    fn actions(&self, subject: &str) -> Vec<String> {
        let path = format!("/v1/audit?subject={subject}&refused=false&limit=200");
        let mut actions = Vec::new();
        let mut page = self.reader.read(&format!("{path}&after={}", self.log_began));
        loop {
            let entries = page["items"].as_array().unwrap().iter();
            actions.extend(entries.map(|entry| entry["action"].as_str().unwrap().to_owned()));
            let Some(next) = page["next"].as_str() else { return actions };
            page = self.reader.read(&format!("{path}&cursor={next}"));
        }
    }

    /// The ids of a list, page by page.
    fn list(&self, path: &str) -> Vec<String> {
        let mut ids = Vec::new();
        let mut page = self.reader.read(path);
        loop {
            let items = page["items"].as_array().unwrap();
            ids.extend(items.iter().map(|item| item["id"].as_str().unwrap().to_owned()));
            let Some(next) = page["next"].as_str() else { return ids };
            page = self.reader.read(&format!("{path}&cursor={next}"));
        }
    }

    fn read(&self, path: &str, tag: &str) -> Value {
        let answer = self.reader.send(&get(path));
        self.check(&answer, 200, "");
        assert_eq!(etag(&answer), tag, "{path} {:#?}", self.history);
        answer.json()
    }

    fn create(&mut self, path: &str, body: &Value) -> Answer {
        let mut create = post(path, body.to_string());
        let name = format!("\"{}\"", self.name());
        let is_named = self.random.bool();
        if is_named {
            create = create.header("Idempotency-Key", &name);
        }
        let answer = self.admin.create(&create);
        self.note(&create, &answer);
        if is_named && answer.status == 201 {
            self.check_replay(&create, &answer);
        }
        answer
    }

    /// The same again, wherever it is sent, makes nothing, and shows all but the key.
    fn check_replay(&self, create: &Request, first: &Answer) {
        let again = self.reader.send(create);
        self.check(&again, 201, "");
        let (mut expected, found) = (first.json(), again.json());
        expected["replayed"] = json!(true);
        if expected.get("key").is_some() {
            expected["key"] = Value::Null;
        }
        assert_eq!(found, expected, "{:#?}", self.history);
    }

    fn send(&mut self, request: &Request) -> Answer {
        let answer = self.admin.send(request);
        self.note(request, &answer);
        answer
    }

    fn note(&mut self, request: &Request, answer: &Answer) {
        let body = String::from_utf8_lossy(&request.body);
        let Request { method, target, .. } = request;
        self.history.push(format!("{method} {target} {body} -> {}", answer.status));
    }

    #[track_caller]
    fn check(&self, answer: &Answer, status: u16, code: &str) {
        let fits = answer.status == status && (code.is_empty() || answer.code() == code);
        assert!(fits, "not {status} {code}: {answer:?} {} {:#?}", answer.text(), self.history);
    }

    fn are_granted(&self, app: usize, scopes: &[&str]) -> bool {
        scopes.iter().all(|scope| covers(&self.model.apps[app].granted, scope))
    }

    fn any_key(&mut self) -> Option<usize> {
        let count = self.model.keys.len();
        (count > 0).then(|| self.random.usize(..count))
    }

    fn scopes(&mut self, least: usize) -> Vec<&'static str> {
        let mut scopes: Vec<_> = SCOPES.into_iter().filter(|_| self.random.bool()).collect();
        while scopes.len() < least {
            scopes.push(SCOPES[self.random.usize(..SCOPES.len())]);
        }
        scopes
    }

    fn name(&mut self) -> String {
        self.names += 1;
        format!("name {}-{}", self.names, self.random.u64(..))
    }
}

#[track_caller]
fn assert_has(found: &Value, known: &Value, history: &[String]) {
    for (member, value) in known.as_object().unwrap() {
        assert_eq!(found[member], *value, "`{member}` of {found} {history:#?}");
    }
}

fn patch_request(path: &str, body: &Value) -> Request {
    Request { body: body.to_string().into(), ..request("PATCH", path) }
}

fn etag(answer: &Answer) -> String {
    let etag = answer.header("etag").unwrap_or_else(|| panic!("no ETag: {answer:?}"));
    etag.to_owned()
}

fn id(answer: &Answer) -> String {
    text(answer, "id")
}

fn text(answer: &Answer, member: &str) -> String {
    answer.json()[member].as_str().unwrap_or_else(|| panic!("no `{member}`")).to_owned()
}
