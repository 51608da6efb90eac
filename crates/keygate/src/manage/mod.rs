//! The commands that manage: each is a call or two to the admin API and one way to show the answer.
//! The rules are the API's; those kept here are that a key is never an argument, and that nothing is
//! cut off unasked.

mod accounts;
mod ask;
mod audit;
mod body;
mod confirm;
mod keys;
mod list;
mod rotate;
mod tokens;
mod usage;

use serde_json::Value;

use crate::cli::{AdminOptions, Fleet};
use crate::client::{Call, Client};
use crate::failure::{Exit, Failure};
use crate::output::{self, Shape, Style};

pub(crate) use self::accounts::{accounts, apps};
pub(crate) use self::ask::{explain, verify};
pub(crate) use self::audit::audit;
pub(crate) use self::keys::keys;
pub(crate) use self::tokens::tokens;
pub(crate) use self::usage::usage;

/// Fails if a gateway is not told of changes at once, for scripts to see.
pub(crate) fn fleet(fleet: &Fleet) -> Result<(), Failure> {
    let answer = Client::new(&fleet.admin)?.send(&Call::get("/v1/fleet"))?;
    output::show(&answer, Shape::Fleet, Style::of(&fleet.admin))?;
    all_are_live(&answer)
}

fn all_are_live(answer: &Value) -> Result<(), Failure> {
    let gateways = answer.get("gateways").and_then(Value::as_array);
    let gateways = gateways.map(Vec::as_slice).unwrap_or_default();
    let is_live = |gateway: &&Value| gateway.get("link").is_some_and(|link| link == "live");
    match gateways.iter().filter(is_live).count() {
        live if live == gateways.len() => Ok(()),
        live => {
            let why = format!("{live} of {} gateways follow the store live", gateways.len());
            Err(Failure::new(Exit::Failed, why))
        }
    }
}

fn run(admin: &AdminOptions, call: &Call, shape: Shape) -> Result<(), Failure> {
    let answer = Client::new(admin)?.send(call)?;
    output::show(&answer, shape, Style::of(admin))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_fleet_is_well_if_every_gateway_follows_live() {
        let fleet = |links: &[&str]| {
            let gateways: Vec<Value> = links.iter().map(|link| json!({ "link": link })).collect();
            all_are_live(&json!({ "gateways": gateways })).map_err(|failure| failure.exit())
        };
        assert_eq!(fleet(&[]), Ok(()));
        assert_eq!(fleet(&["live", "live"]), Ok(()));
        assert_eq!(fleet(&["live", "polling"]), Err(Exit::Failed));
        assert_eq!(fleet(&["down"]), Err(Exit::Failed));
    }
}
