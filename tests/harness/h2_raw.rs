//! HTTP/2 frames written by hand, for what no well-behaved client would send (RFC 9113, RFC 7541).

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::wait::patience;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// How an exchange ended, as far as frames tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Answered,
    Reset,
    Closed,
}

/// What follows a request's head.
#[derive(Clone, Copy, Debug)]
pub enum Rest<'a> {
    Nothing,
    Body(&'a [u8]),
    /// A body, and header fields after it.
    Trailers(&'a [u8], &'a [(&'a str, &'a [u8])]),
}

/// Sends one request with exactly these fields, and waits for its end.
pub fn exchange(address: SocketAddr, fields: &[(&str, &[u8])], rest: Rest<'_>) -> Ending {
    let mut stream = Client::open(address).stream;
    let mut bytes = Vec::new();
    match rest {
        Rest::Nothing => {
            bytes.extend(frame(HEADERS, END_STREAM | END_HEADERS, 1, &fields_of(fields)));
        }
        Rest::Body(body) => {
            bytes.extend(frame(HEADERS, END_HEADERS, 1, &fields_of(fields)));
            bytes.extend(frame(DATA, END_STREAM, 1, body));
        }
        Rest::Trailers(body, trailers) => {
            bytes.extend(frame(HEADERS, END_HEADERS, 1, &fields_of(fields)));
            bytes.extend(frame(DATA, 0, 1, body));
            bytes.extend(frame(HEADERS, END_STREAM | END_HEADERS, 1, &fields_of(trailers)));
        }
    }
    // The gateway may have closed before it has read everything.
    let _ = stream.write_all(&bytes);
    ending(&mut stream, &mut Vec::new())
}

/// Sends these frames after the hello, and waits for an end. Returns what came in DATA frames, too.
pub fn converse(address: SocketAddr, frames: &[u8]) -> (Ending, Vec<u8>) {
    let mut stream = Client::open(address).stream;
    // The gateway may have closed before it has read everything.
    let _ = stream.write_all(frames);
    let mut body = Vec::new();
    let ending = ending(&mut stream, &mut body);
    (ending, body)
}

/// A client with one stream, frame by frame.
pub struct Client {
    stream: TcpStream,
}

impl Client {
    /// Connects and says hello.
    pub fn open(address: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(patience())).unwrap();
        let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        hello.extend(frame(SETTINGS, 0, 0, &[]));
        stream.write_all(&hello).unwrap();
        Self { stream }
    }

    /// Sends the one request, without a body.
    pub fn send(&mut self, fields: &[(&str, &[u8])]) {
        let flags = END_STREAM | END_HEADERS;
        self.stream.write_all(&frame(HEADERS, flags, 1, &fields_of(fields))).unwrap();
    }

    /// Sends the one request as far as the first bytes of its body.
    pub fn begin(&mut self, fields: &[(&str, &[u8])], body: &[u8]) {
        let head = frame(HEADERS, END_HEADERS, 1, &fields_of(fields));
        let data = if body.is_empty() { Vec::new() } else { frame(DATA, 0, 1, body) };
        self.stream.write_all(&[head, data].concat()).unwrap();
    }

    /// Sends more of its body, with these flags.
    pub fn data(&mut self, bytes: &[u8], flags: u8) {
        // The gateway may have ended it.
        let _ = self.stream.write_all(&frame(DATA, flags, 1, bytes));
    }

    /// Takes the request back.
    pub fn cancel(&mut self) {
        self.stream.write_all(&cancel(1)).unwrap();
    }

    /// Sends frames as they are.
    pub fn write(&mut self, frames: &[u8]) {
        // The gateway may have closed.
        let _ = self.stream.write_all(frames);
    }

    /// Waits until the gateway has read everything so far.
    pub fn ping(&mut self) {
        self.write(&ping());
        self.until_pong().expect("an answer to a ping");
    }

    /// Waits for a ping's answer. An error is the reason of a GOAWAY that came instead.
    pub fn until_pong(&mut self) -> Result<(), u32> {
        self.until(|kind, flags| kind == PING && flags & ACK != 0)
    }

    /// The same for the end of whatever is answered.
    pub fn until_answered(&mut self) -> Result<(), u32> {
        self.until(|kind, flags| matches!(kind, HEADERS | DATA) && flags & END_STREAM != 0)
    }

    fn until(&mut self, is_it: impl Fn(u8, u8) -> bool) -> Result<(), u32> {
        loop {
            let (kind, flags, payload) = read_whole_frame(&mut self.stream).expect("a last word");
            let reason = || u32::from_be_bytes(payload[4..8].try_into().unwrap());
            match kind {
                // A friendly one says only that there is nothing new to come.
                GOAWAY if reason() != 0 => return Err(reason()),
                _ if is_it(kind, flags) => return Ok(()),
                _ => {}
            }
        }
    }

    /// Whether there is nothing more to come.
    pub fn is_closed(&mut self) -> bool {
        read_whole_frame(&mut self.stream).is_none()
    }

    /// Waits for the request's end. A GOAWAY is none: what was sent before it may be answered.
    pub fn ending(&mut self) -> Ending {
        loop {
            match read_frame(&mut self.stream) {
                None => return Ending::Closed,
                Some((RST_STREAM, _)) => return Ending::Reset,
                Some((HEADERS | DATA, flags)) if flags & END_STREAM != 0 => {
                    return Ending::Answered;
                }
                Some(_) => {}
            }
        }
    }
}

