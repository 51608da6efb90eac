//! Limits of a fleet: several gateways, one store, real time. What they admit together is held
//! against a bucket that sees every request.

use std::time::Instant;

use keygate_core::KeyRecord;
use keygate_core::limit::policy::{Over, Policy, RetryAfter};
use keygate_core::limit::terms::{Limits, Party, RateLimit, Share, Terms};
use keygate_core::limit::{Rate, Unit};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::*;
use crate::boil::boil;
use crate::contract::run;
use crate::limits::{Charge, Limiter};
use crate::records::OwnedKey;
use crate::testing::{account, app, key};

const LEASE: Duration = Duration::from_secs(2);

fn unix() -> UnixMillis {
    #[expect(clippy::disallowed_methods, reason = "a test has a clock of its own")]
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    UnixMillis(u64::try_from(now.as_millis()).unwrap())
}

struct Member {
    /// Its connections are the limiter's.
    _store: RedisStore,
    limiter: Limiter,
    record: KeyRecord,
}

impl Member {
    async fn new(fixture: &Fixture, id: &str) -> Self {
        let store = fixture.gateway(id).await;
        let limiter = Limiter::leased(store.lessor(unix), LEASE, unix);
        let account = account(1);
        let app = app(1, &account);
        let record = boil(OwnedKey { key: key(1, &app), app, account }, 0);
        Self { _store: store, limiter, record }
    }

    async fn charge(&self, limits: &Limits, cost: u64) -> Result<Charge, Over> {
        let terms = Terms::of(Some(limits), None).unwrap();
        let now = self.limiter.moment(quanta::Instant::now(), unix());
        self.limiter.charge(&self.record, &terms, cost, now).await
    }

    /// Charges what a request that reaches its upstream costs.
    async fn admits(&self, limits: &Limits) -> bool {
        self.charge(limits, 1).await.map(|mut charge| charge.keep()).is_ok()
    }

    fn party(&self) -> Party {
        Party::of(Share::Key, self.record.id, self.record.app, self.record.account)
    }
}

async fn fleet(fixture: &Fixture, gateways: usize) -> Vec<Arc<Member>> {
    let mut members = Vec::new();
    for n in 0..gateways {
        members.push(Arc::new(Member::new(fixture, &format!("gw{n}")).await));
    }
    let know_each_other =
        async || members.iter().all(|member| member.limiter.gateways() == gateways as u64);
    until("the gateways know how many they are", know_each_other).await;
    members
}

fn rate(text: &str, burst: Option<u64>) -> Limits {
    Limits { rate: Some(RateLimit::new(text.parse().unwrap(), burst)), ..Limits::default() }
}

fn quota(text: &str) -> Limits {
    Limits { quotas: Box::new([text.parse().unwrap()]), ..Limits::default() }
}

/// How the clients of a key spread over the gateways.
#[derive(Clone, Copy, Debug)]
enum Traffic {
    Even,
    /// Nine of ten at the first.
    Skewed,
    /// All at one, and at another the next second.
    Moving,
}

impl Traffic {
    fn gateway(self, n: u64, since: Duration, gateways: usize) -> usize {
        let gateways = gateways as u64;
        let gateway = match self {
            Self::Even => n % gateways,
            Self::Skewed if !n.is_multiple_of(10) => 0,
            Self::Skewed => 1 + n / 10 % (gateways - 1),
            Self::Moving => since.as_secs() % gateways,
        };
        usize::try_from(gateway).unwrap()
    }
}

/// What a load came to.
#[derive(Debug)]
struct Outcome {
    /// When each was admitted, since the beginning.
    admitted: Vec<Duration>,
    took: Duration,
    asked: u64,
}

