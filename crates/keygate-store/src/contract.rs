//! What every store promises, checked once for all of them. A store's tests name it with
//! `contract!(make)`, where `make` is an async closure that makes an empty one.

mod import;
mod log;
mod once;
mod peppers;
mod rotation;
mod sequence;
mod tokens;
mod usage;
mod uses;

use std::sync::Arc;

use keygate_core::key::PepperId;
use keygate_core::{KeyId, UnixMillis};

use crate::keys::{ChangeNumber, KeyStore, Page, StoreError, Write};
use crate::records::{
    Account, AccountStatus, App, AppStatus, AuditEntry, Key, KeyStatus, Logged, OwnedKey, Version,
};
use crate::testing::{
    LIVE_MAX, NOW, account, account_id, app, app_id, audit, create, digest, key, key_id,
    last_times, mark_used, revoked, seed, update,
};

pub(crate) use self::import::*;
pub(crate) use self::log::*;
pub(crate) use self::once::*;
pub(crate) use self::peppers::*;
pub(crate) use self::rotation::*;
pub(crate) use self::sequence::*;
pub(crate) use self::tokens::*;
pub(crate) use self::usage::*;
pub(crate) use self::uses::*;

/// Makes one test of each promise.
macro_rules! contract {
    ($make:expr) => {
        crate::contract::contract!($make;
            what_was_written_is_read_back
            what_was_never_written_is_absent
            nothing_is_created_twice
            a_child_needs_its_parent
            an_update_needs_the_version_that_is_stored
            what_names_a_record_never_changes
            a_refused_write_changes_nothing_and_is_not_logged
            only_live_keys_count_against_the_cap
            a_key_that_comes_back_to_life_counts_against_the_cap
            the_cap_holds_when_many_create_at_once
            pages_join_up_to_the_whole_list
            changes_are_numbered_without_gaps_in_the_order_of_their_commits
            one_of_many_editors_wins
            the_peppers_in_use_are_known
            a_pepper_that_no_live_key_needs_can_be_retired
            any_sequence_of_writes_ends_as_in_the_model
            imported_records_are_like_created_ones
            an_import_may_be_repeated
            an_import_leaves_alone_what_is_there_and_differs
            an_import_is_one_change_or_none
            an_import_needs_parents_before_children
            a_record_of_any_version_can_be_imported_and_then_changed
            any_imports_and_writes_end_as_in_the_model
            pepper_counts_say_how_many_keys_need_each
            a_key_of_another_system_needs_no_pepper
            a_rotation_makes_the_successor_and_keeps_the_old_key_to_the_end_of_the_overlap
            a_rotation_is_all_or_nothing
            a_rotation_that_is_refused_says_why
            a_key_that_has_a_successor_does_not_count_against_the_cap
            one_of_many_rotations_of_a_key_wins
            the_same_sent_many_times_at_once_is_done_once
            what_was_done_once_is_told_as_it_was_made
            another_request_under_the_same_name_is_told_apart
            a_name_is_forgotten_after_its_time
            many_names_that_are_over_make_room_for_new_ones
            what_was_refused_may_be_tried_again_under_the_same_name
            a_change_that_makes_nothing_is_not_done_once
            an_admin_token_is_found_by_its_id_and_by_its_hash
            an_admin_token_is_made_once
            an_admin_token_keeps_its_hash
            admin_tokens_come_in_pages
            the_last_use_of_a_key_is_its_latest
            uses_of_keys_that_are_unknown_do_no_harm
            the_uses_of_many_keys_are_noted_at_once
            a_batch_of_use_is_added_once_however_often_it_is_sent
            a_batch_of_use_waits_for_the_one_before_it
            a_loss_that_the_source_knows_of_passes
            sources_of_use_do_not_know_each_other
            use_is_read_in_whole_batches_while_it_is_added
            use_lies_in_the_minute_the_hour_and_the_day
            use_is_found_by_its_route_however_that_is_called
            big_batches_of_use_are_added_whole
            any_batches_of_use_add_up_as_in_the_model
            use_is_kept_for_as_long_as_it_is_to_be
            a_clock_that_jumps_ahead_takes_no_use_away
            the_last_use_of_a_key_has_an_address_and_a_route
            a_note_is_an_entry_in_the_log_and_changes_nothing
            what_an_entry_says_of_a_change_is_read_back
            the_seals_of_the_log_verify
        );
    };
    ($make:expr; $($promise:ident)*) => {$(
        #[test]
        fn $promise() {
            crate::contract::$promise($make);
        }
    )*};
}
pub(crate) use contract;

