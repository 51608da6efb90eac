//! One of several servers behind an upstream, which can be killed, hung, slowed down and brought back
//! while it serves. It remembers every request that reached it.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// What a target does with a request that it has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    Well,
    /// Answers 500.
    Sick,
    /// Answers late.
    Slow(Duration),
    /// Says nothing until its mood is another.
    Hung,
    /// Ends the connection instead of answering.
    Rude,
}

/// A request that reached a target.
#[derive(Clone, Debug)]
pub struct Reached {
    pub method: String,
    pub path: String,
    /// Its `X-Id`.
    pub id: String,
    pub body: Vec<u8>,
}

pub struct Target {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    mood: Mood,
    is_dead: bool,
    reached: Vec<Reached>,
    open: Vec<TcpStream>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Target {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state =
            State { mood: Mood::Well, is_dead: true, reached: Vec::new(), open: Vec::new() };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let target = Self { address, shared, accepting: Mutex::default() };
        target.accept(listener);
        target
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn set(&self, mood: Mood) {
        self.shared.lock().mood = mood;
        self.shared.changed.notify_all();
    }

    /// Ends all connections and refuses new ones.
    pub fn kill(&self) {
        let open = {
            let mut state = self.shared.lock();
            state.is_dead = true;
            std::mem::take(&mut state.open)
        };
        self.shared.changed.notify_all();
        open.iter().for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
        let accepting = self.accepting.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(accepting) = accepting {
            // Wakes the thread that accepts.
            drop(TcpStream::connect(self.address));
            accepting.join().unwrap();
        }
    }

    /// Accepts connections again, at the same address.
    pub fn revive(&self) {
        self.accept(TcpListener::bind(self.address).unwrap());
    }

    /// Every request so far, but for health checks.
    pub fn reached(&self) -> Vec<Reached> {
        let state = self.shared.lock();
        state.reached.iter().filter(|request| request.path != "/health").cloned().collect()
    }

    pub fn count(&self) -> usize {
        self.reached().len()
    }

    fn accept(&self, listener: TcpListener) {
        self.shared.lock().is_dead = false;
        let shared = Arc::clone(&self.shared);
        let accepting = thread::spawn(move || {
            for stream in listener.incoming() {
                let mut state = shared.lock();
                if state.is_dead {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let Ok(second) = stream.try_clone() else { continue };
                state.open.push(second);
                drop(state);
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    drop(serve(&stream, &shared));
                    // There is a second handle to it.
                    drop(stream.shutdown(Shutdown::Both));
                });
            }
        });
        *self.accepting.lock().unwrap_or_else(PoisonError::into_inner) = Some(accepting);
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.kill();
    }
}

fn serve(mut stream: &TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    while let Some(request) = read(&mut reader)? {
        let is_check = request.path == "/health";
        shared.lock().reached.push(request);
        let mood = wait(shared);
        let status = match mood {
            Mood::Well | Mood::Hung => 200,
            Mood::Sick => 500,
            Mood::Slow(span) => {
                // Not a wait for anything: this is how slow it is.
                thread::sleep(span);
                200
            }
            Mood::Rude if is_check => 200,
            Mood::Rude => return Ok(()),
        };
        let name = stream.local_addr()?.to_string();
        let length = name.len();
        write!(stream, "HTTP/1.1 {status} Said\r\nContent-Length: {length}\r\n\r\n{name}")?;
    }
    Ok(())
}

/// The mood in which a request is answered.
fn wait(shared: &Shared) -> Mood {
    let state = shared.lock();
    let is_hung = |state: &mut State| state.mood == Mood::Hung && !state.is_dead;
    let state = shared.changed.wait_while(state, is_hung);
    state.unwrap_or_else(PoisonError::into_inner).mood
}

fn read(reader: &mut impl BufRead) -> io::Result<Option<Reached>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (mut id, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.split_once(':') else { break };
        match &*name.to_ascii_lowercase() {
            "x-id" => id = value.trim().to_owned(),
            "content-length" => length = value.trim().parse().map_err(io::Error::other)?,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Some(Reached { method, path, id, body }))
}
