//! What an import is asked to bring, and what became of each part.

use keygate_core::limit::terms::Overrides;
use keygate_core::{AccountId, AppId, Environment, KeyId, KeyKind, Scope, UnixMillis};
use keygate_store::records::{KeyStatus, Metadata};

use super::super::RegistryError;

/// Keys to be imported, and what they need.
#[derive(Clone, Debug)]
pub struct Import {
    /// Names of what is imported belong to this, such as `kong`.
    pub source: &'static str,
    pub mode: ImportMode,
    pub accounts: Vec<ImportAccount>,
    pub apps: Vec<ImportApp>,
    pub keys: Vec<ImportKey>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImportMode {
    /// Say what would happen.
    DryRun,
    Write,
}

#[derive(Clone, Debug)]
pub struct ImportAccount {
    /// What the import calls it. The same name is the same account, another time too.
    pub name_here: String,
    pub name: String,
    pub owner: Option<String>,
    pub purpose: Option<String>,
}

#[derive(Clone, Debug)]
pub struct ImportApp {
    /// What the import calls it. The same name in the same account and environment is the same app.
    pub name_here: String,
    pub account: Whose<AccountId>,
    pub name: String,
    pub owner: Option<String>,
    pub purpose: Option<String>,
    pub environment: Environment,
    /// Nothing is all that its keys in this import have.
    pub granted_scopes: Option<Vec<Scope>>,
}

/// A record that is there already, or one of this import by what that calls it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whose<I> {
    Id(I),
    Here(String),
}

#[derive(Clone, Debug)]
pub struct ImportKey {
    pub sha256: [u8; 32],
    pub app: Whose<AppId>,
    pub kind: KeyKind,
    pub name: Option<String>,
    pub owner: Option<String>,
    pub purpose: Option<String>,
    pub scopes: Vec<Scope>,
    pub end: ImportEnd,
    pub tier: Option<String>,
    pub limits: Option<Box<Overrides>>,
    pub metadata: Metadata,
    /// A disabled key is refused until it is enabled.
    pub status: KeyStatus,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImportEnd {
    Never,
    At(UnixMillis),
    /// Counted from now on, and so another one at each import: no difference from what is there.
    After(UnixMillis),
}

/// What became of an import: for each record, in the order given.
#[derive(Debug)]
pub struct ImportOutcome {
    pub accounts: Vec<Result<Landed<AccountId>, RegistryError>>,
    pub apps: Vec<Result<Landed<AppId>, RegistryError>>,
    pub keys: Vec<Result<Landed<KeyId>, RegistryError>>,
}

/// A record that is there now, or after a dry run would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Landed<I> {
    pub id: I,
    pub how: Landing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Landing {
    Created,
    Existing,
    /// It is there, with other grants, limits or another end, or is not as enabled, and was left so.
    Differs,
}
