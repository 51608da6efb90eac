//! Keys of other systems: found where those systems took them, and nothing is different without them.

use proptest::prelude::*;

use super::*;
use crate::key::Peppers;

const OLD: &str = "0f8b-OLD.key_7";
const OTHER: &str = "another-old-key";
const JWT: &str = "Bearer eyJhbGciOi.eyJzdWI.sig";

/// With two further headers.
fn on() -> CredentialRules {
    let headers = ["apikey", "x-auth-key"].map(Into::into);
    CredentialRules { imported: Some(ImportedRules { headers: headers.into() }), ..rules() }
}

#[derive(Clone, Debug, Default)]
struct Sent {
    authorization: Vec<String>,
    x_api_key: Vec<String>,
    further: Vec<(usize, String)>,
    query: String,
}

fn sent() -> Sent {
    Sent::default()
}

impl Sent {
    fn authorization(mut self, value: &str) -> Self {
        self.authorization.push(value.to_owned());
        self
    }

    fn x_api_key(mut self, value: &str) -> Self {
        self.x_api_key.push(value.to_owned());
        self
    }

    fn further(mut self, place: usize, value: &str) -> Self {
        self.further.push((place, value.to_owned()));
        self
    }

    fn query(self, query: &str) -> Self {
        Self { query: query.to_owned(), ..self }
    }

    fn extract(&self, rules: &CredentialRules) -> Result<Credential, Denial> {
        rules.extract(
            &mut nothing_known,
            Places {
                authorization: self.authorization.iter().map(|value| value.as_bytes()),
                x_api_key: self.x_api_key.iter().map(|value| value.as_bytes()),
                further: self.further.iter().map(|(place, value)| (*place, value.as_bytes())),
                query: Some((&self.query, "api_key")),
            },
        )
    }
}

fn digest_of(text: &str) -> KeyDigest {
    KeyDigest::of_imported(&sha256(text.as_bytes()))
}

/// That this text, at this place, is what counts as a key of another system.
#[track_caller]
fn finds(sent: &Sent, place: Place, text: &str) {
    match sent.extract(&on()) {
        Ok(Credential { key: Presented::Imported(digest), place: found, .. }) => {
            assert_eq!((found, digest), (place, digest_of(text)));
        }
        Ok(Credential { key: Presented::Ours(_) | Presented::Known(_), .. }) => {
            panic!("a key of ours")
        }
        Err(denial) => panic!("{denial:?}"),
    }
}

#[track_caller]
fn finds_ours(sent: &Sent, place: Place) {
    match sent.extract(&on()) {
        Ok(Credential { key: Presented::Ours(_), place: found, .. }) => assert_eq!(found, place),
        Ok(Credential { key: Presented::Known(_) | Presented::Imported(_), .. }) => {
            panic!("a key of another system")
        }
        Err(denial) => panic!("{denial:?}"),
    }
}

#[track_caller]
fn refuses(sent: &Sent, code: &str) {
    let found = sent.extract(&on()).map(|credential| credential.place);
    assert_eq!(found.map_err(|denial| denial.code().as_str()), Err(code));
}

#[test]
fn an_imported_key_is_found_in_each_place() {
    finds(&sent().x_api_key(OLD), Place::XApiKey, OLD);
    finds(&sent().x_api_key(&format!("  {OLD}\t")), Place::XApiKey, OLD);
    finds(&sent().further(0, OLD), Place::Further(0), OLD);
    finds(&sent().further(1, OLD), Place::Further(1), OLD);
    finds(&sent().authorization(&format!("Bearer {OLD}")), Place::Authorization, OLD);
    finds(&sent().authorization(&basic(&format!("{OLD}:"))), Place::Authorization, OLD);
    finds(&sent().authorization(OLD), Place::Authorization, OLD);
    finds(&sent().query(&format!("a=1&api_key={OLD}")), Place::Query, OLD);
    finds(&sent().query("api_key=a%20b%2b"), Place::Query, "a b+");
    let longest = "x".repeat(CREDENTIAL_LENGTH_MAX);
    finds(&sent().x_api_key(&longest), Place::XApiKey, &longest);
}

#[test]
fn an_imported_key_may_look_like_anything_even_like_the_beginning_of_ours() {
    for text in ["sk_live_0123456789", "acme_sk_test_x", "a:b", "ключ", "{\"k\":1}", "x y"] {
        finds(&sent().x_api_key(text), Place::XApiKey, text);
    }
    finds(
        &sent().authorization("Bearer sk_live_0123456789"),
        Place::Authorization,
        "sk_live_0123456789",
    );
}

