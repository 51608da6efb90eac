//! Several gateways that share a store and a pepper.

use std::ops::{Deref, DerefMut};

use super::caller::Caller;
use super::config::Setup;
use super::gateway::Gateway;

pub struct Fleet {
    gateways: Vec<Gateway>,
}

impl Fleet {
    /// Starts so many gateways with the same settings.
    pub fn of(count: usize, setup: &Setup) -> Self {
        Self::start(std::iter::repeat_n(setup.clone(), count))
    }

    /// Starts gateways one after the other: the first makes the pepper of all.
    pub fn start(setups: impl IntoIterator<Item = Setup>) -> Self {
        let mut gateways: Vec<Gateway> = Vec::new();
        for setup in setups {
            let setup = match gateways.first() {
                Some(first) => setup.pepper_of(first),
                None => setup,
            };
            gateways.push(setup.start());
        }
        Self { gateways }
    }

    /// One client for each gateway.
    pub fn callers(&self) -> Vec<Caller> {
        self.iter().map(Gateway::caller).collect()
    }
}

impl Deref for Fleet {
    type Target = Vec<Gateway>;

    fn deref(&self) -> &Vec<Gateway> {
        &self.gateways
    }
}

impl DerefMut for Fleet {
    fn deref_mut(&mut self) -> &mut Vec<Gateway> {
        &mut self.gateways
    }
}
