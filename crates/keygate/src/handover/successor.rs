//! The old process's side: starts the new one, and hands it what it needs.

use std::ffi::OsString;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use keygate_core::key::PepperId;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::channel::{Channel, FromNew, FromOld, Name, Role, VERSION};

/// How the new process is told whose standard input it has.
const TAKE_OVER: &str = "--take-over";
/// This process's own program, even if its file was replaced or removed since.
const OWN_IMAGE: &str = "/proc/self/exe";
/// How long the new process may take to read its configuration.
const START_MAX: Duration = Duration::from_secs(30);
/// The same, to open the store and serve.
const SERVE_MAX: Duration = Duration::from_secs(60);
/// How long one that has closed its socket may take to end.
const END_MAX: Duration = Duration::from_secs(2);

/// How this process was started.
pub(crate) struct Program {
    path: OsString,
    arguments: Vec<OsString>,
}

impl Program {
    /// The words of this process.
    pub(crate) fn of_this_process() -> Self {
        let mut words = std::env::args_os();
        let path = words.next().unwrap_or_else(|| OWN_IMAGE.into());
        // A process that took over is asked to do so by its own words.
        Self { path, arguments: words.filter(|word| word != TAKE_OVER).collect() }
    }

    /// Whatever is there now under the name that this process was started by.
    pub(crate) fn start_again(&self) -> io::Result<Successor> {
        self.start(&self.path)
    }

    /// The very program that runs here.
    pub(crate) fn start_same(&self) -> io::Result<Successor> {
        self.start(&OsString::from(OWN_IMAGE))
    }

    fn start(&self, path: &OsString) -> io::Result<Successor> {
        let (ours, theirs) = UnixStream::pair()?;
        let child = Command::new(path)
            .args(&self.arguments)
            .arg(TAKE_OVER)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()?;
        Ok(Successor { child, channel: Channel::new(ours)? })
    }
}

/// The listeners of this process, to be handed on. Holding them keeps them open.
#[derive(Default)]
pub(crate) struct Handles(Vec<(Name, TcpListener)>);

impl Handles {
    /// Keeps a second handle to a listener, which was bound for `address` of the configuration.
    pub(crate) fn keep(
        &mut self,
        role: Role,
        address: SocketAddr,
        listener: &TcpListener,
    ) -> io::Result<()> {
        self.0.push((Name { role, address }, listener.try_clone()?));
        Ok(())
    }
}

/// The new process, from its start until it serves.
pub(crate) struct Successor {
    child: Child,
    channel: Channel,
}

impl Successor {
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Hands over the listeners and waits until nothing but the store is missing. Says which embedded
    /// store the new process wants to open, if any.
    ///
    /// # Errors
    /// The new process ended, or says what it should not. It is ended then.
    pub(crate) async fn prepare(
        &mut self,
        handles: &Handles,
        peppers: &[PepperId],
    ) -> io::Result<Option<PathBuf>> {
        let FromNew::Hello { version: VERSION, store } = self.channel.hear(START_MAX).await? else {
            return Err(io::Error::other("the new process does not speak as this one does"));
        };
        let names = handles.0.iter().map(|(name, _)| name.clone()).collect();
        let peppers = peppers.iter().map(ToString::to_string).collect();
        self.channel.say(&FromOld::Listeners { names, peppers }).await?;
        for (_, listener) in &handles.0 {
            self.channel.send_listener(listener.as_fd()).await?;
        }
        match self.channel.hear(START_MAX).await? {
            FromNew::Prepared => Ok(store),
            FromNew::Hello { .. } | FromNew::Ready => Err(io::Error::other("not what comes next")),
        }
    }

    /// Lets the new process serve, and waits until it does.
    ///
    /// # Errors
    /// As [`prepare`](Self::prepare).
    pub(crate) async fn let_serve(&mut self) -> io::Result<()> {
        self.channel.say(&FromOld::Released).await?;
        match self.channel.hear(SERVE_MAX).await? {
            FromNew::Ready => Ok(()),
            FromNew::Hello { .. } | FromNew::Prepared => {
                Err(io::Error::other("not what comes next"))
            }
        }
    }

    /// Passes a stop on to the process that serves now.
    pub(crate) fn terminate(&self) {
        let pid = self.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        // One that has ended needs no telling.
        pid.and_then(|pid| kill_process(pid, Signal::TERM).ok());
    }

    /// The socket to the new process, which goes on without us.
    pub(crate) fn into_stream(self) -> tokio::net::UnixStream {
        self.channel.into_stream()
    }

    /// Ends a new process that has not taken over, for this reason; or says that it ended by itself,
    /// which is a better one.
    pub(crate) async fn give_up(mut self, error: io::Error) -> io::Error {
        // Its end of the socket may have been closed a moment before it is gone.
        match timeout(END_MAX, self.child.wait()).await {
            Ok(Ok(status)) => io::Error::other(format!("the new process ended: {status}")),
            Ok(Err(_)) | Err(_) => {
                self.child.kill().await.ok();
                error
            }
        }
    }
}

/// Whether two settings name one file, however they are written.
pub(crate) fn same_file(one: &Path, other: &Path) -> bool {
    let whole = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    whole(one) == whole(other)
}
