//! Fields of a JSON object (RFC 8259), written one by one: what is known to need nothing escaped is copied.
//! A line has some thirty of them, so all that is short is inlined: its length is known then, and it is
//! copied without a call.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use keygate_core::UnixMillis;

use super::draft::Draft;
use crate::access_log::record::is_plain;

/// The name of a field, with all that stands between the value before it and its own.
macro_rules! name {
    ($name:literal) => {{
        const NAME: &str = concat!(",\"", $name, "\":");
        const BYTES: [u8; NAME.len()] = *NAME.as_bytes().as_array().unwrap();
        &BYTES
    }};
}

pub(super) use name;

/// An object that is being written. Names come from [`name!`].
pub(super) struct Fields<'a> {
    out: &'a mut Draft,
}

impl Fields<'_> {
    /// The object begins so, and what was drafted before is gone.
    #[inline]
    pub(super) fn begin<'a, const LENGTH: usize>(
        out: &'a mut Draft,
        beginning: &[u8; LENGTH],
    ) -> Fields<'a> {
        out.clear();
        out.put_all(beginning);
        Fields { out }
    }

    /// The object ends, and with it its line.
    pub(super) fn end(self) {
        self.out.put_all(b"}\n");
    }

    #[inline]
    fn name<const NAME: usize>(&mut self, name: &[u8; NAME]) {
        self.out.put_all(name);
    }

    /// What is JSON already.
    #[inline]
    pub(super) fn json<const NAME: usize>(&mut self, name: &[u8; NAME], value: &[u8]) {
        self.name(name);
        self.out.put(value);
    }

    /// What needs quotes and nothing escaped.
    #[inline]
    pub(super) fn quoted<const NAME: usize>(&mut self, name: &[u8; NAME], value: &[u8]) {
        self.name(name);
        self.out.put_all(b"\"");
        self.out.put(value);
        self.out.put_all(b"\"");
    }

    /// The same for what has a length that is known when this is compiled.
    #[inline]
    pub(super) fn id<const NAME: usize, const LENGTH: usize>(
        &mut self,
        name: &[u8; NAME],
        id: &[u8; LENGTH],
    ) {
        self.name(name);
        self.out.put_all(b"\"");
        self.out.put_all(id);
        self.out.put_all(b"\"");
    }

    /// A word of ours.
    #[inline]
    pub(super) fn word<const NAME: usize>(&mut self, name: &[u8; NAME], value: &str) {
        self.quoted(name, value.as_bytes());
    }

    /// What may need something escaped.
    pub(super) fn text<const NAME: usize>(&mut self, name: &[u8; NAME], text: &str) {
        if is_plain(text.as_bytes()) {
            return self.quoted(name, text.as_bytes());
        }
        self.name(name);
        // A text cannot fail to become JSON, nor memory to be written.
        serde_json::to_writer(&mut *self.out, text).unwrap_or_default();
    }

    #[inline]
    pub(super) fn number<const NAME: usize>(&mut self, name: &[u8; NAME], number: u64) {
        self.name(name);
        self.digits(number);
    }

    /// With three decimals: nanoseconds are nobody's business.
    #[inline]
    pub(super) fn millis<const NAME: usize>(&mut self, name: &[u8; NAME], time: Duration) {
        let micros = time.subsec_micros();
        self.name(name);
        self.digits(time.as_secs().saturating_mul(1_000).saturating_add((micros / 1_000).into()));
        self.thousandths((micros % 1_000) as u16);
    }

    /// The rest of a time as RFC 3339 has it, in UTC, of which the second is there.
    #[inline]
    pub(super) fn end_moment(&mut self, time: UnixMillis) {
        self.thousandths((time.0 % 1_000) as u16);
        self.out.put_all(b"Z\"");
    }

    #[inline]
    fn thousandths(&mut self, thousandths: u16) {
        let [hundreds, tens, ones] = three_digits(thousandths);
        self.out.put_all(&[b'.', hundreds, tens, ones]);
    }

    #[inline]
    pub(super) fn address<const NAME: usize>(&mut self, name: &[u8; NAME], address: IpAddr) {
        self.name(name);
        self.out.put_all(b"\"");
        match address {
            IpAddr::V4(address) => self.address_v4(address),
            // Writing to memory does not fail.
            IpAddr::V6(address) => write!(self.out, "{address}").unwrap_or_default(),
        }
        self.out.put_all(b"\"");
    }

    #[inline]
    pub(super) fn socket<const NAME: usize>(&mut self, name: &[u8; NAME], socket: SocketAddr) {
        self.name(name);
        self.out.put_all(b"\"");
        match socket {
            SocketAddr::V4(socket) => {
                self.address_v4(*socket.ip());
                self.out.put_all(b":");
                self.digits(socket.port().into());
            }
            SocketAddr::V6(socket) => write!(self.out, "{socket}").unwrap_or_default(),
        }
        self.out.put_all(b"\"");
    }

    /// The usual one, without the cost of formatting.
    fn address_v4(&mut self, address: Ipv4Addr) {
        let [first, rest @ ..] = address.octets();
        self.digits(first.into());
        for octet in rest {
            self.out.put_all(b".");
            self.digits(octet.into());
        }
    }

    #[inline]
    fn digits(&mut self, number: u64) {
        let digits = usize::try_from(number).ok().and_then(|number| DIGITS.get(number));
        if let Some((digits, length)) = digits {
            self.out.put_first(digits, (*length).into());
        } else {
            self.out.put(itoa::Buffer::new().format(number).as_bytes());
        }
    }
}

/// The numbers below a thousand, and how many digits they have.
#[expect(clippy::indexing_slicing, reason = "worked out when it is compiled")]
static DIGITS: [([u8; 3], u8); 1_000] = {
    let mut all = [([0; 3], 0); 1_000];
    let mut number: u16 = 0;
    while number < 1_000 {
        let [hundreds, tens, ones] = three_digits(number);
        all[number as usize] = match number {
            0..10 => ([ones, 0, 0], 1),
            10..100 => ([tens, ones, 0], 2),
            100.. => ([hundreds, tens, ones], 3),
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
