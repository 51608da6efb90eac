//! The peppers of this gateway and of its fleet: which keys depend on each, who has it, and which one
//! new keys are made under. Knows their ids, no secret.

use keygate_core::key::PepperId;
use keygate_core::{Pepper, Peppers};
use keygate_store::fleet::Member;
use keygate_store::keys::KeyStore;

use super::fleet::SILENCE_MAX;
use super::{Actor, Registry, RegistryError};

/// A pepper, by its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PepperView {
    pub id: PepperId,
    pub role: PepperRole,
    /// How many keys that are neither revoked nor expired were made under it.
    pub live_keys: u64,
    /// Whether new keys are made under it.
    pub is_minting: bool,
    /// The gateways of the fleet that do not have it.
    pub gateways_without: Vec<GatewayName>,
}

/// What a pepper is to the gateway that answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PepperRole {
    Current,
    Previous,
    /// It does not have it, and live keys depend on it.
    Missing,
}

impl PepperRole {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Previous => "previous",
            Self::Missing => "missing",
        }
    }
}

/// A gateway of the fleet. Several may have one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayName {
    pub id: String,
    pub name: String,
}

impl<S: KeyStore> Registry<S> {
    /// The peppers of this gateway, the current one first, and then those that it lacks and that live
    /// keys depend on.
    ///
    /// # Errors
    /// [`RegistryError::Forbidden`] and [`RegistryError::Store`].
    pub async fn pepper_views(&self, by: &Actor) -> Result<Vec<PepperView>, RegistryError> {
        by.require_viewer()?;
        let peppers = self.peppers();
        let counts = self.store().pepper_counts(self.now()).await?;
        let others = self.others_that_say().await?;
        let minting = choose(&peppers, &others).id();
        let ours: Vec<PepperId> = peppers.iter().map(Pepper::id).collect();
        let missing = counts.iter().filter(|(id, keys)| *keys > 0 && !ours.contains(id));
        let all = ours.iter().copied().chain(missing.map(|(id, _)| *id));
        let view = |id: PepperId| {
            let role = match ours.iter().position(|ours| *ours == id) {
                Some(0) => PepperRole::Current,
                Some(_) => PepperRole::Previous,
                None => PepperRole::Missing,
            };
            let without = others.iter().filter(|member| !has(member, id)).map(name);
            let this = (role == PepperRole::Missing).then(|| self.name());
            PepperView {
                id,
                role,
                live_keys: counts.iter().find(|(of, _)| *of == id).map_or(0, |(_, keys)| *keys),
                is_minting: id == minting,
                gateways_without: this.into_iter().chain(without).collect(),
            }
        };
        Ok(all.map(view).collect())
    }

    /// The pepper that a new key is made under: the first of ours that every gateway of the fleet has,
    /// so that no gateway is asked about a key that it cannot know.
    ///
    /// # Errors
    /// [`RegistryError::Store`].
    pub(super) async fn mint_with<'p>(
        &self,
        peppers: &'p Peppers,
    ) -> Result<&'p Pepper, RegistryError> {
        if peppers.iter().nth(1).is_none() {
            // There is nothing to choose, and so no reason to ask.
            return Ok(peppers.current());
        }
        Ok(choose(peppers, &self.others_that_say().await?))
    }

    /// Those of these peppers that live keys depend on, with how many.
    ///
    /// # Errors
    /// [`RegistryError::Store`].
    pub(super) async fn live_keys_of(
        &self,
        peppers: &[PepperId],
    ) -> Result<Vec<(PepperId, u64)>, RegistryError> {
        let counts = self.store().pepper_counts(self.now()).await?;
        let asked = |(id, keys): &(PepperId, u64)| *keys > 0 && peppers.contains(id);
        Ok(counts.into_iter().filter(asked).collect())
    }

    /// The other gateways that are there and say which peppers they have.
    async fn others_that_say(&self) -> Result<Vec<Member>, RegistryError> {
        // A store that only one gateway can use has no others.
        let Some(fleet) = self.store().fleet().await? else { return Ok(Vec::new()) };
        let now = fleet.now;
        let counts = |member: &Member| {
            member.peppers.is_some()
                && member.gateway.id != self.parts.gateway.id
                && member.seen_at.saturating_add(SILENCE_MAX) >= now
        };
        Ok(fleet.members.into_iter().filter(counts).collect())
    }

    fn name(&self) -> GatewayName {
        let gateway = &self.parts.gateway;
        GatewayName { id: gateway.id.clone(), name: gateway.name.clone() }
    }
}

fn name(member: &Member) -> GatewayName {
    GatewayName { id: member.gateway.id.clone(), name: member.gateway.name.clone() }
}

fn has(member: &Member, id: PepperId) -> bool {
    member.peppers.as_ref().is_some_and(|peppers| peppers.contains(&id))
}

/// The first that all have; the current one if there is none.
fn choose<'p>(peppers: &'p Peppers, others: &[Member]) -> &'p Pepper {
    let all_have = |pepper: &&Pepper| others.iter().all(|member| has(member, pepper.id()));
    peppers.iter().find(all_have).unwrap_or_else(|| peppers.current())
}
