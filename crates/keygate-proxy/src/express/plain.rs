//! A plain request on its way to an upstream, and the plain answer to it, on the connections themselves.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderValue;
use http::header::CONNECTION;
use keygate_config::Upstream;
use keygate_store::keys::KeyStore;
use pingora::http::RequestHeader;
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::date::get_cached_date;
use pingora::protocols::http::v1::server::HttpSession as Http1Session;
use pingora::protocols::{Shutdown, Stream};
use pingora::time::timeout;
use pingora::{Error, ErrorSource, ErrorType, OrErr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::again::Again;
use super::heads::{Address, Ours, Plain, Progress, take_over, write_request};
use super::{Lane, To, leaving};
use crate::client::CLIENT_WRITE_TIMEOUT;
use crate::context::Context;
use crate::forward::Forwarded;
use crate::gateway::forwarded;
use crate::line;
use crate::report;
use crate::upstreams::retry::Sent;

/// What an answer is read into at first: most fit.
const ANSWER_BUFFER_BYTES: usize = 4 << 10;
/// What the rest of a longer one is.
const BODY_BUFFER_BYTES: usize = 64 << 10;
/// A head that is not whole by then is not plain.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Room for a request's head as its upstream gets it, and for an answer's.
const HEAD_ROOM_BYTES: usize = 1 << 10;

/// A client whose request is here, head and body.
pub(super) struct Client {
    stream: Stream,
    sent: Bytes,
    head: usize,
    is_last: bool,
    /// Whether anything of an answer may have reached it, and whether its head was written.
    has_answer: bool,
    has_head: bool,
}

impl Client {
    /// One that has sent this and no more, and whose connection closes behind the answer if `is_last`.
    pub(super) fn new(stream: Stream, sent: Bytes, head: usize, is_last: bool) -> Self {
        Self { stream, sent, head, is_last, has_answer: false, has_head: false }
    }

    pub(super) fn sent(&self) -> &Bytes {
        &self.sent
    }

    fn body(&self) -> &[u8] {
        self.sent.get(self.head..).unwrap_or_default()
    }

    pub(super) fn is_last(&self) -> bool {
        self.is_last
    }

    pub(super) fn has_answer(&self) -> bool {
        self.has_answer
    }

    /// Whether it has its answer's head.
    pub(super) fn has_head(&self) -> bool {
        self.has_head
    }

    /// Where it is, as far as its connection knows.
    pub(super) fn address(&self) -> IpAddr {
        let digest = self.stream.get_socket_digest();
        let address = digest.as_ref().and_then(|digest| digest.peer_addr()?.as_inet());
        address.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), SocketAddr::ip)
    }

    /// The same request for Pingora to read, from its beginning.
    pub(super) fn into_session(self) -> ServerSession {
        let mut session = Http1Session::new(self.stream);
        session.set_pipelined_prefix(BytesMut::from(&*self.sent));
        ServerSession::H1(session)
    }

    /// Behind its answer: the connection, if it may be used again.
    pub(super) async fn finish(mut self) -> Option<Stream> {
        if self.is_last {
            Shutdown::shutdown(&mut *self.stream).await;
            return None;
        }
        Some(self.stream)
    }

    async fn write(&mut self, head: &[u8], piece: &[u8]) -> pingora::Result<()> {
        self.has_answer = true;
        let stream = &mut self.stream;
        let write = async {
            stream.write_all_buf(&mut Buf::chain(head, piece)).await?;
            stream.flush().await
        };
        let written = timeout(CLIENT_WRITE_TIMEOUT, write).await;
        written_or(written, "to a client").map_err(|error| error.into_down())?;
        self.has_head = true;
        Ok(())
    }
}

/// What came of a request.
pub(super) enum Served {
    Whole,
    /// Its answer is not plain, or not yet seen to be.
    Odd(Asked),
}

/// An upstream that has begun to answer.
pub(super) struct Asked {
    /// Gives the answer from its beginning.
    pub upstream: Stream,
    pub to: To,
    pub is_reused: bool,
    /// What kept it from getting all of the request.
    pub unsent: Option<Box<Error>>,
    /// How many were asked before.
    pub tries: usize,
}

/// How one attempt went.
enum Attempt {
    /// Answered, and the connection can be kept or not.
    Answered {
        is_kept: bool,
    },
    Odd {
        read: BytesMut,
        unsent: Option<Box<Error>>,
    },
}

