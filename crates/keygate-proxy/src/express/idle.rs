//! Connections to upstreams that wait for a next request, each on the shelf of the thread that had it last.
//! No task watches one: it is looked at before it is used, and every now and then.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use keygate_core::cells::{thread_number, thread_places};
use keygate_telemetry::WayMetrics;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use pingora::protocols::Stream;
use pingora::upstreams::peer::{HttpPeer, Peer as _};
use quanta::Instant;
use tokio::io::AsyncReadExt;

/// How often what waits for a next request is looked at.
const TIDY_EVERY: Duration = Duration::from_secs(1);

/// Where a connection leads, and on what terms. Its hash has no secret, so that whoever chooses one
/// address could find another with the same: the address itself is compared.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Place {
    terms: u64,
    address: Option<SocketAddr>,
}

impl Place {
    pub(super) fn of(peer: &HttpPeer) -> Self {
        Self { terms: peer.reuse_hash(), address: peer.address().as_inet().copied() }
    }
}

/// All of them. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub(super) struct IdleConnections {
    shelves: Arc<Shelves<Place, Idle>>,
    ways: WayMetrics,
}

struct Idle {
    stream: Stream,
    until: Option<Instant>,
}

impl Idle {
    fn is_usable(&mut self, now: Instant) -> bool {
        self.until.is_none_or(|until| now < until) && is_silent(&mut self.stream)
    }
}

impl IdleConnections {
    /// Keeps at most so many.
    pub(super) fn new(most: usize, ways: WayMetrics) -> Self {
        Self { shelves: Arc::new(Shelves::new(most, thread_places())), ways }
    }

    pub(super) fn count(&self) -> u64 {
        u64::try_from(self.shelves.count.load(Relaxed)).unwrap_or(u64::MAX)
    }

    /// One that leads there, unless its upstream has closed it or said anything since.
    pub(super) fn take(&self, place: Place) -> Option<Stream> {
        let now = Instant::now();
        loop {
            let mut idle = self.shelves.take(thread_number(), place)?;
            if idle.is_usable(now) && has_nothing_to_read(&idle.stream) {
                return Some(idle.stream);
            }
        }
    }

    pub(super) fn put(&self, place: Place, mut stream: Stream, timeout: Option<Duration>) {
        if timeout == Some(Duration::ZERO) || !is_silent(&mut stream) {
            return;
        }
        let until = timeout.map(|timeout| Instant::now() + timeout);
        if let Some(closed) = self.shelves.put(thread_number(), place, Idle { stream, until }) {
            self.ways.crowded_out();
            drop(closed);
        }
    }

    /// Lets go of what the other side has closed, and of what has waited too long.
    pub(super) async fn keep_tidy(self) {
        loop {
            tokio::time::sleep(TIDY_EVERY).await;
            let now = Instant::now();
            for shelf in 0..self.shelves.all.len() {
                drop(self.shelves.take_unless(shelf, |idle| idle.is_usable(now)));
            }
        }
    }
}

/// A shelf for each thread, which is nearly always the only one that wants it, and a bound over all.
struct Shelves<P, T> {
    most: usize,
    /// Never fewer than there are.
    count: AtomicUsize,
    all: Box<[Shelf<P, T>]>,
}

/// Apart from its neighbours, which other threads write to.
#[repr(align(128))]
struct Shelf<P, T>(Mutex<ByPeer<P, T>>);

impl<P, T> Shelf<P, T> {
    /// For moments: what is let go of is closed without it.
    fn lock(&self) -> MutexGuard<'_, ByPeer<P, T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<P: Copy + Eq + Hash, T> Shelves<P, T> {
    fn new(most: usize, shelves: usize) -> Self {
        let all = (0..shelves.max(1)).map(|_| Shelf(Mutex::default())).collect();
        Self { most, count: AtomicUsize::new(0), all }
    }

    /// A thread's own shelf, and then the others'.
    fn nearest(&self, thread: usize) -> impl Iterator<Item = &Shelf<P, T>> {
        let (before, own) = self.all.split_at(thread % self.all.len());
        own.iter().chain(before)
    }

    /// The newest of the nearest shelf that has any.
    fn take(&self, thread: usize, peer: P) -> Option<T> {
        if self.count.load(Relaxed) == 0 {
            return None;
        }
        let one = self.nearest(thread).find_map(|shelf| shelf.lock().take(peer))?;
        self.count.fetch_sub(1, Relaxed);
        Some(one)
    }

    /// What has to go for it, if there is no room: an old one, or itself if there is none.
    fn put(&self, thread: usize, peer: P, one: T) -> Option<T> {
        let more = |count| (count < self.most).then_some(count + 1);
        let has_room = self.count.fetch_update(Relaxed, Relaxed, more).is_ok();
        let oldest = || self.nearest(thread).find_map(|shelf| shelf.lock().take_oldest());
        let gone = if has_room { None } else { oldest() };
        if !has_room && gone.is_none() {
            return Some(one);
        }
        if let Some(own) = self.nearest(thread).next() {
            own.lock().put(peer, one);
        }
        gone
    }

    fn take_unless(&self, shelf: usize, is_kept: impl FnMut(&mut T) -> bool) -> Vec<T> {
        let taken = self.all.get(shelf).map(|shelf| shelf.lock().take_unless(is_kept));
        let taken = taken.unwrap_or_default();
        self.count.fetch_sub(taken.len(), Relaxed);
        taken
    }
}

/// In the order in which they came.
struct ByPeer<P, T>(HashMap<P, VecDeque<T>>);

impl<P, T> Default for ByPeer<P, T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<P: Copy + Eq + Hash, T> ByPeer<P, T> {
    fn put(&mut self, peer: P, one: T) {
        self.0.entry(peer).or_default().push_back(one);
    }

    /// The newest.
    fn take(&mut self, peer: P) -> Option<T> {
        self.0.get_mut(&peer)?.pop_back()
    }

    /// Of the peer that has most: so one that was busy once does not keep the others out.
    fn take_oldest(&mut self) -> Option<T> {
        self.0.values_mut().max_by_key(|of_peer| of_peer.len())?.pop_front()
    }

    fn take_unless(&mut self, mut is_kept: impl FnMut(&mut T) -> bool) -> Vec<T> {
        let mut taken = Vec::new();
        for of_peer in self.0.values_mut() {
            for _ in 0..of_peer.len() {
                let Some(mut one) = of_peer.pop_front() else { break };
                if is_kept(&mut one) {
                    of_peer.push_back(one);
                } else {
                    taken.push(one);
                }
            }
        }
        self.0.retain(|_, of_peer| !of_peer.is_empty());
        taken
    }
}

/// Whether there is nothing to read as far as the runtime knows, in what lies above the socket too.
fn is_silent(stream: &mut Stream) -> bool {
    let mut byte = [0];
    let read = pin!(tokio::task::unconstrained(stream.read(&mut byte)));
    match read.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Pending => true,
        Poll::Ready(Ok(1..)) => {
            tell_of_more();
            false
        }
        Poll::Ready(Ok(0) | Err(_)) => false,
    }
}

/// The same by the socket itself: the runtime may not have heard yet.
fn has_nothing_to_read(stream: &Stream) -> bool {
    match recv(stream.id(), &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT) {
        Ok(1..) => {
            tell_of_more();
            false
        }
        Ok(0) => false,
        Err(error) => error == Errno::EAGAIN,
    }
}

fn tell_of_more() {
    tracing::debug!("an upstream went on after its answer: its connection is not used again");
}

#[cfg(test)]
mod tests;
