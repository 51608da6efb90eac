//! What may be done to accounts.

use keygate_core::AccountId;
use keygate_store::keys::{KeyStore, Page, Write};
use keygate_store::records::{Account, AccountStatus, Metadata, Version};

use super::{Actor, Made, Registry, RegistryError, random, unopposed};

/// An account to be made.
#[derive(Clone, Debug)]
pub struct NewAccount {
    pub name: String,
    pub metadata: Metadata,
}

/// What to change about an account; the rest stays.
#[derive(Clone, Debug, Default)]
pub struct AccountChange {
    pub name: Option<String>,
    pub status: Option<AccountStatus>,
    pub metadata: Option<Metadata>,
}

impl<S: KeyStore> Registry<S> {
    /// # Errors
    /// [`RegistryError::NotDurable`], [`RegistryError::Store`] and [`RegistryError::NoRandomness`].
    pub async fn create_account(
        &self,
        by: &Actor,
        new: NewAccount,
    ) -> Result<Account, RegistryError> {
        let now = self.now();
        let account = Account {
            id: AccountId::new(now, random()?),
            name: new.name,
            owner: None,
            purpose: None,
            status: AccountStatus::Active,
            metadata: new.metadata,
            created_at: now,
            updated_at: now,
            version: Version::default(),
        };
        let audit = by.entry(now, "account.create", account.id.to_string());
        let made = self.commit(Write::CreateAccount(account.clone()), audit).await;
        made.map_err(|error| error.of(Made::Account(account.id)))?;
        Ok(account)
    }

    /// # Errors
    /// [`RegistryError::NotFound`] and [`RegistryError::Store`].
    pub async fn account(&self, id: AccountId) -> Result<Account, RegistryError> {
        self.store().account(id).await?.ok_or(RegistryError::NotFound("the account"))
    }

    /// # Errors
    /// [`RegistryError::Store`].
    pub async fn accounts(&self, page: Page<AccountId>) -> Result<Vec<Account>, RegistryError> {
        Ok(self.store().accounts(page).await?)
    }

    /// Changes an account. Writes nothing if it is so already.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`], [`RegistryError::Conflict`], [`RegistryError::NotDurable`] and
    /// [`RegistryError::Store`].
    pub async fn change_account(
        &self,
        by: &Actor,
        id: AccountId,
        change: &AccountChange,
    ) -> Result<Account, RegistryError> {
        unopposed(|| self.try_change_account(by, id, change)).await
    }

    async fn try_change_account(
        &self,
        by: &Actor,
        id: AccountId,
        change: &AccountChange,
    ) -> Result<Account, RegistryError> {
        let before = self.account(id).await?;
        let mut after = before.clone();
        let AccountChange { name, status, metadata } = change.clone();
        after.name = name.unwrap_or(after.name);
        after.status = status.unwrap_or(after.status);
        after.metadata = metadata.unwrap_or(after.metadata);
        if after == before {
            self.settle().await?;
            return Ok(before);
        }
        after.updated_at = self.now();
        let action = match (before.status, after.status) {
            (AccountStatus::Active, AccountStatus::Suspended) => "account.suspend",
            (AccountStatus::Suspended, AccountStatus::Active) => "account.activate",
            (AccountStatus::Active, AccountStatus::Active)
            | (AccountStatus::Suspended, AccountStatus::Suspended) => "account.update",
        };
        let audit = by.entry(after.updated_at, action, id.to_string());
        self.commit(Write::UpdateAccount(after.clone()), audit).await?;
        Ok(after)
    }
}
