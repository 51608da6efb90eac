//! Fields of a JSON object (RFC 8259), written one by one: what is known to need nothing escaped is copied.
//! A line has some thirty of them, so all that is short is inlined: its length is known then, and it is
//! copied without a call.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use keygate_core::UnixMillis;

use crate::access_log::record::is_plain;

/// The name of a field, with all that stands between the value before it and its own.
macro_rules! name {
    ($name:literal) => {
        concat!(",\"", $name, "\":")
    };
}

pub(super) use name;

/// More than most objects take.
const USUAL_BYTES: usize = 1_024;

/// An object that is being written. Names come from [`name!`].
pub(super) struct Fields<'a> {
    out: &'a mut Vec<u8>,
}

impl Fields<'_> {
    /// The object begins so.
    #[inline]
    pub(super) fn begin<'a, const LENGTH: usize>(
        out: &'a mut Vec<u8>,
        beginning: &[u8; LENGTH],
    ) -> Fields<'a> {
        out.reserve(USUAL_BYTES);
        out.extend_from_slice(beginning);
        Fields { out }
    }

    /// The object ends, and with it its line.
    pub(super) fn end(self) {
        self.out.extend_from_slice(b"}\n");
    }

    #[inline]
    fn name(&mut self, name: &str) {
        self.out.extend_from_slice(name.as_bytes());
    }

    /// What is JSON already.
    #[inline]
    pub(super) fn json(&mut self, name: &str, value: &[u8]) {
        self.name(name);
        self.out.extend_from_slice(value);
    }

    /// What needs quotes and nothing escaped.
    #[inline]
    pub(super) fn quoted(&mut self, name: &str, value: &[u8]) {
        self.name(name);
        self.out.push(b'"');
        self.out.extend_from_slice(value);
        self.out.push(b'"');
    }

    /// A word of ours.
    #[inline]
    pub(super) fn word(&mut self, name: &str, value: &str) {
        self.quoted(name, value.as_bytes());
    }

    /// What may need something escaped.
    pub(super) fn text(&mut self, name: &str, text: &str) {
        if is_plain(text.as_bytes()) {
            return self.quoted(name, text.as_bytes());
        }
        self.name(name);
        // A text cannot fail to become JSON, nor memory to be written.
        serde_json::to_writer(&mut *self.out, text).unwrap_or_default();
    }

    #[inline]
    pub(super) fn number(&mut self, name: &str, number: u64) {
        self.name(name);
        self.digits(number);
    }

    /// With three decimals: nanoseconds are nobody's business.
    #[inline]
    pub(super) fn millis(&mut self, name: &str, time: Duration) {
        let micros = u64::from(time.subsec_micros());
        self.name(name);
        self.digits(time.as_secs().saturating_mul(1_000).saturating_add(micros / 1_000));
        self.thousandths(micros % 1_000);
    }

    /// The rest of a time as RFC 3339 has it, in UTC, of which the second is there.
    #[inline]
    pub(super) fn end_moment(&mut self, time: UnixMillis) {
        self.thousandths(time.0 % 1_000);
        self.out.extend_from_slice(b"Z\"");
    }

    #[inline]
    fn thousandths(&mut self, thousandths: u64) {
        let [hundreds, tens, ones] = three_digits(thousandths);
        self.out.extend_from_slice(&[b'.', hundreds, tens, ones]);
    }

    #[inline]
    pub(super) fn address(&mut self, name: &str, address: IpAddr) {
        self.name(name);
        self.out.push(b'"');
        match address {
            IpAddr::V4(address) => self.address_v4(address),
            // Writing to memory does not fail.
            IpAddr::V6(address) => write!(self.out, "{address}").unwrap_or_default(),
        }
        self.out.push(b'"');
    }

    #[inline]
    pub(super) fn socket(&mut self, name: &str, socket: SocketAddr) {
        self.name(name);
        self.out.push(b'"');
        match socket {
            SocketAddr::V4(socket) => {
                self.address_v4(*socket.ip());
                self.out.push(b':');
                self.digits(socket.port().into());
            }
            SocketAddr::V6(socket) => write!(self.out, "{socket}").unwrap_or_default(),
        }
        self.out.push(b'"');
    }

    /// The usual one, without the cost of formatting.
    fn address_v4(&mut self, address: Ipv4Addr) {
        let [first, rest @ ..] = address.octets();
        self.digits(first.into());
        for octet in rest {
            self.out.push(b'.');
            self.digits(octet.into());
        }
    }

    #[inline]
    fn digits(&mut self, number: u64) {
        let [hundreds, tens, ones] = three_digits(number % 1_000);
        match number {
            0..10 => self.out.push(ones),
            10..100 => self.out.extend_from_slice(&[tens, ones]),
            100..1_000 => self.out.extend_from_slice(&[hundreds, tens, ones]),
            1_000.. => {
                self.out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
            }
        }
    }
}

/// The digits of a number below a thousand, with zeros in front.
#[inline]
fn three_digits(number: u64) -> [u8; 3] {
    let digit = |value: u64| b'0' | (value % 10) as u8;
    [digit(number / 100), digit(number / 10), digit(number)]
}
