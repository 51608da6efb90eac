//! An upstream that speaks HTTP/2 and nothing else, and tells its client what it was asked.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

pub struct H2Upstream {
    pub address: SocketAddr,
    _runtime: Runtime,
}

impl H2Upstream {
    /// Answers each request with its target, its `:authority`, and then its headers, a line each.
    pub fn start() -> Self {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let connection = http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service_fn(tell));
                tokio::spawn(connection);
            }
        });
        Self { address, _runtime: runtime }
    }
}

async fn tell(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let uri = request.uri();
    let target = uri.path_and_query().map_or("", |target| target.as_str());
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let mut said = format!("{target}\n{authority}\n");
    for (name, value) in request.headers() {
        said.push_str(&format!("{name}: {}\n", value.to_str().unwrap_or_default()));
    }
    Ok(Response::new(Full::new(Bytes::from(said))))
}
