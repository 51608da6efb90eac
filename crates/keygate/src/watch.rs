//! Takes over files that have changed, without a word from anybody. Anything that happens in their
//! folders is only a reason to look; what counts is what the files hold.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use keygate_admin::registry::Force;
use keygate_admin::{Actor, Reloader};
use keygate_config::{Inputs, Live};
use keygate_store::keys::KeyStore;
use keygate_store::records::Role;
use tokio::time::{Instant, sleep, timeout};

use crate::folders::{Folders, Followed};
use crate::reload::Files;

/// How often the files are looked at when nobody says that anything happened: not every file system
/// tells, and nobody is told of a link far up in a path.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// How long the files must stay as they are: who writes one, or a certificate and then its key, is done
/// by then.
const SETTLE: Duration = Duration::from_millis(250);
/// Files that never settle are taken as they are, after so many looks.
const LOOKS_MAX: u32 = 8;
/// Until a reload that failed is tried again, though no file has changed: at first, and at most.
const RETRY_FIRST: Duration = Duration::from_secs(15);
const RETRY_MAX: Duration = Duration::from_secs(300);

/// Reloads whenever files have changed that the configuration was read from.
pub(crate) async fn reload_on_change<S: KeyStore>(
    files: &Arc<Files>,
    live: &Live,
    reloader: &Reloader<S>,
) -> Infallible {
    let mut folders = Folders::open();
    let mut retry = None;
    loop {
        let paths: Vec<PathBuf> = files.tried().paths().map(ToOwned::to_owned).collect();
        // What happened before it was followed was told to nobody: that is looked for now.
        if folders.follow(&paths) == Followed::AsBefore {
            // Either way it is time to look.
            timeout(LOOK_EVERY, folders.event()).await.ok();
        }
        let is_on = live.config().server.watch_files;
        let changed = if is_on { settled_change(files).await } else { None };
        let name = match changed {
            Some(name) => name,
            // Somebody else may have had it taken over meanwhile.
            None if is_on && Retry::is_due(retry.as_ref()) && files.is_held_up() => files.name(),
            None => {
                // However much happens in these folders, the files are not read all the time.
                sleep(SETTLE).await;
                continue;
            }
        };
        let by = Actor { name: format!("file:{name}"), from: None, role: Role::Admin };
        // What comes of it is in the log.
        reloader.reload(&by, Force::No).await.ok();
        // A file that cannot be used is not tried again: it says the same every time.
        retry = files.is_held_up().then(|| Retry::after(retry.as_ref()));
    }
}

/// When to try again what failed for another reason than its text, such as a name that was not found.
struct Retry {
    pause: Duration,
    at: Instant,
}

impl Retry {
    fn after(last: Option<&Self>) -> Self {
        let pause = last.map_or(RETRY_FIRST, |last| (last.pause * 2).min(RETRY_MAX));
        Self { pause, at: Instant::now() + pause }
    }

    fn is_due(retry: Option<&Self>) -> bool {
        retry.is_some_and(|retry| retry.at <= Instant::now())
    }
}

/// The name of a file that is not what was last read, once they all have settled.
async fn settled_change(files: &Arc<Files>) -> Option<String> {
    let mut now = look(files).await?;
    files.tried().changed(&now)?;
    for _ in 0..LOOKS_MAX {
        sleep(SETTLE).await;
        let later = look(files).await?;
        let has_settled = later == now;
        now = later;
        if has_settled {
            break;
        }
    }
    // Somebody else may have had them read meanwhile.
    let tried = files.tried();
    let changed = tried.changed(&now)?;
    Some(changed.file_name().unwrap_or_default().to_string_lossy().into_owned())
}

/// What the files hold now. Blocks on the disk, and so elsewhere.
async fn look(files: &Arc<Files>) -> Option<Inputs> {
    let tried = files.tried();
    tokio::task::spawn_blocking(move || tried.now()).await.ok()
}
