//! Whether a record is still as whoever asks for a change has seen it.

use keygate_store::records::Version;

use super::{RegistryError, unopposed};

/// The versions of a record that a change may be made to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Expected {
    /// Whichever is there. Tried again while others change the same record first.
    #[default]
    Any,
    OneOf(Vec<Version>),
}

impl Expected {
    /// # Errors
    /// [`RegistryError::PreconditionFailed`].
    pub(super) fn check(&self, found: Version) -> Result<(), RegistryError> {
        match self {
            Self::Any => Ok(()),
            Self::OneOf(versions) if versions.contains(&found) => Ok(()),
            Self::OneOf(_) => Err(RegistryError::PreconditionFailed),
        }
    }

    /// Tries to change a record. Whoever says which version is meant must not have it done to another.
    pub(super) async fn carry_out<T, F>(&self, attempt: impl Fn() -> F) -> Result<T, RegistryError>
    where
        F: Future<Output = Result<T, RegistryError>>,
    {
        match self {
            Self::Any => unopposed(attempt).await,
            Self::OneOf(_) => match attempt().await {
                Err(RegistryError::Conflict) => Err(RegistryError::PreconditionFailed),
                settled => settled,
            },
        }
    }
}
