use std::future::pending;
use std::time::Duration;

use keygate_core::{AccountId, AppId, Environment, KeyId, KeyKind, ScopeSet, Standing, UnixMillis};
use keygate_telemetry::Metrics;
use tokio::sync::Notify;

use super::*;

fn lines() -> (Lines, Metrics) {
    let metrics = Metrics::new("1");
    (Lines::new(metrics.requests_ended(), metrics.connections()), metrics)
}

fn ended(metrics: &Metrics) -> String {
    let text = metrics.render();
    let value = text.lines().find_map(|line| line.strip_prefix("keygate_requests_ended_total "));
    value.unwrap().to_owned()
}

const DIGEST: KeyDigest = KeyDigest::from_bytes([1; 32]);
const OTHER: KeyDigest = KeyDigest::from_bytes([2; 32]);

pub(crate) fn key() -> Arc<KeyRecord> {
    let now = UnixMillis(1);
    let (id, app, account) =
        (KeyId::new(now, [1; 10]), AppId::new(now, [1; 10]), AccountId::new(now, [1; 10]));
    let scopes = ScopeSet::default();
    Arc::new(KeyRecord {
        hint: "sk_live_abcd".into(),
        id,
        app,
        account,
        kind: KeyKind::Secret,
        environment: Environment::Live,
        standing: Standing::Active,
        expires_at: None,
        scopes,
        bounds: None,
        tier: None,
        is_imported: false,
        meter: Default::default(),
        slots: Default::default(),
        read_at: 0,
    })
}

/// Cuts what runs with this digest.
fn cut(lines: &Lines, digest: KeyDigest) {
    for line in lines.parts().flatten() {
        line.review(|running| (running.digest == digest).then_some(Denial::KeyRevoked));
    }
}

fn running(lines: &Lines) -> usize {
    let mut count = 0;
    for line in lines.parts().flatten() {
        line.review(|_| {
            count += 1;
            None
        });
    }
    count
}

/// Says when it is dropped, and why the line was cut then.
struct Dropped(Arc<Mutex<Option<Option<Cut>>>>);

impl Drop for Dropped {
    fn drop(&mut self) {
        *lock(&self.0) = Some(cut_by());
    }
}

#[tokio::test]
async fn a_request_that_waits_is_dropped_when_its_line_is_cut_and_can_ask_why() {
    let (lines, metrics) = lines();
    let (began, why) = (Arc::new(Notify::new()), Arc::new(Mutex::new(None)));
    let (begin, dropped) = (Arc::clone(&began), Dropped(Arc::clone(&why)));
    let mut line = lines.open(Client::default());
    let task = tokio::spawn(async move {
        let request = async move {
            let _dropped = dropped;
            bind(DIGEST, &key());
            begin.notify_one();
            pending::<()>().await;
        };
        line.run(request).await
    });
    began.notified().await;
    cut(&lines, OTHER);
    assert_eq!(running(&lines), 1);
    cut(&lines, DIGEST);
    assert_eq!(task.await.unwrap(), None);
    assert_eq!(*lock(&why), Some(Some(Cut::Key(Denial::KeyRevoked))));
    assert_eq!(ended(&metrics), "1");
}

#[tokio::test]
async fn a_cut_that_comes_when_the_request_is_over_does_not_hit_the_next_one() {
    let (lines, metrics) = lines();
    let mut line = lines.open(Client::default());
    let first = async {
        bind(DIGEST, &key());
        cut(&lines, DIGEST);
        assert_eq!(cut_by(), Some(Cut::Key(Denial::KeyRevoked)));
    };
    assert_eq!(line.run(first).await, Some(()), "it was over before anybody looked");
    assert_eq!(running(&lines), 0);
    let second = async {
        assert_eq!(cut_by(), None);
        bind(OTHER, &key());
        tokio::task::yield_now().await;
    };
    assert_eq!(line.run(second).await, Some(()));
    assert_eq!(ended(&metrics), "0");
    // A line that was cut once can be cut again: it is still woken.
    let third = async {
        bind(DIGEST, &key());
        let lines = lines.clone();
        tokio::spawn(async move { cut(&lines, DIGEST) });
        pending::<()>().await;
    };
    let third = tokio::time::timeout(Duration::from_secs(20), line.run(third)).await;
    assert_eq!(third, Ok(None));
    assert_eq!(ended(&metrics), "1");
}

