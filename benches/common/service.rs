//! The service behind a proxy: answers at once, with a few bytes, or with a mebibyte below `/v1/large` and
//! `/aside/large`.
//! One thread on epoll, so that little of the core that it shares with the clients is its own.

use std::net::{TcpListener, TcpStream};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

use super::process::raise_files;
use super::wire::{Progress, Reader, send};

const SMALL: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 12\r\n\r\nhello, world";
pub(crate) const LARGE: usize = 1 << 20;
const LISTENER: u64 = u64::MAX;
const BUFFER: usize = 256 << 10;

struct Client {
    stream: TcpStream,
    reader: Reader,
    answer: Option<(bool, usize)>,
}

/// Serves until the process ends.
pub(crate) fn serve(port: u16) {
    raise_files();
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let epoll = epoll::create(CreateFlags::CLOEXEC).unwrap();
    epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN).unwrap();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n").into_bytes();
    let large = vec![b'x'; LARGE];
    let mut clients: Vec<Option<Client>> = Vec::new();
    let mut free = Vec::new();
    let mut buffer = vec![0; BUFFER];
    let mut events = Vec::with_capacity(1024);
    loop {
        events.clear();
        epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None).unwrap();
        for event in &events {
            let (at, flags) = (event.data.u64(), event.flags);
            if at == LISTENER {
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true).unwrap();
                    stream.set_nodelay(true).unwrap();
                    let at = free.pop().unwrap_or(clients.len());
                    let data = EventData::new_u64(at as u64);
                    epoll::add(&epoll, &stream, data, EventFlags::IN).unwrap();
                    if at == clients.len() {
                        clients.push(None);
                    }
                    clients[at] = Some(Client { stream, reader: Reader::default(), answer: None });
                }
                continue;
            }
            let at = at as usize;
            let Some(client) = &mut clients[at] else { continue };
            if !client.go_on(&mut buffer, (&head, &large)) {
                clients[at] = None;
                free.push(at);
                continue;
            }
            let wanted = if client.answer.is_some() { EventFlags::OUT } else { EventFlags::IN };
            // The usual answer is sent at once, and nothing changes.
            if client.answer.is_some() || flags.contains(EventFlags::OUT) {
                let data = EventData::new_u64(at as u64);
                epoll::modify(&epoll, &client.stream, data, wanted).unwrap();
            }
        }
    }
}

impl Client {
    /// Whether it is still there.
    fn go_on(&mut self, buffer: &mut [u8], large: (&[u8], &[u8])) -> bool {
        if self.answer.is_none() {
            match self.reader.read(&mut self.stream, buffer) {
                Progress::Part => {}
                Progress::Whole(first) => {
                    self.answer = Some((matches!(&first, b"GET /v1/larg" | b"GET /aside/l"), 0));
                }
                Progress::End => return false,
            }
        }
        if let Some((is_large, sent)) = &mut self.answer {
            let (head, body) = if *is_large { large } else { (SMALL, &[][..]) };
            if send(&mut self.stream, sent, head, body) {
                self.answer = None;
            }
        }
        true
    }
}
