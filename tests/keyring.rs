//! How an operator sets up keys: brand, peppers, sources, hosts, and a cache that forgets.

use std::fs;

use crate::harness::{KeySpec, Setup, Upstream, assert_refused, get};

#[test]
fn a_branded_key_works_and_shows_its_brand() {
    let upstream = Upstream::start();
    let gateway = Setup::in_front_of(&upstream).keys("brand = \"acme\"").start();
    let key = gateway.key(&["read:orders"]);
    assert!(key.starts_with("acme_sk_live_"));
    assert_eq!(gateway.send(&get("/v1/orders").bearer(&key)).status, 200);
    let unbranded = key.trim_start_matches("acme_");
    assert_refused(&gateway.send(&get("/v1/orders").bearer(unbranded)), 401, "api_key_invalid");
}

#[test]
fn a_pepper_is_rotated_without_a_key_being_reissued() {
    let upstream = Upstream::start();
    let mut gateway = Setup::in_front_of(&upstream).start();
    let old = gateway.key(&["read:orders"]);
    gateway.kill();
    fs::rename(gateway.path("data/pepper"), gateway.path("data/pepper.old")).unwrap();
    gateway.change(|setup| setup.keys("previous_pepper_files = [\"data/pepper.old\"]"));
    gateway.start_again();
    let new = gateway.key(&["read:orders"]);
    for key in [old, new] {
        assert_eq!(gateway.send(&get("/v1/orders").bearer(&key)).status, 200);
    }
}

#[test]
fn a_source_that_is_off_takes_no_key_and_forwards_none() {
    let upstream = Upstream::start();
    let gateway = Setup::in_front_of(&upstream).keys("sources = [\"x-api-key\"]").start();
    let key = gateway.key(&["read:orders"]);
    let orders = || get("/v1/orders");
    assert_refused(&gateway.send(&orders().bearer(&key)), 401, "api_key_invalid");
    assert_refused(&gateway.send(&orders().basic(&format!("{key}:"))), 401, "api_key_invalid");
    assert_refused(&gateway.send(&orders().bearer("eyJ.eyJ.sig")), 401, "api_key_missing");
    upstream.saw_nothing();
    assert_eq!(gateway.send(&orders().api_key(&key).bearer("eyJ.eyJ.sig")).status, 200);
    assert_eq!(upstream.only().header("authorization"), Some("Bearer eyJ.eyJ.sig"));
}

#[test]
fn a_route_of_one_host_is_not_reached_by_another() {
    let upstream = Upstream::start();
    let route = r#"
        name = "internal"
        host = "internal.test"
        path = "/v1/internal"
        upstream = "main"
        auth = "public"
    "#;
    let gateway = Setup::in_front_of(&upstream).route(route).start();
    let status = |host: &str| gateway.send(&get("/v1/internal").host(host)).status;
    for host in ["internal.test", "INTERNAL.test:8080", "internal.test."] {
        assert_eq!(status(host), 200, "{host}");
    }
    for host in ["gateway.test", "internal.test.evil.test", "xinternal.test", "internal_test"] {
        assert_eq!(status(host), 404, "{host}");
    }
}

#[test]
fn a_key_outlives_what_the_cache_keeps_of_it() {
    let upstream = Upstream::start();
    let gateway =
        Setup::in_front_of(&upstream).cache("ttl = \"1ms\"\nkeys_max = 1\nunknown_max = 1").start();
    let admin = gateway.admin();
    let keys: Vec<_> = (0..3).map(|_| admin.key(&KeySpec::new(&["read:orders"]))).collect();
    for _ in 0..5 {
        for key in &keys {
            assert_eq!(gateway.send(&get("/v1/orders").bearer(&key.key)).status, 200);
        }
    }
    admin.revoke(&keys[0]);
    let revoked = gateway.send(&get("/v1/orders").bearer(&keys[0].key));
    assert_refused(&revoked, 401, "api_key_invalid");
}

#[test]
fn a_cached_key_costs_one_look_up() {
    let upstream = Upstream::start();
    let gateway = Setup::in_front_of(&upstream).start();
    let key = gateway.key(&["read:orders"]);
    let look_ups = || gateway.metric("keygate_store_seconds_count{op=\"find\"");
    let before = look_ups();
    for _ in 0..20 {
        assert_eq!(gateway.send(&get("/v1/orders").bearer(&key)).status, 200);
    }
    assert_eq!(look_ups() - before, 1.0);
}
