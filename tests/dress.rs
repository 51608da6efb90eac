//! A key is a key in whatever dress it comes: on a public route it does not travel on, and on a
//! key route it counts as one more credential.

use crate::harness::{Setup, Upstream, Wire, assert_refused, basic, get};

#[test]
fn a_key_in_any_dress_stops_at_a_public_route() {
    let upstream = Upstream::start();
    let gateway = Setup::in_front_of(&upstream).start();
    let key = gateway.key(&["read:orders"]);
    for (name, value) in [
        ("Authorization", basic(&format!("x:{key}"))),
        ("Authorization", basic(&format!(":{key}"))),
        ("Authorization", basic(&format!("{key}:"))),
        ("Authorization", format!("Bearer \"{key}\"")),
        ("Authorization", format!("Token token={key}")),
        ("Authorization", format!("Token token=\"{key}\", x=y")),
        ("Authorization", key.clone()),
        ("X-API-Key", format!("foo, {key}")),
        ("X-API-Key", format!("{key}, foo")),
        ("X-API-Key", format!("\"{key}\"")),
    ] {
        for wire in Wire::BOTH {
            let answer = gateway.send_over(wire, &get("/public").header(name, &value));
            assert_eq!(answer.status, 200, "{name} {wire:?}: {}", answer.text());
            let seen = upstream.only();
            assert_eq!(seen.header(name), None, "{wire:?}");
            assert!(!String::from_utf8_lossy(&seen.raw).contains(&key), "{name} {wire:?}");
            upstream.forget();
        }
    }
}

#[test]
fn what_holds_no_key_passes_a_public_route() {
    let upstream = Upstream::start();
    let gateway = Setup::in_front_of(&upstream).start();
    for (name, value) in [
        ("Authorization", basic("user:password")),
        ("Authorization", "Bearer eyJhbGciOiJIUzI1NiJ9.e30.x".into()),
        ("X-API-Key", "foo, bar".into()),
    ] {
        for wire in Wire::BOTH {
            let answer = gateway.send_over(wire, &get("/public").header(name, &value));
            assert_eq!(answer.status, 200, "{name} {wire:?}: {}", answer.text());
            assert_eq!(upstream.only().header(name), Some(&*value), "{wire:?}");
            upstream.forget();
        }
    }
}

#[test]
fn a_second_key_is_ambiguous_in_any_dress() {
    let upstream = Upstream::start();
    let gateway = Setup::in_front_of(&upstream).start();
    let key = gateway.key(&["read:orders"]);
    for dressed in [
        basic(&format!("x:{key}")),
        format!("Bearer \"{key}\""),
        format!("Token token={key}"),
        format!("Digest {key}"),
    ] {
        for wire in Wire::BOTH {
            let both = get("/v1/orders").api_key(&key).header("Authorization", &dressed);
            let answer = gateway.send_over(wire, &both);
            assert_refused(&answer, 400, "ambiguous_credentials");
            upstream.saw_nothing();
        }
    }
}
