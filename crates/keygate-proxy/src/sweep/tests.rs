use std::future::pending;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use keygate_config::Cache;
use keygate_core::key::PepperId;
use keygate_core::{AccountId, AppId, Environment, KeyId, KeyKind, TokenId};
use keygate_store::coherence::Coherence;
use keygate_store::keys::{
    ChangeNumber, Done, Imported, Once, Page, Remembered, StoredRecord, Subject, Write,
};
use keygate_store::records::{
    Account, AccountStatus, AdminToken, App, AppStatus, AuditEntry, Key, KeyStatus, Logged,
    OwnedKey, Version,
};
use keygate_store::usage::records::{
    LastUse, Retention, SourceId, UsageBatch, UsagePoint, UsageQuery,
};
use keygate_telemetry::Metrics;
use tokio::task::JoinHandle;

use super::*;
use crate::client::Client;

const NOW: UnixMillis = UnixMillis(1_000_000);

/// What a look-up meets.
#[derive(Clone)]
enum Find {
    Key(Box<OwnedKey>),
    Nothing,
    Outage,
    NoAnswer,
}

/// A store that answers every look-up alike.
struct Alike {
    find: Mutex<Find>,
    finds: AtomicUsize,
}

fn owned() -> OwnedKey {
    let (id, app, account) =
        (KeyId::new(NOW, [1; 10]), AppId::new(NOW, [1; 10]), AccountId::new(NOW, [1; 10]));
    OwnedKey {
        key: Key {
            id,
            digest: digest(1),
            pepper: Some(PepperId::from_bytes([7; 8])),
            app,
            account,
            kind: KeyKind::Secret,
            environment: Environment::Live,
            name: None,
            owner: None,
            purpose: None,
            hint: "sk_live_abcd".to_owned(),
            scopes: Vec::new(),
            expires_at: None,
            tier: None,
            limits: None,
            allowed_cidrs: Vec::new(),
            allowed_origins: Vec::new(),
            metadata: Default::default(),
            rotated_from: None,
            rotated_to: None,
            status: KeyStatus::Active,
            created_at: NOW,
            updated_at: NOW,
            version: Version(0),
        },
        app: App {
            id: app,
            account,
            name: "app".to_owned(),
            owner: None,
            purpose: None,
            environment: Environment::Live,
            granted_scopes: Vec::new(),
            allowed_cidrs: Vec::new(),
            tier: None,
            max_age: None,
            status: AppStatus::Active,
            metadata: Default::default(),
            created_at: NOW,
            updated_at: NOW,
            version: Version(0),
        },
        account: Account {
            id: account,
            name: "account".to_owned(),
            owner: None,
            purpose: None,
            status: AccountStatus::Active,
            metadata: Default::default(),
            created_at: NOW,
            updated_at: NOW,
            version: Version(0),
        },
    }
}

fn digest(n: u8) -> KeyDigest {
    KeyDigest::from_bytes([n; 32])
}

fn good() -> Find {
    Find::Key(Box::new(owned()))
}

fn revoked() -> Find {
    let mut owned = owned();
    owned.key.status = KeyStatus::Revoked { at: NOW, reason: None };
    Find::Key(Box::new(owned))
}

fn expired() -> Find {
    let mut owned = owned();
    owned.key.expires_at = Some(NOW);
    Find::Key(Box::new(owned))
}

fn unused<T>() -> Result<T, StoreError> {
    Err(StoreError::NotFound("what these tests do not use"))
}

