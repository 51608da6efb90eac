//! What the lane serves on Pingora's sessions: requests that turn out to be refused, that fail, whose
//! route has more done to them, or whose answer is not plain.

use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{Method, StatusCode, Version, request};
use keygate_config::Upstream;
use keygate_core::Denial;
use keygate_store::keys::KeyStore;
use pingora::http::RequestHeader;
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::authority::validate_request_authority;
use pingora::protocols::http::v1::client::HttpSession as ClientSession;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType};

use super::again::Again;
use super::plain::{Asked, Client};
use super::{Lane, To, leaving};
use crate::client::CLIENT_WRITE_TIMEOUT;
use crate::context::Context;
use crate::upstreams::retry::Sent as SentSoFar;

/// How far a request has come.
pub(super) enum From {
    TheBeginning,
    Decided(Result<(), Denial>),
    /// An upstream has begun to answer.
    Asked(Asked),
    /// Nobody has answered it.
    Failed(Box<Error>),
}

impl<S: KeyStore> Lane<S> {
    /// Serves a request to its end. Gives the connection back if another may follow on it.
    pub(super) async fn serve_on(
        &self,
        client: Client,
        from: From,
        ctx: &mut Context,
    ) -> Option<Stream> {
        let is_last = client.is_last();
        let mut session = client.into_session();
        match session.read_request().await {
            Ok(true) => {}
            Ok(false) => {
                self.gateway.last_word(None, ctx);
                return None;
            }
            Err(error) => {
                if *error.etype() == ErrorType::InvalidHTTPHeader {
                    drop(Box::pin(session.respond_error(400)).await);
                }
                session.shutdown().await;
                self.gateway.logging(&mut session, ctx);
                return None;
            }
        }
        if is_last {
            session.set_keepalive(None);
        }
        session.set_write_timeout(Some(CLIENT_WRITE_TIMEOUT));
        let is_reusable = match self.go_on(&mut session, from, ctx).await {
            Ok(is_reusable) => {
                self.gateway.logging(&mut session, ctx);
                is_reusable
            }
            Err(error) => {
                Box::pin(self.gateway.fail_to_proxy(&mut session, &error, ctx)).await;
                self.gateway.logging(&mut session, ctx);
                false
            }
        };
        if !is_reusable {
            return None;
        }
        let (stream, rest) = session.finish().await.ok()??.into_parts();
        rest.is_none().then_some(stream)
    }

    /// Whether the connection may be used again.
    async fn go_on(
        &self,
        session: &mut ServerSession,
        from: From,
        ctx: &mut Context,
    ) -> pingora::Result<bool> {
        let (is_answered, asked) = match from {
            From::TheBeginning => (self.gateway.request_filter(session, ctx).await?, None),
            From::Decided(decided) => (self.gateway.carry_out(session, decided, ctx).await?, None),
            From::Asked(asked) => {
                (self.gateway.carry_out(session, Ok(()), ctx).await?, Some(asked))
            }
            From::Failed(error) => {
                if ctx.story.bytes_in > 0 {
                    // It was counted when it was sent on: nobody is to read it as what is left over.
                    drop(take_body(session).await);
                }
                return Err(error);
            }
        };
        if is_answered {
            return Ok(true);
        }
        self.forward(session, ctx, asked).await
    }

