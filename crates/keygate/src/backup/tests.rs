//! What is exported is imported as it was; what is not whole, or is something else, is refused.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use keygate_core::{
    AccountId, AppId, Environment, KeyId, KeyKind, Pepper, Scope, UnixMillis, key::MintedKey,
};
use keygate_store::embedded::EmbeddedStore;
use keygate_store::keys::{ChangeNumber, KeyStore, Page, StoredRecord, Write as Change};
use keygate_store::records::{
    Account, AccountStatus, App, AppStatus, AuditEntry, Key, KeyStatus, Metadata, Version,
};
use tempfile::TempDir;

use super::*;

const NOW: UnixMillis = UnixMillis(1_700_000_000_000);
const PEPPER: [u8; 32] = [7; 32];

fn account(n: u8) -> Account {
    Account {
        id: AccountId::new(NOW, [n; 10]),
        name: format!("account {n}"),
        owner: None,
        purpose: None,
        status: AccountStatus::Active,
        metadata: Metadata::new(),
        created_at: NOW,
        updated_at: NOW,
        version: Version(3),
    }
}

fn app(n: u8, account: &Account) -> App {
    App {
        id: AppId::new(NOW, [n; 10]),
        account: account.id,
        name: format!("app {n}"),
        owner: None,
        purpose: None,
        environment: Environment::Live,
        granted_scopes: vec!["read:a".parse::<Scope>().unwrap()],
        allowed_cidrs: Vec::new(),
        tier: None,
        max_age: None,
        status: AppStatus::Active,
        metadata: Metadata::new(),
        created_at: NOW,
        updated_at: NOW,
        version: Version(1),
    }
}

fn key(n: u16, app: &App) -> Key {
    let mut id = [0; 10];
    id[..2].copy_from_slice(&n.to_be_bytes());
    let mut entropy = [0; 32];
    entropy[..2].copy_from_slice(&n.to_be_bytes());
    let pepper = Pepper::new(&PEPPER);
    let minted = MintedKey::mint(KeyKind::Secret, app.environment, None, &pepper, &entropy);
    Key {
        id: KeyId::new(NOW, id),
        digest: minted.digest,
        pepper: Some(minted.pepper),
        app: app.id,
        account: app.account,
        kind: KeyKind::Secret,
        environment: app.environment,
        name: None,
        owner: None,
        purpose: None,
        hint: minted.hint,
        scopes: Vec::new(),
        expires_at: None,
        tier: None,
        limits: None,
        allowed_cidrs: Vec::new(),
        allowed_origins: Vec::new(),
        metadata: Metadata::new(),
        rotated_from: None,
        rotated_to: None,
        status: match n % 2 {
            0 => KeyStatus::Active,
            _ => KeyStatus::Revoked { at: NOW, reason: Some("test".into()) },
        },
        created_at: NOW,
        updated_at: NOW,
        version: Version(u64::from(n)),
    }
}

/// With the pepper of all keys here.
fn terms(whole: Whole) -> Terms {
    Terms { whole, peppers: Peppers::Only(vec![Pepper::new(&PEPPER).id()]), now: NOW }
}

struct Machine {
    store: EmbeddedStore,
    folder: TempDir,
}

impl Machine {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { store: EmbeddedStore::open(&folder.path().join("keygate.db")).unwrap(), folder }
    }

    /// With more records of each kind than are read at a time.
    async fn full() -> Self {
        let machine = Self::new();
        let (first, second) = (account(1), account(2));
        let (web, batch) = (app(1, &first), app(2, &second));
        let mut records: Vec<StoredRecord> = vec![
            StoredRecord::Account(first),
            StoredRecord::Account(second),
            StoredRecord::App(web.clone()),
            StoredRecord::App(batch.clone()),
            StoredRecord::Key(key(9_000, &batch)),
        ];
        let many = u16::try_from(2 * PART + 3).unwrap();
        records.extend((0..many).map(|n| StoredRecord::Key(key(n, &web))));
        machine.store.import(records, entry()).await.unwrap();
        machine
    }

    async fn export(&self) -> Vec<u8> {
        let path = self.folder.path().join("backup.jsonl");
        export::to_file(&self.store, NOW, &path).await.unwrap();
        fs::read(path).unwrap()
    }

    async fn import(&self, text: &[u8], whole: Whole) -> anyhow::Result<(Outcome, String)> {
        let mut differing = Vec::new();
        let source = Source::of(text);
        let outcome = import::all(&self.store, source, &terms(whole), &mut differing).await?;
        Ok((outcome, String::from_utf8(differing).unwrap()))
    }

    async fn changes(&self) -> Vec<(ChangeNumber, AuditEntry)> {
        let log = self.store.audit(Page { after: None, limit: 100 }).await.unwrap();
        log.into_iter().map(|logged| (logged.number, logged.entry)).collect()
    }
}

fn entry() -> AuditEntry {
    AuditEntry {
        at: NOW,
        actor: "test".into(),
        action: "store.import".into(),
        subject: "store".into(),
        hint: None,
        from: None,
        reason: None,
        refused: None,
        changes: serde_json::Map::new(),
    }
}