impl KeyStore for Alike {
    async fn find(&self, _: KeyDigest) -> Result<Option<OwnedKey>, StoreError> {
        self.finds.fetch_add(1, Ordering::SeqCst);
        let find = self.find.lock().unwrap().clone();
        match find {
            Find::Key(owned) => Ok(Some(*owned)),
            Find::Nothing => Ok(None),
            Find::Outage => Err(StoreError::Unavailable("switched off".into())),
            Find::NoAnswer => pending().await,
        }
    }
    async fn commit(&self, _: Write, _: AuditEntry) -> Result<ChangeNumber, StoreError> {
        unused()
    }
    async fn remembered(
        &self,
        _: [u8; 32],
        _: UnixMillis,
    ) -> Result<Option<Remembered>, StoreError> {
        unused()
    }
    async fn account(&self, _: AccountId) -> Result<Option<Account>, StoreError> {
        unused()
    }
    async fn app(&self, _: AppId) -> Result<Option<App>, StoreError> {
        unused()
    }
    async fn key(&self, _: KeyId) -> Result<Option<Key>, StoreError> {
        unused()
    }
    async fn accounts(&self, _: Page<AccountId>) -> Result<Vec<Account>, StoreError> {
        unused()
    }
    async fn apps(&self, _: AccountId, _: Page<AppId>) -> Result<Vec<App>, StoreError> {
        unused()
    }
    async fn keys(&self, _: AppId, _: Page<KeyId>) -> Result<Vec<Key>, StoreError> {
        unused()
    }
    async fn commit_once(&self, _: Write, _: AuditEntry, _: Once) -> Result<Done, StoreError> {
        unused()
    }
    async fn token(&self, _: TokenId) -> Result<Option<AdminToken>, StoreError> {
        unused()
    }
    async fn token_by_hash(&self, _: [u8; 32]) -> Result<Option<AdminToken>, StoreError> {
        unused()
    }
    async fn tokens(&self, _: Page<TokenId>) -> Result<Vec<AdminToken>, StoreError> {
        unused()
    }
    async fn last_used(&self, _: Vec<KeyId>) -> Result<Vec<Option<LastUse>>, StoreError> {
        unused()
    }
    async fn add_usage(&self, _: Arc<UsageBatch>, _: Retention) -> Result<(), StoreError> {
        unused()
    }
    async fn usage_number(&self, _: SourceId) -> Result<u64, StoreError> {
        unused()
    }
    async fn usage(&self, _: UsageQuery) -> Result<Vec<UsagePoint>, StoreError> {
        unused()
    }
    async fn pepper_counts(&self, _: UnixMillis) -> Result<Vec<(PepperId, u64)>, StoreError> {
        unused()
    }
    async fn audit(&self, _: Page<ChangeNumber>) -> Result<Vec<Logged>, StoreError> {
        unused()
    }
    async fn peppers(&self, _: UnixMillis) -> Result<Vec<PepperId>, StoreError> {
        unused()
    }
    async fn import(&self, _: Vec<StoredRecord>, _: AuditEntry) -> Result<Imported, StoreError> {
        unused()
    }
}

fn sweep(coherence: Coherence, find: Find) -> Sweep<Alike> {
    let day = Duration::from_secs(86_400);
    let settings =
        Cache { keys_max: 1_000, ttl: day, unknown_max: 10, unknown_ttl: day, stale_max: day };
    let store = Alike { find: Mutex::new(find), finds: AtomicUsize::new(0) };
    let metrics = Metrics::new("1");
    Sweep {
        lines: Lines::new(metrics.requests_ended(), metrics.connections()),
        keys: Arc::new(CachedKeys::new(store, Arc::new(coherence), &settings)),
        clock: || NOW,
    }
}

impl Sweep<Alike> {
    fn finds(&self) -> usize {
        self.keys.store().finds.load(Ordering::SeqCst)
    }

    fn answer(&self, find: Find) {
        *self.keys.store().find.lock().unwrap() = find;
    }

    /// A request that runs on behalf of this key until it is cut.
    async fn request(&self, digest: KeyDigest) -> JoinHandle<Option<()>> {
        let key = self.keys.load(digest).await.unwrap().unwrap();
        let mut line = self.lines.open(Client::default());
        let (begin, began) = tokio::sync::oneshot::channel();
        let running = tokio::spawn(async move {
            let request = async {
                line::bind(digest, &key);
                begin.send(()).unwrap();
                pending().await
            };
            line.run(request).await
        });
        began.await.unwrap();
        running
    }
}

async fn is_cut(request: JoinHandle<Option<()>>) {
    assert_eq!(request.await.unwrap(), None);
}

