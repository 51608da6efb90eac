//! Limits of a fleet: several gateways, one store, real time. What they admit together is held
//! against a bucket that sees every request.

mod load;

use std::time::Instant;

use keygate_core::KeyRecord;
use keygate_core::limit::policy::{Over, Policy, RetryAfter};
use keygate_core::limit::terms::{Limits, Party, RateLimit, Terms};
use keygate_core::limit::{Rate, Unit};
use tokio::time::sleep;

use self::load::{Traffic, check, load};
use super::*;
use crate::boil::boil;
use crate::contract::run;
use crate::keys::KeyStore;
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
    store: RedisStore,
    limiter: Limiter,
    record: KeyRecord,
}

impl Member {
    async fn new(fixture: &Fixture, id: &str) -> Self {
        let store = fixture.gateway(id).await;
        let limiter = Limiter::leased(store.lessor(), LEASE, unix);
        let account = account(1);
        let app = app(1, &account);
        let record = boil(OwnedKey { key: key(1, &app), app, account }, 0);
        Self { store, limiter, record }
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
        terms(&quota("1/day")).party(&self.record)
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

async fn at_once(member: &Member, limits: &Limits, requests: usize) -> Vec<Result<Charge, Over>> {
    futures_util::future::join_all((0..requests).map(|_| member.charge(limits, 1))).await
}

#[test]
fn as_many_requests_at_once_as_the_limit_allows_are_all_admitted() {
    run(async {
        for limits in [
            rate("10/s", None),
            rate("100/s", None),
            quota("20/day"),
            Limits { concurrency: Some(10), ..Limits::default() },
        ] {
            let members = fleet(&Fixture::new(), 3).await;
            let uses = members[0].limiter.uses(members[0].party(), &terms(&limits)).await.unwrap();
            let most = usize::try_from(uses.iter().next().unwrap().limit).unwrap();
            let charges = at_once(&members[0], &limits, most).await;
            let refused = charges.iter().filter_map(|charge| charge.as_ref().err()).count();
            assert_eq!(refused, 0, "of {most} under {limits:?}");
            let asked = members[0].limiter.asked()[0];
            assert!(asked <= 4, "{asked} questions for {most} requests that came together");
            drop(charges);
        }
    });
}

fn terms(limits: &Limits) -> Terms<'_> {
    Terms::of(Some(limits), None).unwrap()
}

#[test]
fn a_policy_that_was_not_in_the_way_is_not_blamed() {
    run(async {
        let members = fleet(&Fixture::new(), 2).await;
        let rate = Some(RateLimit::new("100/s".parse().unwrap(), None));
        let limits = Limits { rate, ..quota("2/day") };
        assert!(members[0].admits(&limits).await && members[0].admits(&limits).await);
        let over = members[1].charge(&limits, 1).await.err().unwrap();
        assert_eq!(over.violated.iter().collect::<Vec<_>>(), [Policy::Quota(Unit::Day)]);
    });
}

#[test]
fn a_costly_request_is_told_the_truth_after_one_question() {
    run(async {
        let members = fleet(&Fixture::new(), 3).await;
        let limits = rate("1/m", Some(10));
        members[0].charge(&limits, 7).await.unwrap().keep();
        let before = members[0].limiter.asked()[0];
        let over = members[0].charge(&limits, 5).await.err().unwrap();
        let RetryAfter::In(wait) = over.retry_after else { panic!("it can pass") };
        assert!(wait > Duration::from_secs(100) && wait <= Duration::from_secs(120), "{wait:?}");
        assert_eq!(members[0].limiter.asked()[0], before + 1);
    });
}

#[test]
fn slots_beyond_a_lowered_limit_are_given_up_by_every_gateway() {
    run(async {
        let members = fleet(&Fixture::new(), 2).await;
        let most = |most| Limits { concurrency: Some(most), ..Limits::default() };
        let (high, low) = (most(10), most(3));
        let mut running = std::collections::VecDeque::new();
        for n in 0..10 {
            running.push_back(members[n % 2].charge(&high, 1).await.unwrap());
        }
        let mut n = 0;
        until("as few run as may", async || {
            // One ends, and another comes to the same gateway.
            drop(running.pop_front());
            running.extend(members[n % 2].charge(&low, 1).await);
            n += 1;
            running.len() <= 3
        })
        .await;
        for member in &members {
            running.extend(member.charge(&low, 1).await);
        }
        assert!(running.len() <= 3, "{} run", running.len());
    });
}

#[test]
fn a_server_that_takes_no_writes_still_answers_look_ups_while_limits_ask_it() {
    run(async {
        for (setting, value) in [("min-replicas-to-write", "1"), ("maxmemory", "1")] {
            let server = Server::start(&[]);
            let fixture = Fixture::on(&server);
            let members = fleet(&fixture, 1).await;
            let set = [&b"CONFIG"[..], b"SET", setting.as_bytes(), value.as_bytes()];
            fixture.ask::<String>(&set).await;
            let limits = rate("1000/s", None);
            let store = &members[0].store;
            for _ in 0..50 {
                for charge in at_once(&members[0], &limits, 10).await {
                    assert!(charge.is_ok(), "its share of the limit is free");
                }
                let found = store.find(keygate_core::KeyDigest::from_bytes([7; 32])).await;
                assert!(found.is_ok(), "{setting}: {:?}", found.err());
            }
        }
    });
}

#[test]
fn a_store_that_lost_everything_is_told_what_was_used() {
    run(async {
        let fixture = Fixture::new();
        let members = fleet(&fixture, 2).await;
        let limits = Limits {
            rate: Some(RateLimit::new("1/h".parse().unwrap(), Some(20))),
            ..quota("20/month")
        };
        for n in 0..20 {
            assert!(members[n % 2].admits(&limits).await, "{n}");
        }
        let lost: u64 = fixture.ask(&[b"DEL", &fixture.name(&limit_name(&members[0]))]).await;
        assert_eq!(lost, 1);
        let mut extra = 0;
        until("both have asked again", async || {
            for member in &members {
                extra += u32::from(member.admits(&limits).await);
            }
            let uses = members[0].limiter.uses(members[0].party(), &terms(&limits)).await.unwrap();
            extra > 1 || uses.iter().all(|one| one.remaining == 0)
        })
        .await;
        // Who asks first cannot know what the other had: one comes in between here.
        assert!(extra <= 1, "{extra}");
    });
}

fn limit_name(member: &Member) -> Vec<u8> {
    [b"lk:", member.party().id().as_slice()].concat()
}

#[test]
fn what_cannot_be_read_is_an_error_until_it_is_reset() {
    run(async {
        let fixture = Fixture::new();
        let members = fleet(&fixture, 1).await;
        let limits = quota("5/day");
        let name = fixture.name(&limit_name(&members[0]));
        fixture.ask::<String>(&[b"SET", &name, b"\xc1 nonsense"]).await;
        let (party, limiter) = (members[0].party(), &members[0].limiter);
        assert!(limiter.uses(party, &terms(&limits)).await.is_err());
        limiter.reset(party, &terms(&limits)).await.unwrap();
        assert!(members[0].admits(&limits).await);
    });
}

/// The script works out months itself, by the server's clock.
#[test]
fn months_end_in_the_store_as_they_do_here() {
    run(async {
        let script = include_str!("../limits.lua");
        let begin = script.find("local function month_end()").unwrap();
        let end = begin + script[begin..].find("\nend\n").unwrap() + "\nend\n".len();
        let asks = format!(
            "local now = tonumber(ARGV[1])\n{}return string.format('%.0f', month_end())",
            &script[begin..end]
        );
        let mut connection = connect(Server::shared().port).await;
        // Four centuries, a bit less than a month apart.
        for n in 0..4_900_u64 {
            let now = UnixMillis(n * 30 * 86_400_000 + n);
            let call = redis::Script::new(&asks);
            let ends: String = call.arg(now.0).invoke_async(&mut connection).await.unwrap();
            let ours = keygate_core::limit::calendar::window_end(Unit::Month, now);
            assert_eq!(ends, ours.0.to_string(), "{now:?}");
        }
    });
}
