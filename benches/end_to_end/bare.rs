//! The least that Pingora can do: no key, no route, no header touched. In the build of the bench, which
//! is that of the gateway, with the same allocator.

use std::net::SocketAddr;

use async_trait::async_trait;
use pingora::prelude::{HttpPeer, ProxyHttp, Server, Session};
use pingora::proxy::http_proxy_service;
use pingora::server::RunArgs;
use pingora::server::configuration::ServerConf;

struct Bare(SocketAddr);

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _: &mut Session, (): &mut ()) -> pingora::Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.0, false, String::new())))
    }
}

/// Serves until the process ends.
pub(crate) fn serve(port: u16, upstream: u16) {
    let mut server =
        Server::new_with_opt_and_conf(None, ServerConf { threads: 1, ..Default::default() });
    server.bootstrap();
    let mut service =
        http_proxy_service(&server.configuration, Bare(([127, 0, 0, 1], upstream).into()));
    service.add_tcp(&format!("127.0.0.1:{port}"));
    server.add_service(service);
    server.run(RunArgs::default());
}