#[test]
fn a_key_of_ours_is_never_taken_for_another_systems() {
    let ours = key();
    let mut wrong = ours.clone();
    wrong.replace_range(20..21, if &ours[20..21] == "2" { "3" } else { "2" });
    let peppers = Peppers::new(Pepper::new(&[1; 32]), vec![]);
    for place in [sent().x_api_key(&wrong), sent().authorization(&format!("Bearer {wrong}"))] {
        let found = place.extract(&on()).unwrap_or_else(|denial| panic!("{denial:?}"));
        assert!(matches!(found.key, Presented::Ours(_)));
        assert_eq!(found.key.digest(&peppers), None, "its tag is wrong: no look-up");
    }
}

#[test]
fn a_key_of_ours_may_come_where_theirs_came() {
    let ours = key();
    finds_ours(&sent().further(1, &ours), Place::Further(1));
    finds_ours(&sent().authorization(&ours), Place::Authorization);
    finds_ours(&sent().x_api_key(&ours).authorization(JWT), Place::XApiKey);
    finds_ours(&sent().further(0, &ours).authorization(OLD), Place::Further(0));
    finds_ours(
        &sent().authorization(&format!("Bearer {ours}")).further(0, " "),
        Place::Authorization,
    );
}

#[test]
fn a_place_that_is_for_keys_alone_counts_before_an_authorization_beside_it() {
    for beside in [JWT, &basic("user:"), OTHER, "Digest username=x", "Negotiate abc"] {
        finds(&sent().x_api_key(OLD).authorization(beside), Place::XApiKey, OLD);
        finds(&sent().further(0, OLD).authorization(beside), Place::Further(0), OLD);
        let query = format!("api_key={OLD}");
        finds(&sent().query(&query).authorization(beside), Place::Query, OLD);
    }
}

#[test]
fn the_same_imported_key_in_an_authorization_too_is_ambiguous() {
    let jwt = "eyJhbGciOi.eyJzdWI.sig";
    for text in [OLD, jwt] {
        let dresses = [text.to_owned(), format!("Bearer {text}"), basic(&format!("{text}:"))];
        for dress in dresses {
            let beside = sent().authorization(&dress);
            refuses(&beside.clone().x_api_key(text), "ambiguous_credentials");
            refuses(&beside.clone().further(0, text), "ambiguous_credentials");
            refuses(&beside.query(&format!("api_key={text}")), "ambiguous_credentials");
        }
    }
}

#[test]
fn an_authorization_beside_a_key_is_dropped_if_it_may_be_one() {
    let ours = key();
    let user_and_password = basic("user:pass");
    let drops = |authorization: &str, rules: &CredentialRules| {
        [sent().x_api_key(&ours), sent().query(&format!("api_key={ours}"))].map(|sent| {
            let found = sent.authorization(authorization).extract(rules);
            found.unwrap_or_else(|denial| panic!("{denial:?}")).drops_authorization
        })
    };
    let candidate_basic = basic(&format!("{OLD}:"));
    for may_be_one in [
        OLD,
        &format!("Bearer {OLD}"),
        &candidate_basic,
        "Bearer SG.part.part",
        "Bearer eyJh.b",
        "Bearer eyJh.b.c.d",
        "Bearer eyJh..c",
        "Bearer eyJh.b.c=",
    ] {
        assert_eq!(drops(may_be_one, &on()), [true; 2], "{may_be_one}");
        assert_eq!(drops(may_be_one, &rules()), [false; 2], "off: {may_be_one}");
    }
    let too_long = format!("Bearer {}", "x".repeat(CREDENTIAL_LENGTH_MAX + 1));
    let bare_jwt = JWT.trim_start_matches("Bearer ");
    for other in
        [JWT, bare_jwt, &user_and_password, "Digest username=x", "Negotiate abc", &too_long]
    {
        assert_eq!(drops(other, &on()), [false; 2], "{other}");
    }
    let no_bearer = CredentialRules { bearer: Source::Off, ..on() };
    assert_eq!(drops(&format!("Bearer {OLD}"), &no_bearer), [false; 2], "no key comes there");
}

#[test]
fn two_places_that_are_for_keys_alone_are_ambiguous_even_if_equal() {
    let (ours, query) = (key(), format!("api_key={OLD}"));
    for two in [
        sent().x_api_key(OLD).further(0, OLD),
        sent().x_api_key(OLD).query(&query),
        sent().further(0, OLD).further(1, OTHER),
        sent().further(0, OLD).further(0, OLD),
        sent().further(1, OLD).query(&query),
        sent().x_api_key(OLD).x_api_key(OLD),
        sent().authorization(OLD).authorization(OLD),
        // One of them would travel on.
        sent().x_api_key(&ours).further(0, OLD),
        sent().authorization(&format!("Bearer {ours}")).x_api_key(OLD),
        sent().authorization(&format!("Bearer {ours}")).further(0, OLD),
        sent().authorization(&format!("Token {ours}")).x_api_key(OLD),
    ] {
        refuses(&two, "ambiguous_credentials");
    }
}

