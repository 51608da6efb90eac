//! HTTP/2: one line for each stream. Pingora serves the connection and hands over its requests.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use keygate_store::keys::KeyStore;
use pingora::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream};
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::H2Options;
use pingora::proxy::HttpProxy;
use pingora::server::ShutdownWatch;

use crate::client::Client;
use crate::gateway::Shared;
use crate::line::Lines;

/// The proxy, as one HTTP/2 connection has it.
pub(crate) struct Streams<S: KeyStore> {
    proxy: Arc<HttpProxy<Shared<S>>>,
    lines: Lines,
    client: Client,
    options: Option<HttpServerOptions>,
}

impl<S: KeyStore> Streams<S> {
    pub(crate) fn new(
        proxy: Arc<HttpProxy<Shared<S>>>,
        lines: Lines,
        client: Client,
        idle_timeout: Duration,
    ) -> Self {
        let options = proxy.server_options().cloned().map(|mut options| {
            options.h2_idle_timeout = Some(idle_timeout);
            // The client's stream says what is spoken.
            options.h2c = false;
            options
        });
        Self { proxy, lines, client, options }
    }
}

#[async_trait]
impl<S: KeyStore> HttpServerApp for Streams<S> {
    /// Called for each stream, on a task of its own. If its line is cut the session is dropped, and
    /// the h2 library then resets this stream, and no other.
    async fn process_new_http(
        self: &Arc<Self>,
        session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        let mut line = self.lines.open(self.client.clone());
        line.run(self.proxy.process_new_http(session, shutdown)).await.flatten()
    }

    fn h2_options(&self) -> Option<H2Options> {
        self.proxy.h2_options()
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        self.options.as_ref()
    }

    async fn http_cleanup(&self) {
        self.proxy.http_cleanup().await;
    }
}
