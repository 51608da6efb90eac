//! How what keys use gets to the store: by the settings that are current, and by how far a store can be
//! believed that has acknowledged something.

use std::time::Duration;

use keygate_config::{Live, Store};
use keygate_store::usage::records::{BATCH_ROWS_MAX, Retention};
use keygate_store::usage::{FlushSettings, Sending};

use crate::clock;

/// How long Redis may take to lose what it has acknowledged: it writes its log every second, and a
/// failover takes a few.
const REDIS_SETTLES: Duration = Duration::from_secs(15);

/// The most rows of a batch for the embedded store: each batch is a transaction, and that takes the disk as
/// long as hundreds of rows. A change of a key waits until one is done, so it is not more than some 10 ms of
/// work; a Redis takes it too, should these be sent to one.
const EMBEDDED_ROWS_MAX: usize = 1_000;

pub(crate) fn sending(live: &Live) -> Sending {
    let (settled_after, rows_max) = match live.config().store {
        Store::Embedded(_) => (Duration::ZERO, EMBEDDED_ROWS_MAX),
        Store::Redis(_) => (REDIS_SETTLES, BATCH_ROWS_MAX),
    };
    let live = live.clone();
    let settings = move || {
        let config = live.config();
        let millis = |keep: Duration| u64::try_from(keep.as_millis()).unwrap_or(u64::MAX);
        let keep = &config.usage.keep;
        let (minutes, hours, days) = (millis(keep.minutes), millis(keep.hours), millis(keep.days));
        let keep = Retention { minutes, hours, days };
        FlushSettings { interval: config.usage.flush_interval, keep }
    };
    Sending { settings: Box::new(settings), settled_after, rows_max, clock: clock::now }
}
