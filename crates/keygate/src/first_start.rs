//! The peppers and the admin token: read, or made on a first start. Refuses to make a pepper where
//! the stored keys depend on one that is gone, for then every key would be refused for good.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use keygate_config::{Admin, Keys, secrets};
use keygate_core::key::PepperId;
use keygate_core::{Pepper, Peppers};
use keygate_store::fleet::HeldPeppers;
use zeroize::Zeroizing;

/// What the gateway and the admin API keep secret.
pub(crate) struct Secrets {
    pub(crate) peppers: Peppers,
    pub(crate) token_sha256: [u8; 32],
    /// What was made just now. Paths may be told; what is in them, never.
    pub(crate) made: Vec<Made>,
    /// Files that more than their owner may read.
    pub(crate) exposed: Vec<PathBuf>,
}

/// A secret that did not exist before.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Made {
    pub(crate) what: &'static str,
    pub(crate) path: PathBuf,
}

/// Reads the secrets that the configuration names, and makes those that are missing.
///
/// `in_use` are the peppers that live keys were made under, if the store could be asked. Nothing is
/// made unless all of them are there; a pepper is made only if it could.
pub(crate) fn load_or_make(
    keys: &Keys,
    admin: &Admin,
    in_use: Option<&[PepperId]>,
) -> anyhow::Result<Secrets> {
    let current = secrets::load_pepper(&keys.pepper_file)?;
    let previous = keys.previous_pepper_files.iter().map(|path| load_previous(path));
    let previous = previous.collect::<anyhow::Result<Vec<_>>>()?;
    let token = secrets::load_token(&admin.token_file)?;

    let known = current.iter().chain(&previous).map(Pepper::id).collect::<Vec<_>>();
    let lost = in_use.unwrap_or_default().iter().find(|id| !known.contains(id));
    if let Some(lost) = lost {
        refuse(&keys.pepper_file, current.as_ref(), *lost)?;
    }
    if current.is_none() && in_use.is_none() {
        bail!(
            "{} does not exist, and no pepper is made while the store is out of reach: it may hold \
             keys already; start the store, or copy the pepper of another gateway there",
            keys.pepper_file.display()
        );
    }

    let mut made = Vec::new();
    let current = match current {
        Some(pepper) => pepper,
        None => {
            made.push(Made { what: "pepper", path: keys.pepper_file.clone() });
            secrets::write_new_pepper(&keys.pepper_file, &*entropy()?)?
        }
    };
    let token = match token {
        Some(token) => token,
        None => {
            made.push(Made { what: "admin token", path: admin.token_file.clone() });
            secrets::write_new_token(&admin.token_file, &*entropy()?)?
        }
    };
    let peppers = Peppers::new(current, previous);
    let files = [&keys.pepper_file, &admin.token_file].into_iter();
    let files = files.chain(&keys.previous_pepper_files);
    let exposed = files.filter(|path| is_exposed(path)).cloned().collect();
    Ok(Secrets { peppers, token_sha256: token.sha256(), made, exposed })
}

/// What the fleet is told from the first report on; nothing of a pepper that is yet to be made. What is
/// wrong with a file is said when it is loaded.
pub(crate) fn held_peppers(keys: &Keys) -> HeldPeppers {
    let held = HeldPeppers::default();
    let files = std::iter::once(&keys.pepper_file).chain(&keys.previous_pepper_files);
    let ids = files.map(|path| Some(secrets::load_pepper(path).ok()??.id()));
    if let Some(ids) = ids.collect::<Option<Vec<_>>>() {
        held.set(ids);
    }
    held
}

/// Whether the group or others may read the file. One that cannot be looked at was not read either.
pub(crate) fn is_exposed(path: &Path) -> bool {
    const READ_BY_GROUP_OR_OTHERS: u32 = 0o044;
    std::fs::metadata(path).is_ok_and(|file| file.mode() & READ_BY_GROUP_OR_OTHERS != 0)
}

fn load_previous(path: &Path) -> anyhow::Result<Pepper> {
    secrets::load_pepper(path)?.with_context(|| {
        format!(
            "{} does not exist: restore it, or take it out of `previous_pepper_files`",
            path.display()
        )
    })
}