#[tokio::test]
async fn what_runs_on_behalf_of_no_key_cannot_be_cut() {
    let (lines, metrics) = lines();
    let mut line = lines.open(Client::default());
    let public = async {
        cut(&lines, DIGEST);
        tokio::task::yield_now().await;
    };
    assert_eq!(line.run(public).await, Some(()));
    // Nor is there anything to cut before a request, or after it.
    cut(&lines, DIGEST);
    assert_eq!(line.run(async {}).await, Some(()));
    assert_eq!(ended(&metrics), "0");
}

#[tokio::test]
async fn without_a_line_nothing_is_bound() {
    bind(DIGEST, &key());
    assert_eq!(cut_by(), None);
}

#[test]
fn closed_lines_leave_the_list_and_the_others_stay() {
    let (lines, _) = lines();
    let count = || lines.parts().map(|part| part.len()).sum::<usize>();
    let mut open: Vec<OpenLine> = (0..300).map(|_| lines.open(Client::default())).collect();
    assert_eq!(count(), 300);
    while !open.is_empty() {
        drop(open.swap_remove(fastrand::usize(..open.len())));
        assert_eq!(count(), open.len());
        let listed: Vec<*const Line> = lines.parts().flatten().map(|l| Arc::as_ptr(&l)).collect();
        assert!(open.iter().all(|open| listed.contains(&Arc::as_ptr(&open.line))));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_cut_is_missed_however_it_meets_the_request() {
    for _ in 0..1_000 {
        let (lines, _) = lines();
        let mut line = lines.open(Client::default());
        let bound = Arc::new(Notify::new());
        let bind_it = Arc::clone(&bound);
        let task = tokio::spawn(async move {
            let request = async {
                bind(DIGEST, &key());
                bind_it.notify_one();
                pending::<()>().await;
            };
            line.run(request).await
        });
        bound.notified().await;
        cut(&lines, DIGEST);
        let ended = tokio::time::timeout(Duration::from_secs(20), task).await;
        assert_eq!(ended.unwrap().unwrap(), None);
    }
}

#[tokio::test]
async fn a_request_ends_with_its_client_from_the_end_of_its_body_on() {
    let (lines, metrics) = lines();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let stream = Arc::new(listener.accept().await.unwrap().0);
    let why = Arc::new(Mutex::new(None));
    let (sent, is_sent) = tokio::sync::oneshot::channel();
    let mut line = lines.open(Client::of_connection(stream));
    // The first is over before its client leaves, and the second has no body.
    assert_eq!(line.run(async { uploaded() }).await, Some(()));
    drop(client);
    tokio::time::timeout(Duration::from_millis(50), line.run(pending::<()>())).await.unwrap_err();
    let dropped = Dropped(Arc::clone(&why));
    let third = async {
        let _dropped = dropped;
        is_sent.await.unwrap();
        uploaded();
        pending::<()>().await;
    };
    sent.send(()).unwrap();
    assert_eq!(line.run(third).await, None);
    assert_eq!(*lock(&why), Some(Some(Cut::ClientLeft)));
    assert_eq!(ended(&metrics), "0", "no key was at fault");
}

#[tokio::test]
async fn a_request_whose_body_is_overdue_is_cut_and_no_other() {
    let (lines, metrics) = lines();
    let look = |at_ms| lines.parts().flatten().for_each(|line| line.end_if_overdue(at_ms));
    let mut line = lines.open(Client::default());
    let in_time = async {
        body_due(10);
        look(10);
        body_due(20);
        look(15);
        body_due(NEVER);
        look(u64::MAX);
    };
    assert_eq!(line.run(in_time).await, Some(()));
    // What is due ends with its request.
    assert_eq!(line.run(async { body_due(10) }).await, Some(()));
    look(11);
    assert_eq!(line.run(async { cut_by() }).await, Some(None));
    let late = async {
        body_due(10);
        look(11);
        assert_eq!(cut_by(), Some(Cut::SlowBody));
        pending::<()>().await;
    };
    assert_eq!(line.run(late).await, None);
    assert!(metrics.render().contains("\nkeygate_slow_bodies_total 1\n"));
    assert_eq!(ended(&metrics), "0");
}
