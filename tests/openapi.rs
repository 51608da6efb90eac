//! The admin API against its own description: every operation is called, rightly and wrongly, with
//! requests made at random of `/openapi.json`. Whatever the call, the answer is one that the
//! description has, and only what makes a key or a token shows one. `OPENAPI_ROUNDS` says how much.

mod document;
mod make;
mod matches;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Value, json};

use self::document::{Document, Operation};
use self::make::{Maker, Mind};
use crate::harness::{
    Answer, Connection, Gateway, KeySpec, Redis, Request, Setup, Upstream, get, scale,
};

/// How often an operation is called rightly before it is held that it cannot succeed.
const TRIES_MAX: u32 = 100;
/// What must never be shown but once: a key with its tag, and an admin token.
static SECRET: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new("[spr]k_(live|test)_[1-9A-HJ-NP-Za-km-z]{44}[0-9A-Za-z]{6}|kga_[0-9a-f]{64}|kgat_[0-9A-Za-z]{43}")
        .unwrap()
});
static ID: LazyLock<Regex> =
    LazyLock::new(|| Regex::new("^(acct|app|key|tok)_[0-9A-Z]{26}$").unwrap());

fn setup(upstream: &Upstream) -> Setup {
    let tiers = "[tiers.free]\nrate = \"10/s\"\nquotas = [\"1000/day\"]\n";
    Setup::in_front_of(upstream).tables(tiers).log("info")
}

#[test]
fn an_embedded_store_is_managed_as_the_description_says() {
    let upstream = Upstream::start();
    Fuzzer::new(&setup(&upstream).start()).run();
}

#[test]
fn a_store_in_redis_is_managed_as_the_description_says() {
    let (upstream, redis) = (Upstream::start(), Redis::start());
    Fuzzer::new(&setup(&upstream).redis(&redis).start()).run();
}

struct Fuzzer<'a> {
    gateway: &'a Gateway,
    token: String,
    document: Document,
    maker: Maker,
    /// How often each operation was answered with each status.
    answers: BTreeMap<(String, u16), u32>,
    /// What is not as described, each with the first call of which it is so.
    wrong: BTreeMap<String, String>,
    /// The last call and its answer, without secrets.
    last: String,
}

impl<'a> Fuzzer<'a> {
    fn new(gateway: &'a Gateway) -> Self {
        let seed = scale("KEYGATE_SEED", fastrand::u64(..));
        println!("KEYGATE_SEED={seed}");
        let answer = Connection::open(gateway.admin_address).exchange(&get("/openapi.json"));
        let document = Document::new(answer.unwrap().json());
        let mut maker = Maker::new(fastrand::Rng::with_seed(seed));
        let key = KeySpec::new(&["read:orders", "write:orders"]).with("tier", json!("free"));
        let key = gateway.key_with(&key);
        for id in [&key.account, &key.app, &key.id] {
            maker.learn(id);
        }
        maker.keys.push(key.key);
        let token = gateway.admin_token();
        let (answers, wrong, last) = (BTreeMap::new(), BTreeMap::new(), String::new());
        Self { gateway, token, document, maker, answers, wrong, last }
    }

    fn run(mut self) {
        let mut operations = self.document.operations();
        // What makes records first, so that there is something for the others.
        operations.sort_by_key(|operation| !operation.makes_records());
        for operation in &operations {
            let succeeds = (0..TRIES_MAX).any(|_| self.call(operation, Mind::Right) < 300);
            let id = &operation.id;
            assert!(succeeds, "{id} never succeeds: {}\n{}", self.report(id), self.last);
        }
        for _ in 0..scale("OPENAPI_ROUNDS", 8) {
            self.maker.random.shuffle(&mut operations);
            for operation in &operations {
                let mind = if self.maker.random.u8(..4) == 0 { Mind::Right } else { Mind::Wrong };
                self.call(operation, mind);
            }
        }
        for operation in &operations {
            println!("{}: {}", operation.id, self.report(&operation.id));
        }
        let wrong = self.wrong.iter().map(|(what, call)| format!("{what}\n{call}\n\n"));
        assert!(wrong.len() == 0, "{}", wrong.collect::<String>());
    }

