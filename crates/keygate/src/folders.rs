//! Tells that something has happened in the folders of files: in those, not to the files, for who
//! replaces a file, or a link on the way to it, does nothing to the file that was there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

pub(crate) use self::system::Folders;

/// Links on the way to one file that are followed.
const LINKS_MAX: usize = 8;

/// What has come of following some files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Followed {
    AsBefore,
    /// Of folders that were not watched before.
    More,
}

/// The folders in which the way to these files may change.
fn folders_of(paths: &[PathBuf]) -> BTreeSet<PathBuf> {
    let mut folders = BTreeSet::new();
    for path in paths {
        let mut path = path.clone();
        for _ in 0..LINKS_MAX {
            let folder = folder_of(&path);
            // A relative link begins where it is.
            let next = path.read_link().map(|target| folder.join(target));
            folders.insert(folder);
            let Ok(next) = next else { break };
            path = next;
        }
        // Kubernetes has a link for a folder: `gateway.toml` is one to `..data/gateway.toml`, and `..data`
        // one to the folder of the day.
        folders.extend(path.canonicalize().ok().as_deref().map(folder_of));
    }
    folders
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder.to_owned(),
        Some(_) | None => PathBuf::from("."),
    }
}

#[cfg(target_os = "linux")]
mod system {
    use std::collections::BTreeSet;
    use std::os::fd::OwnedFd;
    use std::path::PathBuf;

    use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
    use rustix::io::Errno;
    use tokio::io::Interest;
    use tokio::io::unix::AsyncFd;

    use super::{Followed, folders_of};

    /// Folders that are watched, as far as the system does that.
    pub(crate) struct Folders {
        inotify: Option<AsyncFd<OwnedFd>>,
        watched: BTreeSet<i32>,
        has_complained: bool,
    }

    impl Folders {
        /// Needs a runtime. Without inotify nothing is ever told.
        pub(crate) fn open() -> Self {
            let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)
                .map_err(std::io::Error::from)
                .and_then(registered);
            let mut folders =
                Self { inotify: None, watched: BTreeSet::new(), has_complained: false };
            match inotify {
                Ok(inotify) => folders.inotify = Some(inotify),
                Err(error) => folders.complain(&error),
            }
            folders
        }

        /// Watches the folders of these files, and no others. One that is not there is not watched.
        pub(crate) fn follow(&mut self, paths: &[PathBuf]) -> Followed {
            // Not `MODIFY`: the store's file is in one of the folders and is written to all the time. Who
            // writes a configuration closes it.
            let flags = WatchFlags::CREATE
                | WatchFlags::CLOSE_WRITE
                | WatchFlags::DELETE
                | WatchFlags::MOVED_FROM
                | WatchFlags::MOVED_TO
                | WatchFlags::ONLYDIR;
            let Some(inotify) = &self.inotify else { return Followed::AsBefore };
            let mut watched = BTreeSet::new();
            let mut failed = None;
            for folder in folders_of(paths) {
                match inotify::add_watch(inotify, &folder, flags) {
                    Ok(watch) => {
                        watched.insert(watch);
                    }
                    Err(Errno::NOENT | Errno::NOTDIR) => {}
                    Err(error) => failed = Some(error.into()),
                }
            }
            for gone in self.watched.difference(&watched) {
                // It is gone already if its folder is.
                inotify::remove_watch(inotify, *gone).ok();
            }
            let is_new = !watched.is_subset(&self.watched);
            self.watched = watched;
            if let Some(error) = failed {
                self.complain(&error);
            }
            if is_new { Followed::More } else { Followed::AsBefore }
        }

        /// Waits until something has happened, and forgets all that has happened so far.
        pub(crate) async fn event(&self) {
            let Some(inotify) = &self.inotify else { return std::future::pending().await };
            // An error is no event, and is not to be met over and over again.
            if inotify.async_io(Interest::READABLE, drain).await.is_err() {
                std::future::pending().await
            }
        }

