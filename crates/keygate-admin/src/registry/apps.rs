//! What may be done to apps.

use std::time::Duration;

use ipnet::IpNet;
use keygate_core::{AccountId, AppId, Environment, Scope};
use keygate_store::keys::{KeyStore, Page, Write};
use keygate_store::records::{App, AppStatus, AuditEntry, Metadata, Version, changes};

use super::idempotency::Making;
use super::{Actor, Asked, Created, Expected, Made, Registry, RegistryError, random};

/// An app to be made.
#[derive(Clone, Debug)]
pub struct NewApp {
    pub name: String,
    pub owner: Option<String>,
    pub purpose: Option<String>,
    pub environment: Environment,
    pub granted_scopes: Vec<Scope>,
    pub tier: Option<String>,
    /// How old its keys may get, in whole seconds.
    pub max_age: Option<Duration>,
    pub allowed_cidrs: Vec<IpNet>,
    pub metadata: Metadata,
}

/// What to change about an app; the rest stays. `Some(None)` takes something away. Its environment
/// never changes: its keys carry it.
#[derive(Clone, Debug, Default)]
pub struct AppChange {
    pub name: Option<String>,
    pub owner: Option<Option<String>>,
    pub purpose: Option<Option<String>>,
    pub granted_scopes: Option<Vec<Scope>>,
    pub tier: Option<Option<String>>,
    pub max_age: Option<Option<Duration>>,
    pub allowed_cidrs: Option<Vec<IpNet>>,
    pub status: Option<AppStatus>,
    pub metadata: Option<Metadata>,
}

const MISSING: RegistryError = RegistryError::NotFound("the app");

impl<S: KeyStore> Registry<S> {
    /// # Errors
    /// [`RegistryError::Forbidden`], [`RegistryError::NotFound`] (the account),
    /// [`RegistryError::UnknownTier`], [`RegistryError::RequestReused`],
    /// [`RegistryError::NotDurable`], [`RegistryError::Store`] and [`RegistryError::NoRandomness`].
    pub async fn create_app(
        &self,
        by: &Actor,
        account: AccountId,
        new: NewApp,
        asked: Option<&Asked>,
    ) -> Result<Created<App>, RegistryError> {
        by.require_admin()?;
        let outcome = self.try_create_app(by, account, new, asked).await;
        let replayed = |record| Created { record, replayed: true };
        self.or_before(asked, outcome, replayed).await
    }

    async fn try_create_app(
        &self,
        by: &Actor,
        account: AccountId,
        new: NewApp,
        asked: Option<&Asked>,
    ) -> Result<Created<App>, RegistryError> {
        self.check_tier(new.tier.as_deref())?;
        let now = self.now();
        let app = App {
            id: AppId::new(now, random()?),
            account,
            name: new.name,
            owner: new.owner,
            purpose: new.purpose,
            environment: new.environment,
            granted_scopes: new.granted_scopes,
            allowed_cidrs: new.allowed_cidrs,
            tier: new.tier,
            max_age: new.max_age,
            status: AppStatus::Active,
            metadata: new.metadata,
            created_at: now,
            updated_at: now,
            version: Version::default(),
        };
        let audit = by.entry(now, "app.create", app.id.to_string());
        let making = self.make(Write::CreateApp(app.clone()), audit, asked).await;
        match making {
            Ok(Making::Now) => Ok(Created { record: app, replayed: false }),
            Ok(Making::Before(record)) => Ok(Created { record, replayed: true }),
            Err(error) => {
                let made = |app: App| Made::App(app.id);
                Err(self.naming(error, asked, app, made).await)
            }
        }
    }

    /// # Errors
    /// [`RegistryError::NotFound`] and [`RegistryError::Store`].
    pub async fn app(&self, by: &Actor, id: AppId) -> Result<App, RegistryError> {
        let app = self.app_of_any(id).await?;
        if by.sees(app.account) { Ok(app) } else { Err(MISSING) }
    }

    /// Whoever asks.
    pub(super) async fn app_of_any(&self, id: AppId) -> Result<App, RegistryError> {
        self.store().app(id).await?.ok_or(MISSING)
    }

    /// # Errors
    /// [`RegistryError::NotFound`] (the account) and [`RegistryError::Store`].
    pub async fn apps(
        &self,
        by: &Actor,
        account: AccountId,
        page: Page<AppId>,
    ) -> Result<Vec<App>, RegistryError> {
        self.account(by, account).await?;
        Ok(self.store().apps(account, page).await?)
    }

    /// Changes an app. Writes nothing if it is so already. Scopes that are no longer granted are
    /// lost to its keys at once, even where the keys name them.
    ///
    /// # Errors
    /// [`RegistryError::Forbidden`], [`RegistryError::NotFound`], [`RegistryError::UnknownTier`],
    /// [`RegistryError::PreconditionFailed`], [`RegistryError::Conflict`],
    /// [`RegistryError::NotDurable`] and [`RegistryError::Store`].
    pub async fn change_app(
        &self,
        by: &Actor,
        id: AppId,
        change: &AppChange,
        expected: &Expected,
    ) -> Result<App, RegistryError> {
        by.require_admin()?;
        if let Some(tier) = &change.tier {
            self.check_tier(tier.as_deref())?;
        }
        expected.carry_out(|| self.try_change_app(by, id, change, expected)).await
    }

    async fn try_change_app(
        &self,
        by: &Actor,
        id: AppId,
        change: &AppChange,
        expected: &Expected,
    ) -> Result<App, RegistryError> {
        let before = self.app_of_any(id).await?;
        let mut after = changed(&before, change);
        // The same call again, after it may have been lost, finds it at another version.
        if after == before {
            self.settle().await?;
            return Ok(before);
        }
        expected.check(before.version)?;
        after.updated_at = self.now();
        let action = match (before.status, after.status) {
            (AppStatus::Active, AppStatus::Disabled) => "app.disable",
            (AppStatus::Disabled, AppStatus::Active) => "app.enable",
            (AppStatus::Active, AppStatus::Active) | (AppStatus::Disabled, AppStatus::Disabled) => {
                "app.update"
            }
        };
        let audit = AuditEntry {
            changes: changes(Some(&before), &after),
            ..by.entry(after.updated_at, action, id.to_string())
        };
        self.commit(Write::UpdateApp(after.clone()), audit).await?;
        after.version = after.version.next();
        Ok(after)
    }
}

fn changed(before: &App, change: &AppChange) -> App {
    let mut app = before.clone();
    let AppChange {
        name,
        owner,
        purpose,
        granted_scopes,
        tier,
        max_age,
        allowed_cidrs,
        status,
        metadata,
    } = change.clone();
    app.name = name.unwrap_or(app.name);
    app.owner = owner.unwrap_or(app.owner);
    app.purpose = purpose.unwrap_or(app.purpose);
    app.granted_scopes = granted_scopes.unwrap_or(app.granted_scopes);
    app.tier = tier.unwrap_or(app.tier);
    app.max_age = max_age.unwrap_or(app.max_age);
    app.allowed_cidrs = allowed_cidrs.unwrap_or(app.allowed_cidrs);
    app.status = status.unwrap_or(app.status);
    app.metadata = metadata.unwrap_or(app.metadata);
    app
}
