//! A gRPC service and its client, with tonic on both sides and messages written by hand: one method
//! of each kind, and a record of what the service was told.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Context, Poll, Service, http};
use tonic::metadata::MetadataMap;
use tonic::server::NamedService;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

/// The one message.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Note {
    #[prost(string, tag = "1")]
    pub text: String,
    #[prost(uint32, tag = "2")]
    pub number: u32,
}

pub fn note(text: &str, number: u32) -> Note {
    Note { text: text.to_owned(), number }
}

/// A running service. Its methods: `Say` answers, fails or never ends, as the text says; `Sum` adds
/// up; `Count` counts, and fails then if its text says so; `Talk` echoes each note as it comes.
pub struct Notes {
    pub address: SocketAddr,
    pub record: Arc<Record>,
    runtime: Option<Runtime>,
}

#[derive(Default)]
pub struct Record {
    told: Mutex<Vec<MetadataMap>>,
    /// Calls that have begun and have not ended.
    pub open: AtomicUsize,
}

impl Record {
    /// What came with the last call.
    pub fn last(&self) -> MetadataMap {
        self.told.lock().unwrap().last().expect("a call").clone()
    }

    pub fn count(&self) -> usize {
        self.told.lock().unwrap().len()
    }

    fn note<T>(self: &Arc<Self>, request: &Request<T>) -> Open {
        self.told.lock().unwrap().push(request.metadata().clone());
        self.open.fetch_add(1, Ordering::SeqCst);
        Open(Arc::clone(self))
    }
}

/// A call that has not ended.
struct Open(Arc<Record>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Notes {
    pub fn start() -> Self {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
        let record = Arc::new(Record::default());
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let server = Server::builder().add_service(Methods(Arc::clone(&record)));
        let _guard = runtime.enter();
        drop(runtime.spawn(server.serve_with_incoming(TcpIncoming::from(listener))));
        Self { address, record, runtime: Some(runtime) }
    }

    /// The service is gone, with whatever it was doing.
    pub fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Notes {
    fn drop(&mut self) {
        self.kill();
    }
}

#[derive(Clone)]
struct Methods(Arc<Record>);

impl NamedService for Methods {
    const NAME: &'static str = "notes.Notes";
}

impl Service<http::Request<Body>> for Methods {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let record = Arc::clone(&self.0);
        Box::pin(async move {
            let codec = ProstCodec::<Note, Note>::default();
            let mut grpc = tonic::server::Grpc::new(codec)
                .max_decoding_message_size(usize::MAX)
                .max_encoding_message_size(usize::MAX);
            let answer = match request.uri().path() {
                "/notes.Notes/Say" => {
                    grpc.unary(Method(|r| say(Arc::clone(&record), r)), request).await
                }
                "/notes.Notes/Sum" => {
                    grpc.client_streaming(Method(|r| sum(Arc::clone(&record), r)), request).await
                }
                "/notes.Notes/Count" => {
                    grpc.server_streaming(Method(|r| count(Arc::clone(&record), r)), request).await
                }
                "/notes.Notes/Talk" => {
                    grpc.streaming(Method(|r| talk(Arc::clone(&record), r)), request).await
                }
                _ => Status::unimplemented("no such method").into_http(),
            };
            Ok(answer)
        })
    }
}

/// A function as what tonic calls.
struct Method<F>(F);

impl<F, In, Out, Answer> Service<Request<In>> for Method<F>
where
    F: FnMut(Request<In>) -> Answer,
    Answer: Future<Output = Result<Response<Out>, Status>> + Send + 'static,
{
    type Response = Response<Out>;
    type Error = Status;
    type Future = BoxFuture<Response<Out>, Status>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<In>) -> Self::Future {
        Box::pin((self.0)(request))
    }
}

type Answered<T> = Result<Response<T>, Status>;
type Notestream = BoxStream<'static, Result<Note, Status>>;

fn refusal() -> Status {
    let mut status = Status::failed_precondition("not like this: ü %");
    status.metadata_mut().insert("x-detail", "of the refusal".parse().unwrap());
    status
}

async fn say(record: Arc<Record>, request: Request<Note>) -> Answered<Note> {
    let open = record.note(&request);
    let said = request.into_inner();
    match &*said.text {
        "fail" => return Err(refusal()),
        "hang" => {
            std::future::pending::<()>().await;
            drop(open);
        }
        _ => {}
    }
    let mut answer = Response::new(note(&said.text, said.number + 1));
    answer.metadata_mut().insert("x-reply", "yes".parse().unwrap());
    Ok(answer)
}

async fn sum(record: Arc<Record>, request: Request<Streaming<Note>>) -> Answered<Note> {
    let _open = record.note(&request);
    let mut notes = request.into_inner();
    let (mut total, mut bytes) = (0, 0);
    while let Some(next) = notes.message().await? {
        if next.text == "fail" {
            return Err(refusal());
        }
        total += next.number;
        bytes += next.text.len();
    }
    Ok(Response::new(note(&bytes.to_string(), total)))
}

