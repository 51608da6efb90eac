//! A line for each request.

use std::net::IpAddr;
use std::time::Duration;

use keygate_core::Denial;
use pingora::http::RequestHeader;
use quanta::Instant;

use super::{End, Story};
use crate::context::Context;
use crate::snapshot::Snapshot;

/// Writes the access log.
#[derive(Clone, Default)]
pub struct AccessLog {}

impl AccessLog {
    pub(super) fn begun(&self, _head: &RequestHeader, _snapshot: &Snapshot, _story: &mut Story) {}

    pub(super) fn ended(&self, _ctx: &Context, _status: Option<u16>, _end: End, _took: Duration) {}

    pub(super) fn head_refused(&self, _client: IpAddr, _denial: &Denial, _began: Instant) {}
}
