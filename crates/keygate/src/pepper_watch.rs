//! The peppers that the stored keys need: asked for at the start, and watched while the gateway runs.
//! One that is not ours makes keys unknown here, which no client's answer can tell.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use keygate_admin::Readiness;
use keygate_config::Live;
use keygate_core::key::PepperId;
use keygate_store::cached::CachedKeys;
use keygate_store::fleet::{Gateway, Member};
use keygate_store::keys::{KeyStore, StoreError};
use keygate_store::store::Store as AnyStore;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::clock;
use crate::failure::Failure;
use crate::serve::Store;

/// How long a start waits for a store that others use as well.
const STORE_WAIT: Duration = Duration::from_secs(2);
const PEPPERS_ASKED_EVERY: Duration = Duration::from_secs(5);
const PEPPERS_FIRST_ASKED_EVERY: Duration = Duration::from_millis(100);

/// The peppers that live keys were made under; nothing if a store that others use as well is out of
/// reach: the gateway then starts without it, and [`watch_peppers`] asks later.
pub(crate) async fn peppers_in_use(
    store: &AnyStore,
    this: &Gateway,
) -> Result<Option<Vec<PepperId>>, Failure> {
    if let AnyStore::Redis(redis) = store {
        if !redis.reached(STORE_WAIT).await {
            tracing::warn!(
                "starting without the store: no key can be looked up until it is reached"
            );
            return Ok(None);
        }
        // First the others see which peppers it has, and make no key that it cannot know; then it looks
        // which keys there are.
        if timeout(STORE_WAIT, announced(store, this)).await.is_err() {
            tracing::warn!("the fleet does not see this gateway yet");
        }
    }
    match store.peppers(clock::now()).await {
        Ok(in_use) => Ok(Some(in_use)),
        Err(StoreError::Unavailable(_)) if matches!(store, AnyStore::Redis(_)) => Ok(None),
        Err(error) => Err(anyhow::Error::new(error).context("cannot read the store").into()),
    }
}

/// Waits until the fleet was told of this gateway.
async fn announced(store: &AnyStore, this: &Gateway) {
    const LOOK_EVERY: Duration = Duration::from_millis(10);
    let is_this = |member: &Member| member.gateway.id == this.id;
    while !matches!(store.fleet().await, Ok(Some(fleet)) if fleet.members.iter().any(is_this)) {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Whether this gateway can know the keys of its fleet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum PepperState {
    /// It started without the store.
    Unchecked,
    Fine,
    /// No key of the fleet was made with a pepper of ours: all would be called invalid here.
    Foreign(PepperId),
}

/// Goes on looking at the peppers of the fleet's keys. One that is not ours among others that are is
/// an error to be seen to, and no reason to turn away the keys that do work.
pub(crate) fn watch_peppers(
    keys: &Arc<CachedKeys<Store>>,
    live: &Live,
    state: PepperState,
) -> watch::Receiver<PepperState> {
    let (keys, live) = (Arc::clone(keys), live.clone());
    let (sender, states) = watch::channel(state);
    drop(tokio::spawn(async move {
        let mut told = None;
        while !sender.is_closed() {
            if let Ok(in_use) = keys.store().peppers(clock::now()).await {
                let peppers = live.peppers();
                let is_ours = |id: &PepperId| peppers.iter().any(|ours| ours.id() == *id);
                let foreign = in_use.iter().copied().find(|id| !is_ours(id));
                if let Some(pepper) = foreign
                    && told != foreign
                {
                    tracing::error!("{}", missing_pepper(pepper));
                }
                told = foreign;
                sender.send_replace(match foreign {
                    Some(pepper) if !in_use.iter().any(is_ours) => PepperState::Foreign(pepper),
                    Some(_) | None => PepperState::Fine,
                });
            }
            let is_unchecked = *sender.borrow() == PepperState::Unchecked;
            let pause = if is_unchecked { PEPPERS_FIRST_ASKED_EVERY } else { PEPPERS_ASKED_EVERY };
            tokio::time::sleep(pause).await;
        }
    }));
    states
}

fn missing_pepper(pepper: PepperId) -> String {
    format!(
        "stored keys were made with a pepper (id {pepper}) that this gateway does not have: name its \
         file in `pepper_file` or `previous_pepper_files`, and reload or restart this gateway"
    )
}

pub(crate) fn readiness(
    stopping: &Arc<AtomicBool>,
    peppers: watch::Receiver<PepperState>,
) -> Arc<dyn Fn() -> Readiness + Send + Sync> {
    let stopping = Arc::clone(stopping);
    Arc::new(move || {
        if stopping.load(Ordering::Acquire) {
            return Readiness::NotReady("the gateway is stopping".into());
        }
        match *peppers.borrow() {
            PepperState::Fine => Readiness::Ready,
            PepperState::Unchecked => Readiness::NotReady(
                "the store was not reached yet, so nobody knows whether the pepper is the fleet's"
                    .into(),
            ),
            PepperState::Foreign(pepper) => Readiness::NotReady(missing_pepper(pepper).into()),
        }
    })
}
