//! Keys by the thousand: minted here, written as a backup for `keygate store import`, and as requests.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use keygate_core::key::MintedKey;
use keygate_core::{AccountId, AppId, Environment, KeyId, KeyKind, Pepper, UnixMillis};

use super::load::Ask;

const PEPPER: [u8; 32] = [7; 32];
const MADE_AT: UnixMillis = UnixMillis(1_790_000_000_000);
/// The tier of all keys, which the configuration has to have.
pub(crate) const TIER: &str = "all";
const BEFORE: &str = "Authorization: Bearer ";

/// Keys in random order, so that neighbours in use are none in memory.
pub(crate) struct Keys {
    texts: Vec<String>,
    /// What each was minted with.
    numbers: Vec<usize>,
}

impl Keys {
    pub(crate) fn mint(count: usize) -> Self {
        let pepper = Pepper::new(&PEPPER);
        let mut numbers: Vec<usize> = (0..count).collect();
        fastrand::Rng::with_seed(1).shuffle(&mut numbers);
        let text = |number: &usize| minted(&pepper, *number).reveal().to_string();
        Self { texts: numbers.iter().map(text).collect(), numbers }
    }

    pub(crate) fn len(&self) -> usize {
        self.texts.len()
    }

    pub(crate) fn texts(&self) -> &[String] {
        &self.texts
    }

    pub(crate) fn id(&self, at: usize) -> KeyId {
        key_id(self.numbers[at])
    }

    /// A request with the first key in it.
    pub(crate) fn request(&self, ask: Ask) -> Vec<u8> {
        let key = &self.texts[0];
        let (method, path, length) = match ask {
            Ask::Small => ("GET", "/v1/orders/123", String::new()),
            Ask::Download => ("GET", "/v1/large", String::new()),
            Ask::Upload => {
                ("POST", "/v1/orders", format!("Content-Length: {}\r\n", super::service::LARGE))
            }
        };
        format!(
            "{method} {path} HTTP/1.1\r\n{BEFORE}{key}\r\nHost: api.example.com\r\n\
             User-Agent: bench/1.0\r\nAccept: */*\r\n{length}\r\n"
        )
        .into_bytes()
    }

    /// Puts a key into a request. All are as long as the first.
    pub(crate) fn put(&self, request: &mut [u8], number: usize) {
        let key = self.texts[number].as_bytes();
        let line_end = request.iter().position(|byte| *byte == b'\n').unwrap();
        let at = line_end + 1 + BEFORE.len();
        request[at..at + key.len()].copy_from_slice(key);
    }
}

fn minted(pepper: &Pepper, number: usize) -> MintedKey {
    let entropy = pepper.derive(&number.to_string());
    MintedKey::mint(KeyKind::Secret, Environment::Live, None, pepper, &entropy)
}

/// A key with a good tag that no store has.
pub(crate) fn stranger(number: usize) -> String {
    // Keys of a store have small numbers.
    minted(&Pepper::new(&PEPPER), number | 1 << 48).reveal().to_string()
}

/// Has a gateway in this folder know the keys of this bench for what they are.
pub(crate) fn put_pepper(folder: &Path) {
    let hex: String = PEPPER.iter().map(|byte| format!("{byte:02x}")).collect();
    std::fs::write(folder.join("data/pepper"), format!("{hex}\n")).unwrap();
}

/// Puts so many keys of one app into the store that the folder's configuration names. No gateway may run
/// on an embedded one.
pub(crate) fn seed(program: &str, folder: &Path, count: usize) {
    let path = folder.join("keys.jsonl");
    write_backup(&path, count);
    let import = ["store", "import", "keys.jsonl"];
    let mut command = Command::new(program);
    let command = command.args(import).current_dir(folder).stdout(Stdio::null());
    let output = command.stderr(Stdio::piped()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::remove_file(path).unwrap();
}

fn write_backup(path: &Path, count: usize) {
    let pepper = Pepper::new(&PEPPER);
    let (account, app) = (AccountId::new(MADE_AT, [1; 10]), AppId::new(MADE_AT, [1; 10]));
    let at = MADE_AT.0;
    let scopes = r#"["read:orders","write:orders"]"#;
    let mut file = std::io::BufWriter::new(std::fs::File::create(path).unwrap());
    let made = format!(r#""created_at":{at},"updated_at":{at},"version":0"#);
    writeln!(file, r#"{{"keygate":"export","v":1,"at":{at}}}"#).unwrap();
    writeln!(
        file,
        r#"{{"account":{{"v":1,"record":{{"id":"{account}","name":"bench","status":"active","metadata":{{}},{made}}}}}}}"#
    )
    .unwrap();
    writeln!(
        file,
        r#"{{"app":{{"v":1,"record":{{"id":"{app}","account":"{account}","name":"bench","environment":"live","granted_scopes":{scopes},"allowed_cidrs":[],"tier":null,"status":"active","metadata":{{}},{made}}}}}}}"#
    )
    .unwrap();
    let mut digest = String::new();
    for number in 0..count {
        let key = minted(&pepper, number);
        digest.clear();
        for byte in key.digest.as_bytes() {
            write!(digest, "{byte:02x}").unwrap();
        }
        let id = key_id(number);
        writeln!(
            file,
            r#"{{"key":{{"v":1,"record":{{"id":"{id}","digest":"{digest}","pepper":"{}","app":"{app}","account":"{account}","kind":"sk","environment":"live","name":null,"hint":"sk_live_xxxx","scopes":{scopes},"expires_at":null,"tier":"{TIER}","allowed_cidrs":[],"allowed_origins":[],"metadata":{{}},"status":"active",{made}}}}}}}"#,
            pepper.id(),
        )
        .unwrap();
    }
    writeln!(file, r#"{{"end":{{"accounts":1,"apps":1,"keys":{count}}}}}"#).unwrap();
    file.flush().unwrap();
}

/// By the number that a key was minted with.
fn key_id(number: usize) -> KeyId {
    let mut entropy = [0; 10];
    entropy[2..].copy_from_slice(&(number as u64).to_be_bytes());
    KeyId::new(MADE_AT, entropy)
}
