//! The signals, the end of a gateway that they ask for, and the wait for what still runs.

use std::io::{self, IsTerminal};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// How often the wait looks whether anything is left to wait for.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// The end; by this signal.
    Stop(&'static str),
    /// That a new process takes over.
    HandOver,
}

/// SIGTERM, SIGINT, SIGQUIT, SIGHUP and SIGUSR1, caught from the moment this is made.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    quit: Signal,
    /// Acted upon elsewhere: see [`on_reopen`]. Until then, it must not end the process.
    _reopen: Signal,
    /// From a terminal, SIGHUP says that the terminal is gone; from anybody else, that the
    /// configuration has changed.
    has_terminal: bool,
}

impl Signals {
    /// Catches the signals. Needs a runtime.
    pub(crate) fn catch() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
            _reopen: signal(SignalKind::user_defined1())?,
            has_terminal: io::stdin().is_terminal(),
        })
    }

    /// Waits for the next one that asks for the end, or for another process to take over. Notes on
    /// `hung_up` those that ask for a reload.
    pub(crate) async fn next(&mut self, hung_up: &Notify) -> Asked {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return Asked::Stop("SIGTERM"),
                _ = self.interrupt.recv() => return Asked::Stop("SIGINT"),
                _ = self.quit.recv() => return Asked::HandOver,
                _ = self.hangup.recv() => {
                    if self.has_terminal {
                        return Asked::Stop("SIGHUP");
                    }
                    hung_up.notify_one();
                }
            }
        }
    }
}

/// Has files that were moved away opened again whenever SIGUSR1 asks for it, as long as the process runs.
pub(crate) fn on_reopen(reopen: impl Fn() + Send + 'static) -> io::Result<()> {
    let mut asked = signal(SignalKind::user_defined1())?;
    drop(tokio::spawn(async move {
        while asked.recv().await.is_some() {
            tracing::debug!("SIGUSR1: the access log is opened again");
            reopen();
        }
    }));
    Ok(())
}

/// Waits until `done`, at most for `patience`. Says whether it is done.
pub(crate) async fn wait_until(done: impl Fn() -> bool, patience: Duration) -> bool {
    let mut look = interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let wait = async {
        while !done() {
            look.tick().await;
        }
    };
    timeout(patience, wait).await.is_ok()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn the_wait_ends_as_soon_as_nothing_is_left() {
        let open = Cell::new(3);
        let drained = || {
            open.set(open.get() - 1);
            open.get() == 0
        };
        assert!(wait_until(drained, Duration::from_secs(3_600)).await);
        assert_eq!(open.get(), 0);
    }

    #[tokio::test]
    async fn the_wait_has_an_end() {
        assert!(!wait_until(|| false, Duration::from_millis(1)).await);
    }
}
