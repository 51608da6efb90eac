//! Keeps the connections to the primary up, and follows the changes that others make: told of each
//! by a subscription (`told.rs`), and certain of it by asking every [`ASK_EVERY`] where the store
//! is. What a sign of a change means is `follow.rs`'s.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use keygate_config::Target;
use redis::aio::MultiplexedConnection;
use redis::streams::StreamRangeReply;
use redis::{RedisError, RedisResult, Script, Value};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout, timeout_at};

use super::change::{Change, Mark, Place};
use super::dial::{Connected, DialError, Dialer, is_refusal};
use super::follow::{Asked, Follower, Meta, Next};
use super::layout::{FORMAT, Names};
use super::primary::{Connections, Primary};
use super::reach::{Reached, Trust, reach, vouch};
use super::told::{Sign, Told};
use super::{LinkObserver, fleet};
use crate::coherence::Coherence;
use crate::fleet::{Gateway, HeldPeppers, LinkState};
use crate::keys::ChangeNumber;

/// How often the store is asked where it is. A change that nobody told us of waits this long.
pub(super) const ASK_EVERY: Duration = Duration::from_millis(250);
/// So many questions in a row without an answer end the connections: a dead one never says so.
pub(super) const UNANSWERED_MAX: u32 = 4;
/// How long reading the log may take.
const CATCH_UP_MAX: Duration = Duration::from_secs(1);
/// How often the fleet is told of this gateway.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// The longest wait between two tries to connect: what has come back is found within it.
pub(super) const RETRY_MAX: Duration = Duration::from_millis(500);
const RETRY_MIN: Duration = Duration::from_millis(25);
/// Entries of the log that are read at a time.
const LOG_PART: usize = 1_000;

/// The task that does it. Dropping this ends it.
pub(super) struct Link {
    /// A [`LinkState`], for others to see.
    state: Arc<AtomicU8>,
    reached: watch::Receiver<bool>,
    task: JoinHandle<()>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Link {
    pub(super) fn start(
        dialer: Dialer,
        primary: Arc<Primary>,
        names: Names,
        gateway: Gateway,
        peppers: HeldPeppers,
        coherence: Arc<Coherence>,
        observer: Arc<dyn LinkObserver>,
    ) -> Self {
        let state = Arc::new(AtomicU8::new(DOWN));
        let (reached, was_reached) = watch::channel(false);
        observer.link(LinkState::Down);
        let keeper = Keeper {
            dialer: Arc::new(dialer),
            primary,
            names,
            gateway,
            peppers,
            follower: Follower::new(Arc::clone(&coherence), Arc::clone(&observer)),
            coherence,
            observer,
            state: Arc::clone(&state),
            reached,
            retries: retries(),
            said: None,
            is_well: false,
            trust: Trust::new(None),
        };
        Self { state, reached: was_reached, task: tokio::spawn(keeper.keep()) }
    }

    /// Waits until the store was reached for the first time.
    pub(super) async fn reached(&self) {
        if self.reached.clone().wait_for(|reached| *reached).await.is_err() {
            // The task is gone, so it never will be.
            std::future::pending::<()>().await;
        }
    }

    /// Follows and reports no longer.
    pub(super) fn end(&self) {
        self.task.abort();
    }

    pub(super) fn state(&self) -> LinkState {
        match self.state.load(Relaxed) {
            LIVE => LinkState::Live,
            POLLING => LinkState::Polling,
            _ => LinkState::Down,
        }
    }
}

const LIVE: u8 = 2;
const POLLING: u8 = 1;
const DOWN: u8 = 0;

/// Why there is no connection, or no more.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("the store does not say where it is")]
    Asking(#[source] RedisError),
    #[error("the store did not answer {UNANSWERED_MAX} times in a row")]
    Unanswered,
    #[error("the connection broke, or its server is no primary any more")]
    Lost,
    #[error("the primary is another server now")]
    Elsewhere,
    #[error("the store is empty where its description was")]
    Emptied,
    #[error(
        "the store was written by a newer version of keygate (layout {found}); upgrade this one"
    )]
    Newer { found: u64 },
}

