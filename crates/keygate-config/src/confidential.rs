//! Passwords, certificates and private keys for connections: from the environment, or from the files
//! that settings name. No finding tells what they hold.

use std::io::ErrorKind;
use std::path::PathBuf;

use toml::de::DeValue;
use zeroize::Zeroizing;

use crate::environment::{self, is_one_reference};
use crate::reader::{Item, Reader, Section};
use crate::secrets::Secret;
use crate::setting::Setting;
use crate::shown::reference_only;
use crate::value::{Value, Wrong, expected};

/// A password is one line; what is longer is some other file.
const PASSWORD_FILE_BYTES_MAX: usize = 64 << 10;
/// More certificates than anybody trusts.
const PEM_FILE_BYTES_MAX: usize = 1 << 20;

/// A password that stands in an environment variable.
pub(crate) struct Password(pub(crate) Secret);

impl Value for Password {
    fn type_name() -> String {
        "password".to_owned()
    }

    fn rule() -> String {
        "`${NAME}`, nothing else".to_owned()
    }

    fn read(reader: &Reader<'_>, item: &Item<'_>) -> Option<Self> {
        let DeValue::String(written) = item.get_ref() else {
            reader.error(item.span(), expected::<Self>(item), None);
            return None;
        };
        if !is_one_reference(written) {
            let help = "write `password = \"${NAME}\"` and set that environment variable, \
                        or write the password to a file and name it as `password_file`";
            let message = "a password does not stand in this file";
            reader.error(item.span(), message, Some(help.to_owned()));
            return None;
        }
        let text = environment::expand(written, reader.source.environment).map(Zeroizing::new);
        let read = match text {
            Ok(text) => read_password(&text),
            Err(wrong) => Err(wrong.help(
                "set it before you start keygate, \
                 or write the password to a file and name it as `password_file`",
            )),
        };
        note(reader, item, read).map(Self)
    }

    fn show(item: &Item<'_>) -> serde_json::Value {
        reference_only(item)
    }
}

/// The password in the file that a setting names, if it names one.
pub(crate) fn password_in(section: &Section<'_, '_>, setting: &Setting<PathBuf>) -> Option<Secret> {
    let bytes = contents(section, setting, PASSWORD_FILE_BYTES_MAX)?;
    let read = match std::str::from_utf8(&bytes) {
        Ok(text) => read_password(text),
        Err(_) => Err(Wrong::new("the password is not UTF-8 text")
            .help("write a password of letters, digits and signs to the file")),
    };
    note(section.reader, section.item(setting.key)?, read)
}

/// The certificates in the file that a setting names, if it names one.
pub(crate) fn certificates_in(
    section: &Section<'_, '_>,
    setting: &Setting<PathBuf>,
) -> Option<Vec<u8>> {
    let bytes = contents(section, setting, PEM_FILE_BYTES_MAX)?;
    let read = if pem_labels(&bytes).any(|label| label == b"CERTIFICATE") {
        Ok(bytes.to_vec())
    } else {
        Err(Wrong::new("the file holds no certificate")
            .help("it must be PEM, with a line `-----BEGIN CERTIFICATE-----`"))
    };
    note(section.reader, section.item(setting.key)?, read)
}

/// The private key in the file that a setting names, if it names one.
pub(crate) fn private_key_in(
    section: &Section<'_, '_>,
    setting: &Setting<PathBuf>,
) -> Option<Secret> {
    let bytes = contents(section, setting, PEM_FILE_BYTES_MAX)?;
    note(section.reader, section.item(setting.key)?, read_private_key(&bytes))
}

fn read_private_key(pem: &[u8]) -> Result<Secret, Wrong> {
    let is_encrypted = pem_labels(pem).any(|label| label == b"ENCRYPTED PRIVATE KEY")
        || lines(pem).any(|line| line.starts_with(b"Proc-Type:") && line.ends_with(b"ENCRYPTED"));
    if is_encrypted {
        return Err(Wrong::new("the private key is encrypted")
            .help("keygate has nobody to ask for its passphrase: name a file with the plain key"));
    }
    let text = std::str::from_utf8(pem).ok();
    match text.filter(|_| pem_labels(pem).any(|label| label.ends_with(b"PRIVATE KEY"))) {
        Some(text) => Ok(Secret::new(text.to_owned())),
        None => Err(Wrong::new("the file holds no private key")
            .help("it must be PEM, with a line such as `-----BEGIN PRIVATE KEY-----`")),
    }
}

/// What the parts of a PEM file say they are.
fn pem_labels(pem: &[u8]) -> impl Iterator<Item = &[u8]> {
    lines(pem).filter_map(|line| line.strip_prefix(b"-----BEGIN ")?.strip_suffix(b"-----"))
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii)
}

/// Editors and `echo` end the line; that end is not part of the password.
fn read_password(text: &str) -> Result<Secret, Wrong> {
    let line = text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line));
    if line.is_empty() {
        return Err(Wrong::new("the password is empty")
            .help("write it on one line, or leave the setting out if Redis asks for none"));
    }
    if line.contains(char::is_control) {
        return Err(Wrong::new("this is more than a password on one line")
            .help("write the password alone, with nothing before or after it"));
    }
    Ok(Secret::new(line.to_owned()))
}

/// What the file holds that a setting names.
fn contents(
    section: &Section<'_, '_>,
    setting: &Setting<PathBuf>,
    bytes_max: usize,
) -> Option<Zeroizing<Vec<u8>>> {
    let path = section.get(setting)?;
    let (reader, item) = (section.reader, section.item(setting.key)?);
    match (reader.source.files)(&path, bytes_max).map(Zeroizing::new) {
        Ok(bytes) if bytes.len() <= bytes_max => return Some(bytes),
        Ok(_) => {
            let message = format!("the file is longer than {} KiB", bytes_max >> 10);
            let help = format!("is this the file for `{}`?", setting.key);
            reader.error(item.span(), message, Some(help));
        }
        Err(error) => {
            // What came from the environment is not told.
            let is_written = item.get_ref().as_str().is_some_and(|text| !text.contains("${"));
            let help = (is_written && error.kind() == ErrorKind::NotFound)
                .then(|| format!("it is looked for at {:?}", path.display().to_string()));
            reader.error(item.span(), format!("cannot read the file: {error}"), help);
        }
    }
    None
}

/// Takes what is right, and notes what is wrong.
pub(crate) fn note<T>(reader: &Reader<'_>, item: &Item<'_>, read: Result<T, Wrong>) -> Option<T> {
    read.map_err(|wrong| reader.error(item.span(), wrong.message, wrong.help)).ok()
}
