//! What each key uses.

use keygate_core::Permit;

use super::Story;
use crate::context::Context;
use crate::snapshot::Snapshot;

/// What a request carries of its count.
#[derive(Default)]
pub(crate) struct Noted {}

/// Counts what keys use.
#[derive(Clone, Default)]
pub struct Usage {}

impl Usage {
    /// To be called before anything is sent to an upstream: what was counted and not sent is a request too
    /// much, what was sent and not counted is one too few, and that is worse.
    pub(super) fn admitted(
        &self,
        _permit: &Permit,
        _snapshot: &Snapshot,
        _route: usize,
        _story: &mut Story,
    ) {
    }

    pub(super) fn moved(&self, _story: &Story, _bytes_in: usize, _bytes_out: usize) {}

    pub(super) fn ended(&self, _ctx: &Context) {}
}
