use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use keygate_config::Source;

use super::names::LookUp;
use super::*;

fn config(settings: &str) -> Config {
    let text = format!(
        "[server]\nlisten = [\"127.0.0.1:8080\"]\n[upstreams.main]\n{settings}\n\
         [[routes]]\nname = \"all\"\npath = \"/\"\nupstream = \"main\"\nauth = \"public\"\n"
    );
    let source = Source::alone("gateway.toml", &text, Path::new("/nowhere"));
    keygate_config::parse(source).unwrap_or_else(|report| panic!("{report}"))
}

/// What a name server says, and may say otherwise later.
type Zone = Arc<Mutex<BTreeMap<&'static str, Vec<&'static str>>>>;

fn upkeep(zone: &Zone) -> Upkeep {
    let zone = Arc::clone(zone);
    let look_up: LookUp = Arc::new(move |host, port| {
        let found = zone.lock().unwrap().get(host).cloned().ok_or(io::ErrorKind::NotFound)?;
        let address = |ip: &&str| SocketAddr::new(ip.parse().unwrap(), port);
        Ok(found.iter().map(address).collect())
    });
    Upkeep::with(look_up)
}

/// A gateway's upstreams, one configuration after the other.
struct Fixture {
    metrics: Metrics,
    upkeep: Upkeep,
    zone: Zone,
    all: Vec<UpstreamPeers>,
    now: Instant,
}

impl Fixture {
    fn new(settings: &str) -> Self {
        Self::with(settings, &[])
    }

    fn with(settings: &str, names: &[(&'static str, &[&'static str])]) -> Self {
        let zone = Zone::default();
        zone.lock().unwrap().extend(names.iter().map(|(name, ips)| (*name, ips.to_vec())));
        let upkeep = upkeep(&zone);
        let metrics = Metrics::new("1");
        let mut fixture = Self { metrics, upkeep, zone, all: Vec::new(), now: Instant::now() };
        fixture.reload(settings).unwrap();
        fixture
    }

    fn reload(&mut self, settings: &str) -> Result<(), ProxyError> {
        let next = of_config(&config(settings), &self.metrics, &self.upkeep, &self.all)?;
        self.upkeep.follow(&self.all, &next);
        self.all = next;
        Ok(())
    }

    fn main(&self) -> &UpstreamPeers {
        &self.all[0]
    }

    fn choose(&self, tries: &mut Tries, from: [u8; 4]) -> Option<String> {
        let caller = Caller { key: None, address: from.into() };
        let peer = self.main().choose(caller, tries, self.now)?;
        Some(peer._address.to_string())
    }

    fn next(&self) -> Option<String> {
        self.choose(&mut Tries::default(), [192, 0, 2, 1])
    }

    fn counts(&self, requests: usize) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for _ in 0..requests {
            *counts.entry(self.next().unwrap()).or_default() += 1;
        }
        counts
    }

    fn endpoint(&self, place: usize) -> Arc<Endpoint> {
        let mut all = self.main().targets.iter().flat_map(|target| target.endpoints().to_vec());
        all.nth(place).unwrap()
    }

    fn fail(&self, place: usize, times: usize) {
        for _ in 0..times {
            self.main().has_failed(&self.endpoint(place), self.now);
        }
    }

    fn set_healthy(&self, place: usize, is_healthy: bool) {
        let thresholds = keygate_core::health::Thresholds { unhealthy_after: 1, healthy_after: 1 };
        self.endpoint(place).checked(is_healthy, thresholds);
        self.main().state.has_changed();
    }
}

const THREE: &str = "targets = [\"127.0.0.1:1\", \"127.0.0.1:2\", \"127.0.0.1:3\"]";

#[test]
fn requests_spread_by_weight_and_a_names_addresses_share_its_own() {
    let fixture = Fixture::with(
        "targets = [\"192.0.2.1:80\", { address = \"a.internal:80\", weight = 3 }]",
        &[("a.internal", &["192.0.2.2", "192.0.2.3", "192.0.2.4"])],
    );
    let counts = fixture.counts(400);
    assert_eq!(counts.values().copied().collect::<Vec<_>>(), [100; 4], "{counts:?}");
}

#[test]
fn an_unhealthy_target_gets_nothing_and_the_others_share_alike() {
    let fixture = Fixture::new(THREE);
    fixture.set_healthy(1, false);
    let counts = fixture.counts(100);
    assert_eq!(counts.into_values().collect::<Vec<_>>(), [50, 50]);
    fixture.set_healthy(1, true);
    assert_eq!(fixture.counts(90).into_values().collect::<Vec<_>>(), [30; 3]);
}

