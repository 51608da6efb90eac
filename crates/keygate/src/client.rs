//! Calls to the admin API of a running gateway: where it is, with which token, and what its
//! answers mean for the exit code. Knows no resource.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use keygate_config::{Admin, secrets};
use serde_json::Value;
use ureq::http::{HeaderValue, Method, Request, Uri};
use zeroize::Zeroizing;

use crate::cli::{AdminOptions, DEFAULT_CONFIG};
use crate::failure::{Exit, Failure};
use crate::output::printable;

/// The longest that a call may take, from its name look-up to the last byte of its answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
const ANSWER_BYTES_MAX: u64 = 64 << 20;
/// Used when there is no configuration, and the same as its defaults.
const DEFAULT_URL: &str = "http://127.0.0.1:9901";
const DEFAULT_TOKEN_FILE: &str = "data/admin.token";

const HTTP_ONLY: &str = "this version's commands speak http only: open a tunnel, such as \
    `ssh -L 9901:127.0.0.1:9901 HOST`, and give --url http://127.0.0.1:9901";

/// The admin API of one gateway.
pub(crate) struct Client {
    agent: ureq::Agent,
    url: String,
    token: Zeroizing<String>,
}

/// One call. The path holds ids that were parsed, so it needs no escaping.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: Vec<(&'static str, String)>,
    pub(crate) body: Option<Value>,
    pub(crate) headers: Vec<(&'static str, String)>,
}

impl Call {
    pub(crate) fn get(path: impl Into<String>) -> Self {
        let (query, headers) = (Vec::new(), Vec::new());
        Self { method: Method::GET, path: path.into(), query, body: None, headers }
    }

    pub(crate) fn post(path: impl Into<String>, body: Value) -> Self {
        Self { method: Method::POST, body: Some(body), ..Self::get(path) }
    }

    pub(crate) fn patch(path: impl Into<String>, body: Value) -> Self {
        Self { method: Method::PATCH, body: Some(body), ..Self::get(path) }
    }

    /// Asks for less, or for another part.
    pub(crate) fn with(mut self, name: &'static str, value: Option<impl ToString>) -> Self {
        self.query.extend(value.map(|value| (name, value.to_string())));
        self
    }

    pub(crate) fn with_header(mut self, name: &'static str, value: Option<&str>) -> Self {
        self.headers.extend(value.map(|value| (name, value.to_owned())));
        self
    }
}

impl Client {
    /// Finds the API and its token.
    pub(crate) fn new(options: &AdminOptions) -> Result<Self, Failure> {
        let from_environment = environment("KEYGATE_ADMIN_TOKEN");
        let url = options.url.clone().filter(|url| !url.is_empty());
        if url.as_deref().is_some_and(is_https) {
            return Err(Failure::new(Exit::Usage, HTTP_ONLY));
        }
        // A gateway elsewhere needs no configuration here.
        let found = match (url, from_environment) {
            (Some(url), Some(token)) => (url, token),
            (url, token) => {
                let local = Local::find(options.config.as_deref())?;
                let token = match (token, &url) {
                    (Some(token), _) => token,
                    (None, Some(url)) if *url != local.url && !is_loopback(url) => {
                        return Err(local.not_for(url));
                    }
                    (None, _) => local.token()?,
                };
                (url.unwrap_or(local.url), token)
            }
        };
        let (url, token) = found;
        Ok(Self { agent: agent(CALL_TIMEOUT), url: url.trim_end_matches('/').to_owned(), token })
    }

    /// The API that a configuration names, if it is on this machine and has its token here. Waits no
    /// longer than `patience` for an answer.
    pub(crate) fn of(admin: &Admin, patience: Duration) -> Option<Self> {
        let url = url_of(admin.listen);
        let token = secrets::load_token(&admin.token_file).ok().flatten()?;
        let token = Zeroizing::new(token.reveal().to_owned());
        is_loopback(&url).then(|| Self { agent: agent(patience), url, token })
    }

    /// The same, but waits no longer than this for an answer.
    pub(crate) fn with_patience(self, patience: Duration) -> Self {
        Self { agent: agent(patience), ..self }
    }

