//! A configuration and its peppers, with all that is worked out from them once, so that no request
//! has to; and the place of the one that is current.

use std::cell::Cell;
use std::ops::Deref;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::HeaderValue;
use keygate_config::live::Current;
use keygate_config::{Config, Protocol};
use keygate_core::limit::terms::{Limits, Terms};
use keygate_core::{Peppers, Route};
use keygate_telemetry::{CertificateReading, Metrics, RouteMetrics};
use quanta::Instant;

use crate::certificates;
use crate::client::tls::TlsListeners;
use crate::head::HeadLimits;
use crate::limits::policy_text;
use crate::report::{LogRules, Reporters, UsageRoute};
use crate::route_work::RouteWork;
use crate::server::ProxyError;
use crate::upstreams::{self, Upkeep, UpstreamPeers};

/// What a request begins with, and keeps to its end.
pub(crate) struct Snapshot {
    /// Tells it from all others of this process.
    number: u64,
    pub config: Arc<Config>,
    pub peppers: Arc<Peppers>,
    pub bounds: Bounds,
    /// In the order of the routes.
    route_metrics: Vec<RouteMetrics>,
    /// What routes have done to requests and answers, in their order.
    route_work: Vec<Option<Box<RouteWork>>>,
    /// Whether no upstream is spoken to by anything else.
    pub speaks_http1_only: bool,
    /// In the order of the configuration's upstreams.
    upstreams: Vec<UpstreamPeers>,
    /// What the clients of each tier are told of it, in the order of the configuration's tiers.
    policy_texts: Vec<Option<HeaderValue>>,
    pub tls: TlsListeners,
    pub reporters: Reporters,
    pub log_rules: LogRules,
    /// In the order of the routes, if what they are used for is counted.
    usage_routes: Vec<UsageRoute>,
    certificates: Vec<CertificateReading>,
}

impl Snapshot {
    /// Takes over what is known of the upstreams of the one before. Looks up names that are new, and so
    /// may block on DNS.
    ///
    /// # Errors
    /// [`ProxyError::Target`] when a target that is new has no address, and [`ProxyError::Usage`] when a
    /// route that is new cannot be counted.
    pub(crate) fn new(
        current: Current,
        metrics: &Metrics,
        upkeep: &Upkeep,
        reporters: &Reporters,
        before: Option<&Self>,
    ) -> Result<Self, ProxyError> {
        let Current { config, peppers, inputs: _ } = current;
        let known = before.map_or(&[][..], Self::upstreams);
        let no_tls = TlsListeners::default();
        let tls = before.map_or(&no_tls, |before| &before.tls).next(&config);
        let tls = tls.map_err(|error| ProxyError::Tls(Box::new(error)))?;
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let policies = |limits| Terms::of(Some(limits), None).and_then(|terms| policy_text(&terms));
        Ok(Self {
            number: NUMBERS.fetch_add(1, Relaxed),
            policy_texts: config.tiers.iter().map(|tier| policies(&tier.limits)).collect(),
            upstreams: upstreams::of_config(&config, metrics, upkeep, known)?,
            bounds: Bounds {
                head: (&config.server).into(),
                header_timeout: config.server.header_timeout,
                keepalive_timeout: config.server.keepalive_timeout,
                connections_max: config.server.connections_max,
                connections_per_address_max: config.server.connections_per_address_max,
                has_lane: config.server.express_lane,
            },
            speaks_http1_only: config.upstreams.iter().all(|one| one.protocol == Protocol::Http1),
            peppers,
            route_work: RouteWork::of_all(&config),
            route_metrics: config.routes.routes().iter().map(|r| metrics.route(&r.name)).collect(),
            tls,
            certificates: certificates::readings(&config),
            usage_routes: reporters.usage.routes(&config).map_err(ProxyError::Usage)?,
            reporters: reporters.clone(),
            log_rules: LogRules::of(&config),
            config,
        })
    }

    /// The route at a place of the table.
    pub(crate) fn route(&self, place: usize) -> Option<&Route> {
        self.config.routes.routes().get(place)
    }

    #[inline]
    pub(crate) fn usage_route(&self, place: usize) -> Option<UsageRoute> {
        self.usage_routes.get(place).copied()
    }

    pub(crate) fn route_metrics(&self, place: usize) -> Option<&RouteMetrics> {
        self.route_metrics.get(place)
    }

    /// What a route has done to its requests and answers; nothing for most.
    pub(crate) fn work(&self, place: usize) -> Option<&RouteWork> {
        self.route_work.get(place)?.as_deref()
    }

