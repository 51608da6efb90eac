//! Refusals and failures as clients see them: problem+json (RFC 9457), or gRPC's own form.

use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{HeaderName, HeaderValue, StatusCode, Version};
use keygate_core::limit::policy::{Over, Policy, RetryAfter};
use keygate_core::scope::RequiredScopes;
use keygate_core::{Code, Denial};
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::ServerSession as Session;
use pingora::{Error, ErrorType};
use serde::{Serialize, Serializer};

use crate::forward::X_REQUEST_ID;
use crate::limits::{Told, whole_seconds};
use crate::upstreams::retry::NOBODY_WELL_RETRY_AFTER;

/// The detail of a request that no waiting helps.
const COSTS_TOO_MUCH: &str =
    "This request costs more than the whole limit and can never pass. Have the limit raised.";

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// One answer of the gateway itself.
pub(crate) struct Problem {
    pub code: Code,
    detail: &'static str,
    required_scopes: Vec<String>,
    violated_policies: Vec<&'static str>,
    retry_after: Option<Duration>,
    allow: Option<HeaderValue>,
    told: Told,
    /// What a web page may read of it.
    cors: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    /// The answer to a request that is refused. `scopes` are those of the route, if one was found.
    pub(crate) fn of_denial(denial: &Denial, scopes: Option<&RequiredScopes>) -> Self {
        let mut problem = Self::of_code(denial.code());
        match denial {
            Denial::BadRequest(why) | Denial::AmbiguousPath(why) => problem.detail = why,
            Denial::MethodNotAllowed(allow) => {
                problem.allow = HeaderValue::from_str(allow).ok();
            }
            Denial::TooManyFailures { retry_after }
            | Denial::KeyStoreUnavailable { retry_after } => {
                problem.retry_after = Some(*retry_after);
            }
            Denial::OverLimit(over) => problem.set_over(over),
            Denial::PermissionDenied => {
                let names = scopes.into_iter().flat_map(RequiredScopes::iter);
                problem.required_scopes = names.map(ToString::to_string).collect();
            }
            Denial::RouteNotFound
            | Denial::HeadersTooLarge
            | Denial::PayloadTooLarge
            | Denial::KeyMissing
            | Denial::AmbiguousCredentials
            | Denial::KeyMalformed
            | Denial::KeyUnknown
            | Denial::KeyRevoked
            | Denial::KeyDisabled
            | Denial::AppDisabled
            | Denial::AccountSuspended
            | Denial::KeyExpired
            | Denial::EnvironmentMismatch
            | Denial::IpNotAllowed
            | Denial::OriginNotAllowed => {}
        }
        problem
    }

    /// The answer when forwarding failed.
    pub(crate) fn of_code(code: Code) -> Self {
        Self {
            code,
            detail: code.detail(),
            required_scopes: Vec::new(),
            violated_policies: Vec::new(),
            retry_after: (code == Code::UpstreamUnavailable).then_some(NOBODY_WELL_RETRY_AFTER),
            allow: None,
            told: Told::default(),
            cors: Vec::new(),
        }
    }

    /// The same, with what the client is told of its limits.
    pub(crate) fn telling(self, told: Told) -> Self {
        Self { told, ..self }
    }

    /// The same, with what a web page may read of it.
    pub(crate) fn readable(self, cors: Vec<(HeaderName, HeaderValue)>) -> Self {
        Self { cors, ..self }
    }

    /// The answer as HTTP has it: its head and its body.
    pub(crate) fn answer(
        &self,
        request_id: &HeaderValue,
    ) -> pingora::Result<(ResponseHeader, Bytes)> {
        let body = self.body(request_id);
        let mut head = ResponseHeader::build(self.code.status(), Some(12))?;
        for (name, value) in self.headers() {
            head.insert_header(name, value)?;
        }
        head.insert_header(X_REQUEST_ID, request_id.clone())?;
        head.insert_header(CONTENT_LENGTH, body.len())?;
        Ok((head, body))
    }

    fn set_over(&mut self, over: &Over) {
        self.violated_policies = over.violated.iter().map(Policy::name).collect();
        match over.retry_after {
            RetryAfter::In(wait) => self.retry_after = Some(wait),
            RetryAfter::Never => self.detail = COSTS_TOO_MUCH,
        }
    }

