//! The key itself: its shape, its tag, and the digest by which a store knows it.
//!
//! `[brand_]{sk|pk|rk}_{live|test}_` + 44 base58 characters + a tag of 6 base62 characters. The tag
//! is the start of the key's HMAC, so a made-up key is refused by arithmetic alone.

use std::fmt;
use std::str::FromStr;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

pub mod memo;

const BODY_LENGTH: usize = 44;
const TAG_LENGTH: usize = 6;
const KIND_AND_ENVIRONMENT_LENGTH: usize = "sk_live_".len();
const BRAND_LENGTH_MAX: usize = 16;
const KEY_LENGTH_MAX: usize =
    BRAND_LENGTH_MAX + 1 + KIND_AND_ENVIRONMENT_LENGTH + BODY_LENGTH + TAG_LENGTH;
const KEY_WORDS: usize = KEY_LENGTH_MAX.div_ceil(size_of::<u64>());
/// The hint shows this much of the key after its brand: the kind, the environment, 4 characters.
const HINT_LENGTH: usize = 12;

/// A key's random part, in bytes.
pub const ENTROPY_LENGTH: usize = 32;

/// What a key may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyKind {
    /// `sk_`: kept on a server.
    Secret,
    /// `pk_`: may be seen in a browser, and can be bound to origins.
    Publishable,
    /// `rk_`: a secret key with few rights.
    Restricted,
}

impl KeyKind {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Secret => "sk",
            Self::Publishable => "pk",
            Self::Restricted => "rk",
        }
    }
}

/// Which half of the world a key or route belongs to. They never meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Environment {
    Live,
    Test,
}

impl Environment {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Test => "test",
        }
    }
}

/// A word is not one of the few that are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected one of {expected}")]
pub struct UnknownWord {
    pub expected: &'static str,
}

impl FromStr for KeyKind {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        match text {
            "sk" => Ok(Self::Secret),
            "pk" => Ok(Self::Publishable),
            "rk" => Ok(Self::Restricted),
            _ => Err(UnknownWord { expected: "sk, pk, rk" }),
        }
    }
}

impl FromStr for Environment {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        match text {
            "live" => Ok(Self::Live),
            "test" => Ok(Self::Test),
            _ => Err(UnknownWord { expected: "live, test" }),
        }
    }
}

/// The optional first part of a key, which tells a secret scanner whose key it found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Brand(Box<str>);

/// A brand breaks the rule for brands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a brand is 2 to 16 lower-case letters and digits, begins with a letter, and is not sk, pk or rk"
)]
pub struct InvalidBrand;

impl FromStr for Brand {
    type Err = InvalidBrand;

    fn from_str(text: &str) -> Result<Self, InvalidBrand> {
        let fits = (2..=BRAND_LENGTH_MAX).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
            && KeyKind::from_str(text).is_err();
        if fits { Ok(Self(text.into())) } else { Err(InvalidBrand) }
    }
}

impl Brand {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A key as a client sent it, of the right shape and of unknown worth.
///
/// The only type that holds one. It cannot be printed, cloned or serialised, and wipes itself:
///
/// ```compile_fail
/// fn log(key: keygate_core::PresentedKey) { println!("{key:?}") }
/// ```
/// ```compile_fail
/// fn log(key: keygate_core::PresentedKey) { println!("{key}") }
/// ```
/// ```compile_fail
/// fn copy(key: &keygate_core::PresentedKey) -> keygate_core::PresentedKey { key.clone() }
/// ```
pub struct PresentedKey {
    // Inline, so that presenting a key costs no allocation and leaves no copy on the heap. Words,
    // because wiping goes one element at a time.
    words: [u64; KEY_WORDS],
    length: usize,
    /// The number that the tag stands for; the first 32 bits of the digest if the key is ours.
    tag: u32,
    /// By what it can be remembered, if by anything.
    name: Option<memo::Name>,
}

/// A credential does not have the shape of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the shape of a key")]
pub struct Malformed;

impl PresentedKey {
    /// Reads a credential. Costs no hash: a wrong length or alphabet is found first.
    ///
    /// # Errors
    /// [`Malformed`] when it cannot be a key, whatever the pepper.
    pub fn parse(credential: &[u8], brand: Option<&Brand>) -> Result<Self, Malformed> {
        let unbranded = without_brand(credential, brand);
        if unbranded.len() != KIND_AND_ENVIRONMENT_LENGTH + BODY_LENGTH + TAG_LENGTH {
            return Err(Malformed);
        }
        let after_prefix = after_kind_and_environment(unbranded).ok_or(Malformed)?;
        let (body, tag) = after_prefix.split_at_checked(BODY_LENGTH).ok_or(Malformed)?;
        // Looks at every byte whatever it finds: without a branch in it the loop takes many at once.
        let body: &[u8; BODY_LENGTH] = body.try_into().map_err(|_| Malformed)?;
        if body.iter().fold(0, |odd, &byte| odd | u8::from(!is_base58(byte))) != 0 {
            return Err(Malformed);
        }
        let tag = decode_tag(tag).ok_or(Malformed)?;
        let mut key = Self { words: [0; KEY_WORDS], length: credential.len(), tag, name: None };
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut key.words);
        bytes.get_mut(..credential.len()).ok_or(Malformed)?.copy_from_slice(credential);
        Ok(key)
    }

