//! `keygate tokens`.

use super::accounts::why;
use super::body::Body;
use super::confirm::sure;
use super::{keys, list, run};
use crate::cli::{CreateToken, Tokens, TokensCommand};
use crate::client::{Call, Client};
use crate::failure::Failure;
use crate::output::{Shape, Style};

pub(crate) fn tokens(tokens: &Tokens) -> Result<(), Failure> {
    let (call, shape) = match &tokens.command {
        TokensCommand::Create(create) => {
            let answer = Client::new(&tokens.admin)?.send(&create_call(create))?;
            return keys::show_new(&answer, Style::of(&tokens.admin));
        }
        TokensCommand::List(page) => (list::call("/v1/admin-tokens", page), Shape::Tokens),
        TokensCommand::Show { id } => (Call::get(format!("/v1/admin-tokens/{id}")), Shape::Record),
        TokensCommand::Revoke { id, reason, sure: yes } => {
            let path = format!("/v1/admin-tokens/{id}");
            let what = format!("revoke admin token {id} for good");
            sure(yes, &Client::new(&tokens.admin)?, &what, &path)?;
            (Call::post(format!("{path}/revoke"), why(reason.as_deref())), Shape::Record)
        }
    };
    run(&tokens.admin, &call, shape)
}

fn create_call(create: &CreateToken) -> Call {
    let body = Body::default()
        .text("name", Some(&create.name))
        .text("role", Some(create.role.as_str()))
        .list("accounts", &create.account)
        .text("ttl", create.ttl.as_deref())
        .text("expires_at", create.expires_at.as_deref());
    Call::post("/v1/admin-tokens", body.done())
        .with_header("idempotency-key", create.new.idempotency_key.as_deref())
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;
    use crate::cli::{Cli, Mode};

    const ACCOUNT: &str = "acct_01ARZ3NDEKTSV4RRFFQ69G5FAV";

    fn create(options: &str) -> Option<CreateToken> {
        let line = format!("keygate tokens create --name ci {options}");
        let mode = Cli::try_parse_from(line.split_whitespace()).ok()?.mode;
        let Mode::Tokens(Tokens { command: TokensCommand::Create(create), .. }) = mode else {
            panic!("not tokens create")
        };
        Some(create)
    }

    #[test]
    fn an_issuer_has_accounts_and_a_token_has_one_end() {
        assert!(create("--role issuer").is_none());
        assert!(create("--role owner").is_none());
        assert!(create("--role admin --ttl 1d --expires-at 2030-01-01T00:00:00Z").is_none());
        let call =
            create_call(&create(&format!("--role issuer --account {ACCOUNT} --ttl 1d")).unwrap());
        let expected =
            json!({ "name": "ci", "role": "issuer", "accounts": [ACCOUNT], "ttl": "1d" });
        assert_eq!(call.body, Some(expected));
        let call = create_call(&create("--role viewer").unwrap());
        assert_eq!(call.body, Some(json!({ "name": "ci", "role": "viewer" })));
    }
}