    /// The upstream of the route at a place of the table.
    pub(crate) fn upstream_of(&self, route: usize) -> Option<&UpstreamPeers> {
        self.upstreams.get(self.route(route)?.upstream?)
    }

    /// Whether the route at a place of the table has nobody behind it who wants anything but HTTP/1.
    pub(crate) fn speaks_http1(&self, route: usize) -> bool {
        let upstream =
            self.route(route).and_then(|route| self.config.upstreams.get(route.upstream?));
        upstream.is_none_or(|upstream| upstream.protocol == Protocol::Http1)
    }

    pub(crate) fn upstreams(&self) -> &[UpstreamPeers] {
        &self.upstreams
    }

    /// Where the tier of this name is.
    pub(crate) fn tier_place(&self, name: &str) -> Option<usize> {
        // They are in the order of their names.
        self.config.tiers.binary_search_by(|tier| (*tier.name).cmp(name)).ok()
    }

    pub(crate) fn tier_limits(&self, place: usize) -> Option<&Limits> {
        self.config.tiers.get(place).map(|tier| &tier.limits)
    }

    pub(crate) fn policy_text(&self, place: usize) -> Option<&HeaderValue> {
        self.policy_texts.get(place)?.as_ref()
    }
}

/// What holds for a connection until its next request is read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub head: HeadLimits,
    /// From the first byte of a request to the end of its head.
    pub header_timeout: Duration,
    pub keepalive_timeout: Duration,
    pub connections_max: usize,
    pub connections_per_address_max: Option<usize>,
    /// Whether plain requests take the express lane.
    pub has_lane: bool,
}

/// The snapshot that is current. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub(crate) struct Snapshots(Arc<Place>);

struct Place {
    current: ArcSwap<Snapshot>,
    /// Of the current one.
    number: AtomicU64,
}

impl Snapshots {
    /// Begins with this configuration, and has the metrics tell how its targets are.
    ///
    /// # Errors
    /// [`ProxyError::Target`] when an upstream's target has no address.
    pub(crate) fn first(
        current: Current,
        metrics: &Metrics,
        upkeep: &Upkeep,
        reporters: &Reporters,
    ) -> Result<Self, ProxyError> {
        let first = Snapshot::new(current, metrics, upkeep, reporters, None)?;
        reporters.access_log.follow(&first.config);
        let number = AtomicU64::new(first.number);
        let snapshots = Self(Arc::new(Place { current: ArcSwap::from_pointee(first), number }));
        let read = snapshots.clone();
        metrics.targets_fn(move || {
            let (snapshot, now) = (read.current(), Instant::now());
            snapshot.upstreams.iter().flat_map(|upstream| upstream.readings(now)).collect()
        });
        let read = snapshots.clone();
        metrics.certificates_fn(move || read.current().certificates.clone());
        Ok(snapshots)
    }

    pub(crate) fn current(&self) -> Arc<Snapshot> {
        self.0.current.load_full()
    }

    /// The same for a request, to keep to its end.
    pub(crate) fn of_request(&self) -> InUse {
        let spare = SPARE.take().filter(|spare| spare.number == self.0.number.load(Acquire));
        InUse(Some(spare.unwrap_or_else(|| self.current())))
    }

    pub(crate) fn bounds(&self) -> Bounds {
        self.0.current.load().bounds
    }

    /// Every request that begins from now on goes by this one.
    pub(crate) fn replace(&self, next: Snapshot) {
        let number = next.number;
        self.0.current.store(Arc::new(next));
        self.0.number.store(number, Release);
    }
}

thread_local! {
    /// What the last request left that ended on this thread, for the next that begins here: to take and to
    /// give back one that all threads share would be four locked operations. So the thread of a gateway
    /// without requests may keep a snapshot that is current no more.
    static SPARE: Cell<Option<Arc<Snapshot>>> = const { Cell::new(None) };
}

/// The snapshot that a request goes by.
pub(crate) struct InUse(Option<Arc<Snapshot>>);

impl Deref for InUse {
    type Target = Snapshot;

    #[inline]
    fn deref(&self) -> &Snapshot {
        match &self.0 {
            Some(snapshot) => snapshot,
            None => unreachable!("it is there until this is dropped"),
        }
    }
}

impl Drop for InUse {
    #[inline]
    fn drop(&mut self) {
        // Not kept by a thread that ends.
        drop(SPARE.try_with(|spare| spare.replace(self.0.take())));
    }
}

