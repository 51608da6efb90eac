//! What the benches measure on: a real gateway over a store that answers from a list of keys made
//! by the bench. Seeding a synced store with a million keys would take an hour.

// Each bench uses its own part of this.
#![allow(dead_code, reason = "each bench uses its own part")]

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use keygate_config::live::Current;
use keygate_config::{Cache, Config, Source};
use keygate_core::key::{MintedKey, PepperId};
use keygate_core::{
    AccountId, AppId, Environment, KeyDigest, KeyId, KeyKind, Pepper, Peppers, TokenId, UnixMillis,
};
use keygate_proxy::report::Reporters;
use keygate_proxy::{Gateway, GatewayParts, Groundwork};
use keygate_store::cached::CachedKeys;
use keygate_store::coherence::Coherence;
use keygate_store::failures::FailureLimiter;
use keygate_store::keys::{
    ChangeNumber, Done, Imported, KeyStore, Once, Page, Remembered, StoreError, StoredRecord, Write,
};
use keygate_store::limits::Limiter;
use keygate_store::records::{
    Account, AccountStatus, AdminToken, App, AppStatus, AuditEntry, Key, KeyStatus, Logged,
    OwnedKey, Version,
};
use keygate_store::usage::records::{
    LastUse, Retention, SourceId, UsageBatch, UsagePoint, UsageQuery,
};
use keygate_telemetry::Metrics;
use pingora::http::RequestHeader;

pub(crate) const PEER: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
pub(crate) const NOW: UnixMillis = UnixMillis(1_790_000_000_000);

const TIER: &str = "all";
const CONFIG: &str = r#"
[server]
listen = ["127.0.0.1:8080"]
[cache]
keys_max = 4_000_000
ttl = "1h"
# More than any bench can use, so that no request is refused.
[tiers.all]
rate = "1000000000/s"
quotas = ["1000000000000/day", "1000000000000/month"]
concurrency = 1000
[upstreams.orders]
targets = ["127.0.0.1:9000"]
[[routes]]
name = "orders.read"
path = "/v1/orders"
methods = ["GET"]
upstream = "orders"
auth = "key"
scopes = ["read:orders"]
[[routes]]
name = "orders.write"
path = "/v1/orders"
methods = ["POST"]
upstream = "orders"
auth = "key"
scopes = ["write:orders"]
"#;

pub(crate) fn config() -> Arc<Config> {
    let source = Source::alone("bench.toml", CONFIG, Path::new(""));
    Arc::new(keygate_config::parse(source).expect("the bench's config is valid"))
}

/// Whether this run is to measure. A run as a test only shows that the bench works, in an
/// unoptimised build.
pub(crate) fn measures() -> bool {
    std::env::args().any(|arg| arg == "--bench")
}

/// As many as are to be measured; else no more than show that a bench works.
pub(crate) fn enough(keys: usize) -> usize {
    if measures() { keys } else { keys.min(1_000) }
}

/// So many keys of one app, each made from its number.
pub(crate) struct KeyRing {
    pub(crate) texts: Vec<String>,
    pub(crate) digests: Vec<KeyDigest>,
    numbers: HashMap<KeyDigest, usize>,
    pepper: PepperId,
    tier: Option<&'static str>,
}

pub(crate) fn peppers() -> Peppers {
    Peppers::new(Pepper::new(&[7; 32]), Vec::new())
}

impl KeyRing {
    pub(crate) fn new(count: usize) -> Self {
        let pepper = Pepper::new(&[7; 32]);
        let mut ring = Self {
            texts: Vec::with_capacity(count),
            digests: Vec::with_capacity(count),
            numbers: HashMap::with_capacity(count),
            pepper: pepper.id(),
            tier: None,
        };
        for number in 0..count {
            let entropy = pepper.derive(&number.to_string());
            let minted =
                MintedKey::mint(KeyKind::Secret, Environment::Live, None, &pepper, &entropy);
            ring.numbers.insert(minted.digest, number);
            ring.digests.push(minted.digest);
            ring.texts.push(minted.reveal().to_string());
        }
        ring
    }