pub(crate) fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(future)
}

fn all<T>() -> Page<T> {
    Page { after: None, limit: 1_000 }
}

/// An error's kind, for comparing.
fn kind(error: &StoreError) -> &'static str {
    match error {
        StoreError::Unavailable(_) => "unavailable",
        StoreError::Conflict => "conflict",
        StoreError::AlreadyExists => "already exists",
        StoreError::NotFound(_) => "not found",
        StoreError::TooManyLiveKeys { .. } => "too many live keys",
        StoreError::NotDurable { .. } => "not durable",
        StoreError::Unreadable(_) => "unreadable",
    }
}

async fn refused<S: KeyStore>(store: &S, write: Write) -> &'static str {
    kind(&store.commit(write, audit("refused")).await.unwrap_err())
}

pub(crate) fn what_was_written_is_read_back<S: KeyStore>(make: impl AsyncFn() -> S) {
    run(async {
        let store = make().await;
        let (account, app, key) = seed(&store).await;
        assert_eq!(store.account(account.id).await.unwrap().as_ref(), Some(&account));
        assert_eq!(store.app(app.id).await.unwrap().as_ref(), Some(&app));
        assert_eq!(store.key(key.id).await.unwrap().as_ref(), Some(&key));
        let owned = OwnedKey { key: key.clone(), app, account };
        assert_eq!(store.find(key.digest).await.unwrap(), Some(owned));

        store.commit(update(revoked(&key)), audit("key.revoke")).await.unwrap();
        let found = store.find(key.digest).await.unwrap().unwrap();
        assert_eq!(found.key, Key { version: Version(1), ..revoked(&key) });
    });
}

pub(crate) fn what_was_never_written_is_absent<S: KeyStore>(make: impl AsyncFn() -> S) {
    run(async {
        let store = make().await;
        assert_eq!(store.find(digest(1)).await.unwrap(), None);
        assert_eq!(store.account(account_id(1)).await.unwrap(), None);
        assert_eq!(store.app(app_id(1)).await.unwrap(), None);
        assert_eq!(store.key(key_id(1)).await.unwrap(), None);
        assert_eq!(store.accounts(all()).await.unwrap(), []);
        assert_eq!(store.apps(account_id(1), all()).await.unwrap(), []);
        assert_eq!(store.keys(app_id(1), all()).await.unwrap(), []);
        assert_eq!(store.audit(all()).await.unwrap(), []);
        assert_eq!(store.peppers(NOW).await.unwrap(), []);
    });
}

pub(crate) fn nothing_is_created_twice<S: KeyStore>(make: impl AsyncFn() -> S) {
    run(async {
        let store = make().await;
        let (account, app, key) = seed(&store).await;
        let same_digest = Key { id: key_id(2), ..key.clone() };
        let same_id = Key { digest: digest(2), ..key.clone() };
        for write in [
            Write::CreateAccount(account),
            Write::CreateApp(app),
            create(&key),
            create(&same_digest),
            create(&same_id),
        ] {
            assert_eq!(refused(&store, write).await, "already exists");
        }
        assert_eq!(store.find(digest(2)).await.unwrap(), None);
    });
}

