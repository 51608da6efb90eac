//! What each key uses: which of a request's events count, and when. How they are counted is the store's.

use std::net::{IpAddr, Ipv4Addr};

use keygate_config::Config;
use keygate_core::{Access, KeyRecord, Permit, UnixMillis};
use keygate_store::usage::{Counted, RouteNumber, UsageCounter, UsageError};

use super::Story;
use crate::snapshot::Snapshot;

/// What a request carries of its count.
#[derive(Default)]
pub(crate) struct Noted(Option<Counted>);

/// Counts what keys use, if anybody is to know. Cheap to clone; all clones are the same.
#[derive(Clone, Default)]
pub struct Usage(Option<UsageCounter>);

/// What counting needs to know of a route.
#[derive(Clone, Copy)]
pub(crate) struct UsageRoute {
    number: RouteNumber,
    cost: u64,
}

impl Usage {
    #[must_use]
    pub const fn counting(counter: UsageCounter) -> Self {
        Self(Some(counter))
    }

    /// The routes of a configuration, in their order.
    ///
    /// # Errors
    /// When a new name cannot be written.
    pub(crate) fn routes(&self, config: &Config) -> Result<Vec<UsageRoute>, UsageError> {
        let Some(counter) = &self.0 else { return Ok(Vec::new()) };
        let routes = config.routes.routes();
        let numbers = counter.routes(routes.iter().map(|route| &*route.name))?;
        let cost = routes.iter().zip(&config.route_settings).map(|(route, settings)| {
            match &route.access {
                // What the gateway answers itself costs nothing: its charge is given back.
                Access::Key(access) if settings.respond.is_none() => access.cost,
                Access::Key(_) | Access::Public(_) => 0,
            }
        });
        Ok(numbers
            .into_iter()
            .zip(cost)
            .map(|(number, cost)| UsageRoute { number, cost })
            .collect())
    }

    /// To be called before anything is sent to an upstream: what was counted and not sent is a request too
    /// much, what was sent and not counted is one too few, and that is worse. Further attempts are the
    /// same request.
    #[inline]
    pub(super) fn admitted(
        &self,
        permit: &Permit,
        snapshot: &Snapshot,
        route: usize,
        story: &mut Story,
    ) {
        let Some(counter) = &self.0 else { return };
        let (Some(key), Some(route)) = (permit.key(), snapshot.usage_route(route)) else { return };
        if story.usage.0.is_none() {
            let at = story.decided_at.unwrap_or(UnixMillis(0));
            let client = story.client.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
            story.usage.0 = counter.admitted(key, route.number, route.cost, at, client);
        }
    }

    /// Bytes of a request that was counted.
    #[inline]
    pub(super) fn moved(
        &self,
        (key, story): (&KeyRecord, &Story),
        (snapshot, route): (&Snapshot, usize),
        bytes_in: u64,
        bytes_out: u64,
    ) {
        let (Some(counter), Some(counted)) = (&self.0, story.usage.0) else { return };
        if let Some(route) = snapshot.usage_route(route) {
            counter.moved(counted, key, route.number, bytes_in, bytes_out);
        }
    }

    /// A request was refused: to be called before its client is told.
    pub(super) fn refused(&self, snapshot: &Snapshot, route: Option<usize>, story: &Story) {
        let Some(counter) = &self.0 else { return };
        let route = route.and_then(|place| snapshot.usage_route(place));
        if let (Some(key), Some(code), Some(route)) = (&story.refused, story.code, route) {
            counter.refused(key, route.number, code);
        }
    }
}