    /// Reads what is no JSON, and for everybody: no token is sent.
    pub(crate) fn text(&self, path: &str) -> Result<String, Failure> {
        let request = Request::get(format!("{}{path}", self.url)).body(());
        let request = request.map_err(|_| self.unusable())?;
        let mut answer = self.agent.run(request).map_err(|error| self.unanswered(error))?;
        if !answer.status().is_success() {
            return Err(refusal(answer.status().as_u16(), &Value::Null));
        }
        let body = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX);
        body.read_to_string().map_err(|error| self.unanswered(error))
    }

    /// Sends a call and reads its answer.
    pub(crate) fn send(&self, call: &Call) -> Result<Value, Failure> {
        let (status, etag, text) = self.fetch(call)?;
        let mut answer = read_answer(status, &text)?;
        // For `--if-match`: nobody who uses the command line sees headers.
        if let (Some(etag), Some(members)) = (etag, answer.as_object_mut()) {
            members.insert("etag".into(), etag.into());
        }
        Ok(answer)
    }

    /// The same where the answer is no JSON but a text.
    pub(crate) fn send_for_text(&self, call: &Call) -> Result<String, Failure> {
        let (status, _, text) = self.fetch(call)?;
        if (200..=299).contains(&status) {
            return Ok(String::from_utf8_lossy(&text).into_owned());
        }
        Err(refusal(status, &serde_json::from_slice(&text).unwrap_or(Value::Null)))
    }

    /// An answer's status, its `ETag` and its body.
    fn fetch(&self, call: &Call) -> Result<(u16, Option<String>, Vec<u8>), Failure> {
        let body = call.body.as_ref().map(Value::to_string).unwrap_or_default();
        let mut request = Request::builder()
            .method(call.method.clone())
            .uri(format!("{}{}", self.url, target(call)))
            .header("authorization", format!("Bearer {}", *self.token));
        if call.body.is_some() {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in &call.headers {
            let value = HeaderValue::from_str(value).map_err(|_| {
                Failure::new(Exit::Usage, format!("{name} takes visible characters of ASCII only"))
            })?;
            request = request.header(*name, value);
        }
        let request = request.body(body).map_err(|_| self.unusable())?;
        let mut answer = self.agent.run(request).map_err(|error| self.unanswered(error))?;
        let status = answer.status().as_u16();
        let etag = answer.headers().get("etag").and_then(|etag| etag.to_str().ok());
        let etag = etag.map(str::to_owned);
        let text = answer
            .body_mut()
            .with_config()
            .limit(ANSWER_BYTES_MAX)
            .read_to_vec()
            .map_err(|error| self.unanswered(error))?;
        Ok((status, etag, text))
    }

    fn unusable(&self) -> Failure {
        let why = format!(
            "cannot call {}: give an address such as {DEFAULT_URL}, and a token that is one word",
            self.url
        );
        Failure::new(Exit::Usage, why)
    }

    fn unanswered(&self, error: ureq::Error) -> Failure {
        let url = &self.url;
        if matches!(&error, ureq::Error::TlsRequired | ureq::Error::BadUri(_)) {
            return self.unusable();
        }
        let refused =
            matches!(&error, ureq::Error::Io(io) if io.kind() == ErrorKind::ConnectionRefused);
        let text = if refused {
            format!("nothing listens at {url}: is `keygate run` running? If elsewhere, give --url")
        } else {
            format!("no answer from {url}: {error}: is it the admin API of a running keygate?")
        };
        Failure::new(Exit::Unreachable, text)
    }
}

/// No proxy: the token is for the admin API alone. No redirect either, for the same reason.
fn agent(timeout: Duration) -> ureq::Agent {
    ureq::Agent::config_builder()
        .proxy(None)
        .max_redirects(0)
        .http_status_as_error(false)
        .timeout_global(Some(timeout))
        .user_agent(concat!("keygate/", env!("CARGO_PKG_VERSION")))
        .build()
        .new_agent()
}

fn target(call: &Call) -> String {
    let mut target = call.path.clone();
    for (index, (name, value)) in call.query.iter().enumerate() {
        target.push(if index == 0 { '?' } else { '&' });
        target.push_str(name);
        target.push('=');
        escape(value, &mut target);
    }
    target
}

/// Percent-encodes everything that is not unreserved (RFC 3986 section 2.3).
fn escape(text: &str, into: &mut String) {
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                into.push(char::from(byte));
            }
            _ => into.push_str(&format!("%{byte:02X}")),
        }
    }
}

