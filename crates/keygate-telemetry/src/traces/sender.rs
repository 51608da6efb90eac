//! The thread that sends spans, batch by batch, and tries again what may be taken later. While it does,
//! the queue fills up, and that has a bound.

use std::sync::Arc;
use std::time::Duration;

use super::metrics::TraceMetrics;
use super::otlp::Resource;
use super::queue::Queue;
use super::receiver::{Delivery, Receiver};

/// How often a batch is sent before it is given up.
const TRIES_MAX: u32 = 3;
/// Before the second try; twice as long before the third.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest that a receiver is believed when it says when to try again.
const PAUSE_MAX: Duration = Duration::from_secs(30);

pub(super) struct Sender {
    pub(super) receiver: Receiver,
    pub(super) resource: Resource,
    pub(super) queue: Arc<Queue>,
    pub(super) metrics: TraceMetrics,
}

impl Sender {
    /// Sends until the queue has ended.
    pub(super) fn run(self) {
        let mut is_well = true;
        while let Some(spans) = self.queue.next() {
            let count = spans.len();
            match self.deliver(&self.resource.encode(spans)) {
                Ok(rejected) => {
                    let rejected = rejected.min(count);
                    self.metrics.sent(count - rejected);
                    self.metrics.failed(rejected);
                    if !is_well {
                        tracing::info!("the traces' receiver takes spans again");
                    }
                    is_well = true;
                }
                Err(why) => {
                    self.metrics.failed(count);
                    // Once: it goes on like this until it is repaired.
                    if is_well {
                        tracing::warn!(error = why, "the traces' receiver does not take spans");
                    }
                    is_well = false;
                }
            }
        }
    }

    /// How many spans of the message were rejected; or why all of them are lost.
    fn deliver(&self, message: &[u8]) -> Result<usize, String> {
        let mut pause = PAUSE;
        let mut tries = 0;
        loop {
            tries += 1;
            let timeout = self.queue.bound(self.receiver.timeout());
            match self.receiver.post(message, timeout) {
                Delivery::Taken { rejected } => return Ok(rejected),
                Delivery::Refused { why } => return Err(why),
                Delivery::Later { why, after } => {
                    let wait = after.unwrap_or(pause).min(PAUSE_MAX);
                    if tries >= TRIES_MAX || !self.queue.pause(wait) {
                        return Err(why);
                    }
                    pause *= 2;
                }
            }
        }
    }
}