    /// With the name by which it can be remembered: that of its own text.
    pub(crate) fn named(mut self, name: Option<memo::Name>) -> Self {
        self.name = name;
        self
    }

    /// All of it.
    fn text(&self) -> &[u8] {
        let bytes: &[u8] = bytemuck::cast_slice(&self.words);
        bytes.get(..self.length).unwrap_or_default()
    }

    /// Everything before the tag: what the digest is made of.
    fn payload(&self) -> &[u8] {
        self.text().get(..self.length - TAG_LENGTH).unwrap_or_default()
    }
}

impl Drop for PresentedKey {
    fn drop(&mut self) {
        self.words.zeroize();
        self.tag.zeroize();
    }
}

/// Whether a text begins as our keys do, complete or not. Such a text is never sent to an upstream.
#[must_use]
pub fn has_our_shape(text: &[u8], brand: Option<&Brand>) -> bool {
    after_kind_and_environment(without_brand(text, brand)).is_some()
}

/// Whether something that begins as our keys do is anywhere in a text.
#[must_use]
pub fn holds_our_shape(text: &[u8]) -> bool {
    text.windows(KIND_AND_ENVIRONMENT_LENGTH).any(|part| after_kind_and_environment(part).is_some())
}

fn without_brand<'a>(text: &'a [u8], brand: Option<&Brand>) -> &'a [u8] {
    brand
        .and_then(|brand| text.strip_prefix(brand.0.as_bytes())?.strip_prefix(b"_"))
        .unwrap_or(text)
}

fn after_kind_and_environment(text: &[u8]) -> Option<&[u8]> {
    let (prefix, rest) = text.split_at_checked(KIND_AND_ENVIRONMENT_LENGTH)?;
    matches!(
        prefix,
        b"sk_live_" | b"sk_test_" | b"pk_live_" | b"pk_test_" | b"rk_live_" | b"rk_test_"
    )
    .then_some(rest)
}

/// All letters and digits but `0`, `I`, `O` and `l`. By arithmetic, which can be done to many bytes at once.
fn is_base58(byte: u8) -> bool {
    let is_digit = byte.wrapping_sub(b'1') < 9;
    let letter = (byte | 0x20).wrapping_sub(b'a');
    let is_odd_one = (byte == b'I') | (byte == b'O') | (byte == b'l');
    is_digit | ((letter < 26) & !is_odd_one)
}

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The tag's number, or nothing if a character or the value is out of range.
fn decode_tag(tag: &[u8]) -> Option<u32> {
    let mut value: u64 = 0;
    for &byte in tag {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'A'..=b'Z' => byte - b'A' + 10,
            b'a'..=b'z' => byte - b'a' + 36,
            _ => return None,
        };
        value = value * 62 + u64::from(digit);
    }
    u32::try_from(value).ok()
}

fn encode_tag(value: u32) -> [u8; TAG_LENGTH] {
    let mut tag = [b'0'; TAG_LENGTH];
    let mut rest = value;
    for slot in tag.iter_mut().rev() {
        *slot = BASE62.get((rest % 62) as usize).copied().unwrap_or(b'0');
        rest /= 62;
    }
    tag
}

/// HMAC-SHA256(pepper, key without its tag): the only name a store has for a key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyDigest([u8; 32]);

impl KeyDigest {
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The digest of a key that another system made, from the plain SHA-256 of its text. A namespace
    /// of its own: no such digest is ever that of a key of ours, and a store holds no plain SHA-256.
    #[must_use]
    pub fn of_imported(sha256_of_text: &[u8; 32]) -> Self {
        let hash = Sha256::new_with_prefix(b"keygate imported key v1\0");
        Self(hash.chain_update(sha256_of_text).finalize().into())
    }

    /// The first 64 bits. As good as any hash of the digest: an attacker cannot choose a keyed HMAC.
    #[must_use]
    pub fn prefix(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }

    fn tag(&self) -> u32 {
        let [a, b, c, d, ..] = self.0;
        u32::from_be_bytes([a, b, c, d])
    }
}

impl std::hash::Hash for KeyDigest {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        state.write_u64(self.prefix());
    }
}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyDigest(..)")
    }
}

/// The secret that makes digests: without it a copy of the store proves nothing about any key.
///
/// Holds the HMAC's key schedule, not the bytes, and cannot be printed.
pub struct Pepper {
    keyed: Hmac<Sha256>,
    id: PepperId,
}

/// Names a pepper without telling it, so that a store can say which one its keys depend on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PepperId([u8; 8]);

impl PepperId {
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(bytes)
    }

    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 8] {
        &self.0
    }
}

impl fmt::Display for PepperId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PepperId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PepperId({self})")
    }
}

