//! How a gateway goes down: what runs finishes within a bound, nothing that was counted is lost, and if
//! another process takes over no connection is refused meanwhile.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use keygate_config::Store as StoreSettings;
use keygate_proxy::Running;
use keygate_store::heir::HeirLink;
use keygate_store::keys::KeyStore;
use sd_notify::NotifyState;
use tokio::sync::Notify;

use crate::control::Control;
use crate::failure::{Exit, Failure};
use crate::handover::{Handles, Successor, same_file};
use crate::reload::reload_on;
use crate::serve::{Serving, tell_supervisor};
use crate::shutdown::{Asked, Signals, wait_until};
use crate::watch::reload_on_change;

/// How long requests that have begun may take to finish before the store is given away. Those that take
/// longer go on without it.
const QUIESCE_MAX: Duration = Duration::from_millis(600);

/// Why a gateway ends.
enum End {
    /// By this signal.
    Told(&'static str),
    /// Another process serves now.
    TakenOver(Box<Successor>, StoreIs),
    /// The proxy did, which it should not.
    ByItself,
    /// The store was given away, and nobody could take it.
    Orphaned,
}

/// Where the store is when another process has taken over.
#[derive(Clone, Copy, PartialEq, Eq)]
enum StoreIs {
    /// Open here too.
    Shared,
    GivenAway,
}

impl Serving {
    /// Serves until it is told to end or to hand over, then lets what runs finish. Returns once all is
    /// done or time is up.
    pub(crate) async fn until_stopped(mut self) -> Result<(), Failure> {
        match self.until_asked().await {
            End::Told(signal) => {
                tracing::info!(signal, "stopping");
                tell_supervisor(&[NotifyState::Stopping]);
                self.stopping.store(true, Ordering::Release);
                self.drain().await;
                self.say_goodbye().await;
                Ok(())
            }
            End::TakenOver(successor, store) => {
                tracing::info!(pid = successor.pid(), "another process has taken over");
                self.hand_over_the_rest(successor, store).await;
                Ok(())
            }
            End::ByItself => {
                self.say_goodbye().await;
                Err(Failure::new(Exit::Failed, "the gateway stopped by itself: see the log"))
            }
            End::Orphaned => {
                let why = "no process could take the store over: start keygate again";
                Err(Failure::new(Exit::Failed, why))
            }
        }
    }

    async fn until_asked(&mut self) -> End {
        let (hung_up, reloader) = (Notify::new(), self.reloader.clone());
        let mut reloading = std::pin::pin!(reload_on(&hung_up, &reloader));
        let (files, live) = (Arc::clone(&self.files), self.live.clone());
        let mut watching = std::pin::pin!(reload_on_change(&files, &live, &reloader));
        loop {
            let asked = tokio::select! {
                asked = self.signals.next(&hung_up) => asked,
                () = ended(&self.proxy) => return End::ByItself,
                never = reloading.as_mut() => match never {},
                never = watching.as_mut() => match never {},
            };
            match asked {
                Asked::Stop(signal) => return End::Told(signal),
                Asked::HandOver => {
                    if let Some(end) = self.hand_over().await {
                        return end;
                    }
                }
            }
        }
    }

    /// Has a new process take over. If it comes to nothing, nothing has changed.
    async fn hand_over(&mut self) -> Option<End> {
        let Some(program) = &self.program else {
            tracing::warn!("SIGQUIT: a demo is not handed over; `keygate run` is");
            return None;
        };
        tracing::info!("SIGQUIT: starting the process that takes over");
        let preparing = prepared(program.start_again(), &self.handles);
        let (successor, gives_store) = tokio::select! {
            prepared = preparing => match prepared {
                Ok((successor, store)) => {
                    let gives = self.is_ours(store.as_deref());
                    (successor, gives)
                }
                Err(error) => return not_taken_over(&error),
            },
            // The new process ends with the socket that it was about to be told more on.
            signal = told_to_stop(&mut self.signals) => return Some(End::Told(signal)),
        };
        if gives_store {
            return Some(self.give_store_to(successor).await);
        }
        match serving(successor).await {
            Ok(successor) => Some(End::TakenOver(Box::new(successor), StoreIs::Shared)),
            Err(error) => not_taken_over(&error),
        }
    }

    /// Whether the embedded store that another process wants to open is the one that is open here.
    fn is_ours(&self, theirs: Option<&Path>) -> bool {
        match (&self.config.store, theirs) {
            (StoreSettings::Embedded(ours), Some(theirs)) => same_file(&ours.path, theirs),
            (StoreSettings::Embedded(_) | StoreSettings::Redis(_), _) => false,
        }
    }

