//! Gets to the primary, and finds out for how long the server that was reached may be believed to be
//! the primary.

use std::sync::Arc;
use std::time::Duration;

use keygate_config::Target;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};

use super::dial::{Connected, DialError, Dialer, Found};

/// How often those who know the primary are asked whether it still is the one.
const VOUCHED_EVERY: Duration = Duration::from_millis(300);
/// After so long without an outcome another try to connect is begun beside the first.
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(250);
/// Tries at a time.
const TRIES_MAX: usize = 8;

/// A primary that was reached.
pub(super) struct Reached {
    pub(super) target: Target,
    /// Whether most of those who could know say that it is the one.
    pub(super) has_majority: bool,
    pub(super) connected: Connected,
}

/// Finds the primary and connects. A try that hangs, since what it sent was lost, does not hold up
/// the next one.
pub(super) async fn reach(dialer: &Arc<Dialer>) -> Result<Reached, DialError> {
    let mut tries = JoinSet::new();
    loop {
        let dialer = Arc::clone(dialer);
        if tries.len() == TRIES_MAX {
            drop(tries.join_next().await);
        }
        tries.spawn(async move {
            let Found { target, has_majority } = dialer.find_primary().await?;
            let connected = dialer.connect(&target).await?;
            Ok(Reached { target, has_majority, connected })
        });
        match timeout(TRY_AGAIN_AFTER, tries.join_next()).await {
            Ok(Some(Ok(outcome))) => return outcome,
            // Broke off: the runtime is stopping.
            Ok(Some(Err(_)) | None) => return Err(DialError::NoServer),
            Err(_) => {}
        }
    }
}

/// Whether the server that is followed may be believed to be the primary.
pub(super) struct Trust {
    /// When those who know last said so, if they have to.
    vouched: Option<Vouched>,
}

/// Who asks them. Dropping this ends it.
pub(super) struct Vouched {
    at: watch::Receiver<Option<Instant>>,
    task: JoinHandle<()>,
}

impl Drop for Vouched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Trust {
    pub(super) fn new(vouched: Option<Vouched>) -> Self {
        Self { vouched }
    }

    /// Up to when an answer to a question of `asked_at` speaks for the primary.
    pub(super) fn until(&self, asked_at: quanta::Instant) -> Option<quanta::Instant> {
        let Some(vouched) = &self.vouched else { return Some(asked_at) };
        let ago = vouched.at.borrow().map(|at| at.elapsed())?;
        asked_at.checked_sub(ago)
    }

    /// Ends when the primary is another server.
    pub(super) async fn ended(&self) {
        let Some(vouched) = &self.vouched else { return std::future::pending().await };
        let mut at = vouched.at.clone();
        while at.changed().await.is_ok() {}
    }
}

/// Asks those who know the primary again and again, until they name another one. Nobody has to be
/// asked about a server that is the only one.
pub(super) fn vouch(dialer: Arc<Dialer>, target: Target, at: Option<Instant>) -> Option<Vouched> {
    if !dialer.may_move() {
        return None;
    }
    let (sender, at) = watch::channel(at);
    let task = tokio::spawn(async move {
        loop {
            sleep(VOUCHED_EVERY).await;
            let asked_at = Instant::now();
            match dialer.find_primary().await {
                Ok(found) if found.target != target => return,
                Ok(Found { has_majority: true, .. }) => {
                    sender.send_replace(Some(asked_at));
                }
                Ok(Found { has_majority: false, .. }) | Err(_) => {}
            }
        }
    });
    Some(Vouched { at, task })
}