        fn complain(&mut self, error: &std::io::Error) {
            if !self.has_complained {
                tracing::warn!(
                    %error,
                    "the system does not tell of all changed files: they are looked at now and then"
                );
            }
            self.has_complained = true;
        }
    }

    #[expect(
        deprecated,
        reason = "unsound for types that close their descriptor early, which an `OwnedFd` cannot; what \
                  takes its place is unsafe"
    )]
    fn registered(inotify: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
        AsyncFd::with_interest(inotify, Interest::READABLE)
    }

    /// What happened is of no interest, nor to whom.
    fn drain(inotify: &OwnedFd) -> std::io::Result<()> {
        let mut bytes = [0; 4_096];
        rustix::io::read(inotify, &mut bytes)?;
        while rustix::io::read(inotify, &mut bytes).is_ok_and(|count| count > 0) {}
        Ok(())
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use std::path::PathBuf;

    use super::Followed;

    /// Nothing is ever told.
    pub(crate) struct Folders;

    impl Folders {
        pub(crate) fn open() -> Self {
            Self
        }

        pub(crate) fn follow(&mut self, _paths: &[PathBuf]) -> Followed {
            Followed::AsBefore
        }

        pub(crate) async fn event(&self) {
            std::future::pending().await
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    async fn is_told(folders: &Folders) -> bool {
        timeout(Duration::from_secs(20), folders.event()).await.is_ok()
    }

    fn is_quiet(folders: &Folders) -> bool {
        let waker = std::task::Waker::noop();
        let mut event = std::pin::pin!(folders.event());
        event.as_mut().poll(&mut std::task::Context::from_waker(waker)).is_pending()
    }

    #[tokio::test]
    async fn a_file_that_is_written_replaced_or_removed_is_told_of() {
        let folder = tempfile::tempdir().unwrap();
        let (file, new) = (folder.path().join("a"), folder.path().join("b"));
        let mut folders = Folders::open();
        assert_eq!(folders.follow(std::slice::from_ref(&file)), Followed::More);
        assert_eq!(folders.follow(std::slice::from_ref(&file)), Followed::AsBefore);
        assert!(is_quiet(&folders));
        fs::write(&file, "one").unwrap();
        assert!(is_told(&folders).await);
        fs::write(&file, "two").unwrap();
        assert!(is_told(&folders).await);
        fs::write(&new, "three").unwrap();
        fs::rename(&new, &file).unwrap();
        assert!(is_told(&folders).await);
        fs::remove_file(&file).unwrap();
        assert!(is_told(&folders).await && is_quiet(&folders));
    }

    #[tokio::test]
    async fn a_file_that_is_kept_open_and_written_to_is_not() {
        use std::io::Write as _;
        let folder = tempfile::tempdir().unwrap();
        let mut store = fs::File::create(folder.path().join("store")).unwrap();
        let mut folders = Folders::open();
        folders.follow(&[folder.path().join("pepper")]);
        store.write_all(b"a charge").unwrap();
        assert!(is_quiet(&folders));
        drop(store);
        assert!(is_told(&folders).await);
    }

    #[tokio::test]
    async fn a_folder_that_nobody_asks_for_any_more_is_silent() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut folders = Folders::open();
        folders.follow(&[one.path().join("a"), other.path().join("a")]);
        folders.follow(&[other.path().join("a")]);
        // Taking a watch away is told of as well.
        assert!(is_told(&folders).await);
        fs::write(one.path().join("a"), "").unwrap();
        assert!(is_quiet(&folders));
        fs::write(other.path().join("a"), "").unwrap();
        assert!(is_told(&folders).await);
    }

    #[test]
    fn every_folder_on_the_way_over_links_counts() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        for name in ["live", "archive", "..day1"] {
            fs::create_dir(root.join(name)).unwrap();
        }
        fs::write(root.join("archive/cert1.pem"), "").unwrap();
        symlink("../archive/cert1.pem", root.join("live/cert.pem")).unwrap();
        fs::write(root.join("..day1/gateway.toml"), "").unwrap();
        symlink("..day1", root.join("..data")).unwrap();
        symlink("..data/gateway.toml", root.join("gateway.toml")).unwrap();
        symlink("loop", root.join("loop")).unwrap();

        let of = |name: &str| folders_of(&[root.join(name)]);
        let certbot = of("live/cert.pem");
        assert!(certbot.contains(&root.join("live")) && certbot.contains(&root.join("archive")));
        let kubernetes = of("gateway.toml");
        assert!(kubernetes.contains(&root) && kubernetes.contains(&root.join("..day1")));
        assert_eq!(of("loop"), BTreeSet::from([root.clone()]));
        assert_eq!(folders_of(&["gateway.toml".into()]).first(), Some(&PathBuf::from(".")));
    }
}
