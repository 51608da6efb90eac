//! What is shown of a query string. Too little rather than too much: what may be a secret is not shown.

use keygate_config::QueryShown;

use crate::mask::{mask_encoded, unescaped};

/// What stands for text that is not shown.
const HIDDEN: &str = "…";
/// From this length on, letters and digits without a break may be a key.
const TOKEN_LENGTH_MIN: usize = 24;
/// A parameter without a value that is longer may be a value without a name.
const FLAG_LENGTH_MAX: usize = 16;

/// The endings of words by which a parameter's name says that its value is a secret.
const SECRET_ENDINGS: [&str; 12] = [
    "key",
    "keys",
    "token",
    "tokens",
    "secret",
    "password",
    "passwd",
    "passphrase",
    "credential",
    "credentials",
    "signature",
    "authorization",
];
/// Whole words that say the same.
const SECRET_WORDS: [&str; 13] = [
    "pass",
    "pwd",
    "auth",
    "sig",
    "hmac",
    "jwt",
    "bearer",
    "session",
    "sessionid",
    "sid",
    "otp",
    "pin",
    "assertion",
];
/// Whole names that do.
const SECRET_NAMES: [&str; 2] = ["code", "k"];

/// The query as it may be shown, if any of it may. `key_params` are the parameters that may hold a key.
pub(super) fn shown(query: &str, how: QueryShown, key_params: &[Box<str>]) -> Option<String> {
    let has_values = match how {
        QueryShown::Off => return None,
        QueryShown::Names => false,
        QueryShown::Full => true,
    };
    let mut text = String::with_capacity(query.len());
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        if !text.is_empty() {
            text.push('&');
        }
        let (name, value) = match parameter.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (parameter, None),
        };
        let is_name = |text: &str| is_name(text, value.is_some()) && !may_be_token(text);
        let plain_name = unescaped(name).filter(|name| is_name(name));
        text.push_str(if plain_name.is_some() { name } else { HIDDEN });
        if let Some(value) = value.filter(|_| has_values) {
            text.push('=');
            let is_public = value.is_empty()
                || plain_name.is_some_and(|name| is_public(&name, value, key_params));
            text.push_str(if is_public { value } else { HIDDEN });
        }
    }
    if text.is_empty() { None } else { Some(mask_encoded(&text).into_owned()) }
}

/// Whether this is what parameters are called. A text without a value may be the value of something.
fn is_name(text: &str, has_value: bool) -> bool {
    let is_one_of_it = |letter: char| letter.is_ascii_alphanumeric() || "_-.[]$: ".contains(letter);
    let has = |is_so: fn(&u8) -> bool| text.bytes().any(|byte| is_so(&byte));
    let is_mixed = has(u8::is_ascii_digit) && has(u8::is_ascii_alphabetic);
    text.chars().all(is_one_of_it) && (has_value || text.len() <= FLAG_LENGTH_MAX && !is_mixed)
}

fn is_public(name: &str, value: &str, key_params: &[Box<str>]) -> bool {
    let is_public = |value: &str| !may_be_token(value) && !holds_secret(value, key_params);
    !is_of_secret(name, key_params) && unescaped(value).is_some_and(|value| is_public(&value))
}

fn is_of_secret(name: &str, key_params: &[Box<str>]) -> bool {
    names_secret(name) || key_params.iter().any(|param| param.eq_ignore_ascii_case(name))
}

/// Whether a value is a URL or a form that has a secret of its own.
fn holds_secret(value: &str, key_params: &[Box<str>]) -> bool {
    if value.split_once("://").is_some_and(|(_, rest)| rest.contains('@')) {
        return true;
    }
    let mut parts = value.split(['?', '&', ';', '#']).filter_map(|part| part.split_once('='));
    parts.any(|(name, _)| is_of_secret(name, key_params))
}

fn names_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let mut words = name.split(|letter: char| !letter.is_ascii_alphanumeric());
    SECRET_NAMES.contains(&&*name)
        || words.any(|word| {
            SECRET_WORDS.contains(&word)
                || SECRET_ENDINGS.iter().any(|ending| word.ends_with(ending))
        })
}

