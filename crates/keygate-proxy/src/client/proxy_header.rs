//! The PROXY header, version 1 and 2, by which a load balancer says whom a connection comes from.

use std::io::ErrorKind;
use std::net::SocketAddr;

use bytes::{Buf, BytesMut};
use ppp::{v1, v2};
use tokio::net::TcpStream;

/// Version 1 is one line of at most this length.
const LINE_BYTES_MAX: usize = 107;
/// Version 2 may carry what a balancer knows besides, such as a client's certificate.
const HEADER_BYTES_MAX: usize = 4_096;
const V1_PREFIX: &[u8] = b"PROXY ";
/// Version 2 of a balancer's own connection.
const V2_LOCAL: u8 = 0x20;
/// Of version 2, up to and with the length of what follows.
const V2_FIXED_BYTES: usize = 16;

/// What a connection says instead of a PROXY header.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HeaderError {
    #[error("it began with no PROXY header")]
    Missing,
    #[error("its PROXY header is malformed")]
    Malformed,
    #[error("its PROXY header is longer than {HEADER_BYTES_MAX} bytes")]
    TooLong,
    #[error("it ended within its PROXY header")]
    Ended(#[source] Option<std::io::Error>),
}

/// Whom a connection comes from, as far as its header says.
#[derive(Debug, PartialEq, Eq)]
struct Header {
    length: usize,
    /// Nothing for the balancer's own connections.
    source: Option<SocketAddr>,
}

/// Reads the header that a connection begins with: the address in it, if there is one, and what came
/// behind it.
pub(super) async fn read(
    stream: &TcpStream,
) -> Result<(Option<SocketAddr>, BytesMut), HeaderError> {
    let mut bytes = BytesMut::with_capacity(HEADER_BYTES_MAX);
    loop {
        if let Some(Header { length, source }) = parse(&bytes)? {
            bytes.advance(length);
            return Ok((source, bytes));
        }
        stream.readable().await.map_err(|error| HeaderError::Ended(Some(error)))?;
        match stream.try_read_buf(&mut bytes) {
            Ok(0) => return Err(HeaderError::Ended(None)),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(HeaderError::Ended(Some(error))),
        }
    }
}

/// The header, once it is whole.
fn parse(bytes: &[u8]) -> Result<Option<Header>, HeaderError> {
    let begins_as = |prefix: &[u8]| {
        let length = bytes.len().min(prefix.len());
        bytes.get(..length) == prefix.get(..length)
    };
    if begins_as(v2::PROTOCOL_PREFIX) {
        parse_v2(bytes)
    } else if begins_as(V1_PREFIX) {
        parse_v1(bytes)
    } else {
        Err(HeaderError::Missing)
    }
}

fn parse_v1(bytes: &[u8]) -> Result<Option<Header>, HeaderError> {
    let Some(end) = bytes.iter().take(LINE_BYTES_MAX).position(|&byte| byte == b'\n') else {
        return if bytes.len() < LINE_BYTES_MAX { Ok(None) } else { Err(HeaderError::Malformed) };
    };
    let line = bytes.get(..=end).unwrap_or_default();
    let parsed = v1::Header::try_from(line).map_err(|_| HeaderError::Malformed)?;
    let source = match parsed.addresses {
        v1::Addresses::Tcp4(of) => Some((of.source_address, of.source_port).into()),
        v1::Addresses::Tcp6(of) => Some((of.source_address, of.source_port).into()),
        v1::Addresses::Unknown => None,
    };
    // It ends where the parser found a line's end, or there was another before it.
    if parsed.header.len() != line.len() {
        return Err(HeaderError::Malformed);
    }
    Ok(Some(Header { length: line.len(), source }))
}

