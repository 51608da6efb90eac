//! A line for each request that is sampled. What a line needs of a head is copied when the request
//! begins, since one that is cut off has nothing left to read it from; unless it is sure by then that
//! there will be no line.

use std::time::Duration;

use http::header::{HOST, USER_AGENT};
use http::{HeaderValue, Version};
use keygate_config::{AccessLogSettings, AccessLogSink, Config, Sample};
use keygate_core::{Access, Code, KeyRecord, Route, TraceId, UnixMillis};
use keygate_telemetry::Metrics;
use keygate_telemetry::access_log::{
    self as telemetry, CutShort, Decision, Head, Holder, Name, Protocol, Record, Texts, Times,
    shown_address,
};
use pingora::http::RequestHeader;
use pingora::{Error, ErrorType};

use super::{End, RefusedHead, Story};
use crate::context::Context;
use crate::line::{self, Cut};
use crate::lookup::Waited;
use crate::snapshot::Snapshot;

const A_MILLISECOND: Duration = Duration::from_millis(1);

/// Writes the access log.
#[derive(Clone, Default)]
pub struct AccessLog {
    log: telemetry::AccessLog,
    clock: Option<fn() -> UnixMillis>,
}

/// What a request carries for its line, if it may get one.
#[derive(Default)]
pub(crate) struct Noted(Option<Kept>);

struct Kept {
    texts: Texts,
    protocol: Protocol,
    /// Decides, together with how the request ends, whether there is a line.
    random: u64,
}

/// What is worked out of a configuration once.
pub(crate) struct Rules {
    /// The largest of all samples: a request beyond it gets no line, however it ends.
    most: Sample,
    /// In the order of the routes, unless there is no log.
    routes: Vec<RouteNames>,
}

/// What lines say of a route.
struct RouteNames {
    route: Name,
    upstream: Option<Name>,
}

impl Rules {
    pub(crate) fn of(config: &Config) -> Self {
        let settings = &config.access_log;
        if settings.sink == AccessLogSink::Off {
            return Self { most: Sample::NONE, routes: Vec::new() };
        }
        let of_routes = config.route_settings.iter().filter_map(|route| route.access_log_sample);
        let samples = [settings.sample, settings.sample_refused, settings.sample_failed];
        let upstream_of = |route: &Route| config.upstreams.get(route.upstream?);
        let names = |route: &Route| RouteNames {
            route: Name::of(&route.name),
            upstream: upstream_of(route).map(|upstream| Name::of(&upstream.name)),
        };
        Self {
            most: samples.into_iter().chain(of_routes).max().unwrap_or(Sample::NONE),
            routes: config.routes.routes().iter().map(names).collect(),
        }
    }
}

impl AccessLog {
    /// One with a queue of this size. It is told of each configuration.
    #[must_use]
    pub fn of(settings: &AccessLogSettings, metrics: &Metrics, clock: fn() -> UnixMillis) -> Self {
        let log = telemetry::AccessLog::new(settings.queue_max, metrics.access_log());
        Self { log, clock: Some(clock) }
    }

    /// Opens its file again, for whoever has moved it away.
    pub fn reopen(&self) {
        self.log.reopen();
    }

    /// Writes what is queued, within a bound, and nothing after that. Blocks.
    pub fn stop(&self) {
        self.log.stop();
    }

    /// From here on lines go where this configuration says.
    pub(crate) fn follow(&self, config: &Config) {
        let params = config.routes.routes().iter().filter_map(|route| match &route.access {
            Access::Key(access) => access.query_param.clone(),
            Access::Public(_) => None,
        });
        let mut params: Vec<Box<str>> = params.collect();
        params.sort_unstable();
        params.dedup();
        self.log.change(&config.access_log, params);
    }

    #[inline]
    pub(super) fn begun(&self, head: &RequestHeader, snapshot: &Snapshot, story: &mut Story) {
        let most = snapshot.log_rules.most;
        if most == Sample::NONE {
            return;
        }
        let random = fastrand::u64(..);
        if most.takes(random) {
            let (texts, protocol) = (texts_of(head), protocol(head.version));
            story.log = Noted(Some(Kept { texts, protocol, random }));
        }
    }