/// Lets every task that was woken go on.
async fn settled() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_key_that_the_cache_vouches_for_is_not_looked_up() {
    let sweep = sweep(Coherence::alone(), good());
    let request = sweep.request(digest(1)).await;
    let finds = sweep.finds();
    sweep.once().await;
    settled().await;
    assert!(!request.is_finished());
    assert_eq!(sweep.finds(), finds);
}

#[tokio::test]
async fn many_requests_of_a_key_are_one_look_up() {
    let sweep = sweep(Coherence::alone(), good());
    let mut requests = Vec::new();
    for _ in 0..100 {
        requests.push(sweep.request(digest(1)).await);
    }
    let finds = sweep.finds();
    // A change that did no harm.
    sweep.keys.invalidate(Subject::Key(digest(1)));
    sweep.once().await;
    settled().await;
    assert_eq!(sweep.finds(), finds + 1);
    assert!(requests.iter().all(|request| !request.is_finished()));
    // What was learned is kept.
    sweep.once().await;
    assert_eq!(sweep.finds(), finds + 1);
    sweep.answer(revoked());
    sweep.keys.invalidate(Subject::Key(digest(1)));
    sweep.once().await;
    assert_eq!(sweep.finds(), finds + 2);
    for request in requests {
        is_cut(request).await;
    }
}

#[tokio::test]
async fn many_keys_are_asked_about_in_one_sweep() {
    let sweep = sweep(Coherence::alone(), good());
    let mut requests = Vec::new();
    for n in 0..1_000_u16 {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&n.to_be_bytes());
        requests.push(sweep.request(KeyDigest::from_bytes(bytes)).await);
    }
    sweep.answer(revoked());
    sweep.keys.invalidate(Subject::All);
    sweep.once().await;
    for request in requests {
        is_cut(request).await;
    }
}

#[tokio::test]
async fn a_key_that_is_no_longer_there_ends_its_requests() {
    let sweep = sweep(Coherence::alone(), good());
    let request = sweep.request(digest(1)).await;
    sweep.answer(Find::Nothing);
    sweep.keys.invalidate(Subject::All);
    sweep.once().await;
    is_cut(request).await;
}

#[tokio::test]
async fn a_key_that_has_expired_is_not_looked_up() {
    let sweep = sweep(Coherence::alone(), expired());
    let request = sweep.request(digest(1)).await;
    let finds = sweep.finds();
    sweep.once().await;
    assert_eq!(sweep.finds(), finds);
    is_cut(request).await;
}

#[tokio::test]
async fn an_outage_ends_nothing_but_what_was_to_end_anyway() {
    let sweep = sweep(Coherence::alone(), good());
    let request = sweep.request(digest(1)).await;
    sweep.answer(expired());
    let expired = sweep.request(digest(2)).await;
    sweep.answer(Find::Outage);
    sweep.keys.invalidate(Subject::All);
    sweep.once().await;
    is_cut(expired).await;
    settled().await;
    assert!(!request.is_finished());
    // It is asked again, and the answer counts.
    sweep.answer(revoked());
    sweep.once().await;
    is_cut(request).await;
}

#[tokio::test]
async fn a_store_that_is_no_longer_followed_ends_nothing() {
    let began = sweep(Coherence::alone(), good());
    let request = began.request(digest(1)).await;
    // The same requests, later: what the store says may have been left behind by others.
    let later = sweep(Coherence::followed(Duration::ZERO), revoked());
    let later = Sweep { lines: began.lines, ..later };
    later.once().await;
    settled().await;
    assert!(!request.is_finished());
    assert_eq!(later.finds(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_does_not_answer_holds_up_no_sweep() {
    let sweep = sweep(Coherence::alone(), good());
    let request = sweep.request(digest(1)).await;
    sweep.answer(Find::NoAnswer);
    sweep.keys.invalidate(Subject::Key(digest(1)));
    let began = tokio::time::Instant::now();
    sweep.once().await;
    assert!(began.elapsed() <= ASKING_MAX + EVERY, "{:?}", began.elapsed());
    assert!(!request.is_finished());
}
