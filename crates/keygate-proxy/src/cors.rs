//! CORS (Fetch standard, section 3.3): preflights are answered here, without a key, and what a page may
//! read of an answer is said on every answer of a route, refusals included. Which page may what is the
//! core's to say.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use keygate_core::cors::{CorsRules, Grant};
use keygate_core::route::Methods;
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession as Session;

use crate::answer;
use crate::context::Context;
use crate::facts::RequestFacts;
use crate::forward::X_REQUEST_ID;
use crate::gateway::peer_address;
use crate::trace;

/// What all headers of the protocol in answers begin with.
const FAMILY: &str = "access-control-";
const ANY: HeaderValue = HeaderValue::from_static("*");
const TRUE: HeaderValue = HeaderValue::from_static("true");
const BY_ORIGIN: HeaderValue = HeaderValue::from_static("origin");

/// One route's word on pages of other origins, ready to be sent.
pub(crate) struct Cors {
    rules: CorsRules,
    credentials: bool,
    /// None where the method that is asked for is the answer.
    methods: Option<HeaderValue>,
    headers: Option<HeaderValue>,
    expose: Option<HeaderValue>,
    max_age: HeaderValue,
}

impl Cors {
    pub(crate) fn new(cors: &keygate_config::Cors, served: &Methods) -> Self {
        let rules = CorsRules::new(cors.origins.as_deref(), cors.methods.as_deref(), served);
        Self {
            methods: rules
                .methods()
                .map(|methods| list(methods).unwrap_or(HeaderValue::from_static(""))),
            rules,
            credentials: cors.credentials,
            headers: list(&cors.headers),
            expose: list(&cors.expose_headers),
            max_age: HeaderValue::from(cors.max_age.as_secs()),
        }
    }

    /// What an answer to a request with these headers says. Everything that is said is here: an upstream
    /// has no say in it.
    pub(crate) fn on_answer(
        &self,
        request: &HeaderMap,
    ) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        let granted = self.granted(request);
        let expose = granted.as_ref().and_then(|_| self.expose.clone());
        self.on_any(granted).chain(expose.map(|names| (ACCESS_CONTROL_EXPOSE_HEADERS, names)))
    }

    /// Puts that on an answer in place of what its upstream says of it.
    pub(crate) fn replace(
        &self,
        request: &HeaderMap,
        response: &mut ResponseHeader,
    ) -> pingora::Result<()> {
        // One at a time: there is seldom any.
        let of_upstream = |name: &&HeaderName| name.as_str().starts_with(FAMILY);
        while let Some(name) = response.headers.keys().find(of_upstream).cloned() {
            response.remove_header(&name);
        }
        for (name, value) in self.on_answer(request) {
            if name != VARY {
                response.insert_header(name, value)?;
            } else if !varies_by_origin(&response.headers) {
                response.append_header(name, value)?;
            }
        }
        Ok(())
    }

    /// The answer to a preflight. A page that may not is told of nothing; a method or header that is not
    /// in the lists is refused by the browser, which can then tell its user which one that is.
    fn on_preflight(&self, request: &HeaderMap) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        let granted = self.granted(request);
        let asked = || request.get(ACCESS_CONTROL_REQUEST_METHOD).cloned();
        let lists = granted.as_ref().map(|_| {
            let methods = self.methods.clone().or_else(asked);
            [
                methods.map(|methods| (ACCESS_CONTROL_ALLOW_METHODS, methods)),
                self.headers.clone().map(|names| (ACCESS_CONTROL_ALLOW_HEADERS, names)),
                Some((ACCESS_CONTROL_MAX_AGE, self.max_age.clone())),
            ]
        });
        self.on_any(granted).chain(lists.into_iter().flatten().flatten())
    }

    fn on_any(
        &self,
        granted: Option<HeaderValue>,
    ) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        let credentials = granted.as_ref().filter(|_| self.credentials).map(|_| TRUE);
        [
            granted.map(|origin| (ACCESS_CONTROL_ALLOW_ORIGIN, origin)),
            credentials.map(|yes| (ACCESS_CONTROL_ALLOW_CREDENTIALS, yes)),
            self.rules.varies().then_some((VARY, BY_ORIGIN)),
        ]
        .into_iter()
        .flatten()
    }

    fn granted(&self, request: &HeaderMap) -> Option<HeaderValue> {
        let origin = only(request, &ORIGIN);
        match self.rules.grant(origin.map(HeaderValue::as_bytes)) {
            Grant::Anyone => Some(ANY),
            Grant::Asker => origin.cloned(),
            Grant::Nobody => None,
        }
    }
}

