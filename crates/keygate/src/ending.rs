//! How a gateway goes down: what runs finishes within a bound, nothing that was counted is lost, and if
//! another process takes over no connection is refused meanwhile.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use keygate_config::Store as StoreSettings;
use keygate_core::key::PepperId;
use keygate_proxy::Running;
use keygate_store::heir::HeirLink;
use keygate_store::keys::KeyStore;
use sd_notify::NotifyState;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::clock;
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
/// How long what keys used last may take on its way to the store, with nobody waiting: a minute's use of
/// many keys takes some seconds. The disk may be gone with this process.
const LAST_USE_MAX: Duration = Duration::from_secs(10);
/// The same, while clients wait for the process that takes over: that sends the rest.
const LAST_USE_HERE_MAX: Duration = Duration::from_secs(2);
/// How long the receiver of traces may take for the last spans.
const LAST_SPANS_MAX: Duration = Duration::from_secs(2);

/// How long requests that are cut off at the end may take for what is told of them.
const LAST_WORDS_MAX: Duration = Duration::from_millis(200);

/// Why a gateway ends.
enum End {
    /// By this signal.
    Told(&'static str),
    /// Another process serves now. If a stop was asked for meanwhile, it is for that one too.
    TakenOver(Box<Successor>, StoreIs, Option<&'static str>),
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
    pub(crate) async fn until_stopped(self) -> Result<(), Failure> {
        let (traces, access_log) = (self.traces.clone(), self.access_log.clone());
        let outcome = self.until_quiet().await;
        // Whatever way it ended, and after the last request.
        let stop = move || {
            access_log.stop();
            traces.stop(LAST_SPANS_MAX);
        };
        drop(tokio::task::spawn_blocking(stop).await);
        outcome
    }

    async fn until_quiet(mut self) -> Result<(), Failure> {
        match self.until_asked().await {
            End::Told(signal) => {
                tracing::info!(signal, "stopping");
                tell_supervisor(&[NotifyState::Stopping]);
                self.stopping.store(true, Ordering::Release);
                self.drain().await;
                self.say_goodbye().await;
                Ok(())
            }
            End::TakenOver(successor, store, told) => {
                tracing::info!(pid = successor.pid(), "another process has taken over");
                if let Some(signal) = told {
                    tracing::info!(signal, "told to stop meanwhile: passing it on");
                    successor.terminate();
                }
                self.hand_over_the_rest(successor, store).await;
                Ok(())
            }
            End::ByItself => {
                self.say_goodbye().await;
                Err(Failure::new(Exit::Failed, "the gateway stopped by itself: see the log"))
            }
            End::Orphaned => {
                // Nobody can look a key up, but what runs was let in.
                self.handles = Handles::default();
                self.finish(std::future::pending()).await;
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
                    let end = tokio::select! {
                        end = self.hand_over(&hung_up) => end,
                        // The file may change meanwhile, and somebody may ask.
                        never = reloading.as_mut() => match never {},
                        never = watching.as_mut() => match never {},
                    };
                    if let Some(end) = end {
                        return end;
                    }
                }
            }
        }
    }

    /// Has a new process take over. If it comes to nothing, nothing has changed.
    async fn hand_over(&mut self, hung_up: &Notify) -> Option<End> {
        let Some(program) = &self.program else {
            tracing::warn!("SIGQUIT: a demo is not handed over; `keygate run` is");
            return None;
        };
        tracing::info!("SIGQUIT: starting the process that takes over");
        // Without the store nobody knows; then the new process finds out.
        let peppers = self.keys.store().peppers(clock::now()).await.unwrap_or_default();
        let preparing = prepared(program.start_again(), &self.handles, &peppers);
        let (successor, store) = tokio::select! {
            prepared = preparing => match prepared {
                Ok(prepared) => prepared,
                Err(error) => return not_taken_over(&error),
            },
            // The new process ends with the socket that it was about to be told more on.
            signal = told_to_stop(&mut self.signals, hung_up) => return Some(End::Told(signal)),
        };
        if self.is_ours(store.as_deref()) {
            Some(self.give_store_to(successor, &peppers).await)
        } else {
            self.serve_beside(successor).await
        }
    }

    /// Both have a store: the new process serves before this one stops to.
    async fn serve_beside(&mut self, successor: Successor) -> Option<End> {
        // Two copies of the log in one file would be one too many.
        if let Some(sink) = self.audit_sink.take() {
            sink.stop().await;
        }
        let (served, told) = remembering(&mut self.signals, serving(successor)).await;
        match (served, told) {
            (Ok(successor), told) => {
                Some(End::TakenOver(Box::new(successor), StoreIs::Shared, told))
            }
            (Err(_), Some(signal)) => Some(End::Told(signal)),
            (Err(error), None) => {
                self.audit_sink = self.audit_copy.begin().await.unwrap_or_else(|error| {
                    tracing::error!(error = format!("{error:#}"), "the audit log is not copied");
                    None
                });
                not_taken_over(&error)
            }
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
    async fn give_store_to(&mut self, successor: Successor, peppers: &[PepperId]) -> End {
        let (admin, sink) = (self.admin.take(), self.audit_sink.take());
        let Self { signals, proxy, limiter, usage, sending, keys, program, handles, .. } = self;
        let giving = async {
            proxy.stop();
            let quiet = wait_until(|| proxy.open_connections() == 0, QUIESCE_MAX);
            // An admin request that takes longer finds the store gone.
            let admin = timeout(QUIESCE_MAX, stop_if_any(admin));
            drop(tokio::join!(quiet, admin));
            if let Some(sink) = sink {
                sink.stop().await;
            }
            limiter.give_away().await;
            usage.finish(keys.store(), sending, LAST_USE_HERE_MAX).await;
            keys.store().inner().give_away().await;
            match serving(successor).await {
                Ok(successor) => return Some(successor),
                Err(error) => {
                    tracing::error!(%error, "the new process failed: the old program is started again");
                }
            }
            let started = program.as_ref()?.start_same();
            let again = async { serving(prepared(started, handles, peppers).await?.0).await };
            again.await.map_err(|error| tracing::error!(%error, "the old program failed too")).ok()
        };
        match remembering(signals, giving).await {
            (Some(successor), told) => {
                End::TakenOver(Box::new(successor), StoreIs::GivenAway, told)
            }
            (None, _) => End::Orphaned,
        }
    }

    /// Finishes what had begun before another process took over.
    async fn hand_over_the_rest(mut self, successor: Box<Successor>, store: StoreIs) {
        self.handles = Handles::default();
        self.proxy.stop();
        match store {
            StoreIs::Shared => {
                drop(successor);
                // What is asked for from now on is the new process's to answer.
                stop_if_any(self.admin.take()).await;
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
        let hung_up = Notify::new();
        // Load balancers still send requests until they have seen that we are not ready.
        tokio::select! {
            () = tokio::time::sleep(self.live.config().server.shutdown_delay) => {}
            signal = told_to_stop(&mut self.signals, &hung_up) => {
                return tracing::warn!(signal, "told twice: stopping now");
            }
        }
        // Whoever holds a listener open keeps clients waiting whom nobody will serve.
        self.handles = Handles::default();
        self.proxy.stop();
        self.finish(std::future::pending()).await;
    }

    /// Waits for what still runs, here and in the process before this one, which asks this one about
    /// keys: at most for the drain timeout, until `orphaned`, or until told again.
    async fn finish(&mut self, orphaned: impl Future<Output = ()>) {
        let Self { signals, proxy, live, predecessor, .. } = self;
        let hung_up = Notify::new();
        let rests = || proxy.open_connections() == 0;
        let is_done = || rests() && predecessor.as_ref().is_none_or(JoinHandle::is_finished);
        tokio::select! {
            is_done = wait_until(is_done, live.config().server.drain_timeout) => if !is_done {
                let open = proxy.open_connections();
                tracing::warn!(open, "the drain timeout is over: connections are cut");
            },
            () = orphaned => {
                tracing::error!("the process that took over is gone: connections are cut");
            }
            signal = told_to_stop(signals, &hung_up) => {
                tracing::warn!(signal, "told twice: stopping now");
            }
        }
        if !rests() {
            proxy.cut();
            wait_until(rests, LAST_WORDS_MAX).await;
        }
    }

    /// Once no client is served any more, whyever.
    async fn say_goodbye(self) {
        stop_if_any(self.admin).await;
        if let Some(sink) = self.audit_sink {
            sink.stop().await;
        }
        self.limiter.stop().await;
        self.usage.finish(self.keys.store(), &self.sending, LAST_USE_MAX).await;
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

/// The next signal that asks for the end. Another hand-over comes too late.
async fn told_to_stop(signals: &mut Signals, hung_up: &Notify) -> &'static str {
    loop {
        if let Asked::Stop(signal) = signals.next(hung_up).await {
            return signal;
        }
    }
}

/// Does something to its end, and says whether a stop was asked for meanwhile.
async fn remembering<T>(
    signals: &mut Signals,
    work: impl Future<Output = T>,
) -> (T, Option<&'static str>) {
    let mut work = std::pin::pin!(work);
    let hung_up = Notify::new();
    tokio::select! {
        // Biased: what is done is done.
        biased;
        done = work.as_mut() => (done, None),
        signal = told_to_stop(signals, &hung_up) => (work.await, Some(signal)),
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
    peppers: &[PepperId],
) -> io::Result<(Successor, Option<PathBuf>)> {
    let mut successor = started?;
    match successor.prepare(handles, peppers).await {
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
