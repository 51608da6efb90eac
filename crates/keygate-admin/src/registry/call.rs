//! A request as an operator writes it down, read as the gateway reads requests.

use std::borrow::Cow;

use keygate_config::Config;
use keygate_core::path::{canonical_host, normalize};
use keygate_core::{Denial, Route};

/// A request as the gateway would see it.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    pub method: &'a str,
    /// Without one, only routes for any host are found.
    pub host: Option<&'a str>,
    /// May hold a query, which is not looked at.
    pub path: &'a str,
}

/// The one reading of a call.
pub(super) struct Reading<'a> {
    pub method: &'a str,
    pub host: Cow<'a, str>,
    pub path: Cow<'a, str>,
}

impl<'a> Call<'a> {
    /// Step 1 of a request's way, in the gateway's order.
    ///
    /// # Errors
    /// What makes the request unclear or too large.
    pub(super) fn read(self, config: &Config) -> Result<Reading<'a>, Denial> {
        if self.path.len() > config.server.header_bytes_max {
            return Err(Denial::HeadersTooLarge);
        }
        if self.method.is_empty() || !self.method.bytes().all(is_token_byte) {
            return Err(Denial::BadRequest("the method is malformed"));
        }
        if self.method == "CONNECT" {
            return Err(Denial::MethodNotAllowed("any method but `CONNECT`".into()));
        }
        let host = self.host.map(canonical_host).transpose()?.unwrap_or_default();
        let is_no_uri = |byte| matches!(byte, 0..=b' ' | b'"' | b'<' | b'>' | b'`' | 0x7f);
        if self.path.bytes().any(is_no_uri) {
            let why = "the request target holds a byte that must be escaped";
            return Err(Denial::BadRequest(why));
        }
        // A fragment is for the client alone.
        let path = self.path.split(['?', '#']).next().unwrap_or_default();
        Ok(Reading { method: self.method, host, path: normalize(path)? })
    }

    /// Steps 1 and 2.
    ///
    /// # Errors
    /// Those of [`read`](Self::read), and that there is no such route.
    pub(super) fn route(self, config: &Config) -> Result<&Route, Denial> {
        let Reading { method, host, path } = self.read(config)?;
        config.routes.find(&host, &path, method)
    }
}

/// RFC 9110 section 5.6.2.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
