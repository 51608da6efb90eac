//! Step 4: the name by which the store knows a key. Each thread has a memo of those it saw lately.

use std::cell::RefCell;

use keygate_core::credential::Presented;
use keygate_core::key::Peppers;
use keygate_core::key::memo::{DigestMemo, Recalled};
use keygate_core::{Denial, KeyDigest};

thread_local! {
    static MEMO: RefCell<Option<DigestMemo>> = RefCell::new(secret().as_ref().map(DigestMemo::new));
}

/// What this thread remembers of a text that may be a key.
pub(crate) fn recall(text: &[u8], peppers: &Peppers) -> Recalled {
    MEMO.with_borrow_mut(|memo| match memo {
        Some(memo) => memo.recall(text, peppers),
        None => Recalled::Unknown(None),
    })
}

/// What a key's name is.
///
/// # Errors
/// [`Denial::KeyMalformed`] for one that has the shape of ours, and was not made under one of these peppers.
pub(crate) fn identify(key: &Presented, peppers: &Peppers) -> Result<KeyDigest, Denial> {
    let digest = match key {
        Presented::Ours(key) => MEMO.with_borrow_mut(|memo| match memo {
            Some(memo) => memo.identify(key, peppers),
            None => peppers.identify(key),
        }),
        Presented::Known(digest) | Presented::Imported(digest) => Some(*digest),
    };
    digest.ok_or(Denial::KeyMalformed)
}

/// From the operating system's randomness. Without any there is no memo.
fn secret() -> Option<[u8; 16]> {
    let mut secret = [0; 16];
    getrandom::fill(&mut secret).is_ok().then_some(secret)
}
