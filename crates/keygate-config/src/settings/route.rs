//! What a `[[routes]]` has done to requests and answers. What it decides is the core's `Route`.

use std::fmt;
use std::time::Duration;

use super::Sample;

/// The handling of one route's requests.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct RouteSettings {
    /// The answer that the gateway itself gives; then the route has no upstream.
    pub respond: Option<Respond>,
    /// Taken from the front of the path on the way to the upstream.
    pub strip_prefix: Option<Box<str>>,
    /// Put before what is left.
    pub add_prefix: Option<Box<str>>,
    pub request_headers: HeaderChanges,
    pub response_headers: HeaderChanges,
    pub cors: Option<Cors>,
    /// In place of the server's.
    pub body_bytes_max: Option<u64>,
    /// The most bytes of an answer's body.
    pub response_bytes_max: Option<u64>,
    /// In place of the access log's `sample`.
    pub access_log_sample: Option<Sample>,
}

/// `[routes.respond]`: an answer that no upstream is asked for.
#[derive(Debug, PartialEq, Eq)]
pub struct Respond {
    pub status: u16,
    pub body: Box<str>,
    pub content_type: Box<str>,
}

/// Headers to set and to remove. Names are in lower case.
#[derive(Default, PartialEq, Eq)]
pub struct HeaderChanges {
    pub set: Vec<(Box<str>, Box<str>)>,
    pub remove: Vec<Box<str>>,
}

impl HeaderChanges {
    /// The headers that are changed.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.set.iter().map(|(name, _)| &**name).chain(self.remove.iter().map(|name| &**name))
    }
}

impl fmt::Debug for HeaderChanges {
    /// Without the values: one may be what an upstream lets the gateway in by.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set: Vec<&str> = self.set.iter().map(|(name, _)| &**name).collect();
        f.debug_struct("HeaderChanges").field("set", &set).field("remove", &self.remove).finish()
    }
}

/// `[routes.cors]`: which web pages may read the answers (the Fetch standard's CORS protocol).
#[derive(Debug, PartialEq, Eq)]
pub struct Cors {
    /// None if any may.
    pub origins: Option<Vec<Box<str>>>,
    /// None if all that the path has routes for.
    pub methods: Option<Vec<Box<str>>>,
    /// What a page may send, in lower case.
    pub headers: Vec<Box<str>>,
    /// What a page may read.
    pub expose_headers: Vec<Box<str>>,
    pub credentials: bool,
    pub max_age: Duration,
}
