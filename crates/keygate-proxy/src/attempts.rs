//! Step 3: clients that fail to authenticate too often. Taken where it costs a good request nothing:
//! a key in the cache works whatever its neighbours behind the same address do, so this is only asked
//! once something failed, or a look-up would be needed.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use keygate_core::network::ClientNetwork;
use keygate_core::{Code, Denial};
use keygate_store::failures::FailureLimiter;
use quanta::Instant;

/// The failed attempts of all clients. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Attempts {
    failures: Arc<FailureLimiter>,
    /// Where the nanoseconds here begin.
    began: Instant,
}

impl Attempts {
    pub(crate) fn new(failures: Arc<FailureLimiter>) -> Self {
        Self { failures, began: Instant::now() }
    }

    /// # Errors
    /// [`Denial::TooManyFailures`] for a client that is not worth a look-up.
    pub(crate) fn check(&self, client: IpAddr) -> Result<(), Denial> {
        self.check_at(client.into(), self.now_ns())
    }

    /// Counts a failed attempt. The client is told how it failed, unless it failed too often.
    pub(crate) fn weigh(&self, denial: Denial, client: IpAddr) -> Denial {
        let code = denial.code();
        let failed =
            matches!(code, Code::ApiKeyInvalid | Code::ApiKeyMissing | Code::AmbiguousCredentials);
        if !failed {
            return denial;
        }
        let (client, now_ns) = (ClientNetwork::from(client), self.now_ns());
        if let Err(too_many) = self.check_at(client, now_ns) {
            return too_many;
        }
        if code == Code::ApiKeyInvalid {
            self.failures.record(client, now_ns);
        }
        denial
    }

    /// How long a client must wait that is not worth a look-up.
    pub(crate) fn blocked_for(&self, client: IpAddr) -> Option<Duration> {
        self.failures.blocked_for(client.into(), self.now_ns())
    }

    fn check_at(&self, client: ClientNetwork, now_ns: u64) -> Result<(), Denial> {
        match self.failures.blocked_for(client, now_ns) {
            Some(retry_after) => Err(Denial::TooManyFailures { retry_after }),
            None => Ok(()),
        }
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}
