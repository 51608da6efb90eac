//! Each alert that ships fires on its fault, and on nothing else: real gateways, a real Prometheus with
//! the real rules, and their times divided by [`HASTE`].
//!
//! Not provoked here, and so tested by `promtool` alone: `KeygateUsageLost`, which takes millions of keys
//! or a full disk.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use regex::{Captures, Regex};
use serde_json::json;

use crate::dashboards::verdict;
use crate::harness::{
    Alert, Authority, Caller, Gateway, Key, KeySpec, Prometheus, Redis, Request, Scraped, Setup,
    Signed, Tap, Target, Upstream, Which, alone, eventually, eventually_within, free_address, get,
    patience,
};
use crate::prometheus::{alerts, read};

/// An hour is a minute, five minutes are five seconds.
const HASTE: u64 = 60;

/// A gateway, what happens to it and what is said of that.
struct Case {
    name: &'static str,
    /// Alerts of a whole fleet go by it.
    job: &'static str,
    expected: &'static [&'static str],
    /// What may fire besides, for a moment: it is true as well.
    allowed: &'static [&'static str],
    /// The verdict of the dashboard, and how bad it is.
    verdict: Option<(&'static str, u8)>,
}

const CASES: [Case; 10] = [
    Case { name: "healthy", job: "keygate", expected: &[], allowed: &[], verdict: None },
    Case {
        name: "unlinked",
        job: "keygate",
        expected: &["KeygateLinkDown"],
        allowed: &[],
        verdict: Some(("The store", 1)),
    },
    Case {
        name: "late",
        job: "keygate",
        expected: &["KeygateRevocationLag"],
        allowed: &["KeygateStoreDown", "KeygateLinkDown"],
        verdict: None,
    },
    Case {
        name: "misconfigured",
        job: "keygate",
        expected: &[
            "KeygateConfigReloadFailing",
            "KeygateCertificateExpiresSoon",
            "KeygateCertificateExpiresNow",
            "KeygateUsageStuck",
        ],
        allowed: &[],
        verdict: Some(("Us", 2)),
    },
    Case {
        name: "killed",
        job: "keygate",
        expected: &["KeygateDown"],
        allowed: &[],
        verdict: Some(("Us", 2)),
    },
    Case {
        name: "restarted",
        job: "keygate",
        expected: &["KeygateRestarting"],
        allowed: &["KeygateDown"],
        verdict: None,
    },
    Case {
        name: "full",
        job: "keygate",
        expected: &["KeygateCacheThrash", "KeygateAccessLogDrops"],
        allowed: &[],
        verdict: None,
    },
    Case {
        name: "storeless",
        job: "storeless",
        expected: &[
            "KeygateStoreDown",
            "KeygateAuthBurnsBudgetFast",
            "KeygateAuthBurnsBudgetSlow",
            "KeygateUsageNotSent",
        ],
        allowed: &[],
        verdict: Some(("The store", 2)),
    },
    Case {
        name: "lonely",
        job: "lonely",
        expected: &[
            "KeygateUpstreamDown",
            "KeygateUpstreamBurnsBudgetFast",
            "KeygateUpstreamBurnsBudgetSlow",
        ],
        allowed: &[],
        verdict: Some(("The upstream", 2)),
    },
    Case {
        name: "besieged",
        job: "besieged",
        expected: &["KeygateFailedAuthSpike", "KeygateLimitedSpike"],
        allowed: &[],
        verdict: Some(("Clients", 2)),
    },
];

/// Alerts that no case provokes: see above.
const ELSEWHERE: [&str; 1] = ["KeygateUsageLost"];

#[test]
fn each_alert_fires_on_its_fault_and_on_no_other() {
    let _alone = alone();
    let mut lab = Lab::start();
    let prometheus =
        Prometheus::start(&hurried(&read("prometheus/keygate.rules.yml")), &lab.scraped());
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        // Also when an assertion fails here: the scope waits for all threads.
        let _at_the_end = Ends(&ended);
        let is_faulty: &'static AtomicBool = Box::leak(Box::default());
        for load in lab.loads() {
            let ended = &ended;
            scope.spawn(move || load.run(is_faulty, ended));
        }
        let healthy = "count(count_over_time(up[1h]) >= 12)";
        let count = CASES.len() as f64;
        eventually("a while in which all is well", || {
            nothing_unexpected(&prometheus, |_| &[]);
            (prometheus.number(healthy) == Some(count)).then_some(())
        });
        for case in &CASES {
            for panel in ["Us", "The store", "The upstream", "Clients"] {
                let said = verdict(&prometheus, panel, case.job, case.name);
                assert_eq!(said, Some(0), "{panel}: {}", case.name);
            }
        }
        is_faulty.store(true, Ordering::SeqCst);
        lab.provoke(&prometheus);
        all_that_is_expected(&prometheus);
    });
    assert!(!prometheus.complaints().contains("rule"), "{}", prometheus.complaints());
}

