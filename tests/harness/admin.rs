//! The operator's side: accounts, apps and keys through the admin API.

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::{Value, json};

use super::answer::Answer;
use super::h1::{Broken, Connection};
use super::leaks::Leaks;
use super::request::{Request, get, post, request};
use super::wait::eventually;

#[derive(Clone)]
pub struct Admin {
    address: SocketAddr,
    token: String,
    leaks: Arc<Leaks>,
}

/// A key that was just made.
#[derive(Clone, Debug)]
pub struct Key {
    pub id: String,
    pub app: String,
    pub account: String,
    /// The secret.
    pub key: String,
}

/// What a key and its app are to be.
#[derive(Clone, Debug)]
pub struct KeySpec {
    pub environment: String,
    /// Members of the app beside its name, environment and grant.
    pub app: Value,
    /// Members of the key.
    pub key: Value,
}

impl KeySpec {
    /// A live secret key with these scopes, which its app is granted too.
    pub fn new(scopes: &[&str]) -> Self {
        Self {
            environment: "live".into(),
            app: json!({ "granted_scopes": scopes }),
            key: json!({ "kind": "sk", "scopes": scopes }),
        }
    }

    pub fn environment(self, environment: &str) -> Self {
        Self { environment: environment.into(), ..self }
    }

    /// Sets a member of the app.
    pub fn app(mut self, name: &str, value: Value) -> Self {
        self.app[name] = value;
        self
    }

    /// Sets a member of the key.
    pub fn with(mut self, name: &str, value: Value) -> Self {
        self.key[name] = value;
        self
    }
}

impl Admin {
    pub(super) fn new(address: SocketAddr, token: String, leaks: Arc<Leaks>) -> Self {
        Self { address, token, leaks }
    }

    /// Makes an account, an app and a key.
    #[track_caller]
    pub fn key(&self, spec: &KeySpec) -> Key {
        let account = self.account();
        let app = self.app(&account, spec);
        self.key_of(&account, &app, spec)
    }

    #[track_caller]
    pub fn account(&self) -> String {
        text(&self.created("/v1/accounts", &json!({ "name": "Acme" })), "id")
    }

    #[track_caller]
    pub fn app(&self, account: &str, spec: &KeySpec) -> String {
        let mut app = json!({ "name": "app", "environment": spec.environment });
        merge(&mut app, &spec.app);
        text(&self.created(&format!("/v1/accounts/{account}/apps"), &app), "id")
    }

    #[track_caller]
    pub fn key_of(&self, account: &str, app: &str, spec: &KeySpec) -> Key {
        let made = self.created(&format!("/v1/apps/{app}/keys"), &spec.key);
        self.remember(account, app, &made)
    }

    #[track_caller]
    pub fn revoke(&self, key: &Key) {
        let path = format!("/v1/keys/{}/revoke", key.id);
        self.expect(200, &post(&path, json!({ "reason": "test" }).to_string()));
    }

    #[track_caller]
    pub fn patch(&self, path: &str, change: &Value) -> Value {
        let patch = Request { body: change.to_string().into(), ..request("PATCH", path) };
        self.expect(200, &patch)
    }

    #[track_caller]
    pub fn read(&self, path: &str) -> Value {
        self.expect(200, &get(path))
    }

    /// Sends a request with the admin token. What comes back must hold no secret.
    pub fn try_send(&self, request: &Request) -> Result<Answer, Broken> {
        let answer = self.exchange(request)?;
        let text = format!("{:?}\n{}", answer.headers, answer.text());
        self.leaks.capture("an admin answer", text.as_bytes());
        Ok(answer)
    }

    /// Sends a request whose answer may show a secret, this once. It is remembered, to be searched for
    /// everywhere else.
    #[track_caller]
    pub fn create(&self, request: &Request) -> Answer {
        let answer = self.exchange(request);
        let answer = answer.unwrap_or_else(|broken| panic!("{request:?}: {broken:?}"));
        if answer.status == 201 {
            let made = answer.json();
            made["key"].as_str().inspect(|key| self.leaks.key(key));
            made["token"].as_str().inspect(|token| self.leaks.token("an admin token", token));
        }
        answer
    }

    /// The same API for the holder of another token.
    pub fn with_token(&self, token: &str) -> Self {
        Self { token: token.to_owned(), ..self.clone() }
    }

    /// The token itself.
    pub fn bearer(&self) -> &str {
        &self.token
    }

    /// Makes an admin token. Returns its id and the API for its holder.
    #[track_caller]
    pub fn token(&self, body: &Value) -> (String, Self) {
        let answer = self.create(&post("/v1/admin-tokens", body.to_string()));
        assert_eq!(answer.status, 201, "{}", answer.text());
        let made = answer.json();
        (text(&made, "id"), self.with_token(&text(&made, "token")))
    }

