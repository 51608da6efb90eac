//! Where this server does something else than it is told, and why: parts of Pingora and of h2 that
//! have their own mind, and two choices of ours. None of them lets anything past a decision.

use super::Deviation;

const PIPELINED: &str =
    "Pingora answers the first and closes: it can lose count of bodies otherwise";
const FORWARDS: &str = "ours: Max-Forwards is for tracing proxies, and goes through as it is";
const VIA: &str = "ours: the service is told by X-Forwarded-For and X-Request-Id";

pub(crate) const HTTP_1: &[Deviation] = &[
    ("9110 7.6.2", "OPTIONS that may go no further", "0", FORWARDS),
    ("9110 7.6.2", "OPTIONS that may go one further", "1", FORWARDS),
    ("9110 7.6.3", "Via names the gateway to the service", "none", VIA),
    ("9112 9.3.2", "two requests at once", "200, closed", PIPELINED),
];

const OTHER_CODE: &str =
    "h2 tells all that its decoder or its state machine refuses as PROTOCOL_ERROR";
const UNGREETED: &str = "h2 does not insist on SETTINGS as the first frame";
const TRAILERS: &str = "h2 passes such trailers on; those of requests are forwarded nowhere";
const BLANKS: &str = "h2 does not look for blanks around values; who reads HTTP/1.1 trims them";
const FRAGMENT: &str = "the http crate drops a fragment; the service never sees it";

pub(crate) const HTTP_2: &[Deviation] = &[
    ("7541 2.3.3", "an index beyond both tables", "GOAWAY PROTOCOL_ERROR", OTHER_CODE),
    ("7541 4.1", "a field larger than the whole table", "GOAWAY PROTOCOL_ERROR", OTHER_CODE),
    ("7541 4.2", "a table's size at a block's end", "GOAWAY PROTOCOL_ERROR", OTHER_CODE),
    ("7541 5.1", "an integer beyond all bounds", "GOAWAY PROTOCOL_ERROR", OTHER_CODE),
    ("7541 5.2", "a text longer than its block", "GOAWAY PROTOCOL_ERROR", OTHER_CODE),
    ("7541 5.2", "padding of eight bits", "GOAWAY PROTOCOL_ERROR", OTHER_CODE),
    ("7541 5.2", "padding of zeros", "GOAWAY PROTOCOL_ERROR", OTHER_CODE),
    ("7541 5.2", "the end of the string within it", "GOAWAY PROTOCOL_ERROR", OTHER_CODE),
    ("7541 6.1", "the index 0", "GOAWAY PROTOCOL_ERROR", OTHER_CODE),
    ("7541 6.3", "a table larger than allowed", "GOAWAY PROTOCOL_ERROR", OTHER_CODE),
    ("9113 3.4", "the first frame acknowledges SETTINGS", "goes on", UNGREETED),
    ("9113 3.4", "the first frame is HEADERS", "answered", UNGREETED),
    ("9113 3.4", "the first frame is PING", "goes on", UNGREETED),
    ("9113 4.3", "a header block that ends within a field", "GOAWAY PROTOCOL_ERROR", OTHER_CODE),
    ("9113 5.1", "closed by RST_STREAM: HEADERS", "GOAWAY PROTOCOL_ERROR", OTHER_CODE),
    ("9113 5.1", "closed by both: HEADERS", "GOAWAY PROTOCOL_ERROR", OTHER_CODE),
    ("9113 5.1", "half closed: DATA", "GOAWAY PROTOCOL_ERROR", OTHER_CODE),
    ("9113 5.1", "half closed: HEADERS", "GOAWAY PROTOCOL_ERROR", OTHER_CODE),
    ("9113 6.3", "PRIORITY of four bytes", "GOAWAY PROTOCOL_ERROR", OTHER_CODE),
    ("9113 6.4", "RST_STREAM of three bytes", "GOAWAY PROTOCOL_ERROR", OTHER_CODE),
    ("9113 6.5", "SETTINGS of five bytes", "GOAWAY PROTOCOL_ERROR", OTHER_CODE),
    ("9113 6.5", "an acknowledgement with a payload", "GOAWAY PROTOCOL_ERROR", OTHER_CODE),
    ("9113 6.5.2", "INITIAL_WINDOW_SIZE of 2^31", "GOAWAY PROTOCOL_ERROR", OTHER_CODE),
    ("9113 6.7", "PING of seven bytes", "GOAWAY PROTOCOL_ERROR", OTHER_CODE),
    ("9113 6.9", "WINDOW_UPDATE of three bytes", "GOAWAY PROTOCOL_ERROR", OTHER_CODE),
    ("9113 8.1", "trailers with a pseudo-header field", "answered", TRAILERS),
    ("9113 8.2.1", "a value that begins with a space", "answered", BLANKS),
    ("9113 8.2.1", "a value that ends with a tab", "answered", BLANKS),
    ("9113 8.3.1", "a :path with a fragment", "answered", FRAGMENT),
];