impl<S: KeyStore> Lane<S> {
    /// Forwards an admitted request, if need be more than once.
    pub(super) async fn forward_plain(
        &self,
        request: &RequestHeader,
        client: &mut Client,
        ctx: &mut Context,
    ) -> pingora::Result<Served> {
        let closes = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"close");
        client.is_last |= request.headers.get(CONNECTION).is_some_and(closes);
        let mut tries = 0;
        loop {
            let to = To::of(self.gateway.plain_peer(ctx)?)?;
            let error = match self.connect(&to).await {
                Ok((mut upstream, is_reused)) => {
                    match self.attempt(request, client, ctx, &to, &mut upstream).await {
                        Ok(Attempt::Answered { is_kept }) => {
                            if is_kept {
                                self.keep(upstream, &to);
                            }
                            return Ok(Served::Whole);
                        }
                        Ok(Attempt::Odd { read, unsent }) => {
                            let upstream = Box::new(Again::new(read, upstream));
                            let asked = Asked { upstream, to, is_reused, unsent, tries };
                            return Ok(Served::Odd(asked));
                        }
                        Err(error) => {
                            let sent = Sent {
                                method: &request.method,
                                is_answered: client.has_answer,
                                is_body_done: true,
                                is_kept: true,
                            };
                            self.gateway.error_while_proxy(&sent, error, ctx, is_reused)
                        }
                    }
                }
                Err(mut error) => {
                    error.as_up();
                    self.gateway.fail_to_connect(ctx, error).into_up()
                }
            };
            tries += 1;
            if !error.retry() || tries > Upstream::RETRIES_MAX {
                return Err(error);
            }
        }
    }

    async fn attempt(
        &self,
        request: &RequestHeader,
        client: &mut Client,
        ctx: &mut Context,
        to: &To,
        upstream: &mut Stream,
    ) -> pingora::Result<Attempt> {
        let head = head_for_upstream(request, client, ctx)?;
        self.gateway.goes_on(ctx);
        ctx.tries.check_time()?;
        let body = client.body();
        report::moved(ctx, body.len(), 0);
        ctx.body_bytes = body.len() as u64;
        if !body.is_empty() {
            // Who leaves while it is written is seen by the line.
            line::uploaded();
        }
        // Who did not get all of it may answer all the same. Else that is what went wrong.
        let mut unsent = match send(upstream, &head, body, to.peer.options.write_timeout).await {
            Ok(()) => None,
            Err(error) if *error.etype() == ErrorType::WriteTimedout || body.is_empty() => {
                return Err(error);
            }
            Err(error) => Some(error),
        };
        let wait = to.peer.options.read_timeout;
        let mut read = BytesMut::with_capacity(ANSWER_BUFFER_BYTES);
        // The one head is gone; its room is for the other.
        let mut out = head;
        let plain = loop {
            let more = read_more(client, upstream, &mut read, wait).await;
            more.map_err(|error| match error.esource() {
                ErrorSource::Upstream => unsent.take().unwrap_or(error),
                ErrorSource::Downstream | ErrorSource::Internal | ErrorSource::Unset => error,
            })?;
            out.clear();
            match self.take_answer(&read, client, ctx, &mut out)? {
                Progress::Plain(plain) => break plain,
                Progress::NeedMore if read.len() < HEAD_BYTES_MAX => {}
                Progress::NeedMore | Progress::Odd => return Ok(Attempt::Odd { read, unsent }),
            }
        };
        let is_sent = unsent.is_none();
        self.gateway.answered(plain.status, ctx);
        self.gateway.observe(ctx);
        let is_kept = plain.is_kept;
        read.advance(plain.head);
        let has_ended = pass(client, upstream, ctx, Passing { plain, out, read, wait }).await?;
        Ok(Attempt::Answered { is_kept: is_kept && is_sent && has_ended })
    }

    fn take_answer(
        &self,
        read: &[u8],
        client: &Client,
        ctx: &Context,
        out: &mut Vec<u8>,
    ) -> pingora::Result<Progress> {
        let Some(request_id) = &ctx.request_id else {
            return Error::e_explain(ErrorType::InternalError, "a request has no name");
        };
        let told = self.gateway.told(ctx);
        let told = &told.headers().collect::<Vec<_>>();
        let date = &get_cached_date();
        let ours = Ours { request_id, told, date, is_last: client.is_last };
        Ok(take_over(read, &ours, out))
    }
}

