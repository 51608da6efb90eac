use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use keygate_core::limit::terms::{Limits, Terms};

use super::*;
use crate::boil::boil;
use crate::contract::run;
use crate::records::OwnedKey;
use crate::testing::{account, app, key};

const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

fn record() -> KeyRecord {
    let account = account(1);
    let app = app(1, &account);
    boil(OwnedKey { key: key(1, &app), app, account }, 0)
}

fn two_at_a_time() -> Limits {
    Limits { concurrency: Some(2), ..Limits::default() }
}

#[test]
fn a_panic_frees_the_slot_and_charges_nothing() {
    run(async {
        let (limiter, record) = (Limiter::in_memory(|| NOW), record());
        let limits = Limits { quotas: Box::new(["1/day".parse().unwrap()]), ..two_at_a_time() };
        let terms = Terms::of(Some(&limits), None).unwrap();
        for _ in 0..100 {
            let request = async {
                let now = limiter.moment(Instant::now(), NOW);
                let _charge = limiter.charge(&record, &terms, 1, now).await.unwrap();
                assert_eq!(limiter.running(), 1);
                panic!("in the middle of a request");
            };
            assert!(AssertUnwindSafe(request).catch_unwind().await.is_err());
            assert_eq!(limiter.running(), 0);
        }
    });
}

#[test]
fn a_record_that_is_read_again_resets_no_limit() {
    run(async {
        let limiter = Limiter::in_memory(|| NOW);
        let limits = two_at_a_time();
        let terms = Terms::of(Some(&limits), None).unwrap();
        let now = limiter.moment(Instant::now(), NOW);
        let mut running = Vec::new();
        for _ in 0..2 {
            running.push(limiter.charge(&record(), &terms, 1, now).await.unwrap());
            // The records are gone; the meter is not.
            for _ in 0..2_000 {
                limiter.0.sweep();
            }
        }
        assert!(limiter.charge(&record(), &terms, 1, now).await.is_err());
        drop(running);
        for _ in 0..2_000 {
            limiter.0.sweep();
        }
        assert_eq!(limiter.meters(), 0);
    });
}
