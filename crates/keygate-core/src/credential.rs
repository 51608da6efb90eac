//! Where the key is in a request: exactly one place, or the request is refused.

use base64::Engine;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use zeroize::Zeroizing;

use crate::decide::Denial;
use crate::key::{Brand, PresentedKey, has_our_shape, holds_our_shape};
use crate::path::hex;

/// The longest credential that is looked at, in bytes. What is longer is refused before any hash.
pub const CREDENTIAL_LENGTH_MAX: usize = 512;
const BASE64_LENGTH_MAX: usize = CREDENTIAL_LENGTH_MAX.div_ceil(3) * 4;

/// The headers in which a key is looked for, and the brand that ours begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialRules {
    pub bearer: Source,
    pub basic: Source,
    pub x_api_key: Source,
    pub brand: Option<Brand>,
}

/// Whether a place is one where keys may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    On,
    Off,
}

/// The places of one request, as sent. A header sent twice is there twice.
pub struct Places<'a, A, X> {
    pub authorization: A,
    pub x_api_key: X,
    /// The query, and the parameter that this route lets a key be in.
    pub query: Option<(&'a str, &'a str)>,
}

/// The one key of a request.
pub struct Credential {
    pub key: PresentedKey,
    pub place: Place,
}

/// Where a key was, and so what must not be forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Authorization,
    XApiKey,
    Query,
}

/// What one place holds.
enum Found {
    /// Nothing, or something that no rule takes for a key.
    Nothing,
    /// A credential for somebody else, such as a JWT; refused as a key if there is no other.
    Foreign,
    /// Something that begins as our keys do, whole or not.
    Ours(Option<PresentedKey>),
}

impl Found {
    fn meant_as_key(self) -> Self {
        match self {
            Self::Foreign => Self::Ours(None),
            Self::Nothing | Self::Ours(_) => self,
        }
    }
}

impl CredentialRules {
    /// Finds the key of a request.
    ///
    /// # Errors
    /// [`Denial::KeyMissing`], [`Denial::KeyMalformed`], or [`Denial::AmbiguousCredentials`] when
    /// more than one was sent, even if they are equal.
    pub fn extract<'a>(
        &self,
        places: Places<'_, impl Iterator<Item = &'a [u8]>, impl Iterator<Item = &'a [u8]>>,
    ) -> Result<Credential, Denial> {
        let Places { mut authorization, mut x_api_key, query } = places;
        let first_authorization = authorization.next().map(|value| self.read_authorization(value));
        let first_x_api_key = x_api_key.next().map(|value| self.read_x_api_key(value));
        if authorization.next().is_some() || x_api_key.next().is_some() {
            return Err(Denial::AmbiguousCredentials);
        }
        let in_query = query.map(|(query, name)| self.read_query(query, name)).transpose()?;
        choose(first_authorization, first_x_api_key, in_query)
    }

    /// Whether an `Authorization` value holds a key of ours in any dress, so that a public route
    /// drops it.
    #[must_use]
    pub fn authorization_is_ours(value: &[u8]) -> bool {
        let in_basic = |(scheme, rest): (&[u8], &[u8])| {
            scheme.eq_ignore_ascii_case(b"basic") && holds_our_shape(&decode_base64(rest).0)
        };
        holds_our_shape(value) || split_scheme(value).is_some_and(in_basic)
    }

    /// Whether an `X-API-Key` value holds a key of ours, so that a public route drops it.
    #[must_use]
    pub fn x_api_key_is_ours(value: &[u8]) -> bool {
        holds_our_shape(value)
    }

    fn read_authorization(&self, value: &[u8]) -> Found {
        let Some((scheme, rest)) = split_scheme(value) else { return Found::Nothing };
        if rest.is_empty() {
            // A bare key without its scheme is not a form that we accept, but it is a key.
            self.read(Source::Off, scheme)
        } else if scheme.eq_ignore_ascii_case(b"bearer") {
            self.read(self.bearer, rest)
        } else if scheme.eq_ignore_ascii_case(b"basic") {
            self.read_basic(rest)
        } else {
            self.read(Source::Off, rest)
        }
    }

    fn read_x_api_key(&self, value: &[u8]) -> Found {
        match value.trim_ascii() {
            b"" => Found::Nothing,
            // This header is ours alone: what is in it was meant as a key.
            value => self.read(self.x_api_key, value).meant_as_key(),
        }
    }

    /// `base64(K:)`: the key as user name, no password (RFC 7617 section 2).
    fn read_basic(&self, encoded: &[u8]) -> Found {
        let (decoded, whole) = decode_base64(encoded);
        let colon = decoded.iter().position(|&byte| byte == b':');
        let user = colon.and_then(|at| decoded.get(..at)).unwrap_or(&decoded);
        match self.read(self.basic, user) {
            // A password beside the key, or no colon at all: not the form that we asked for.
            Found::Ours(_) if !whole || colon != decoded.len().checked_sub(1) => Found::Ours(None),
            // Or the key as the password.
            Found::Nothing | Found::Foreign if holds_our_shape(&decoded) => Found::Ours(None),
            found @ (Found::Nothing | Found::Foreign | Found::Ours(_)) => found,
        }
    }

    /// # Errors
    /// [`Denial::AmbiguousCredentials`] when the parameter is there twice.
    fn read_query(&self, query: &str, name: &str) -> Result<Found, Denial> {
        let mut values = query_values(query, name);
        let value = values.next().unwrap_or_default();
        if values.next().is_some() {
            return Err(Denial::AmbiguousCredentials);
        }
        let mut decoded = Zeroizing::new([0; CREDENTIAL_LENGTH_MAX]);
        Ok(match decode_percent(value, decoded.as_mut_slice()) {
            Some([]) => Found::Nothing,
            Some(key) => self.read(Source::On, key).meant_as_key(),
            None => Found::Ours(None),
        })
    }

    fn read(&self, source: Source, value: &[u8]) -> Found {
        match source {
            Source::On if has_our_shape(value, self.brand.as_ref()) => {
                Found::Ours(PresentedKey::parse(value, self.brand.as_ref()).ok())
            }
            // Not where or how a key is sent, but it must not travel on.
            Source::On | Source::Off if holds_our_shape(value) => Found::Ours(None),
            Source::On => Found::Foreign,
            Source::Off => Found::Nothing,
        }
    }
}

