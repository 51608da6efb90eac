//! Which gateways share a store, and how far each of them has followed its changes.

use std::sync::{Arc, Mutex, PoisonError};

use keygate_core::UnixMillis;
use keygate_core::key::PepperId;

use crate::keys::ChangeNumber;

/// This gateway, as others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// Of this run: another after a restart. Empty for a process that is no gateway, such as a
    /// command, which the fleet is not told of.
    pub id: String,
    /// The machine's.
    pub name: String,
    pub version: String,
    pub started_at: UnixMillis,
}

/// What a gateway hears of the store's changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// It is told of each at once.
    Live,
    /// It is not told, but asks often enough: see [`SILENCE_MAX`](crate::coherence::SILENCE_MAX).
    Polling,
    /// It hears nothing.
    Down,
}

impl LinkState {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Polling => "polling",
            Self::Down => "down",
        }
    }
}

/// A gateway that reported to the store not long ago.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub gateway: Gateway,
    pub link: LinkState,
    /// Up to here it has applied the store's changes.
    pub applied: ChangeNumber,
    /// The peppers that it knows keys by; nothing if it does not say so, as older versions do not.
    pub peppers: Option<Vec<PepperId>>,
    /// When it reported, by the store's clock.
    pub seen_at: UnixMillis,
}

/// All gateways of a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fleet {
    /// The newest change.
    pub newest: ChangeNumber,
    /// The store's clock.
    pub now: UnixMillis,
    /// In the order of their ids.
    pub members: Vec<Member>,
}

/// The peppers that a gateway has, as its fleet is told: none until it has said which. Cheap to clone;
/// all clones are the same.
#[derive(Clone, Debug, Default)]
pub struct HeldPeppers(Arc<Mutex<Option<Vec<PepperId>>>>);

impl HeldPeppers {
    /// The next report says these.
    pub fn set(&self, peppers: Vec<PepperId>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(peppers);
    }

    pub(crate) fn get(&self) -> Option<Vec<PepperId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
