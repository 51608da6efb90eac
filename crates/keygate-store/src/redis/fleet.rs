//! What gateways report of themselves, and how it is written down.

use redis::RedisResult;
use redis::aio::MultiplexedConnection;

use super::layout::Names;
use crate::fleet::{Gateway, LinkState};
use crate::keys::ChangeNumber;

/// Notes that this gateway is there.
pub(super) async fn report(
    _connection: &mut MultiplexedConnection,
    _names: &Names,
    _gateway: &Gateway,
    _link: LinkState,
    _applied: ChangeNumber,
) -> RedisResult<()> {
    Ok(())
}