    /// The same keys with limits: a rate, two quotas and a concurrency.
    pub(crate) fn limited(count: usize) -> Self {
        Self { tier: Some(TIER), ..Self::new(count) }
    }

    /// The account, the app and the keys, parents first.
    pub(crate) fn records(&self) -> Vec<StoredRecord> {
        let owned = || self.digests.iter().filter_map(|digest| self.owned(*digest));
        let Some(first) = owned().next() else { return Vec::new() };
        let parents = [StoredRecord::Account(first.account), StoredRecord::App(first.app)];
        parents.into_iter().chain(owned().map(|owned| StoredRecord::Key(owned.key))).collect()
    }

    fn owned(&self, digest: KeyDigest) -> Option<OwnedKey> {
        let number = *self.numbers.get(&digest)?;
        let mut entropy = [0; 10];
        entropy[2..].copy_from_slice(&(number as u64).to_be_bytes());
        let (account, app) = (AccountId::new(NOW, [1; 10]), AppId::new(NOW, [1; 10]));
        let granted = vec!["read:orders".parse().ok()?, "write:orders".parse().ok()?];
        Some(OwnedKey {
            key: Key {
                id: KeyId::new(NOW, entropy),
                digest,
                pepper: Some(self.pepper),
                app,
                account,
                kind: KeyKind::Secret,
                environment: Environment::Live,
                name: None,
                owner: None,
                purpose: None,
                hint: "sk_live_xxxx".to_owned(),
                scopes: granted.clone(),
                expires_at: None,
                tier: self.tier.map(ToOwned::to_owned),
                limits: None,
                allowed_cidrs: Vec::new(),
                allowed_origins: Vec::new(),
                metadata: Default::default(),
                rotated_from: None,
                rotated_to: None,
                status: KeyStatus::Active,
                created_at: NOW,
                updated_at: NOW,
                version: Version::default(),
            },
            app: App {
                id: app,
                account,
                name: "bench".to_owned(),
                owner: None,
                purpose: None,
                environment: Environment::Live,
                granted_scopes: granted,
                allowed_cidrs: Vec::new(),
                tier: None,
                max_age: None,
                status: AppStatus::Active,
                metadata: Default::default(),
                created_at: NOW,
                updated_at: NOW,
                version: Version::default(),
            },
            account: Account {
                id: account,
                name: "bench".to_owned(),
                owner: None,
                purpose: None,
                status: AccountStatus::Active,
                metadata: Default::default(),
                created_at: NOW,
                updated_at: NOW,
                version: Version::default(),
            },
        })
    }
}

fn refused<T>() -> Result<T, StoreError> {
    Err(StoreError::NotFound("what a bench does not use"))
}

impl KeyStore for KeyRing {
    async fn find(&self, digest: KeyDigest) -> Result<Option<OwnedKey>, StoreError> {
        Ok(self.owned(digest))
    }
    async fn commit(&self, _: Write, _: AuditEntry) -> Result<ChangeNumber, StoreError> {
        refused()
    }
    async fn account(&self, _: AccountId) -> Result<Option<Account>, StoreError> {
        refused()
    }
    async fn app(&self, _: AppId) -> Result<Option<App>, StoreError> {
        refused()
    }
    async fn key(&self, _: KeyId) -> Result<Option<Key>, StoreError> {
        refused()
    }
    async fn accounts(&self, _: Page<AccountId>) -> Result<Vec<Account>, StoreError> {
        refused()
    }
    async fn apps(&self, _: AccountId, _: Page<AppId>) -> Result<Vec<App>, StoreError> {
        refused()
    }
    async fn keys(&self, _: AppId, _: Page<KeyId>) -> Result<Vec<Key>, StoreError> {
        refused()
    }
    async fn commit_once(&self, _: Write, _: AuditEntry, _: Once) -> Result<Done, StoreError> {
        refused()
    }
    async fn remembered(
        &self,
        _: [u8; 32],
        _: UnixMillis,
    ) -> Result<Option<Remembered>, StoreError> {
        refused()
    }
    async fn token(&self, _: TokenId) -> Result<Option<AdminToken>, StoreError> {
        refused()
    }
    async fn token_by_hash(&self, _: [u8; 32]) -> Result<Option<AdminToken>, StoreError> {
        refused()
    }
    async fn tokens(&self, _: Page<TokenId>) -> Result<Vec<AdminToken>, StoreError> {
        refused()
    }
    async fn last_used(&self, _: Vec<KeyId>) -> Result<Vec<Option<LastUse>>, StoreError> {
        refused()
    }
    async fn add_usage(&self, _: Arc<UsageBatch>, _: Retention) -> Result<(), StoreError> {
        refused()
    }
    async fn usage_number(&self, _: SourceId) -> Result<u64, StoreError> {
        refused()
    }
    async fn usage(&self, _: UsageQuery) -> Result<Vec<UsagePoint>, StoreError> {
        refused()
    }
    async fn pepper_counts(&self, _: UnixMillis) -> Result<Vec<(PepperId, u64)>, StoreError> {
        refused()
    }
    async fn audit(&self, _: Page<ChangeNumber>) -> Result<Vec<Logged>, StoreError> {
        refused()
    }
    async fn peppers(&self, _: UnixMillis) -> Result<Vec<PepperId>, StoreError> {
        Ok(vec![self.pepper])
    }
    async fn import(&self, _: Vec<StoredRecord>, _: AuditEntry) -> Result<Imported, StoreError> {
        refused()
    }
}

