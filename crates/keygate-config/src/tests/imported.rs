//! Keys of other systems, and the notice of a key's end.

use std::time::Duration;

use super::{check, settings_of};

#[test]
fn keys_of_other_systems_are_off_and_the_notice_too() {
    let keys = settings_of("").keys;
    assert_eq!((keys.credentials.imported, keys.expiry_notice), (None, None));
}

#[test]
fn headers_are_lower_case_whatever_their_spelling_in_the_file() {
    let part = "[keys]\naccept_imported = true\nimported_headers = [\"apikey\", \"X-Auth_Key\"]\n\
                expiry_notice = \"7d\"\n";
    let keys = settings_of(part).keys;
    let headers: Vec<&str> =
        keys.credentials.further_headers().iter().map(|name| &**name).collect();
    assert_eq!(headers, ["apikey", "x-auth_key"]);
    assert_eq!(keys.expiry_notice, Some(Duration::from_hours(7 * 24)));
}

#[test]
fn headers_without_the_keys_that_come_in_them_are_an_error() {
    check(
        "[keys]\nimported_headers = [\"apikey\"]\n",
        "5:20: these headers are only looked at with `accept_imported`; write `accept_imported = \
         true` if keys of other systems are to be let in",
    );
}

#[test]
fn a_header_is_named_once_and_has_no_meaning_of_its_own() {
    let refused = |header: &str, expect: &str| {
        let part = "[keys]\naccept_imported = true\nimported_headers = [\"apikey\", ";
        check(&format!("{part}{header:?}]\n"), &format!("6:31: {expect}"));
    };
    refused("APIKEY", "this is in the list already");
    for header in [
        "Authorization",
        "cookie",
        "host",
        "X-Api-Key",
        "x_api_key",
        "connection",
        "x-keygate-key",
        "x_forwarded_user",
        "proxy-authorization",
        "content_length",
    ] {
        refused(
            header,
            "this header has a meaning of its own; name the header that held nothing but the \
             key, such as `apikey`",
        );
    }
    for header in ["", "api key", "api:key", "schlüssel"] {
        refused(
            header,
            "not the name of a header that keygate can look for; write 1 to 64 letters, digits, \
             `_` and `-`",
        );
    }
    check(
        "[keys]\naccept_imported = true\nimported_headers = [\"a\", \"b\", \"c\", \"d\", \"e\"]\n",
        "6:20: `imported_headers` is out of range: 0 to 4 elements",
    );
}

#[test]
fn a_notice_is_given_within_a_year() {
    check(
        "[keys]\nexpiry_notice = \"367d\"\n",
        "5:17: `expiry_notice` is out of range: `1s` to `366d`",
    );
}
