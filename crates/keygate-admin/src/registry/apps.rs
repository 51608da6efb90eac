//! What may be done to apps.

use ipnet::IpNet;
use keygate_core::{AccountId, AppId, Environment, Scope};
use keygate_store::keys::{KeyStore, Page, Write};
use keygate_store::records::{App, AppStatus, Metadata, Version};

use super::{Actor, Made, Registry, RegistryError, random, unopposed};

/// An app to be made.
#[derive(Clone, Debug)]
pub struct NewApp {
    pub name: String,
    pub environment: Environment,
    pub granted_scopes: Vec<Scope>,
    pub tier: Option<String>,
    pub allowed_cidrs: Vec<IpNet>,
    pub metadata: Metadata,
}

/// What to change about an app; the rest stays. Its environment never changes: its keys carry it.
#[derive(Clone, Debug, Default)]
pub struct AppChange {
    pub name: Option<String>,
    pub granted_scopes: Option<Vec<Scope>>,
    /// `Some(None)` takes the tier away.
    pub tier: Option<Option<String>>,
    pub allowed_cidrs: Option<Vec<IpNet>>,
    pub status: Option<AppStatus>,
    pub metadata: Option<Metadata>,
}

impl<S: KeyStore> Registry<S> {
    /// # Errors
    /// [`RegistryError::NotFound`] (the account), [`RegistryError::UnknownTier`],
    /// [`RegistryError::NotDurable`], [`RegistryError::Store`] and [`RegistryError::NoRandomness`].
    pub async fn create_app(
        &self,
        by: &Actor,
        account: AccountId,
        new: NewApp,
    ) -> Result<App, RegistryError> {
        self.check_tier(new.tier.as_deref())?;
        let now = self.now();
        let app = App {
            id: AppId::new(now, random()?),
            account,
            name: new.name,
            owner: None,
            purpose: None,
            environment: new.environment,
            granted_scopes: new.granted_scopes,
            allowed_cidrs: new.allowed_cidrs,
            tier: new.tier,
            max_age: None,
            status: AppStatus::Active,
            metadata: new.metadata,
            created_at: now,
            updated_at: now,
            version: Version::default(),
        };
        let audit = by.entry(now, "app.create", app.id.to_string());
        let made = self.commit(Write::CreateApp(app.clone()), audit).await;
        made.map_err(|error| error.of(Made::App(app.id)))?;
        Ok(app)
    }

    /// # Errors
    /// [`RegistryError::NotFound`] and [`RegistryError::Store`].
    pub async fn app(&self, id: AppId) -> Result<App, RegistryError> {
        self.store().app(id).await?.ok_or(RegistryError::NotFound("the app"))
    }

    /// # Errors
    /// [`RegistryError::NotFound`] (the account) and [`RegistryError::Store`].
    pub async fn apps(
        &self,
        account: AccountId,
        page: Page<AppId>,
    ) -> Result<Vec<App>, RegistryError> {
        self.account(account).await?;
        Ok(self.store().apps(account, page).await?)
    }

    /// Changes an app. Writes nothing if it is so already. Scopes that are no longer granted are
    /// lost to its keys at once, even where the keys name them.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`], [`RegistryError::UnknownTier`], [`RegistryError::Conflict`],
    /// [`RegistryError::NotDurable`] and [`RegistryError::Store`].
    pub async fn change_app(
        &self,
        by: &Actor,
        id: AppId,
        change: &AppChange,
    ) -> Result<App, RegistryError> {
        if let Some(tier) = &change.tier {
            self.check_tier(tier.as_deref())?;
        }
        unopposed(|| self.try_change_app(by, id, change)).await
    }

    async fn try_change_app(
        &self,
        by: &Actor,
        id: AppId,
        change: &AppChange,
    ) -> Result<App, RegistryError> {
        let before = self.app(id).await?;
        let mut after = before.clone();
        let AppChange { name, granted_scopes, tier, allowed_cidrs, status, metadata } =
            change.clone();
        after.name = name.unwrap_or(after.name);
        after.granted_scopes = granted_scopes.unwrap_or(after.granted_scopes);
        after.tier = tier.unwrap_or(after.tier);
        after.allowed_cidrs = allowed_cidrs.unwrap_or(after.allowed_cidrs);
        after.status = status.unwrap_or(after.status);
        after.metadata = metadata.unwrap_or(after.metadata);
        if after == before {
            self.settle().await?;
            return Ok(before);
        }
        after.updated_at = self.now();
        let action = match (before.status, after.status) {
            (AppStatus::Active, AppStatus::Disabled) => "app.disable",
            (AppStatus::Disabled, AppStatus::Active) => "app.enable",
            (AppStatus::Active, AppStatus::Active) | (AppStatus::Disabled, AppStatus::Disabled) => {
                "app.update"
            }
        };
        let audit = by.entry(after.updated_at, action, id.to_string());
        self.commit(Write::UpdateApp(after.clone()), audit).await?;
        Ok(after)
    }
}
