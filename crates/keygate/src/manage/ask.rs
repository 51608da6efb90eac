//! `keygate verify` and `keygate explain`. The key is read from standard input, never an argument.

use std::io::{BufRead, IsTerminal, Read};

use anyhow::Context;
use serde_json::Value;
use zeroize::Zeroizing;

use super::body::Body;
use crate::cli::{Explain, KeyFromInput, Verify};
use crate::client::{Call, Client};
use crate::failure::{Exit, Failure};
use crate::output::{self, Shape, Style};

/// The longest text that is read as a key; the gateway refuses far shorter ones.
const KEY_BYTES_MAX: usize = 1_024;

/// Succeeds if the key may make the call; else fails as a refusal, for scripts to see.
pub(crate) fn verify(verify: &Verify) -> Result<(), Failure> {
    check_no_argument(&verify.key)?;
    let client = Client::new(&verify.admin)?;
    let key = key_from_input()?;
    let answer = client.send(&verify_call(verify, &key))?;
    output::show(&answer, Shape::Record, Style::of(&verify.admin))?;
    outcome(&answer, "valid", "the key may not make this call")
}

fn verify_call(verify: &Verify, key: &str) -> Call {
    let method = verify.path.as_ref().map(|_| verify.method.as_str());
    let body = Body::default()
        .text("key", Some(key))
        .text("method", method)
        .text("path", verify.path.as_deref())
        .text("host", verify.host.as_deref())
        .text("ip", verify.ip.map(|ip| ip.to_string()).as_deref())
        .text("origin", verify.origin.as_deref());
    Call::post("/v1/keys/verify", body.done())
}

/// Succeeds if the call would be admitted; else fails as a refusal.
pub(crate) fn explain(explain: &Explain) -> Result<(), Failure> {
    check_no_argument(&explain.key)?;
    let client = Client::new(&explain.admin)?;
    let key = match explain.key_id {
        Some(_) => None,
        None => Some(key_from_input()?),
    };
    let answer = client.send(&explain_call(explain, key.as_deref().map(String::as_str)))?;
    output::show(&answer, Shape::Steps, Style::of(&explain.admin))?;
    outcome(&answer, "admitted", "the call would be refused")
}

fn explain_call(explain: &Explain, key: Option<&str>) -> Call {
    let body = Body::default()
        .text("key_id", explain.key_id.map(|id| id.to_string()).as_deref())
        .text("key", key)
        .text("method", Some(&explain.method))
        .text("path", Some(&explain.path))
        .text("host", explain.host.as_deref())
        .text("ip", explain.ip.map(|ip| ip.to_string()).as_deref())
        .text("origin", explain.origin.as_deref());
    Call::post("/v1/explain", body.done())
}

fn outcome(answer: &Value, member: &str, refusal: &str) -> Result<(), Failure> {
    if answer.get(member).and_then(Value::as_bool) == Some(true) {
        return Ok(());
    }
    let code = answer.get("code").and_then(Value::as_str).unwrap_or("unknown");
    Err(Failure::new(Exit::Refused, format!("{refusal} ({code})")))
}

fn check_no_argument(key: &KeyFromInput) -> Result<(), Failure> {
    if key.key == "-" && key.stray.is_none() {
        return Ok(());
    }
    let why = "give the key on standard input: an argument is in the process list and in the \
               shell's history, so treat that key as leaked and revoke it";
    Err(Failure::new(Exit::Usage, why))
}

/// The first line of standard input.
fn key_from_input() -> Result<Zeroizing<String>, Failure> {
    let input = std::io::stdin();
    if input.is_terminal() {
        eprintln!("Paste the key and press Enter:");
    }
    let mut line = Zeroizing::new(String::with_capacity(KEY_BYTES_MAX));
    input
        .lock()
        .take(KEY_BYTES_MAX as u64)
        .read_line(&mut line)
        .context("cannot read the key from standard input")?;
    let key = Zeroizing::new(line.trim().to_owned());
    if key.is_empty() {
        return Err(Failure::new(Exit::Usage, "no key came on standard input"));
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;
    use crate::cli::{Cli, Mode};

    fn parse(line: &str) -> Mode {
        Cli::try_parse_from(line.split_whitespace()).unwrap().mode
    }

    #[test]
    fn a_key_as_an_argument_is_refused_and_not_repeated() {
        for line in [
            "keygate verify --key sk_live_abc",
            "keygate verify sk_live_abc",
            "keygate explain --path / --key sk_live_abc",
            "keygate explain --path / sk_live_abc",
        ] {
            let mode = parse(line);
            let refused = if let Mode::Verify(options) = &mode {
                verify(options)
            } else {
                let Mode::Explain(options) = &mode else { panic!("neither") };
                explain(options)
            };
            let Err(Failure::Other(exit, error)) = refused else { panic!("accepted") };
            assert_eq!(exit, Exit::Usage);
            assert!(!error.to_string().contains("sk_live_"), "{error}");
        }
    }

    #[test]
    fn verify_without_a_path_asks_about_the_key_alone() {
        let Mode::Verify(options) = parse("keygate verify --ip 192.0.2.1") else { panic!() };
        let call = verify_call(&options, "K");
        assert_eq!(call.body, Some(json!({ "key": "K", "ip": "192.0.2.1" })));
    }

    #[test]
    fn a_call_is_explained_for_a_key_by_its_id_or_by_itself() {
        let id = "key_01ARZ3NDEKTSV4RRFFQ69G5FAV";
        let line = format!("keygate explain --key-id {id} --path /v1/a?b --method POST --host h");
        let Mode::Explain(options) = parse(&line) else { panic!() };
        let expected = json!({ "key_id": id, "method": "POST", "path": "/v1/a?b", "host": "h" });
        assert_eq!(explain_call(&options, None).body, Some(expected));
        let Mode::Explain(options) = parse("keygate explain --path /") else { panic!() };
        let expected = json!({ "key": "K", "method": "GET", "path": "/" });
        assert_eq!(explain_call(&options, Some("K")).body, Some(expected));
        let outcome = |admitted: bool| outcome(&json!({ "admitted": admitted }), "admitted", "no");
        assert!(outcome(true).is_ok() && outcome(false).unwrap_err().exit() == Exit::Refused);
    }
}
