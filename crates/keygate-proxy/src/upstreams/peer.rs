//! How one target is connected to.

use std::net::SocketAddr;

use keygate_config::{Target, Upstream};
use pingora::upstreams::peer::HttpPeer;

/// What a request for this target copies. `target` is the one of the configuration that `address`
/// belongs to.
pub(crate) fn template(address: SocketAddr, _target: &Target, upstream: &Upstream) -> HttpPeer {
    let mut peer = HttpPeer::new(address, false, String::new());
    // Pingora's defaults wait for ever, and keep idle connections until the other side closes them.
    peer.options.connection_timeout = Some(upstream.connect_timeout);
    peer.options.total_connection_timeout = Some(upstream.connect_timeout);
    peer.options.read_timeout = Some(upstream.read_timeout);
    peer.options.write_timeout = Some(upstream.write_timeout);
    peer.options.idle_timeout = Some(upstream.idle_timeout);
    peer
}
