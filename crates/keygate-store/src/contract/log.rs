//! What every store promises about the audit log beyond its numbers.

use serde_json::json;

use super::*;
use crate::audit::Verifier;
use crate::keys::StoredRecord;
use crate::testing::{once, rotate, token};

pub(crate) fn a_note_is_an_entry_in_the_log_and_changes_nothing<S: KeyStore>(
    make: impl AsyncFn() -> S,
) {
    run(async {
        let store = make().await;
        let (account, app, key) = seed(&store).await;
        let note = AuditEntry { refused: Some("forbidden".to_owned()), ..audit("key.create") };
        let number = store.commit(Write::Note, note.clone()).await.unwrap();
        assert_eq!(number, ChangeNumber(4));
        let next = store.commit(Write::Note, note.clone()).await.unwrap();
        assert_eq!(next, ChangeNumber(5));
        let log: Vec<_> = entries(store.audit(all()).await.unwrap()).skip(3).collect();
        assert_eq!(log, [(number, note.clone()), (next, note)]);
        let found = store.find(key.digest).await.unwrap();
        assert_eq!(found, Some(OwnedKey { key, app, account }));
    });
}

pub(crate) fn what_an_entry_says_of_a_change_is_read_back<S: KeyStore>(make: impl AsyncFn() -> S) {
    run(async {
        let store = make().await;
        let serde_json::Value::Object(changes) = json!({"name": ["a \"quoted\" one", null], "expires_at": [null, u64::MAX], "n": [-1.5, {}]})
        else {
            unreachable!("it is an object")
        };
        let full = AuditEntry {
            changes,
            reason: Some("\u{1F511}\n".to_owned()),
            refused: Some("too_many_live_keys".to_owned()),
            ..audit("key.update")
        };
        let bare = AuditEntry { hint: None, from: None, ..audit("key.update") };
        for entry in [&full, &bare] {
            store.commit(Write::Note, entry.clone()).await.unwrap();
        }
        let log: Vec<_> = entries(store.audit(all()).await.unwrap()).collect();
        assert_eq!(log, [(ChangeNumber(1), full), (ChangeNumber(2), bare)]);
    });
}

/// Of every way to write, many at once.
pub(crate) fn the_seals_of_the_log_verify<S: KeyStore>(make: impl AsyncFn() -> S) {
    run(async {
        let store = Arc::new(make().await);
        let (_, app, key1) = seed(&*store).await;
        let imported = vec![StoredRecord::Account(account(2)), StoredRecord::App(app.clone())];
        store.import(imported, audit("import")).await.unwrap();
        store.commit(rotate(&key1, &key(2, &app), LIVE_MAX), audit("rotate")).await.unwrap();
        let write = Write::CreateToken(token(1));
        store.commit_once(write, audit("token"), once(1, 1)).await.unwrap();
        let mut commits = tokio::task::JoinSet::new();
        for n in 0..30 {
            let store = Arc::clone(&store);
            commits.spawn(async move {
                let entry = AuditEntry { reason: Some(format!("note {n}")), ..audit("note") };
                store.commit(Write::Note, entry).await.unwrap();
            });
        }
        commits.join_all().await;

        let mut verifier = Verifier::from_start();
        let log = store.audit(all()).await.unwrap();
        assert!(log.iter().all(|logged| logged.seal.is_some()));
        let found: Vec<_> = log.iter().flat_map(|logged| verifier.check(logged)).collect();
        assert_eq!(found, []);
        assert_eq!(verifier.finish(ChangeNumber(36)), None);
        assert_eq!(verifier.entries(), 36);

        // From any place on, in pages.
        let (number, link) = (log[9].number, log[9].seal.as_ref().unwrap().link);
        let mut verifier = Verifier::after(number, link);
        let mut after = number;
        loop {
            let part = store.audit(Page { after: Some(after), limit: 7 }).await.unwrap();
            let Some(last) = part.last() else { break };
            after = last.number;
            assert!(part.iter().all(|logged| verifier.check(logged).is_empty()));
        }
        assert_eq!(verifier.newest().map(|(number, _)| number), Some(ChangeNumber(36)));
    });
}
