//! Accepts connections until it is told to stop, and then those that wait already.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use keygate_store::keys::KeyStore;
use pingora::server::ShutdownWatch;
use quanta::Instant;
use tokio::net::{TcpListener, TcpStream};

use super::places::Place;
use crate::connection::{Accepted, Connections};
use crate::failure::Seldom;

/// How long to wait when the machine is short of something, such as open files.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(100);
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// A bound socket, and how clients speak on it.
pub struct Listener {
    pub socket: std::net::TcpListener,
    /// With TLS by the `[[server.tls]]` that names this address; without if it is none.
    pub tls: Option<SocketAddr>,
}

/// What accepts on one listener.
pub(crate) struct Acceptor<S: KeyStore> {
    listener: TcpListener,
    tls: Option<SocketAddr>,
    connections: Connections<S>,
    shutdown: ShutdownWatch,
    seldom: Seldom,
    began: Instant,
}

impl<S: KeyStore> Acceptor<S> {
    /// Has to be called on the runtime that is to serve, with a socket that does not block.
    ///
    /// # Errors
    /// When the runtime cannot watch the listener.
    pub(crate) fn new(
        listener: Listener,
        connections: Connections<S>,
        shutdown: ShutdownWatch,
    ) -> io::Result<Self> {
        let Listener { socket, tls } = listener;
        Ok(Self {
            listener: TcpListener::from_std(socket)?,
            tls,
            connections,
            shutdown,
            seldom: Seldom::every(TOLD_EVERY),
            began: Instant::now(),
        })
    }

    /// Accepts until the gateway stops.
    pub(crate) async fn run(self) -> Self {
        let mut shutdown = self.shutdown.clone();
        let mut stopping = pin!(async move { drop(shutdown.wait_for(|stop| *stop).await) });
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut stopping => return self,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let (place, stopped) = tokio::select! {
                        biased;
                        // It was accepted, so it is served.
                        () = &mut stopping => (self.connections.places().take_beyond(), true),
                        place = self.place() => (place, false),
                    };
                    self.serve(stream, peer, place);
                    if stopped {
                        return self;
                    }
                }
                Err(error) if is_of_one_connection(error.kind()) => {}
                Err(error) => {
                    if self.is_time_to_tell() {
                        tracing::warn!(%error, "connections cannot be accepted");
                    }
                    tokio::time::sleep(SHORTAGE_PAUSE).await;
                }
            }
        }
    }

    fn serve(&self, stream: TcpStream, peer: SocketAddr, place: Place) {
        let accepted = Accepted { stream, peer, tls: self.tls, place };
        self.connections.serve(accepted, self.shutdown.clone());
    }

    async fn place(&self) -> Place {
        let places = self.connections.places();
        let most = || self.connections.most();
        if let Some(place) = places.try_take(most()) {
            return place;
        }
        if self.is_time_to_tell() {
            let most = most();
            tracing::warn!(most, "`connections_max` is reached: new clients wait for a place");
        }
        places.take(most).await
    }

    /// Serves what waits to be accepted when the gateway stops: its clients are connected and may have
    /// sent a request. Then closes the listener.
    pub(crate) fn run_out(self) {
        let Self { listener, tls, connections, shutdown, .. } = self;
        let listener = match listener.into_std() {
            Ok(listener) => listener,
            Err(error) => return tracing::warn!(%error, "the last connections are not accepted"),
        };
        // Asks the kernel itself. It does not block: an error means that there is nobody, or no more.
        while let Ok((stream, peer)) = listener.accept() {
            match stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream)) {
                Ok(stream) => {
                    let place = connections.places().take_beyond();
                    let accepted = Accepted { stream, peer, tls, place };
                    connections.serve(accepted, shutdown.clone());
                }
                Err(error) => tracing::warn!(%error, "the last connection was not accepted"),
            }
        }
    }

    fn is_time_to_tell(&self) -> bool {
        let now_ns = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.seldom.is_time(now_ns)
    }
}

/// What went wrong with one connection says nothing about the next.
fn is_of_one_connection(kind: ErrorKind) -> bool {
    use ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(kind, ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}
