//! Attempts that were refused, on their way to the audit log: beside the requests, and no more of them
//! than a log can bear. Those beyond are counted, and the next entry says how many they were.

use std::net::IpAddr;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use keygate_core::UnixMillis;
use keygate_core::limit::Gcra;
use keygate_store::keys::KeyStore;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use crate::registry::{Registry, RegistryError};

/// Entries that wait for a slow store; those beyond are dropped, and counted.
const WAITING_MAX: usize = 256;
/// How often it is seen to that what is counted gets written.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// One attempt. Holds nothing that a client sent but an id of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attempt {
    pub(crate) at: UnixMillis,
    /// Nobody, if the token was wrong.
    pub(crate) actor: Option<String>,
    /// What was asked for, such as `POST /v1/keys/{id}/revoke`, with the id if it is one of ours.
    pub(crate) subject: String,
    /// The problem's code.
    pub(crate) code: &'static str,
    pub(crate) from: Option<IpAddr>,
}

/// An attempt to be written, and how many others came before it that are not.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) attempt: Attempt,
    pub(crate) others: u64,
}

/// Takes attempts, and never waits. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Refusals {
    waiting: mpsc::Sender<Refused>,
    rations: Arc<Rations>,
    dropped: Arc<AtomicU64>,
}

impl Refusals {
    /// Begins to write to the registry's log, until the last clone is dropped.
    pub(crate) fn start<S: KeyStore>(registry: Registry<S>) -> Self {
        let (waiting, entries) = mpsc::channel(WAITING_MAX);
        let (rations, dropped) = (Arc::new(Rations::new()), Arc::new(AtomicU64::new(0)));
        let writer =
            Writer { registry, rations: Arc::clone(&rations), dropped: Arc::clone(&dropped) };
        // Ends with the last sender.
        drop(tokio::spawn(writer.run(entries)));
        Self { waiting, rations, dropped }
    }

    pub(crate) fn note(&self, attempt: Attempt) {
        let Some(refused) = self.rations.note(attempt) else { return };
        if let Err(full) = self.waiting.try_send(refused) {
            let lost = full.into_inner().others.saturating_add(1);
            // Whoever writes has said why already.
            self.dropped.fetch_add(lost, Relaxed);
        }
    }

    /// Reads how many attempts are in no entry, because the store did not take them.
    pub(crate) fn dropped(&self) -> Box<dyn Fn() -> u64 + Send + Sync> {
        let dropped = Arc::clone(&self.dropped);
        Box::new(move || dropped.load(Relaxed))
    }
}

struct Writer<S: KeyStore> {
    registry: Registry<S>,
    rations: Arc<Rations>,
    dropped: Arc<AtomicU64>,
}

impl<S: KeyStore> Writer<S> {
    async fn run(self, mut entries: mpsc::Receiver<Refused>) {
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                entry = entries.recv() => match entry {
                    Some(refused) => self.write(refused).await,
                    None => break,
                },
                _ = look.tick() => {
                    for refused in self.rations.due() {
                        self.write(refused).await;
                    }
                }
            }
        }
        for refused in self.rations.unsaid() {
            self.write(refused).await;
        }
    }

    async fn write(&self, refused: Refused) {
        let attempts = refused.others.saturating_add(1);
        match self.registry.note_refused(refused).await {
            // To have it on fewer replicas than it should is to have it.
            Ok(()) | Err(RegistryError::NotDurable { .. }) => {}
            Err(error) => {
                let dropped = self.dropped.fetch_add(attempts, Relaxed).saturating_add(attempts);
                let cause = crate::problem::chain(&error);
                tracing::warn!(
                    cause,
                    attempts,
                    dropped,
                    "refused attempts are not in the audit log"
                );
            }
        }
    }
}

/// What may be written, of those who hold a token and of those who do not: neither takes the other's
/// part.
struct Rations {
    strangers: Mutex<Ration>,
    operators: Mutex<Ration>,
    /// The zero of the times that rations are told.
    start: Instant,
}

impl Rations {
    fn new() -> Self {
        Self {
            // Anybody can be refused for a wrong token: no more than 1500 entries a day.
            strangers: Mutex::new(Ration::new(1, Gcra::new(1, MINUTE, 60))),
            operators: Mutex::new(Ration::new(10, Gcra::new(10, MINUTE, 600))),
            start: Instant::now(),
        }
    }

    fn note(&self, attempt: Attempt) -> Option<Refused> {
        let ration = if attempt.actor.is_some() { &self.operators } else { &self.strangers };
        lock(ration).note(attempt, self.now_ns())
    }

