//! What the digests of keys were when they came before: a keyed hash of a key's text, made under a secret
//! of the memo's own, leads to what its HMAC came to, for a third of what that costs.
//!
//! A text that it knows was parsed and identified when it came before, so neither is done again. Only says
//! what [`Peppers::identify`] says. Who wants another answer has to find a text whose 128 bits
//! are those of a key that came lately, without knowing the secret that they are made under. Holds no
//! texts, and nothing of made-up keys.

use siphasher::sip128::SipHasher24;

use super::{KEY_LENGTH_MAX, KeyDigest, Peppers, PresentedKey};

/// So many keys are known at most: more than a busy thread sees again and again, and half a megabyte.
const SETS: usize = 4_096;
/// Where a name may be. With one place, keys that share it would push each other out in turns.
const WAYS: usize = 2;

/// After so many keys it is looked whether the memo was worth its cost.
const WINDOW: u32 = 1_024;
/// Of how many keys one has to be known, for that.
const WORTH_ONE_OF: u32 = 4;
/// For how many keys it is not asked if it was not.
const REST: u32 = 15 * WINDOW;

/// Belongs to one thread.
pub struct DigestMemo {
    /// Has taken in the secret.
    keyed: SipHasher24,
    sets: Box<[[Known; WAYS]]>,
    asked: u32,
    known: u32,
    /// How many keys yet to pass it by.
    resting: u32,
}

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Known {
    name: Name,
    digest: KeyDigest,
}

/// Two texts, or one under other peppers, have one name once in 2^128 times.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Name {
    text: u128,
    /// Of the peppers.
    mark: u64,
}

/// What is remembered of a text.
pub enum Recalled {
    /// It is a key, and this its digest.
    Known(KeyDigest),
    /// Nothing, and by what name it can be remembered.
    Unknown(Option<Name>),
}

impl DigestMemo {
    /// One that knows nothing. Nobody may know or guess the secret, and no other memo may have it.
    #[must_use]
    pub fn new(secret: &[u8; 16]) -> Self {
        // The name of no text, as good as surely.
        let nothing = Known { name: Name { text: 0, mark: 0 }, digest: KeyDigest([0; 32]) };
        Self {
            keyed: SipHasher24::new_with_key(secret),
            sets: vec![[nothing; WAYS]; SETS].into_boxed_slice(),
            asked: 0,
            known: 0,
            resting: 0,
        }
    }

    /// Whether a text is a key that came lately.
    #[must_use]
    pub fn recall(&mut self, text: &[u8], peppers: &Peppers) -> Recalled {
        if text.len() > KEY_LENGTH_MAX {
            return Recalled::Unknown(None);
        }
        if self.resting > 0 {
            self.resting -= 1;
            return Recalled::Unknown(None);
        }
        let name = self.name(text, peppers);
        let known = self.sets.get(name.place()).and_then(|set| set.iter().find(|k| k.name == name));
        match known.map(|known| known.digest) {
            Some(digest) => {
                self.count(1);
                Recalled::Known(digest)
            }
            None => Recalled::Unknown(Some(name)),
        }
    }

    /// As [`Peppers::identify`], of a key whose text was not known just now.
    #[must_use]
    pub fn identify(&mut self, key: &PresentedKey, peppers: &Peppers) -> Option<KeyDigest> {
        let digest = peppers.identify(key)?;
        if let Some(name) = key.name.filter(|name| name.mark == peppers.mark) {
            if let Some(set) = self.sets.get_mut(name.place()) {
                // The newest is first, and the oldest goes.
                set.rotate_right(1);
                if let Some(first) = set.first_mut() {
                    *first = Known { name, digest };
                }
            }
            self.count(0);
        }
        Some(digest)
    }

    fn name(&self, text: &[u8], peppers: &Peppers) -> Name {
        Name { text: self.keyed.hash(text).as_u128(), mark: peppers.mark }
    }

    fn count(&mut self, known: u32) {
        self.asked += 1;
        self.known += known;
        if self.asked == WINDOW {
            if self.known < WINDOW / WORTH_ONE_OF {
                self.resting = REST;
            }
            (self.asked, self.known) = (0, 0);
        }
    }
}

