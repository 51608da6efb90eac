//! An answer as a client saw it, and what every refusal looks like.

use serde_json::Value;

#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Nothing came after the head: over HTTP/2, END_STREAM was on it.
    pub ended_with_head: bool,
}

impl Answer {
    /// The one value of a header.
    ///
    /// # Panics
    /// When the header came more than once.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values =
            self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| &**v);
        let first = values.next();
        assert!(values.next().is_none(), "`{name}` came twice: {self:?}");
        first
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// # Panics
    /// When the body is not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in {} {}", self.status, self.text()))
    }

    /// The problem's code; empty if there is none.
    pub fn code(&self) -> String {
        let json: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        json["code"].as_str().unwrap_or_default().to_owned()
    }

    pub fn request_id(&self) -> String {
        self.header("x-request-id").unwrap_or_default().to_owned()
    }

    /// Head and body, with what may differ between two equal answers blanked out.
    pub fn blanked(&self) -> String {
        let id = self.request_id();
        assert!(!id.is_empty(), "no X-Request-Id: {self:?}");
        let headers: Vec<String> = self
            .headers
            .iter()
            .filter(|(name, _)| !name.eq_ignore_ascii_case("date"))
            .map(|(name, value)| format!("{name}: {value}"))
            .collect();
        format!("{}\n{}\n\n{}", self.status, headers.join("\n"), self.text()).replace(&id, "<id>")
    }
}

/// Asserts everything that all refusals share: RFC 9457's members, the code, the request id.
#[track_caller]
pub fn assert_refused(answer: &Answer, status: u16, code: &str) {
    assert_eq!((answer.status, &*answer.code()), (status, code), "{answer:?}\n{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    let problem = answer.json();
    let member = |name: &str| problem[name].as_str().unwrap_or_default().to_owned();
    assert_eq!(member("type"), format!("urn:keygate:problem:{code}"));
    assert_eq!(problem["status"], status);
    assert!(!member("title").is_empty() && !member("detail").is_empty(), "{problem}");
    assert!(!answer.request_id().is_empty(), "{answer:?}");
    assert_eq!(member("request_id"), answer.request_id());
    assert_challenge(answer, status, code);
}

/// RFC 6750 section 3: which refusals say how to authenticate, and what they say.
#[track_caller]
fn assert_challenge(answer: &Answer, status: u16, code: &str) {
    let challenge = answer.header("www-authenticate").unwrap_or_default();
    const BARE: &str = "Bearer realm=\"keygate\"";
    match (status, code) {
        (401, "api_key_missing") => assert_eq!(challenge, BARE),
        (401, _) => assert_eq!(challenge, format!("{BARE}, error=\"invalid_token\"")),
        (400, "ambiguous_credentials") => {
            assert_eq!(challenge, format!("{BARE}, error=\"invalid_request\""));
        }
        (403, "permission_denied") => {
            let start = format!("{BARE}, error=\"insufficient_scope\", scope=\"");
            assert!(challenge.starts_with(&start) && challenge.ends_with('"'), "{challenge}");
        }
        _ => assert_eq!(challenge, "", "{code} is no question of credentials"),
    }
}
