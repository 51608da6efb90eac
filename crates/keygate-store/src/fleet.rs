//! Which gateways share a store, and how far each of them has followed its changes.

use keygate_core::UnixMillis;

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
