//! How a process that gave its embedded store away still knows about keys: it asks the process that
//! has the store now, over a socket between the two, and is told of every change there.
//!
//! One line of text a message. Both sides are the same program, of two versions at most.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keygate_core::KeyDigest;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::cached::CachedKeys;
use crate::codec::{Record, digest_from_hex};
use crate::coherence::Coherence;
use crate::keys::{KeyStore, StoreError, Subject};
use crate::records::{Account, App, Key, OwnedKey};
use crate::subject::SubjectText;

/// Questions that may wait to be sent. Whoever asks more waits.
const QUESTIONS_MAX: usize = 256;
/// How long one look-up may take: it crosses no network.
const FIND_MAX: Duration = Duration::from_millis(500);

const FIND: &str = "find";
const FOUND: &str = "found";
const UNKNOWN: &str = "unknown";
const FAILED: &str = "failed";
const CHANGED: &str = "changed";

/// The side that gave its store away. Cheap to clone.
#[derive(Clone)]
pub struct HeirLink {
    asked: mpsc::Sender<String>,
    waiting: Arc<Waiting>,
}

type Answer = Result<Option<OwnedKey>, StoreError>;

#[derive(Default)]
struct Waiting {
    next: AtomicU64,
    list: Mutex<HashMap<u64, oneshot::Sender<Answer>>>,
}

impl Waiting {
    fn list(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<Answer>>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, number: u64, answer: Answer) {
        if let Some(asker) = self.list().remove(&number) {
            // The error says that nobody waits any more.
            asker.send(answer).ok();
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum HeirError {
    #[error("the process that took the store over does not answer")]
    Gone,
    #[error("the process that took the store over could not look the key up")]
    Failed,
    #[error("the process that took the store over says what cannot be read")]
    Unreadable,
}

fn unavailable(error: HeirError) -> StoreError {
    StoreError::Unavailable(Box::new(error))
}

impl HeirLink {
    /// Follows the process at the other end: what it changes is forgotten in `coherence`. The future
    /// ends when that process does; from then on nothing is known of keys any more.
    pub fn follow<'a>(
        stream: UnixStream,
        coherence: &'a Coherence,
    ) -> (Self, impl Future<Output = ()> + use<'a>) {
        let (read, write) = stream.into_split();
        let (asked, questions) = mpsc::channel(QUESTIONS_MAX);
        let waiting = Arc::new(Waiting::default());
        let link = Self { asked, waiting: Arc::clone(&waiting) };
        let run = async move {
            tokio::select! {
                () = hear(BufReader::new(read).lines(), coherence, &waiting) => {}
                () = say(write, questions) => {}
            }
            coherence.invalidate(Subject::All);
            waiting.list().clear();
        };
        (link, run)
    }

    pub(crate) async fn find(&self, digest: KeyDigest) -> Answer {
        let number = self.waiting.next.fetch_add(1, Ordering::Relaxed);
        let (asker, answer) = oneshot::channel();
        self.waiting.list().insert(number, asker);
        let asking = async {
            let question = format!("{FIND} {number} {}\n", SubjectText(Subject::Key(digest)));
            if self.asked.send(question).await.is_err() {
                return Err(unavailable(HeirError::Gone));
            }
            answer.await.unwrap_or_else(|_| Err(unavailable(HeirError::Gone)))
        };
        let answer = timeout(FIND_MAX, asking).await;
        self.waiting.list().remove(&number);
        answer.unwrap_or_else(|_| Err(unavailable(HeirError::Gone)))
    }
}

async fn hear(
    mut lines: Lines<BufReader<OwnedReadHalf>>,
    coherence: &Coherence,
    waiting: &Waiting,
) {
    while let Ok(Some(line)) = lines.next_line().await {
        let (word, rest) = line.split_once(' ').unwrap_or((&*line, ""));
        if word == CHANGED {
            let Ok(SubjectText(subject)) = rest.parse();
            coherence.invalidate(subject);
            continue;
        }
        let (number, record) = rest.split_once(' ').unwrap_or((rest, ""));
        let Ok(number) = number.parse() else { return };
        waiting.answer(
            number,
            match word {
                FOUND => read_key(record).map(Some),
                UNKNOWN => Ok(None),
                _ => Err(unavailable(HeirError::Failed)),
            },
        );
    }
}

async fn say(mut write: OwnedWriteHalf, mut lines: mpsc::Receiver<String>) {
    while let Some(line) = lines.recv().await {
        if write.write_all(line.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// The key with its app and account, each as it is stored.
fn write_key(key: &OwnedKey) -> Option<String> {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).ok();
    let records = [
        text(key.key.encode().ok()?)?,
        text(key.app.encode().ok()?)?,
        text(key.account.encode().ok()?)?,
    ];
    serde_json::to_string(&records).ok()
}

fn read_key(text: &str) -> Result<OwnedKey, StoreError> {
    let read = || {
        let [key, app, account]: [String; 3] = serde_json::from_str(text).ok()?;
        Some(OwnedKey {
            key: Key::decode(key.as_bytes()).ok()?,
            app: App::decode(app.as_bytes()).ok()?,
            account: Account::decode(account.as_bytes()).ok()?,
        })
    };
    read().ok_or_else(|| unavailable(HeirError::Unreadable))
}

/// The side that has the store: tells the process before it of every change that `changes` brings,
/// and of the keys that it asks about, for as long as that process is there.
pub async fn serve_predecessor<S: KeyStore>(
    stream: UnixStream,
    keys: &CachedKeys<S>,
    mut changes: Receiver<Subject>,
) {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    loop {
        let line = tokio::select! {
            // Biased: what has changed is told before what is asked.
            biased;
            change = changes.recv() => match change {
                Ok(subject) => changed(subject),
                Err(RecvError::Lagged(_)) => changed(Subject::All),
                Err(RecvError::Closed) => return,
            },
            line = lines.next_line() => match line {
                Ok(Some(line)) => answer(&line, keys).await,
                Ok(None) | Err(_) => return,
            },
        };
        if write.write_all(line.as_bytes()).await.is_err() {
            return;
        }
    }
}

fn changed(subject: Subject) -> String {
    format!("{CHANGED} {}\n", SubjectText(subject))
}

async fn answer<S: KeyStore>(question: &str, keys: &CachedKeys<S>) -> String {
    let mut words = question.split(' ');
    let (word, number) = (words.next(), words.next().unwrap_or_default());
    let digest = words.next().and_then(digest_from_hex);
    let (Some(FIND), Some(digest)) = (word, digest) else { return format!("{FAILED} {number}\n") };
    match keys.store().find(digest).await {
        Ok(Some(key)) => match write_key(&key) {
            Some(text) => format!("{FOUND} {number} {text}\n"),
            None => format!("{FAILED} {number}\n"),
        },
        Ok(None) => format!("{UNKNOWN} {number}\n"),
        Err(error) => {
            tracing::debug!(%error, "a key was not found for the process before this one");
            format!("{FAILED} {number}\n")
        }
    }
}

#[cfg(test)]
mod tests;
