//! How what keys use gets to the store: by the settings that are current, and by how far a store can be
//! believed that has acknowledged something.

use std::time::Duration;

use keygate_config::{Live, Store};
use keygate_store::usage::records::Retention;
use keygate_store::usage::{FlushSettings, Sending};

use crate::clock;

/// How long Redis may take to lose what it has acknowledged: it writes its log every second, and a
/// failover takes a few.
const REDIS_SETTLES: Duration = Duration::from_secs(15);

pub(crate) fn sending(live: &Live) -> Sending {
    let settled_after = match live.config().store {
        Store::Embedded(_) => Duration::ZERO,
        Store::Redis(_) => REDIS_SETTLES,
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
    Sending { settings: Box::new(settings), settled_after, clock: clock::now }
}
