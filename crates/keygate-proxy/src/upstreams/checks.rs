//! Asks the targets of an upstream whether they are well, on connections of their own. What the answers
//! mean is `keygate_core::health`'s to say.

use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use http::header::{CONNECTION, HOST, USER_AGENT};
use keygate_config::{HealthCheck, Target};
use keygate_core::health::Thresholds;
use pingora::connectors::http::Connector;
use pingora::http::RequestHeader;
use pingora::protocols::http::client::HttpSession;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::Setup;
use super::names::wait;
use super::peer::WAIT_MIN;
use super::state::{Endpoint, TargetState, UpstreamState};
use super::upkeep::jittered;

/// How often the targets of an upstream are asked at least of which none is healthy.
const DOWN_INTERVAL_MAX: Duration = Duration::from_millis(500);
/// Addresses of one name that are asked at the same time.
const ASKED_AT_ONCE_MAX: usize = 32;
const OUR_NAME: &str = "keygate-health-check";

/// Asks one target for as long as its upstream's settings say so.
pub(crate) async fn keep_checking(
    upstream: Arc<UpstreamState>,
    target: Arc<TargetState>,
    connector: Arc<Connector>,
) {
    let mut setup = upstream.setup.subscribe();
    // The first time soon, but not all targets at once.
    let mut fraction = fastrand::f64();
    loop {
        let last = Instant::now();
        wait(&mut setup, last, |setup| {
            let check = setup.settings.health_check.as_ref();
            let usual = check.map_or(DOWN_INTERVAL_MAX, |it| it.interval);
            let is_down = upstream.is_down() && target.is_down();
            let interval = if is_down { usual.min(DOWN_INTERVAL_MAX) } else { usual };
            jittered(interval).mul_f64(fraction)
        })
        .await;
        fraction = 1.0;
        let now = Arc::clone(&setup.borrow());
        if now.settings.health_check.is_some() {
            check(&upstream, &target, &connector, &now).await;
        }
    }
}

/// Asks each address once.
async fn check(
    upstream: &Arc<UpstreamState>,
    target: &Arc<TargetState>,
    connector: &Arc<Connector>,
    setup: &Arc<Setup>,
) {
    // Dropping it ends the asking.
    let mut asking = JoinSet::new();
    for endpoint in &*target.endpoints() {
        if asking.len() >= ASKED_AT_ONCE_MAX {
            asking.join_next().await;
        }
        let (upstream, target) = (Arc::clone(upstream), Arc::clone(target));
        let (connector, setup) = (Arc::clone(connector), Arc::clone(setup));
        let endpoint = Arc::clone(endpoint);
        asking.spawn(async move {
            let Some(check) = &setup.settings.health_check else { return };
            let answer = ask(&endpoint, &target.target, &connector, &setup, check).await;
            let thresholds = Thresholds {
                unhealthy_after: check.unhealthy_after,
                healthy_after: check.healthy_after,
            };
            if endpoint.checked(answer.is_ok(), thresholds) {
                upstream.has_changed();
                tell(&setup, &endpoint, answer.err());
            }
        });
    }
    while asking.join_next().await.is_some() {}
}

fn tell(setup: &Setup, endpoint: &Endpoint, why: Option<Unwell>) {
    let (upstream, address) = (&*setup.settings.name, endpoint.address);
    match why {
        Some(why) => tracing::warn!(upstream, %address, %why, "a target is unhealthy"),
        None => tracing::info!(upstream, %address, "a target is healthy again"),
    }
}

/// What a bad check found.
#[derive(Debug, thiserror::Error)]
enum Unwell {
    #[error("it did not answer in time")]
    Slow,
    #[error("it answered {0}")]
    Status(u16),
    #[error("{}", .0.etype().as_str())]
    Broken(Box<Error>),
}

async fn ask(
    endpoint: &Endpoint,
    target: &Target,
    connector: &Connector,
    setup: &Setup,
    check: &HealthCheck,
) -> Result<(), Unwell> {
    let mut peer = setup.template.of(endpoint.address, target);
    peer.options.connection_timeout = Some(check.timeout);
    peer.options.total_connection_timeout = Some(check.timeout);
    // Each time on a connection that nobody has used, and nobody will.
    peer.options.max_h2_streams = 1;
    peer.options.idle_timeout = Some(WAIT_MIN);
    let asked = timeout(check.timeout, async {
        let (mut session, _) = connector.get_http_session(&peer).await?;
        let Some(path) = &check.path else { return Ok(None) };
        let status = get(&mut session, &peer, path, &host(check, target)).await?;
        session.shutdown().await;
        Ok(Some(status))
    });
    match asked.await {
        Err(_) => Err(Unwell::Slow),
        Ok(Err(error)) => Err(Unwell::Broken(error)),
        Ok(Ok(Some(status))) if !check.statuses.contains(&status) => Err(Unwell::Status(status)),
        Ok(Ok(_)) => Ok(()),
    }
}

fn host(check: &HealthCheck, target: &Target) -> String {
    check.host.as_ref().map_or_else(|| target.to_string(), ToString::to_string)
}

async fn get(
    session: &mut HttpSession,
    peer: &HttpPeer,
    path: &str,
    host: &str,
) -> pingora::Result<u16> {
    let mut request = RequestHeader::build("GET", path.as_bytes(), None)?;
    request.insert_header(USER_AGENT, OUR_NAME)?;
    if session.as_http2().is_some() {
        request.set_uri(uri(peer, path, host)?);
        request.set_version(http::Version::HTTP_2);
    } else {
        request.insert_header(HOST, host)?;
        request.insert_header(CONNECTION, "close")?;
    }
    session.write_request_header(Box::new(request)).await?;
    session.finish_request_body().await?;
    loop {
        session.read_response_header().await?;
        let status = session.response_header().map_or(0, |response| response.status.as_u16());
        // Those are not answers yet.
        if !(100..200).contains(&status) {
            return Ok(status);
        }
    }
}

fn uri(peer: &HttpPeer, path: &str, host: &str) -> pingora::Result<Uri> {
    let scheme = if peer.is_tls() { "https" } else { "http" };
    let uri = Uri::builder().scheme(scheme).authority(host).path_and_query(path).build();
    uri.map_err(|error| {
        Error::because(ErrorType::InvalidHTTPHeader, "what a health check asks for", error)
    })
}