/// What is left to be done once an answer's head is known.
struct Passing {
    plain: Plain,
    /// Its head as the client gets it.
    out: Vec<u8>,
    /// What came of its body.
    read: BytesMut,
    wait: Option<Duration>,
}

/// Passes an answer on. Says whether nothing came behind it.
async fn pass(
    client: &mut Client,
    upstream: &mut Stream,
    ctx: &mut Context,
    passing: Passing,
) -> pingora::Result<bool> {
    let Passing { plain, mut out, mut read, wait } = passing;
    let mut left = plain.body;
    loop {
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(read.len());
        left -= length as u64;
        report::moved(ctx, 0, length);
        if left == 0 {
            // Before the client can know: one that counts its own requests must never find us one behind.
            ctx.end_charge();
        } else {
            ctx.tries.check_time()?;
        }
        client.write(&out, read.get(..length).unwrap_or_default()).await?;
        read.advance(length);
        if left == 0 {
            return Ok(read.is_empty());
        }
        out.clear();
        let room = usize::try_from(left).unwrap_or(usize::MAX).min(BODY_BUFFER_BYTES);
        read.clear();
        read.reserve(room);
        read_more(client, upstream, &mut read, wait).await?;
    }
}

/// The request's head as its upstream gets it.
fn head_for_upstream(
    request: &RequestHeader,
    client: &Client,
    ctx: &Context,
) -> pingora::Result<Vec<u8>> {
    let (admitted, caller) = forwarded(ctx, client.address())?;
    let headers = Forwarded::new(&request.headers, admitted, caller);
    let address = Address { target: admitted.target.as_deref(), host: ctx.tries.host() };
    let mut head = Vec::with_capacity(HEAD_ROOM_BYTES);
    if !write_request(&mut head, request, &address, &headers) {
        return Error::e_explain(ErrorType::InternalError, "a request is plain no longer");
    }
    Ok(head)
}

async fn send(
    upstream: &mut Stream,
    head: &[u8],
    body: &[u8],
    wait: Option<Duration>,
) -> pingora::Result<()> {
    let write = async {
        if body.is_empty() {
            upstream.write_all(head).await?;
        } else {
            upstream.write_all_buf(&mut Buf::chain(head, body)).await?;
        }
        upstream.flush().await
    };
    let written = match wait {
        Some(wait) => timeout(wait, write).await,
        None => Ok(write.await),
    };
    written_or(written, "to an upstream").map_err(|error| error.into_up())
}

fn written_or<E>(written: Result<io::Result<()>, E>, to: &'static str) -> pingora::Result<()> {
    match written {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) if error.kind() != ErrorKind::TimedOut => {
            Err(error).or_err(ErrorType::WriteError, to)
        }
        Ok(Err(_)) | Err(_) => Error::e_explain(ErrorType::WriteTimedout, to),
    }
}

/// Reads on, unless the client leaves meanwhile.
///
/// # Errors
/// Also when the upstream has ended.
async fn read_more(
    client: &mut Client,
    upstream: &mut Stream,
    read: &mut BytesMut,
    wait: Option<Duration>,
) -> pingora::Result<()> {
    let from_upstream = async {
        match wait {
            Some(wait) => timeout(wait, upstream.read_buf(read)).await,
            None => Ok(upstream.read_buf(read).await),
        }
    };
    let mut probe = [0];
    let read = tokio::select! {
        biased;
        read = from_upstream => read,
        left = client.stream.read(&mut probe) => {
            let left = left.or_err(ErrorType::ReadError, "of a client that is answered");
            return Err(match left {
                Ok(0) => Error::explain(ErrorType::ConnectionClosed, "a client left").into_down(),
                left => leaving(left),
            });
        }
    };
    match read {
        Ok(Ok(1..)) => Ok(()),
        Ok(Ok(0)) => Err(Error::explain(ErrorType::ConnectionClosed, "an upstream left").into_up()),
        Ok(Err(error)) => {
            let read = Err(error).or_err(ErrorType::ReadError, "of an upstream");
            read.map_err(|error: Box<Error>| error.into_up())
        }
        Err(_) => Err(Error::explain(ErrorType::ReadTimedout, "of an upstream").into_up()),
    }
}
