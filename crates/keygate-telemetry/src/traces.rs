//! Spans on their way to an OpenTelemetry receiver. Whoever has some leaves them in a queue and goes on; a
//! thread of its own sends them. The queue has a bound, and what is beyond it is dropped and counted.
//!
//! The only place that names OpenTelemetry's types. Knows no request.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use keygate_config::TracingSettings;

mod metrics;
mod otlp;
mod queue;
mod receiver;
mod sender;
mod span;

pub use metrics::TraceMetrics;
use otlp::Resource;
use queue::Queue;
use receiver::Receiver;
use sender::Sender;
pub use span::{Attribute, Event, Span, SpanKind, Value};

/// Takes spans to be sent. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct SpanSender {
    queue: Arc<Queue>,
}

/// Who sends spans.
#[derive(Clone, Debug)]
pub struct Instance {
    pub version: &'static str,
    /// Differs between any two processes.
    pub id: String,
}

impl SpanSender {
    /// Begins to send spans, if the settings say whereto.
    ///
    /// # Errors
    /// When there can be no thread.
    pub fn start(
        settings: &TracingSettings,
        instance: &Instance,
        metrics: TraceMetrics,
    ) -> io::Result<Option<Self>> {
        let Some(endpoint) = &settings.otlp_endpoint else { return Ok(None) };
        let queue = Arc::new(Queue::new(settings.queue_max, metrics.clone()));
        let sender = Sender {
            receiver: Receiver::new(endpoint, settings.timeout, instance.version),
            resource: Resource::new(&settings.service_name, instance),
            queue: Arc::clone(&queue),
            metrics,
        };
        thread::Builder::new().name("keygate-traces".to_owned()).spawn(move || sender.run())?;
        Ok(Some(Self { queue }))
    }

    /// Has the spans of one request sent: all of them, or none if there is no room.
    pub fn send(&self, spans: Vec<Span>) {
        self.queue.add(spans);
    }

    /// Sends what is left, for at most so long. Blocks.
    pub fn stop(&self, most: Duration) {
        let left = self.queue.stop(Instant::now() + most);
        if left > 0 {
            tracing::warn!(
                spans = left,
                "the traces' receiver did not take the last spans in time"
            );
        }
    }
}