#[test]
fn when_nobody_is_healthy_nobody_is_asked() {
    let fixture = Fixture::new(THREE);
    (0..3).for_each(|place| fixture.set_healthy(place, false));
    assert_eq!(fixture.next(), None);
    assert!(fixture.main().state.is_down());
    fixture.set_healthy(2, true);
    assert_eq!(fixture.next().unwrap(), "127.0.0.1:3");
    assert!(!fixture.main().state.is_down());
}

#[test]
fn a_request_that_failed_goes_to_each_other_target_before_it_comes_back() {
    for balance in ["round_robin", "least_connections", "hash"] {
        let fixture = Fixture::new(&format!("{THREE}\nbalance = \"{balance}\""));
        let mut tries = Tries::default();
        let mut tried = BTreeSet::new();
        for _ in 0..3 {
            tried.insert(fixture.choose(&mut tries, [192, 0, 2, 1]).unwrap());
            retry::tests::fail(&mut tries, fixture.main(), fixture.now);
        }
        assert_eq!(tried.len(), 3, "{balance}: {tried:?}");
        assert!(fixture.choose(&mut tries, [192, 0, 2, 1]).is_some(), "{balance}");
    }
}

#[test]
fn the_least_busy_target_is_the_one_that_finished() {
    let fixture = Fixture::new(&format!("{THREE}\nbalance = \"least_connections\""));
    let mut running: Vec<Tries> = (0..6).map(|_| Tries::default()).collect();
    let went: Vec<_> =
        running.iter_mut().map(|tries| fixture.choose(tries, [192, 0, 2, 1]).unwrap()).collect();
    assert_eq!(went.iter().collect::<BTreeSet<_>>().len(), 3);
    drop(running.remove(4));
    assert_eq!(fixture.next().unwrap(), went[4]);
}