/// So many requests a second, spread over the gateways, for so long.
async fn load(
    members: &[Arc<Member>],
    limits: &Arc<Limits>,
    traffic: Traffic,
    per_second: u64,
    lasts: Duration,
) -> Outcome {
    let asked = || members.iter().map(|member| member.limiter.asked()[0]).sum::<u64>();
    let asked_before = asked();
    let began = Instant::now();
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let mut ticks = interval(Duration::from_millis(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut sent = 0;
    while began.elapsed() < lasts {
        ticks.tick().await;
        let due = u64::try_from(began.elapsed().as_micros()).unwrap() * per_second / 1_000_000;
        while sent < due {
            let member = &members[traffic.gateway(sent, began.elapsed(), members.len())];
            let (member, limits) = (Arc::clone(member), Arc::clone(limits));
            let sender = sender.clone();
            tokio::spawn(async move {
                if member.admits(&limits).await {
                    sender.send(began.elapsed()).unwrap();
                }
            });
            sent += 1;
        }
    }
    drop(sender);
    let took = began.elapsed();
    let mut admitted = Vec::new();
    while let Some(at) = receiver.recv().await {
        admitted.push(at);
    }
    admitted.sort_unstable();
    Outcome { admitted, took, asked: asked() - asked_before }
}

/// In no span of time more than the burst and what comes back in it. What was charged is noted a
/// little later than it was, which may move requests closer together: by so much.
fn never_above(outcome: &Outcome, limit: &RateLimit, noted_late: Duration) {
    let interval = limit.rate().unit.duration().as_secs_f64() / limit.rate().count as f64;
    let slack = noted_late.as_secs_f64() / interval;
    let (mut used, mut last) = (0.0_f64, Duration::ZERO);
    for at in &outcome.admitted {
        used = (used - (*at - last).as_secs_f64() / interval).max(0.0) + 1.0;
        last = *at;
        assert!(used <= limit.burst() as f64 + slack + 1e-6, "{used} units at {at:?}");
    }
}

fn check(gateways: usize, limit: &str, traffic: Traffic, seconds: u64) {
    run(async {
        let members = fleet(&Fixture::new(), gateways).await;
        let limits = Arc::new(rate(limit, None));
        let limit = limits.rate.unwrap();
        let demand = limit.rate().count * 2;
        let lasts = Duration::from_secs(seconds);
        let outcome = load(&members, &limits, traffic, demand, lasts).await;
        never_above(&outcome, &limit, Duration::from_millis(50));
        let per_second = limit.rate().count as f64 / limit.rate().unit.duration().as_secs_f64();
        let possible = limit.burst() as f64 + per_second * outcome.took.as_secs_f64();
        let admitted = outcome.admitted.len();
        // The bucket is empty by then, and what comes back is all there is.
        let steady = Duration::from_secs(2);
        let late = outcome.admitted.iter().filter(|at| **at >= steady).count();
        let waste = 1.0 - late as f64 / (per_second * (outcome.took - steady).as_secs_f64());
        println!(
            "{gateways} gateways, {}, {traffic:?}: {admitted} admitted of {possible:.0} possible, \
             {:.2} % wasted after {steady:?}, {:.4} questions each",
            limit.rate(),
            100.0 * waste,
            outcome.asked as f64 / admitted as f64,
        );
        // Time enough for waste to show; how little there is, the bench says.
        assert!(admitted as f64 > possible * 0.5, "{admitted} of {possible}");
    });
}

#[test]
fn a_small_limit_is_exact_for_the_whole_fleet() {
    check(3, "10/s", Traffic::Even, 2);
}

#[test]
fn a_lent_limit_is_never_exceeded_by_the_whole_fleet() {
    check(3, "100/s", Traffic::Even, 2);
    check(3, "1000/s", Traffic::Skewed, 2);
    check(3, "1000/s", Traffic::Moving, 3);
}

/// The figures that `deploy/limits.md` names: `cargo test --release -p keygate-store -- --ignored
/// --nocapture --test-threads 1 measure_fleets`.
#[test]
#[ignore = "takes minutes, and its figures mean nothing on a busy machine"]
fn measure_fleets() {
    for gateways in [3, 8] {
        for limit in ["10/s", "100/s", "1000/s", "5000/s"] {
            for traffic in [Traffic::Even, Traffic::Skewed, Traffic::Moving] {
                check(gateways, limit, traffic, 10);
            }
        }
    }
}

#[test]
fn a_quota_is_used_up_to_the_last_unit_and_no_further() {
    run(async {
        let members = fleet(&Fixture::new(), 3).await;
        let limits = Arc::new(quota("1000/day"));
        let second = Duration::from_secs(2);
        let outcome = load(&members, &limits, Traffic::Moving, 2_000, second).await;
        // What lay idle at a gateway comes back to be used by the others.
        let mut admitted = outcome.admitted.len();
        until("all of it is used", async || {
            for member in &members {
                admitted += usize::from(member.admits(&limits).await);
            }
            admitted >= 1_000
        })
        .await;
        sleep(Duration::from_millis(500)).await;
        for member in &members {
            admitted += usize::from(member.admits(&limits).await);
        }
        assert_eq!(admitted, 1_000);
    });
}

#[test]
fn a_cold_gateway_knows_what_others_have_used() {
    run(async {
        let fixture = Fixture::new();
        let members = fleet(&fixture, 2).await;
        let limits = quota("10/day");
        for n in 0..10 {
            assert!(members[n % 2].admits(&limits).await, "{n}");
        }
        let late = Member::new(&fixture, "late").await;
        let over = late.charge(&limits, 1).await.err().unwrap();
        assert_eq!(over.violated.iter().collect::<Vec<_>>(), [Policy::Quota(Unit::Day)]);
        assert!(matches!(over.retry_after, RetryAfter::In(wait) if wait > Duration::ZERO));
    });
}

#[test]
fn a_refused_request_is_charged_to_no_policy() {
    run(async {
        let members = fleet(&Fixture::new(), 2).await;
        let limits = Limits {
            rate: Some(RateLimit::new("1/s".parse().unwrap(), Some(5))),
            quotas: Box::new(["2/day".parse::<Rate>().unwrap()]),
            ..Limits::default()
        };
        for n in 0..20 {
            assert_eq!(members[n % 2].admits(&limits).await, n < 2, "{n}");
        }
        let terms = Terms::of(Some(&limits), None).unwrap();
        let uses = members[0].limiter.uses(members[0].party(), &terms).await.unwrap();
        let left: Vec<_> = uses.iter().map(|one| (one.policy, one.remaining)).collect();
        assert_eq!(left[1], (Policy::Quota(Unit::Day), 0));
        assert!(left[0].0 == Policy::Rate && left[0].1 >= 3, "{left:?}");
    });
}

#[test]
fn slots_are_counted_over_the_fleet_and_freed_by_those_who_leave() {
    run(async {
        let members = fleet(&Fixture::new(), 2).await;
        let limits = Limits { concurrency: Some(3), ..Limits::default() };
        let first = members[0].charge(&limits, 1).await.unwrap();
        let second = members[0].charge(&limits, 1).await.unwrap();
        let third = members[1].charge(&limits, 1).await.unwrap();
        for member in &members {
            let over = member.charge(&limits, 1).await.err().unwrap();
            assert_eq!(over.violated.iter().collect::<Vec<_>>(), [Policy::Concurrency]);
        }
        drop((first, second));
        let mut held = Vec::new();
        until("the other gateway has the free slots", async || {
            held.extend(members[1].charge(&limits, 1).await);
            held.len() == 2
        })
        .await;
        assert!(members[0].charge(&limits, 1).await.is_err());
        drop((third, held));
        let terms = Terms::of(Some(&limits), None).unwrap();
        until("all slots are free", async || {
            let uses = members[0].limiter.uses(members[0].party(), &terms).await.unwrap();
            uses.iter().all(|one| one.remaining == 3)
        })
        .await;
    });
}

#[test]
fn slots_that_are_in_use_outlast_the_lease() {
    run(async {
        let members = fleet(&Fixture::new(), 2).await;
        let limits = Limits { concurrency: Some(1), ..Limits::default() };
        let running = members[0].charge(&limits, 1).await.unwrap();
        let began = Instant::now();
        while began.elapsed() < LEASE * 2 {
            assert!(members[1].charge(&limits, 1).await.is_err());
            sleep(Duration::from_millis(50)).await;
        }
        drop(running);
    });
}

#[test]
fn a_reset_gives_all_back_on_every_gateway() {
    run(async {
        let members = fleet(&Fixture::new(), 2).await;
        let limits = quota("5/day");
        let admit_all = async || {
            let mut admitted = 0;
            for _ in 0..10 {
                for member in &members {
                    admitted += u32::from(member.admits(&limits).await);
                }
            }
            admitted
        };
        assert_eq!(admit_all().await, 5);
        let terms = Terms::of(Some(&limits), None).unwrap();
        members[0].limiter.reset(members[0].party(), &terms).await.unwrap();
        let mut admitted = 0;
        until("five more were admitted", async || {
            admitted += admit_all().await;
            admitted >= 5
        })
        .await;
        assert_eq!(admitted + admit_all().await, 5);
    });
}
