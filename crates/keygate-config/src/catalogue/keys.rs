//! The settings of keys.

use std::path::PathBuf;
use std::time::Duration;

use keygate_core::credential::FURTHER_HEADERS_MAX;
use keygate_core::key::Brand;

use super::{DAY_MS, SECOND_MS};
use crate::setting::Presence::{Default, Optional};
use crate::setting::{Setting, Table};
use crate::word::{FurtherHeader, KeySource};

pub(crate) const PEPPER_FILE: Setting<PathBuf> = Setting::new(
    "pepper_file",
    Default("\"data/pepper\""),
    "the secret that keys are made under; made on first start",
);
pub(crate) const PREVIOUS_PEPPER_FILES: Setting<Vec<PathBuf>> =
    Setting::new("previous_pepper_files", Default("[]"), "peppers of keys that were made earlier")
        .within(0, 8);
pub(crate) const BRAND: Setting<Brand> =
    Setting::new("brand", Optional("none"), "what every key begins with: `acme_sk_live_…`");
pub(crate) const SOURCES: Setting<Vec<KeySource>> = Setting::new(
    "sources",
    Default("[\"bearer\", \"basic\", \"x-api-key\"]"),
    "where a request may carry its key",
)
.within(1, 3);
pub(crate) const KEYS_MAX_LIVE: Setting<u64> = Setting::new(
    "keys_max_live",
    Default("5"),
    "the most keys of one app that are neither revoked nor expired",
)
.within(1, 1_000);
pub(crate) const ACCEPT_IMPORTED: Setting<bool> = Setting::new(
    "accept_imported",
    Default("false"),
    "whether keys that other systems made are let in once they are imported. Any made-up key then \
     costs a look-up: `[server.failed_auth]` and `[cache] unknown_max` bound how many",
);
pub(crate) const IMPORTED_HEADERS: Setting<Vec<FurtherHeader>> = Setting::new(
    "imported_headers",
    Default("[]"),
    "headers besides `sources` in which those systems took their keys, such as `apikey`; needs \
     `accept_imported`. They are for keys alone: no upstream gets them, on public routes either",
)
.within(0, FURTHER_HEADERS_MAX as u64);
pub(crate) const EXPIRY_NOTICE: Setting<Duration> = Setting::new(
    "expiry_notice",
    Optional("off"),
    "how long before a key's end its answers tell of it, in `X-Keygate-Key-Expires`",
)
.within(SECOND_MS, 366 * DAY_MS);

pub(crate) static TABLE: Table = Table {
    header: "[keys]",
    meaning: "How keys are made, and where requests carry them.",
    settings: &[
        &PEPPER_FILE,
        &PREVIOUS_PEPPER_FILES,
        &BRAND,
        &SOURCES,
        &KEYS_MAX_LIVE,
        &ACCEPT_IMPORTED,
        &IMPORTED_HEADERS,
        &EXPIRY_NOTICE,
    ],
    tables: &[],
};
