//! Where the key is in a request: exactly one place, or the request is refused.

use base64::Engine;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use zeroize::Zeroizing;

use crate::decide::Denial;
use crate::key::memo::Recalled;
use crate::key::{Brand, KeyDigest, Peppers, PresentedKey, has_our_shape, holds_our_shape, sha256};
use crate::path::hex;

/// The longest credential that is looked at, in bytes. What is longer is refused before any hash.
pub const CREDENTIAL_LENGTH_MAX: usize = 512;
const BASE64_LENGTH_MAX: usize = CREDENTIAL_LENGTH_MAX.div_ceil(3) * 4;

/// The most headers, besides our own, in which keys of other systems may come.
pub const FURTHER_HEADERS_MAX: usize = 4;

/// The headers in which a key is looked for, and the brand that ours begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialRules {
    pub bearer: Source,
    pub basic: Source,
    pub x_api_key: Source,
    pub brand: Option<Brand>,
    /// Given if keys that other systems made are keys, too.
    pub imported: Option<ImportedRules>,
}

/// How keys of other systems come. Whatever has not the shape of a key of ours may be one, so each
/// costs a look-up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportedRules {
    /// The headers in which those systems took them, in lower case: at most
    /// [`FURTHER_HEADERS_MAX`]. A key of ours may be there as well, so that it can take the place of
    /// one of theirs.
    pub headers: Box<[Box<str>]>,
}

/// Whether a place is one where keys may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    On,
    Off,
}

/// The places of one request, as sent. A header sent twice is there twice.
pub struct Places<'a, A, X, F> {
    pub authorization: A,
    pub x_api_key: X,
    /// The values of the [further headers](CredentialRules::further_headers), each with its header's
    /// place among them.
    pub further: F,
    /// The query, and the parameter that this route lets a key be in.
    pub query: Option<(&'a str, &'a str)>,
}

/// The one key of a request.
pub struct Credential {
    pub key: Presented,
    pub place: Place,
    /// Whether an `Authorization` beside it may be a key, too, and so must not be forwarded.
    pub drops_authorization: bool,
}

/// A key as it came.
pub enum Presented {
    /// Of the shape of ours.
    Ours(PresentedKey),
    /// One of ours that came before, as the name that it has in a store.
    Known(KeyDigest),
    /// Of any other shape, as the name that it would have in a store: its text is not kept.
    Imported(KeyDigest),
}

impl Presented {
    /// The name by which a store would know it. Nothing for a key that has the shape of ours, and was
    /// not made under one of these peppers.
    #[must_use]
    pub fn digest(&self, peppers: &Peppers) -> Option<KeyDigest> {
        match self {
            Self::Ours(key) => peppers.identify(key),
            Self::Known(digest) | Self::Imported(digest) => Some(*digest),
        }
    }
}

/// Where a key was, and so what must not be forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Authorization,
    XApiKey,
    /// A further header, by its place among them.
    Further(usize),
    Query,
}

/// What one place holds.
enum Found {
    /// Nothing, or something that no rule takes for a key.
    Nothing,
    /// An `Authorization` that is for somebody else, such as a JWT; taken for a key if there is no
    /// other.
    Foreign,
    /// What was meant as a key: one that is worth its look-up, or none.
    Meant(Option<Presented>),
}

impl CredentialRules {
    /// Finds the key of a request. Asks `recall` what is remembered of a text that has the shape of a key.
    ///
    /// # Errors
    /// [`Denial::KeyMissing`], [`Denial::KeyMalformed`], or [`Denial::AmbiguousCredentials`] when
    /// more than one was sent, even if they are equal.
    pub fn extract<'a>(
        &self,
        recall: &mut dyn FnMut(&[u8]) -> Recalled,
        places: Places<
            '_,
            impl Iterator<Item = &'a [u8]>,
            impl Iterator<Item = &'a [u8]>,
            impl Iterator<Item = (usize, &'a [u8])>,
        >,
    ) -> Result<Credential, Denial> {
        let Places { mut authorization, mut x_api_key, further, query } = places;
        let (first_authorization, first_x_api_key) = (authorization.next(), x_api_key.next());
        if authorization.next().is_some() || x_api_key.next().is_some() {
            return Err(Denial::AmbiguousCredentials);
        }
        let mut choice = Choice::default();
        if let Some(value) = first_authorization {
            choice.consider(Place::Authorization, self.read_authorization(value, recall))?;
        }
        if let Some(value) = first_x_api_key {
            let found = self.read_own(self.x_api_key, value.trim_ascii(), recall);
            choice.consider(Place::XApiKey, found)?;
        }
        for (at, value) in further {
            let found = self.read_own(Source::On, value.trim_ascii(), recall);
            choice.consider(Place::Further(at), found)?;
        }
        if let Some((query, name)) = query {
            choice.consider(Place::Query, self.read_query(query, name, recall)?)?;
        }
        self.made(choice, first_authorization)
    }

