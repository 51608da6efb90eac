//! Reads the upstreams: the services behind the gateway.

use std::ops::Range;
use std::sync::Arc;

use rustls::pki_types::ServerName;

use crate::catalogue::{UPSTREAMS_MAX, upstream};
use crate::certificates::{authorities_in, identity_in};
use crate::reader::{Item, Reader, Section};
use crate::settings::{
    Balance, Ejection, HealthCheck, Protocol, Target, Upstream, UpstreamTls, WeightedTarget,
};
use crate::shown::Shown;
use crate::value::Value;
use crate::word::{AskedPath, BalanceKind, Host, Status};

/// The upstreams of a file: the settings if all are right, and every name in any case.
pub(crate) struct Upstreams<'r> {
    pub(crate) list: Option<Vec<Arc<Upstream>>>,
    /// In the order of the list, which is that of the alphabet.
    names: Vec<(&'r str, Option<Range<usize>>)>,
}

impl<'r> Upstreams<'r> {
    pub(crate) fn read(root: &Section<'r, '_>) -> Self {
        let children = root.named_children("upstreams", &upstream::TABLE, UPSTREAMS_MAX);
        let list: Vec<Option<Arc<Upstream>>> = children
            .iter()
            .map(|child| read_upstream(child.name, child.section.as_ref()?).map(Arc::new))
            .collect();
        let names = children
            .into_iter()
            .map(|child| (child.name, child.section.and_then(|section| section.span)))
            .collect();
        Self { list: list.into_iter().collect(), names }
    }

    /// The place of an upstream in the list.
    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        self.names.binary_search_by(|(known, _)| (**known).cmp(name)).ok()
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &'r str> {
        self.names.iter().map(|(name, _)| *name)
    }

    /// Warns of each that no route uses. `used` holds places in the list, sorted.
    pub(crate) fn warn_of_unused(&self, reader: &Reader<'_>, used: &[usize]) {
        for (at, (name, span)) in self.names.iter().enumerate() {
            if used.binary_search(&at).is_err() {
                let help = format!("write `upstream = \"{name}\"` in a route, or remove it");
                reader.warning(span.clone(), format!("no route uses upstream `{name}`"), &help);
            }
        }
    }
}

fn read_upstream(name: &str, section: &Section<'_, '_>) -> Option<Upstream> {
    let targets = section.get(&upstream::TARGETS);
    if let Some(targets) = &targets {
        let addresses: Vec<&Target> = targets.iter().map(|one| &one.target).collect();
        section.refuse_repeats("targets", &addresses);
    }
    let balance = read_balance(section);
    let protocol = section.get(&upstream::PROTOCOL);
    let tls = read_tls(section);
    if let (Some(Protocol::Auto), Some(None)) = (protocol, &tls)
        && let Some(span) = section.span_of("protocol")
    {
        let help = "write `[upstreams.NAME.tls]` too, or `protocol = \"http1\"` or `\"http2\"`";
        let message = "without TLS nobody says what is spoken";
        section.reader.error(span, message, Some(help.to_owned()));
    }
    if let (Some(targets), Some(Some(tls))) = (&targets, &tls)
        && tls.server_name.is_none()
    {
        refuse_unnamable(section, targets);
    }
    let host = section.get(&upstream::HOST);
    let connect_timeout = section.get(&upstream::CONNECT_TIMEOUT);
    let read_timeout = section.get(&upstream::READ_TIMEOUT);
    let write_timeout = section.get(&upstream::WRITE_TIMEOUT);
    let idle_timeout = section.get(&upstream::IDLE_TIMEOUT);
    let total_timeout = section.get(&upstream::TOTAL_TIMEOUT);
    let retries = section.get(&upstream::RETRIES);
    let retry_budget_percent = section.get(&upstream::RETRY_BUDGET_PERCENT);
    let dns_refresh = section.get(&upstream::DNS_REFRESH);
    let http2_streams_max = section.get(&upstream::HTTP2_STREAMS_MAX);
    let health_check = read_health_check(section);
    let ejection = read_ejection(section);
    Some(Upstream {
        name: name.into(),
        targets: targets?,
        balance: balance?,
        protocol: protocol?,
        tls: tls?,
        host: host?,
        connect_timeout: connect_timeout?,
        read_timeout: read_timeout?,
        write_timeout: write_timeout?,
        idle_timeout: idle_timeout?,
        total_timeout,
        retries: usize::try_from(retries?).ok()?,
        retry_budget_percent: retry_budget_percent?,
        dns_refresh: dns_refresh?,
        http2_streams_max: usize::try_from(http2_streams_max?).ok()?,
        health_check: health_check?,
        ejection: ejection?,
    })
}

/// A connection whose name is none of TLS's cannot be made, whether that is checked or not.
fn refuse_unnamable(section: &Section<'_, '_>, targets: &[WeightedTarget]) {
    for (at, WeightedTarget { target, .. }) in targets.iter().enumerate() {
        if let Some(span) = section.span_of_element("targets", at)
            && ServerName::try_from(&*target.host).is_err()
        {
            let help = "write the name that is as `server_name` into `[upstreams.NAME.tls]`";
            let message = "this host's name cannot be in a certificate";
            section.reader.error(span, message, Some(help.to_owned()));
        }
    }
}

