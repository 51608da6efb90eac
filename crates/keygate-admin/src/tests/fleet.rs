//! Who uses the store, and how far each has followed it.

use keygate_store::fleet::{Fleet, LinkState, Member};
use keygate_store::keys::ChangeNumber;

use super::*;

fn member(n: u64, link: LinkState, applied: u64, seen_before_ms: u64) -> Member {
    Member {
        gateway: Gateway { id: format!("gw_{n}"), name: format!("edge-{n}"), ..this_gateway() },
        link,
        applied: ChangeNumber(applied),
        peppers: None,
        seen_at: UnixMillis(NOW.0 - seen_before_ms),
    }
}

#[tokio::test]
async fn a_gateway_with_a_store_of_its_own_is_a_fleet_of_one() {
    let api = Api::start().await;
    let expected = |newest: u64| {
        json!({ "store": "embedded", "newest": newest, "gateways": [{
            "id": "gw_1", "name": "edge-1", "version": "1.2.3", "link": "live",
            "started_at": "2030-01-01T00:00:00Z", "seen_at": "2030-01-01T00:00:00Z",
            "applied": newest, "lag": 0, "this": true,
        }]})
    };
    assert_eq!(api.get("/v1/fleet").await.json(), expected(0));
    api.app().await;
    assert_eq!(api.get("/v1/fleet").await.json(), expected(2));
}

#[tokio::test]
async fn each_gateway_is_shown_with_how_far_it_is_behind() {
    let api = Api::start().await;
    *api.cache.store().fleet.lock().unwrap() = Some(Fleet {
        newest: ChangeNumber(7),
        now: NOW,
        members: vec![
            member(1, LinkState::Live, 7, 0),
            member(2, LinkState::Polling, 5, 9_999),
            // It reported after the newest number was read.
            member(3, LinkState::Live, 8, 0),
        ],
    });
    let fleet = api.get("/v1/fleet").await.json();
    assert_eq!((&fleet["store"], &fleet["newest"]), (&json!("redis"), &json!(7)));
    let shown = |n: usize| {
        let gateway = &fleet["gateways"][n];
        ["id", "link", "applied", "lag", "this"].map(|member| gateway[member].clone())
    };
    assert_eq!(shown(0), [json!("gw_1"), json!("live"), json!(7), json!(0), json!(true)]);
    assert_eq!(shown(1), [json!("gw_2"), json!("polling"), json!(5), json!(2), json!(false)]);
    assert_eq!(shown(2), [json!("gw_3"), json!("live"), json!(8), json!(0), json!(false)]);
}

#[tokio::test]
async fn a_gateway_that_went_silent_is_down_whatever_it_said_last() {
    let api = Api::start().await;
    let link = async |seen_before_ms: u64| {
        let members = vec![member(2, LinkState::Live, 0, seen_before_ms)];
        let fleet = Fleet { newest: ChangeNumber(0), now: NOW, members };
        *api.cache.store().fleet.lock().unwrap() = Some(fleet);
        api.get("/v1/fleet").await.json()["gateways"][0]["link"].clone()
    };
    assert_eq!(link(10_000).await, "live");
    assert_eq!(link(10_001).await, "down");
}