pub(crate) fn a_child_needs_its_parent<S: KeyStore>(make: impl AsyncFn() -> S) {
    run(async {
        let store = make().await;
        let (_, app1, _) = seed(&store).await;
        let stray_app = app(2, &account(9));
        let stray_key = key(2, &stray_app);
        let of_another_account = Key { account: account_id(9), ..key(3, &app1) };
        for write in [Write::CreateApp(stray_app), create(&stray_key), create(&of_another_account)]
        {
            assert_eq!(refused(&store, write).await, "not found");
        }
    });
}

pub(crate) fn an_update_needs_the_version_that_is_stored<S: KeyStore>(make: impl AsyncFn() -> S) {
    run(async {
        let store = make().await;
        let (account, app, key) = seed(&store).await;
        let updates = [
            Write::UpdateAccount(account.clone()),
            Write::UpdateApp(app.clone()),
            update(key.clone()),
        ];
        for write in updates {
            store.commit(write.clone(), audit("first")).await.unwrap();
            assert_eq!(refused(&store, write).await, "conflict");
        }
        assert_eq!(store.account(account.id).await.unwrap().unwrap().version, Version(1));
        assert_eq!(store.app(app.id).await.unwrap().unwrap().version, Version(1));
        assert_eq!(store.key(key.id).await.unwrap().unwrap().version, Version(1));
        let ahead = update(Key { version: Version(2), ..key });
        assert_eq!(refused(&store, ahead).await, "conflict");
        for absent in [
            Write::UpdateAccount(self::account(2)),
            Write::UpdateApp(self::app(2, &account)),
            update(self::key(2, &app)),
        ] {
            assert_eq!(refused(&store, absent).await, "not found");
        }
    });
}

pub(crate) fn what_names_a_record_never_changes<S: KeyStore>(make: impl AsyncFn() -> S) {
    run(async {
        let store = make().await;
        let (_, app, key) = seed(&store).await;
        store.commit(Write::CreateAccount(account(2)), audit("account")).await.unwrap();
        store.commit(Write::CreateApp(self::app(2, &account(2))), audit("app")).await.unwrap();
        let pepper = Some(PepperId::from_bytes([8; 8]));
        for write in [
            Write::UpdateApp(App { account: account_id(2), ..app }),
            update(Key { digest: digest(2), ..key.clone() }),
            update(Key { app: app_id(2), ..key.clone() }),
            update(Key { account: account_id(2), ..key.clone() }),
            update(Key { pepper, ..key.clone() }),
        ] {
            assert_eq!(refused(&store, write).await, "not found");
        }
        assert_eq!(store.key(key.id).await.unwrap(), Some(key));
    });
}

pub(crate) fn a_refused_write_changes_nothing_and_is_not_logged<S: KeyStore>(
    make: impl AsyncFn() -> S,
) {
    run(async {
        let store = make().await;
        let (_, app, key) = seed(&store).await;
        let logged = store.audit(all()).await.unwrap();
        let capped = Write::CreateKey { key: self::key(2, &app), live_max: 1, now: NOW };
        assert_eq!(refused(&store, capped).await, "too many live keys");
        assert_eq!(refused(&store, create(&key)).await, "already exists");
        assert_eq!(store.key(key_id(2)).await.unwrap(), None);
        assert_eq!(store.find(digest(2)).await.unwrap(), None);
        assert_eq!(store.keys(app.id, all()).await.unwrap(), [key]);
        assert_eq!(store.audit(all()).await.unwrap(), logged);
        let next = store.commit(create(&self::key(2, &app)), audit("next")).await.unwrap();
        assert_eq!(next, ChangeNumber(4));
    });
}

