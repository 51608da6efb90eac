//! Asks what the gateway would decide about a key, with the same pieces that it decides with.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use keygate_config::live::Current;
use keygate_core::decide::decide_key;
use keygate_core::{Access, Caller, Denial, KeyDigest, KeyRecord, decide};
use keygate_store::cached::Cached;
use keygate_store::keys::KeyStore;

use super::{Actor, Call, Registry, RegistryError};

/// A key, and what it is to be used for. Without a call, only the key's own state is checked, and
/// the networks it may be used from if `ip` is given.
pub struct Question<'a> {
    pub key: &'a [u8],
    pub call: Option<Call<'a>>,
    pub ip: Option<IpAddr>,
    pub origin: Option<&'a str>,
}

/// What the gateway would say.
pub struct Verdict {
    pub decision: Result<(), Denial>,
    /// The key's record, if the key was looked up and is known.
    pub key: Option<Arc<KeyRecord>>,
}

impl<S: KeyStore> Registry<S> {
    /// Decides, in the gateway's order, and charges nothing. A key that the actor does not see is
    /// answered as one that is unknown.
    ///
    /// # Errors
    /// [`RegistryError::Store`]: an outage says nothing about a key.
    pub async fn verify(
        &self,
        by: &Actor,
        question: Question<'_>,
    ) -> Result<Verdict, RegistryError> {
        let current = self.parts.live.current();
        let route = match question.call.map(|call| call.route(&current.config)).transpose() {
            Ok(route) => route,
            Err(denial) => return Ok(Verdict { decision: Err(denial), key: None }),
        };
        let record = self.look_up(&current, question.key).await?;
        let Some(record) = record.filter(|record| by.sees(record.account)) else {
            return Ok(Verdict { decision: Err(Denial::KeyUnknown), key: None });
        };
        let decision = match route.map(|route| &route.access) {
            Some(Access::Key(access)) => {
                // Nobody's address: a key that is bound to networks is not shown to be in them.
                let address = question.ip.unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
                let caller = Caller { address, origin: question.origin };
                decide(access, Arc::clone(&record), caller, self.now())
                    .map(|_permit| ())
                    .map_err(|refused| refused.denial)
            }
            Some(Access::Public(_)) | None => self.decide_alone(&record, question.ip),
        };
        Ok(Verdict { decision, key: Some(record) })
    }

    async fn look_up(
        &self,
        current: &Current,
        key: &[u8],
    ) -> Result<Option<Arc<KeyRecord>>, RegistryError> {
        let Some(digest) = identify(current, key) else { return Ok(None) };
        match self.parts.keys.cached(&digest) {
            Some(Cached::Known(record)) => Ok(Some(record)),
            Some(Cached::Unknown) => Ok(None),
            None => self.parts.keys.load(digest).await.map_err(RegistryError::Store),
        }
    }

    fn decide_alone(&self, key: &KeyRecord, ip: Option<IpAddr>) -> Result<(), Denial> {
        decide_key(key, self.now())?;
        match ip {
            Some(ip) if !key.allows_address(ip) => Err(Denial::IpNotAllowed),
            Some(_) | None => Ok(()),
        }
    }
}

/// The name by which a store would know a key; nothing for a text that cannot be one.
pub(super) fn identify(current: &Current, key: &[u8]) -> Option<KeyDigest> {
    current.config.keys.credentials.present(key)?.digest(&current.peppers)
}