struct Keeper {
    dialer: Arc<Dialer>,
    primary: Arc<Primary>,
    names: Names,
    gateway: Gateway,
    peppers: HeldPeppers,
    follower: Follower,
    coherence: Arc<Coherence>,
    observer: Arc<dyn LinkObserver>,
    /// A [`LinkState`], for others to see.
    state: Arc<AtomicU8>,
    reached: watch::Sender<bool>,
    retries: ExponentialBackoff,
    /// Why the store was out of reach when that was last said.
    said: Option<String>,
    is_well: bool,
    trust: Trust,
}

pub(super) fn retries() -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(RETRY_MIN)
        .with_max_delay(RETRY_MAX / 2)
        // Adds up to as much again.
        .with_jitter()
        .without_max_times()
        .build()
}

impl Keeper {
    async fn keep(mut self) {
        loop {
            let Err(error) = self.connect_and_follow().await;
            self.primary.disconnect();
            self.is_well = false;
            self.show(LinkState::Down);
            self.say(&error);
            sleep(self.retries.next().unwrap_or(RETRY_MAX)).await;
        }
    }

    /// Says each reason once: tries come several times a second.
    fn say(&mut self, error: &LinkError) {
        let reason = chain(error);
        if self.said.as_ref() == Some(&reason) {
            return;
        }
        match error {
            LinkError::Newer { .. } => tracing::error!(reason, "the store cannot be used"),
            LinkError::Dial(dial) if is_refusal(dial) => {
                tracing::error!(
                    reason,
                    "the store refuses us: check `username` and `password_file`"
                );
            }
            LinkError::Dial(_)
            | LinkError::Asking(_)
            | LinkError::Unanswered
            | LinkError::Lost
            | LinkError::Elsewhere
            | LinkError::Emptied => {
                tracing::warn!(reason, "the store is out of reach; known keys go on working");
            }
        }
        self.said = Some(reason);
    }

    fn show(&self, state: LinkState) {
        let shown = match state {
            LinkState::Live => LIVE,
            LinkState::Polling => POLLING,
            LinkState::Down => DOWN,
        };
        if self.state.swap(shown, Relaxed) != shown {
            self.observer.link(state);
            tracing::debug!(state = state.as_str(), "link to the store");
        }
    }

    /// One connection's life.
    async fn connect_and_follow(&mut self) -> Result<Infallible, LinkError> {
        let Reached { target, has_majority, connected } = reach(&self.dialer).await?;
        let Connected { connections, address } = connected;
        let connections = Arc::new(connections);
        let mut lists = connections.lists();
        let asked = self.follower.asking();
        let meta = self.hello(&mut lists).await?;
        let vouched_at = has_majority.then(Instant::now);
        let vouched = vouch(Arc::clone(&self.dialer), target.clone(), vouched_at);
        self.trust = Trust::new(vouched);
        // First, since catching up may forget all keys: who asks for one then must be answered.
        self.primary.connect(Arc::clone(&connections));
        self.catch_up(&mut lists, meta, asked).await?;
        self.confirm(asked);
        self.show(LinkState::Polling);
        self.reached.send_replace(true);
        tracing::debug!(server = %target, "connected to the store");

        let channel = self.names.channel();
        let mut told = Told::start(Arc::clone(&self.dialer), target.clone(), address, channel);
        self.follow(&connections, &mut told, &target).await
    }