fn choose(
    authorization: Option<Found>,
    x_api_key: Option<Found>,
    query: Option<Found>,
) -> Result<Credential, Denial> {
    let (mut ours, mut foreign) = (None, false);
    let mut consider = |place, found| match found {
        None | Some(Found::Nothing) => Ok(()),
        Some(Found::Foreign) => {
            foreign = true;
            Ok(())
        }
        Some(Found::Ours(_)) if ours.is_some() => Err(Denial::AmbiguousCredentials),
        Some(Found::Ours(key)) => {
            ours = Some((place, key));
            Ok(())
        }
    };
    consider(Place::Authorization, authorization)?;
    consider(Place::XApiKey, x_api_key)?;
    consider(Place::Query, query)?;
    match ours {
        Some((place, Some(key))) => Ok(Credential { key, place }),
        Some((_, None)) => Err(Denial::KeyMalformed),
        None if foreign => Err(Denial::KeyMalformed),
        None => Err(Denial::KeyMissing),
    }
}

/// `Bearer abc` as (`Bearer`, `abc`); nothing for an empty value.
fn split_scheme(value: &[u8]) -> Option<(&[u8], &[u8])> {
    let value = value.trim_ascii();
    let end = value.iter().position(|byte| matches!(byte, b' ' | b'\t')).unwrap_or(value.len());
    let (scheme, rest) = value.split_at_checked(end)?;
    (!scheme.is_empty()).then_some((scheme, rest.trim_ascii_start()))
}

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// A decoded user name and password, wiped when done with.
struct Decoded {
    buffer: Zeroizing<[u8; BASE64_LENGTH_MAX]>,
    length: usize,
}

impl std::ops::Deref for Decoded {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.buffer.get(..self.length).unwrap_or_default()
    }
}

/// Decodes as much as a credential may be long, and says whether that was all.
fn decode_base64(encoded: &[u8]) -> (Decoded, bool) {
    let within = encoded.get(..BASE64_LENGTH_MAX).unwrap_or(encoded);
    let mut buffer = Zeroizing::new([0; BASE64_LENGTH_MAX]);
    let length = BASE64.decode_slice(within, buffer.as_mut_slice()).unwrap_or(0);
    (Decoded { buffer, length }, within.len() == encoded.len())
}

/// The values of every parameter that is called `name` once decoded.
fn query_values<'a>(query: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    query.split('&').filter_map(move |pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        is_named(key, name).then_some(value)
    })
}

fn is_named(encoded: &str, name: &str) -> bool {
    let mut decoded = [0; QUERY_PARAM_LENGTH_MAX];
    decode_percent(encoded, &mut decoded).is_some_and(|decoded| decoded == name.as_bytes())
}

/// The longest name of a query parameter that may carry a key, in bytes.
pub const QUERY_PARAM_LENGTH_MAX: usize = 64;

/// Decodes escapes into `buffer`; nothing if it is too small or an escape is broken.
fn decode_percent<'b>(encoded: &str, buffer: &'b mut [u8]) -> Option<&'b [u8]> {
    let mut length = 0;
    let mut bytes = encoded.bytes();
    while let Some(byte) = bytes.next() {
        let decoded = match byte {
            b'%' => hex(bytes.next()?)? << 4 | hex(bytes.next()?)?,
            b'+' => b' ',
            other => other,
        };
        *buffer.get_mut(length)? = decoded;
        length += 1;
    }
    buffer.get(..length)
}

/// Whether a query has a parameter that is called `name` once decoded.
#[must_use]
pub fn holds_param(query: &str, name: &str) -> bool {
    query_values(query, name).next().is_some()
}

/// The query without the parameter that may carry a key; nothing if nothing is left.
#[must_use]
pub fn without_param(query: &str, name: &str) -> Option<String> {
    let is_other = |pair: &&str| {
        let key = pair.split_once('=').map_or(*pair, |(key, _)| key);
        !is_named(key, name)
    };
    let kept: Vec<&str> = query.split('&').filter(is_other).collect();
    (!kept.is_empty()).then(|| kept.join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{Environment, KeyKind, MintedKey, Pepper};

    fn rules() -> CredentialRules {
        CredentialRules {
            bearer: Source::On,
            basic: Source::On,
            x_api_key: Source::On,
            brand: None,
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
            query: Some((query, "api_key")),
        };
        match rules.extract(places) {
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
                query: Some((&query, "api_key")),
            };
            drop(rules().extract(places));
            let held = CredentialRules::authorization_is_ours(&authorization);
            proptest::prop_assert!(held || !authorization.windows(8).any(|w| w == b"sk_live_"));
            drop(without_param(&query, "api_key"));
        }
    }
}
