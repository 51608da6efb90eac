//! The listener of the admin API, with bounds that keep it from harming the gateway it is part of:
//! whoever can reach it, with a token or without, can hold so many connections for so long.

use std::net::{SocketAddr, TcpListener};
use std::pin::pin;
use std::time::Duration;

use anyhow::Context;
use axum::extract::ConnectInfo;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

const CONNECTIONS_MAX: usize = 256;
/// To the end of a request's head, and so also how long a connection may idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// A connection older than this is closed after its current request.
const CONNECTION_AGE_MAX: Duration = Duration::from_secs(600);
/// How long a request may go on once its connection is to close.
const FINISH_MAX: Duration = Duration::from_secs(2);
const HEAD_BYTES_MAX: usize = 32 << 10;
/// Out of file descriptors, say: trying again at once would only burn the processor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The admin API, being served as a task of the core runtime.
pub(crate) struct Control {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Control {
    /// Serves `router` on a listener that is bound already.
    pub(crate) fn start(listener: TcpListener, router: Router) -> anyhow::Result<Self> {
        let listener =
            tokio::net::TcpListener::from_std(listener).context("cannot serve the admin API")?;
        let (stop, stopped) = watch::channel(false);
        Ok(Self { stop, task: tokio::spawn(accept(listener, router, stopped)) })
    }

    /// Stops accepting and lets requests finish, within a bound.
    pub(crate) async fn stop(self) {
        self.stop.send_replace(true);
        if self.task.await.is_err() {
            tracing::error!("the admin API broke off");
        }
    }
}

async fn accept(
    listener: tokio::net::TcpListener,
    router: Router,
    mut stopped: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    let to_each = stopped.clone();
    loop {
        tokio::select! {
            () = told_to_stop(&mut stopped) => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, peer)) => {
                    connections.spawn(serve(stream, peer, router.clone(), to_each.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "the admin listener cannot accept");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    mut stopped: watch::Receiver<bool>,
) {
    // For the audit log: where a change came from.
    let service = TowerToHyperService::new(router.layer(Extension(ConnectInfo(peer))));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    tokio::select! {
        // It ended, or broke: either way the client knows, and nobody else need to.
        _ = connection.as_mut() => return,
        () = told_to_stop(&mut stopped) => {}
        () = sleep(CONNECTION_AGE_MAX) => {}
    }
    connection.as_mut().graceful_shutdown();
    if timeout(FINISH_MAX, connection).await.is_err() {
        tracing::warn!("an admin request took too long to finish and was cut");
    }
}

/// Waits for the word, or for the end of whoever could give it.
async fn told_to_stop(stopped: &mut watch::Receiver<bool>) {
    drop(stopped.wait_for(|stop| *stop).await);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::Notify;

    use super::*;
    use crate::listen;

    fn start(router: Router) -> (Control, SocketAddr) {
        let listener = listen::bind("127.0.0.1:0".parse().unwrap(), "").unwrap();
        let address = listener.local_addr().unwrap();
        (Control::start(listener, router).unwrap(), address)
    }

    async fn send(address: SocketAddr) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        stream
    }

    #[tokio::test]
    async fn a_handler_sees_where_a_request_came_from() {
        let show = |ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.to_string() };
        let (control, address) = start(Router::new().route("/", get(show)));
        let mut stream = send(address).await;
        let ours = stream.local_addr().unwrap().to_string();
        let mut answer = [0; 4_096];
        let mut length = 0;
        while !String::from_utf8_lossy(&answer[..length]).ends_with(&ours) {
            length += stream.read(&mut answer[length..]).await.unwrap();
        }
        control.stop().await;
        assert_eq!(stream.read(&mut answer).await.unwrap(), 0, "the idle connection is closed");
    }

    #[tokio::test]
    async fn ever_more_connections_to_the_admin_listener_are_bounded() {
        let (control, address) = start(Router::new().route("/", get(|| async { "served" })));
        let mut idle = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            let mut stream = send(address).await;
            // Answered, so it has its place.
            assert!(stream.read(&mut [0; 1_024]).await.unwrap() > 0);
            idle.push(stream);
        }
        let mut waiting = send(address).await;
        let mut answer = [0; 1_024];
        let early = timeout(Duration::from_millis(200), waiting.read(&mut answer));
        assert!(early.await.is_err(), "one more is served");
        drop(idle.pop());
        assert!(waiting.read(&mut answer).await.unwrap() > 0, "nobody is let in");
        drop((idle, waiting));
        control.stop().await;
    }

    #[tokio::test]
    async fn a_request_that_runs_when_it_is_stopped_is_answered() {
        let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let slow = {
            let (begun, go_on) = (Arc::clone(&begun), Arc::clone(&go_on));
            move || async move {
                begun.notify_one();
                go_on.notified().await;
                "done"
            }
        };
        let (control, address) = start(Router::new().route("/", get(slow)));
        let mut stream = send(address).await;
        begun.notified().await;
        let stop = tokio::spawn(control.stop());
        go_on.notify_one();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("done"), "{answer}");
        stop.await.unwrap();
        assert!(TcpStream::connect(address).await.is_err(), "still listening");
    }
}
