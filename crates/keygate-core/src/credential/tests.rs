//! Where a key is found, and where it is not.

mod imported;

use super::*;
use crate::key::{Environment, KeyKind, MintedKey, Pepper};

fn rules() -> CredentialRules {
    CredentialRules {
        bearer: Source::On,
        basic: Source::On,
        x_api_key: Source::On,
        brand: None,
        imported: None,
    }
}

fn key() -> String {
    let pepper = Pepper::new(&[1; 32]);
    MintedKey::mint(KeyKind::Secret, Environment::Live, None, &pepper, &[3; 32])
        .reveal()
        .to_string()
}

fn basic(text: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(text))
}

fn extract(
    rules: &CredentialRules,
    authorization: &[&str],
    x_api_key: &[&str],
    query: &str,
) -> String {
    let places = Places {
        authorization: authorization.iter().map(|v| v.as_bytes()),
        x_api_key: x_api_key.iter().map(|v| v.as_bytes()),
        further: std::iter::empty(),
        query: Some((query, "api_key")),
    };
    match rules.extract(&mut nothing_known, places) {
        Ok(credential) => format!("{:?}", credential.place),
        Err(denial) => denial.code().as_str().to_owned(),
    }
}

fn check(authorization: &[&str], x_api_key: &[&str], query: &str, expect: &str) {
    let found = extract(&rules(), authorization, x_api_key, query);
    assert_eq!(found, expect, "{authorization:?} {x_api_key:?} {query}");
}

#[test]
fn a_key_is_found_in_each_place() {
    let k = key();
    check(&[&format!("Bearer {k}")], &[], "", "Authorization");
    check(&[&format!("bEARER   {k} ")], &[], "", "Authorization");
    check(&[&basic(&format!("{k}:"))], &[], "", "Authorization");
    check(&[], &[&k], "", "XApiKey");
    check(&[], &[], &format!("a=b&api_key={k}"), "Query");
    check(&[], &[], &format!("api%5Fkey={}", k.replace('_', "%5f")), "Query");
}

#[test]
fn none_is_missing() {
    check(&[], &[], "", "api_key_missing");
    for value in ["", " ", "Bearer", "Bearer ", "Digest x", "Negotiate abc"] {
        check(&[value], &[""], "api_key=&a=1", "api_key_missing");
    }
}

#[test]
fn what_is_not_a_key_is_invalid() {
    let k = key();
    check(&["Bearer eyJhbGciOi.eyJzdWI.sig"], &[], "", "api_key_invalid");
    check(&[&basic(&format!("{k}:password"))], &[], "", "api_key_invalid");
    check(&[&basic(&k)], &[], "", "api_key_invalid");
    check(&[&basic("user:pass")], &[], "", "api_key_invalid");
    check(&[&format!("Basic {k}")], &[], "", "api_key_invalid");
    // Beside another it would travel on to the upstream.
    check(&[&format!("Basic {k}")], &[&k], "", "ambiguous_credentials");
    check(&[&format!("basic x{k}:")], &[&k], "", "ambiguous_credentials");
    check(&[&format!("{k} x")], &[&k], "", "ambiguous_credentials");
    check(&[&format!("Bearer {}", &k[..50])], &[], "", "api_key_invalid");
    check(&[], &["nonsense"], "", "api_key_invalid");
    check(&[], &[&"x".repeat(600)], "", "api_key_invalid");
    check(&[], &[], &format!("api_key={}", "x".repeat(600)), "api_key_invalid");
    check(&[], &[], "api_key=%zz", "api_key_invalid");
    check(&[&basic(&format!("{k}:{}", "p".repeat(2_000)))], &[], "", "api_key_invalid");
}

#[test]
fn more_than_one_is_ambiguous_even_if_equal() {
    let k = key();
    let bearer = format!("Bearer {k}");
    check(&[&bearer, &bearer], &[], "", "ambiguous_credentials");
    check(&[], &[&k, &k], "", "ambiguous_credentials");
    check(&[&bearer], &[&k], "", "ambiguous_credentials");
    check(&[&bearer], &["nonsense"], "", "ambiguous_credentials");
    check(&[], &[&k], &format!("api_key={k}"), "ambiguous_credentials");
    check(&[], &[], &format!("api_key={k}&api%5fkey={k}"), "ambiguous_credentials");
    check(&[&basic(&format!("{k}:"))], &[&k], "", "ambiguous_credentials");
    check(&[&format!("Digest {k}")], &[&k], "", "ambiguous_credentials");
    check(&[&format!("Bearer \"{k}\"")], &[&k], "", "ambiguous_credentials");
    check(&[&basic(&format!("x:{k}"))], &[&k], "", "ambiguous_credentials");
}

