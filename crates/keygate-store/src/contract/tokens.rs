//! What every store promises about admin tokens.

use super::*;
use crate::records::{AdminToken, Role, TokenStatus};
use crate::testing::{token, token_id};

fn hash(n: u64) -> [u8; 32] {
    *digest(n).as_bytes()
}

pub(crate) fn an_admin_token_is_found_by_its_id_and_by_its_hash<S: KeyStore>(
    make: impl AsyncFn() -> S,
) {
    run(async {
        let store = make().await;
        assert_eq!(store.token(token_id(1)).await.unwrap(), None);
        assert_eq!(store.token_by_hash(hash(1)).await.unwrap(), None);
        assert_eq!(store.tokens(all()).await.unwrap(), []);
        let tokens = [
            token(1),
            AdminToken { role: Role::Viewer, expires_at: None, ..token(2) },
            AdminToken { role: Role::Admin, ..token(3) },
        ];
        for (token, number) in tokens.iter().zip(1..) {
            let write = Write::CreateToken(token.clone());
            let made = store.commit(write, audit("token.create")).await.unwrap();
            assert_eq!(made, ChangeNumber(number));
        }
        for token in &tokens {
            assert_eq!(store.token(token.id).await.unwrap().as_ref(), Some(token));
            assert_eq!(store.token_by_hash(token.sha256).await.unwrap().as_ref(), Some(token));
        }
        assert_eq!(store.tokens(all()).await.unwrap(), tokens);
        // A token is no key.
        assert_eq!(store.find(digest(1)).await.unwrap(), None);
        assert_eq!(store.peppers(NOW).await.unwrap(), []);
    });
}

pub(crate) fn an_admin_token_is_made_once<S: KeyStore>(make: impl AsyncFn() -> S) {
    run(async {
        let store = make().await;
        store.commit(Write::CreateToken(token(1)), audit("create")).await.unwrap();
        let same_id = AdminToken { sha256: hash(2), ..token(1) };
        let same_hash = AdminToken { id: token_id(2), ..token(1) };
        for token in [token(1), same_id, same_hash] {
            assert_eq!(refused(&store, Write::CreateToken(token)).await, "already exists");
        }
        assert_eq!(store.token(token_id(2)).await.unwrap(), None);
        assert_eq!(store.token_by_hash(hash(2)).await.unwrap(), None);
        assert_eq!(store.tokens(all()).await.unwrap(), [token(1)]);
        assert_eq!(store.audit(all()).await.unwrap().len(), 1);
    });
}

pub(crate) fn an_admin_token_keeps_its_hash<S: KeyStore>(make: impl AsyncFn() -> S) {
    run(async {
        let store = make().await;
        store.commit(Write::CreateToken(token(1)), audit("create")).await.unwrap();
        let revoked = AdminToken { status: TokenStatus::Revoked { at: NOW }, ..token(1) };
        let another_hash = AdminToken { sha256: hash(2), ..revoked.clone() };
        let ahead = AdminToken { version: Version(1), ..revoked.clone() };
        for (token, why) in
            [(another_hash, "not found"), (token(2), "not found"), (ahead, "conflict")]
        {
            assert_eq!(refused(&store, Write::UpdateToken(token)).await, why);
        }
        let write = Write::UpdateToken(revoked.clone());
        store.commit(write.clone(), audit("revoke")).await.unwrap();
        assert_eq!(refused(&store, write).await, "conflict");
        let stored = AdminToken { version: Version(1), ..revoked };
        assert_eq!(store.token_by_hash(hash(1)).await.unwrap(), Some(stored.clone()));
        assert_eq!(store.token(token_id(1)).await.unwrap(), Some(stored));
        assert_eq!(store.token_by_hash(hash(2)).await.unwrap(), None);
        assert_eq!(store.audit(all()).await.unwrap().len(), 2);
    });
}

pub(crate) fn admin_tokens_come_in_pages<S: KeyStore>(make: impl AsyncFn() -> S) {
    run(async {
        let store = make().await;
        for n in [4, 2, 5, 1, 3] {
            store.commit(Write::CreateToken(token(n)), audit("create")).await.unwrap();
        }
        for limit in 1..7 {
            let mut ids = vec![];
            loop {
                let page = Page { after: ids.last().copied(), limit };
                let part = store.tokens(page).await.unwrap();
                assert!(part.len() <= limit);
                ids.extend(part.iter().map(|token| token.id));
                if part.is_empty() {
                    break;
                }
            }
            assert_eq!(ids, [1, 2, 3, 4, 5].map(token_id));
        }
    });
}