fn read_balance(section: &Section<'_, '_>) -> Option<Balance> {
    let kind = section.get(&upstream::BALANCE);
    let hash_by = section.get(&upstream::HASH_BY);
    let balance = match kind? {
        BalanceKind::RoundRobin => Balance::RoundRobin,
        BalanceKind::LeastConnections => Balance::LeastConnections,
        BalanceKind::Hash => return hash_by.map(Balance::Hash),
    };
    let help = "remove it, or write `balance = \"hash\"`";
    section.refuse_key("hash_by", "means nothing without `balance = \"hash\"`", help);
    Some(balance)
}

/// The outer nothing means that something is wrong; so it does below.
fn read_tls(upstream: &Section<'_, '_>) -> Option<Option<UpstreamTls>> {
    if upstream.item("tls").is_none() {
        return Some(None);
    }
    let section = &upstream.child("tls", &upstream::TLS_TABLE)?;
    let server_name = section.get(&upstream::SERVER_NAME);
    let server_name: Option<Box<str>> =
        server_name.map(|Host(name)| name.trim_matches(['[', ']']).into());
    if let (Some(name), Some(span)) = (&server_name, section.span_of("server_name"))
        && ServerName::try_from(&**name).is_err()
    {
        let help = "write the name that the service's certificate is for".to_owned();
        section.reader.error(span, "this name cannot be in a certificate", Some(help));
    }
    let ca = authorities_in(section, &upstream::CA_FILE);
    let ca_file = section.get(&upstream::CA_FILE);
    let identity = identity_in(section, &upstream::CERT_FILE, &upstream::KEY_FILE);
    for (one, other) in [("cert_file", "key_file"), ("key_file", "cert_file")] {
        if section.item(other).is_none() {
            let help = format!("write `{other}` too");
            section.refuse_key(one, &format!("means nothing without `{other}`"), &help);
        }
    }
    let verify = section.get(&upstream::VERIFY)?;
    if !verify {
        section.reader.warning(
            section.span_of("verify"),
            "the service's certificate is not checked: anybody on the way may pose as it",
            "name the service's own CA as `ca_file`, and remove `verify`",
        );
    }
    Some(Some(UpstreamTls { server_name, ca_file, ca, identity, verify }))
}

fn read_health_check(upstream: &Section<'_, '_>) -> Option<Option<HealthCheck>> {
    if upstream.item("health_check").is_none() {
        return Some(None);
    }
    let section = upstream.child("health_check", &upstream::HEALTH_TABLE)?;
    let path = section.get(&upstream::HEALTH_PATH).map(|AskedPath(path)| path);
    if let (Some(path), Some(span)) = (&path, section.span_of("path"))
        && (!path.starts_with('/') || !path.bytes().all(|byte| byte.is_ascii_graphic()))
    {
        let help = "write it as it is sent, such as `/healthz`".to_owned();
        section.reader.error(span, "not a path to ask for", Some(help));
    }
    let host = section.get(&upstream::HEALTH_HOST).map(|Host(name)| name);
    let statuses = section.get(&upstream::STATUSES);
    let interval = section.get(&upstream::INTERVAL);
    let timeout = section.get(&upstream::TIMEOUT);
    let unhealthy_after = section.get(&upstream::UNHEALTHY_AFTER);
    let healthy_after = section.get(&upstream::HEALTHY_AFTER);
    if section.item("path").is_none() {
        for key in ["host", "statuses"] {
            section.refuse_key(key, "means nothing without `path`", "write a `path` too");
        }
    }
    Some(Some(HealthCheck {
        path,
        host,
        statuses: statuses?.into_iter().map(|Status(status)| status).collect(),
        interval: interval?,
        timeout: timeout?,
        unhealthy_after: u32::try_from(unhealthy_after?).ok()?,
        healthy_after: u32::try_from(healthy_after?).ok()?,
    }))
}

fn read_ejection(upstream: &Section<'_, '_>) -> Option<Option<Ejection>> {
    let section = upstream.child("ejection", &upstream::EJECTION_TABLE)?;
    let failures = section.get(&upstream::FAILURES);
    let duration = section.get(&upstream::DURATION);
    let max_percent = section.get(&upstream::MAX_PERCENT);
    let (failures, duration, max_percent) =
        (u32::try_from(failures?).ok()?, duration?, max_percent?);
    Some((failures > 0).then_some(Ejection { failures, duration, max_percent }))
}

impl Value for WeightedTarget {
    fn type_name() -> String {
        Target::type_name()
    }

    fn rule() -> String {
        format!("{}, or `{{ address = \"host:port\", weight = 2 }}`", <Target as Value>::rule())
    }

    fn read(reader: &Reader<'_>, item: &Item<'_>) -> Option<Self> {
        if !item.get_ref().is_table() {
            return Target::read(reader, item).map(|target| Self { target, weight: 1 });
        }
        // It is shown as part of the list that it is in.
        let shown = Shown::default();
        let section = Section::open(reader, item, &upstream::TARGET_TABLE, shown)?;
        let target = section.get(&upstream::ADDRESS);
        let weight = section.get(&upstream::WEIGHT);
        Some(Self { target: target?, weight: u16::try_from(weight?).ok()? })
    }
}