/// Answers a request that is a preflight for a route with CORS, without a key: browsers send none with
/// it. Returns whether it was one. Any other request, a malformed one too, goes its usual way.
pub(crate) async fn answered_preflight(
    session: &mut Session,
    ctx: &mut Context,
) -> pingora::Result<bool> {
    let request = session.req_header();
    if request.method != Method::OPTIONS {
        return Ok(false);
    }
    let asked = only(&request.headers, &ACCESS_CONTROL_REQUEST_METHOD).map(HeaderValue::to_str);
    let (Some(Ok(method)), Some(_)) = (asked, only(&request.headers, &ORIGIN)) else {
        return Ok(false);
    };
    let config = &ctx.snapshot.config;
    let Ok(facts) = RequestFacts::read(request, peer_address(session), &config.server) else {
        return Ok(false);
    };
    let Ok(place) = config.routes.place(&facts.host, &facts.path, method) else {
        return Ok(false);
    };
    let Some(cors) = ctx.snapshot.work(place).and_then(|work| work.cors.as_ref()) else {
        return Ok(false);
    };
    let mut head = ResponseHeader::build(StatusCode::NO_CONTENT, Some(8))?;
    for (name, value) in cors.on_preflight(&request.headers) {
        head.insert_header(name, value)?;
    }
    (ctx.route, ctx.story.client) = (Some(place), Some(facts.client));
    if let Some(metrics) = ctx.snapshot.route_metrics(place) {
        metrics.preflight();
    }
    let request_id = ctx.request_id.get_or_insert_with(trace::new_request_id);
    head.insert_header(X_REQUEST_ID, request_id.clone())?;
    answer::send(session, ctx, head, bytes::Bytes::new()).await?;
    Ok(true)
}

/// The value of a header that came once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

fn varies_by_origin(headers: &HeaderMap) -> bool {
    let values = headers.get_all(VARY).iter().filter_map(|value| value.to_str().ok());
    let mut names = values.flat_map(|value| value.split(',')).map(str::trim);
    names.any(|name| name == "*" || name.eq_ignore_ascii_case("origin"))
}

/// Nothing for an empty list.
fn list(words: &[Box<str>]) -> Option<HeaderValue> {
    if words.is_empty() { None } else { HeaderValue::try_from(words.join(", ")).ok() }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn cors(origins: Option<&[&str]>, credentials: bool) -> Cors {
        let boxed = |texts: &[&str]| texts.iter().map(|&text| text.into()).collect();
        let settings = keygate_config::Cors {
            origins: origins.map(boxed),
            methods: None,
            headers: boxed(&["authorization"]),
            expose_headers: boxed(&[]),
            credentials,
            max_age: Duration::from_millis(1_500),
        };
        Cors::new(&settings, &Methods::Any)
    }

    fn request(headers: &[(HeaderName, &'static str)]) -> HeaderMap {
        headers.iter().map(|(n, v)| (n.clone(), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn whoever_may_is_told_so_and_whoever_may_not_is_told_that_others_may() {
        let cors = cors(Some(&["https://a.example"]), true);
        let told = |origin| {
            let asking = request(&[(ORIGIN, origin), (ACCESS_CONTROL_REQUEST_METHOD, "PATCH")]);
            let told = cors.on_preflight(&asking);
            told.map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect::<Vec<_>>()
        };
        assert_eq!(
            told("https://a.example"),
            [
                "access-control-allow-origin: https://a.example",
                "access-control-allow-credentials: true",
                "vary: origin",
                "access-control-allow-methods: PATCH",
                "access-control-allow-headers: authorization",
                "access-control-max-age: 1",
            ]
        );
        assert_eq!(told("https://b.example"), ["vary: origin"]);
    }

    #[test]
    fn what_an_upstream_varies_by_already_is_not_said_twice() {
        let after = |sent: &[&'static str]| {
            let mut answer = ResponseHeader::build(200, None).unwrap();
            for value in sent {
                answer.append_header(VARY, *value).unwrap();
            }
            cors(Some(&[]), false).replace(&HeaderMap::new(), &mut answer).unwrap();
            let values =
                answer.headers.get_all(VARY).iter().map(|v| v.to_str().unwrap().to_owned());
            values.collect::<Vec<_>>()
        };
        assert_eq!(after(&[]), ["origin"]);
        assert_eq!(after(&["Accept", "Accept-Encoding, Cookie"]).last().unwrap(), "origin");
        for already in ["*", "Origin", "accept, ORIGIN", "accept , origin,x"] {
            assert_eq!(after(&[already]), [already]);
        }
    }
}
