//! `[[routes]]` and what is in them.

use std::time::Duration;

use keygate_core::Scope;
use keygate_core::key::Environment;
use keygate_core::route::PathPattern;

use super::{DAY_MS, TIB};
use crate::header::{ChangedHeader, HeaderName, HeaderValues};
use crate::setting::Presence::{Default, Optional, Required};
use crate::setting::{Setting, Table};
use crate::value::Bytes;
use crate::word::observe::SampleShare;
use crate::word::{
    Auth, ContentType, Host, Method, Name, Origin, PathPrefix, QueryParam, Status, Text,
    UpstreamName,
};

pub(crate) const NAME: Setting<Name> = Setting::new(
    "name",
    Required("write `name = \"orders.read\"`, say: metrics and logs call the route that"),
    "the route in metrics and logs; no two alike",
);
pub(crate) const HOST: Setting<Host> =
    Setting::new("host", Optional("any"), "the host that is asked for, without port");
pub(crate) const PATH: Setting<PathPattern> = Setting::new(
    "path",
    Required("write `path = \"/v1/orders\"`, say, or `path = \"/\"` for every path"),
    "a prefix; the longest match wins",
);
pub(crate) const METHODS: Setting<Vec<Method>> =
    Setting::new("methods", Optional("any"), "the methods that are served").within(1, 32);
pub(crate) const UPSTREAM: Setting<UpstreamName> = Setting::new(
    "upstream",
    Required("write `upstream = \"NAME\"`, and where it is under `[upstreams.NAME]`"),
    "where requests go; not with `respond`",
);
pub(crate) const AUTH: Setting<Auth> = Setting::new(
    "auth",
    Required("say `auth = \"key\"` or `auth = \"public\"`"),
    "whether a key is needed",
);
pub(crate) const ENVIRONMENT: Setting<Environment> =
    Setting::new("environment", Default("\"live\""), "the environment of the keys let in");
pub(crate) const SCOPES: Setting<Vec<Scope>> =
    Setting::new("scopes", Default("[]"), "the key needs all of these").within(0, SCOPES_MAX);
pub(crate) const ANY_SCOPES: Setting<Vec<Scope>> =
    Setting::new("any_scopes", Default("[]"), "the key needs one of these, if there are any")
        .within(0, SCOPES_MAX);
pub(crate) const QUERY_PARAM: Setting<QueryParam> = Setting::new(
    "query_param",
    Optional("none"),
    "the query parameter that may carry the key, besides the headers",
);
pub(crate) const COST: Setting<u64> =
    Setting::new("cost", Default("1"), "how much of its limits a request takes")
        .within(1, 1_000_000);
pub(crate) const END_WHEN_REVOKED: Setting<bool> = Setting::new(
    "end_when_revoked",
    Default("true"),
    "whether a request that still runs is cut off when its key stops being good",
);

const SCOPES_MAX: u64 = 64;
const _: () = assert!(SCOPES_MAX == keygate_core::scope::SCOPES_MAX as u64);

pub(crate) const STRIP_PREFIX: Setting<PathPrefix> = Setting::new(
    "strip_prefix",
    Optional("none"),
    "taken from the front of the path on the way to the upstream; `path` begins with it. \
     `Location` in answers stays as it is",
);
pub(crate) const ADD_PREFIX: Setting<PathPrefix> =
    Setting::new("add_prefix", Optional("none"), "put before what is left of the path");
pub(crate) const BODY_BYTES_MAX: Setting<Bytes> = Setting::new(
    "body_bytes_max",
    Optional("that of `[server]`"),
    "the most bytes of a request's body",
)
.within(0, TIB);
pub(crate) const RESPONSE_BYTES_MAX: Setting<Bytes> =
    Setting::new("response_bytes_max", Optional("none"), "the most bytes of an answer's body")
        .within(0, TIB);
pub(crate) const ACCESS_LOG_SAMPLE: Setting<SampleShare> = Setting::new(
    "access_log_sample",
    Optional("that of `[access_log]`"),
    "how many of this route's requests that were admitted and answered are in the access log",
);

