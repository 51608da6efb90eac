//! What accounts, apps and keys are, said as plainly as can be. Shares no line with the product.

use serde_json::{Value, json};

use super::KEYS_MAX_LIVE;

pub(super) struct Account {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) suspended: bool,
    pub(super) etag: String,
}

pub(super) struct App {
    pub(super) id: String,
    pub(super) account: usize,
    pub(super) name: String,
    pub(super) granted: Vec<&'static str>,
    pub(super) disabled: bool,
    pub(super) etag: String,
}

pub(super) struct Key {
    pub(super) id: String,
    pub(super) secret: String,
    pub(super) app: usize,
    pub(super) name: Value,
    pub(super) scopes: Vec<&'static str>,
    pub(super) state: State,
    /// It ends some day.
    pub(super) ends: bool,
    /// Its overlap is over.
    pub(super) is_over: bool,
    pub(super) successor: Option<String>,
    pub(super) predecessor: Option<String>,
    pub(super) etag: String,
    /// What the audit log holds of it.
    pub(super) log: Vec<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Active,
    Disabled,
    Revoked,
}

#[derive(Default)]
pub(super) struct Model {
    pub(super) accounts: Vec<Account>,
    pub(super) apps: Vec<App>,
    pub(super) keys: Vec<Key>,
}

impl Key {
    pub(super) fn status(&self) -> &'static str {
        match self.state {
            State::Revoked => "revoked",
            State::Disabled => "disabled",
            State::Active if self.is_over => "expired",
            State::Active => "active",
        }
    }

    /// Whether it counts against its app's cap.
    fn counts(&self) -> bool {
        self.state != State::Revoked && !self.is_over && self.successor.is_none()
    }
}

impl Model {
    pub(super) fn is_full(&self, app: usize) -> bool {
        self.keys.iter().filter(|key| key.app == app && key.counts()).count() >= KEYS_MAX_LIVE
    }

    /// What a request that needs this scope is told.
    pub(super) fn decides(&self, key: &Key, needed: &str) -> (u16, &'static str) {
        let app = &self.apps[key.app];
        let is_out =
            key.state != State::Active || app.disabled || self.accounts[app.account].suspended;
        let may = covers(&key.scopes, needed) && covers(&app.granted, needed);
        match (is_out, key.is_over, may) {
            (true, ..) => (401, "api_key_invalid"),
            (_, true, _) => (401, "api_key_expired"),
            (_, _, false) => (403, "permission_denied"),
            (_, _, true) => (200, ""),
        }
    }

    /// Of a key's record, what the model knows.
    pub(super) fn shown(&self, key: &Key) -> Value {
        let app = &self.apps[key.app];
        json!({
            "id": key.id, "app_id": app.id, "account_id": self.accounts[app.account].id,
            "name": key.name, "scopes": key.scopes, "status": key.status(),
            "rotated_to": key.successor, "rotated_from": key.predecessor,
        })
    }
}

/// `admin:x` stands for `read:x` and `write:x` too, `read:*` for all of `read`.
pub(super) fn covers(held: &[&str], needed: &str) -> bool {
    let (verb, what) = needed.split_once(':').unwrap();
    held.iter().any(|scope| {
        let (held_verb, held_what) = scope.split_once(':').unwrap();
        let verb_fits = held_verb == verb || (held_verb == "admin" && verb != "admin");
        let what_fits = held_what == what || held_what == "*";
        verb_fits && what_fits
    })
}