fn refuse(pepper_file: &Path, current: Option<&Pepper>, lost: PepperId) -> anyhow::Result<()> {
    let file = pepper_file.display();
    if current.is_none() {
        bail!(
            "{file} does not exist, but stored keys were made with it: restore it from a backup \
             (no new pepper was made: no stored key would work with it)"
        );
    }
    bail!(
        "stored keys were made with a pepper (id {lost}) that is not configured: restore it as \
         {file}, or add its file to `previous_pepper_files`"
    );
}

/// 32 bytes of the operating system's randomness.
pub(crate) fn entropy() -> anyhow::Result<Zeroizing<[u8; 32]>> {
    let mut bytes = Zeroizing::new([0; 32]);
    getrandom::fill(bytes.as_mut_slice())
        .map_err(anyhow::Error::msg)
        .context("the operating system gives no randomness")?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use keygate_config::{Config, Source};

    use super::*;

    const TOML: &str = r#"
        [server]
        listen = ["127.0.0.1:8080"]
        [keys]
        pepper_file = "data/pepper"
        previous_pepper_files = [PREVIOUS]
        [admin]
        token_file = "data/admin.token"
        [upstreams.main]
        targets = ["127.0.0.1:9"]
        [[routes]]
        name = "all"
        path = "/"
        upstream = "main"
        auth = "public"
    "#;

    fn config(folder: &Path, previous: &str) -> Config {
        let text = TOML.replace("PREVIOUS", previous);
        keygate_config::parse(Source::alone("gateway.toml", &text, folder)).unwrap()
    }

    fn start(config: &Config, in_use: &[PepperId]) -> anyhow::Result<Secrets> {
        load_or_make(&config.keys, &config.admin, Some(in_use))
    }

    fn complaint(config: &Config, in_use: &[PepperId]) -> String {
        format!("{:#}", start(config, in_use).err().expect("must be refused"))
    }

    #[test]
    fn the_first_start_makes_what_later_starts_find() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path(), "");
        let first = start(&config, &[]).unwrap();
        let made: Vec<&str> = first.made.iter().map(|made| made.what).collect();
        assert_eq!(made, ["pepper", "admin token"]);
        let id = first.peppers.current().id();
        let second = start(&config, &[id]).unwrap();
        assert_eq!(second.made, []);
        assert_eq!(second.peppers.current().id(), id);
        assert_eq!(second.token_sha256, first.token_sha256);
        assert_eq!([first.exposed, second.exposed].concat(), [""; 0].map(PathBuf::from));
    }

    #[test]
    fn a_secret_that_others_can_read_is_named() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path(), "");
        start(&config, &[]).unwrap();
        let open = |mode| fs::Permissions::from_mode(mode);
        fs::set_permissions(&config.keys.pepper_file, open(0o640)).unwrap();
        let exposed = start(&config, &[]).unwrap().exposed;
        assert_eq!(exposed, std::slice::from_ref(&config.keys.pepper_file));
        fs::set_permissions(&config.admin.token_file, open(0o604)).unwrap();
        assert_eq!(start(&config, &[]).unwrap().exposed.len(), 2);
    }

    #[test]
    fn a_lost_pepper_is_not_replaced_and_nothing_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path(), "");
        let lost = Pepper::new(&[1; 32]).id();
        let complaint = complaint(&config, &[lost]);
        assert!(complaint.contains("data/pepper does not exist"), "{complaint}");
        assert!(!complaint.contains('\n'), "{complaint}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn another_pepper_than_the_stored_keys_need_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path(), "");
        start(&config, &[]).unwrap();
        let lost = Pepper::new(&[1; 32]).id();
        let complaint = complaint(&config, &[lost]);
        assert!(complaint.contains(&lost.to_string()), "{complaint}");
        assert!(complaint.contains("previous_pepper_files"), "{complaint}");
    }

    #[test]
    fn a_pepper_is_rotated_by_moving_it_to_the_previous_ones() {
        let folder = tempfile::tempdir().unwrap();
        let old = start(&config(folder.path(), ""), &[]).unwrap().peppers.current().id();
        fs::rename(folder.path().join("data/pepper"), folder.path().join("data/old")).unwrap();
        let rotated = start(&config(folder.path(), "\"data/old\""), &[old]).unwrap();
        assert_ne!(rotated.peppers.current().id(), old);
        assert!(rotated.peppers.iter().any(|pepper| pepper.id() == old));
    }

    #[test]
    fn a_previous_pepper_that_is_missing_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let complaint = complaint(&config(folder.path(), "\"data/old\""), &[]);
        assert!(complaint.contains("data/old does not exist"), "{complaint}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
