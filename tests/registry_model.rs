//! The admin API against a model: random calls, each with the answer that the model gives; what the
//! proxy then says of the keys; and at the end every record, every list and every entry of the audit
//! log. `MODEL_SEQUENCES` says how many; `make soak` runs two thousand on each store.

mod model;
mod play;

use self::play::Play;
use crate::harness::{Fleet, Gateway, Redis, Setup, Upstream, alone, scale};

/// Cap of live keys an app, low enough to be met.
const KEYS_MAX_LIVE: usize = 3;

fn setup(upstream: &Upstream) -> Setup {
    let lines = format!("keys_max_live = {KEYS_MAX_LIVE}");
    Setup::in_front_of(upstream).keys(&lines).log("info")
}

/// Changes go to the first gateway, which requests pass too; reads to the last.
fn play(gateways: &[Gateway]) {
    let _alone = alone();
    let seed = scale("KEYGATE_SEED", fastrand::u64(..));
    println!("KEYGATE_SEED={seed}");
    for n in 0..scale("MODEL_SEQUENCES", 40) {
        let random = fastrand::Rng::with_seed(seed.wrapping_add(n));
        let (first, last) = (gateways.first().unwrap(), gateways.last().unwrap());
        Play::new(first, last, random, format!("seed {seed}, sequence {n}")).run();
    }
}

#[test]
fn the_embedded_store_is_as_the_model_says() {
    let upstream = Upstream::start();
    play(&[setup(&upstream).start()]);
}

#[test]
fn a_fleet_on_redis_is_as_the_model_says() {
    let (upstream, redis) = (Upstream::start(), Redis::start());
    play(&Fleet::of(2, &setup(&upstream).redis(&redis)));
}