    fn report(&self, id: &str) -> String {
        let ours = self.answers.iter().filter(|((operation, _), _)| operation == id);
        ours.map(|((_, status), count)| format!("{status} x{count} ")).collect()
    }

    /// Makes one call, and holds its answer against the description. Returns its status.
    fn call(&mut self, operation: &Operation, mind: Mind) -> u16 {
        let request = self.maker.request(&self.document, operation, &self.token, mind);
        let request = request.host(&self.gateway.admin_address.to_string());
        let answer = Connection::open(self.gateway.admin_address).exchange(&request);
        let answer = answer.unwrap_or_else(|broken| panic!("{}: {broken:?}", self.said(&request)));
        let wrong = self.compare(operation, &answer);
        let said = format!("{} {:?} {}", answer.status, answer.headers, answer.text());
        self.last = format!("{}\n{}", self.said(&request), SECRET.replace_all(&said, "***"));
        for wrong in wrong {
            self.wrong
                .entry(format!("{}: {wrong}", operation.id))
                .or_insert_with(|| self.last.clone());
        }
        *self.answers.entry((operation.id.clone(), answer.status)).or_default() += 1;
        self.learn(&answer);
        answer.status
    }

    fn said(&self, request: &Request) -> String {
        let body = String::from_utf8_lossy(&request.body);
        let text = format!("{} {} {:?} {body}", request.method, request.target, request.headers);
        SECRET.replace_all(&text, "***").into_owned()
    }

    /// What is not as described.
    fn compare(&self, operation: &Operation, answer: &Answer) -> Vec<String> {
        let mut wrong = Vec::new();
        let Some(response) = self.document.response(operation, answer.status) else {
            return vec![format!("status {} is not described", answer.status)];
        };
        let sent_type = answer.header("content-type").unwrap_or_default();
        let essence = sent_type.split(';').next().unwrap_or_default();
        match response["content"].get(essence) {
            Some(content) if essence.ends_with("json") => {
                let schema = &content["schema"];
                matches::check(&self.document, schema, &answer.json(), "answer", &mut wrong);
            }
            Some(_) => {}
            None => wrong.push(format!("a body of type `{sent_type}` is not described")),
        }
        for (name, header) in response["headers"].as_object().into_iter().flatten() {
            let header = self.document.resolve(header);
            match answer.header(name) {
                Some(value) => {
                    let value = match header["schema"]["type"].as_str() {
                        Some("integer") => value.parse::<u64>().map_or(Value::Null, Value::from),
                        _ => Value::from(value),
                    };
                    matches::check(&self.document, &header["schema"], &value, name, &mut wrong);
                }
                None if header["required"] == true => wrong.push(format!("no `{name}`")),
                None => {}
            }
        }
        let may_show = answer.status == 201 && self.document.shows_a_secret(&response);
        let all = format!("{:?} {}", answer.headers, answer.text());
        if !may_show && SECRET.is_match(&all) {
            wrong.push("a secret is shown".into());
        }
        wrong
    }

    /// Keeps ids for other calls, and secrets for the search.
    fn learn(&mut self, answer: &Answer) {
        let Ok(body) = serde_json::from_slice::<Value>(&answer.body) else { return };
        document::each(&body, &mut |value| {
            let text = value.as_str().unwrap_or_default();
            if ID.is_match(text) {
                self.maker.learn(text);
            }
        });
        if answer.status != 201 {
            return;
        }
        if let Some(key) = body["key"].as_str() {
            self.gateway.leaks().key(key);
            self.maker.keys.push(key.to_owned());
        }
        if let Some(token) = body["token"].as_str() {
            self.gateway.leaks().token("an admin token", token);
        }
    }
}
