//! What may be done to accounts.

use keygate_core::AccountId;
use keygate_store::keys::{KeyStore, Page, Write};
use keygate_store::records::{
    Account, AccountStatus, AuditEntry, Metadata, Role, Version, changes,
};

use super::idempotency::Making;
use super::{Actor, Asked, Created, Expected, Made, Registry, RegistryError, random};

/// An account to be made.
#[derive(Clone, Debug)]
pub struct NewAccount {
    pub name: String,
    pub owner: Option<String>,
    pub purpose: Option<String>,
    pub metadata: Metadata,
}

/// What to change about an account; the rest stays. `Some(None)` takes something away.
#[derive(Clone, Debug, Default)]
pub struct AccountChange {
    pub name: Option<String>,
    pub owner: Option<Option<String>>,
    pub purpose: Option<Option<String>>,
    pub status: Option<AccountStatus>,
    pub metadata: Option<Metadata>,
}

impl<S: KeyStore> Registry<S> {
    /// # Errors
    /// [`RegistryError::Forbidden`], [`RegistryError::RequestReused`], [`RegistryError::NotDurable`],
    /// [`RegistryError::Store`] and [`RegistryError::NoRandomness`].
    pub async fn create_account(
        &self,
        by: &Actor,
        new: NewAccount,
        asked: Option<&Asked>,
    ) -> Result<Created<Account>, RegistryError> {
        by.require_admin()?;
        let now = self.now();
        let account = Account {
            id: AccountId::new(now, random()?),
            name: new.name,
            owner: new.owner,
            purpose: new.purpose,
            status: AccountStatus::Active,
            metadata: new.metadata,
            created_at: now,
            updated_at: now,
            version: Version::default(),
        };
        let audit = by.entry(now, "account.create", account.id.to_string());
        let making = self.make(Write::CreateAccount(account.clone()), audit, asked).await;
        match making {
            Ok(Making::Now) => Ok(Created { record: account, replayed: false }),
            Ok(Making::Before(record)) => Ok(Created { record, replayed: true }),
            Err(error) => {
                let made = |account: Account| Made::Account(account.id);
                Err(self.naming(error, asked, account, made).await)
            }
        }
    }

    /// # Errors
    /// [`RegistryError::NotFound`] and [`RegistryError::Store`].
    pub async fn account(&self, by: &Actor, id: AccountId) -> Result<Account, RegistryError> {
        const MISSING: RegistryError = RegistryError::NotFound("the account");
        if !by.sees(id) {
            return Err(MISSING);
        }
        self.store().account(id).await?.ok_or(MISSING)
    }

    /// Those that the actor sees.
    ///
    /// # Errors
    /// [`RegistryError::Store`].
    pub async fn accounts(
        &self,
        by: &Actor,
        page: Page<AccountId>,
    ) -> Result<Vec<Account>, RegistryError> {
        let mut named = match &by.role {
            Role::Admin | Role::Viewer => return Ok(self.store().accounts(page).await?),
            Role::Issuer(named) => named.clone(),
        };
        named.sort_unstable();
        named.dedup();
        let mut accounts = Vec::new();
        for id in named.into_iter().filter(|id| page.after.is_none_or(|after| after < *id)) {
            if accounts.len() == page.limit {
                break;
            }
            accounts.extend(self.store().account(id).await?);
        }
        Ok(accounts)
    }

    /// Changes an account. Writes nothing if it is so already.
    ///
    /// # Errors
    /// [`RegistryError::Forbidden`], [`RegistryError::NotFound`],
    /// [`RegistryError::PreconditionFailed`], [`RegistryError::Conflict`],
    /// [`RegistryError::NotDurable`] and [`RegistryError::Store`].
    pub async fn change_account(
        &self,
        by: &Actor,
        id: AccountId,
        change: &AccountChange,
        expected: &Expected,
    ) -> Result<Account, RegistryError> {
        by.require_admin()?;
        expected.carry_out(|| self.try_change_account(by, id, change, expected)).await
    }

    async fn try_change_account(
        &self,
        by: &Actor,
        id: AccountId,
        change: &AccountChange,
        expected: &Expected,
    ) -> Result<Account, RegistryError> {
        let before = self.account(by, id).await?;
        let mut after = before.clone();
        let AccountChange { name, owner, purpose, status, metadata } = change.clone();
        after.name = name.unwrap_or(after.name);
        after.owner = owner.unwrap_or(after.owner);
        after.purpose = purpose.unwrap_or(after.purpose);
        after.status = status.unwrap_or(after.status);
        after.metadata = metadata.unwrap_or(after.metadata);
        // The same call again, after it may have been lost, finds it at another version.
        if after == before {
            self.settle().await?;
            return Ok(before);
        }
        expected.check(before.version)?;
        after.updated_at = self.now();
        let action = match (before.status, after.status) {
            (AccountStatus::Active, AccountStatus::Suspended) => "account.suspend",
            (AccountStatus::Suspended, AccountStatus::Active) => "account.activate",
            (AccountStatus::Active, AccountStatus::Active)
            | (AccountStatus::Suspended, AccountStatus::Suspended) => "account.update",
        };
        let audit = AuditEntry {
            changes: changes(Some(&before), &after),
            ..by.entry(after.updated_at, action, id.to_string())
        };
        self.commit(Write::UpdateAccount(after.clone()), audit).await?;
        after.version = after.version.next();
        Ok(after)
    }
}
