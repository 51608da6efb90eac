//! Step 4: the name by which the store knows a key. Each thread has a memo of those it saw lately.

use std::cell::RefCell;
use std::hash::{BuildHasher, RandomState};

use keygate_core::credential::Presented;
use keygate_core::key::Peppers;
use keygate_core::key::memo::DigestMemo;
use keygate_core::{Denial, KeyDigest};

thread_local! {
    static MEMO: RefCell<Option<DigestMemo>> = const { RefCell::new(None) };
}

/// What a key's name is.
///
/// # Errors
/// [`Denial::KeyMalformed`] for one that has the shape of ours, and was not made under one of these peppers.
pub(crate) fn identify(key: &Presented, peppers: &Peppers) -> Result<KeyDigest, Denial> {
    let digest = match key {
        Presented::Ours(key) => MEMO.with_borrow_mut(|memo| {
            memo.get_or_insert_with(|| DigestMemo::new(&secret())).identify(key, peppers)
        }),
        Presented::Imported(digest) => Some(*digest),
    };
    digest.ok_or(Denial::KeyMalformed)
}

/// From the operating system's randomness, as the secrets of all hash maps.
fn secret() -> [u8; 16] {
    let random = RandomState::new();
    let [first, second] = [0_u8, 1].map(|half| u128::from(random.hash_one(half)));
    (first << 64 | second).to_ne_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_memo_has_a_secret_of_its_own() {
        assert_ne!(secret(), secret());
    }
}