/// A cache in front of `ring`, with every key loaded.
pub(crate) fn warm_cache(ring: KeyRing, settings: &Cache) -> Arc<CachedKeys<KeyRing>> {
    let digests = ring.digests.clone();
    let keys = Arc::new(CachedKeys::new(ring, Arc::new(Coherence::alone()), settings));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime can be made").block_on(async {
        for digest in digests {
            keys.load(digest).await.expect("the ring answers").expect("the key is on the ring");
        }
    });
    keys
}

/// A gateway whose cache holds so many keys, and the keys.
pub(crate) fn gateway(count: usize) -> (Gateway<KeyRing>, Vec<String>) {
    let ring = KeyRing::new(enough(count));
    let texts = ring.texts.clone();
    let keys = warm_cache(ring, &config().cache);
    (gateway_of(keys, Limiter::in_memory(real_clock)), texts)
}

/// The same with limits.
pub(crate) fn limited_gateway(count: usize) -> (Gateway<KeyRing>, Vec<String>) {
    let ring = KeyRing::limited(enough(count));
    let texts = ring.texts.clone();
    let keys = warm_cache(ring, &config().cache);
    (gateway_of(keys, Limiter::in_memory(real_clock)), texts)
}

pub(crate) fn gateway_of(keys: Arc<CachedKeys<KeyRing>>, limiter: Limiter) -> Gateway<KeyRing> {
    let config = config();
    let current = Current {
        config: Arc::clone(&config),
        peppers: Arc::new(peppers()),
        inputs: Arc::default(),
    };
    let metrics = Metrics::new("bench");
    Gateway::new(GatewayParts {
        keys,
        groundwork: Groundwork::new(current, &metrics, &Reporters::default())
            .expect("the target is an address"),
        failures: Arc::new(FailureLimiter::new(
            config.server.failed_auth.rate,
            config.server.failed_auth.addresses_max,
        )),
        limiter,
        metrics,
        clock: real_clock,
    })
}

/// The clock that the binary uses, so that its cost counts.
#[expect(clippy::disallowed_methods, reason = "a bench owns its clock, as the binary does")]
pub(crate) fn real_clock() -> UnixMillis {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    UnixMillis(since.map_or(0, |since: Duration| since.as_millis() as u64))
}

/// The head that a small client would send.
pub(crate) fn head(key: &str) -> RequestHeader {
    let mut head = RequestHeader::build("GET", b"/v1/orders/123", Some(4)).expect("a valid head");
    for (name, value) in [
        ("Host", "api.example.com"),
        ("User-Agent", "bench/1.0"),
        ("Accept", "*/*"),
        ("Authorization", &format!("Bearer {key}")),
    ] {
        head.append_header(name.to_owned(), value.to_owned()).expect("a valid header");
    }
    head
}
