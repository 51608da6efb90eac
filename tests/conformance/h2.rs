//! An HTTP/2 connection of which every byte is said by the case, and what the server makes of it.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::{Case, deviations, h2_cases, h2_requests, h2_streams, hold};
use crate::harness::h2_raw::{
    ACK, DATA, END_STREAM, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS, frame,
};
use crate::harness::{Setup, Upstream};

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const PADDED: u8 = 8;

/// What a client does, in its order.
pub(crate) enum Step {
    Send(Vec<u8>),
    /// Waits until the stream's answer has ended.
    Answered(u32),
    /// Waits until all that was sent has been read.
    Read,
    /// Says nothing first: the case says the preface itself.
    NoGreeting,
}

/// How long a server that says nothing is waited for.
const SILENCE: Duration = Duration::from_secs(10);
/// How long something that concerns one stream may take longer than an answer to a PING.
const STREAMS_GRACE: Duration = Duration::from_millis(500);
const PROBE: &[u8; 8] = b"the end?";

#[test]
fn http_2_is_spoken_as_rfc_9113_and_rfc_7541_say() {
    let upstream = Upstream::start();
    let mut gateway = Setup::in_front_of(&upstream).start();
    let cases: Vec<Case<Vec<Step>>> =
        [h2_cases::cases(), h2_streams::cases(), h2_requests::cases()]
            .into_iter()
            .flatten()
            .collect();
    assert!(cases.len() >= 100);
    hold("HTTP/2", &cases, deviations::HTTP_2, |steps| outcome(gateway.proxy, steps));
    gateway.is_alive_and_well();
}

/// What came of it, in the table's words.
fn outcome(address: SocketAddr, steps: &[Step]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut wire = Wire { stream: stream.try_clone().unwrap(), until: Instant::now() + SILENCE };
    if !matches!(steps.first(), Some(Step::NoGreeting)) {
        let greeting = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
        stream.write_all(&greeting).unwrap();
        loop {
            match wire.next() {
                Event::Frame(Frame { kind: SETTINGS, flags: 0, .. }) => break,
                Event::Frame(_) => {}
                Event::Closed | Event::Silence => return "no SETTINGS".to_owned(),
            }
        }
        stream.write_all(&frame(SETTINGS, ACK, 0, &[])).unwrap();
    }
    for step in steps {
        match step {
            Step::NoGreeting => {}
            // A server that has closed is heard below.
            Step::Send(bytes) => drop(stream.write_all(bytes)),
            Step::Answered(id) => {
                if let Some(early) = wire.wait_for_answer(*id) {
                    return early;
                }
            }
            Step::Read => {
                drop(stream.write_all(&frame(PING, 0, 0, b"all read")));
                if let Some(early) = wire.wait_for_ping(b"all read") {
                    return early;
                }
            }
        }
    }
    drop(stream.write_all(&frame(PING, 0, 0, PROBE)));
    wire.verdict()
}

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

enum Event {
    Frame(Frame),
    Closed,
    Silence,
}

struct Wire {
    stream: TcpStream,
    until: Instant,
}

