//! The service layer: what may be done to accounts, apps and keys, and what is logged about it.
//!
//! Knows no HTTP. Texts that reach it were bounded by whoever read them.

mod accounts;
mod apps;
mod audit;
mod call;
mod census;
mod expected;
mod explain;
mod fleet;
mod idempotency;
mod import;
mod key_change;
mod keys;
mod limits;
mod peppers;
mod policy;
mod reload;
mod retire;
mod roles;
mod rotate;
mod search;
pub(crate) mod tokens;
mod top;
mod usage;
mod verify;
mod walk;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use keygate_config::{Config, Live};
use keygate_core::limit::overrides::InvalidParts;
use keygate_core::top::{TopList, TopQuery};
use keygate_core::{AccountId, AppId, KeyId, Peppers, Scope, UnixMillis};
use keygate_store::cached::CachedKeys;
use keygate_store::coherence::Coherence;
use keygate_store::fleet::Gateway;
use keygate_store::keys::{KeyStore, StoreError, Write};
use keygate_store::limits::Limiter;
use keygate_store::records::{AuditEntry, Role};
use keygate_telemetry::KeyMetrics;

pub use accounts::{AccountChange, NewAccount};
pub use apps::{AppChange, NewApp};
pub use audit::{ActionFilter, AuditFilter, AuditPart, AuditTail, Verified};
pub use call::Call;
pub use census::Census;
pub use expected::Expected;
pub use explain::{About, Explanation, Inquiry, Step, StepResult};
pub use fleet::{FleetView, StoreKind};
pub use idempotency::{Asked, Created};
pub use import::{
    Import, ImportAccount, ImportApp, ImportEnd, ImportKey, ImportMode, ImportOutcome, Landed,
    Landing, Whose,
};
pub use key_change::{KeyChange, KeySwitch};
pub use keys::{CreatedKey, NewKey};
pub use limits::{LimitsChange, LimitsMerge};
pub use peppers::{GatewayName, PepperRole, PepperView};
pub use reload::{
    FailedReload, Fault, Force, ReloadError, Reloaded, Reloader, RunningConfig, Source, Unusable,
};
pub use retire::Retire;
pub use rotate::{OVERLAP_DEFAULT, OVERLAP_MAX};
pub use search::{Found, FoundKey, KeyFilter, KeyState, Search};
pub use tokens::{CreatedToken, NewToken};
pub use top::TopView;
pub use usage::{KeyUsage, UsageAsked, UsageFound, UsageGroup, UsageOf, UsagePlace, UsageSum};
pub use verify::{Question, Verdict};
pub use walk::{Place, Within};

/// How often a change is tried against others that change the same record.
const WRITE_ATTEMPTS_MAX: usize = 8;

/// Accounts, apps and keys. Cheap to clone; all clones are the same registry.
pub struct Registry<S: KeyStore> {
    parts: Arc<RegistryParts<S>>,
}

impl<S: KeyStore> Clone for Registry<S> {
    fn clone(&self) -> Self {
        Self { parts: Arc::clone(&self.parts) }
    }
}

/// What a registry is made of.
pub struct RegistryParts<S: KeyStore> {
    pub keys: Arc<CachedKeys<S>>,
    /// The gateway's own, so that what is shown is what requests are charged.
    pub limiter: Limiter,
    /// The gateway's own, too: how long an address must wait that has failed to authenticate too often.
    pub blocked: Arc<dyn Fn(IpAddr) -> Option<Duration> + Send + Sync>,
    /// The gateway's own: who calls it most.
    pub top: Arc<dyn Fn(TopQuery) -> TopList + Send + Sync>,
    pub live: Live,
    pub metrics: KeyMetrics,
    pub clock: fn() -> UnixMillis,
    /// This one.
    pub gateway: Gateway,
}

/// Who asks for a change, for the audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// Such as `token:bootstrap`, `token:tok_…` or `demo`.
    pub name: String,
    pub from: Option<IpAddr>,
    pub role: Role,
}

impl<S: KeyStore> Registry<S> {
    #[must_use]
    pub fn new(parts: RegistryParts<S>) -> Self {
        Self { parts: Arc::new(parts) }
    }

    #[must_use]
    pub fn now(&self) -> UnixMillis {
        (self.parts.clock)()
    }