    pub(super) fn ended(
        &self,
        noted: Noted,
        ctx: &Context,
        status: Option<u16>,
        end: End,
        took: Duration,
    ) {
        let Noted(Some(kept)) = noted else { return };
        let cut = cut_short(end, ctx);
        if sample(ctx, status, cut).takes(kept.random) {
            self.log.write(&self.record(&kept, ctx, status, cut, took));
        }
    }

    fn record<'a>(
        &self,
        kept: &'a Kept,
        ctx: &'a Context,
        status: Option<u16>,
        cut: Option<CutShort>,
        took: Duration,
    ) -> Record<'a> {
        let Context { snapshot, story, request_id, admitted, tries, .. } = ctx;
        let settings = &snapshot.config.access_log;
        let names = ctx.route.and_then(|route| snapshot.log_rules.routes.get(route));
        let attempts = tries.count();
        let key = admitted.as_ref().and_then(|admitted| admitted.permit.key());
        Record {
            began: began(story).unwrap_or_else(|| self.moment(took)),
            request_id: request_id.as_ref().map(HeaderValue::as_bytes).unwrap_or_default(),
            texts: &kept.texts,
            route: names.map(|names| &names.route),
            upstream: names.and_then(|names| names.upstream.as_ref()).filter(|_| attempts > 0),
            holder: key.or(story.refused.as_deref()).map(holder),
            query: settings.query,
            protocol: kept.protocol,
            is_tls: line::with_client(|client| client.tls().is_some()).unwrap_or_default(),
            client: story
                .client
                .and_then(|address| shown_address(address, settings.client_address)),
            decision: decision(ctx, status),
            failure: story.code.filter(|_| admitted.is_some()),
            cut,
            status,
            bytes_in: story.bytes_in,
            bytes_out: story.bytes_out,
            times: times(ctx, took),
            target: story.target,
            attempts,
            trace: Some(story.trace.trace_id()).filter(|trace| *trace != TraceId::default()),
            span: story.trace.span(),
        }
    }

    /// Writes the line of a request whose head could not be read.
    pub(super) fn head_refused(&self, snapshot: &Snapshot, refused: &RefusedHead<'_>) {
        let settings = &snapshot.config.access_log;
        if snapshot.log_rules.most == Sample::NONE
            || !settings.sample_refused.takes(fastrand::u64(..))
        {
            return;
        }
        let code = refused.denial.code();
        self.log.write(&Record {
            began: self.moment(Duration::ZERO),
            request_id: refused.request_id.as_bytes(),
            texts: &Texts::default(),
            route: None,
            upstream: None,
            holder: None,
            query: settings.query,
            protocol: Protocol::Unknown,
            is_tls: refused.is_tls,
            client: refused
                .client
                .and_then(|address| shown_address(address, settings.client_address)),
            decision: Decision::Refused(code),
            failure: None,
            cut: None,
            status: Some(code.status()),
            bytes_in: 0,
            bytes_out: refused.bytes_out as u64,
            times: Times::default(),
            target: None,
            attempts: 0,
            trace: None,
            span: None,
        });
    }

    /// When something began that took so long.
    fn moment(&self, took: Duration) -> UnixMillis {
        let now = self.clock.map_or(UnixMillis(0), |clock| clock());
        UnixMillis(now.0.saturating_sub(u64::try_from(took.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// When a request began, by the clock that was read to decide it, if that took less than a millisecond.
fn began(story: &Story) -> Option<UnixMillis> {
    story.decided_at.filter(|_| story.decision.is_some_and(|took| took < A_MILLISECOND))
}

/// How many of the requests that end like this one get a line.
fn sample(ctx: &Context, status: Option<u16>, cut: Option<CutShort>) -> Sample {
    let settings = &ctx.snapshot.config.access_log;
    let of_route = || {
        let route = ctx.snapshot.config.route_settings.get(ctx.route?)?;
        route.access_log_sample
    };
    if ctx.admitted.is_none() && ctx.story.code.is_some() {
        settings.sample_refused
    } else if cut.is_some() || ctx.story.code.is_some() || status.is_none_or(|status| status >= 500)
    {
        // Also one that failed after its head, or whose failure gRPC has told in its own way.
        settings.sample_failed
    } else {
        of_route().unwrap_or(settings.sample)
    }
}

/// What was decided of a request.
pub(super) fn decision(ctx: &Context, status: Option<u16>) -> Decision {
    match (&ctx.admitted, ctx.story.code) {
        (Some(_), _) => Decision::Admitted,
        (None, Some(code)) => Decision::Refused(code),
        (None, None) if status.is_some() => Decision::Preflight,
        (None, None) => Decision::Undecided,
    }
}

fn times(ctx: &Context, total: Duration) -> Times {
    let Context { story, started, forwarded_at, .. } = ctx;
    let forwarded = forwarded_at.map(|at| at.saturating_duration_since(*started));
    let between = |from: Option<Duration>, to: Option<Duration>| Some(to?.saturating_sub(from?));
    Times {
        total,
        decision: story.decision,
        lookup: story.lookup.map(Waited::took),
        connect: between(forwarded, story.connected),
        first_byte: between(story.connected, story.first_byte),
    }
}

/// Why a request is dropped midway.
pub(super) fn cut_short(end: End, ctx: &Context) -> Option<CutShort> {
    match end {
        End::Finished => ctx.story.cut,
        End::Cut => Some(match line::cut_by() {
            Some(Cut::Key(denial)) if denial.code() == Code::ApiKeyExpired => CutShort::Expired,
            Some(Cut::Key(_)) => CutShort::Revoked,
            Some(Cut::SlowBody) => CutShort::SlowClient,
            Some(Cut::TotalTimeout) => CutShort::TotalTimeout,
            Some(Cut::ClientLeft) => CutShort::ClientLeft,
            Some(Cut::Stopped) | None => CutShort::Aborted,
        }),
    }
}

/// What the client did that ended its request with this error.
pub(crate) fn client_fault(error: &Error) -> CutShort {
    let is_slow = matches!(error.etype(), ErrorType::ReadTimedout | ErrorType::WriteTimedout);
    if is_slow { CutShort::SlowClient } else { CutShort::ClientLeft }
}

fn texts_of(head: &RequestHeader) -> Texts {
    let (mut host, mut user_agent) = (None, None);
    // In one pass, which takes less than two searches.
    for (name, value) in &head.headers {
        if *name == HOST {
            host.get_or_insert(value.as_bytes());
        } else if *name == USER_AGENT {
            user_agent.get_or_insert(value.as_bytes());
        }
    }
    let uri = &head.uri;
    let host = uri.authority().map(|authority| authority.as_str().as_bytes()).or(host);
    let host = host.unwrap_or_default();
    // Before it there may be a user and a password. Hardly ever, so it is looked for to the end in any
    // case: many bytes at once.
    let has_user = host.iter().fold(false, |found, &byte| found | (byte == b'@'));
    let host = if has_user { host.rsplit(|&byte| byte == b'@').next() } else { Some(host) };
    Texts::of(&Head {
        method: head.method.as_str().as_bytes(),
        host: host.unwrap_or_default(),
        path: uri.path().as_bytes(),
        user_agent: user_agent.unwrap_or_default(),
        query: uri.query().unwrap_or_default().as_bytes(),
    })
}

fn holder(key: &KeyRecord) -> Holder<'_> {
    let KeyRecord { id, app, account, hint, .. } = key;
    Holder { key: *id, app: *app, account: *account, hint }
}

fn protocol(version: Version) -> Protocol {
    if version == Version::HTTP_2 {
        Protocol::Http2
    } else if version == Version::HTTP_10 {
        Protocol::Http10
    } else {
        Protocol::Http11
    }
}
