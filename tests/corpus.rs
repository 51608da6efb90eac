//! Every request of `tests/corpus`, before an nginx and before a server that takes nothing but what
//! RFC 9112 allows, by both ways through the gateway: it is refused, or the upstream sees what was
//! decided, once, under the name of the key that it came with. The same requests without their key, or
//! with a revoked one, get nowhere.

mod parse;

use std::collections::HashMap;
use std::net::Shutdown;
use std::thread;

use serde_json::Value;

use self::parse::{Case, Credential, Expected, Forwarded, Wire};
use crate::access_log::{self, lines};
use crate::harness::h2_raw::{self, Ending};
use crate::harness::{
    Answer, Broken, Connection, Gateway, Key, KeySpec, Nginx, Received, Setup, Strict, eventually,
};

/// In every value that a client may not have believed.
const FORGED: &str = "forged";
/// So many bytes at a time, for what is read differently in pieces.
const PIECE_BYTES: usize = 7;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behind {
    Strict,
    /// A real nginx, with the strict server behind it to tell what it read.
    Nginx,
}

/// The two ways that a request takes.
const WAYS: [&str; 2] = ["express_lane = false", "express_lane = true"];

#[test]
fn a_hostile_request_is_refused_or_forwarded_as_it_was_decided() {
    let cases = parse::all();
    assert!(cases.len() >= 150, "{} cases", cases.len());
    let faults: Vec<String> = thread::scope(|scope| {
        let cases = &cases;
        let run = |behind, way| scope.spawn(move || Round::start(behind, way).run(cases));
        let both = WAYS.map(|way| [run(Behind::Strict, way), run(Behind::Nginx, way)]);
        let rounds = both.into_iter().flatten();
        rounds.flat_map(|round| round.join().unwrap()).collect()
    });
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

/// One gateway before one upstream.
struct Round {
    behind: Behind,
    way: &'static str,
    upstream: Strict,
    _nginx: Option<Nginx>,
    gateway: Gateway,
    key: Key,
    revoked: Key,
    /// What may come any time.
    awaited: Vec<Forwarded>,
    /// What reached the upstream, with the case that it belongs to.
    arrived: Vec<(String, Received)>,
    faults: Vec<String>,
}

impl Round {
    fn start(behind: Behind, way: &'static str) -> Self {
        let upstream = Strict::start();
        let nginx = (behind == Behind::Nginx).then(|| {
            // Whatever nginx would drop or change by itself, it is told to pass on.
            let settings = format!(
                "underscores_in_headers on;\nignore_invalid_headers off;\n\
                 location / {{\nproxy_pass http://{};\nproxy_http_version 1.1;\n\
                 proxy_set_header Host $http_host;\nproxy_set_header Connection \"\";\n}}",
                upstream.address()
            );
            Nginx::start("", &settings)
        });
        let target = nginx.as_ref().map_or_else(|| upstream.address(), Nginx::address);
        let setup = Setup::in_front_of_address(target).log("info").tables(&access_log::table(""));
        let gateway = setup.server(way).start();
        let spec = KeySpec::new(&["read:orders", "write:orders"]);
        let (key, revoked) = (gateway.key_with(&spec), gateway.key_with(&spec));
        gateway.admin().revoke(&revoked);
        Self {
            behind,
            way,
            upstream,
            _nginx: nginx,
            gateway,
            key,
            revoked,
            awaited: Vec::new(),
            arrived: Vec::new(),
            faults: Vec::new(),
        }
    }

    fn run(mut self, cases: &[Case]) -> Vec<String> {
        let (key, revoked) = (self.key.key.clone(), self.revoked.key.clone());
        for case in cases {
            let whole = case.bytes(Credential::Key(&key));
            self.meets_its_expectation(case, &whole, whole.len());
            if case.wire == Wire::H1 && whole.len() < 1_000 {
                self.meets_its_expectation(case, &whole, PIECE_BYTES);
            }
            if case.has_credential() {
                self.gets_nowhere(case, &case.bytes(Credential::None));
                self.gets_nowhere(case, &case.bytes(Credential::Key(&revoked)));
            }
        }
        self.agrees_with_the_access_log();
        // Whatever came late belongs to no case.
        let late = self.take("the end");
        self.check("the end", late.is_empty(), || format!("came late: {late:#?}"));
        let violations = self.upstream.violations();
        self.check("the upstream", violations.is_empty(), || format!("was sent {violations:#?}"));
        self.gateway.is_alive_and_well();
        std::mem::take(&mut self.faults)
    }

    fn check(&mut self, case: &str, holds: bool, fault: impl FnOnce() -> String) {
        if !holds {
            self.faults.push(format!("{case}, {:?}, {}: {}", self.behind, self.way, fault()));
        }
    }

    /// Sends a case with its key.
    fn meets_its_expectation(&mut self, case: &Case, bytes: &[u8], piece: usize) {
        for expected in &case.expected {
            if let Expected::Maybe(forwarded) = expected {
                self.awaited.push(forwarded.clone());
            }
        }
        let told = match case.wire {
            Wire::H1 => self.tell_h1(case, bytes, piece),
            Wire::H2 => self.tell_h2(case, bytes),
        };
        if let Err(fault) = told {
            self.check(&case.name, false, || format!("in pieces of {piece}: {fault}"));
        }
        let received = self.take(&case.name);
        let is_forwarded = |one: &&Expected| matches!(one, Expected::Forwarded(_));
        let expected = case.expected.iter().filter(is_forwarded).cloned();
        let is_same = received.iter().cloned().map(Expected::Forwarded).eq(expected);
        self.check(&case.name, is_same, || format!("the upstream saw {received:?}"));
    }

    /// What has come but for what was awaited, all of which is held to its key's name.
    fn take(&mut self, case: &str) -> Vec<Forwarded> {
        let mut unexpected = Vec::new();
        for one in self.upstream.take() {
            let id = Some(&*self.key.id).filter(|_| !one.target.starts_with("/public"));
            let fault = fault_of_identity(&one, id);
            self.check(case, fault.is_none(), || fault.unwrap_or_default());
            let is_clean = !one.text().contains(FORGED) && !one.text().contains(&self.key.key);
            self.check(case, is_clean, || format!("the upstream was told {}", one.text()));
            let Received { method, target, body, .. } = one.clone();
            let forwarded = Forwarded { method, target, body };
            match self.awaited.iter().position(|awaited| *awaited == forwarded) {
                Some(at) => drop(self.awaited.remove(at)),
                None => unexpected.push(forwarded),
            }
            self.arrived.push((case.into(), one));
        }
        unexpected
    }

    /// Sends a case without its key, or with one that is no more.
    fn gets_nowhere(&mut self, case: &Case, bytes: &[u8]) {
        match case.wire {
            Wire::H1 => {
                let mut connection = self.gateway.connect();
                let _ = connection.send(bytes);
                finish(&connection);
                while connection.answer("GET").is_ok() {}
            }
            Wire::H2 => drop(h2_raw::converse(self.gateway.proxy, bytes)),
        }
        let received = self.take(&case.name);
        self.check(&case.name, received.is_empty(), || format!("came without a key: {received:?}"));
    }

    fn tell_h1(&self, case: &Case, bytes: &[u8], piece: usize) -> Result<(), String> {
        let mut connection = self.gateway.connect();
        // The gateway may refuse before it has read everything.
        let _ = bytes.chunks(piece).try_for_each(|piece| connection.send(piece));
        if case.ends {
            finish(&connection);
        }
        let method = bytes.split(|&byte| byte == b' ').next().unwrap_or_default();
        let method = String::from_utf8_lossy(method).trim_start().to_owned();
        for expected in &case.expected {
            let answer = connection.answer(&method);
            let is_as_expected = match (expected, &answer) {
                (Expected::Closed, Err(Broken::Closed)) => true,
                (Expected::Refused(status, code), Ok(answer)) => {
                    (answer.status, &answer.code()) == (*status, code)
                }
                (Expected::Cut | Expected::Maybe(_), Err(Broken::Closed)) => true,
                (Expected::Forwarded(_) | Expected::Maybe(_), Ok(Answer { status: 200, .. })) => {
                    true
                }
                (Expected::Cut, Ok(answer)) => {
                    (answer.status, &*answer.code()) == (400, "bad_request")
                }
                (Expected::Maybe(_), Ok(answer)) => {
                    answer.status >= 400 && !answer.code().is_empty()
                }
                _ => false,
            };
            if !is_as_expected {
                return Err(format!("{expected:?}, and got {}", shown(&answer)));
            }
        }
        finish(&connection);
        match connection.answer(&method) {
            Err(Broken::Closed) => Ok(()),
            // What came behind was read, and decided like any.
            Ok(answer) if may_go_on(case) && matches!(answer.status, 400 | 401) => Ok(()),
            other => Err(format!("and then {}", shown(&other))),
        }
    }

    fn tell_h2(&self, case: &Case, bytes: &[u8]) -> Result<(), String> {
        let [expected] = &case.expected[..] else { panic!("{}: one expectation", case.name) };
        let (ending, body) = h2_raw::converse(self.gateway.proxy, bytes);
        let problem: Value = serde_json::from_slice(&body).unwrap_or_default();
        let is_as_expected = match expected {
            Expected::Forwarded(_) => ending == Ending::Answered && body == b"ok",
            Expected::Refused(status, code) => {
                problem["status"] == *status && problem["code"] == **code
            }
            // Below the layer that writes problems, a refusal has no body.
            Expected::RefusedSomehow | Expected::Cut => {
                ending != Ending::Answered || body.is_empty() || problem["code"].is_string()
            }
            Expected::Closed | Expected::Maybe(_) => panic!("{}: not over HTTP/2", case.name),
        };
        let text = String::from_utf8_lossy(&body);
        if is_as_expected {
            Ok(())
        } else {
            Err(format!("{expected:?}, and got {ending:?} {text}"))
        }
    }

    /// What reached the upstream is what was written down as decided, once.
    fn agrees_with_the_access_log(&mut self) {
        let path = self.gateway.path(access_log::PATH);
        let id = |one: &Received| text(one.values("x-request-id").first().copied());
        let last = self.arrived.last().map(|(_, one)| id(one)).unwrap_or_default();
        eventually("the last line", || {
            lines(&path).iter().any(|line| line["request_id"] == last).then_some(())
        });
        let mut by_id: HashMap<String, Vec<Value>> = HashMap::new();
        for line in lines(&path) {
            by_id.entry(text_of(&line["request_id"])).or_default().push(line);
        }
        for (case, one) in std::mem::take(&mut self.arrived) {
            let said = by_id.remove(&id(&one)).unwrap_or_default();
            let is_decided = matches!(&said[..], [line] if agrees(line, &one));
            self.check(&case, is_decided, || format!("{} was decided as {said:?}", one.text()));
        }
        let undecided = by_id.values().flatten().filter(|line| line["status"] == 200).count();
        self.check("the log", undecided == 0, || format!("{undecided} more were served"));
    }
}

/// Whether bytes behind it may be read as another request, as it happens.
fn may_go_on(case: &Case) -> bool {
    case.expected.iter().any(|expected| matches!(expected, Expected::Maybe(_)))
}

/// Whether a line of the access log tells of this request. It has the path as the client spelt it.
fn agrees(line: &Value, one: &Received) -> bool {
    let path = one.target.split('?').next().unwrap_or_default();
    let decided = keygate_core::path::normalize(line["path"].as_str().unwrap_or_default());
    line["decision"] == "admitted"
        && line["method"] == *one.method
        && decided.is_ok_and(|decided| decided == path)
        && line["key_id"].as_str()
            == one.values("x-keygate-key-id").first().map(|id| str::from_utf8(id).unwrap())
}

/// What is wrong with the identity of a request that arrived: its key's, once, or nobody's.
fn fault_of_identity(one: &Received, key_id: Option<&str>) -> Option<String> {
    let ids: Vec<String> = one.values("x-keygate-key-id").iter().map(|id| text(Some(id))).collect();
    let is_right = ids.iter().map(String::as_str).eq(key_id);
    let names = ["app-id", "account-id", "environment", "scopes"];
    let count = usize::from(key_id.is_some());
    let is_whole = names.iter().all(|name| one.values(&format!("x-keygate-{name}")).len() == count);
    // Whatever a CGI-like server would take for ours.
    let alike = |name: &str| {
        let letters =
            |byte: u8| if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'-' };
        name.bytes().map(letters).collect::<Vec<u8>>().starts_with(b"x-keygate-")
    };
    let ours = one.headers.iter().filter(|(name, _)| alike(name)).count();
    let is_alone = ours == count * (names.len() + 1);
    (!is_right || !is_whole || !is_alone).then(|| format!("came as somebody else: {}", one.text()))
}

/// Says that nothing more will be sent, if the gateway has not closed the connection.
fn finish(connection: &Connection) {
    let _ = connection.socket().shutdown(Shutdown::Write);
}

fn shown(answer: &Result<Answer, Broken>) -> String {
    match answer {
        Ok(answer) => format!("{} {}", answer.status, answer.text()),
        Err(broken) => format!("{broken:?}"),
    }
}

fn text(bytes: Option<&[u8]>) -> String {
    String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned()
}

fn text_of(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