#[test]
fn another_services_authorization_beside_our_key_does_not_matter() {
    let k = key();
    check(&["Bearer eyJhbGciOi.eyJzdWI.sig"], &[&k], "", "XApiKey");
    check(&["Digest username=x"], &[&k], "", "XApiKey");
    check(&[&basic("user:pass")], &[], &format!("api_key={k}"), "Query");
}

#[test]
fn a_source_that_is_off_is_not_read_but_never_forwarded() {
    let k = key();
    let no_bearer = CredentialRules { bearer: Source::Off, ..rules() };
    let jwt = "Bearer eyJhbGciOi.eyJzdWI.sig";
    assert_eq!(extract(&no_bearer, &[jwt], &[], ""), "api_key_missing");
    assert_eq!(extract(&no_bearer, &[&format!("Bearer {k}")], &[], ""), "api_key_invalid");
}

#[test]
fn a_public_route_knows_our_keys_in_any_dress() {
    let k = key();
    for ours in [
        format!("Bearer {k}"),
        format!("Bearer \"{k}\""),
        format!("Token token={k}"),
        basic(&format!("{k}:x")),
        basic(&format!("x:{k}")),
        k.clone(),
    ] {
        assert!(CredentialRules::authorization_is_ours(ours.as_bytes()), "{ours}");
    }
    assert!(CredentialRules::x_api_key_is_ours(format!("other, {k}").as_bytes()));
    assert!(!CredentialRules::authorization_is_ours(b"Bearer eyJhbGciOi"));
    assert!(!CredentialRules::authorization_is_ours(basic("user:pass").as_bytes()));
    assert!(!CredentialRules::x_api_key_is_ours(b"other"));
}

#[test]
fn the_parameter_is_taken_out_of_the_query() {
    assert_eq!(without_param("api_key=x", "api_key"), None);
    assert_eq!(without_param("a=1&api%5Fkey=x&b", "api_key").as_deref(), Some("a=1&b"));
    assert_eq!(without_param("a=1", "api_key").as_deref(), Some("a=1"));
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_refused_or_accepted(
        authorization in proptest::collection::vec(proptest::num::u8::ANY, 0..200),
        x_api_key in proptest::collection::vec(proptest::num::u8::ANY, 0..200),
        query in "\\PC{0,60}",
    ) {
        let places = Places {
            authorization: std::iter::once(authorization.as_slice()),
            x_api_key: std::iter::once(x_api_key.as_slice()),
            further: std::iter::empty(),
            query: Some((&query, "api_key")),
        };
        drop(rules().extract(&mut nothing_known, places));
        let held = CredentialRules::authorization_is_ours(&authorization);
        proptest::prop_assert!(held || !authorization.windows(8).any(|w| w == b"sk_live_"));
        drop(without_param(&query, "api_key"));
    }
}

#[test]
fn a_text_that_is_remembered_is_asked_about_only_where_it_would_be_a_key() {
    let digest = KeyDigest::from_bytes([3; 32]);
    let mut asked = Vec::new();
    let mut recall = |text: &[u8]| {
        asked.push(text.to_vec());
        Recalled::Known(digest)
    };
    let values = [b"Bearer sk_live_abc".as_slice(), b"Digest sk_live_abc", b"Bearer eyJ", b""];
    let found = values.map(|value| {
        let places = Places {
            authorization: [value].into_iter(),
            x_api_key: std::iter::empty(),
            further: std::iter::empty(),
            query: None,
        };
        let found = rules().extract(&mut recall, places);
        matches!(found, Ok(Credential { key: Presented::Known(known), .. }) if known == digest)
    });
    assert_eq!(found, [true, false, false, false]);
    assert_eq!(asked, [b"sk_live_abc"]);
}

#[test]
fn a_key_of_one_brand_is_not_asked_about_under_another() {
    let branded = |brand: Option<&str>| CredentialRules {
        brand: brand.map(|brand| brand.parse().unwrap()),
        ..rules()
    };
    for (brand, text, is_asked) in [
        (Some("acme"), "acme_sk_live_x", true),
        (Some("other"), "acme_sk_live_x", false),
        (None, "acme_sk_live_x", false),
        (Some("acme"), "sk_live_x", true),
        (None, "sk_live_x", true),
    ] {
        let mut asked = false;
        let mut recall = |_: &[u8]| {
            asked = true;
            Recalled::Unknown(None)
        };
        drop(branded(brand).read(Source::On, text.as_bytes(), &mut recall));
        assert_eq!(asked, is_asked, "{brand:?} {text}");
    }
}