fn parse_v2(bytes: &[u8]) -> Result<Option<Header>, HeaderError> {
    let Some((fixed, _)) = bytes.split_at_checked(V2_FIXED_BYTES) else { return Ok(None) };
    let [.., command, _, high, low] = fixed else { return Ok(None) };
    let length = V2_FIXED_BYTES + usize::from(u16::from_be_bytes([*high, *low]));
    if length > HEADER_BYTES_MAX {
        return Err(HeaderError::TooLong);
    }
    let Some(header) = bytes.get(..length) else { return Ok(None) };
    if *command == V2_LOCAL {
        // Whatever addresses it has are to be ignored, also if there are none.
        return Ok(Some(Header { length, source: None }));
    }
    let parsed = v2::Header::try_from(header).map_err(|_| HeaderError::Malformed)?;
    let source = match (parsed.command, parsed.addresses) {
        (v2::Command::Proxy, v2::Addresses::IPv4(of)) => {
            Some((of.source_address, of.source_port).into())
        }
        (v2::Command::Proxy, v2::Addresses::IPv6(of)) => {
            Some((of.source_address, of.source_port).into())
        }
        (v2::Command::Proxy, v2::Addresses::Unspecified | v2::Addresses::Unix(_))
        | (v2::Command::Local, _) => None,
    };
    Ok(Some(Header { length, source }))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    fn source(bytes: &[u8]) -> Option<SocketAddr> {
        let header = parse(bytes).unwrap().unwrap();
        assert_eq!(header.length, bytes.len());
        header.source
    }

    fn v2(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
        [v2::PROTOCOL_PREFIX, &[0x20 | command, family], &length, payload].concat()
    }

    #[test]
    fn both_versions_tell_the_source() {
        let v4: SocketAddr = "192.0.2.7:5000".parse().unwrap();
        let v6: SocketAddr = "[2001:db8::7]:5000".parse().unwrap();
        assert_eq!(source(b"PROXY TCP4 192.0.2.7 10.0.0.1 5000 443\r\n"), Some(v4));
        assert_eq!(source(b"PROXY TCP6 2001:db8::7 2001:db8::1 5000 443\r\n"), Some(v6));
        assert_eq!(source(b"PROXY UNKNOWN\r\n"), None);
        assert_eq!(source(b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n"), None);
        let addresses = [192, 0, 2, 7, 10, 0, 0, 1, 0x13, 0x88, 1, 187];
        assert_eq!(source(&v2(1, 0x11, &addresses)), Some(v4));
        assert_eq!(source(&v2(1, 0x11, &[&addresses[..], &[4, 0, 1, 9]].concat())), Some(v4));
        assert_eq!(source(&v2(0, 0x11, &addresses)), None, "the balancer itself");
        assert_eq!(source(&v2(0, 0, &[])), None);
        assert_eq!(source(&v2(0, 0x11, &[])), None);
        let mut addresses = [0; 36];
        addresses[..16].copy_from_slice(&"2001:db8::7".parse::<Ipv6Addr>().unwrap().octets());
        addresses[32..34].copy_from_slice(&5000_u16.to_be_bytes());
        assert_eq!(source(&v2(1, 0x21, &addresses)), Some(v6));
    }

    #[test]
    fn what_is_no_header_is_refused_as_soon_as_that_is_clear() {
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"\x16\x03\x01",
            b"PROXYTCP4",
            b"PROXY TCP4 192.0.2.7\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 5000 443\n",
            b"PROXY TCP4 192.0.2.777 10.0.0.1 5000 443\r\n",
            b"PROXY TCP5 192.0.2.7 10.0.0.1 5000 443\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 5000 443\rX\r\n",
            &[b"PROXY UNKNOWN ".as_slice(), &[b'x'; 100]].concat(),
            &v2(2, 0x11, &[0; 12]),
            &v2(1, 0x11, &[0; 11]),
            &v2(1, 0x11, &[0; 5000])[..16],
            b"\r\n\r\n\0\r\nQUIT\n\x11\x11\0\x0c123456789012",
        ] {
            assert!(parse(bytes).is_err(), "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    proptest! {
        #[test]
        fn a_header_is_read_alike_however_it_arrives(
            (address, port) in (any::<[u8; 4]>(), any::<u16>()),
            (is_v2, behind) in (any::<bool>(), any::<Vec<u8>>()),
        ) {
            let client = SocketAddr::from((Ipv4Addr::from(address), port));
            let header = if is_v2 {
                let [high, low] = port.to_be_bytes();
                v2(1, 0x11, &[&address[..], &[10, 0, 0, 1, high, low, 1, 187]].concat())
            } else {
                format!("PROXY TCP4 {} 10.0.0.1 {port} 443\r\n", client.ip()).into_bytes()
            };
            for length in 0..header.len() {
                prop_assert!(parse(&header[..length]).unwrap().is_none());
            }
            let expected = Header { length: header.len(), source: Some(client) };
            prop_assert_eq!(parse(&[header, behind].concat()).unwrap(), Some(expected));
        }

        #[test]
        fn no_bytes_are_too_strange(bytes in any::<Vec<u8>>(), is_v2 in any::<bool>()) {
            let prefix = if is_v2 { v2::PROTOCOL_PREFIX } else { V1_PREFIX };
            for bytes in [bytes.clone(), [prefix, &bytes].concat()] {
                if let Ok(Some(header)) = parse(&bytes) {
                    prop_assert!(header.length <= bytes.len());
                }
            }
        }
    }
}
