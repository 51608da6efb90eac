//! The subscription to changes: fast, and allowed to fail, since the numbers of what it brings show
//! what it did not.

use std::net::SocketAddr;
use std::sync::Arc;

use keygate_config::Target;
use redis::{PushInfo, PushKind, Value};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::change::Change;
use super::dial::Dialer;
use super::link::{ASK_EVERY, LinkError, RETRY_MAX, UNANSWERED_MAX, chain, retries};

/// Messages that may wait for us; more are dropped, which their numbers show.
const MESSAGES_MAX: usize = 4_096;

/// The subscription: a connection of its own, made again whenever it breaks. Dropping this ends it.
pub(super) struct Told {
    pub(super) signs: mpsc::Receiver<Sign>,
    task: JoinHandle<()>,
}

/// What comes of a subscription.
pub(super) enum Sign {
    /// From now on each change is told.
    Listening,
    Change(Change),
    /// Something was published that is no change.
    Garbled,
    /// Nothing is told any more.
    Silent,
}

impl Drop for Told {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Told {
    pub(super) fn start(
        dialer: Arc<Dialer>,
        target: Target,
        address: SocketAddr,
        channel: Vec<u8>,
    ) -> Self {
        let (sender, signs) = mpsc::channel(MESSAGES_MAX);
        let task = tokio::spawn(async move {
            let mut retries = retries();
            loop {
                match listen(&dialer, (&target, address), &channel, &sender).await {
                    Ok(()) => retries = self::retries(),
                    Err(error) => {
                        tracing::debug!(reason = chain(&error), "no subscription to changes");
                    }
                }
                if sender.send(Sign::Silent).await.is_err() {
                    return;
                }
                sleep(retries.next().unwrap_or(RETRY_MAX)).await;
            }
        });
        Self { signs, task }
    }
}

/// Listens until the connection is silent. An error means that it never began.
async fn listen(
    dialer: &Dialer,
    (target, address): (&Target, SocketAddr),
    channel: &[u8],
    signs: &mpsc::Sender<Sign>,
) -> Result<(), LinkError> {
    let pushed = signs.clone();
    let push = move |push: PushInfo| {
        if let Some(sign) = sign(&push) {
            // If there is no room the numbers will show that something is missing.
            drop(pushed.try_send(sign));
        }
        Ok::<(), redis::aio::SendError>(())
    };
    let mut connection = dialer.listen(target, address, push).await?;
    let limit = ASK_EVERY * UNANSWERED_MAX;
    let subscribed = timeout(limit, connection.subscribe(channel)).await;
    subscribed.map_err(|_| LinkError::Unanswered)?.map_err(LinkError::Asking)?;
    if signs.send(Sign::Listening).await.is_err() {
        return Ok(());
    }
    // A connection that nothing comes through looks like one with nothing to tell.
    loop {
        sleep(ASK_EVERY).await;
        let ping = redis::cmd("PING");
        match timeout(limit, ping.query_async::<Value>(&mut connection)).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => return Ok(()),
        }
    }
}

fn sign(push: &PushInfo) -> Option<Sign> {
    match push.kind {
        PushKind::Message => {
            let payload = push.data.get(1).and_then(|payload| {
                let Value::BulkString(bytes) = payload else { return None };
                std::str::from_utf8(bytes).ok()
            });
            Some(payload.and_then(|text| text.parse().ok()).map_or(Sign::Garbled, Sign::Change))
        }
        PushKind::Disconnection => Some(Sign::Silent),
        PushKind::Other(_)
        | PushKind::Invalidate
        | PushKind::PMessage
        | PushKind::SMessage
        | PushKind::Unsubscribe
        | PushKind::PUnsubscribe
        | PushKind::SUnsubscribe
        | PushKind::Subscribe
        | PushKind::PSubscribe
        | PushKind::SSubscribe
        | _ => None,
    }
}
