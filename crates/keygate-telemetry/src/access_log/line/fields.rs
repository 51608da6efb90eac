//! Fields of a JSON object (RFC 8259), written one by one: what is known to need nothing escaped is copied.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
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
    /// The object begins with a word of ours.
    pub(super) fn begin<'a>(out: &'a mut Vec<u8>, name: &str, word: &str) -> Fields<'a> {
        out.reserve(USUAL_BYTES);
        out.extend_from_slice(b"{\"");
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\":\"");
        out.extend_from_slice(word.as_bytes());
        out.push(b'"');
        Fields { out }
    }

    /// The object ends, and with it its line.
    pub(super) fn end(self) {
        self.out.extend_from_slice(b"}\n");
    }

    fn name(&mut self, name: &str) {
        self.out.extend_from_slice(name.as_bytes());
    }

    /// What needs no quotes.
    pub(super) fn raw(&mut self, name: &str, value: &[u8]) {
        self.name(name);
        self.out.extend_from_slice(value);
    }

    /// What needs quotes and nothing escaped.
    pub(super) fn quoted(&mut self, name: &str, value: &[u8]) {
        self.name(name);
        self.out.push(b'"');
        self.out.extend_from_slice(value);
        self.out.push(b'"');
    }

    /// A word of ours.
    pub(super) fn word(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.quoted(name, value.as_bytes());
        }
    }

    /// What may need something escaped.
    pub(super) fn text(&mut self, name: &str, text: &str) {
        if is_plain(text) {
            return self.quoted(name, text.as_bytes());
        }
        self.name(name);
        // A text cannot fail to become JSON, nor memory to be written.
        serde_json::to_writer(&mut *self.out, text).unwrap_or_default();
    }

    pub(super) fn number(&mut self, name: &str, number: u64) {
        self.name(name);
        self.digits(number);
    }

    /// With three decimals: nanoseconds are nobody's business.
    pub(super) fn millis(&mut self, name: &str, time: Option<Duration>) {
        let Some(time) = time else { return };
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.name(name);
        self.digits(micros / 1_000);
        self.push_thousandths(micros % 1_000);
    }

    /// A time as RFC 3339 has it, in UTC.
    pub(super) fn moment(&mut self, name: &str, second: &str, time: UnixMillis) {
        self.name(name);
        self.out.push(b'"');
        self.out.extend_from_slice(second.as_bytes());
        self.push_thousandths(time.0 % 1_000);
        self.out.extend_from_slice(b"Z\"");
    }

    fn push_thousandths(&mut self, thousandths: u64) {
        self.out.push(b'.');
        for unit in [100, 10, 1] {
            self.out.extend(b"0123456789".get((thousandths / unit % 10) as usize));
        }
    }

    pub(super) fn address(&mut self, name: &str, address: Option<IpAddr>) {
        let Some(address) = address else { return };
        self.name(name);
        self.out.push(b'"');
        self.push_address(address);
        self.out.push(b'"');
    }

    pub(super) fn socket(&mut self, name: &str, socket: Option<SocketAddr>) {
        let Some(socket) = socket else { return };
        self.name(name);
        self.out.push(b'"');
        match socket {
            SocketAddr::V4(socket) => {
                self.push_address(IpAddr::V4(*socket.ip()));
                self.out.push(b':');
                self.digits(socket.port().into());
            }
            // Writing to memory does not fail.
            SocketAddr::V6(socket) => write!(self.out, "{socket}").unwrap_or_default(),
        }
        self.out.push(b'"');
    }

    fn push_address(&mut self, address: IpAddr) {
        match address {
            // The usual one, without the cost of formatting.
            IpAddr::V4(address) => {
                for (at, octet) in address.octets().into_iter().enumerate() {
                    if at > 0 {
                        self.out.push(b'.');
                    }
                    self.digits(octet.into());
                }
            }
            IpAddr::V6(address) => write!(self.out, "{address}").unwrap_or_default(),
        }
    }

    fn digits(&mut self, number: u64) {
        self.out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    }
}
