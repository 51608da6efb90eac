//! Walks the keys that an actor sees, account by account and app by app, and says where it is, so that
//! a later walk can go on there.

use std::collections::VecDeque;

use keygate_core::{AccountId, AppId, KeyId};
use keygate_store::keys::{KeyStore, Page};
use keygate_store::records::{App, Key};

use super::{Actor, Registry, RegistryError};

/// What is read at once of accounts and apps: those that were read and not walked are read again.
const PARENTS_PAGE: usize = 50;
const KEYS_PAGE: usize = 200;

/// Which keys are walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Within {
    Everything,
    Account(AccountId),
    App(AppId),
}

/// Where a walk is: what it has looked at last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub account: AccountId,
    pub app: Option<AppId>,
    pub key: Option<KeyId>,
}

/// A walk that is under way.
pub(super) struct Walk<'r, S: KeyStore> {
    registry: &'r Registry<S>,
    by: &'r Actor,
    within: Within,
    place: Option<Place>,
    stage: Stage,
    /// Read, and not walked yet.
    accounts: VecDeque<AccountId>,
    apps: VecDeque<App>,
}

enum Stage {
    /// Goes on after this account.
    Accounts(Option<AccountId>),
    /// In this account, after this app.
    Apps(AccountId, Option<AppId>),
    /// In this app, after this key.
    Keys(Box<App>, Option<KeyId>),
    Over,
}

/// One page of a walk.
pub(super) struct Step {
    /// Keys, with their app.
    pub(super) keys: Option<(Box<App>, Vec<Key>)>,
    /// How many records were read, and at least 1.
    pub(super) cost: usize,
}

impl<'r, S: KeyStore> Walk<'r, S> {
    /// # Errors
    /// [`RegistryError::Store`].
    pub(super) async fn start(
        registry: &'r Registry<S>,
        by: &'r Actor,
        within: Within,
        after: Option<Place>,
    ) -> Result<Self, RegistryError> {
        let after = after.filter(|place| by.sees(place.account));
        let stage = match (within, after) {
            (Within::App(app), place) => match registry.app(by, app).await {
                Ok(app) => Stage::Keys(Box::new(app), place.and_then(|place| place.key)),
                Err(RegistryError::NotFound(_)) => Stage::Over,
                Err(error) => return Err(error),
            },
            (Within::Account(_) | Within::Everything, Some(place)) => {
                Self::resumed(registry, place).await?
            }
            (Within::Account(account), None) if by.sees(account) => Stage::Apps(account, None),
            (Within::Account(_), None) => Stage::Over,
            (Within::Everything, None) => Stage::Accounts(None),
        };
        let (accounts, apps) = (VecDeque::new(), VecDeque::new());
        Ok(Self { registry, by, within, place: after, stage, accounts, apps })
    }

    async fn resumed(registry: &Registry<S>, place: Place) -> Result<Stage, RegistryError> {
        let Some(id) = place.app else { return Ok(Stage::Apps(place.account, None)) };
        Ok(match registry.store().app(id).await? {
            Some(app) if app.account == place.account => Stage::Keys(Box::new(app), place.key),
            Some(_) | None => Stage::Apps(place.account, Some(id)),
        })
    }

    /// Where the walk is; nothing if it has not looked at anything.
    pub(super) fn place(&self) -> Option<Place> {
        self.place
    }

    /// Reads on, at most `room` records. Nothing once all was walked.
    pub(super) async fn step(&mut self, room: usize) -> Result<Option<Step>, RegistryError> {
        match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Accounts(after) => self.next_account(after, room).await,
            Stage::Apps(account, after) => self.next_app(account, after, room).await,
            Stage::Keys(app, after) => self.next_keys(app, after, room).await.map(Some),
            Stage::Over => Ok(None),
        }
    }

    async fn next_account(
        &mut self,
        after: Option<AccountId>,
        room: usize,
    ) -> Result<Option<Step>, RegistryError> {
        let mut cost = 0;
        if self.accounts.is_empty() {
            let page = Page { after, limit: PARENTS_PAGE.min(room) };
            let accounts = self.registry.accounts(self.by, page).await?;
            cost = accounts.len();
            self.accounts.extend(accounts.into_iter().map(|account| account.id));
        }
        let Some(account) = self.accounts.pop_front() else { return Ok(None) };
        self.place = Some(Place { account, app: None, key: None });
        self.stage = Stage::Apps(account, None);
        Ok(Some(Step { keys: None, cost }))
    }

    async fn next_app(
        &mut self,
        account: AccountId,
        after: Option<AppId>,
        room: usize,
    ) -> Result<Option<Step>, RegistryError> {
        let mut cost = 0;
        if self.apps.is_empty() {
            let page = Page { after, limit: PARENTS_PAGE.min(room) };
            let apps = self.registry.store().apps(account, page).await?;
            cost = apps.len().max(1);
            self.apps.extend(apps);
        }
        let Some(app) = self.apps.pop_front() else {
            self.stage = match self.within {
                Within::Everything => Stage::Accounts(Some(account)),
                Within::Account(_) | Within::App(_) => Stage::Over,
            };
            return Ok(Some(Step { keys: None, cost }));
        };
        self.place = Some(Place { account, app: Some(app.id), key: None });
        self.stage = Stage::Keys(Box::new(app), None);
        Ok(Some(Step { keys: None, cost }))
    }

    async fn next_keys(
        &mut self,
        app: Box<App>,
        after: Option<KeyId>,
        room: usize,
    ) -> Result<Step, RegistryError> {
        let limit = KEYS_PAGE.min(room);
        let keys = self.registry.store().keys(app.id, Page { after, limit }).await?;
        let last = keys.last().map(|key| key.id).or(after);
        self.place = Some(Place { account: app.account, app: Some(app.id), key: last });
        self.stage = match self.within {
            _ if keys.len() == limit => Stage::Keys(app.clone(), last),
            Within::App(_) => Stage::Over,
            Within::Everything | Within::Account(_) => Stage::Apps(app.account, Some(app.id)),
        };
        Ok(Step { cost: keys.len().max(1), keys: Some((app, keys)) })
    }
}
