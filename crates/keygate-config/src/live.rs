//! The configuration that a process goes by now, with the peppers that its files hold. Whoever begins
//! something takes one, and keeps it to the end of that.

use std::sync::Arc;

use arc_swap::ArcSwap;
use keygate_core::Peppers;

use crate::{Config, Inputs};

/// A configuration and its peppers, which change together.
#[derive(Clone)]
pub struct Current {
    pub config: Arc<Config>,
    pub peppers: Arc<Peppers>,
    /// What both were read from.
    pub inputs: Arc<Inputs>,
}

/// The one that is current. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Live(Arc<ArcSwap<Current>>);

impl Live {
    #[must_use]
    pub fn new(config: Arc<Config>, peppers: Arc<Peppers>) -> Self {
        let inputs = Arc::default();
        Self(Arc::new(ArcSwap::from_pointee(Current { config, peppers, inputs })))
    }

    #[must_use]
    pub fn current(&self) -> Arc<Current> {
        self.0.load_full()
    }

    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.0.load().config)
    }

    #[must_use]
    pub fn peppers(&self) -> Arc<Peppers> {
        Arc::clone(&self.0.load().peppers)
    }

    /// Whoever begins something from now on goes by this.
    pub fn replace(&self, next: Current) {
        self.0.store(Arc::new(next));
    }
}
