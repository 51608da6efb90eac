//! WebSockets with a real client and a real server (tokio-tungstenite), each on a runtime of its own.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Response as Answered;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async, client_async};

use super::wait::patience;

/// Runs what a test waits for, within its patience.
pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// A server that sends every message back, and does what some texts say.
pub struct WebSocketServer {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
    _runtime: Runtime,
}

impl WebSocketServer {
    pub fn start() -> Self {
        let runtime = runtime();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&seen);
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&record)));
            }
        });
        Self { address, seen, _runtime: runtime }
    }

    /// Each request's target and headers, and what came in besides texts and binaries.
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn serve(stream: TcpStream, record: Arc<Mutex<Vec<String>>>) {
    let note = |what: String| record.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    #[expect(clippy::result_large_err, reason = "the library's own signature")]
    let on_request = |request: &Request, mut response: Response| {
        note(format!("{} {:?}", request.uri(), request.headers()));
        if let Some(offered) = request.headers().get("sec-websocket-protocol") {
            let first = offered.to_str().unwrap().split(',').next().unwrap().trim();
            response.headers_mut().insert("sec-websocket-protocol", first.parse().unwrap());
        }
        Ok(response)
    };
    let Ok(mut socket) = accept_hdr_async(stream, on_request).await else { return };
    while let Some(message) = socket.next().await {
        let sent = match message {
            Ok(Message::Text(text)) if text.as_str() == "close 4001" => {
                let frame = CloseFrame { code: 4001.into(), reason: "as you say".into() };
                socket.close(Some(frame)).await
            }
            Ok(Message::Text(text)) if text.as_str() == "ping me" => {
                socket.send(Message::Ping("from the server".into())).await
            }
            Ok(message @ (Message::Text(_) | Message::Binary(_))) => socket.send(message).await,
            Ok(other) => {
                note(format!("{other:?}"));
                // The library answers pings and closes itself, with the next flush.
                socket.flush().await
            }
            Err(error) => {
                note(format!("{error:?}"));
                return;
            }
        };
        if sent.is_err() {
            return;
        }
    }
}

/// A client's WebSocket, with blocking calls for tests.
pub struct WebSocket<S> {
    pub socket: WebSocketStream<S>,
    runtime: Arc<Runtime>,
}

impl WebSocket<TcpStream> {
    /// Opens one, with further headers.
    pub fn open(
        runtime: &Arc<Runtime>,
        address: SocketAddr,
        target: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<(Self, Answered), Box<Error>> {
        let stream = runtime.block_on(TcpStream::connect(address)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(runtime, stream, &format!("ws://gateway.test{target}"), headers)
    }
}

impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> WebSocket<S> {
    /// Opens one over a connection that there is.
    pub fn over(
        runtime: &Arc<Runtime>,
        stream: S,
        url: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<(Self, Answered), Box<Error>> {
        let mut request = url.into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        let opened = async { timeout(patience(), client_async(request, stream)).await };
        let (socket, response) = runtime.block_on(opened).expect("an answer in time")?;
        Ok((Self { socket, runtime: Arc::clone(runtime) }, response))
    }

    #[track_caller]
    pub fn send(&mut self, message: Message) {
        self.runtime.block_on(self.socket.send(message)).unwrap();
    }

    /// The next message; nothing when the connection has ended.
    #[track_caller]
    pub fn receive(&mut self) -> Option<Result<Message, Error>> {
        let next = async { timeout(patience(), self.socket.next()).await };
        self.runtime.block_on(next).expect("a message in time")
    }

    /// The next message, which there is.
    #[track_caller]
    pub fn message(&mut self) -> Message {
        self.receive().expect("a message").unwrap()
    }
}