/// A frame's bytes (RFC 9113 section 4.1).
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A request without a body.
pub fn request(stream: u32, fields: &[(&str, &[u8])]) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &fields_of(fields))
}

/// Takes a request back.
pub fn cancel(stream: u32) -> Vec<u8> {
    const CANCEL: u32 = 8;
    frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())
}

pub fn ping() -> Vec<u8> {
    frame(PING, 0, 0, b"are you?")
}

/// Every field as a literal that is not indexed, without Huffman coding (RFC 7541 section 6.2.2).
pub fn fields_of(fields: &[(&str, &[u8])]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| field_of(name.as_bytes(), value)).collect()
}

/// One such field, whose name may be anything.
pub fn field_of(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut field = vec![0];
    push_text(&mut field, name);
    push_text(&mut field, value);
    field
}

/// A length as an integer with a 7-bit prefix (RFC 7541 section 5.1), and the text.
fn push_text(block: &mut Vec<u8>, text: &[u8]) {
    const PREFIX_MAX: usize = 127;
    if text.len() < PREFIX_MAX {
        block.push(text.len() as u8);
    } else {
        block.push(PREFIX_MAX as u8);
        let mut rest = text.len() - PREFIX_MAX;
        while rest >= 128 {
            block.push((rest % 128) as u8 | 128);
            rest /= 128;
        }
        block.push(rest as u8);
    }
    block.extend(text);
}

fn ending(stream: &mut TcpStream, body: &mut Vec<u8>) -> Ending {
    loop {
        let Some((kind, flags, payload)) = read_whole_frame(stream) else { return Ending::Closed };
        match kind {
            GOAWAY => return Ending::Closed,
            RST_STREAM => return Ending::Reset,
            DATA => body.extend(payload),
            _ => {}
        }
        if matches!(kind, HEADERS | DATA) && flags & END_STREAM != 0 {
            return Ending::Answered;
        }
    }
}

/// The next frame's kind and flags; nothing at the connection's end.
fn read_frame(stream: &mut TcpStream) -> Option<(u8, u8)> {
    read_whole_frame(stream).map(|(kind, flags, _)| (kind, flags))
}

fn read_whole_frame(stream: &mut TcpStream) -> Option<(u8, u8, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).ok()?;
    let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).ok()?;
    Some((head[3], head[4], payload))
}