const ALL: u64 = 2 * PART as u64 + 3 + 5;

#[tokio::test]
async fn what_is_exported_is_imported_as_it_was_and_once() {
    let (from, to) = (Machine::full().await, Machine::new());
    let backup = from.export().await;
    assert_eq!(backup.iter().filter(|&&byte| byte == b'\n').count() as u64, ALL + 2);
    let (outcome, differing) = to.import(&backup, Whole::Required).await.unwrap();
    let expected = Outcome {
        created: ALL,
        unchanged: 0,
        different: 0,
        peppers: BTreeSet::from([Pepper::new(&PEPPER).id()]),
    };
    assert_eq!((&outcome, &*differing), (&expected, ""));
    let first_line_end = backup.iter().position(|&byte| byte == b'\n').unwrap();
    assert_eq!(backup[first_line_end..], to.export().await[first_line_end..]);
    let changes = to.changes().await;
    let (again, _) = to.import(&backup, Whole::Required).await.unwrap();
    assert_eq!(again, Outcome { created: 0, unchanged: ALL, ..expected });
    assert_eq!(to.changes().await, changes, "nothing was written");
    assert!(changes.iter().all(|(_, entry)| entry.action == "store.import"), "{changes:?}");
}

#[tokio::test]
async fn a_record_that_differs_is_named_and_left_as_it_is() {
    let (from, to) = (Machine::full().await, Machine::new());
    let backup = from.export().await;
    to.import(&backup, Whole::Required).await.unwrap();
    let account = account(1);
    let stored = to.store.account(account.id).await.unwrap().unwrap();
    let renamed = Account { name: "renamed here".into(), ..stored };
    to.store.commit(Change::UpdateAccount(renamed.clone()), entry()).await.unwrap();
    let (outcome, differing) = to.import(&backup, Whole::Required).await.unwrap();
    assert_eq!((outcome.created, outcome.unchanged, outcome.different), (0, ALL - 1, 1));
    assert_eq!(differing, format!("{}\n", account.id));
    let kept = to.store.account(account.id).await.unwrap().unwrap();
    assert_eq!(kept.name, renamed.name);
}

#[tokio::test]
async fn a_backup_holds_no_key_and_is_for_its_owner_alone() {
    let machine = Machine::full().await;
    let backup = String::from_utf8(machine.export().await).unwrap();
    let path = machine.folder.path().join("backup.jsonl");
    assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    let left: Vec<_> = fs::read_dir(machine.folder.path()).unwrap().collect();
    assert_eq!(left.len(), 2, "{left:?}");
    let app = app(1, &account(1));
    let mut entropy = [0; 32];
    entropy[1] = 2;
    let pepper = Pepper::new(&PEPPER);
    let secret = MintedKey::mint(KeyKind::Secret, app.environment, None, &pepper, &entropy);
    assert!(backup.contains(&secret.hint) && !backup.contains(&*secret.reveal()));
}

#[tokio::test]
async fn a_backup_that_was_cut_short_is_refused_unless_a_part_will_do() {
    let backup = Machine::full().await.export().await;
    let ends: Vec<usize> = (0..backup.len()).filter(|&at| backup[at] == b'\n').collect();
    let whole_lines = &backup[..=ends[700]];
    let mid_line = &backup[..ends[700] + 40];
    let without_end = &backup[..=ends[ends.len() - 2]];
    for cut in [whole_lines, mid_line, without_end, &backup[..=ends[0]]] {
        assert!(import::check(Source::of(cut), &terms(Whole::Required)).is_err());
        let contents = import::check(Source::of(cut), &terms(Whole::IfItIs)).unwrap();
        let to = Machine::new();
        assert!(to.import(cut, Whole::Required).await.is_err());
        let again = Machine::new();
        let (outcome, _) = again.import(cut, Whole::IfItIs).await.unwrap();
        let lines = cut.iter().filter(|&&byte| byte == b'\n').count() as u64;
        assert_eq!(outcome.created, lines - 1);
        let Counts { accounts, apps, keys } = contents.counts;
        assert_eq!(accounts + apps + keys, lines - 1);
    }
}

