//! Makes records once, however often the same call is sent, and whichever gateways it is sent to.
//! What names a call is its caller's to say.

use std::time::Duration;

use keygate_store::keys::{Done, KeyStore, MadeRecord, Once, Remembered, Write};
use keygate_store::records::{Account, AdminToken, App, AuditEntry, Key};

use super::{Made, Registry, RegistryError};

/// How long a call is remembered.
const REMEMBERED_FOR: Duration = Duration::from_secs(24 * 3_600);

/// A call that is to be carried out once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// A hash of who asks, for what, and of the name that they gave it.
    pub name: [u8; 32],
    /// A hash of all that is asked for.
    pub request: [u8; 32],
}

/// A record that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Created<T> {
    /// As it was made, whatever has become of it since.
    pub record: T,
    /// Whether the same call had made it before.
    pub replayed: bool,
}

/// What a call that makes a record came to.
pub(super) enum Making<T> {
    Now,
    Before(T),
}

/// A record that a call can make.
pub(super) trait Makeable: Sized {
    fn of(made: MadeRecord) -> Option<Self>;
}

macro_rules! makeable {
    ($($record:ident as $made:ident)*) => {$(
        impl Makeable for $record {
            fn of(made: MadeRecord) -> Option<Self> {
                if let MadeRecord::$made(record) = made { Some(record) } else { None }
            }
        }
    )*};
}

makeable!(Account as Account App as App Key as Key AdminToken as Token);

impl<S: KeyStore> Registry<S> {
    /// Carries out a change that makes a record, unless the same call has done so before.
    ///
    /// # Errors
    /// [`RegistryError::RequestReused`], and what the store says. [`RegistryError::NotDurable`] of a
    /// record that was made before is one of [`Made::Change`](super::Made::Change): the same call again
    /// does no harm.
    pub(super) async fn make<T: Makeable>(
        &self,
        write: Write,
        audit: AuditEntry,
        asked: Option<&Asked>,
    ) -> Result<Making<T>, RegistryError> {
        let Some(asked) = asked else {
            self.commit(write, audit).await?;
            return Ok(Making::Now);
        };
        let now = audit.at;
        let until = now.saturating_add(REMEMBERED_FOR);
        let once = Once { name: asked.name, request: asked.request, now, until };
        match self.parts.keys.commit_once(write, audit, once).await? {
            Done::Now(_) => Ok(Making::Now),
            Done::Before(remembered) => Ok(Making::Before(self.replay(asked, remembered).await?)),
        }
    }

    /// What a call came to; if it was refused, and the same call has made a record before, that record.
    /// What is asked for need not be possible any more: a key that was rotated cannot be rotated again.
    pub(super) async fn or_before<T: Makeable, C>(
        &self,
        asked: Option<&Asked>,
        outcome: Result<C, RegistryError>,
        replayed: impl FnOnce(T) -> C,
    ) -> Result<C, RegistryError> {
        let (Some(asked), Err(refusal)) = (asked, &outcome) else { return outcome };
        if !refusal.is_refusal() {
            return outcome;
        }
        match self.store().remembered(asked.name, self.now()).await? {
            Some(remembered) => Ok(replayed(self.replay(asked, remembered).await?)),
            None => outcome,
        }
    }

    /// The error with the record that may be lost yet: the one that this call has made or, if it was made
    /// before, the one that was made then.
    pub(super) async fn naming<T: Makeable>(
        &self,
        error: RegistryError,
        asked: Option<&Asked>,
        fresh: T,
        made: impl FnOnce(T) -> Made,
    ) -> RegistryError {
        let (RegistryError::NotDurable { .. }, Some(asked)) = (&error, asked) else {
            return error.of(made(fresh));
        };
        match self.store().remembered(asked.name, self.now()).await {
            Ok(Some(remembered)) => match T::of(remembered.made) {
                Some(record) => error.of(made(record)),
                None => error,
            },
            // To send the same call again is right in any case.
            Ok(None) | Err(_) => error,
        }
    }

    async fn replay<T: Makeable>(
        &self,
        asked: &Asked,
        remembered: Remembered,
    ) -> Result<T, RegistryError> {
        if remembered.request != asked.request {
            return Err(RegistryError::RequestReused);
        }
        let made = T::of(remembered.made).ok_or(RegistryError::RequestReused)?;
        // The call that made it may not have been acknowledged.
        self.settle().await?;
        Ok(made)
    }
}
