//! What each role may do. Every call of the registry that is for operators asks here first.

use keygate_core::AccountId;
use keygate_store::records::Role;

use super::{Actor, RegistryError};

impl Actor {
    /// # Errors
    /// [`RegistryError::Forbidden`] unless the actor may do everything.
    pub(super) fn require_admin(&self) -> Result<(), RegistryError> {
        match self.role {
            Role::Admin => Ok(()),
            Role::Viewer | Role::Issuer(_) => Err(RegistryError::Forbidden { needs: "admin" }),
        }
    }

    /// # Errors
    /// [`RegistryError::Forbidden`] unless the actor may look at everything.
    pub(super) fn require_viewer(&self) -> Result<(), RegistryError> {
        match self.role {
            Role::Admin | Role::Viewer => Ok(()),
            Role::Issuer(_) => Err(RegistryError::Forbidden { needs: "viewer" }),
        }
    }

    /// Whether the actor may look at this account, its apps and their keys. What one may not look at
    /// does not exist for one.
    pub(super) fn sees(&self, account: AccountId) -> bool {
        match &self.role {
            Role::Admin | Role::Viewer => true,
            Role::Issuer(accounts) => accounts.contains(&account),
        }
    }

    /// # Errors
    /// [`RegistryError::Forbidden`] unless the actor may make and change keys of this account.
    pub(super) fn require_issuer(&self, account: AccountId) -> Result<(), RegistryError> {
        match &self.role {
            Role::Admin => Ok(()),
            Role::Issuer(accounts) if accounts.contains(&account) => Ok(()),
            Role::Viewer | Role::Issuer(_) => Err(RegistryError::Forbidden { needs: "issuer" }),
        }
    }
}