pub(crate) static TABLE: Table = Table {
    header: "[[routes]]",
    meaning: "What a request needs and where it goes. At most 10000. \
              From `environment` on, all need `auth = \"key\"`.",
    settings: &[
        &NAME,
        &HOST,
        &PATH,
        &METHODS,
        &UPSTREAM,
        &STRIP_PREFIX,
        &ADD_PREFIX,
        &BODY_BYTES_MAX,
        &RESPONSE_BYTES_MAX,
        &ACCESS_LOG_SAMPLE,
        &AUTH,
        &ENVIRONMENT,
        &SCOPES,
        &ANY_SCOPES,
        &QUERY_PARAM,
        &COST,
        &END_WHEN_REVOKED,
    ],
    tables: &["respond", "request_headers", "response_headers", "cors"],
};

pub(crate) const STATUS: Setting<Status> =
    Setting::new("status", Default("200"), "the status of the answer");
pub(crate) const BODY: Setting<Text> = Setting::new("body", Default("\"\""), "its body");
pub(crate) const CONTENT_TYPE: Setting<ContentType> =
    Setting::new("content_type", Default("\"text/plain; charset=utf-8\""), "what the body is");

pub(crate) static RESPOND_TABLE: Table = Table {
    header: "[routes.respond]",
    meaning: "The gateway itself answers, for maintenance say; the route then has no upstream.",
    settings: &[&STATUS, &BODY, &CONTENT_TYPE],
    tables: &[],
};

pub(crate) const SET: Setting<HeaderValues> =
    Setting::new("set", Default("{}"), "headers and their values, in place of what was there");
pub(crate) const REMOVE: Setting<Vec<ChangedHeader>> =
    Setting::new("remove", Default("[]"), "headers that go").within(0, 64);

pub(crate) static REQUEST_HEADERS_TABLE: Table = Table {
    header: "[routes.request_headers]",
    meaning: "What is changed of a request on the way to its upstream, after all else. Headers \
              that frame a message, `X-Request-Id` and `X-Keygate-*` cannot be named.",
    settings: &[&SET, &REMOVE],
    tables: &[],
};

pub(crate) static RESPONSE_HEADERS_TABLE: Table = Table {
    header: "[routes.response_headers]",
    meaning: "What is changed of an answer on the way to its client, `respond` included. Problems \
              of the gateway itself stay as they are.",
    settings: &[&SET, &REMOVE],
    tables: &[],
};

pub(crate) const ORIGINS: Setting<Vec<Origin>> = Setting::new(
    "origins",
    Required("write `origins = [\"https://app.example.com\"]`, or `[\"*\"]` for any page"),
    "the web pages that may read answers; `*` means any",
)
.within(1, 1_000);
pub(crate) const CORS_METHODS: Setting<Vec<Method>> =
    Setting::new("methods", Optional("what the path has routes for"), "the methods they may use")
        .within(1, 32);
pub(crate) const CORS_HEADERS: Setting<Vec<HeaderName>> = Setting::new(
    "headers",
    Default("[\"authorization\", \"content-type\", \"x-api-key\"]"),
    "the request headers they may send; `*` means any but `authorization`, and not with `credentials`",
)
.within(0, 64);
pub(crate) const EXPOSE_HEADERS: Setting<Vec<HeaderName>> = Setting::new(
    "expose_headers",
    Default("[\"x-request-id\", \"ratelimit\", \"ratelimit-policy\", \"retry-after\"]"),
    "the answer's headers they may read; `*` means any, and not with `credentials`",
)
.within(0, 64);
pub(crate) const CREDENTIALS: Setting<bool> =
    Setting::new("credentials", Default("false"), "whether they may send cookies; not with `*`");
pub(crate) const MAX_AGE: Setting<Duration> = Setting::new(
    "max_age",
    Default("\"10m\""),
    "how long a browser keeps the answer to a preflight",
)
.within(0, DAY_MS);

pub(crate) static CORS_TABLE: Table = Table {
    header: "[routes.cors]",
    meaning: "Which web pages may use the route from a browser. A preflight is then answered \
              without a key, with 204: a page of another origin is told of nothing, and one that \
              asks for another method or header is told what there is. All answers, refusals too, \
              say whether the page may read them; what the upstream says of that goes.",
    settings: &[&ORIGINS, &CORS_METHODS, &CORS_HEADERS, &EXPOSE_HEADERS, &CREDENTIALS, &MAX_AGE],
    tables: &[],
};
