//! An upstream that speaks HTTP/2 and nothing else, and tells its client what it was asked.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

pub struct H2Upstream {
    pub address: SocketAddr,
    /// Each body that came to its end.
    bodies: Arc<Mutex<Vec<Bytes>>>,
    _runtime: Runtime,
}

impl H2Upstream {
    /// Answers each request with its target, its `:authority`, and then its headers, a line each.
    pub fn start() -> Self {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let bodies = Arc::default();
        let shared = Arc::clone(&bodies);
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let bodies = Arc::clone(&shared);
                let serve = service_fn(move |request| tell(request, Arc::clone(&bodies)));
                let connection = http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), serve);
                tokio::spawn(connection);
            }
        });
        Self { address, bodies, _runtime: runtime }
    }

    /// The bodies that came to their end since this was last asked, oldest first.
    pub fn take_bodies(&self) -> Vec<Bytes> {
        std::mem::take(&mut *self.bodies.lock().unwrap())
    }
}

async fn tell(
    request: Request<Incoming>,
    bodies: Arc<Mutex<Vec<Bytes>>>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let (request, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    bodies.lock().unwrap().push(body);
    let uri = &request.uri;
    let target = uri.path_and_query().map_or("", |target| target.as_str());
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let mut said = format!("{target}\n{authority}\n");
    for (name, value) in &request.headers {
        said.push_str(&format!("{name}: {}\n", value.to_str().unwrap_or_default()));
    }
    Ok(Response::new(Full::new(Bytes::from(said))))
}
