//! Which keys depend on which pepper, who has it, and which one new keys are made under.

use keygate_core::{Pepper, Peppers};
use keygate_store::fleet::{Fleet, LinkState, Member};
use keygate_store::keys::ChangeNumber;

use super::*;

/// Peppers by a byte each, the current one first.
pub(super) fn of(bytes: &[u8]) -> Peppers {
    let mut all = bytes.iter().map(|byte| Pepper::new(&[*byte; 32]));
    Peppers::new(all.next().unwrap(), all.collect())
}

pub(super) fn name(byte: u8) -> String {
    Pepper::new(&[byte; 32]).id().to_string()
}

impl Api {
    fn has(&self, peppers: &[u8]) {
        self.live.replace(keygate_config::live::Current {
            config: self.live.config(),
            peppers: Arc::new(of(peppers)),
            inputs: Arc::default(),
        });
    }

    /// A fleet of gateways with these peppers that reported so long ago, beside this one.
    fn others(&self, others: &[(Option<&[u8]>, u64)]) {
        let member = |(n, (peppers, ago)): (usize, &(Option<&[u8]>, u64))| Member {
            gateway: Gateway { id: format!("gw_{}", n + 2), name: "edge".into(), ..this_gateway() },
            link: LinkState::Live,
            applied: ChangeNumber(0),
            peppers: peppers.map(|bytes| of(bytes).iter().map(Pepper::id).collect()),
            seen_at: UnixMillis(NOW.0 - ago),
        };
        // What it said of itself last is older than what it is.
        let this = Member { gateway: this_gateway(), ..member((0, &(Some(&[1]), 0))) };
        let members = others.iter().enumerate().map(member).chain([this]).collect();
        let fleet = Fleet { newest: ChangeNumber(0), now: NOW, members };
        *self.cache.store().fleet.lock().unwrap() = Some(fleet);
    }

    async fn minting(&self) -> String {
        let peppers = self.get("/v1/peppers").await.json();
        let peppers = peppers["peppers"].as_array().unwrap().clone();
        let minting: Vec<_> = peppers.iter().filter(|pepper| pepper["minting"] == true).collect();
        assert_eq!(minting.len(), 1, "{peppers:?}");
        id(minting[0])
    }
}

#[tokio::test]
async fn one_pepper_is_what_keys_are_made_under_and_depend_on() {
    let api = Api::start().await;
    let app = api.app().await;
    api.key(&app, json!({})).await;
    let expected = json!({ "peppers": [{
        "id": name(9), "use": "current", "live_keys": 1, "minting": true, "gateways_without": [],
    }]});
    assert_eq!(api.get("/v1/peppers").await.json(), expected);
}

#[tokio::test]
async fn a_pepper_that_is_lacking_is_shown_if_live_keys_depend_on_it() {
    let api = Api::start().await;
    let app = api.app().await;
    let key = api.key(&app, json!({})).await;
    api.has(&[2, 1]);
    let shown = api.get("/v1/peppers").await.json();
    let uses: Vec<_> = shown["peppers"].as_array().unwrap().iter().map(|p| &p["use"]).collect();
    assert_eq!(uses, ["current", "previous", "missing"]);
    let missing = &shown["peppers"][2];
    assert_eq!((&missing["id"], &missing["live_keys"]), (&json!(name(9)), &json!(1)));
    assert_eq!(missing["gateways_without"], json!([{ "id": "gw_1", "name": "edge-1" }]));
    api.post(&format!("/v1/keys/{}/revoke", id(&key)), json!({})).await;
    let shown = api.get("/v1/peppers").await.json();
    assert_eq!(shown["peppers"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn keys_are_made_under_the_first_pepper_that_every_gateway_has() {
    let api = Api::start().await;
    let app = api.app().await;
    let made_under = async |pepper: u8| {
        assert_eq!(api.minting().await, name(pepper));
        let counts = async || {
            let shown = api.get("/v1/peppers").await.json();
            let all = shown["peppers"].as_array().unwrap().clone();
            let of = all.iter().find(|one| one["id"] == name(pepper)).cloned();
            of.map_or(0, |one| one["live_keys"].as_u64().unwrap())
        };
        let before = counts().await;
        api.key(&app, json!({})).await;
        assert_eq!(counts().await, before + 1);
    };
    api.has(&[2, 1]);
    // A store of its own: there is nobody else.
    made_under(2).await;
    api.others(&[(Some(&[1]), 0), (Some(&[2, 1]), 0)]);
    made_under(1).await;
    api.others(&[(Some(&[2]), 0), (Some(&[1, 2]), 0)]);
    made_under(2).await;
}

#[tokio::test]
async fn gateways_that_are_gone_or_too_old_to_say_are_not_waited_for() {
    let api = Api::start().await;
    api.has(&[2, 1]);
    for (others, minting) in [
        (&[(Some([1].as_slice()), 10_001)], 2),
        (&[(Some([1].as_slice()), 10_000)], 1),
        (&[(None, 0)], 2),
        // They have none in common.
        (&[(Some([7].as_slice()), 0)], 2),
    ] {
        api.others(others);
        assert_eq!(api.minting().await, name(minting), "{others:?}");
    }
}

#[tokio::test]
async fn gateways_without_a_pepper_are_named() {
    let api = Api::start().await;
    api.has(&[2, 1]);
    api.others(&[(Some(&[1]), 0), (Some(&[2, 1]), 0), (None, 0)]);
    let shown = api.get("/v1/peppers").await.json();
    let without = |n: usize| &shown["peppers"][n]["gateways_without"];
    assert_eq!(without(0), &json!([{ "id": "gw_2", "name": "edge" }]));
    assert_eq!(without(1), &json!([]));
}
