//! `keygate accounts` and `keygate apps`.

use serde_json::{Value, json};

use super::body::{Body, texts};
use super::confirm::sure;
use super::list;
use super::run;
use crate::cli::{
    Accounts, AccountsCommand, Apps, AppsCommand, CreateAccount, CreateApp, UpdateAccount,
    UpdateApp,
};
use crate::client::{Call, Client};
use crate::failure::{Exit, Failure};
use crate::output::Shape;

pub(crate) fn accounts(accounts: &Accounts) -> Result<(), Failure> {
    let (call, shape) = match &accounts.command {
        AccountsCommand::Create(create) => (create_account(create), Shape::Record),
        AccountsCommand::List(page) => (list::call("/v1/accounts", page), Shape::Accounts),
        AccountsCommand::Show { id } => (Call::get(account_path(id)), Shape::Record),
        AccountsCommand::Update(update) => (update_account(update)?, Shape::Record),
        AccountsCommand::Suspend { id, sure: yes } => {
            let (what, path) = (format!("suspend account {id}"), account_path(id));
            sure(yes, &Client::new(&accounts.admin)?, &what, &path)?;
            (set_status(path, "suspended"), Shape::Record)
        }
        AccountsCommand::Activate { id } => (set_status(account_path(id), "active"), Shape::Record),
    };
    run(&accounts.admin, &call, shape)
}

fn account_path(id: &impl ToString) -> String {
    format!("/v1/accounts/{}", id.to_string())
}

fn create_account(create: &CreateAccount) -> Call {
    let body = Body::default().text("name", Some(&create.name)).about(&create.about);
    let name = create.new.idempotency_key.as_deref();
    Call::post("/v1/accounts", body.done()).with_header("idempotency-key", name)
}

fn update_account(update: &UpdateAccount) -> Result<Call, Failure> {
    let body = Body::default().text("name", update.name.as_deref()).changed_about(&update.about);
    patch(account_path(&update.id), body, update.expected.if_match.as_deref())
}

/// A change that is one.
pub(super) fn patch(path: String, body: Body, if_match: Option<&str>) -> Result<Call, Failure> {
    if body.is_empty() {
        return Err(Failure::new(
            Exit::Usage,
            "say what to change: nothing was given (see --help)",
        ));
    }
    Ok(Call::patch(path, body.done()).with_header("if-match", if_match))
}

pub(crate) fn apps(apps: &Apps) -> Result<(), Failure> {
    let (call, shape) = match &apps.command {
        AppsCommand::Create(create) => (create_app(create), Shape::Record),
        AppsCommand::List { account, page } => {
            (list::call(format!("/v1/accounts/{account}/apps"), page), Shape::Apps)
        }
        AppsCommand::Show { id } => (Call::get(app_path(id)), Shape::Record),
        AppsCommand::Update(update) => (update_app(update)?, Shape::Record),
        AppsCommand::Disable { id, sure: yes } => {
            let (what, path) = (format!("disable app {id}"), app_path(id));
            sure(yes, &Client::new(&apps.admin)?, &what, &path)?;
            (set_status(path, "disabled"), Shape::Record)
        }
        AppsCommand::Enable { id } => (set_status(app_path(id), "active"), Shape::Record),
    };
    run(&apps.admin, &call, shape)
}

fn app_path(id: &impl ToString) -> String {
    format!("/v1/apps/{}", id.to_string())
}

fn create_app(create: &CreateApp) -> Call {
    let body = Body::default()
        .text("name", Some(&create.name))
        .text("environment", Some(create.environment.as_str()))
        .member("granted_scopes", texts(&create.scopes))
        .text("tier", create.tier.as_deref())
        .text("max_age", create.max_age.as_deref())
        .list("allowed_cidrs", &create.cidr)
        .about(&create.about);
    let name = create.new.idempotency_key.as_deref();
    let path = format!("/v1/accounts/{}/apps", create.account);
    Call::post(path, body.done()).with_header("idempotency-key", name)
}

fn update_app(update: &UpdateApp) -> Result<Call, Failure> {
    let body = Body::default()
        .text("name", update.name.as_deref())
        .list("granted_scopes", &update.scopes)
        .change("tier", update.tier.as_deref(), update.no_tier)
        .change("max_age", update.max_age.as_deref(), update.no_max_age)
        .changed_list("allowed_cidrs", &update.cidr, update.no_cidr)
        .changed_about(&update.about);
    patch(app_path(&update.id), body, update.expected.if_match.as_deref())
}

pub(super) fn set_status(path: String, status: &str) -> Call {
    Call::patch(path, json!({ "status": status }))
}

/// Why something is done, if that was said.
pub(super) fn why(reason: Option<&str>) -> Value {
    Body::default().text("reason", reason).done()
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use ureq::http::Method;

    use super::*;
    use crate::cli::{Cli, Mode};

    const ACCOUNT: &str = "acct_01ARZ3NDEKTSV4RRFFQ69G5FAV";
    const APP: &str = "app_01ARZ3NDEKTSV4RRFFQ69G5FAV";

    fn apps_command(line: &str) -> AppsCommand {
        let words = format!("keygate apps {line}");
        let Mode::Apps(apps) = Cli::try_parse_from(words.split_whitespace()).unwrap().mode else {
            panic!("not apps")
        };
        apps.command
    }

    #[test]
    fn an_app_is_created_with_what_was_asked() {
        let line = format!(
            "create --account {ACCOUNT} --name web --scopes read:a,write:a --cidr 192.0.2.0/24 \
             --owner team --metadata crm=17 --idempotency-key n1"
        );
        let AppsCommand::Create(create) = apps_command(&line) else { panic!() };
        let call = create_app(&create);
        assert_eq!(call.method, Method::POST);
        assert_eq!(call.path, format!("/v1/accounts/{ACCOUNT}/apps"));
        assert_eq!(call.headers, [("idempotency-key", "n1".to_owned())]);
        let expected = json!({
            "name": "web", "environment": "live", "granted_scopes": ["read:a", "write:a"],
            "allowed_cidrs": ["192.0.2.0/24"], "owner": "team", "metadata": { "crm": "17" },
        });
        assert_eq!(call.body, Some(expected));
    }

    #[test]
    fn a_change_names_only_what_was_given_and_something_must_be() {
        let update = |options: &str| {
            let AppsCommand::Update(update) = apps_command(&format!("update {APP} {options}"))
            else {
                panic!()
            };
            update_app(&update)
        };
        let call = update("--no-tier --no-cidr --max-age 90d --owner= --if-match \"7\"").unwrap();
        assert_eq!((call.method, &*call.path), (Method::PATCH, &*format!("/v1/apps/{APP}")));
        assert_eq!(call.headers, [("if-match", "\"7\"".to_owned())]);
        let expected =
            json!({ "tier": null, "allowed_cidrs": [], "max_age": "90d", "owner": null });
        assert_eq!(call.body, Some(expected));
        assert_eq!(update("").unwrap_err().exit(), Exit::Usage);
    }
}
