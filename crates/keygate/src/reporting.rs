//! Those who are told of requests, by the configuration.

use anyhow::Context;
use keygate_config::Config;
use keygate_proxy::report::{AccessLog, Reporters, TopKeys, Traces, Usage};
use keygate_store::usage::UsageCounter;
use keygate_telemetry::Metrics;
use keygate_telemetry::traces::{Instance, SpanSender};

use crate::clock;
use crate::failure::Failure;

/// `gateway` is the id under which others know this process.
pub(crate) fn reporters(
    config: &Config,
    metrics: &Metrics,
    gateway: &str,
    counter: &UsageCounter,
) -> Result<Reporters, Failure> {
    let usage = Usage::counting(counter.clone());
    let traces = traces(config, metrics, gateway)?;
    let access_log = AccessLog::of(&config.access_log, metrics, clock::now);
    Ok(Reporters { usage, top: TopKeys::counting(), traces, access_log })
}

fn traces(config: &Config, metrics: &Metrics, gateway: &str) -> Result<Traces, Failure> {
    let instance = Instance { version: env!("CARGO_PKG_VERSION"), id: gateway.to_owned() };
    let sender = SpanSender::start(&config.tracing, &instance, metrics.traces());
    let sender = sender.context("cannot start the thread that sends traces")?;
    Ok(sender.map_or_else(Traces::default, |sender| Traces::new(sender, clock::unix_nanos)))
}