/// Waits for every alert of every case, and for the verdicts, while nothing else fires.
#[track_caller]
fn all_that_is_expected(prometheus: &Prometheus) {
    let mut seen = BTreeMap::<&str, Vec<String>>::new();
    let mut verdicts: Vec<_> =
        CASES.iter().filter_map(|case| Some((case, case.verdict?))).collect();
    let missing = |seen: &BTreeMap<&str, Vec<String>>| -> Vec<_> {
        let fired = |case: &Case, alert: &str| {
            seen.get(case.name).is_some_and(|names| names.iter().any(|name| name == alert))
        };
        let of_case = |case: &'static Case| {
            let not_yet = case.expected.iter().filter(|alert| !fired(case, alert));
            not_yet.map(|alert| (case.name, *alert)).collect::<Vec<_>>()
        };
        CASES.iter().flat_map(of_case).collect()
    };
    eventually_within(patience(), || {
        for (case, alert) in nothing_unexpected(prometheus, |case| case.expected) {
            seen.entry(case.name).or_default().push(alert.name);
        }
        verdicts.retain(|(case, (panel, value))| {
            verdict(prometheus, panel, case.job, case.name) < Some(*value)
        });
        thread::sleep(Duration::from_millis(200));
        (missing(&seen).is_empty() && verdicts.is_empty()).then_some(())
    });
    let verdicts: Vec<_> = verdicts.iter().map(|(case, verdict)| (case.name, verdict)).collect();
    assert!(missing(&seen).is_empty(), "did not fire: {:?}", missing(&seen));
    assert!(verdicts.is_empty(), "the dashboard does not say it: {verdicts:?}");
}

/// The alerts that fire, each of a case that may have it, with words that were filled in.
#[track_caller]
fn nothing_unexpected(
    prometheus: &Prometheus,
    expected: impl Fn(&Case) -> &'static [&'static str],
) -> Vec<(&'static Case, Alert)> {
    let firing = prometheus.alerts().into_iter().filter(|alert| alert.is_firing);
    let of_case = firing.map(|alert| {
        let is_of = |case: &&Case| match alert.labels.get("instance") {
            Some(instance) => case.name == instance,
            None => alert.labels["job"] == case.job,
        };
        let case = CASES.iter().find(is_of).unwrap_or_else(|| panic!("{alert:?}"));
        let name = &*alert.name;
        let may = expected(case).contains(&name) || case.allowed.contains(&name);
        assert!(may, "{} should not have {alert:#?}", case.name);
        for (kind, words) in &alert.annotations {
            assert!(!words.contains("{{") && !words.contains("<error"), "{kind}: {words}");
        }
        assert!(alert.annotations["runbook"].ends_with(&name.to_lowercase()), "{alert:?}");
        (case, alert)
    });
    of_case.collect()
}

/// Every alert is one of a case, or is known not to be.
#[test]
fn every_alert_is_provoked() {
    let mut known: Vec<String> = CASES
        .iter()
        .flat_map(|case| case.expected)
        .chain(&ELSEWHERE)
        .map(|&name| name.to_owned())
        .collect();
    known.sort();
    assert_eq!(known, alerts().into_iter().collect::<Vec<_>>());
}

/// The rules with all times divided: windows, offsets, `for`, and what is marked as seconds.
fn hurried(rules: &str) -> String {
    let times = Regex::new(r"(\[|offset |for: )(\d+)([mhd])|> (\d+) # seconds").unwrap();
    let divided = times.replace_all(rules, |found: &Captures<'_>| {
        if let Some(seconds) = found.get(4) {
            return format!("> {}", seconds.as_str().parse::<u64>().unwrap() / HASTE);
        }
        let seconds = match &found[3] {
            "m" => 60,
            "h" => 3_600,
            _ => 86_400,
        };
        let millis = found[2].parse::<u64>().unwrap() * seconds * 1_000 / HASTE;
        format!("{}{millis}ms", &found[1])
    });
    divided.into_owned()
}