impl Wire {
    fn next(&mut self) -> Event {
        match self.read() {
            Ok(frame) => Event::Frame(frame),
            Err(error)
                if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) =>
            {
                Event::Silence
            }
            Err(_) => Event::Closed,
        }
    }

    fn read(&mut self) -> io::Result<Frame> {
        let mut head = [0; 9];
        self.fill(&mut head)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        self.fill(&mut payload)?;
        let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
        Ok(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    fn fill(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        let left = self.until.saturating_duration_since(Instant::now());
        self.stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        self.stream.read_exact(bytes)
    }

    /// The first that settles the case.
    fn verdict(&mut self) -> String {
        let mut goes_on = false;
        loop {
            match self.next() {
                Event::Closed => return "closed".to_owned(),
                Event::Silence if goes_on => return "goes on".to_owned(),
                Event::Silence => return "silence".to_owned(),
                Event::Frame(Frame { kind: PING, flags: ACK, payload, .. }) if payload == PROBE => {
                    goes_on = true;
                    self.until = Instant::now() + STREAMS_GRACE;
                }
                Event::Frame(frame) => {
                    if let Some(settled) = self.settled(&frame) {
                        return settled;
                    }
                }
            }
        }
    }

    /// What a frame means if it ends a stream or the connection.
    fn settled(&mut self, frame: &Frame) -> Option<String> {
        match frame {
            Frame { kind: GOAWAY, payload, .. } => {
                let code = code(&payload[4..8]);
                // After an error the connection closes (section 5.4.1).
                self.until = Instant::now() + SILENCE;
                loop {
                    match self.next() {
                        Event::Closed => return Some(format!("GOAWAY {code}")),
                        Event::Silence => return Some(format!("GOAWAY {code}, left open")),
                        Event::Frame(_) => {}
                    }
                }
            }
            Frame { kind: RST_STREAM, payload, .. } => {
                Some(format!("RST_STREAM {}", code(payload)))
            }
            Frame { kind: HEADERS, payload, .. } if is_error(payload) => {
                Some(status(payload)?.to_string())
            }
            Frame { kind: HEADERS | DATA, flags, .. } if flags & END_STREAM != 0 => {
                Some("answered".to_owned())
            }
            Frame { .. } => None,
        }
    }

    /// Something else that ends the case, if that comes first.
    fn wait_for_answer(&mut self, id: u32) -> Option<String> {
        loop {
            match self.next() {
                Event::Closed => return Some("closed early".to_owned()),
                Event::Silence => return Some("no answer".to_owned()),
                Event::Frame(frame) => match self.settled(&frame) {
                    Some(settled) if settled == "answered" && frame.stream == id => return None,
                    Some(other) => return Some(format!("early {other}")),
                    None => {}
                },
            }
        }
    }

    fn wait_for_ping(&mut self, payload: &[u8]) -> Option<String> {
        loop {
            match self.next() {
                Event::Closed => return Some("closed early".to_owned()),
                Event::Silence => return Some("no answer to PING".to_owned()),
                Event::Frame(Frame { kind: PING, flags: ACK, payload: sent, .. })
                    if sent == payload =>
                {
                    return None;
                }
                Event::Frame(frame) => {
                    if let Some(other) = self.settled(&frame) {
                        return Some(format!("early {other}"));
                    }
                }
            }
        }
    }
}

/// An error's name (section 7).
fn code(bytes: &[u8]) -> String {
    let number = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let names = [
        "NO_ERROR",
        "PROTOCOL_ERROR",
        "INTERNAL_ERROR",
        "FLOW_CONTROL_ERROR",
        "SETTINGS_TIMEOUT",
        "STREAM_CLOSED",
        "FRAME_SIZE_ERROR",
        "REFUSED_STREAM",
        "CANCEL",
        "COMPRESSION_ERROR",
        "CONNECT_ERROR",
        "ENHANCE_YOUR_CALM",
    ];
    names.get(number as usize).map_or_else(|| format!("code {number}"), |&name| name.to_owned())
}

fn is_error(block: &[u8]) -> bool {
    status(block).is_some_and(|status| status >= 400)
}

/// The status that a header block begins with: of the static table, or a literal that names it
/// (RFC 7541 appendix A), with or without Huffman coding.
fn status(block: &[u8]) -> Option<u16> {
    const OF_THE_TABLE: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    let (&first, rest) = block.split_first()?;
    if let Some(at) = first.checked_sub(0x88).filter(|_| first >= 0x88) {
        return OF_THE_TABLE.get(usize::from(at)).copied();
    }
    let (&length, text) = rest.split_first().filter(|_| matches!(first, 0x48 | 0x08 | 0x18))?;
    if length & 0x80 == 0 {
        return std::str::from_utf8(text.get(..3)?).ok()?.parse().ok();
    }
    let bits = text.iter().take(3).fold(0u32, |bits, &byte| bits << 8 | u32::from(byte)) << 8;
    let bits = bits << (8 * (3 - text.len().min(3)));
    let (mut number, mut at) = (0, 0);
    for _ in 0..3 {
        let five = bits << at >> 27;
        // The digits 0 to 2 have five bits, 3 to 9 six (appendix B).
        let (digit, length) =
            if five < 3 { (five, 5) } else { ((bits << at >> 26).checked_sub(0x16)?, 6) };
        number = number * 10 + u16::try_from(digit).ok()?;
        at += length;
    }
    Some(number)
}

#[test]
fn a_status_is_read_however_it_is_written() {
    assert_eq!(status(&[0x8c]), Some(400));
    assert_eq!(status(&[0x48, 3, b'4', b'0', b'5']), Some(405));
    // 302 in the examples of RFC 7541 appendix C.6.
    assert_eq!(status(&[0x48, 0x82, 0x64, 0x02]), Some(302));
    assert_eq!(status(&[0xbe]), None);
}
