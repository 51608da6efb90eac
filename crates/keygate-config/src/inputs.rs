//! Which files a configuration was made of, and what they held: digests, never contents. So anybody can
//! see that one has changed, and that two gateways were given the same.

use std::fmt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::read_file;
use crate::secrets::SECRET_FILE_BYTES_MAX;

/// The files that a configuration was made of, in the order in which they were read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inputs(Vec<Input>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Input {
    path: PathBuf,
    bytes_max: usize,
    held: Held,
}

/// Nothing if the file could not be read.
type Held = Option<[u8; 32]>;

impl Inputs {
    /// Notes what a secret's file holds now. To be called before the secret is read: what changes in
    /// between is then seen as a change.
    pub fn note_secret(&mut self, path: &Path) {
        let bytes_max = SECRET_FILE_BYTES_MAX;
        self.note(path, bytes_max, held(path, bytes_max));
    }

    pub(crate) fn note_bytes(&mut self, path: &Path, bytes_max: usize, bytes: Option<&[u8]>) {
        self.note(path, bytes_max, bytes.map(digest));
    }

    fn note(&mut self, path: &Path, bytes_max: usize, held: Held) {
        // What is named twice is read twice: the first time counts, or a change between the two is missed.
        if self.0.iter().all(|known| known.path != path) {
            self.0.push(Input { path: path.to_owned(), bytes_max, held });
        }
    }

    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().map(|input| &*input.path)
    }

    /// The same files as they are now. Reads them all.
    #[must_use]
    pub fn now(&self) -> Self {
        let now = |input: &Input| Input {
            path: input.path.clone(),
            bytes_max: input.bytes_max,
            held: held(&input.path, input.bytes_max),
        };
        Self(self.0.iter().map(now).collect())
    }

    /// The first of these files that `now` has otherwise.
    #[must_use]
    pub fn changed<'a>(&'a self, now: &Self) -> Option<&'a Path> {
        let mut both = self.0.iter().zip(&now.0);
        both.find(|(then, now)| then != now).map(|(then, _)| &*then.path)
    }

    /// The first file that could not be read.
    #[must_use]
    pub fn missing(&self) -> Option<&Path> {
        self.0.iter().find(|input| input.held.is_none()).map(|input| &*input.path)
    }

    /// The same wherever the same files were read: their places do not count, but for what
    /// `gateway.toml` itself says of them.
    ///
    /// The files of a running gateway hold a pepper, so that nobody can try out which short password
    /// makes this hash.
    #[must_use]
    pub fn hash(&self) -> ConfigHash {
        let mut all = Sha256::new();
        for Input { held, .. } in &self.0 {
            all.update([u8::from(held.is_some())]);
            all.update(held.unwrap_or_default());
        }
        ConfigHash(all.finalize().into())
    }
}

/// What a configuration was loaded from, in 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ConfigHash([u8; 32]);

impl fmt::Display for ConfigHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ConfigHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConfigHash({self})")
    }
}

fn held(path: &Path, bytes_max: usize) -> Held {
    let bytes = read_file(path, bytes_max).map(Zeroizing::new);
    bytes.ok().map(|bytes| digest(&bytes))
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const TOML: &str = r#"
        [server]
        listen = ["127.0.0.1:8080"]
        [store]
        kind = "redis"
        urls = ["redis://127.0.0.1"]
        password_file = "password"
    "#;

    fn folder(password: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [("gateway.toml", TOML), ("password", password)] {
            fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    fn load(folder: &tempfile::TempDir) -> Inputs {
        let path = folder.path().join("gateway.toml");
        let mut inputs = Inputs::default();
        crate::load_noting(&path, &mut inputs).unwrap_or_else(|report| panic!("{report}"));
        inputs
    }

    fn changed(inputs: &Inputs) -> Option<&Path> {
        inputs.changed(&inputs.now())
    }

    #[test]
    fn the_hash_is_that_of_all_files_wherever_they_are() {
        let (one, same, other) = (folder("one"), folder("one"), folder("other"));
        assert_eq!(load(&one).paths().count(), 2);
        assert_eq!(load(&one).hash(), load(&same).hash());
        assert_ne!(load(&one).hash(), load(&other).hash());
    }

    #[test]
    fn a_change_of_any_file_is_seen_and_only_while_it_is_one() {
        let folder = folder("one");
        let inputs = load(&folder);
        assert_eq!(changed(&inputs), None);
        for name in ["gateway.toml", "password"] {
            let path = folder.path().join(name);
            let before = fs::read(&path).unwrap();
            fs::write(&path, "else").unwrap();
            assert_eq!(changed(&inputs), Some(&*path));
            fs::remove_file(&path).unwrap();
            assert_eq!(changed(&inputs), Some(&*path));
            fs::write(&path, before).unwrap();
            assert_eq!(changed(&inputs), None);
        }
    }

    #[test]
    fn the_files_of_a_broken_configuration_are_known_too() {
        let folder = folder("one");
        fs::remove_file(folder.path().join("password")).unwrap();
        let mut inputs = Inputs::default();
        crate::load_noting(&folder.path().join("gateway.toml"), &mut inputs).unwrap_err();
        assert_eq!(inputs.missing(), Some(&*folder.path().join("password")));
        assert_eq!(changed(&inputs), None);
        fs::write(folder.path().join("password"), "one").unwrap();
        assert_eq!(changed(&inputs), inputs.missing());
    }

    #[test]
    fn a_file_of_two_names_in_the_configuration_is_noted_once() {
        let folder = folder("one");
        let mut inputs = load(&folder);
        let count = inputs.paths().count();
        inputs.note_secret(&folder.path().join("password"));
        assert_eq!(inputs.paths().count(), count);
    }
}
