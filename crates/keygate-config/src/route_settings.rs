//! Reads what a route has done to requests and answers.

use keygate_core::route::PathPattern;

use crate::catalogue::route;
use crate::header::{ChangedHeader, HeaderName, HeaderValues};
use crate::reader::Section;
use crate::setting::Table;
use crate::settings::{Cors, HeaderChanges, Respond, RouteSettings};
use crate::value::Bytes;
use crate::word::observe::SampleShare;
use crate::word::{ContentType, Method, Origin, PathPrefix, Status, Text};

pub(crate) fn read_route_settings(
    section: &Section<'_, '_>,
    path: Option<&PathPattern>,
) -> Option<RouteSettings> {
    let respond = read_respond(section);
    let strip_prefix = section.get(&route::STRIP_PREFIX).map(|PathPrefix(path)| path);
    let add_prefix = section.get(&route::ADD_PREFIX).map(|PathPrefix(path)| path);
    if let (Some(prefix), Some(path)) = (&strip_prefix, path) {
        refuse_foreign_prefix(section, prefix, path);
    }
    let request_headers = read_changes(section, "request_headers", &route::REQUEST_HEADERS_TABLE);
    let response_headers =
        read_changes(section, "response_headers", &route::RESPONSE_HEADERS_TABLE);
    let cors = read_cors(section);
    if let (Some(changes), Some(Some(_))) = (&response_headers, &cors)
        && changes.names().any(|name| name.starts_with("access-control-"))
        && let Some(span) = section.span_of("response_headers")
    {
        let help = "remove it there, or remove `cors`";
        let message = "`cors` says what is in the headers `Access-Control-…`";
        section.reader.error(span, message, Some(help.to_owned()));
    }
    let body_bytes_max = section.get(&route::BODY_BYTES_MAX);
    let response_bytes_max = section.get(&route::RESPONSE_BYTES_MAX);
    let access_log_sample = section.get(&route::ACCESS_LOG_SAMPLE);
    if section.item("respond").is_some() {
        for key in
            ["upstream", "strip_prefix", "add_prefix", "request_headers", "response_bytes_max"]
        {
            let help = "remove it, or remove `respond`";
            section.refuse_key(key, "means nothing where the gateway itself answers", help);
        }
    }
    Some(RouteSettings {
        respond: respond?,
        strip_prefix,
        add_prefix,
        request_headers: request_headers?,
        response_headers: response_headers?,
        cors: cors?,
        body_bytes_max: body_bytes_max.map(|Bytes(bytes)| bytes),
        response_bytes_max: response_bytes_max.map(|Bytes(bytes)| bytes),
        access_log_sample: access_log_sample.map(|SampleShare(sample)| sample),
    })
}

fn refuse_foreign_prefix(section: &Section<'_, '_>, prefix: &str, path: &PathPattern) {
    let path = path.to_string();
    let rest = path.strip_prefix(prefix);
    if rest.is_none_or(|rest| !rest.is_empty() && !rest.starts_with('/'))
        && let Some(span) = section.span_of("strip_prefix")
    {
        let help = format!("strip `{path}`, or whole segments that it begins with");
        let message = "the route's `path` does not begin with this";
        section.reader.error(span, message, Some(help));
    }
}

/// The outer nothing means that something is wrong; so it does below.
fn read_respond(section: &Section<'_, '_>) -> Option<Option<Respond>> {
    if section.item("respond").is_none() {
        return Some(None);
    }
    let section = section.child("respond", &route::RESPOND_TABLE)?;
    let status = section.get(&route::STATUS);
    let body = section.get(&route::BODY);
    let content_type = section.get(&route::CONTENT_TYPE);
    let (Status(status), Text(body), ContentType(content_type)) = (status?, body?, content_type?);
    Some(Some(Respond { status, body, content_type }))
}

fn read_changes(
    section: &Section<'_, '_>,
    key: &str,
    shape: &'static Table,
) -> Option<HeaderChanges> {
    let section = section.child(key, shape)?;
    let set = section.get(&route::SET);
    let remove = section.get(&route::REMOVE);
    if let Some(remove) = &remove {
        section.refuse_repeats("remove", remove);
    }
    let (HeaderValues(set), remove) = (set?, remove?);
    let remove = remove.into_iter().map(|ChangedHeader(name)| name).collect();
    Some(HeaderChanges { set, remove })
}

fn names(headers: Vec<HeaderName>) -> Vec<Box<str>> {
    headers.into_iter().map(|HeaderName(name)| name).collect()
}

fn read_cors(section: &Section<'_, '_>) -> Option<Option<Cors>> {
    if section.item("cors").is_none() {
        return Some(None);
    }
    let section = section.child("cors", &route::CORS_TABLE)?;
    let origins = section.get(&route::ORIGINS);
    let methods = section.get(&route::CORS_METHODS);
    let headers = section.get(&route::CORS_HEADERS);
    let expose_headers = section.get(&route::EXPOSE_HEADERS);
    let credentials = section.get(&route::CREDENTIALS);
    let max_age = section.get(&route::MAX_AGE);
    let origins = origins?;
    section.refuse_repeats("origins", &origins);
    let any = origins.iter().position(|origin| *origin == Origin::Any);
    if let Some(span) = any.and_then(|at| section.span_of_element("origins", at)) {
        if origins.len() > 1 {
            let help = "remove the others, or remove `*`".to_owned();
            section.reader.error(span, "`*` is every origin already", Some(help));
        } else if credentials == Some(true) {
            let help = "list the origins that may send cookies".to_owned();
            section.reader.error(span, "no browser sends cookies to `*`", Some(help));
        }
    }
    for (key, names) in [("headers", &headers), ("expose_headers", &expose_headers)] {
        let any = names.iter().flatten().position(|HeaderName(name)| &**name == "*");
        if credentials == Some(true)
            && let Some(span) = any.and_then(|at| section.span_of_element(key, at))
        {
            let help = "list the headers: with cookies, `*` is only a header's name".to_owned();
            section.reader.error(span, "no browser takes `*` from who lets cookies in", Some(help));
        }
    }
    let listed = origins.into_iter().map(|origin| match origin {
        Origin::Any => None,
        Origin::One(origin) => Some(origin),
    });
    let methods = match (methods, section.item("methods")) {
        (Some(methods), _) => Some(methods.into_iter().map(|Method(method)| method).collect()),
        (None, None) => None,
        (None, Some(_)) => return None,
    };
    Some(Some(Cors {
        origins: listed.collect(),
        methods,
        headers: names(headers?),
        expose_headers: names(expose_headers?),
        credentials: credentials?,
        max_age: max_age?,
    }))
}