#[test]
fn haste_divides_every_time_and_nothing_else() {
    let rules = "rate(a[5m] offset 1h)\nfor: 1m\nb > 300 # seconds\nc < 3 * 86400";
    let hurried = hurried(rules);
    assert_eq!(hurried, "rate(a[5000ms] offset 60000ms)\nfor: 1000ms\nb > 5\nc < 3 * 86400");
}

struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// The gateways of the cases, in their order, and what they lean on.
struct Lab {
    gateways: Vec<Gateway>,
    /// What is sent to each while all is well, and then.
    requests: Vec<[Vec<Request>; 2]>,
    _shared: Redis,
    own: Redis,
    unlinked: Tap,
    late: Tap,
    target: Target,
    authority: Authority,
    served: [Signed; 2],
    known: Key,
    _upstream: Upstream,
}

/// A client of one gateway, who copes with its death.
struct Load {
    address: SocketAddr,
    requests: [Vec<Request>; 2],
}

impl Load {
    fn run(&self, is_faulty: &AtomicBool, ended: &AtomicBool) {
        let mut caller = Caller::new(self.address);
        while !ended.load(Ordering::SeqCst) {
            for request in &self.requests[usize::from(is_faulty.load(Ordering::SeqCst))] {
                drop(caller.try_send(request));
                // Not a wait for anything: this is how much load there is.
                thread::sleep(Duration::from_millis(15));
            }
        }
    }
}

const DAY: Duration = Duration::from_secs(86_400);

impl Lab {
    fn start() -> Self {
        let (upstream, shared, own) = (Upstream::start(), Redis::start(), Redis::start());
        let (unlinked, late) = (Tap::before(shared.address()), Tap::before(shared.address()));
        let (target, authority) = (Target::start(), Authority::new("ca"));
        let served = ["one.test", "two.test"].map(|name| authority.sign_for(&[name], 60 * DAY));
        let plain = Setup::in_front_of(&upstream).log("error");
        let healthy = plain.clone().redis(&shared).start();
        let fleet = |tap: &Tap| {
            let setup = plain.clone().store(&shared.store_at(tap.address())).pepper_of(&healthy);
            setup.start()
        };
        let many = format!(
            "[upstreams.many]\ntargets = [\"{}\"]\n[upstreams.many.health_check]\n\
             interval = \"100ms\"\nunhealthy_after = 2\n",
            target.address()
        );
        let many_route =
            "name = \"many\"\npath = \"/many\"\nupstream = \"many\"\nauth = \"public\"";
        let known = healthy.key_with(&KeySpec::new(&["read:orders"]));
        let gateways = vec![
            fleet(&unlinked),
            fleet(&late),
            plain.clone().tables(&tls(&served)).start(),
            plain.clone().start(),
            plain.clone().start(),
            plain.clone().cache("keys_max = 1").start(),
            plain.clone().redis(&own).cache("stale_max = \"1s\"").start(),
            plain.clone().tables(&many).route(many_route).start(),
            plain.clone().tables("[tiers.small]\nquotas = [\"1/month\"]\n").start(),
        ];
        let gateways: Vec<_> = std::iter::once(healthy).chain(gateways).collect();
        let requests = CASES.iter().zip(&gateways);
        let requests = requests.map(|(case, gateway)| requests_of(case.name, gateway, &known));
        let requests = requests.collect();
        let _upstream = upstream;
        Self {
            gateways,
            requests,
            _shared: shared,
            own,
            unlinked,
            late,
            target,
            authority,
            served,
            known,
            _upstream,
        }
    }