    /// The problem as JSON.
    pub(crate) fn body(&self, request_id: &HeaderValue) -> Bytes {
        #[derive(Serialize)]
        struct Body<'a> {
            r#type: String,
            title: &'a str,
            status: u16,
            detail: &'a str,
            code: &'a str,
            request_id: &'a str,
            #[serde(skip_serializing_if = "<[String]>::is_empty")]
            required_scopes: &'a [String],
            #[serde(skip_serializing_if = "<[&str]>::is_empty")]
            violated_policies: &'a [&'static str],
            #[serde(skip_serializing_if = "Option::is_none")]
            retry_after_s: Option<Seconds>,
        }
        let code = self.code.as_str();
        let body = Body {
            r#type: format!("urn:keygate:problem:{code}"),
            title: self.code.title(),
            status: self.code.status(),
            detail: self.detail,
            code,
            request_id: request_id.to_str().unwrap_or_default(),
            required_scopes: &self.required_scopes,
            violated_policies: &self.violated_policies,
            retry_after_s: self.retry_after.map(Seconds),
        };
        // Texts and numbers always serialise; an empty body would still carry the status.
        serde_json::to_vec(&body).unwrap_or_default().into()
    }

    /// The headers that go with the body, apart from those of any answer.
    pub(crate) fn headers(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        let allow = self.allow.clone().map(|methods| (ALLOW, methods));
        let challenge = self.challenge().map(|challenge| (WWW_AUTHENTICATE, challenge));
        [
            Some((CONTENT_TYPE, HeaderValue::from_static("application/problem+json"))),
            Some((CACHE_CONTROL, HeaderValue::from_static("no-store"))),
            challenge,
            allow,
        ]
        .into_iter()
        .flatten()
        .chain(self.pace())
    }

    /// The headers that say how fast to go and who may read it, whatever form the answer has.
    fn pace(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        let wait = |wait| (RETRY_AFTER, HeaderValue::from(whole_seconds(wait)));
        let pace = self.retry_after.map(wait).into_iter().chain(self.told.headers());
        pace.chain(self.cors.iter().cloned())
    }

    /// RFC 6750 section 3: what a client has to do to get in.
    fn challenge(&self) -> Option<HeaderValue> {
        let challenge = |text| Some(HeaderValue::from_static(text));
        match self.code {
            Code::ApiKeyMissing => challenge("Bearer realm=\"keygate\""),
            Code::ApiKeyInvalid | Code::ApiKeyExpired => {
                challenge("Bearer realm=\"keygate\", error=\"invalid_token\"")
            }
            Code::AmbiguousCredentials => {
                challenge("Bearer realm=\"keygate\", error=\"invalid_request\"")
            }
            Code::PermissionDenied => HeaderValue::try_from(format!(
                "Bearer realm=\"keygate\", error=\"insufficient_scope\", scope=\"{}\"",
                self.required_scopes.join(" ")
            ))
            .ok(),
            Code::BadRequest
            | Code::AmbiguousPath
            | Code::EnvironmentMismatch
            | Code::IpNotAllowed
            | Code::OriginNotAllowed
            | Code::RouteNotFound
            | Code::MethodNotAllowed
            | Code::PayloadTooLarge
            | Code::HeadersTooLarge
            | Code::TooManyFailures
            | Code::ConcurrencyExceeded
            | Code::RateLimitExceeded
            | Code::QuotaExceeded
            | Code::KeyStoreUnavailable
            | Code::UpstreamError
            | Code::UpstreamUnavailable
            | Code::UpstreamTimeout
            | Code::Internal => None,
        }
    }
}

/// In a body: to the millisecond, rounded up, as a client that waits for less would be too early.
struct Seconds(Duration);

impl Serialize for Seconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let millis = self.0.as_nanos().div_ceil(1_000_000);
        let rounded = Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX));
        match rounded.subsec_millis() {
            0 => serializer.serialize_u64(rounded.as_secs()),
            _ => serializer.serialize_f64(rounded.as_secs_f64()),
        }
    }
}

/// gRPC is HTTP/2: over HTTP/1 the content type is only a claim.
pub(crate) fn is_grpc(session: &Session) -> bool {
    let request = session.req_header();
    let content_type = request.headers.get(CONTENT_TYPE);
    request.version == Version::HTTP_2
        && content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// Trailers-only: one HEADERS frame that ends the stream (gRPC over HTTP/2, "Responses").
pub(crate) fn write_grpc(
    session: &mut Session,
    problem: &Problem,
    request_id: &HeaderValue,
) -> pingora::Result<()> {
    let mut response = ResponseHeader::build(200, Some(7))?;
    response.insert_header(CONTENT_TYPE, "application/grpc")?;
    for (name, value) in problem.pace() {
        response.insert_header(name, value)?;
    }
    response.insert_header(GRPC_STATUS, problem.code.grpc_status().to_string())?;
    response.insert_header(GRPC_MESSAGE, problem.code.as_str())?;
    response.insert_header(X_REQUEST_ID, request_id.clone())?;
    match session {
        // Not the session's own writer: that would send an empty DATA frame to end the stream.
        ServerSession::H2(h2) => h2.write_response_header(Box::new(response), true),
        ServerSession::H1(_) | ServerSession::Subrequest(_) | ServerSession::Custom(_) => {
            Error::e_explain(ErrorType::InternalError, "a gRPC call came over HTTP/1")
        }
    }
}

/// A whole HTTP/1.1 answer for a head that Pingora never gets to see, and how much of it is its body.
pub(crate) fn raw_http1(problem: &Problem, request_id: &HeaderValue) -> (Vec<u8>, usize) {
    let body = problem.body(request_id);
    let status = StatusCode::from_u16(problem.code.status()).unwrap_or_default();
    let reason = status.canonical_reason().unwrap_or_default();
    let mut out = format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).into_bytes();
    let mut line = |name: &str, value: &[u8]| {
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value);
        out.extend_from_slice(b"\r\n");
    };
    for (name, value) in problem.headers() {
        line(name.as_str(), value.as_bytes());
    }
    line("x-request-id", request_id.as_bytes());
    line("content-length", body.len().to_string().as_bytes());
    line("connection", b"close");
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(&body);
    (out, body.len())
}

