//! Quotas of a limiter whose process ends without a word, again and again.

use keygate_core::KeyRecord;
use keygate_core::limit::terms::{Limits, Terms};

use super::*;
use crate::boil::boil;
use crate::contract::run;
use crate::limits::Limiter;
use crate::records::OwnedKey;
use crate::testing::{account, app, key};

fn noon() -> UnixMillis {
    NOW
}

fn start(place: &Place) -> Limiter {
    Limiter::on_file(&place.path, noon).unwrap()
}

/// The key as a process that has just started reads it.
fn record() -> KeyRecord {
    let account = account(1);
    let app = app(1, &account);
    boil(OwnedKey { key: key(1, &app), app, account }, 0)
}

fn quota(text: &str) -> Limits {
    Limits { quotas: Box::new([text.parse().unwrap()]), ..Limits::default() }
}

/// What one request of this cost comes to: whether it is admitted.
async fn admits(limiter: &Limiter, record: &KeyRecord, limits: &Limits, cost: u64) -> bool {
    let terms = Terms::of(Some(limits), None).unwrap();
    let now = limiter.moment(quanta::Instant::now(), NOW);
    let charged = limiter.charge(record, &terms, cost, now).await;
    charged.map(|mut charge| charge.keep()).is_ok()
}

/// A sweep looks at a part of the meters; all of them rest, so all go.
fn sweep_out(limiter: &Limiter) {
    while limiter.meters() > 0 {
        limiter.0.sweep();
    }
}

async fn used(limiter: &Limiter, limits: &Limits) -> u64 {
    let terms = Terms::of(Some(limits), None).unwrap();
    let uses = limiter.uses(terms.party(&record()), &terms).await.unwrap();
    uses.iter().map(|one| one.limit - one.remaining).sum()
}

#[test]
fn a_small_quota_is_exact_over_any_number_of_crashes() {
    let place = Place::new();
    let limits = quota("999/day");
    let mut admitted = 0;
    run(async {
        for crash in 0.. {
            // Not dropped, as a killed process drops nothing.
            let (limiter, record) = (std::mem::ManuallyDrop::new(start(&place)), record());
            assert_eq!(used(&limiter, &limits).await, admitted);
            for _ in 0..crash * 7 % 50 + 1 {
                if !admits(&limiter, &record, &limits, 1).await {
                    return;
                }
                admitted += 1;
            }
        }
    });
    assert_eq!(admitted, 999);
}

#[test]
fn a_crash_wastes_at_most_a_thousandth_of_a_quota_and_hands_nothing_out_twice() {
    for (text, cost, crashes) in [("20000/month", 1, 40), ("5000000/day", 777, 40)] {
        let place = Place::new();
        let limits = quota(text);
        let most = limits.quotas[0].count;
        let mut admitted = 0;
        run(async {
            for crash in 0..=crashes {
                let (limiter, record) = (std::mem::ManuallyDrop::new(start(&place)), record());
                let last = crash == crashes;
                for _ in 0..if last { u64::MAX } else { crash * 13 % 60 } {
                    if !admits(&limiter, &record, &limits, cost).await {
                        break;
                    }
                    admitted += cost;
                }
            }
        });
        assert!(admitted <= most, "{admitted} of {text}");
        let wasted = most - admitted;
        assert!(wasted < crashes * spare(most) + cost, "{wasted} of {text} was wasted");
    }
}

#[test]
fn a_clean_stop_wastes_nothing() {
    let place = Place::new();
    let limits = quota("20000/month");
    run(async {
        for n in 0..20 {
            let (limiter, record) = (start(&place), record());
            assert_eq!(used(&limiter, &limits).await, n * 3);
            for _ in 0..3 {
                assert!(admits(&limiter, &record, &limits, 1).await);
            }
            limiter.stop().await;
        }
    });
}

#[test]
fn a_request_that_reached_nobody_costs_nothing_also_after_its_meter_was_dropped() {
    let place = Place::new();
    let limits = quota("3/day");
    let terms = Terms::of(Some(&limits), None).unwrap();
    run(async {
        let limiter = start(&place);
        for _ in 0..10 {
            let record = record();
            let now = limiter.moment(quanta::Instant::now(), NOW);
            drop(limiter.charge(&record, &terms, 1, now).await.unwrap());
            drop(record);
            sweep_out(&limiter);
        }
        let limiter = start(&place);
        for _ in 0..3 {
            assert!(admits(&limiter, &record(), &limits, 1).await);
            sweep_out(&limiter);
        }
        assert!(!admits(&limiter, &record(), &limits, 1).await);
    });
}

#[test]
fn a_reset_is_not_undone_by_a_crash() {
    let place = Place::new();
    let limits = quota("5/day");
    let terms = Terms::of(Some(&limits), None).unwrap();
    run(async {
        for _ in 0..3 {
            let (limiter, record) = (std::mem::ManuallyDrop::new(start(&place)), record());
            for _ in 0..5 {
                assert!(admits(&limiter, &record, &limits, 1).await);
            }
            assert!(!admits(&limiter, &record, &limits, 1).await);
            limiter.reset(terms.party(&record), &terms).await.unwrap();
        }
        // Also of one who has not come by since the start.
        let limiter = start(&place);
        assert!(admits(&limiter, &record(), &limits, 5).await);
        let limiter = start(&place);
        limiter.reset(terms.party(&record()), &terms).await.unwrap();
        assert_eq!(used(&start(&place), &limits).await, 0);
    });
}

/// If a charge in the middle of a reset could put the old use on record, or a reset take out what was
/// charged after it, then a crash would bring it back, or give it away.
#[test]
fn what_is_on_record_is_what_was_used_however_resets_and_requests_meet() {
    let place = Place::new();
    let limits = quota("900/day");
    let terms = Terms::of(Some(&limits), None).unwrap();
    let limiter = start(&place);
    let record = record();
    for _ in 0..50 {
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    run(async {
                        for _ in 0..5 {
                            admits(&limiter, &record, &limits, 1).await;
                        }
                    });
                });
            }
            run(async { limiter.reset(terms.party(&record), &terms).await.unwrap() });
        });
        let (here, on_record) =
            run(async { (used(&limiter, &limits).await, used(&start(&place), &limits).await) });
        assert_eq!(here, on_record);
    }
}