    async fn follow(
        &mut self,
        connections: &Arc<Connections>,
        told: &mut Told,
        target: &Target,
    ) -> Result<Infallible, LinkError> {
        let mut lists = connections.lists();
        let mut ask_again = interval(ASK_EVERY);
        ask_again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut report_again = interval(REPORT_EVERY);
        report_again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut question = pin!(None::<Question>);
        let mut unanswered = 0;
        loop {
            tokio::select! {
                // Messages first: each ends the validity of something.
                biased;
                sign = told.signs.recv() => match sign {
                    Some(Sign::Change(change)) => match self.follower.heard(&change) {
                        Next::UpToDate => {}
                        Next::Ask | Next::ReadFrom(_) => ask_again.reset_immediately(),
                    },
                    Some(Sign::Listening) => {
                        self.show(LinkState::Live);
                        // What was published before that went by unheard.
                        ask_again.reset_immediately();
                    }
                    Some(Sign::Garbled) => ask_again.reset_immediately(),
                    Some(Sign::Silent) => {
                        self.show(LinkState::Polling);
                        ask_again.reset_immediately();
                    }
                    None => return Err(LinkError::Lost),
                },
                () = connections.lost.notified() => return Err(LinkError::Lost),
                () = self.trust.ended() => return Err(LinkError::Elsewhere),
                answer = answered(question.as_mut()), if question.is_some() => {
                    question.set(None);
                    match answer {
                        Ok(Answer { asked, meta }) => {
                            unanswered = 0;
                            self.observer.answered(true);
                            self.catch_up(&mut lists, meta?, asked).await?;
                            self.confirm(asked);
                            connections.close();
                            self.well(target);
                        }
                        Err(()) => {
                            unanswered += 1;
                            self.observer.answered(false);
                            if unanswered >= UNANSWERED_MAX {
                                return Err(LinkError::Unanswered);
                            }
                        }
                    }
                }
                _ = ask_again.tick(), if question.is_none() => {
                    question.set(Some(self.ask(lists.clone())));
                }
                _ = report_again.tick() => {
                    self.report();
                    self.probe(connections);
                }
            }
        }
    }

    /// The store answers, and in time: only now a next outage is a new one. One that lets us in and
    /// then is too slow would be news several times a minute.
    fn well(&mut self, target: &Target) {
        if !self.is_well {
            self.is_well = true;
            self.retries = retries();
            self.said = None;
            let change = self.follower.place().number.0;
            tracing::info!(server = %target, change, "connected to the store");
        }
    }

    /// Says that nothing is missing, as far as this server can be believed.
    fn confirm(&self, asked: Asked) {
        if let Some(until) = self.trust.until(asked.at) {
            self.coherence.confirm(until);
        }
    }

    /// Finds out about connections that broke without a word: one for writes may be used once a day.
    fn probe(&self, connections: &Arc<Connections>) {
        let (connections, limit) = (Arc::clone(connections), self.primary.list_timeout());
        drop(tokio::spawn(async move {
            // The one that waits for replicas may have to wait before it answers.
            for mut connection in connections.all().into_iter().rev().skip(1) {
                let ping = redis::cmd("PING");
                let answer = timeout(limit, ping.query_async::<Value>(&mut connection)).await;
                if !matches!(answer, Ok(Ok(_))) {
                    connections.lost.notify_one();
                }
            }
        }));
    }

    /// Applies what was changed since the store was last asked.
    async fn catch_up(
        &mut self,
        connection: &mut MultiplexedConnection,
        meta: Meta,
        asked: Asked,
    ) -> Result<(), LinkError> {
        let mut next = self.follower.met(&meta, asked);
        let deadline = Instant::now() + CATCH_UP_MAX;
        while let Next::ReadFrom(place) = next {
            let read = timeout_at(deadline, read_log(connection, &self.names, place)).await;
            let Ok(entries) = read else {
                // Messages wait meanwhile, so it is quicker to read nothing than to read on.
                self.follower.give_up(&meta);
                return Ok(());
            };
            next = self.follower.read(&entries.map_err(LinkError::Asking)?, &meta);
        }
        Ok(())
    }

