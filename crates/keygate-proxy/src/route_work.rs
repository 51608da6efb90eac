//! What a route has done to its requests and answers, worked out when the configuration is loaded. Most
//! routes have none of it, and their requests pay one branch.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use keygate_config::{Config, HeaderChanges, Respond, RouteSettings};
use keygate_core::Route;
use keygate_core::rewrite::PathRewrite;
use pingora::http::{RequestHeader, ResponseHeader};

use crate::cors::Cors;

/// Of one route.
pub(crate) struct RouteWork {
    pub path: Option<PathRewrite>,
    respond: Option<Respondent>,
    pub cors: Option<Cors>,
    pub body_bytes_max: Option<u64>,
    pub response_bytes_max: Option<u64>,
    request: Changes,
    response: Changes,
}

impl RouteWork {
    /// For each route of a configuration, in their order.
    pub(crate) fn of_all(config: &Config) -> Vec<Option<Box<Self>>> {
        let routes = config.routes.routes().iter().zip(&config.route_settings);
        routes.map(|(route, settings)| Self::of(route, settings)).collect()
    }

    fn of(route: &Route, settings: &RouteSettings) -> Option<Box<Self>> {
        let work = Self {
            path: PathRewrite::new(
                settings.strip_prefix.as_deref(),
                settings.add_prefix.as_deref(),
            ),
            respond: settings.respond.as_ref().map(Respondent::new),
            cors: settings.cors.as_ref().map(|cors| Cors::new(cors, &route.methods)),
            body_bytes_max: settings.body_bytes_max,
            response_bytes_max: settings.response_bytes_max,
            request: Changes::new(&settings.request_headers, Confidential::Yes),
            response: Changes::new(&settings.response_headers, Confidential::No),
        };
        (!work.is_idle()).then(|| Box::new(work))
    }

    fn is_idle(&self) -> bool {
        let Self { path, respond, cors, body_bytes_max, response_bytes_max, .. } = self;
        path.is_none()
            && respond.is_none()
            && cors.is_none()
            && body_bytes_max.is_none()
            && response_bytes_max.is_none()
            && self.request.is_empty()
            && self.response.is_empty()
    }

    /// The last word on a request's headers, after those that say who calls: what may be changed here
    /// was checked when the configuration was read, and an identity is not among it.
    pub(crate) fn change_request(&self, request: &mut RequestHeader) -> pingora::Result<()> {
        for name in &self.request.remove {
            request.remove_header(name);
        }
        for (name, value) in &self.request.set {
            request.insert_header(name, value)?;
        }
        Ok(())
    }

    /// The same on an answer's, of an upstream or of the gateway in the place of one; then what a web
    /// page may read of it. `request` are the headers of the request.
    pub(crate) fn change_answer(
        &self,
        request: &HeaderMap,
        response: &mut ResponseHeader,
    ) -> pingora::Result<()> {
        for name in &self.response.remove {
            response.remove_header(name);
        }
        for (name, value) in &self.response.set {
            response.insert_header(name, value)?;
        }
        self.cors.as_ref().map_or(Ok(()), |cors| cors.replace(request, response))
    }

    /// Whether nothing is done to an answer, nor to a request's headers.
    pub(crate) fn leaves_headers(&self) -> bool {
        let Self {
            path: _,
            respond,
            cors,
            body_bytes_max: _,
            response_bytes_max,
            request,
            response,
        } = self;
        respond.is_none()
            && cors.is_none()
            && response_bytes_max.is_none()
            && request.is_empty()
            && response.is_empty()
    }

    pub(crate) fn answers(&self) -> bool {
        self.respond.is_some()
    }

    /// The answer that the route gives itself, if it does.
    pub(crate) fn answer(&self) -> Option<pingora::Result<(ResponseHeader, Bytes)>> {
        self.respond.as_ref().map(Respondent::answer)
    }
}

/// Headers that go, and then those that are set.
struct Changes {
    remove: Vec<HeaderName>,
    set: Vec<(HeaderName, HeaderValue)>,
}

/// Whether a value may be a secret, such as the upstream's own password.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Confidential {
    Yes,
    No,
}

impl Changes {
    /// All of it was checked when the configuration was read: nothing is left out here.
    fn new(changes: &HeaderChanges, confidential: Confidential) -> Self {
        let name = |name: &str| HeaderName::from_bytes(name.as_bytes()).ok();
        let set = changes.set.iter().filter_map(|(text, value)| {
            let mut value = HeaderValue::from_str(value).ok()?;
            // Not printed, and not kept in an HTTP/2 peer's table.
            value.set_sensitive(confidential == Confidential::Yes);
            Some((name(text)?, value))
        });
        Self {
            remove: changes.remove.iter().filter_map(|text| name(text)).collect(),
            set: set.collect(),
        }
    }

    fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty()
    }
}

/// The answer that a route gives itself.
struct Respondent {
    status: StatusCode,
    content_type: HeaderValue,
    body: Bytes,
}

impl Respondent {
    fn new(respond: &Respond) -> Self {
        Self {
            status: StatusCode::from_u16(respond.status).unwrap_or_default(),
            content_type: HeaderValue::from_str(&respond.content_type)
                .unwrap_or(HeaderValue::from_static("text/plain")),
            body: Bytes::copy_from_slice(respond.body.as_bytes()),
        }
    }

    /// The answer's head, and its body as a GET gets it.
    fn answer(&self) -> pingora::Result<(ResponseHeader, Bytes)> {
        let mut head = ResponseHeader::build(self.status, Some(8))?;
        // What these statuses mean is that nothing follows (RFC 9110 sections 15.3.5, 15.3.6 and 15.4.5).
        match self.status {
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED => return Ok((head, Bytes::new())),
            StatusCode::RESET_CONTENT => {
                head.insert_header(CONTENT_LENGTH, 0)?;
                return Ok((head, Bytes::new()));
            }
            _ => {}
        }
        head.insert_header(CONTENT_LENGTH, self.body.len())?;
        if !self.body.is_empty() {
            head.insert_header(CONTENT_TYPE, &self.content_type)?;
        }
        Ok((head, self.body.clone()))
    }
}