pub(crate) fn only_live_keys_count_against_the_cap<S: KeyStore>(make: impl AsyncFn() -> S) {
    run(async {
        let store = make().await;
        let (_, app, key1) = seed(&store).await;
        let create = |key: Key| Write::CreateKey { key, live_max: 2, now: NOW };
        let ends = |at| Some(UnixMillis(at));
        let expired = Key { expires_at: ends(NOW.0), ..key(2, &app) };
        let expiring = Key { expires_at: ends(NOW.0 + 1), ..key(3, &app) };
        store.commit(create(expired), audit("expired")).await.unwrap();
        store.commit(create(expiring.clone()), audit("expiring")).await.unwrap();
        let error = store.commit(create(key(4, &app)), audit("third")).await.unwrap_err();
        assert!(matches!(error, StoreError::TooManyLiveKeys { live: 2 }), "{error:?}");

        let disabled = Key { status: KeyStatus::Disabled, ..expiring };
        store.commit(update(disabled), audit("disable")).await.unwrap();
        assert_eq!(refused(&store, create(key(4, &app))).await, "too many live keys");
        store.commit(update(revoked(&key1)), audit("revoke")).await.unwrap();
        store.commit(create(key(4, &app)), audit("third")).await.unwrap();
    });
}

pub(crate) fn a_key_that_comes_back_to_life_counts_against_the_cap<S: KeyStore>(
    make: impl AsyncFn() -> S,
) {
    run(async {
        let store = make().await;
        let (_, app, key1) = seed(&store).await;
        let expired = Key { expires_at: Some(NOW), ..key(2, &app) };
        store.commit(create(&expired), audit("create")).await.unwrap();
        let update = |key: Key, live_max| Write::UpdateKey { key, live_max, now: NOW };
        for later in [Some(UnixMillis(NOW.0 + 1)), None] {
            let extended = Key { expires_at: later, ..expired.clone() };
            assert_eq!(refused(&store, update(extended, 1)).await, "too many live keys");
        }
        assert_eq!(store.key(expired.id).await.unwrap(), Some(expired.clone()));
        // What changes no key's life is never refused for the cap, however low it has become.
        let disabled = Key { status: KeyStatus::Disabled, ..key1.clone() };
        store.commit(update(disabled.clone(), 0), audit("disable")).await.unwrap();
        let enabled = Key { status: KeyStatus::Active, version: Version(1), ..key1 };
        store.commit(update(enabled, 0), audit("enable")).await.unwrap();
        let renamed = Key { name: None, ..expired.clone() };
        store.commit(update(renamed, 0), audit("rename")).await.unwrap();
        let extended = Key { expires_at: None, version: Version(1), ..expired };
        store.commit(update(extended, 2), audit("extend")).await.unwrap();
    });
}

pub(crate) fn the_cap_holds_when_many_create_at_once<S: KeyStore>(make: impl AsyncFn() -> S) {
    run(async {
        let store = Arc::new(make().await);
        let (_, app, _) = seed(&*store).await;
        let mut creates = tokio::task::JoinSet::new();
        for n in 2..30 {
            let (store, write) = (Arc::clone(&store), create(&key(n, &app)));
            creates.spawn(async move { store.commit(write, audit("create")).await });
        }
        let created = creates.join_all().await.iter().filter(|result| result.is_ok()).count();
        assert_eq!(created, LIVE_MAX as usize - 1);
        assert_eq!(store.keys(app.id, all()).await.unwrap().len(), LIVE_MAX as usize);
    });
}

