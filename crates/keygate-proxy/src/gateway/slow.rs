//! The gateway as Pingora's proxy calls it: each phase is the gateway's own.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use keygate_store::keys::KeyStore;
use keygate_telemetry::WayMetrics;
use pingora::Error;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::modules::http::HttpModules;
use pingora::proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use pingora::upstreams::peer::HttpPeer;

use super::Gateway;
use crate::bodies;
use crate::context::Context;
use crate::upstreams::retry::Sent;

/// A gateway that has more than one way of serving.
pub(crate) struct Shared<S: KeyStore> {
    gateway: Arc<Gateway<S>>,
    ways: WayMetrics,
}

impl<S: KeyStore> Shared<S> {
    pub(crate) fn new(gateway: Arc<Gateway<S>>) -> Self {
        Self { ways: gateway.metrics().ways(), gateway }
    }
}

impl<S: KeyStore> Deref for Shared<S> {
    type Target = Gateway<S>;

    fn deref(&self) -> &Gateway<S> {
        &self.gateway
    }
}

#[async_trait]
impl<S: KeyStore> ProxyHttp for Shared<S> {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        self.ways.full();
        self.gateway.new_ctx()
    }

    /// No compression, no gRPC-web: nothing that a request would have to pass through.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    async fn request_filter(
        &self,
        session: &mut Session,
        ctx: &mut Context,
    ) -> pingora::Result<bool> {
        self.gateway.request_filter(session, ctx).await
    }

    async fn upstream_peer(
        &self,
        session: &mut Session,
        ctx: &mut Context,
    ) -> pingora::Result<Box<HttpPeer>> {
        self.gateway.upstream_peer(session, ctx)
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut Context,
    ) -> pingora::Result<()> {
        self.gateway.upstream_request_filter(session, request, ctx)
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        ctx: &mut Context,
    ) -> pingora::Result<()> {
        let piece = body.as_ref().map_or(0, Bytes::len);
        self.gateway.request_body_filter(session, piece, end_of_stream, ctx).await?;
        bodies::hold_back(body, end_of_stream, ctx);
        Ok(())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Context,
    ) -> pingora::Result<()> {
        self.gateway.response_filter(session, response, ctx)
    }

    fn response_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        ctx: &mut Context,
    ) -> pingora::Result<Option<Duration>> {
        let piece = body.as_ref().map_or(0, Bytes::len);
        self.gateway.response_body_filter(session, piece, end_of_stream, ctx).map(|()| None)
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        ctx: &mut Context,
        error: Box<Error>,
    ) -> Box<Error> {
        self.gateway.fail_to_connect(ctx, error)
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        ctx: &mut Context,
        is_reused: bool,
    ) -> Box<Error> {
        self.gateway.error_while_proxy(&Sent::of(session), error, ctx, is_reused)
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        ctx: &mut Context,
    ) -> FailToProxy {
        self.gateway.fail_to_proxy(session, error, ctx).await
    }

    /// Our own events say it, with nothing in them that a client sent.
    fn suppress_error_log(&self, _session: &Session, _ctx: &Context, _error: &Error) -> bool {
        true
    }

    /// Attempts are counted.
    fn suppress_proxy_warn_log(
        &self,
        _session: &Session,
        _ctx: &Context,
        _error: &Error,
        _when: ProxyWarnLogContext,
    ) -> bool {
        true
    }

    fn request_summary(&self, _session: &Session, ctx: &Context) -> String {
        format!("route {}", ctx.route().map_or("none", |route| &route.name))
    }

    async fn logging(&self, session: &mut Session, _error: Option<&Error>, ctx: &mut Context) {
        self.gateway.logging(session, ctx);
    }
}
