//! Reads the tables about what is told of requests.

use crate::catalogue::observe as catalogue;
use crate::reader::Section;
use crate::settings::{
    AccessLogSettings, AccessLogSink, TracingSettings, UsageRetention, UsageSettings,
};
use crate::word::observe::{AccessLogSinkKind, OtlpEndpoint, SampleShare, ServiceName};

pub(crate) fn read_usage(root: &Section<'_, '_>) -> Option<UsageSettings> {
    let section = root.child("usage", &catalogue::USAGE_TABLE)?;
    let path = section.get(&catalogue::USAGE_PATH);
    let flush_interval = section.get(&catalogue::FLUSH_INTERVAL);
    let minutes = section.get(&catalogue::KEEP_MINUTES);
    let hours = section.get(&catalogue::KEEP_HOURS);
    let days = section.get(&catalogue::KEEP_DAYS);
    let keep = UsageRetention { minutes: minutes?, hours: hours?, days: days? };
    Some(UsageSettings { path: path?, flush_interval: flush_interval?, keep })
}

pub(crate) fn read_access_log(root: &Section<'_, '_>) -> Option<AccessLogSettings> {
    let section = root.child("access_log", &catalogue::ACCESS_LOG_TABLE)?;
    let sink = section.get(&catalogue::SINK);
    let queue_max = section.get(&catalogue::LOG_QUEUE_MAX);
    let share = |setting| section.get(setting).map(|SampleShare(sample)| sample);
    let sample = share(&catalogue::SAMPLE);
    let sample_refused = share(&catalogue::SAMPLE_REFUSED);
    let sample_failed = share(&catalogue::SAMPLE_FAILED);
    let query = section.get(&catalogue::QUERY);
    let client_address = section.get(&catalogue::CLIENT_ADDRESS);
    let refuse_path = || {
        let help = "remove it, or write `sink = \"file\"`";
        section.refuse_key("path", "means nothing unless the sink is a file", help);
    };
    let sink = match sink? {
        AccessLogSinkKind::File => AccessLogSink::File(section.get(&catalogue::LOG_PATH)?),
        AccessLogSinkKind::Stdout => {
            refuse_path();
            AccessLogSink::Stdout
        }
        AccessLogSinkKind::Off => {
            refuse_path();
            AccessLogSink::Off
        }
    };
    Some(AccessLogSettings {
        sink,
        queue_max: usize::try_from(queue_max?).ok()?,
        sample: sample?,
        sample_refused: sample_refused?,
        sample_failed: sample_failed?,
        query: query?,
        client_address: client_address?,
    })
}

pub(crate) fn read_tracing(root: &Section<'_, '_>) -> Option<TracingSettings> {
    let section = root.child("tracing", &catalogue::TRACING_TABLE)?;
    let endpoint = section.get(&catalogue::ENDPOINT);
    let sample = section.get(&catalogue::TRACE_SAMPLE);
    let follow_parent = section.get(&catalogue::FOLLOW_PARENT);
    let service_name = section.get(&catalogue::SERVICE_NAME);
    let queue_max = section.get(&catalogue::TRACE_QUEUE_MAX);
    let timeout = section.get(&catalogue::EXPORT_TIMEOUT);
    let (SampleShare(sample), ServiceName(service_name)) = (sample?, service_name?);
    Some(TracingSettings {
        otlp_endpoint: endpoint.map(|OtlpEndpoint(url)| url),
        sample,
        follow_parent: follow_parent?,
        service_name,
        queue_max: usize::try_from(queue_max?).ok()?,
        timeout: timeout?,
    })
}
