//! A line between a gateway and its store that can be cut, closed, silenced and slowed down, all of
//! it or the subscriptions alone. Knows of what passes only who subscribes.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// Which connections a fault is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    All,
    /// Those on which SUBSCRIBE was sent.
    Subscriptions,
}

pub struct Tap {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    target: SocketAddr,
    faults: Mutex<Faults>,
    changed: Condvar,
    pairs: Mutex<Vec<Weak<Pair>>>,
    stopped: AtomicBool,
}

#[derive(Clone, Copy, Default)]
struct Faults {
    /// Connections stay open, and what is sent waits.
    silent: Option<Which>,
    /// Connections end, and new ones at once.
    refused: Option<Which>,
    /// What each answer waits.
    delay: Duration,
}

/// A client's connection and the one that carries it on.
struct Pair {
    client: TcpStream,
    server: TcpStream,
    subscribed: AtomicBool,
}

impl Tap {
    pub fn before(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            target,
            faults: Mutex::default(),
            changed: Condvar::new(),
            pairs: Mutex::default(),
            stopped: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if accepting.stopped.load(Ordering::SeqCst) {
                    break;
                }
                let shared = Arc::clone(&accepting);
                thread::spawn(move || carry(client, &shared));
            }
        });
        Self { address, shared }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends connections. New ones are let through.
    pub fn cut(&self, which: Which) {
        self.shared.end(which);
    }

    /// Ends connections, and new ones as soon as they are there.
    pub fn refuse(&self, which: Which) {
        self.shared.change(|faults| faults.refused = Some(which));
        self.shared.end(which);
    }

    /// Lets nothing pass, old connections and new ones staying open. What is sent meanwhile is not
    /// lost: as on a real line, it comes once the line is there again.
    pub fn blackhole(&self, which: Which) {
        self.shared.change(|faults| faults.silent = Some(which));
    }

    /// Lets every answer of the store wait this long.
    pub fn delay(&self, delay: Duration) {
        self.shared.change(|faults| faults.delay = delay);
    }

    /// Ends all faults.
    pub fn resume(&self) {
        self.shared.change(|faults| *faults = Faults::default());
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        self.resume();
        self.cut(Which::All);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

impl Which {
    fn means(self, pair: &Pair) -> bool {
        self == Self::All || pair.subscribed.load(Ordering::SeqCst)
    }
}

impl Pair {
    fn end(&self) {
        let _ = self.client.shutdown(Shutdown::Both);
        let _ = self.server.shutdown(Shutdown::Both);
    }
}

impl Shared {
    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.faults());
        self.changed.notify_all();
    }

    fn end(&self, which: Which) {
        let mut pairs = self.pairs.lock().unwrap_or_else(PoisonError::into_inner);
        pairs.retain(|pair| pair.strong_count() > 0);
        pairs.iter().filter_map(Weak::upgrade).filter(|pair| which.means(pair)).for_each(|pair| {
            pair.end();
        });
    }

    /// Waits as long as the line is silent. False if it is to end instead.
    fn may_pass(&self, pair: &Pair) -> bool {
        let mut faults = self.faults();
        loop {
            if faults.refused.is_some_and(|which| which.means(pair)) {
                return false;
            }
            if !faults.silent.is_some_and(|which| which.means(pair)) {
                return true;
            }
            faults = self.changed.wait(faults).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until an answer of that moment is due.
    fn wait_for_turn(&self, came_at: Instant) {
        let mut faults = self.faults();
        while let Some(left) = (came_at + faults.delay).checked_duration_since(Instant::now()) {
            if left.is_zero() {
                return;
            }
            let waited = self.changed.wait_timeout(faults, left);
            faults = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn carry(client: TcpStream, shared: &Arc<Shared>) {
    if shared.faults().refused == Some(Which::All) {
        return;
    }
    let Ok(server) = TcpStream::connect(shared.target) else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let pair = Arc::new(Pair { client, server, subscribed: AtomicBool::new(false) });
    shared.pairs.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&pair));
    let (answers, questions) = ((Arc::clone(&pair), Arc::clone(shared)), pair);
    thread::spawn(move || carry_answers(&answers.0, &answers.1));
    carry_questions(&questions, shared);
}

fn carry_questions(pair: &Pair, shared: &Shared) {
    let mut chunk = [0; 16_384];
    while let Ok(count @ 1..) = (&pair.client).read(&mut chunk) {
        let bytes = &chunk[..count];
        if bytes.windows(9).any(|word| word.eq_ignore_ascii_case(b"SUBSCRIBE")) {
            pair.subscribed.store(true, Ordering::SeqCst);
        }
        if !shared.may_pass(pair) || (&pair.server).write_all(bytes).is_err() {
            break;
        }
    }
    pair.end();
}

/// Answers wait side by side, not one for another: a slow line is not a narrow one.
fn carry_answers(pair: &Arc<Pair>, shared: &Arc<Shared>) {
    let (came, due) = mpsc::channel::<(Instant, Vec<u8>)>();
    let writer = (Arc::clone(pair), Arc::clone(shared));
    let writer = thread::spawn(move || {
        let (pair, shared) = writer;
        for (came_at, bytes) in due {
            shared.wait_for_turn(came_at);
            if !shared.may_pass(&pair) || (&pair.client).write_all(&bytes).is_err() {
                break;
            }
        }
        pair.end();
    });
    let mut chunk = [0; 16_384];
    while let Ok(count @ 1..) = (&pair.server).read(&mut chunk) {
        if came.send((Instant::now(), chunk[..count].to_vec())).is_err() {
            break;
        }
    }
    drop(came);
    let _ = writer.join();
}
