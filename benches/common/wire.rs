//! HTTP/1.1 messages as they come over a socket, as far as a bench needs to read them: where one ends.

use std::io::{self, Read, Write};
use std::net::TcpStream;

const HEAD_MAX: usize = 16 << 10;

/// Reads messages one after the other; keeps a head that came in parts.
#[derive(Default)]
pub(crate) struct Reader {
    head: Vec<u8>,
    /// Of the body, once the head is read.
    left: Option<usize>,
}

/// What a read led to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Nothing more to read now.
    Part,
    /// All of a message is there; its first bytes, as far as they were asked for.
    Whole([u8; 12]),
    /// The other side is gone.
    End,
}

impl Reader {
    /// Reads once. Messages do not overtake their answers, so a read holds no more than one.
    pub(crate) fn read(&mut self, stream: &mut TcpStream, buffer: &mut [u8]) -> Progress {
        let read = match stream.read(buffer) {
            Ok(0) => return Progress::End,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Progress::Part,
            Err(_) => return Progress::End,
        };
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(read).expect("no more than was announced");
        } else if self.head.is_empty() && self.take_head(&buffer[..read]) {
            // The usual case: all of a head in one read, nothing to be copied but its first bytes.
        } else {
            self.head.extend_from_slice(&buffer[..read]);
            let head = std::mem::take(&mut self.head);
            if !self.take_head(&head) {
                assert!(head.len() <= HEAD_MAX, "{}", String::from_utf8_lossy(&head));
                self.head = head;
            }
        }
        if self.left != Some(0) {
            return Progress::Part;
        }
        self.left = None;
        let mut first = [0; 12];
        first.copy_from_slice(&self.head[..12]);
        self.head.clear();
        Progress::Whole(first)
    }

    /// Whether the head ends in this; then what is left is known, and its first bytes are kept.
    fn take_head(&mut self, bytes: &[u8]) -> bool {
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
            return false;
        };
        let length = content_length(&bytes[..end + 2]);
        let body = bytes.len() - end - 4;
        self.left = Some(length.checked_sub(body).expect("no more than was announced"));
        self.head.clear();
        self.head.extend_from_slice(&bytes[..12.min(end)]);
        self.head.resize(12, b' ');
        true
    }
}

/// Of a head whose lines all end. A message without it has no body.
fn content_length(head: &[u8]) -> usize {
    for line in head.split(|byte| *byte == b'\n') {
        let Some((name, value)) = line.split_at_checked(15) else { continue };
        if name.eq_ignore_ascii_case(b"content-length:") {
            return str::from_utf8(value).unwrap().trim().parse().unwrap();
        }
    }
    0
}

/// What is still to be sent of a message of two parts. Whether all of it is sent.
pub(crate) fn send(stream: &mut TcpStream, sent: &mut usize, head: &[u8], body: &[u8]) -> bool {
    loop {
        let rest = if *sent < head.len() { &head[*sent..] } else { &body[*sent - head.len()..] };
        if rest.is_empty() {
            return true;
        }
        match stream.write(rest) {
            Ok(wrote) => *sent += wrote,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            // The next read finds the end.
            Err(_) => return true,
        }
    }
}
