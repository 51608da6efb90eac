//! Spans of those requests that are traced.

use std::time::Duration;

use keygate_config::TracingSettings;
use pingora::http::RequestHeader;

use super::{End, Story};
use crate::context::Context;

/// What a request carries of its trace.
#[derive(Default)]
pub(crate) struct Noted {}

/// Sends spans.
#[derive(Clone, Default)]
pub struct Traces {}

impl Traces {
    pub(super) fn begun(&self, _head: &RequestHeader, _by: &TracingSettings, _story: &mut Story) {}

    pub(super) fn ended(&self, _ctx: &Context, _status: Option<u16>, _end: End, _took: Duration) {}
}