fn read_answer(status: u16, text: &[u8]) -> Result<Value, Failure> {
    let answer: Option<Value> = serde_json::from_slice(text).ok();
    match (status, answer) {
        (200..=299, Some(answer)) => Ok(answer),
        (200..=299, None) => {
            Err(Failure::new(Exit::Failed, "the answer is not JSON: is that the admin API?"))
        }
        (_, answer) => Err(refusal(status, &answer.unwrap_or(Value::Null))),
    }
}

/// A problem (RFC 9457) as one line.
fn refusal(status: u16, problem: &Value) -> Failure {
    let member = |name: &str| problem.get(name).and_then(Value::as_str);
    let exit = match status {
        404 => Exit::NotFound,
        400..=499 => Exit::Refused,
        _ => Exit::Failed,
    };
    let Some(title) = member("title") else {
        return Failure::new(exit, format!("status {status}: is that the admin API?"));
    };
    let detail = member("detail").map(|detail| format!(": {detail}")).unwrap_or_default();
    let code = member("code").map(|code| format!(" ({code})")).unwrap_or_default();
    let mut text = printable(&format!("{title}{detail}{code}"));
    for line in what_helps(problem) {
        text.push_str("\n  ");
        text.push_str(&printable(&line));
    }
    Failure::new(exit, text)
}

/// What a problem says besides, as what to do next.
fn what_helps(problem: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(role) = problem.get("required_role").and_then(Value::as_str) {
        lines.push(format!("set KEYGATE_ADMIN_TOKEN to a token with the role `{role}`"));
    }
    if let Some(key) = problem.get("retire") {
        let text = |name| key.get(name).and_then(Value::as_str);
        let id = text("id").unwrap_or_default();
        let called = text("name").or_else(|| text("hint")).unwrap_or("no name");
        let used = text("last_used_at")
            .map_or_else(|| "never used".into(), |at| format!("last used {at}"));
        lines.push(format!("to make room: keygate keys revoke {id}  ({called}, {used})"));
    }
    let problems = problem.get("problems").and_then(Value::as_array);
    for one in problems.into_iter().flatten() {
        let text = |name| one.get(name).and_then(Value::as_str);
        let said = one.as_str().or_else(|| text("message")).or_else(|| text("detail"));
        let line = one.get("line").and_then(Value::as_u64);
        let line = line.map(|line| format!("line {line}: ")).unwrap_or_default();
        let setting = text("setting").map(|name| format!("{name}: ")).unwrap_or_default();
        lines.extend(said.map(|said| format!("{line}{setting}{said}")));
    }
    lines
}

/// What the configuration on this machine says of the admin API.
struct Local {
    url: String,
    token_file: PathBuf,
}

impl Local {
    fn find(config: Option<&Path>) -> Result<Self, Failure> {
        let default = Path::new(DEFAULT_CONFIG);
        let Some(config) = config.or_else(|| default.exists().then_some(default)) else {
            return Ok(Self { url: DEFAULT_URL.into(), token_file: DEFAULT_TOKEN_FILE.into() });
        };
        let admin = keygate_config::load(config).map_err(Failure::Config)?.admin;
        Ok(Self { url: url_of(admin.listen), token_file: admin.token_file })
    }

    /// The file's token is this machine's gateway's: whoever else is asked must not learn it.
    fn not_for(&self, url: &str) -> Failure {
        let why = format!(
            "the token in {} is not sent to {url}, which is not this machine: set \
             KEYGATE_ADMIN_TOKEN to the token of the gateway there",
            self.token_file.display()
        );
        Failure::new(Exit::Usage, why)
    }

    fn token(&self) -> Result<Zeroizing<String>, Failure> {
        let file = self.token_file.display();
        let token = secrets::load_token(&self.token_file)
            .with_context(|| "cannot read the admin token")?
            .ok_or_else(|| {
                let why = format!(
                    "no admin token: KEYGATE_ADMIN_TOKEN is not set, and {file} does not exist; \
                     `keygate run` makes it on its first start, and -c names another configuration"
                );
                Failure::new(Exit::Usage, why)
            })?;
        Ok(Zeroizing::new(token.reveal().to_owned()))
    }
}