/// Whether a part of this looks like a key or token of whoever made it.
fn may_be_token(text: &str) -> bool {
    let is_one_of_it = |letter: char| letter.is_ascii_alphanumeric() || "-_~".contains(letter);
    text.split(|letter| !is_one_of_it(letter)).any(|run| {
        run.len() >= TOKEN_LENGTH_MIN
            && run.bytes().any(|byte| byte.is_ascii_digit())
            && run.bytes().any(|byte| byte.is_ascii_alphabetic())
            && !is_uuid(run)
    })
}

fn is_uuid(text: &str) -> bool {
    let is_hex = |part: &str| part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let lengths = text.split('-').map(str::len);
    lengths.eq([8, 4, 4, 4, 12]) && text.split('-').all(is_hex)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "sk_live_111thX6LZfHDZZKUs92febYZhYRcXddmzfzF2NvTkPNE1rz4QK";

    fn full(query: &str) -> String {
        shown(query, QueryShown::Full, &["ticket".into()]).unwrap_or_default()
    }

    fn names(query: &str) -> String {
        shown(query, QueryShown::Names, &[]).unwrap_or_default()
    }

    #[test]
    fn names_are_shown_without_values() {
        assert_eq!(names("page=2&sort=&flag&a%20b=c%3Dd&&=x"), "page&sort&flag&a%20b&");
        assert_eq!(names(""), "");
        assert_eq!(shown("page=2", QueryShown::Off, &[]), None);
    }

    #[test]
    fn a_name_that_is_a_key_is_not_shown() {
        assert_eq!(names(&format!("{KEY}&page=2")), "…&page");
        assert_eq!(names(&format!("x{}=1", &KEY[..20])), "xsk_live_111t…");
        assert_eq!(names(&KEY.replace('l', "%6c").replace('_', "%255F")), "…");
        assert_eq!(full(&format!("{KEY}=1&a=b")), "…=…&a=b");
    }

    #[test]
    fn a_value_without_a_name_is_not_shown_as_one() {
        for query in [
            "password%3Dhunter2",
            "password%253Dhunter2",
            "AKIAIOSFODNN7EXAMPLE",
            "wJalr/K7MD/bPx",
            "https://user:pass@host/",
            "correcthorsebatterystaple",
            "hunter2",
        ] {
            assert_eq!(names(&format!("{query}&page=2")), "…&page", "{query}");
            assert_eq!(full(&format!("{query}&page=2")), "…&page=2", "{query}");
        }
        assert_eq!(full("next=https://user:pass@host/&b=2"), "next=…&b=2");
        assert_eq!(
            names("filter[name]=a&$top=1&a.b-c_d:e=2&verbose"),
            "filter[name]&$top&a.b-c_d:e&verbose"
        );
    }

    #[test]
    fn values_that_may_be_secrets_are_hidden() {
        for name in [
            "api_key",
            "apiKey",
            "X-Api-Key",
            "access_token",
            "client%5Fsecret",
            "PASSWORD",
            "code",
            "X-Amz-Signature",
            "sig",
            "auth",
            "session-id-token",
            "ticket",
            "Ticket",
            "k",
        ] {
            assert_eq!(full(&format!("a=1&{name}=hunter2&b=2")), format!("a=1&{name}=…&b=2"));
        }
        for value in [
            KEY,
            "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N",
            "0123456789abcdef0123456789abcdef",
            "ghp%5F0123456789abcdefghijABCDEFGHIJ012345",
            "https%3A%2F%2Fexample.com%2Fcb%3Fa%3D1%26access_token%3Dx",
        ] {
            assert_eq!(full(&format!("q={value}&b=2")), "q=…&b=2", "{value}");
        }
    }

    #[test]
    fn values_that_people_ask_for_are_shown() {
        for query in [
            "page=2&sort=name",
            "q=a+long+text+with+many+words+in+it+and+1+number",
            "from=2026-11-23T09:09:54Z",
            "id=018f6f6e-7a51-7cc3-98c8-1f0bd9d6f1a2",
            "keyword=shoes&country_code=de&author=me",
            "next=%2Fv1%2Forders%3Fpage%3D2",
            "flag&empty=",
        ] {
            assert_eq!(full(query), query);
        }
    }

    #[test]
    fn what_is_escaped_without_end_is_hidden() {
        let layers = "25".repeat(20);
        assert_eq!(full(&format!("a=%{layers}41&%{layers}41=b")), "a=…&…=…");
    }
}