pub(crate) fn pages_join_up_to_the_whole_list<S: KeyStore>(make: impl AsyncFn() -> S) {
    run(async {
        let store = make().await;
        let (account1, app1, _) = seed(&store).await;
        // Neighbours whose records must not show up in the lists.
        for n in [0, 2] {
            store.commit(Write::CreateAccount(account(n)), audit("account")).await.unwrap();
            store.commit(Write::CreateApp(app(n, &account(n))), audit("app")).await.unwrap();
            store.commit(create(&key(n, &app(n, &account(n)))), audit("key")).await.unwrap();
        }
        for n in [14, 12, 13, 11] {
            store.commit(Write::CreateApp(app(n, &account1)), audit("app")).await.unwrap();
            store.commit(create(&key(n, &app1)), audit("key")).await.unwrap();
        }
        for limit in 1..7 {
            let (mut apps, mut keys, mut accounts, mut log) = (vec![], vec![], vec![], vec![]);
            loop {
                let after = apps.last().copied();
                let part = store.apps(account1.id, Page { after, limit }).await.unwrap();
                apps.extend(part.iter().map(|app| app.id));
                let after = keys.last().copied();
                let part_keys = store.keys(app1.id, Page { after, limit }).await.unwrap();
                keys.extend(part_keys.iter().map(|key| key.id));
                let after = accounts.last().copied();
                let part_accounts = store.accounts(Page { after, limit }).await.unwrap();
                accounts.extend(part_accounts.iter().map(|account| account.id));
                let after = log.last().copied();
                let part_log = store.audit(Page { after, limit }).await.unwrap();
                log.extend(part_log.iter().map(|logged| logged.number));
                assert!([part.len(), part_keys.len(), part_log.len()].iter().all(|&l| l <= limit));
                if part_log.is_empty() {
                    break;
                }
            }
            assert_eq!(apps, [1, 11, 12, 13, 14].map(app_id));
            assert_eq!(keys, [1, 11, 12, 13, 14].map(key_id));
            assert_eq!(accounts, [0, 1, 2].map(account_id));
            assert_eq!(log, (1..=17).map(ChangeNumber).collect::<Vec<_>>());
        }
    });
}

pub(crate) fn changes_are_numbered_without_gaps_in_the_order_of_their_commits<S: KeyStore>(
    make: impl AsyncFn() -> S,
) {
    run(async {
        let store = Arc::new(make().await);
        let mut commits = tokio::task::JoinSet::new();
        for n in 0..40 {
            let store = Arc::clone(&store);
            commits.spawn(async move {
                let entry = audit(&format!("create {n}"));
                let number = store.commit(Write::CreateAccount(account(n)), entry.clone()).await;
                // Whoever begins after this commit returned gets a higher number.
                let later = Write::UpdateAccount(account(n));
                let later = store.commit(later, audit(&format!("update {n}"))).await.unwrap();
                assert!(later > *number.as_ref().unwrap());
                (number.unwrap(), entry)
            });
        }
        let mut acknowledged = commits.join_all().await;
        acknowledged.sort_by_key(|(number, _)| *number);
        let log = store.audit(all()).await.unwrap();
        let numbers: Vec<_> = log.iter().map(|logged| logged.number).collect();
        assert_eq!(numbers, (1..=80).map(ChangeNumber).collect::<Vec<_>>());
        let creates: Vec<_> =
            entries(log).filter(|(_, entry)| entry.action.starts_with("create")).collect();
        assert_eq!(creates, acknowledged);
    });
}

pub(crate) fn one_of_many_editors_wins<S: KeyStore>(make: impl AsyncFn() -> S) {
    run(async {
        let store = Arc::new(make().await);
        let (_, _, key) = seed(&*store).await;
        let mut edits = tokio::task::JoinSet::new();
        for n in 0..20 {
            let store = Arc::clone(&store);
            let edited = Key { name: Some(format!("edit {n}")), ..key.clone() };
            edits.spawn(async move {
                store.commit(update(edited.clone()), audit("edit")).await.map(|_| edited)
            });
        }
        let results = edits.join_all().await;
        let (won, lost): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
        let [winner] = won.try_into().unwrap();
        assert!(lost.iter().all(|lost| kind(lost.as_ref().unwrap_err()) == "conflict"));
        let stored = store.key(key.id).await.unwrap().unwrap();
        assert_eq!(stored, Key { version: Version(1), ..winner.unwrap() });
    });
}

/// A log without its seals.
fn entries(log: Vec<Logged>) -> impl Iterator<Item = (ChangeNumber, AuditEntry)> {
    log.into_iter().map(|logged| (logged.number, logged.entry))
}
