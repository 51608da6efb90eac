//! HTTP/2 frames written by hand, for what no well-behaved client would send (RFC 9113, RFC 7541).

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::wait::patience;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

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
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(patience())).unwrap();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
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
    ending(&mut stream)
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Every field as a literal that is not indexed, without Huffman coding (RFC 7541 section 6.2.2).
fn fields_of(fields: &[(&str, &[u8])]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        push_text(&mut block, name.as_bytes());
        push_text(&mut block, value);
    }
    block
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

fn ending(stream: &mut TcpStream) -> Ending {
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).is_err() {
            return Ending::Closed;
        }
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        if stream.read_exact(&mut vec![0; length]).is_err() {
            return Ending::Closed;
        }
        let (kind, flags) = (head[3], head[4]);
        match kind {
            GOAWAY => return Ending::Closed,
            RST_STREAM => return Ending::Reset,
            HEADERS | DATA if flags & END_STREAM != 0 => return Ending::Answered,
            _ => {}
        }
    }
}
