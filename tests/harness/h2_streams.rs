//! An HTTP/2 client with several streams on one connection, whose answers are read as they come.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

use super::request::Request;
use super::wait::patience;

/// One connection.
pub struct H2 {
    runtime: Runtime,
    sender: SendRequest<Empty<Bytes>>,
}

/// One answer that is being read.
pub struct H2Stream {
    pub status: u16,
    body: Incoming,
}

impl H2 {
    pub fn open(address: SocketAddr) -> Self {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
        let sender = runtime.block_on(async {
            let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
            let (sender, connection) =
                http2::handshake(TokioExecutor::new(), stream).await.unwrap();
            drop(tokio::spawn(connection));
            sender
        });
        Self { runtime, sender }
    }

    /// Sends a request without a body and waits for its answer's head.
    #[track_caller]
    pub fn begin(&mut self, request: &Request) -> H2Stream {
        let mut builder = hyper::Request::builder()
            .method(&*request.method)
            .uri(format!("http://{}{}", request.host, request.target));
        for (name, value) in &request.headers {
            builder = builder.header(name, value);
        }
        let sent = self.sender.send_request(builder.body(Empty::new()).unwrap());
        let answer = self.runtime.block_on(async { tokio::time::timeout(patience(), sent).await });
        let (head, body) = answer.expect("a head in time").unwrap().into_parts();
        H2Stream { status: head.status.as_u16(), body }
    }

    /// The next bytes of a body. Nothing at its proper end; an error if its stream or connection
    /// was broken off.
    #[track_caller]
    pub fn read(&self, stream: &mut H2Stream) -> Result<Option<Bytes>, String> {
        let read = async { tokio::time::timeout(patience(), stream.body.frame()).await };
        match self.runtime.block_on(read).expect("a frame in time") {
            None => Ok(None),
            Some(Ok(frame)) => Ok(Some(frame.into_data().unwrap_or_default())),
            Some(Err(error)) => Err(format!("{error:?}")),
        }
    }
}
