//! Keeps the connections to the primary up and follows the changes that others make.

use std::sync::Arc;

use super::LinkObserver;
use super::dial::Dialer;
use super::layout::Names;
use super::primary::Primary;
use crate::coherence::Coherence;
use crate::fleet::{Gateway, LinkState};

/// The task that does it. Dropping this ends it.
pub(super) struct Link {}

impl Link {
    pub(super) fn start(
        _dialer: Dialer,
        _primary: Arc<Primary>,
        _names: Names,
        _gateway: Gateway,
        _coherence: Arc<Coherence>,
        _observer: Arc<dyn LinkObserver>,
    ) -> Self {
        Self {}
    }

    /// Waits until the store was reached for the first time.
    pub(super) async fn reached(&self) {
        std::future::pending().await
    }

    pub(super) fn state(&self) -> LinkState {
        LinkState::Down
    }
}
