//! The socket between a gateway and the one that takes over from it: lines of JSON, and listeners.
//! Each side waits only so long for the other.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// What both sides must speak. A newer program must go on speaking this to an older one.
pub(super) const VERSION: u32 = 1;
/// No message of ours is longer.
const LINE_BYTES_MAX: usize = 64 << 10;
/// What goes along with a listener: a message cannot be empty.
const MARK: u8 = b'L';

/// What the new process says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum FromNew {
    Hello {
        version: u32,
        /// Its embedded store, if it has one.
        store: Option<PathBuf>,
    },
    /// All that can fail without the store is done.
    Prepared,
    /// It serves.
    Ready,
}

/// What the old process says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum FromOld {
    /// The listeners themselves follow, in this order.
    Listeners {
        names: Vec<Name>,
        /// The ids of the peppers that live keys were made under.
        peppers: Vec<String>,
    },
    /// The store is not open here any more, or need not be.
    Released,
}

/// Which listener one is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Name {
    /// What comes in there.
    pub(super) role: Role,
    /// As the configuration has it.
    pub(super) address: SocketAddr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Role {
    Proxy,
    Admin,
}

/// One end.
pub(super) struct Channel(UnixStream);

impl Channel {
    pub(super) fn new(stream: std::os::unix::net::UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        UnixStream::from_std(stream).map(Self)
    }

    /// The socket, when all that this module knows of has been said.
    pub(super) fn into_stream(self) -> UnixStream {
        self.0
    }

    pub(super) async fn say(&mut self, message: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        self.0.write_all(&line).await
    }

    pub(super) async fn hear<T: DeserializeOwned>(&mut self, patience: Duration) -> io::Result<T> {
        let line = timeout(patience, self.line()).await;
        let line = line.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))?;
        Ok(serde_json::from_slice(&line)?)
    }

    /// Byte by byte: what comes behind the line may have a listener with it, which only
    /// [`listener`](Self::listener) can take.
    async fn line(&mut self) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        loop {
            match self.0.read_u8().await? {
                b'\n' => return Ok(line),
                byte if line.len() < LINE_BYTES_MAX => line.push(byte),
                _ => return Err(io::Error::other("a line is too long")),
            }
        }
    }

    pub(super) async fn send_listener(&mut self, listener: BorrowedFd<'_>) -> io::Result<()> {
        let send = || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut attached = SendAncillaryBuffer::new(&mut space);
            let fds = [listener];
            if !attached.push(SendAncillaryMessage::ScmRights(&fds)) {
                return Err(io::Error::other("a listener does not fit into a message"));
            }
            let mark = [IoSlice::new(&[MARK])];
            sendmsg(self.0.as_fd(), &mark, &mut attached, SendFlags::empty())?;
            Ok(())
        };
        self.0.async_io(Interest::WRITABLE, send).await
    }

    pub(super) async fn listener(&mut self, patience: Duration) -> io::Result<TcpListener> {
        let receive = || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut attached = RecvAncillaryBuffer::new(&mut space);
            let mut mark = [0];
            let mut into = [IoSliceMut::new(&mut mark)];
            recvmsg(self.0.as_fd(), &mut into, &mut attached, RecvFlags::CMSG_CLOEXEC)?;
            let fd: Option<OwnedFd> = attached.drain().find_map(|message| {
                if let RecvAncillaryMessage::ScmRights(mut fds) = message {
                    fds.next()
                } else {
                    None
                }
            });
            fd.ok_or_else(|| io::Error::other("a listener is missing"))
        };
        let received = timeout(patience, self.0.async_io(Interest::READABLE, receive)).await;
        received.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into())).map(TcpListener::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    fn pair() -> (Channel, Channel) {
        let (one, other) = std::os::unix::net::UnixStream::pair().unwrap();
        (Channel::new(one).unwrap(), Channel::new(other).unwrap())
    }

    #[tokio::test]
    async fn listeners_arrive_in_their_order_between_lines() {
        let (mut old, mut new) = pair();
        let listeners: Vec<TcpListener> =
            (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let address = |listener: &TcpListener| listener.local_addr().unwrap();
        let names = listeners.iter().map(|one| Name { role: Role::Proxy, address: address(one) });
        let names = names.collect();
        old.say(&FromOld::Listeners { names, peppers: Vec::new() }).await.unwrap();
        for listener in &listeners {
            old.send_listener(listener.as_fd()).await.unwrap();
        }
        old.say(&FromOld::Released).await.unwrap();
        let FromOld::Listeners { names, .. } = new.hear(PATIENCE).await.unwrap() else { panic!() };
        for (name, listener) in names.iter().zip(&listeners) {
            let received = new.listener(PATIENCE).await.unwrap();
            assert_eq!(address(&received), name.address);
            assert_eq!(address(&received), address(listener));
        }
        assert!(matches!(new.hear(PATIENCE).await.unwrap(), FromOld::Released));
    }

    #[tokio::test]
    async fn a_side_that_is_gone_is_an_error_and_no_wait() {
        let (old, mut new) = pair();
        drop(old);
        assert!(new.hear::<FromOld>(PATIENCE).await.is_err());
        let (old, mut new) = pair();
        drop(old);
        assert!(new.listener(PATIENCE).await.is_err());
    }

    #[tokio::test]
    async fn a_side_that_says_nothing_is_not_waited_for_for_ever() {
        let (_old, mut new) = pair();
        let heard = new.hear::<FromOld>(Duration::from_millis(1)).await;
        assert_eq!(heard.unwrap_err().kind(), ErrorKind::TimedOut);
    }
}
