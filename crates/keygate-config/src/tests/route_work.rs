//! What a route has done to requests and answers: what cannot be meant is refused.

use super::*;

/// A report about what a route of these lines says; they begin on line 11.
#[track_caller]
fn check_route(lines: &str, expect: &str) {
    let route =
        "[[routes]]\nname = \"a\"\npath = \"/v1/{id}\"\nupstream = \"orders\"\nauth = \"key\"\n";
    check(&format!("{UPSTREAM}{route}{lines}"), expect);
}

#[test]
fn a_prefix_is_one_that_the_path_begins_with() {
    check_route("strip_prefix = \"/v1\"\nadd_prefix = \"/a/b\"", "");
    let wrong = "the route's `path` does not begin with this; \
                 strip `/v1/{id}`, or whole segments that it begins with";
    for prefix in ["/v", "/v2", "/v1/7", "/v1/x/y"] {
        check_route(&format!("strip_prefix = \"{prefix}\""), &format!("11:16: {wrong}"));
    }
}

#[test]
fn who_calls_and_what_frames_a_message_is_not_for_routes() {
    for name in [
        "X-Keygate-Key-Id",
        "x_keygate_key_id",
        "Content_Length",
        "x-request_id",
        "X_Forwarded_Host",
    ] {
        let expect = "13:11: this header is not for routes to change; \
                      remove it: the gateway alone says what is in it";
        check_route(&format!("[routes.request_headers]\n\nremove = [\"{name}\"]"), expect);
    }
    check_route(
        "[routes.request_headers]\nset = { Host = \"a\" }",
        "12:9: this header is not for routes to change; write `host` in `[upstreams.NAME]`",
    );
}

#[test]
fn what_no_browser_takes_with_cookies_is_refused() {
    let cors = |lines: &str| format!("[routes.cors]\norigins = [\"https://a.example\"]\n{lines}");
    check_route(&cors("headers = [\"*\"]\nexpose_headers = [\"*\"]"), "");
    let wrong = "no browser takes `*` from who lets cookies in; \
                 list the headers: with cookies, `*` is only a header's name";
    check_route(&cors("credentials = true\nheaders = [\"a\", \"*\"]"), &format!("14:17: {wrong}"));
    check_route(&cors("credentials = true\nexpose_headers = [\"*\"]"), &format!("14:19: {wrong}"));
    check_route(
        "[routes.cors]\norigins = [\"*\"]\ncredentials = true",
        "12:12: no browser sends cookies to `*`; list the origins that may send cookies",
    );
}

#[test]
fn what_web_pages_may_do_is_said_in_one_place() {
    let headers = "response_headers = { set = { Access-Control-Max-Age = \"1\" } }\n";
    check_route(headers, "");
    check_route(
        &format!("{headers}[routes.cors]\norigins = [\"*\"]"),
        "11:20: `cors` says what is in the headers `Access-Control-…`; \
         remove it there, or remove `cors`",
    );
}

#[test]
fn what_a_route_sets_is_told_by_nobody() {
    let config = settings_of(&format!(
        "{UPSTREAM}[[routes]]\nname=\"a\"\npath=\"/a\"\nupstream=\"orders\"\nauth=\"key\"\n\
         request_headers = {{ set = {{ Authorization = \"${{WORDS}}\" }} }}"
    ));
    let set = &config.route_settings[0].request_headers.set;
    assert_eq!(&*set[0].1, "hunter2-hunter2");
    let told = format!("{config:?}");
    assert!(told.contains("authorization") && !told.contains("hunter2"), "{told}");
}