#[test]
fn what_cannot_be_a_key_is_refused_as_ever() {
    refuses(&sent(), "api_key_missing");
    for missing in ["", "Bearer", "basic", "Digest x", "Negotiate abc"] {
        refuses(&sent().authorization(missing).x_api_key(" ").further(0, ""), "api_key_missing");
    }
    let long = "x".repeat(CREDENTIAL_LENGTH_MAX + 1);
    refuses(&sent().x_api_key(&long), "api_key_invalid");
    refuses(&sent().further(0, &long), "api_key_invalid");
    refuses(&sent().authorization(&format!("Bearer {long}")), "api_key_invalid");
    refuses(&sent().authorization(&long), "api_key_invalid");
    refuses(&sent().query(&format!("api_key={long}")), "api_key_invalid");
    for not_the_form in
        [format!("{OLD}:password"), OLD.to_owned(), ":".to_owned(), "a:b:".to_owned()]
    {
        refuses(&sent().authorization(&basic(&not_the_form)), "api_key_invalid");
    }
}

#[test]
fn a_source_that_is_off_is_off_for_their_keys_too() {
    let rules =
        CredentialRules { bearer: Source::Off, basic: Source::Off, x_api_key: Source::Off, ..on() };
    for sent in [
        sent().authorization(&format!("Bearer {OLD}")),
        sent().authorization(&basic(&format!("{OLD}:"))),
        sent().authorization(OLD),
        sent().x_api_key(OLD),
    ] {
        assert_eq!(sent.extract(&rules).err(), Some(Denial::KeyMissing));
    }
}

#[test]
fn a_key_on_its_own_is_read_as_one_in_a_request() {
    assert!(matches!(on().present(OLD.as_bytes()), Some(Presented::Imported(_))));
    assert!(matches!(on().present(key().as_bytes()), Some(Presented::Ours(_))));
    assert!(rules().present(OLD.as_bytes()).is_none());
    assert!(on().present(b" ").is_none());
}

fn any_value() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(key()),
        Just(OLD.to_owned()),
        Just(String::new()),
        Just(format!("Bearer {}", key())),
        Just(JWT.to_owned()),
        Just(basic(&format!("{OLD}:"))),
        Just(basic(&format!("{}:", key()))),
        "[ -~]{0,80}",
    ]
}

fn any_sent() -> impl Strategy<Value = Sent> {
    let values = || prop::collection::vec(any_value(), 0..2);
    let further = prop::collection::vec((0usize..2, any_value()), 0..2);
    (values(), values(), further, prop::option::of(any_value())).prop_map(
        |(authorization, x_api_key, further, query)| {
            let query = query.map_or_else(String::new, |value| format!("api_key={value}"));
            Sent { authorization, x_api_key, further, query }
        },
    )
}

/// Whether a value is one that must not reach an upstream whatever else counts.
fn holds_ours(value: &str) -> bool {
    CredentialRules::authorization_is_ours(value.as_bytes())
}

proptest! {
    /// What is not the one that counts goes on to the upstream: it is never a key of ours.
    #[test]
    fn no_key_of_ours_travels_beside_the_one_that_counts(sent in any_sent()) {
        if let Ok(Credential { place, .. }) = sent.extract(&on()) {
            let left_authorization = sent.authorization.iter().filter(|_| place != Place::Authorization);
            let left_x_api_key = sent.x_api_key.iter().filter(|_| place != Place::XApiKey);
            let left_further = sent.further.iter().filter(|(at, _)| place != Place::Further(*at));
            for value in left_authorization.chain(left_x_api_key).chain(left_further.map(|(_, v)| v)) {
                prop_assert!(!holds_ours(value), "{value} beside {place:?}");
            }
        }
    }

    /// Where other systems' keys are not let in, further headers are nobody's, and all is as it was.
    #[test]
    fn with_the_setting_off_no_key_is_another_systems(sent in any_sent()) {
        let sent = Sent { further: vec![], ..sent };
        let off = sent.extract(&rules());
        if let Ok(credential) = &off {
            prop_assert!(matches!(credential.key, Presented::Ours(_)));
            let on = sent.extract(&on()).map(|credential| credential.place);
            prop_assert_eq!(on, Ok(credential.place), "a key of ours counts with it, too");
        }
    }
}