    /// Only one process can have the store open, so this one stops first. Whoever connects meanwhile
    /// waits for the new one. If that one fails, the program that runs here is started once more in its
    /// place.
    async fn give_store_to(&mut self, successor: Successor) -> End {
        self.proxy.stop();
        let quiet = wait_until(|| self.proxy.open_connections() == 0, QUIESCE_MAX);
        let admin = stop_if_any(self.admin.take());
        tokio::join!(quiet, admin);
        if let Some(sink) = self.audit_sink.take() {
            sink.stop().await;
        }
        self.limiter.give_away().await;
        self.uses.stop(self.keys.store()).await;
        self.keys.store().inner().give_away().await;
        match serving(successor).await {
            Ok(successor) => return End::TakenOver(Box::new(successor), StoreIs::GivenAway),
            Err(error) => {
                tracing::error!(%error, "the new process failed: the old program is started again");
            }
        }
        let Some(program) = &self.program else { return End::Orphaned };
        let again = async {
            let (successor, _) = prepared(program.start_same(), &self.handles).await?;
            serving(successor).await
        };
        match again.await {
            Ok(successor) => End::TakenOver(Box::new(successor), StoreIs::GivenAway),
            Err(error) => {
                tracing::error!(%error, "the old program could not be started again");
                End::Orphaned
            }
        }
    }

    /// Finishes what had begun before another process took over.
    async fn hand_over_the_rest(mut self, successor: Box<Successor>, store: StoreIs) {
        self.handles = Handles::default();
        self.proxy.stop();
        match store {
            StoreIs::Shared => {
                drop(successor);
                self.finish(std::future::pending()).await;
                self.say_goodbye().await;
            }
            StoreIs::GivenAway => {
                let keys = Arc::clone(&self.keys);
                let stream = successor.into_stream();
                let (link, following) = HeirLink::follow(stream, keys.coherence());
                keys.store().inner().follow(link);
                self.finish(following).await;
                tracing::info!("stopped");
            }
        }
    }

    async fn drain(&mut self) {
        // Load balancers still send requests until they have seen that we are not ready.
        tokio::select! {
            () = tokio::time::sleep(self.live.config().server.shutdown_delay) => {}
            signal = told_to_stop(&mut self.signals) => {
                return tracing::warn!(signal, "told twice: stopping now");
            }
        }
        // Whoever holds a listener open keeps clients waiting whom nobody will serve.
        self.handles = Handles::default();
        self.proxy.stop();
        self.finish(std::future::pending()).await;
    }

    /// Waits for what still runs: at most for the drain timeout, until `orphaned`, or until told again.
    async fn finish(&mut self, orphaned: impl Future<Output = ()>) {
        let Self { signals, proxy, live, .. } = self;
        tokio::select! {
            () = finished(proxy, live.config().server.drain_timeout) => {}
            () = orphaned => {
                tracing::error!("the process that took over is gone: connections are cut");
            }
            signal = told_to_stop(signals) => {
                tracing::warn!(signal, "told twice: stopping now");
            }
        }
    }

    /// Once no client is served any more, whyever.
    async fn say_goodbye(self) {
        stop_if_any(self.admin).await;
        if let Some(sink) = self.audit_sink {
            sink.stop().await;
        }
        self.limiter.stop().await;
        self.uses.stop(self.keys.store()).await;
        if let Err(error) = self.keys.store().leave().await {
            tracing::debug!(%error, "the fleet was not told that this gateway stops");
        }
        tracing::info!("stopped");
    }
}

fn not_taken_over(error: &io::Error) -> Option<End> {
    tracing::error!(%error, "no process took over and this one goes on: see what the new one said");
    None
}

/// The next signal that asks for the end.
async fn told_to_stop(signals: &mut Signals) -> &'static str {
    // A reload, or another hand-over, comes too late.
    let hung_up = Notify::new();
    loop {
        if let Asked::Stop(signal) = signals.next(&hung_up).await {
            return signal;
        }
    }
}

async fn stop_if_any(admin: Option<Control>) {
    if let Some(admin) = admin {
        admin.stop().await;
    }
}

/// A process that lacks nothing but the store, and which embedded store it wants.
async fn prepared(
    started: io::Result<Successor>,
    handles: &Handles,
) -> io::Result<(Successor, Option<PathBuf>)> {
    let mut successor = started?;
    match successor.prepare(handles).await {
        Ok(store) => Ok((successor, store)),
        Err(error) => Err(successor.give_up(error).await),
    }
}

/// The same process, once it serves.
async fn serving(mut successor: Successor) -> io::Result<Successor> {
    match successor.let_serve().await {
        Ok(()) => Ok(successor),
        Err(error) => Err(successor.give_up(error).await),
    }
}

/// Waits for what must not happen, and so looks seldom.
async fn ended(proxy: &Running) {
    const LOOK_EVERY: Duration = Duration::from_secs(1);
    while !proxy.has_ended() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn finished(proxy: &Running, drain_timeout: Duration) {
    if !wait_until(|| proxy.open_connections() == 0, drain_timeout).await {
        let open = proxy.open_connections();
        tracing::warn!(open, "the drain timeout is over: connections are cut");
    }
}