    /// Asks the store for something cheap, to see whether it answers at all.
    ///
    /// # Errors
    /// [`RegistryError::Store`].
    pub async fn check_store(&self) -> Result<(), RegistryError> {
        self.store().account(AccountId::new(UnixMillis::default(), [0; 10])).await?;
        Ok(())
    }

    /// How far the store's changes are followed.
    pub(crate) fn coherence(&self) -> &Coherence {
        self.parts.keys.coherence()
    }

    fn config(&self) -> Arc<Config> {
        self.parts.live.config()
    }

    fn peppers(&self) -> Arc<Peppers> {
        self.parts.live.peppers()
    }

    fn store(&self) -> &S {
        self.parts.keys.store()
    }

    /// Carries out a change. It goes through, and is logged, even if the caller stops waiting.
    async fn commit(&self, write: Write, audit: AuditEntry) -> Result<(), RegistryError> {
        self.parts.keys.commit(write, audit).await?;
        Ok(())
    }

    /// Returns once what was read, and found to be as it was asked for, can no longer be lost.
    ///
    /// An earlier try may have written it and ended in [`RegistryError::NotDurable`]: to say that all
    /// is as it should be would acknowledge that write.
    async fn settle(&self) -> Result<(), RegistryError> {
        Ok(self.store().settle().await?)
    }

    /// # Errors
    /// [`RegistryError::UnknownTier`] when the configuration has no tier of this name.
    fn check_tier(&self, tier: Option<&str>) -> Result<(), RegistryError> {
        let config = self.config();
        let tiers = &config.tiers;
        match tier {
            Some(name) if tiers.iter().all(|tier| *tier.name != *name) => {
                let known = tiers.iter().map(|tier| tier.name.to_string()).collect();
                Err(RegistryError::UnknownTier { known })
            }
            Some(_) | None => Ok(()),
        }
    }
}

impl Actor {
    fn entry(&self, at: UnixMillis, action: &str, subject: String) -> AuditEntry {
        AuditEntry {
            at,
            actor: self.name.clone(),
            action: action.to_owned(),
            subject,
            hint: None,
            from: self.from,
            reason: None,
            refused: None,
            changes: serde_json::Map::new(),
        }
    }
}

