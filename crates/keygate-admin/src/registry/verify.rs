//! Asks what the gateway would decide about a key, with the same pieces that it decides with.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use keygate_config::Config;
use keygate_core::decide::decide_key;
use keygate_core::key::PresentedKey;
use keygate_core::path::{canonical_host, normalize};
use keygate_core::{Access, Caller, Denial, KeyRecord, Route, decide};
use keygate_store::cached::Cached;
use keygate_store::keys::KeyStore;

use super::{Registry, RegistryError};

/// A key, and what it is to be used for. Without a call, only the key's own state is checked, and
/// the networks it may be used from if `ip` is given.
pub struct Question<'a> {
    pub key: &'a [u8],
    pub call: Option<Call<'a>>,
    pub ip: Option<IpAddr>,
    pub origin: Option<&'a str>,
}

/// A request as the gateway would see it.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    pub method: &'a str,
    pub host: Option<&'a str>,
    /// May hold a query, which is not looked at.
    pub path: &'a str,
}

/// What the gateway would say.
pub struct Verdict {
    pub decision: Result<(), Denial>,
    /// The key's record, if the key was looked up and is known.
    pub key: Option<Arc<KeyRecord>>,
}

impl<S: KeyStore> Registry<S> {
    /// Decides, in the gateway's order, and charges nothing.
    ///
    /// # Errors
    /// [`RegistryError::Store`]: an outage says nothing about a key.
    pub async fn verify(&self, question: Question<'_>) -> Result<Verdict, RegistryError> {
        let config = self.config();
        let route = match question.call.map(|call| find_route(&config, call)).transpose() {
            Ok(route) => route,
            Err(denial) => return Ok(Verdict { decision: Err(denial), key: None }),
        };
        let Some(record) = self.look_up(question.key).await? else {
            return Ok(Verdict { decision: Err(Denial::KeyUnknown), key: None });
        };
        let decision = match route.map(|route| &route.access) {
            Some(Access::Key(access)) => {
                // Nobody's address: a key that is bound to networks is not shown to be in them.
                let address = question.ip.unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
                let caller = Caller { address, origin: question.origin };
                decide(access, Arc::clone(&record), caller, self.now()).map(|_permit| ())
            }
            Some(Access::Public(_)) | None => self.decide_alone(&record, question.ip),
        };
        Ok(Verdict { decision, key: Some(record) })
    }

    async fn look_up(&self, key: &[u8]) -> Result<Option<Arc<KeyRecord>>, RegistryError> {
        let config = self.config();
        let brand = config.keys.credentials.brand.as_ref();
        let digest = PresentedKey::parse(key, brand)
            .ok()
            .and_then(|presented| self.peppers().identify(&presented));
        let Some(digest) = digest else { return Ok(None) };
        match self.parts.keys.cached(&digest) {
            Some(Cached::Known(record)) => Ok(Some(record)),
            Some(Cached::Unknown) => Ok(None),
            None => self.parts.keys.load(digest).await.map_err(RegistryError::Store),
        }
    }

    fn decide_alone(&self, key: &KeyRecord, ip: Option<IpAddr>) -> Result<(), Denial> {
        decide_key(key, self.now())?;
        match ip {
            Some(ip) if !key.key_networks.allows(ip) || !key.app_networks.allows(ip) => {
                Err(Denial::IpNotAllowed)
            }
            Some(_) | None => Ok(()),
        }
    }
}

fn find_route<'a>(config: &'a Config, call: Call<'_>) -> Result<&'a Route, Denial> {
    let host = call.host.map(canonical_host).transpose()?.unwrap_or_default();
    let path = call.path.split_once('?').map_or(call.path, |(path, _)| path);
    config.routes.find(&host, &normalize(path)?, call.method)
}
