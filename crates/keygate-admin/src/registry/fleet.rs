//! Which gateways share the store, and how far each has followed its changes.

use std::time::Duration;

use keygate_core::Pepper;
use keygate_store::fleet::{Fleet, LinkState, Member};
use keygate_store::keys::KeyStore;

use super::{Actor, Registry, RegistryError};

/// A gateway that has not reported for so long is not there, whatever it said last: each reports
/// several times in this span.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(10);

/// All gateways of the store.
pub struct FleetView {
    pub store: StoreKind,
    pub fleet: Fleet,
    /// The id of the gateway that answers.
    pub this: String,
}

/// The kinds of stores, as far as a fleet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreKind {
    /// This gateway's own.
    Embedded,
    /// Shared.
    Redis,
}

impl StoreKind {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Redis => "redis",
        }
    }
}

impl<S: KeyStore> Registry<S> {
    /// The gateways that reported to the store not long ago; of a store that only one can use, this
    /// one.
    ///
    /// # Errors
    /// [`RegistryError::Forbidden`] and [`RegistryError::Store`].
    pub async fn fleet(&self, by: &Actor) -> Result<FleetView, RegistryError> {
        by.require_viewer()?;
        let this = self.parts.gateway.id.clone();
        let (store, fleet) = match self.store().fleet().await? {
            Some(fleet) => (StoreKind::Redis, without_the_silent(fleet)),
            None => (StoreKind::Embedded, self.alone().await?),
        };
        Ok(FleetView { store, fleet, this })
    }

    async fn alone(&self) -> Result<Fleet, RegistryError> {
        let newest = self.newest().await?;
        let (now, gateway) = (self.now(), self.parts.gateway.clone());
        let peppers = Some(self.peppers().iter().map(Pepper::id).collect());
        let link = LinkState::Live;
        let this = Member { gateway, link, applied: newest, peppers, seen_at: now };
        Ok(Fleet { newest, now, members: vec![this] })
    }
}

fn without_the_silent(mut fleet: Fleet) -> Fleet {
    for member in &mut fleet.members {
        let silent_since = member.seen_at.saturating_add(SILENCE_MAX);
        if silent_since < fleet.now {
            member.link = LinkState::Down;
        }
    }
    fleet
}
