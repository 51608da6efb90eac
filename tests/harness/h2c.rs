//! An HTTP/2 client that begins with the preface: prior knowledge, no TLS.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, SizeHint};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::answer::Answer;
use super::request::Request;
use super::wait::patience;

/// Sends one request on a connection of its own. An error is the stream's or the connection's.
pub fn exchange(address: SocketAddr, request: &Request) -> Result<Answer, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::time::timeout(patience(), send(address, request))
            .await
            .unwrap_or_else(|_| Err("no answer in time".into()))
    })
}

async fn send(address: SocketAddr, request: &Request) -> Result<Answer, String> {
    let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let driver = tokio::spawn(connection);
    let response =
        sender.send_request(to_hyper(request)?).await.map_err(|error| format!("{error:?}"))?;
    let (head, body) = response.into_parts();
    let ended_with_head = body.is_end_stream();
    let body = body.collect().await.map_err(|error| format!("{error:?}"))?;
    let text =
        |value: &hyper::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers = head.headers.iter().map(|(name, value)| (name.to_string(), text(value)));
    driver.abort();
    Ok(Answer {
        status: head.status.as_u16(),
        headers: headers.collect(),
        body: body.to_bytes().to_vec(),
        ended_with_head,
    })
}

fn to_hyper(request: &Request) -> Result<hyper::Request<Outgoing>, String> {
    let uri = match &*request.method {
        "CONNECT" => request.target.clone(),
        _ => format!("http://{}{}", request.host, request.target),
    };
    let mut builder = hyper::Request::builder().method(&*request.method).uri(uri);
    for (name, value) in &request.headers {
        builder = builder.header(name, value);
    }
    let body = Full::new(Bytes::from(request.body.clone()));
    let body = Outgoing { body, streamed: request.streamed };
    builder.body(body).map_err(|error| error.to_string())
}

/// A body that may keep its length to itself, so that no Content-Length is sent.
struct Outgoing {
    body: Full<Bytes>,
    streamed: bool,
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        ctx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(ctx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.streamed { SizeHint::default() } else { self.body.size_hint() }
    }
}
