//! Asks the gateway once a second, on a thread of its own, so that the view answers to its keys however
//! slow the gateway is.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use keygate_core::top::TopQuery;

use super::call;
use super::gauges::Sample;
use super::reading::Reading;
use crate::client::Client;
use crate::failure::Failure;

const EVERY: Duration = Duration::from_secs(1);
/// News that the view has not looked at. It looks several times a second.
const NEWS_MAX: usize = 4;

/// What the gateway said, or why it said nothing.
pub(super) type News = Result<(Reading, Sample), String>;

/// The thread that asks. It ends after the view.
pub(super) struct Feed {
    query: Arc<Mutex<TopQuery>>,
    wake: SyncSender<()>,
    news: Receiver<News>,
}

impl Feed {
    pub(super) fn start(client: Client, query: TopQuery) -> io::Result<Self> {
        let query = Arc::new(Mutex::new(query));
        let (wake, woken) = sync_channel(1);
        let (tell, news) = sync_channel(NEWS_MAX);
        let asked = Arc::clone(&query);
        let run = move || {
            loop {
                let began = Instant::now();
                let query = *asked.lock().unwrap_or_else(PoisonError::into_inner);
                if tell.send(ask(&client, query)).is_err() {
                    return;
                }
                match woken.recv_timeout(EVERY.saturating_sub(began.elapsed())) {
                    Ok(()) | Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        };
        thread::Builder::new().name("feed".to_owned()).spawn(run)?;
        Ok(Self { query, wake, news })
    }

    /// Asks this from now on, and at once.
    pub(super) fn ask(&self, query: TopQuery) {
        *self.query.lock().unwrap_or_else(PoisonError::into_inner) = query;
        // If it is to wake up already, it is.
        self.wake.try_send(()).unwrap_or(());
    }

    /// What has come since the last time, if anything.
    pub(super) fn news(&self) -> Option<News> {
        match self.news.try_recv() {
            Ok(news) => Some(news),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Err("the feed has ended".to_owned())),
        }
    }
}

fn ask(client: &Client, query: TopQuery) -> News {
    let why = |failure: Failure| failure.reason();
    let answer = client.send(&call(query)).map_err(why)?;
    let reading = Reading::new(answer, query)?;
    let metrics = client.text("/metrics").map_err(why)?;
    Ok((reading, Sample::read(&metrics, Instant::now())))
}