    async fn forward(
        &self,
        session: &mut ServerSession,
        ctx: &mut Context,
        asked: Option<Asked>,
    ) -> pingora::Result<bool> {
        let mut tries = asked.as_ref().map_or(0, |asked| asked.tries);
        let mut asked = asked;
        loop {
            let asked_now = match asked.take() {
                Some(Asked { upstream, to, is_reused, unsent, tries: _ }) => {
                    take_body(session).await?;
                    let mut client = ClientSession::new_with_options(upstream, &*to.peer);
                    set_timeouts(&mut client, &to.peer);
                    let is_whole = unsent.is_none();
                    let mut unsent = unsent;
                    let passed = self.pass_answer(session, ctx, &mut client, &mut unsent).await;
                    let passed = passed.map(|()| if is_whole { Sent::Whole } else { Sent::InPart });
                    Ok((passed, client, to, is_reused))
                }
                None => {
                    let to = To::of(self.gateway.upstream_peer(session, ctx)?)?;
                    match self.connect(&to).await {
                        Ok((stream, is_reused)) => {
                            let mut client = ClientSession::new_with_options(stream, &*to.peer);
                            let passed = self.exchange(session, ctx, &to.peer, &mut client).await;
                            Ok((passed, client, to, is_reused))
                        }
                        Err(error) => Err(error),
                    }
                }
            };
            let error = match asked_now {
                Ok((Ok(Sent::Whole), client, to, _)) => {
                    self.release(client, &to).await;
                    return Ok(true);
                }
                Ok((Ok(Sent::InPart), ..)) => return Ok(true),
                Ok((Err(error), _, _, is_reused)) => {
                    let sent = &SentSoFar::of(session);
                    self.gateway.error_while_proxy(sent, error, ctx, is_reused)
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

    async fn release(&self, mut client: ClientSession, to: &To) {
        client.respect_keepalive();
        if let Some(stream) = client.reuse().await.and_then(Again::unwrapped) {
            self.keep(stream, to);
        }
    }

    async fn exchange(
        &self,
        session: &mut ServerSession,
        ctx: &mut Context,
        peer: &HttpPeer,
        client: &mut ClientSession,
    ) -> pingora::Result<Sent> {
        set_timeouts(client, peer);
        let mut request = Box::new(plain(session.req_header()));
        request.set_version(Version::HTTP_11);
        self.gateway.upstream_request_filter(session, &mut request, ctx)?;
        // What was changed on the way has to be one clear request still.
        validate_request_authority(&request).map_err(|error| error.into_in())?;
        let is_framed = session.is_body_empty() || request.headers.contains_key(CONTENT_LENGTH);
        if !is_framed || !request.raw_path().starts_with(b"/") {
            return Error::e_explain(ErrorType::InternalError, "a request is plain no longer");
        }
        client.write_request_header(request).await.map_err(|e| e.into_up())?;
        let sent = self.send_body(session, ctx, client).await?;
        let is_whole = sent.is_ok();
        // Who did not get all of it may answer all the same. Else that is what went wrong.
        self.pass_answer(session, ctx, client, &mut sent.err()).await?;
        Ok(if is_whole { Sent::Whole } else { Sent::InPart })
    }

    /// Within, what kept the upstream from getting all of it.
    async fn send_body(
        &self,
        session: &mut ServerSession,
        ctx: &mut Context,
        client: &mut ClientSession,
    ) -> pingora::Result<pingora::Result<()>> {
        let mut sent = Ok(());
        if session.is_body_empty() {
            self.gateway.request_body_filter(session, 0, true, ctx).await?;
        } else {
            session.enable_retry_buffering();
            let body = match session.get_retry_buffer() {
                Some(body) => Some(body),
                None => session.read_request_body().await.map_err(|e| e.into_down())?,
            };
            let body = body.unwrap_or_default();
            let is_last = session.is_body_done();
            self.gateway.request_body_filter(session, body.len(), is_last, ctx).await?;
            sent = client.write_body(&body).await.and_then(|written| {
                if is_last && written == Some(body.len()) { Ok(()) } else { Err(in_part()) }
            });
        }
        let finished = client.finish_body().await;
        Ok(sent.and_then(|()| finished.map(drop)))
    }

    async fn pass_answer(
        &self,
        session: &mut ServerSession,
        ctx: &mut Context,
        client: &mut ClientSession,
        unsent: &mut Option<Box<Error>>,
    ) -> pingora::Result<()> {
        let mut broken = |error: Box<Error>| unsent.take().unwrap_or(error).into_up();
        let length = loop {
            tokio::select! {
                biased;
                read = client.read_response() => { read.map_err(&mut broken)?; }
                left = session.read_body_or_idle(true) => return Err(leaving(left)),
            }
            let is_done = client.is_body_done();
            let Some(head) = client.resp_header() else { return Err(no_answer()) };
            let mut head = Box::new(head.clone());
            let is_final = !head.status.is_informational();
            let has_no_body = session.req_header().method == Method::HEAD
                || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
            let length = head.headers.get(CONTENT_LENGTH).cloned();
            if is_final
                && !has_no_body
                && length.is_none()
                && !head.headers.contains_key(TRANSFER_ENCODING)
                && !is_done
            {
                head.set_version(Version::HTTP_11);
                head.insert_header(TRANSFER_ENCODING, "chunked")?;
            }
            self.gateway.response_filter(session, &mut head, ctx)?;
            session.write_response_header(head).await.map_err(|e| e.into_down())?;
            if is_final && is_done {
                return self.end(session).await;
            }
            if is_final {
                break length;
            }
        };
        let length = length.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        let mut passed = 0;
        loop {
            let piece = tokio::select! {
                biased;
                read = client.read_body_ref() => read.map_err(&mut broken)?,
                left = session.read_body_or_idle(true) => return Err(leaving(left)),
            };
            let Some(piece) = piece else {
                self.gateway.response_body_filter(session, 0, true, ctx)?;
                return self.end(session).await;
            };
            passed += piece.len();
            let is_last = length == Some(passed);
            self.gateway.response_body_filter(session, piece.len(), is_last, ctx)?;
            if let (ServerSession::H1(http1), false) = (&mut *session, piece.is_empty()) {
                http1.write_body(piece).await.map_err(|e| e.into_down())?;
            }
            if is_last {
                return self.end(session).await;
            }
        }
    }

    async fn end(&self, session: &mut ServerSession) -> pingora::Result<()> {
        session.finish_body().await.map(drop).map_err(|e| e.into_down())
    }
}

/// How much of a request the upstream has got, that has answered it.
enum Sent {
    Whole,
    InPart,
}

/// Keeps the body, all of which has come, for whoever is asked next.
async fn take_body(session: &mut ServerSession) -> pingora::Result<()> {
    if !session.is_body_empty() {
        session.enable_retry_buffering();
        while session.read_request_body().await.map_err(|e| e.into_down())?.is_some() {}
    }
    Ok(())
}

fn set_timeouts(client: &mut ClientSession, peer: &HttpPeer) {
    client.read_timeout = peer.options.read_timeout;
    client.write_timeout = peer.options.write_timeout;
}

/// Without the spelling of names, and without the one header that a plain request may have for us alone.
fn plain(sent: &RequestHeader) -> RequestHeader {
    let sent: &request::Parts = sent;
    let mut parts = sent.clone();
    parts.headers.remove(CONNECTION);
    RequestHeader::from(parts)
}

fn in_part() -> Box<Error> {
    Error::explain(ErrorType::WriteError, "an upstream took part of a body").into_up()
}

fn no_answer() -> Box<Error> {
    Error::explain(ErrorType::InvalidHTTPHeader, "an upstream has no answer").into_up()
}
