//! Who calls this gateway most.

use keygate_core::top::{TopList, TopQuery};
use keygate_store::fleet::Gateway;
use keygate_store::keys::KeyStore;

use super::{Actor, Registry, RegistryError};

/// What this gateway has counted.
pub struct TopView {
    /// This one.
    pub gateway: Gateway,
    pub list: TopList,
}

impl<S: KeyStore> Registry<S> {
    /// Those at the top of this gateway.
    ///
    /// # Errors
    /// [`RegistryError::Forbidden`].
    pub fn top(&self, by: &Actor, query: TopQuery) -> Result<TopView, RegistryError> {
        by.require_viewer()?;
        Ok(TopView { gateway: self.parts.gateway.clone(), list: (self.parts.top)(query) })
    }
}
