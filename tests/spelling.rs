//! However a path, a target or a host is spelt, it names one thing: spelling neither reaches a
//! laxer route nor gets past a check, and what is no clear spelling is refused with a problem.

use crate::harness::h2_raw::{self, Rest};
use crate::harness::{Gateway, Setup, Upstream, Wire, assert_refused, get};

/// Characters that may be plain or escaped in a path, and that many upstreams read alike.
const RESERVED_IN_PATH: &str = ":@!$&'()*+,=";

/// A route for everything below `/actions`, and a stricter one for the path `/actions/orders?delete`
/// with each reserved character in the place of `?`.
fn with_stricter_routes(upstream: &Upstream) -> Gateway {
    let route = |name: &str, path: &str, scope: &str| {
        format!(
            "name = \"{name}\"\npath = \"{path}\"\nupstream = \"main\"\nauth = \"key\"\n\
             environment = \"live\"\nscopes = [\"{scope}\"]"
        )
    };
    let lax = Setup::in_front_of(upstream).route(&route("actions", "/actions", "read:actions"));
    let strict = |setup: Setup, (index, reserved): (usize, char)| {
        let path = format!("/actions/orders{reserved}delete");
        setup.route(&route(&format!("strict-{index}"), &path, "write:actions"))
    };
    RESERVED_IN_PATH.chars().enumerate().fold(lax, strict).start()
}

/// A 400 with one of our problems, and nothing at the upstream.
#[track_caller]
fn assert_unclear(gateway: &Gateway, upstream: &Upstream, raw: &str) {
    let answer = gateway.send_raw(raw.as_bytes());
    let answer = answer.unwrap_or_else(|broken| panic!("{raw:?}: {broken:?}"));
    let code = answer.code();
    assert!(["bad_request", "ambiguous_path"].contains(&&*code), "{raw:?}: {answer:?}");
    assert_refused(&answer, 400, &code);
    upstream.saw_nothing();
}

#[test]
fn an_escaped_character_does_not_lead_past_the_stricter_route() {
    let upstream = Upstream::start();
    let gateway = with_stricter_routes(&upstream);
    let (reader, writer) = (gateway.key(&["read:actions"]), gateway.key(&["write:actions"]));
    let other = get("/actions/orders").bearer(&reader);
    assert_eq!(gateway.send(&other).status, 200, "the laxer route is for this key");
    upstream.forget();
    for reserved in RESERVED_IN_PATH.chars() {
        let escaped = format!("%{:02X}", u32::from(reserved));
        for spelling in [reserved.to_string(), escaped.to_lowercase(), escaped] {
            for tail in ["", "/", "/7", "?q=1"] {
                let path = format!("/actions/orders{spelling}delete{tail}");
                for wire in Wire::BOTH {
                    let answer = gateway.send_over(wire, &get(&path).bearer(&reader));
                    assert_refused(&answer, 403, "permission_denied");
                    upstream.saw_nothing();
                }
            }
            let path = format!("/actions/orders{spelling}delete");
            for wire in Wire::BOTH {
                let answer = gateway.send_over(wire, &get(&path).bearer(&writer));
                assert_eq!(answer.status, 200, "{path} {wire:?}: {}", answer.text());
                // The digits of an escape mean the same in either case, so that much may change.
                let kept = path.replace(&spelling, &spelling.to_uppercase());
                assert_eq!(upstream.only().target, kept, "{wire:?}");
                upstream.forget();
            }
        }
    }
}

#[test]
fn an_escape_is_read_once() {
    let upstream = Upstream::start();
    let gateway = with_stricter_routes(&upstream);
    let reader = gateway.key(&["read:actions"]);
    for wire in Wire::BOTH {
        // `%253A` is the text `%3A`, and no colon.
        let answer = gateway.send_over(wire, &get("/actions/orders%253Adelete").bearer(&reader));
        assert_eq!(answer.status, 200, "{wire:?}: {}", answer.text());
        assert_eq!(upstream.only().target, "/actions/orders%253Adelete");
        upstream.forget();
    }
}

#[test]
fn what_a_path_may_not_hold_is_refused_with_a_problem() {
    let upstream = Upstream::start();
    let gateway = Setup::in_front_of(&upstream).start();
    let key = gateway.key(&["read:orders"]);
    let unclear = ["%3B", "%3b", ";", "\"", "<", ">", "[", "]", "^", "`", "{", "|", "}"];
    for piece in unclear {
        for path in ["/public/", "/public", "/v1/orders/"] {
            let target = format!("{path}{piece}x");
            let head = format!("GET {target} HTTP/1.1\r\nHost: gateway.test\r\n");
            assert_unclear(&gateway, &upstream, &format!("{head}X-API-Key: {key}\r\n\r\n"));
            let fields: [(&str, &[u8]); 5] = [
                (":method", b"GET"),
                (":scheme", b"http"),
                (":path", target.as_bytes()),
                (":authority", b"gateway.test"),
                ("x-api-key", key.as_bytes()),
            ];
            // Over HTTP/2 the stream may end below the layer that writes problems.
            h2_raw::exchange(gateway.proxy, &fields, Rest::Nothing);
            upstream.saw_nothing();
        }
    }
}

#[test]
fn a_target_whose_authority_is_not_spelt_as_host_is_refused() {
    let upstream = Upstream::start();
    let gateway = Setup::in_front_of(&upstream).start();
    for (authority, host) in [
        ("GATEWAY.test", "gateway.test"),
        ("gateway.test", "Gateway.test"),
        ("gateway.test:80", "gateway.test"),
        ("gateway.test.", "gateway.test"),
        ("evil.test", "gateway.test"),
        ("", "gateway.test"),
    ] {
        let raw = format!("GET http://{authority}/public HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_unclear(&gateway, &upstream, &raw);
    }
}

#[test]
fn half_a_preface_is_no_protocol() {
    let upstream = Upstream::start();
    let mut gateway = Setup::in_front_of(&upstream).start();
    assert_unclear(&gateway, &upstream, "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n");
    gateway.is_alive_and_well();
}

#[test]
fn a_host_that_names_no_host_is_refused() {
    let upstream = Upstream::start();
    let gateway = Setup::in_front_of(&upstream).start();
    for host in [".", "a:99999", "a:65536", "a:+1", "a:1x", ":80"] {
        let raw = format!("GET /public HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_unclear(&gateway, &upstream, &raw);
        let fields: [(&str, &[u8]); 4] = [
            (":method", b"GET"),
            (":scheme", b"http"),
            (":path", b"/public"),
            (":authority", host.as_bytes()),
        ];
        h2_raw::exchange(gateway.proxy, &fields, Rest::Nothing);
        upstream.saw_nothing();
    }
}
