//! Secrets in files of their own: peppers and the admin token. No error tells what a file holds.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use keygate_core::Pepper;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// What an admin token begins with, so that a secret scanner knows one.
const TOKEN_PREFIX: &str = "kga_";
/// The fewest characters after the prefix: 128 bits of base32 or better, written by hand or not.
const TOKEN_BODY_LENGTH_MIN: usize = 32;
const TOKEN_BODY_LENGTH_MAX: usize = 128;
/// A secret is one short line; what is longer is some other file.
pub(crate) const SECRET_FILE_BYTES_MAX: usize = 1_024;

/// A secret file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} does not hold a pepper: 64 hex digits on one line")]
    NotAPepper { path: PathBuf },
    #[error(
        "{path} does not hold an admin token: `kga_` and 32 to 128 letters and digits on one line"
    )]
    NotAToken { path: PathBuf },
    #[error("{path} exists already and is left as it is")]
    Exists { path: PathBuf },
    #[error("cannot write {path}")]
    Write { path: PathBuf, source: io::Error },
}

/// The bearer token of the admin API. Cannot be printed or cloned, and wipes itself:
///
/// ```compile_fail
/// fn log(token: keygate_config::secrets::Token) { println!("{token:?}") }
/// ```
/// ```compile_fail
/// fn log(token: keygate_config::secrets::Token) { println!("{token}") }
/// ```
/// ```compile_fail
/// fn copy(token: &keygate_config::secrets::Token) -> keygate_config::secrets::Token {
///     token.clone()
/// }
/// ```
pub struct Token(Zeroizing<String>);

impl Token {
    /// The token itself, for a request that must carry it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What a presented token is compared by.
    #[must_use]
    pub fn sha256(&self) -> [u8; 32] {
        Sha256::digest(self.0.as_bytes()).into()
    }
}

/// A password or a private key from the configuration, or from a file that it names: cannot be
/// printed, copied or serialised, and is wiped.
///
/// ```compile_fail
/// fn print(secret: &keygate_config::secrets::Secret) {
///     println!("{secret}");
/// }
/// ```
/// ```compile_fail
/// fn copy(secret: &keygate_config::secrets::Secret) -> keygate_config::secrets::Secret {
///     secret.clone()
/// }
/// ```
pub struct Secret(Zeroizing<String>);

impl Secret {
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The secret itself, for whoever asks for it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

/// Whether a reload brings another one. Both are the operator's own, so time tells nobody anything.
impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        *self.0 == *other.0
    }
}

impl Eq for Secret {}

/// Says that there is one, and nothing of it.
impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Reads a pepper; nothing if there is no such file.
///
/// # Errors
/// [`SecretError::Read`], or [`SecretError::NotAPepper`] for a file that holds something else.
pub fn load_pepper(path: &Path) -> Result<Option<Pepper>, SecretError> {
    let Some(line) = read_line(path)? else { return Ok(None) };
    match decode_hex(&line) {
        Some(secret) => Ok(Some(Pepper::new(&secret))),
        None => Err(SecretError::NotAPepper { path: path.to_owned() }),
    }
}

/// Reads the admin token; nothing if there is no such file.
///
/// # Errors
/// [`SecretError::Read`], or [`SecretError::NotAToken`] for a file that holds something else.
pub fn load_token(path: &Path) -> Result<Option<Token>, SecretError> {
    let Some(line) = read_line(path)? else { return Ok(None) };
    let text = std::str::from_utf8(&line).ok().filter(|text| is_token(text));
    match text {
        Some(text) => Ok(Some(Token(Zeroizing::new(text.to_owned())))),
        None => Err(SecretError::NotAToken { path: path.to_owned() }),
    }
}

/// Makes a pepper of the operating system's randomness and writes it to a new file.
///
/// # Errors
/// [`SecretError::Exists`] when the file is there already, [`SecretError::Write`] otherwise.
pub fn write_new_pepper(path: &Path, entropy: &[u8; 32]) -> Result<Pepper, SecretError> {
    write_new(path, &encode_hex("", entropy))?;
    Ok(Pepper::new(entropy))
}

/// Makes an admin token of the operating system's randomness and writes it to a new file.
///
/// # Errors
/// [`SecretError::Exists`] when the file is there already, [`SecretError::Write`] otherwise.
pub fn write_new_token(path: &Path, entropy: &[u8; 32]) -> Result<Token, SecretError> {
    let text = encode_hex(TOKEN_PREFIX, entropy);
    write_new(path, &text)?;
    Ok(Token(text))
}

fn is_token(text: &str) -> bool {
    text.strip_prefix(TOKEN_PREFIX).is_some_and(|body| {
        (TOKEN_BODY_LENGTH_MIN..=TOKEN_BODY_LENGTH_MAX).contains(&body.len())
            && body.bytes().all(|byte| byte.is_ascii_alphanumeric())
    })
}