    #[track_caller]
    pub fn send(&self, request: &Request) -> Answer {
        self.try_send(request).unwrap_or_else(|broken| panic!("{request:?}: {broken:?}"))
    }

    /// Tries to make an account and an app, for one who copes with the gateway's death.
    pub fn try_app(&self, spec: &KeySpec) -> Option<(String, String)> {
        let id = |path: &str, body: Value| {
            let answer = self.exchange(&post(path, body.to_string())).ok()?;
            assert_eq!(answer.status, 201, "{}", answer.text());
            Some(text(&answer.json(), "id"))
        };
        let account = id("/v1/accounts", json!({ "name": "Acme" }))?;
        let mut app = json!({ "name": "app", "environment": spec.environment });
        merge(&mut app, &spec.app);
        let app = id(&format!("/v1/accounts/{account}/apps"), app)?;
        Some((account, app))
    }

    /// Tries to make a key, for one who copes with the gateway's death.
    pub fn try_key_of(&self, account: &str, app: &str, spec: &KeySpec) -> Option<Key> {
        let path = format!("/v1/apps/{app}/keys");
        let answer = self.exchange(&post(&path, spec.key.to_string())).ok()?;
        assert_eq!(answer.status, 201, "{}", answer.text());
        Some(self.remember(account, app, &answer.json()))
    }

    /// A key of an account and an app of its own, as soon as the store takes changes: a replica that
    /// has just been given everything takes a moment to say so.
    pub fn first_key(&self, spec: &KeySpec) -> Key {
        let account = self.account_when_possible();
        let app = self.app_when_possible(&account, spec);
        self.key_when_possible(&account, &app, spec)
    }

    /// Makes an account as soon as the store takes it.
    pub fn account_when_possible(&self) -> String {
        text(&self.created_when_possible("/v1/accounts", &json!({ "name": "Acme" })), "id")
    }

    /// Makes an app as soon as the store takes it.
    pub fn app_when_possible(&self, account: &str, spec: &KeySpec) -> String {
        let mut app = json!({ "name": "app", "environment": spec.environment });
        merge(&mut app, &spec.app);
        text(&self.created_when_possible(&format!("/v1/accounts/{account}/apps"), &app), "id")
    }

    /// Makes a key as soon as the store takes it.
    pub fn key_when_possible(&self, account: &str, app: &str, spec: &KeySpec) -> Key {
        let made = self.created_when_possible(&format!("/v1/apps/{app}/keys"), &spec.key);
        self.remember(account, app, &made)
    }

    /// Whether a revocation was acknowledged. If not, it may have happened or not.
    pub fn try_revoke(&self, key: &Key) -> bool {
        let path = format!("/v1/keys/{}/revoke", key.id);
        let answer = self.try_send(&post(&path, json!({ "reason": "test" }).to_string()));
        answer.is_ok_and(|answer| {
            assert!(matches!(answer.status, 200 | 503), "{}", answer.text());
            answer.status == 200
        })
    }

    fn remember(&self, account: &str, app: &str, made: &Value) -> Key {
        let key = text(made, "key");
        self.leaks.key(&key);
        Key { id: text(made, "id"), app: app.into(), account: account.into(), key }
    }

    #[track_caller]
    fn expect(&self, status: u16, request: &Request) -> Value {
        let answer = self.send(request);
        assert_eq!(answer.status, status, "{request:?}: {}", answer.text());
        answer.json()
    }

    /// The answers to creates are the one place where a key is shown, so they are not searched.
    #[track_caller]
    fn created(&self, path: &str, body: &Value) -> Value {
        let answer = self.exchange(&post(path, body.to_string()));
        let answer = answer.unwrap_or_else(|broken| panic!("POST {path}: {broken:?}"));
        assert_eq!(answer.status, 201, "POST {path} {body}: {}", answer.text());
        answer.json()
    }

    fn created_when_possible(&self, path: &str, body: &Value) -> Value {
        let create = post(path, body.to_string());
        eventually("a store that takes changes", || {
            let answer = self.exchange(&create).ok()?;
            assert!(matches!(answer.status, 201 | 503), "{}", answer.text());
            (answer.status == 201).then(|| answer.json())
        })
    }

    fn exchange(&self, request: &Request) -> Result<Answer, Broken> {
        let mut request = request.clone().host(&self.address.to_string()).bearer(&self.token);
        if !request.body.is_empty() {
            request = request.header("Content-Type", "application/json");
        }
        let connection = Connection::try_open(self.address);
        connection.map_err(|_| Broken::Closed)?.exchange(&request)
    }
}

fn text(value: &Value, member: &str) -> String {
    value[member].as_str().unwrap_or_else(|| panic!("no `{member}` in the answer")).to_owned()
}

fn merge(into: &mut Value, from: &Value) {
    for (name, value) in from.as_object().into_iter().flatten() {
        into[name] = value.clone();
    }
}