#[test]
fn a_line_that_went_missing_is_noticed() {
    let text = |lines: &[&str]| format!("{}\n", lines.join("\n"));
    let start = r#"{"keygate":"export","v":1,"at":1}"#;
    let end = |keys: u64| format!(r#"{{"end":{{"accounts":0,"apps":0,"keys":{keys}}}}}"#);
    let check = |text: &str, whole| import::check(Source::of(text), &terms(whole)).map(|_| ());
    assert!(check(&text(&[start, &end(0)]), Whole::Required).is_ok());
    let missing = text(&[start, &end(1)]);
    let error = check(&missing, Whole::Required).unwrap_err().to_string();
    assert!(error.contains("backup:2") && error.contains("--partial"), "{error}");
    assert!(check(&missing, Whole::IfItIs).is_ok());
}

#[test]
fn what_is_no_backup_is_refused_with_its_line() {
    let start = r#"{"keygate":"export","v":1,"at":1}"#;
    let end = r#"{"end":{"accounts":0,"apps":0,"keys":0}}"#;
    let long = format!("{start}\n{{\"key\":\"{}\"}}\n", "x".repeat(1 << 20));
    for (text, place, why) in [
        ("", "backup", "empty"),
        ("\n\n", "backup", "empty"),
        ("{\"a\":1}\n", "backup:1", "not what `keygate store export` writes"),
        (end, "backup:1", "not what"),
        ("\u{1b}ELF\0\0", "backup:1", "not what"),
        ("{\"keygate\":\"export\",\"v\":2,\"at\":1}", "backup:1", "version 2"),
        (&format!("{start}\nnonsense\n{end}"), "backup:2", "not JSON"),
        (&format!("{start}\n{{\"key\":{{\"v\":1}}}}\n{end}"), "backup:2", "the key"),
        (&format!("{start}\n{start}\n{end}"), "backup:2", "another export"),
        (&format!("{start}\n{end}\n{end}"), "backup:3", "another export"),
        (&long, "backup:2", "longer than"),
    ] {
        for whole in [Whole::Required, Whole::IfItIs] {
            let error = import::check(Source::of(text), &terms(whole)).err().expect(why);
            let error = format!("{error:#}");
            assert!(error.starts_with(place) && error.contains(why), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }
}

#[tokio::test]
async fn no_live_key_of_an_unknown_pepper_is_imported_unless_that_is_asked_for() {
    let (account, other) = (account(1), Pepper::new(&[8; 32]).id());
    let app = app(1, &account);
    let key =
        |n, expires_at, status| Key { pepper: Some(other), expires_at, status, ..key(n, &app) };
    let revoked = KeyStatus::Revoked { at: NOW, reason: None };
    let dead = [key(0, None, revoked), key(2, Some(NOW), KeyStatus::Active)].map(StoredRecord::Key);
    let later = Some(UnixMillis(NOW.0 + 1));
    let parents = [StoredRecord::Account(account.clone()), StoredRecord::App(app.clone())];
    for live in [
        key(4, None, KeyStatus::Active),
        key(4, later, KeyStatus::Active),
        key(4, None, KeyStatus::Disabled),
    ] {
        let (from, to) = (Machine::new(), Machine::new());
        from.store.import([&parents[..], &dead].concat(), entry()).await.unwrap();
        let without = from.export().await;
        from.store.import(vec![StoredRecord::Key(live)], entry()).await.unwrap();
        let backup = from.export().await;
        for error in [
            import::check(Source::of(&*backup), &terms(Whole::Required)).err().unwrap(),
            to.import(&backup, Whole::Required).await.unwrap_err(),
        ] {
            let error = format!("{error:#}");
            assert!(error.contains(&other.to_string()), "{error}");
            assert!(error.contains("backup:6") && error.contains("--other-pepper"), "{error}");
        }
        assert_eq!(to.changes().await, []);
        let (outcome, _) = to.import(&without, Whole::Required).await.unwrap();
        assert_eq!((outcome.created, outcome.peppers.len()), (4, 0));
        let terms = Terms { peppers: Peppers::Any, ..terms(Whole::Required) };
        let source = Source::of(backup);
        let outcome = import::all(&to.store, source, &terms, &mut Vec::new()).await.unwrap();
        assert_eq!((outcome.created, outcome.peppers), (1, BTreeSet::from([other])));
    }
}

/// What came before is there, and it is said how much that is.
#[tokio::test]
async fn a_stream_is_refused_part_by_part() {
    let (from, to) = (Machine::full().await, Machine::new());
    let backup = from.export().await;
    let mut lines: Vec<&[u8]> = backup.split_inclusive(|&byte| byte == b'\n').collect();
    lines[PART + 5] = b"nonsense\n";
    let error = to.import(&lines.concat(), Whole::Required).await.unwrap_err();
    let error = format!("{error:#}");
    assert!(error.starts_with(&format!("imported up to line {}", PART + 1)), "{error}");
    assert!(error.contains(&format!("backup:{}", PART + 6)), "{error}");
    assert_eq!(to.changes().await.len(), 1);
}

#[tokio::test]
async fn a_part_of_large_records_is_small() {
    let (from, to) = (Machine::new(), Machine::new());
    let metadata = Metadata::from([("text".to_owned(), "x".repeat(100_000))]);
    let records = (0..35).map(|n| Account { metadata: metadata.clone(), ..account(n) });
    from.store.import(records.map(StoredRecord::Account).collect(), entry()).await.unwrap();
    let backup = from.export().await;
    let (outcome, _) = to.import(&backup, Whole::Required).await.unwrap();
    assert_eq!(outcome.created, 35);
    assert_eq!(to.changes().await.len(), 4, "parts of eleven, since ten are less than a mebibyte");
}