    fn scraped(&self) -> Vec<Scraped<'static>> {
        let cases = CASES.iter().zip(&self.gateways);
        let scraped = cases.map(|(case, gateway)| Scraped {
            job: case.job,
            instance: case.name,
            address: gateway.admin_address,
        });
        scraped.collect()
    }

    fn loads(&self) -> Vec<Load> {
        let all = self.gateways.iter().zip(&self.requests);
        let load = |(gateway, requests): (&Gateway, &[Vec<Request>; 2])| Load {
            address: gateway.proxy,
            requests: requests.clone(),
        };
        all.map(load).collect()
    }

    fn gateway(&mut self, name: &str) -> &mut Gateway {
        let place = CASES.iter().position(|case| case.name == name).unwrap();
        &mut self.gateways[place]
    }

    /// Everything at once, in the order of the cases but for what takes longest.
    fn provoke(&mut self, prometheus: &Prometheus) {
        self.own.kill();
        self.target.kill();
        self.gateway("killed").kill();
        self.unlinked.refuse(Which::Subscriptions);
        self.fill_the_log();
        self.spoil_the_configuration();
        self.delay_a_change();
        for _ in 0..3 {
            self.restart(prometheus);
        }
    }

    /// A sink that takes nothing.
    fn fill_the_log(&mut self) {
        let gateway = self.gateway("full");
        gateway
            .rewrite(|setup| setup.tables("[access_log]\nsink = \"file\"\npath = \"/dev/full\"\n"));
        assert_eq!(gateway.reload().status, 200);
    }

    /// Certificates that are about to end, what cannot be read, and then a file that is no configuration.
    fn spoil_the_configuration(&mut self) {
        for (place, days) in [(0, 1), (1, 10)] {
            let soon = self.authority.sign_for(&["one.test"], days * DAY);
            fs::copy(&soon.certificate, &self.served[place].certificate).unwrap();
            fs::copy(&soon.key, &self.served[place].key).unwrap();
        }
        let gateway = self.gateway("misconfigured");
        // Named as a folder of counts is, and none.
        fs::write(gateway.path("data/usage").join("f".repeat(32)), "").unwrap();
        assert_eq!(gateway.reload().status, 200);
        gateway.write("[server");
        assert_ne!(gateway.reload().status, 200);
    }

    /// The line is dark while somebody else revokes a key.
    fn delay_a_change(&mut self) {
        let admin = self.gateways[0].admin();
        let key =
            admin.key_of(&self.known.account, &self.known.app, &KeySpec::new(&["read:orders"]));
        self.late.blackhole(Which::All);
        admin.revoke(&key);
        // Not a wait for anything: this is how late the change is.
        thread::sleep(Duration::from_millis(2_500));
        self.late.resume();
    }

    fn restart(&mut self, prometheus: &Prometheus) {
        let began = || prometheus.number("process_start_time_seconds{instance=\"restarted\"}");
        let before = began();
        // The time of a start is told in whole seconds.
        eventually("another second", || {
            (prometheus.number("time()") >= before.map(|at| at + 1.5)).then_some(())
        });
        let gateway = self.gateway("restarted");
        gateway.kill();
        eventually("another start", || {
            if !gateway.process().is_running() {
                gateway.start_again_in_place();
            }
            let now = began();
            (now.is_some() && now != before).then_some(())
        });
    }
}

fn tls(served: &[Signed]) -> String {
    let one = |Signed { certificate, key }: &Signed| {
        format!("{{ cert_file = {certificate:?}, key_file = {key:?} }}")
    };
    let list: Vec<String> = served.iter().map(one).collect();
    let (address, list) = (free_address(), list.join(", "));
    format!("[[server.tls]]\nlisten = [\"{address}\"]\ncertificates = [{list}]\n")
}

/// What is sent to a gateway while all is well, and then.
fn requests_of(case: &str, gateway: &Gateway, known: &Key) -> [Vec<Request>; 2] {
    let orders = |key: &str| get("/v1/orders").bearer(key);
    let spec = KeySpec::new(&["read:orders"]);
    let key = match case {
        // They share a store.
        "healthy" | "unlinked" | "late" => known.key.clone(),
        _ => gateway.key_with(&spec).key,
    };
    let good = vec![orders(&key)];
    let bad = match case {
        "full" => (0..4).map(|_| orders(&gateway.key_with(&spec).key)).collect(),
        "besieged" => {
            let limited = gateway.key_with(&spec.with("tier", json!("small")));
            vec![get("/v1/orders"), orders(&limited.key)]
        }
        "lonely" => vec![get("/many"), orders(&key)],
        _ => good.clone(),
    };
    let good = if case == "lonely" { bad.clone() } else { good };
    [good, bad]
}
