//! The names of a source's routes, each with a number, in a file beside the counters. A name is in the
//! kernel's hands before anybody has its number.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::tally::RouteNumber;

/// The most names of one source, over all configurations that it has had.
const ROUTES_MAX: usize = 65_536;

pub(super) struct Routes(Mutex<Names>);

struct Names {
    file: File,
    numbers: HashMap<Arc<str>, RouteNumber>,
    names: Vec<Arc<str>>,
}

impl Routes {
    /// Makes a file that is not there yet.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(path)?;
        Ok(Self(Mutex::new(Names { file, numbers: HashMap::new(), names: Vec::new() })))
    }

    /// The names that another process has left: none if it was killed before it had a file for them.
    pub(super) fn read(path: &Path) -> io::Result<Vec<Arc<str>>> {
        let text = match std::fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            read => read?,
        };
        // What has no end was being written, and nobody got its number.
        let whole = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        let lines = text.get(..whole).unwrap_or_default().split_inclusive(|&byte| byte == b'\n');
        // Behind a damaged line nobody knows which number a name has.
        let name = |line| serde_json::from_slice::<String>(line).ok().map(Arc::from);
        Ok(lines.map_while(name).collect())
    }

    /// The number of a name, which it keeps.
    pub(super) fn number(&self, name: &str) -> io::Result<RouteNumber> {
        let mut names = self.lock();
        if let Some(&number) = names.numbers.get(name) {
            return Ok(number);
        }
        let number = RouteNumber(u32::try_from(names.names.len()).unwrap_or(u32::MAX));
        if names.names.len() >= ROUTES_MAX {
            let why = "too many names of routes since the start: start this gateway again";
            return Err(io::Error::new(io::ErrorKind::StorageFull, why));
        }
        let mut line = serde_json::to_vec(name)?;
        line.push(b'\n');
        let length = names.file.metadata()?.len();
        if let Err(error) = names.file.write_all(&line) {
            // Half a name would become one with the next.
            names.file.set_len(length)?;
            return Err(error);
        }
        let name: Arc<str> = name.into();
        names.names.push(Arc::clone(&name));
        names.numbers.insert(name, number);
        Ok(number)
    }

    /// All names, by their numbers.
    pub(super) fn names(&self) -> Vec<Arc<str>> {
        self.lock().names.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Names> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