/// A file's one line without its end; nothing if there is no such file.
fn read_line(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, SecretError> {
    let failed = |source| SecretError::Read { path: path.to_owned(), source };
    // Before it is opened: opening a pipe waits until somebody writes to it.
    let file = match path.metadata() {
        Ok(kind) if kind.is_file() => File::open(path),
        Ok(_) => Err(io::Error::other("it is not a regular file")),
        Err(error) => Err(error),
    };
    let file = match file {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    // Room for everything from the start: a vector that grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(2 * SECRET_FILE_BYTES_MAX));
    file.take(SECRET_FILE_BYTES_MAX as u64).read_to_end(&mut bytes).map_err(failed)?;
    let line_length = bytes.trim_ascii_end().len();
    bytes.truncate(line_length);
    Ok(Some(bytes))
}

/// Writes a secret so that a crash leaves either all of it or no file.
fn write_new(path: &Path, text: &str) -> Result<(), SecretError> {
    let failed = |source| SecretError::Write { path: path.to_owned(), source };
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        Some(_) | None => Path::new("."),
    };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    // Made with mode 0600, and removed again unless it is persisted.
    let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(folder).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    file.write_all(b"\n").map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist_noclobber(path).map_err(|tempfile::PersistError { error, .. }| {
        if error.kind() == io::ErrorKind::AlreadyExists {
            SecretError::Exists { path: path.to_owned() }
        } else {
            failed(error)
        }
    })?;
    // The name is durable only once its folder is.
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
}

fn encode_hex(prefix: &str, bytes: &[u8; 32]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(prefix.len() + 64));
    text.push_str(prefix);
    for byte in bytes {
        text.extend([byte >> 4, byte & 0xf].map(hex_digit));
    }
    text
}

fn hex_digit(value: u8) -> char {
    char::from_digit(value.into(), 16).unwrap_or('0')
}

fn decode_hex(text: &[u8]) -> Option<Zeroizing<[u8; 32]>> {
    let mut bytes = Zeroizing::new([0; 32]);
    let (pairs, rest) = text.as_chunks::<2>();
    if pairs.len() != bytes.len() || !rest.is_empty() {
        return None;
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        let high = char::from(*high).to_digit(16)?;
        let low = char::from(*low).to_digit(16)?;
        *byte = u8::try_from(high << 4 | low).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn what_is_written_is_read_back_and_only_its_owner_may_read_it() {
        let folder = folder();
        let (pepper_file, token_file) =
            (folder.path().join("new/deep/pepper"), folder.path().join("admin.token"));
        let pepper = write_new_pepper(&pepper_file, &[0xab; 32]).unwrap();
        assert_eq!(load_pepper(&pepper_file).unwrap().unwrap().id(), pepper.id());
        let token = write_new_token(&token_file, &[0x07; 32]).unwrap();
        assert_eq!(load_token(&token_file).unwrap().unwrap().reveal(), token.reveal());
        assert_eq!(token.reveal(), format!("kga_{}", "07".repeat(32)));
        for file in [&pepper_file, &token_file] {
            let mode = fs::metadata(file).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{}", file.display());
        }
    }

    #[test]
    fn a_secret_is_never_overwritten_and_nothing_is_left_beside_it() {
        let folder = folder();
        let file = folder.path().join("pepper");
        write_new_pepper(&file, &[1; 32]).unwrap();
        let again = write_new_pepper(&file, &[2; 32]);
        assert!(matches!(again.err(), Some(SecretError::Exists { .. })));
        assert!(matches!(write_new_token(&file, &[2; 32]).err(), Some(SecretError::Exists { .. })));
        assert_eq!(load_pepper(&file).unwrap().unwrap().id(), Pepper::new(&[1; 32]).id());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn no_file_is_no_secret_but_an_unreadable_one_is_an_error() {
        let folder = folder();
        assert!(load_pepper(&folder.path().join("none")).unwrap().is_none());
        assert!(load_token(&folder.path().join("no/such/folder")).unwrap().is_none());
        assert!(matches!(load_pepper(folder.path()).err(), Some(SecretError::Read { .. })));
    }

    #[test]
    fn what_is_no_secret_is_refused_without_being_shown() {
        let folder = folder();
        let file = folder.path().join("secret");
        let digits = "5e".repeat(32);
        let long = digits.repeat(100);
        let wrong: [&[u8]; 8] = [
            b"",
            b"\n",
            b"hunter2hunter2",
            &digits.as_bytes()[1..],
            long.as_bytes(),
            &[0xff; 64],
            b"kga_",
            b"kga_hunter2hunter2hunter2hunter2 hunter2",
        ];
        for contents in wrong {
            fs::write(&file, contents).unwrap();
            let errors = [load_pepper(&file).err().unwrap(), load_token(&file).err().unwrap()];
            for error in errors {
                let shown = format!("{error} {error:?}");
                assert!(!shown.contains("hunter2") && !shown.contains("5e5e"), "{shown}");
            }
        }
    }

    #[test]
    fn the_line_may_end_as_editors_end_lines() {
        let folder = folder();
        let file = folder.path().join("pepper");
        let expect = Pepper::new(&[0x5e; 32]).id();
        for end in ["", "\n", "\r\n", " \n"] {
            fs::write(&file, format!("{}{end}", "5E".repeat(32))).unwrap();
            assert_eq!(load_pepper(&file).unwrap().unwrap().id(), expect, "{end:?}");
        }
    }
}