/// Why the registry did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// Says what does not exist, such as `the account`.
    #[error("{0} does not exist")]
    NotFound(&'static str),
    #[error("the record kept being changed by others")]
    Conflict,
    #[error("the record is not at the version that was asked for")]
    PreconditionFailed,
    #[error("another request has been made under this name")]
    RequestReused,
    /// The same call made a key or a token before, which was taken back.
    #[error("it was revoked before anybody was shown it")]
    NeverShown,
    /// The same call made an admin token before, which is good no more, whyever.
    #[error("the admin token that it made is revoked by now")]
    TokenRevoked,
    #[error("the record exists already")]
    AlreadyExists,
    #[error("the actor's role does not allow it")]
    Forbidden {
        /// The role that does.
        needs: &'static str,
    },
    #[error("the key is revoked")]
    KeyRevoked,
    #[error("the key is {status}")]
    KeyNotActive { status: &'static str },
    #[error("the key has a successor")]
    KeyRotated { to: KeyId },
    #[error("the end of a key that has a successor can only be moved earlier")]
    EndOnlyEarlier,
    #[error("the app does not grant {}", list(.0))]
    ScopeNotGranted(Vec<Scope>),
    #[error("the configuration has no such tier")]
    UnknownTier { known: Vec<String> },
    #[error("the limits are not valid")]
    InvalidLimits(#[source] InvalidParts),
    #[error("the key has no limits")]
    NoLimits,
    /// A key in this tier cannot have limits of its own.
    #[error("the tier shares its limits")]
    SharedTier { tier: String },
    /// An issuer would be for this account.
    #[error("{0} does not exist")]
    UnknownAccount(AccountId),
    #[error("the end lies in the past")]
    ExpiryInPast,
    #[error("the key would get older than it may")]
    BeyondMaxAge {
        /// The last moment at which it may end.
        latest: UnixMillis,
        max_age: Duration,
    },
    #[error("only a publishable key can be bound to origins")]
    OriginsNeedPublishableKey,
    #[error("the app has {live} live keys, and may have {most}")]
    TooManyLiveKeys { live: u32, most: u32, retire: Option<Box<Retire>> },
    #[error("the use of {windows} windows of {keys} keys is too much at once")]
    TooMuchUsage {
        windows: u64,
        keys: usize,
        /// The most windows times keys.
        most: u64,
    },
    #[error("the app or account has more than {most} keys")]
    TooManyKeysForUsage { most: usize },
    #[error("use in windows of this length is not kept")]
    UsageNotKept { setting: &'static str },
    /// The change was made, but may be lost yet.
    #[error("{replicas} of {wanted} replicas have the change")]
    NotDurable { made: Made, replicas: u64, wanted: u32 },
    /// By a mistake of ours, or because the gateway ends.
    #[error("the change was broken off")]
    BrokenOff,
    #[error("the store failed")]
    Store(#[source] Arc<StoreError>),
    #[error("the operating system gave no randomness")]
    NoRandomness(#[source] getrandom::Error),
}

/// What was made and may be lost yet, and so what a caller can do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// A change to a record. The same call again either finds it made and waits for replicas once
    /// more, or makes it.
    Change,
    /// A record, which the same call again would make twice. An empty change to it waits for
    /// replicas once more.
    Account(AccountId),
    App(AppId),
    /// A key that nobody was shown. It was revoked again, as far as that was possible.
    Key,
    /// The same of an admin token.
    Token,
}

/// Scopes as one text.
pub(crate) fn list(scopes: &[Scope]) -> String {
    scopes.iter().map(Scope::as_str).collect::<Vec<_>>().join(", ")
}

impl From<StoreError> for RegistryError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotFound(what) => Self::NotFound(what),
            StoreError::Conflict => Self::Conflict,
            StoreError::AlreadyExists => Self::AlreadyExists,
            StoreError::TooManyLiveKeys { live } => {
                Self::TooManyLiveKeys { live, most: live, retire: None }
            }
            StoreError::NotDurable { replicas, wanted } => {
                Self::NotDurable { made: Made::Change, replicas, wanted }
            }
            StoreError::Unavailable(_) | StoreError::Unreadable(_) => Self::Store(Arc::new(error)),
        }
    }
}

impl RegistryError {
    /// The same, where this was to be made.
    fn of(self, made: Made) -> Self {
        if let Self::NotDurable { made: _, replicas, wanted } = self {
            return Self::NotDurable { made, replicas, wanted };
        }
        self
    }

    /// Whether it says that what was asked for cannot be done, to somebody who may ask for it.
    fn is_refusal(&self) -> bool {
        match self {
            Self::Conflict
            | Self::AlreadyExists
            | Self::PreconditionFailed
            | Self::KeyRevoked
            | Self::KeyNotActive { .. }
            | Self::KeyRotated { .. }
            | Self::EndOnlyEarlier
            | Self::ScopeNotGranted(_)
            | Self::UnknownTier { .. }
            | Self::InvalidLimits(_)
            | Self::NoLimits
            | Self::SharedTier { .. }
            | Self::UnknownAccount(_)
            | Self::ExpiryInPast
            | Self::BeyondMaxAge { .. }
            | Self::OriginsNeedPublishableKey
            | Self::TooMuchUsage { .. }
            | Self::TooManyKeysForUsage { .. }
            | Self::UsageNotKept { .. }
            | Self::TooManyLiveKeys { .. } => true,
            Self::NotFound(_)
            | Self::Forbidden { .. }
            | Self::RequestReused
            | Self::NeverShown
            | Self::TokenRevoked
            | Self::NotDurable { .. }
            | Self::BrokenOff
            | Self::Store(_)
            | Self::NoRandomness(_) => false,
        }
    }
}

/// Tries again while others change the same record first.
async fn unopposed<T, F>(attempt: impl Fn() -> F) -> Result<T, RegistryError>
where
    F: Future<Output = Result<T, RegistryError>>,
{
    for _ in 1..WRITE_ATTEMPTS_MAX {
        match attempt().await {
            Err(RegistryError::Conflict) => {}
            settled => return settled,
        }
    }
    attempt().await
}

/// Carries work out to its end even if the caller stops waiting: what it undoes at its end has to be
/// undone whether anybody waits or not.
async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, RegistryError>> + Send + 'static,
) -> Result<T, RegistryError> {
    tokio::spawn(work).await.unwrap_or(Err(RegistryError::BrokenOff))
}

/// Random bytes from the operating system.
fn random<const N: usize>() -> Result<[u8; N], RegistryError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(RegistryError::NoRandomness)?;
    Ok(bytes)
}