impl FromStr for PepperId {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        const WRONG: UnknownWord = UnknownWord { expected: "16 hex digits" };
        if text.len() != 16 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(WRONG);
        }
        let number = u64::from_str_radix(text, 16).map_err(|_| WRONG)?;
        Ok(Self(number.to_be_bytes()))
    }
}

impl Pepper {
    #[must_use]
    pub fn new(secret: &[u8; 32]) -> Self {
        let keyed = keyed_hmac(secret);
        // Domain-separated from every key digest: no key contains a space.
        let name = keyed.clone().chain_update(b"keygate pepper id").finalize().into_bytes();
        let mut id = [0; 8];
        id.iter_mut().zip(name).for_each(|(to, from)| *to = from);
        Self { keyed, id: PepperId(id) }
    }

    #[must_use]
    pub fn id(&self) -> PepperId {
        self.id
    }

    fn digest(&self, payload: &[u8]) -> KeyDigest {
        KeyDigest(self.keyed.clone().chain_update(payload).finalize().into_bytes().into())
    }

    /// 32 secret bytes that only the pepper's owner can make again, and that differ for each label.
    #[must_use]
    pub fn derive(&self, label: &str) -> Zeroizing<[u8; ENTROPY_LENGTH]> {
        let derived = self.keyed.clone().chain_update(b"keygate derive ").chain_update(label);
        Zeroizing::new(derived.finalize().into_bytes().into())
    }
}

fn keyed_hmac(secret: &[u8; 32]) -> Hmac<Sha256> {
    // `KeyInit::new` takes a whole block; RFC 2104 pads a shorter key with zeros.
    let mut block = Zeroizing::new([0; 64]);
    block.iter_mut().zip(secret).for_each(|(to, from)| *to = *from);
    Hmac::new((&*block).into())
}

/// The peppers in use: the one that new keys are made under, and those that older keys depend on.
pub struct Peppers {
    current: Pepper,
    previous: Vec<Pepper>,
    /// Tells them from others, and from the same in another order.
    mark: u64,
}

impl Peppers {
    #[must_use]
    pub fn new(current: Pepper, previous: Vec<Pepper>) -> Self {
        let ids: Vec<u8> =
            std::iter::once(&current).chain(&previous).flat_map(|pepper| pepper.id.0).collect();
        let mark = KeyDigest(sha256(&ids)).prefix();
        Self { current, previous, mark }
    }

    #[must_use]
    pub fn current(&self) -> &Pepper {
        &self.current
    }

    /// Every pepper, the current one first.
    pub fn iter(&self) -> impl Iterator<Item = &Pepper> {
        std::iter::once(&self.current).chain(&self.previous)
    }

    /// The name by which the store knows this key, if it was made under one of our peppers.
    ///
    /// The tag only ever rejects: a match says no more than that a look-up is worth its cost.
    #[must_use]
    pub fn identify(&self, key: &PresentedKey) -> Option<KeyDigest> {
        self.iter().map(|pepper| pepper.digest(key.payload())).find(|d| d.tag() == key.tag)
    }
}

/// A key that was just made. Its text can be taken once, to be shown once.
pub struct MintedKey {
    text: Zeroizing<String>,
    pub digest: KeyDigest,
    pub pepper: PepperId,
    pub hint: String,
}

impl MintedKey {
    /// Makes a key from 32 bytes of the operating system's randomness.
    #[must_use]
    pub fn mint(
        kind: KeyKind,
        environment: Environment,
        brand: Option<&Brand>,
        pepper: &Pepper,
        entropy: &[u8; ENTROPY_LENGTH],
    ) -> Self {
        let mut text = Zeroizing::new(String::with_capacity(KEY_LENGTH_MAX));
        if let Some(brand) = brand {
            text.push_str(brand.as_str());
            text.push('_');
        }
        let hint_end = text.len() + HINT_LENGTH;
        for part in [kind.as_str(), "_", environment.as_str(), "_"] {
            text.push_str(part);
        }
        push_base58_padded(&mut text, entropy);
        let digest = pepper.digest(text.as_bytes());
        text.extend(encode_tag(digest.tag()).map(char::from));
        let hint = text.get(..hint_end).unwrap_or_default().to_owned();
        Self { text, digest, pepper: pepper.id(), hint }
    }

    /// The key itself, for the one answer that shows it.
    #[must_use]
    pub fn reveal(self) -> Zeroizing<String> {
        self.text
    }
}

/// Appends 44 base58 characters: 32 bytes need at most that many, fewer are padded with `1`.
fn push_base58_padded(text: &mut String, entropy: &[u8; ENTROPY_LENGTH]) {
    let mut encoded = Zeroizing::new([0u8; BODY_LENGTH]);
    let length = bs58::encode(entropy).onto(encoded.as_mut_slice()).unwrap_or(0);
    text.extend(std::iter::repeat_n('1', BODY_LENGTH - length));
    text.extend(encoded.iter().take(length).map(|&byte| char::from(byte)));
}

/// SHA-256, for comparing secrets that are random enough to need no pepper (admin tokens).
#[must_use]
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

#[cfg(test)]
mod tests;