/// Gives a gateway another configuration and other peppers, both at once. Every request goes by those
/// that it began with.
#[derive(Clone)]
pub struct Changer {
    snapshots: Snapshots,
    metrics: Metrics,
    upkeep: Upkeep,
    /// Held while a snapshot is made of the one before.
    changing: Arc<Mutex<()>>,
}

impl Changer {
    pub(crate) fn new(snapshots: Snapshots, metrics: Metrics, upkeep: Upkeep) -> Self {
        Self { snapshots, metrics, upkeep, changing: Arc::default() }
    }

    /// Works out what requests need, and then swaps it in: if this fails, nothing has changed. Looks up
    /// names of targets that are new, and so may block on DNS; those that were known keep their
    /// addresses, and what is known of their health.
    ///
    /// # Errors
    /// [`ProxyError::Target`] when a target that is new has no address.
    pub fn change(&self, next: Current) -> Result<(), ProxyError> {
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.snapshots.current();
        let next =
            Snapshot::new(next, &self.metrics, &self.upkeep, &before.reporters, Some(&before))?;
        // First, so that no line of a request that goes by it finds no place.
        next.reporters.access_log.follow(&next.config);
        self.snapshots.replace(next);
        self.upkeep.follow(before.upstreams(), self.snapshots.current().upstreams());
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::Path;

    use keygate_config::Source;
    use keygate_core::Pepper;

    use super::*;

    pub(crate) fn current(target: &str, headers_max: u32, pepper: u8) -> Current {
        let text = format!(
            "[server]\nlisten = [\"127.0.0.1:8080\"]\nheaders_max = {headers_max}\n\
             [upstreams.main]\ntargets = [\"{target}\"]\n\
             [[routes]]\nname = \"all\"\npath = \"/\"\nupstream = \"main\"\nauth = \"public\"\n"
        );
        let source = Source::alone("gateway.toml", &text, Path::new("/nowhere"));
        let config = keygate_config::parse(source).unwrap_or_else(|report| panic!("{report}"));
        let peppers = Peppers::new(Pepper::new(&[pepper; 32]), Vec::new());
        Current { config: Arc::new(config), peppers: Arc::new(peppers), inputs: Arc::default() }
    }

    fn changer(first: Current) -> (Snapshots, Changer) {
        let metrics = Metrics::new("test");
        let upkeep = Upkeep::default();
        let snapshots = Snapshots::first(first, &metrics, &upkeep, &Reporters::default()).unwrap();
        (snapshots.clone(), Changer::new(snapshots, metrics, upkeep))
    }

    #[test]
    fn a_request_keeps_the_configuration_and_the_peppers_that_it_began_with() {
        let (first, second) = (current("127.0.0.1:1", 10, 1), current("127.0.0.1:2", 20, 2));
        let (snapshots, changer) = changer(first.clone());
        let began_before = snapshots.of_request();
        changer.change(second.clone()).unwrap();
        let began_after = snapshots.of_request();
        let sees = |snapshot: &Snapshot, current: &Current| {
            Arc::ptr_eq(&snapshot.config, &current.config)
                && Arc::ptr_eq(&snapshot.peppers, &current.peppers)
        };
        assert!(sees(&began_before, &first) && sees(&began_after, &second));
        assert_eq!(began_before.bounds.head.headers_max, 10);
        assert_eq!(snapshots.bounds().head.headers_max, 20);
    }

    #[test]
    fn what_a_request_leaves_serves_the_next_one_only_while_it_is_current() {
        let (snapshots, changer) = changer(current("127.0.0.1:1", 10, 1));
        let (others, _) = self::changer(current("127.0.0.1:3", 30, 3));
        let headers_max = |snapshots: &Snapshots| snapshots.of_request().bounds.head.headers_max;
        for _ in 0..2 {
            assert_eq!((headers_max(&snapshots), headers_max(&others)), (10, 30));
        }
        let (before, meanwhile) = (snapshots.of_request(), snapshots.of_request());
        changer.change(current("127.0.0.1:2", 20, 2)).unwrap();
        drop((before, meanwhile));
        assert_eq!((headers_max(&snapshots), headers_max(&snapshots)), (20, 20));
    }

    #[test]
    fn a_target_without_an_address_changes_nothing() {
        let (snapshots, changer) = changer(current("127.0.0.1:1", 10, 1));
        let before = snapshots.current();
        let error = changer.change(current("nowhere.invalid:1", 20, 2)).unwrap_err();
        assert!(error.to_string().contains("nowhere.invalid:1"), "{error}");
        assert!(Arc::ptr_eq(&before, &snapshots.current()));
    }
}
