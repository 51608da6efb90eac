//! Fields of a JSON object (RFC 8259), written one by one: what is known to need nothing escaped is copied.
//! A line has some thirty of them, and each of their bytes of code is run once in a request, when nothing
//! of it is in the processor's first cache any more. So whatever several of them need is one function.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use keygate_core::UnixMillis;

use super::draft::Room;
use crate::access_log::record::{LANE, Name, is_plain};

/// A text that is known when this is compiled, in a lane.
pub(super) struct Known {
    text: [u8; LANE],
    length: usize,
}

impl Known {
    #[expect(clippy::indexing_slicing, reason = "worked out when it is compiled")]
    pub(super) const fn new(text: &str) -> Self {
        let mut lane = [0; LANE];
        let mut at = 0;
        while at < text.len() {
            lane[at] = text.as_bytes()[at];
            at += 1;
        }
        Self { text: lane, length: text.len() }
    }

    /// Without its last byte.
    const fn but_one(&self) -> Self {
        Self { text: self.text, length: self.length - 1 }
    }
}

macro_rules! known {
    ($($part:literal),*) => {{
        const KNOWN: Known = Known::new(concat!($($part),*));
        &KNOWN
    }};
}

/// The name of a field, with all that stands between the value before it and its own.
macro_rules! name {
    ($name:literal) => {
        known!(",\"", $name, "\":")
    };
}

/// The same of one whose value is in quotes: its first one belongs to it.
macro_rules! text_name {
    ($name:literal) => {
        known!(",\"", $name, "\":\"")
    };
}

/// A field with its value.
macro_rules! field {
    ($name:literal, $value:literal) => {
        known!(",\"", $name, "\":\"", $value, "\"")
    };
}

pub(super) use {field, known, name, text_name};

/// An object that is being written. Names come from [`name!`] and [`text_name!`].
pub(super) struct Fields<'a> {
    out: Room<'a>,
}

impl<'a> Fields<'a> {
    /// The object begins so: up to a moment's milliseconds, which stand before the last so many bytes.
    #[inline]
    pub(super) fn begin<const LENGTH: usize>(
        mut out: Room<'a>,
        beginning: &[u8; LENGTH],
        time: UnixMillis,
        behind: usize,
    ) -> Self {
        let mut beginning = *beginning;
        let from_millis = beginning.get_mut(LENGTH - behind - 3..);
        if let Some(millis) = from_millis.and_then(|rest| rest.first_chunk_mut()) {
            *millis = three_digits((time.0 % 1_000) as u16);
        }
        out.put_all(&beginning);
        Self { out }
    }

    /// The object ends, and with it its line. How much room it leaves.
    #[inline]
    pub(super) fn end(mut self) -> usize {
        self.out.put_all(b"}\n");
        self.out.left()
    }

    #[inline]
    pub(super) fn known(&mut self, known: &Known) {
        self.out.put_first(&known.text, known.length);
    }

    /// What is not known.
    #[inline]
    pub(super) fn null(&mut self, text_name: &Known) {
        // It has no quotes.
        self.known(&text_name.but_one());
        self.out.put_all(b"null");
    }

    /// A name of the configuration.
    #[inline]
    pub(super) fn named(&mut self, name: &Known, value: &Name) {
        self.known(name);
        match value.short() {
            Some((lane, length)) => self.out.put_first(lane, length),
            None => self.out.put(value.json()),
        }
    }

    /// What needs nothing escaped.
    #[inline]
    pub(super) fn quoted(&mut self, text_name: &Known, value: &[u8]) {
        self.known(text_name);
        self.out.put(value);
        self.out.put_all(b"\"");
    }

    /// The same for what is the first so many bytes of these.
    #[inline]
    pub(super) fn short(&mut self, text_name: &Known, (lane, length): (&[u8; LANE], usize)) {
        self.known(text_name);
        self.out.put_first(lane, length);
        self.out.put_all(b"\"");
    }