fn is_https(url: &str) -> bool {
    url.get(.."https:".len()).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https:"))
}

/// Whether the URL's host is this machine by its very name. Read as the HTTP client reads it, so
/// that `http://127.0.0.1@elsewhere` is elsewhere.
fn is_loopback(url: &str) -> bool {
    let Ok(url) = url.parse::<Uri>() else { return false };
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    let is_loopback = |ip: IpAddr| ip.to_canonical().is_loopback();
    host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(is_loopback)
}

/// The URL of a listener as a program on the same machine reaches it.
pub(crate) fn url_of(listen: SocketAddr) -> String {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    format!("http://{}", SocketAddr::new(ip, listen.port()))
}

/// A variable of the environment; empty is as good as unset.
#[expect(clippy::disallowed_methods, reason = "the CLI reads its token here and nowhere else")]
fn environment(name: &str) -> Option<Zeroizing<String>> {
    std::env::var(name).ok().filter(|value| !value.is_empty()).map(Zeroizing::new)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(status: u16, body: &str, exit: Exit, text: &str) {
        let failure = read_answer(status, body.as_bytes()).unwrap_err();
        assert_eq!(failure.exit(), exit, "{status} {body}");
        let Failure::Other(_, error) = failure else { panic!("not a plain failure") };
        assert!(error.to_string().contains(text), "{error}");
    }

    #[test]
    fn a_problem_is_one_line_and_an_exit_code() {
        let problem = json!({"title": "Not found", "detail": "No such key.", "code": "not_found"});
        let text = problem.to_string();
        check(404, &text, Exit::NotFound, "Not found: No such key. (not_found)");
        check(409, &text, Exit::Refused, "Not found");
        check(503, &text, Exit::Failed, "Not found");
        check(400, "<html>", Exit::Refused, "status 400");
        check(200, "<html>", Exit::Failed, "not JSON");
    }

    #[test]
    fn what_a_problem_says_besides_is_what_to_do_next() {
        let problem = json!({
            "title": "Too many", "code": "too_many_live_keys",
            "retire": { "id": "key_1", "hint": "sk_live_abcd", "name": null, "last_used_at": null },
        });
        let text = problem.to_string();
        check(422, &text, Exit::Refused, "keys revoke key_1  (sk_live_abcd, never used)");
        let problem = json!({ "title": "Forbidden", "required_role": "admin" });
        check(403, &problem.to_string(), Exit::Refused, "a token with the role `admin`");
        let problem = json!({ "title": "Invalid", "problems": ["line 3: x", { "message": "y" }] });
        check(422, &problem.to_string(), Exit::Refused, "Invalid\n  line 3: x\n  y");
    }

    #[test]
    fn only_this_machine_is_loopback() {
        for url in [
            "http://127.0.0.1:9901",
            "http://127.9.9.9",
            "http://[::1]:9901",
            "http://[::ffff:127.0.0.1]:1",
            "http://localhost:9901",
            "http://LocalHost/x",
        ] {
            assert!(is_loopback(url), "{url}");
        }
        for url in [
            "http://192.0.2.1:9901",
            "http://127.0.0.1.example",
            "http://localhost.example",
            "http://127.0.0.1@192.0.2.1",
            "http://192.0.2.1/127.0.0.1",
            "http://0.0.0.0:9901",
            "localhost x",
            "",
        ] {
            assert!(!is_loopback(url), "{url}");
        }
        assert!(is_https("HTTPS://a") && !is_https("http://a") && !is_https("h"));
    }

    #[test]
    fn a_query_is_escaped() {
        let call = Call {
            method: Method::GET,
            path: "/v1/audit".into(),
            query: vec![("limit", "5".into()), ("after", "a b&c=d%é".into())],
            body: None,
            headers: vec![],
        };
        assert_eq!(target(&call), "/v1/audit?limit=5&after=a%20b%26c%3Dd%25%C3%A9");
    }

    #[test]
    fn a_listener_on_every_address_is_reached_on_loopback() {
        assert_eq!(url_of("0.0.0.0:1".parse().unwrap()), "http://127.0.0.1:1");
        assert_eq!(url_of("[::]:1".parse().unwrap()), "http://[::1]:1");
        assert_eq!(url_of("192.0.2.1:1".parse().unwrap()), "http://192.0.2.1:1");
    }
}