impl Name {
    fn place(self) -> usize {
        self.text as usize % SETS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{Environment, KeyKind, MintedKey, Pepper};

    fn pepper(n: u8) -> Pepper {
        Pepper::new(&[n; 32])
    }

    fn key(n: u32, pepper: &Pepper) -> PresentedKey {
        let mut entropy = [0; 32];
        entropy[..4].copy_from_slice(&n.to_be_bytes());
        let key = MintedKey::mint(KeyKind::Secret, Environment::Live, None, pepper, &entropy);
        PresentedKey::parse(key.reveal().as_bytes(), None).unwrap()
    }

    fn memo() -> DigestMemo {
        DigestMemo::new(&[5; 16])
    }

    /// What becomes of a key that comes, and whether it was known.
    fn come(memo: &mut DigestMemo, key: &PresentedKey, all: &Peppers) -> (Option<KeyDigest>, bool) {
        match memo.recall(key.text(), all) {
            Recalled::Known(digest) => (Some(digest), true),
            Recalled::Unknown(name) => {
                let mut again = PresentedKey::parse(key.text(), None).unwrap();
                again.name = name;
                (memo.identify(&again, all), false)
            }
        }
    }

    #[test]
    fn it_says_what_the_peppers_say_however_often_it_is_asked() {
        let all = [
            Peppers::new(pepper(1), Vec::new()),
            Peppers::new(pepper(2), vec![pepper(1)]),
            Peppers::new(pepper(2), Vec::new()),
            Peppers::new(pepper(1), vec![pepper(2)]),
        ];
        let keys: Vec<_> = (0..60).map(|n| key(n, &pepper(1 + u8::from(n % 3 == 0)))).collect();
        let mut memo = memo();
        for round in 0..4 {
            for (at, key) in keys.iter().enumerate() {
                let peppers = &all[(at + round) % all.len()];
                let (first, _) = come(&mut memo, key, peppers);
                let (second, was_known) = come(&mut memo, key, peppers);
                assert!(first == peppers.identify(key) && second == first);
                assert_eq!(was_known, first.is_some());
            }
        }
    }

    #[test]
    fn a_key_that_has_lost_its_pepper_is_not_known_any_more() {
        let (mut memo, key) = (memo(), key(1, &pepper(1)));
        assert!(come(&mut memo, &key, &Peppers::new(pepper(1), Vec::new())).0.is_some());
        assert!(come(&mut memo, &key, &Peppers::new(pepper(2), Vec::new())).0.is_none());
    }

    #[test]
    fn a_name_that_was_made_under_other_peppers_is_none_to_remember_by() {
        let (old, new) = (Peppers::new(pepper(1), Vec::new()), Peppers::new(pepper(2), vec![]));
        let (mut memo, mut key) = (memo(), key(1, &pepper(2)));
        let Recalled::Unknown(name) = memo.recall(key.text(), &old) else { panic!("known") };
        key.name = name;
        assert!(memo.identify(&key, &new).is_some());
        assert!(come(&mut memo, &key, &old).0.is_none());
        assert!(!come(&mut memo, &key, &new).1);
    }

    #[test]
    fn no_text_is_hashed_that_is_too_long_to_be_a_key() {
        let (mut memo, peppers) = (memo(), Peppers::new(pepper(1), Vec::new()));
        let recalled = memo.recall(&[b'a'; KEY_LENGTH_MAX + 1], &peppers);
        assert!(matches!(recalled, Recalled::Unknown(None)));
    }

    #[test]
    fn a_made_up_key_leaves_nothing() {
        let (mut memo, peppers) = (memo(), Peppers::new(pepper(1), Vec::new()));
        for n in 0..100 {
            assert!(come(&mut memo, &key(n, &pepper(9)), &peppers).0.is_none());
        }
        assert!(memo.sets.iter().flatten().all(|known| known.name.text == 0));
        assert_eq!((memo.asked, memo.resting), (0, 0));
    }

    #[test]
    fn one_that_never_knows_a_key_rests_and_tries_again() {
        let (mut memo, peppers) = (memo(), Peppers::new(pepper(1), Vec::new()));
        let mut next = 0;
        let mut ask_new = |memo: &mut DigestMemo| {
            next += 1;
            assert!(come(memo, &key(next, &pepper(1)), &peppers).0.is_some());
        };
        (0..WINDOW).for_each(|_| ask_new(&mut memo));
        assert_eq!(memo.resting, REST);
        (0..REST).for_each(|_| ask_new(&mut memo));
        assert_eq!((memo.resting, memo.asked), (0, 0));
        let again = key(u32::MAX, &pepper(1));
        (0..WINDOW).for_each(|_| assert!(come(&mut memo, &again, &peppers).0.is_some()));
        assert_eq!(memo.resting, 0, "all but the first were known");
    }

    #[test]
    fn each_memo_has_names_of_its_own() {
        let (key, peppers) = (key(1, &pepper(1)), Peppers::new(pepper(1), Vec::new()));
        let other = DigestMemo::new(&[6; 16]);
        assert!(memo().name(key.text(), &peppers) != other.name(key.text(), &peppers));
    }
}