    fn due(&self) -> Vec<Refused> {
        let now_ns = self.now_ns();
        self.each(|ration| ration.due(now_ns))
    }

    fn unsaid(&self) -> Vec<Refused> {
        self.each(Ration::unsaid)
    }

    fn each(&self, ask: impl Fn(&mut Ration) -> Option<Refused>) -> Vec<Refused> {
        [&self.strangers, &self.operators]
            .into_iter()
            .filter_map(|one| ask(&mut lock(one)))
            .collect()
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

fn lock(ration: &Mutex<Ration>) -> std::sync::MutexGuard<'_, Ration> {
    ration.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many entries may be written: so many a second, and over a longer time so many.
struct Ration {
    quick: Gcra,
    quick_state: u64,
    slow: Gcra,
    slow_state: u64,
    /// The newest attempt that is in no entry, and how many came before it that are not.
    kept: Option<Refused>,
}

impl Ration {
    fn new(per_second: u64, slow: Gcra) -> Self {
        let quick = Gcra::new(per_second, Duration::from_secs(1), per_second);
        Self { quick, quick_state: 0, slow, slow_state: 0, kept: None }
    }

    /// Takes an attempt: what to write now, if anything.
    fn note(&mut self, attempt: Attempt, now_ns: u64) -> Option<Refused> {
        let kept = self.kept.take();
        let others = kept.map_or(0, |kept| kept.others.saturating_add(1));
        let refused = Refused { attempt, others };
        if self.allows(now_ns) {
            return Some(refused);
        }
        self.kept = Some(refused);
        None
    }

    /// What is still to be said, if it may be.
    fn due(&mut self, now_ns: u64) -> Option<Refused> {
        (self.kept.is_some() && self.allows(now_ns)).then(|| self.unsaid())?
    }

    fn unsaid(&mut self) -> Option<Refused> {
        self.kept.take()
    }

    fn allows(&mut self, now_ns: u64) -> bool {
        let quick = self.quick.take(self.quick_state, now_ns, 1);
        let slow = self.slow.take(self.slow_state, now_ns, 1);
        let (Ok(quick), Ok(slow)) = (quick, slow) else { return false };
        (self.quick_state, self.slow_state) = (quick, slow);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn attempt(n: u64) -> Attempt {
        Attempt {
            at: UnixMillis(n),
            actor: None,
            subject: "GET /v1/accounts".to_owned(),
            code: "unauthorized",
            from: None,
        }
    }

    fn strangers() -> Ration {
        Ration::new(1, Gcra::new(1, MINUTE, 60))
    }

    #[test]
    fn an_entry_says_how_many_attempts_came_before_it_that_have_none() {
        let mut ration = strangers();
        let first = ration.note(attempt(0), 0);
        assert_eq!(first, Some(Refused { attempt: attempt(0), others: 0 }));
        for n in 1..100 {
            assert_eq!(ration.note(attempt(n), n), None);
        }
        assert_eq!(ration.due(SECOND - 1), None, "too early");
        let next = ration.note(attempt(100), SECOND);
        assert_eq!(next, Some(Refused { attempt: attempt(100), others: 99 }));
    }

    #[test]
    fn what_was_counted_is_said_even_if_nobody_comes_any_more() {
        let mut ration = strangers();
        drop(ration.note(attempt(0), 0));
        assert_eq!(ration.due(SECOND), None, "all is said");
        assert_eq!(ration.note(attempt(1), SECOND / 2), None);
        assert_eq!(ration.note(attempt(2), SECOND / 2), None);
        assert_eq!(ration.due(SECOND), Some(Refused { attempt: attempt(2), others: 1 }));
        assert_eq!(ration.due(2 * SECOND), None);
    }

    #[test]
    fn a_day_of_guessing_is_some_hundred_entries_that_tell_of_each_attempt() {
        const DAY: u64 = 86_400;
        let mut ration = strangers();
        let (mut entries, mut told) = (0, 0);
        let mut count = |refused: Option<Refused>| {
            if let Some(refused) = refused {
                entries += 1;
                told += refused.others + 1;
            }
        };
        for n in 0..DAY * 10 {
            let now_ns = n * SECOND / 10;
            count(ration.note(attempt(n), now_ns));
            if n % 10 == 0 {
                count(ration.due(now_ns));
            }
        }
        count(ration.unsaid());
        assert!(entries <= 60 + DAY / 60 + 2, "{entries}");
        assert_eq!(told, DAY * 10);
    }
}