#[test]
fn a_caller_keeps_its_target_while_others_come_and_go() {
    let settings = |targets: &str| format!("targets = [{targets}]\nbalance = \"hash\"");
    let mut fixture = Fixture::new(&settings(r#""127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3""#));
    let all = |fixture: &Fixture| -> Vec<String> {
        let target = |n| fixture.choose(&mut Tries::default(), [192, 0, 2, n]).unwrap();
        (0..=255).map(target).collect()
    };
    let before = all(&fixture);
    assert_eq!(before.iter().collect::<BTreeSet<_>>().len(), 3);
    fixture.set_healthy(0, false);
    for (before, now) in before.iter().zip(all(&fixture)) {
        assert!(before == "127.0.0.1:1" || *before == now, "{before} became {now}");
    }
    fixture.set_healthy(0, true);
    assert_eq!(all(&fixture), before);
    fixture.reload(&settings(r#""127.0.0.1:3", "127.0.0.1:1""#)).unwrap();
    for (before, now) in before.iter().zip(all(&fixture)) {
        assert!(before == "127.0.0.1:2" || *before == now, "{before} became {now}");
    }
}

#[test]
fn a_name_that_gets_another_address_keeps_its_callers() {
    let settings = "targets = [\"a.internal:80\", \"b.internal:80\"]\nbalance = \"hash\"";
    let names: &[_] = &[("a.internal", &["192.0.2.1"][..]), ("b.internal", &["192.0.2.9"])];
    let fixture = Fixture::with(settings, names);
    let of_b = |fixture: &Fixture| -> Vec<u8> {
        let is_b = |n: &u8| {
            fixture.choose(&mut Tries::default(), [192, 0, 2, *n]).unwrap() == "192.0.2.9:80"
        };
        (0..=255).filter(is_b).collect()
    };
    let before = of_b(&fixture);
    assert!((64..192).contains(&before.len()), "{}", before.len());
    let found = [[192, 0, 2, 2], [192, 0, 2, 3]].map(|ip| SocketAddr::from((ip, 80)));
    assert!(fixture.main().targets[0].set_addresses(&found));
    fixture.main().state.has_changed();
    assert_eq!(of_b(&fixture), before);
}

#[test]
fn a_target_that_fails_in_a_row_is_kept_out_longer_each_time_until_it_answers() {
    let mut fixture = Fixture::new(&format!(
        "{THREE}\n[upstreams.main.ejection]\nfailures = 3\nduration = \"10s\""
    ));
    let is_out = |fixture: &Fixture| !fixture.counts(30).contains_key("127.0.0.1:1");
    let later = |fixture: &mut Fixture, seconds| fixture.now += Duration::from_secs(seconds);
    fixture.fail(0, 2);
    fixture.endpoint(0).answered();
    fixture.fail(0, 2);
    assert!(!is_out(&fixture), "two are not three, and an answer was in between");
    fixture.fail(0, 1);
    assert!(is_out(&fixture));
    later(&mut fixture, 9);
    assert!(is_out(&fixture));
    later(&mut fixture, 2);
    assert!(!is_out(&fixture));
    fixture.fail(0, 1);
    later(&mut fixture, 11);
    assert!(is_out(&fixture), "twice as long");
    later(&mut fixture, 10);
    assert!(!is_out(&fixture));
    fixture.endpoint(0).answered();
    fixture.fail(0, 2);
    assert!(!is_out(&fixture), "it answered, so all is forgotten");
}

#[test]
fn no_more_are_kept_out_than_allowed_and_never_the_last_one() {
    let settings = |percent| {
        format!("{THREE}\n[upstreams.main.ejection]\nfailures = 1\nmax_percent = {percent}")
    };
    for (percent, left) in [(0, 3), (33, 3), (34, 2), (50, 2), (100, 1)] {
        let fixture = Fixture::new(&settings(percent));
        (0..3).for_each(|place| fixture.fail(place, 5));
        assert_eq!(fixture.counts(30).len(), left, "{percent}");
    }
    let fixture = Fixture::new(&settings(100));
    fixture.set_healthy(0, false);
    fixture.set_healthy(1, false);
    fixture.fail(2, 5);
    assert_eq!(fixture.counts(3).len(), 1, "the unhealthy ones are none to go to");
}

#[test]
fn one_that_fails_requests_is_better_than_none_that_is_healthy() {
    let settings = format!("{THREE}\n[upstreams.main.ejection]\nfailures = 1");
    let fixture = Fixture::new(&settings);
    fixture.fail(0, 1);
    fixture.set_healthy(1, false);
    fixture.set_healthy(2, false);
    assert_eq!(fixture.next().unwrap(), "127.0.0.1:1");
}

#[test]
fn what_is_known_of_a_target_outlives_a_reload_and_a_name_is_not_asked_again() {
    let settings = |weight| {
        format!(
            "targets = [\"127.0.0.1:1\", {{ address = \"a.internal:80\", weight = {weight} }}]\n\
             [upstreams.main.ejection]\nfailures = 1"
        )
    };
    let mut fixture = Fixture::with(&settings(1), &[("a.internal", &["192.0.2.1"])]);
    fixture.set_healthy(0, false);
    fixture.zone.lock().unwrap().clear();
    fixture.reload(&settings(2)).unwrap();
    assert_eq!(fixture.counts(3).into_keys().collect::<Vec<_>>(), ["192.0.2.1:80"]);
    let error = fixture.reload("targets = [\"a.internal:80\", \"b.internal:80\"]").unwrap_err();
    assert!(error.to_string().contains("b.internal:80"), "{error}");
    assert_eq!(fixture.counts(3).len(), 1, "nothing has changed");
}

#[tokio::test(start_paused = true)]
async fn names_are_looked_up_again_and_a_failure_keeps_what_was_found() {
    let settings = "targets = [\"a.internal:80\"]\ndns_refresh = \"10s\"";
    let mut fixture = Fixture::with(settings, &[("a.internal", &["192.0.2.1"])]);
    fixture.upkeep.begin(&fixture.all);
    let set = |ips: &[&'static str]| {
        fixture.zone.lock().unwrap().insert("a.internal", ips.to_vec());
    };
    let later = || tokio::time::sleep(Duration::from_secs(12));
    let found = |fixture: &Fixture| fixture.counts(20).into_keys().collect::<Vec<_>>();
    set(&["192.0.2.2", "192.0.2.3"]);
    assert_eq!(found(&fixture), ["192.0.2.1:80"]);
    eventually(later, || found(&fixture) == ["192.0.2.2:80", "192.0.2.3:80"]).await;
    fixture.zone.lock().unwrap().clear();
    later().await;
    later().await;
    assert_eq!(found(&fixture), ["192.0.2.2:80", "192.0.2.3:80"]);
    fixture.zone.lock().unwrap().insert("a.internal", vec!["192.0.2.4"]);
    eventually(later, || found(&fixture) == ["192.0.2.4:80"]).await;
    // Whoever is gone is not looked up any more.
    let gone = Arc::clone(&fixture.all[0].targets[0]);
    fixture.reload("targets = [\"127.0.0.1:1\"]").unwrap();
    fixture.zone.lock().unwrap().insert("a.internal", vec!["192.0.2.5"]);
    later().await;
    later().await;
    assert_eq!(gone.endpoints()[0].address.ip().to_string(), "192.0.2.4");
}

/// Look-ups run on threads that know nothing of a clock that stands still.
async fn eventually<F: Future>(later: impl Fn() -> F, is_so: impl Fn() -> bool) {
    for _ in 0..1_000 {
        if is_so() {
            return;
        }
        later().await;
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("it never came to that");
}
