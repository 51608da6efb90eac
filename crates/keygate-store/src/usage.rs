//! What keys use, counted so that nothing is lost when the process is killed and nothing counted twice:
//! in a mapped file at once (`tally.rs`), from there in batches into files (`seal.rs`), and from those to
//! the store (`outbox.rs`), which adds the batch of a number once. What a process leaves behind, the next
//! one sends (`recover.rs`). No request waits for any of it.

mod batch_file;
mod disk;
mod flow;
mod folder;
mod live;
mod outbox;
pub mod records;
mod recover;
mod routes;
mod seal;
mod sealer;
mod sender;
mod steps;
mod tally;
mod wire;

use std::fs::DirBuilder;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use arc_swap::ArcSwap;
use keygate_core::problem::Code;
use keygate_core::{KeyRecord, UnixMillis};

pub use self::flow::{Flow, FlushSettings, Sending};
use self::folder::Folder;
use self::live::Live;
use self::outbox::Files;
use self::routes::Routes;
use self::sealer::Sealer;
pub use self::tally::RouteNumber;
use self::tally::{Slot, Tag, Tally};

/// What keys use cannot be counted.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot count what keys use in {path}; let this user read and write there, give the disk room, or \
     choose another [usage] path"
)]
pub struct UsageError {
    path: PathBuf,
    source: io::Error,
}

/// Counts what keys use. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct UsageCounter(Arc<Inner>);

struct Inner {
    root: PathBuf,
    folder: Arc<Folder>,
    files: Arc<Files>,
    routes: Routes,
    live: ArcSwap<Live>,
    sealer: std::sync::Mutex<Sealer>,
    flow: flow::Shared,
    /// Uses that could not be counted.
    dropped: AtomicU64,
}

/// Where a request was counted, for its bytes to be counted there too.
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    generation: u64,
    number: u32,
}

impl UsageCounter {
    /// Begins to count in a file of its own within this folder, which is made if it is not there.
    ///
    /// # Errors
    /// When the folder cannot be used: what to do is said.
    pub fn open(path: &Path, now: UnixMillis) -> Result<Self, UsageError> {
        Self::begin(path, now).map_err(|source| UsageError { path: path.into(), source })
    }

    fn begin(path: &Path, now: UnixMillis) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        disk::look(path);
        let folder = Folder::create(path)?;
        let sealer = Sealer::new(now);
        // What is counted has a name from the first moment.
        let routes = Routes::create(&folder.routes())?;
        let tally = Tally::create(&folder.tally(0), 0)?;
        tally.set_minute(sealer.minute());
        Ok(Self(Arc::new(Inner {
            root: path.into(),
            routes,
            folder: Arc::new(folder),
            files: Arc::default(),
            live: ArcSwap::from_pointee(Live::new(tally)),
            sealer: sealer.into(),
            flow: flow::Shared::default(),
            dropped: AtomicU64::new(0),
        })))
    }

    /// The numbers of routes by their names, in their order. For whoever takes over a configuration: it may
    /// write to the disk.
    ///
    /// # Errors
    /// When it cannot.
    pub fn routes<'a>(
        &self,
        names: impl Iterator<Item = &'a str>,
    ) -> Result<Vec<RouteNumber>, UsageError> {
        let numbers = names.map(|name| self.0.routes.number(name)).collect::<io::Result<_>>();
        numbers.map_err(|source| UsageError { path: self.0.root.clone(), source })
    }

    /// Counts a request that is about to be sent on.
    #[inline]
    pub fn admitted(
        &self,
        key: &KeyRecord,
        route: RouteNumber,
        cost: u64,
        at: UnixMillis,
        client: IpAddr,
    ) -> Option<Counted> {
        let live = self.0.live.load();
        let (number, slot) = self.slot(&live, key, route, Tag::admitted(route))?;
        // First of all: what is counted was used at some time.
        slot.note_use(at, client);
        slot.add_request(cost);
        Some(Counted { generation: live.tally.generation, number })
    }

    /// Counts a request of a known key that is refused.
    pub fn refused(&self, key: &KeyRecord, route: RouteNumber, code: Code) {
        let live = self.0.live.load();
        let number = self.number(&live, key, Tag::refused(route, code));
        if let Some(slot) = number.and_then(|number| live.tally.slot(number)) {
            slot.add_request(0);
        }
    }

    /// Counts bytes of a request that was counted.
    #[inline]
    pub fn moved(
        &self,
        counted: Counted,
        key: &KeyRecord,
        route: RouteNumber,
        bytes_in: u64,
        bytes_out: u64,
    ) {
        let live = self.0.live.load();
        let slot = if live.tally.generation == counted.generation {
            live.tally.slot(counted.number)
        } else {
            // Another file has taken that one's place since.
            self.slot(&live, key, route, Tag::admitted(route)).map(|(_, slot)| slot)
        };
        if let Some(slot) = slot {
            slot.add_bytes(bytes_in, bytes_out);
        }
    }

    #[inline]
    fn slot<'a>(
        &self,
        live: &'a Live,
        key: &KeyRecord,
        route: RouteNumber,
        tag: Tag,
    ) -> Option<(u32, Slot<'a>)> {
        let hint = key.slots.of(route.0);
        let number = hint.load(Relaxed);
        if let Some(slot) = live.slot_of(number, key.id, tag) {
            return Some((number, slot));
        }
        let number = self.number(live, key, tag)?;
        hint.store(number, Relaxed);
        Some((number, live.tally.slot(number)?))
    }

    fn number(&self, live: &Live, key: &KeyRecord, tag: Tag) -> Option<u32> {
        let number = live.number_of(key.id, tag).ok();
        if number.is_none() {
            self.0.dropped.fetch_add(1, Relaxed);
        }
        if live.tally.wants_room() {
            self.0.flow.wants_room.notify_one();
        }
        number
    }
}

#[cfg(test)]
mod tests;