    /// The same for what has a length that is known when this is compiled.
    #[inline]
    pub(super) fn id<const LENGTH: usize>(&mut self, text_name: &Known, id: &[u8; LENGTH]) {
        self.known(text_name);
        self.out.put_all(id);
        self.out.put_all(b"\"");
    }

    /// What may need something escaped.
    #[inline(never)]
    pub(super) fn text(&mut self, text_name: &Known, text: &str) {
        if is_plain(text.as_bytes()) {
            self.quoted(text_name, text.as_bytes());
        } else {
            // It brings its quotes.
            self.known(&text_name.but_one());
            // A text cannot fail to become JSON, nor memory to be written.
            serde_json::to_writer(&mut self.out, text).unwrap_or_default();
        }
    }

    #[inline(never)]
    pub(super) fn number(&mut self, name: &Known, number: u64) {
        self.known(name);
        self.digits(number);
    }

    /// With three decimals: nanoseconds are nobody's business.
    #[inline(never)]
    pub(super) fn millis(&mut self, name: &Known, time: Duration) {
        let micros = time.subsec_micros();
        let millis = time.as_secs().saturating_mul(1_000).saturating_add((micros / 1_000).into());
        let [hundreds, tens, ones] = three_digits((micros % 1_000) as u16);
        self.known(name);
        self.digits(millis);
        self.out.put_all(&[b'.', hundreds, tens, ones]);
    }

    #[inline]
    pub(super) fn address(&mut self, text_name: &Known, address: IpAddr) {
        self.known(text_name);
        match address {
            IpAddr::V4(address) => self.v4(address),
            IpAddr::V6(_) => self.shown(&address),
        }
        self.out.put_all(b"\"");
    }

    #[inline]
    pub(super) fn socket(&mut self, text_name: &Known, socket: SocketAddr) {
        self.known(text_name);
        match socket {
            SocketAddr::V4(socket) => {
                self.v4(*socket.ip());
                self.number(known!(":"), socket.port().into());
            }
            SocketAddr::V6(_) => self.shown(&socket),
        }
        self.out.put_all(b"\"");
    }

    /// The usual one, without the cost of formatting.
    #[inline(never)]
    fn v4(&mut self, address: Ipv4Addr) {
        let [first, rest @ ..] = address.octets();
        self.digits(first.into());
        for octet in rest {
            self.out.put_all(b".");
            self.digits(octet.into());
        }
    }

    #[cold]
    fn shown(&mut self, address: &dyn std::fmt::Display) {
        // Writing to memory does not fail.
        write!(self.out, "{address}").unwrap_or_default();
    }

    #[inline]
    fn digits(&mut self, number: u64) {
        let digits = usize::try_from(number).ok().and_then(|number| DIGITS.get(number));
        if let Some(digits @ [.., length]) = digits {
            self.out.put_first(digits, (*length).into());
        } else {
            self.out.put(itoa::Buffer::new().format(number).as_bytes());
        }
    }
}

/// The numbers below a thousand, and behind the digits of each how many they are.
#[expect(clippy::indexing_slicing, reason = "worked out when it is compiled")]
static DIGITS: [[u8; 4]; 1_000] = {
    let mut all = [[0; 4]; 1_000];
    let mut number: u16 = 0;
    while number < 1_000 {
        let [hundreds, tens, ones] = three_digits(number);
        all[number as usize] = match number {
            0..10 => [ones, 0, 0, 1],
            10..100 => [tens, ones, 0, 2],
            100.. => [hundreds, tens, ones, 3],
        };
        number += 1;
    }
    all
};

/// The digits of a number below a thousand, with zeros in front.
#[inline]
const fn three_digits(number: u16) -> [u8; 3] {
    [b'0' | (number / 100 % 10) as u8, b'0' | (number / 10 % 10) as u8, b'0' | (number % 10) as u8]
}