    async fn hello(&self, connection: &mut MultiplexedConnection) -> Result<Meta, LinkError> {
        static HELLO: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("hello.lua")));
        let id = format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
        let mut call = HELLO.key(self.names.meta());
        call.arg(id).arg(FORMAT);
        let said = timeout(self.primary.list_timeout(), call.invoke_async(connection)).await;
        let said: Said = said.map_err(|_| LinkError::Unanswered)?.map_err(LinkError::Asking)?;
        meta(said)
    }

    fn ask(&self, mut connection: MultiplexedConnection) -> Question {
        let name = self.names.meta();
        let limit = self.primary.find_timeout();
        let asked = self.follower.asking();
        Box::pin(async move {
            let mut questions = redis::pipe();
            questions.cmd("HMGET").arg(name).arg(&["format", "id", "seq", "mark"]).cmd("TIME");
            match timeout(limit, questions.query_async::<Said>(&mut connection)).await {
                Ok(said) => {
                    let meta = said.map_err(LinkError::Asking).and_then(meta);
                    Ok(Answer { asked, meta })
                }
                Err(_) => Err(()),
            }
        })
    }

    /// Tells the fleet of this gateway. It is a write: a server that is a replica by now says so.
    fn report(&self) {
        if self.gateway.id.is_empty() {
            return;
        }
        let primary = Arc::clone(&self.primary);
        let (names, gateway) = (self.names.clone(), self.gateway.clone());
        let (link, applied) = (self.state(), self.follower.place().number);
        let said = fleet::Said { link, applied, peppers: self.peppers.get() };
        drop(tokio::spawn(async move {
            let report = async |connection: &mut MultiplexedConnection| {
                fleet::report(connection, &names, &gateway, &said).await
            };
            if let Err(error) = primary.read(report).await {
                tracing::debug!(reason = chain(&error), "the fleet was not told of this gateway");
            }
        }));
    }

    fn state(&self) -> LinkState {
        match self.state.load(Relaxed) {
            LIVE => LinkState::Live,
            _ => LinkState::Polling,
        }
    }
}

/// A question that is under way. No answer in time is an error.
type Question = Pin<Box<dyn Future<Output = Result<Answer, ()>> + Send>>;

struct Answer {
    asked: Asked,
    meta: Result<Meta, LinkError>,
}

async fn answered(question: Pin<&mut Option<Question>>) -> Result<Answer, ()> {
    match question.as_pin_mut() {
        Some(question) => question.await,
        None => std::future::pending().await,
    }
}

/// The fields of `meta` and the time.
type Said = ((Option<u64>, Option<String>, Option<u64>, Option<String>), (u64, u64));

fn meta(((format, id, number, mark), (seconds, micros)): Said) -> Result<Meta, LinkError> {
    let mark = mark.and_then(|mark| mark.parse::<Mark>().ok());
    let (Some(format), Some(id), Some(number), Some(mark)) = (format, id, number, mark) else {
        return Err(LinkError::Emptied);
    };
    if format > FORMAT {
        return Err(LinkError::Newer { found: format });
    }
    let newest = Place { number: ChangeNumber(number), mark };
    Ok(Meta { id, newest, micros: seconds.saturating_mul(1_000_000).saturating_add(micros) })
}

/// The part of the log that begins with this change.
async fn read_log(
    connection: &mut MultiplexedConnection,
    names: &Names,
    from: Place,
) -> RedisResult<Vec<Change>> {
    let mut read = redis::cmd("XRANGE");
    read.arg(names.log()).arg(format!("{}-0", from.number.0)).arg("+").arg("COUNT").arg(LOG_PART);
    let part: StreamRangeReply = read.query_async(connection).await?;
    // One that cannot be read is a gap to whoever follows.
    Ok(part.ids.iter().filter_map(entry).collect())
}

fn entry(entry: &redis::streams::StreamId) -> Option<Change> {
    let field = |name: &str| entry.get::<String>(name);
    let number = entry.id.split_once('-')?.0.parse().ok()?;
    let mark = field("m")?.parse().ok()?;
    Some(Change {
        place: Place { number: ChangeNumber(number), mark },
        after: field("p")?.parse().ok()?,
        at_micros: field("t")?.parse().ok()?,
        subject: super::change::subject(&field("s")?),
    })
}

/// An error with its causes, for the log.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        // Some repeat their cause.
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