    /// A key on its own, without a request around it; nothing if it cannot be one.
    #[must_use]
    pub fn present(&self, text: &[u8]) -> Option<Presented> {
        match self.read_own(Source::On, text.trim_ascii(), &mut nothing_known) {
            Found::Meant(key) => key,
            Found::Nothing | Found::Foreign => None,
        }
    }

    /// The headers besides `Authorization` and `X-API-Key` that may carry a key, in lower case.
    #[must_use]
    pub fn further_headers(&self) -> &[Box<str>] {
        self.imported.as_ref().map(|imported| &*imported.headers).unwrap_or_default()
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

    fn read_authorization(&self, value: &[u8], recall: &mut dyn FnMut(&[u8]) -> Recalled) -> Found {
        let Some((scheme, rest)) = split_scheme(value) else { return Found::Nothing };
        if rest.is_empty() {
            self.read(self.bare(scheme), scheme, recall)
        } else if scheme.eq_ignore_ascii_case(b"bearer") {
            self.read(self.bearer, rest, recall)
        } else if scheme.eq_ignore_ascii_case(b"basic") {
            self.read_basic(rest, recall)
        } else {
            // A key may stand where the scheme should.
            self.read(Source::Off, if holds_our_shape(scheme) { scheme } else { rest }, recall)
        }
    }

    /// Whether an `Authorization` of one word may be a key without its scheme. Other systems take such
    /// keys; we do not, but know them.
    fn bare(&self, word: &[u8]) -> Source {
        let is_scheme = word.eq_ignore_ascii_case(b"bearer") || word.eq_ignore_ascii_case(b"basic");
        if self.imported.is_some() && !is_scheme { self.bearer } else { Source::Off }
    }

    /// A place that is ours alone: what is in it was meant as a key.
    fn read_own(
        &self,
        source: Source,
        value: &[u8],
        recall: &mut dyn FnMut(&[u8]) -> Recalled,
    ) -> Found {
        if value.is_empty() {
            return Found::Nothing;
        }
        match self.read(source, value, recall) {
            Found::Foreign => Found::Meant(self.imported(value)),
            found @ (Found::Nothing | Found::Meant(_)) => found,
        }
    }

    /// `base64(K:)`: the key as user name, no password (RFC 7617 section 2).
    fn read_basic(&self, encoded: &[u8], recall: &mut dyn FnMut(&[u8]) -> Recalled) -> Found {
        let (decoded, whole) = decode_base64(encoded);
        if (decoded.is_empty() || !whole) && holds_our_shape(encoded) {
            // A key that somebody forgot to encode.
            return Found::Meant(None);
        }
        let colon = decoded.iter().position(|&byte| byte == b':');
        let user = colon.and_then(|at| decoded.get(..at)).unwrap_or(&decoded);
        match self.read(self.basic, user, recall) {
            // A password beside the key, or no colon at all: not the form that we asked for.
            Found::Meant(_) if !whole || colon != decoded.len().checked_sub(1) => {
                Found::Meant(None)
            }
            // Or the key as the password.
            Found::Nothing | Found::Foreign if holds_our_shape(&decoded) => Found::Meant(None),
            found @ (Found::Nothing | Found::Foreign | Found::Meant(_)) => found,
        }
    }

    /// # Errors
    /// [`Denial::AmbiguousCredentials`] when the parameter is there twice.
    fn read_query(
        &self,
        query: &str,
        name: &str,
        recall: &mut dyn FnMut(&[u8]) -> Recalled,
    ) -> Result<Found, Denial> {
        let mut values = query_values(query, name);
        let value = values.next().unwrap_or_default();
        if values.next().is_some() {
            return Err(Denial::AmbiguousCredentials);
        }
        let mut decoded = Zeroizing::new([0; CREDENTIAL_LENGTH_MAX]);
        Ok(match decode_percent(value, decoded.as_mut_slice()) {
            Some(key) => self.read_own(Source::On, key, recall),
            None => Found::Meant(None),
        })
    }

    fn read(
        &self,
        source: Source,
        value: &[u8],
        recall: &mut dyn FnMut(&[u8]) -> Recalled,
    ) -> Found {
        match source {
            // One that is remembered was read as a key by the same rules: a text that begins so under two
            // brands, or none, is the same key under both.
            Source::On if has_our_shape(value, self.brand.as_ref()) => {
                Found::Meant(match recall(value) {
                    Recalled::Known(digest) => Some(Presented::Known(digest)),
                    Recalled::Unknown(name) => {
                        match PresentedKey::parse(value, self.brand.as_ref()) {
                            Ok(key) => Some(Presented::Ours(key.named(name))),
                            // Other systems' keys may begin so, too.
                            Err(_) => self.imported(value),
                        }
                    }
                })
            }
            Source::On if holds_our_shape(value) => Found::Meant(self.imported(value)),
            // Not where or how a key is sent, but it must not travel on.
            Source::Off if holds_our_shape(value) => Found::Meant(None),
            Source::On => Found::Foreign,
            Source::Off => Found::Nothing,
        }
    }

    /// A value that is no key of ours, as one that another system made. Hashed where it lies, so that
    /// no copy of it remains.
    fn imported(&self, value: &[u8]) -> Option<Presented> {
        let may_be = self.imported.is_some() && (1..=CREDENTIAL_LENGTH_MAX).contains(&value.len());
        may_be.then(|| Presented::Imported(KeyDigest::of_imported(&sha256(value))))
    }

    /// # Errors
    /// [`Denial::KeyMissing`], [`Denial::KeyMalformed`], and [`Denial::AmbiguousCredentials`] when the
    /// `Authorization` holds the same key of another system.
    fn made(&self, choice: Choice, authorization: Option<&[u8]>) -> Result<Credential, Denial> {
        let Choice { meant, has_foreign } = choice;
        let foreign = authorization.filter(|_| has_foreign);
        let (place, key, drops_authorization) = match (meant, foreign) {
            (Some((place, Some(key))), Some(beside)) if self.imported.is_some() => {
                let drops = self.may_be_a_key_beside(beside, &key)?;
                (place, Some(key), drops)
            }
            (Some((place, key)), _) => (place, key, false),
            (None, Some(alone)) => {
                (Place::Authorization, self.imported_in_authorization(alone), false)
            }
            (None, None) => return Err(Denial::KeyMissing),
        };
        key.map(|key| Credential { key, place, drops_authorization }).ok_or(Denial::KeyMalformed)
    }

    /// Whether a [foreign](Found::Foreign) `Authorization` beside a key may be a key of another system:
    /// it has the form, and is not plainly a JWT.
    ///
    /// # Errors
    /// [`Denial::AmbiguousCredentials`] when it is the same key.
    #[cold]
    fn may_be_a_key_beside(&self, value: &[u8], key: &Presented) -> Result<bool, Denial> {
        match (self.imported_in_authorization(value), key) {
            (None, _) => Ok(false),
            (Some(Presented::Imported(beside)), Presented::Imported(key)) if beside == *key => {
                Err(Denial::AmbiguousCredentials)
            }
            (Some(_), _) => Ok(!is_jwt_in_authorization(value)),
        }
    }

    /// The same of an `Authorization` that was found [foreign](Found::Foreign). Only now, so that a
    /// JWT beside a key costs nothing.
    #[cold]
    fn imported_in_authorization(&self, value: &[u8]) -> Option<Presented> {
        let (scheme, rest) = split_scheme(value)?;
        if rest.is_empty() {
            return self.imported(scheme);
        }
        if !scheme.eq_ignore_ascii_case(b"basic") {
            return self.imported(rest);
        }
        let (decoded, whole) = decode_base64(rest);
        let user = decoded.strip_suffix(b":").filter(|user| whole && !user.contains(&b':'))?;
        self.imported(user)
    }
}

/// Remembers no key.
pub fn nothing_known(_: &[u8]) -> Recalled {
    Recalled::Unknown(None)
}

/// The one place that counts, so far.
#[derive(Default)]
struct Choice {
    meant: Option<(Place, Option<Presented>)>,
    has_foreign: bool,
}

impl Choice {
    /// # Errors
    /// [`Denial::AmbiguousCredentials`] when another place counts already.
    fn consider(&mut self, place: Place, found: Found) -> Result<(), Denial> {
        match found {
            Found::Nothing => {}
            Found::Foreign => self.has_foreign = true,
            Found::Meant(_) if self.meant.is_some() => return Err(Denial::AmbiguousCredentials),
            Found::Meant(key) => self.meant = Some((place, key)),
        }
        Ok(())
    }
}

/// Whether an `Authorization` is a JWT, as `Bearer` or without a scheme.
fn is_jwt_in_authorization(value: &[u8]) -> bool {
    let is_bearer = |scheme: &[u8]| scheme.eq_ignore_ascii_case(b"bearer");
    split_scheme(value).is_some_and(|(scheme, rest)| match rest {
        [] => is_jwt(scheme),
        rest => is_bearer(scheme) && is_jwt(rest),
    })
}

/// Three parts of base64url, the first of which begins as a JSON object does (RFC 7519 section 3).
fn is_jwt(text: &[u8]) -> bool {
    let is_base64url = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let is_part = |part: &[u8]| !part.is_empty() && part.iter().all(is_base64url);
    (text.starts_with(b"ey") || text.starts_with(b"ew"))
        && text.split(|&byte| byte == b'.').count() == 3
        && text.split(|&byte| byte == b'.').all(is_part)
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
mod tests;