async fn count(record: Arc<Record>, request: Request<Note>) -> Answered<Notestream> {
    let open = record.note(&request);
    let Note { text, number } = request.into_inner();
    let notes = stream::iter(0..number).map(|at| Ok(note("counted", at)));
    let end: Notestream = match &*text {
        "fail" => stream::iter([Err(refusal())]).boxed(),
        "hang" => stream::pending().boxed(),
        _ => stream::empty().boxed(),
    };
    // The call is open as long as its answer is being read.
    let with = notes.chain(end).map(move |next| {
        let _ = &open;
        next
    });
    Ok(Response::new(with.boxed()))
}

async fn talk(record: Arc<Record>, request: Request<Streaming<Note>>) -> Answered<Notestream> {
    let open = record.note(&request);
    let echoed = request.into_inner().map(move |next| {
        let _ = &open;
        let Note { text, number } = next?;
        if text == "fail" { Err(refusal()) } else { Ok(note(&text, number + 1)) }
    });
    Ok(Response::new(echoed.boxed()))
}

/// A client of the service, which says who it is.
#[derive(Clone)]
pub struct Caller {
    channel: Channel,
    key: Option<String>,
}

impl Caller {
    pub fn new(channel: Channel, key: Option<&str>) -> Self {
        Self { channel, key: key.map(ToOwned::to_owned) }
    }

    pub async fn connect(address: SocketAddr, key: Option<&str>) -> Self {
        let endpoint = Channel::from_shared(format!("http://{address}")).unwrap();
        Self::new(endpoint.connect().await.unwrap(), key)
    }

    /// The same over TLS, to whoever shows a certificate for `localhost` of this authority.
    pub async fn connect_tls(address: SocketAddr, ca: &Path, key: Option<&str>) -> Self {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider);
        let config = config.with_safe_default_protocol_versions().unwrap();
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let dial = Dial { address, tls: TlsConnector::from(Arc::new(config)) };
        let endpoint = Channel::from_static("http://localhost");
        Self::new(endpoint.connect_with_connector(dial).await.unwrap(), key)
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(key) = &self.key {
            let value = format!("Bearer {key}").parse().unwrap();
            request.metadata_mut().insert("authorization", value);
        }
        request.metadata_mut().insert("x-ours", "from the client".parse().unwrap());
        let binary = tonic::metadata::MetadataValue::from_bytes(&[0, 255, 10, 13]);
        request.metadata_mut().insert_bin("x-ours-bin", binary);
        request
    }

    async fn grpc(&self) -> tonic::client::Grpc<Channel> {
        let mut grpc = tonic::client::Grpc::new(self.channel.clone())
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX);
        grpc.ready().await.unwrap();
        grpc
    }

    pub async fn say(&self, said: Note) -> Answered<Note> {
        self.say_with(said, |_| {}).await
    }

    pub async fn say_with(
        &self,
        said: Note,
        change: impl FnOnce(&mut Request<Note>),
    ) -> Answered<Note> {
        let mut request = self.request(said);
        change(&mut request);
        let path = "/notes.Notes/Say".parse().unwrap();
        self.grpc().await.unary(request, path, ProstCodec::<Note, Note>::default()).await
    }

    pub async fn sum(&self, notes: impl Stream<Item = Note> + Send + 'static) -> Answered<Note> {
        let path = "/notes.Notes/Sum".parse().unwrap();
        let codec = ProstCodec::<Note, Note>::default();
        self.grpc().await.client_streaming(self.request(notes), path, codec).await
    }

    pub async fn count(&self, asked: Note) -> Answered<Streaming<Note>> {
        let path = "/notes.Notes/Count".parse().unwrap();
        let codec = ProstCodec::<Note, Note>::default();
        self.grpc().await.server_streaming(self.request(asked), path, codec).await
    }

    pub async fn talk(
        &self,
        notes: impl Stream<Item = Note> + Send + 'static,
    ) -> Answered<Streaming<Note>> {
        let path = "/notes.Notes/Talk".parse().unwrap();
        let codec = ProstCodec::<Note, Note>::default();
        self.grpc().await.streaming(self.request(notes), path, codec).await
    }
}

/// Connects with TLS, whatever the name.
struct Dial {
    address: SocketAddr,
    tls: TlsConnector,
}

impl Service<http::Uri> for Dial {
    type Response = TokioIo<TlsStream<tokio::net::TcpStream>>;
    type Error = std::io::Error;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Self::Future {
        let (address, tls) = (self.address, self.tls.clone());
        Box::pin(async move {
            let stream = tokio::net::TcpStream::connect(address).await?;
            let stream = tls.connect(ServerName::try_from("localhost").unwrap(), stream).await?;
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
            Ok(TokioIo::new(stream))
        })
    }
}