/// What was written to the client, if that was more than a `100 Continue` or its like.
pub(crate) fn final_response(session: &Session) -> Option<&ResponseHeader> {
    session.response_written().filter(|response| is_final(response.status))
}

pub(crate) fn is_final(status: StatusCode) -> bool {
    !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS
}

#[cfg(test)]
mod tests {
    use keygate_core::limit::Unit;

    use super::*;

    fn body(problem: &Problem) -> serde_json::Value {
        serde_json::from_slice(&problem.body(&HeaderValue::from_static("abc"))).unwrap()
    }

    fn header(problem: &Problem, name: &HeaderName) -> Option<HeaderValue> {
        problem.headers().find(|(named, _)| named == name).map(|(_, value)| value)
    }

    #[test]
    fn a_wait_is_told_to_the_millisecond_in_the_body_and_in_seconds_in_the_header_rounded_up() {
        let problem = |micros| {
            let retry_after = Duration::from_micros(micros);
            Problem::of_denial(&Denial::TooManyFailures { retry_after }, None)
        };
        let told = |micros| {
            let problem = problem(micros);
            (body(&problem)["retry_after_s"].to_string(), header(&problem, &RETRY_AFTER).unwrap())
        };
        assert_eq!(told(133_001), ("0.134".into(), HeaderValue::from(1)));
        assert_eq!(told(1), ("0.001".into(), HeaderValue::from(1)));
        assert_eq!(told(2_000_000), ("2".into(), HeaderValue::from(2)));
        assert_eq!(told(1_999_000_100), ("1999.001".into(), HeaderValue::from(2_000)));
    }

    #[test]
    fn a_request_over_its_limits_names_them_and_when_it_may_pass() {
        let wait = |ms| RetryAfter::In(Duration::from_millis(ms));
        let over = Over::one(Policy::Rate, wait(100)).and(Policy::Quota(Unit::Day), wait(5_500));
        let problem = Problem::of_denial(&Denial::OverLimit(over), None);
        let said = body(&problem);
        assert_eq!((&said["code"], &said["status"]), (&"rate_limit_exceeded".into(), &429.into()));
        assert_eq!(said["violated_policies"], serde_json::json!(["rate", "day"]));
        assert_eq!(said["retry_after_s"], 5.5);
        assert_eq!(header(&problem, &RETRY_AFTER).unwrap(), "6");
        assert_eq!(header(&problem, &WWW_AUTHENTICATE), None);
    }

    #[test]
    fn a_request_that_can_never_pass_is_not_told_to_wait() {
        let over = Over::one(Policy::Quota(Unit::Hour), RetryAfter::Never);
        let problem = Problem::of_denial(&Denial::OverLimit(over), None);
        let said = body(&problem);
        assert_eq!(said["code"], "quota_exceeded");
        assert!(said["detail"].as_str().unwrap().contains("can never pass"), "{said}");
        assert!(said.get("retry_after_s").is_none(), "{said}");
        assert_eq!(header(&problem, &RETRY_AFTER), None);
    }

    #[test]
    fn a_refusal_names_its_code_and_what_helps() {
        let scopes = RequiredScopes { all: vec!["read:orders".parse().unwrap()], any: vec![] };
        let problem = Problem::of_denial(&Denial::PermissionDenied, Some(&scopes));
        let body = body(&problem);
        assert_eq!(body["type"], "urn:keygate:problem:permission_denied");
        assert_eq!(body["status"], 403);
        assert_eq!(body["request_id"], "abc");
        assert_eq!(body["required_scopes"], serde_json::json!(["read:orders"]));
        let challenge = problem.challenge().unwrap();
        assert_eq!(
            challenge,
            "Bearer realm=\"keygate\", error=\"insufficient_scope\", scope=\"read:orders\""
        );
    }

    #[test]
    fn all_invalid_keys_get_the_same_answer() {
        let id = HeaderValue::from_static("abc");
        let bytes = |denial| raw_http1(&Problem::of_denial(&denial, None), &id).0;
        let unknown = bytes(Denial::KeyUnknown);
        for denial in [
            Denial::KeyMalformed,
            Denial::KeyRevoked,
            Denial::KeyDisabled,
            Denial::AppDisabled,
            Denial::AccountSuspended,
        ] {
            assert_eq!(bytes(denial), unknown);
        }
    }
}
