//! The subject of a client's certificate as text: RFC 4514, and of it what a header can hold.

use std::fmt::Write;

use http::HeaderValue;
use x509_parser::parse_x509_certificate;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// Nobody's name is longer. One that is cut short could be somebody else's, so it is refused.
const BYTES_MAX: usize = 1_024;

/// Why a client is not known by its certificate.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SubjectError {
    #[error("its certificate cannot be read")]
    Unreadable,
    #[error("the subject of its certificate is longer than {BYTES_MAX} bytes")]
    TooLong,
}

/// The subject of a certificate that was verified; nothing if it has none.
///
/// # Errors
/// When it cannot be told whole.
pub(super) fn subject(certificate: &[u8]) -> Result<Option<HeaderValue>, SubjectError> {
    let (_, parsed) = parse_x509_certificate(certificate).map_err(|_| SubjectError::Unreadable)?;
    let text = rfc4514(parsed.subject());
    if text.is_empty() {
        return Ok(None);
    }
    if text.len() > BYTES_MAX {
        return Err(SubjectError::TooLong);
    }
    HeaderValue::try_from(text).map(Some).map_err(|_| SubjectError::Unreadable)
}

/// The last part first, as RFC 4514 section 2.1 has it.
fn rfc4514(name: &X509Name<'_>) -> String {
    let mut parts: Vec<String> = Vec::new();
    for part in name.iter_rdn() {
        let attributes: Vec<String> = part.iter().map(attribute).collect();
        parts.push(attributes.join("+"));
    }
    parts.reverse();
    parts.join(",")
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let oid = attribute.attr_type().to_id_string();
    match (short_name(&oid), attribute.as_str()) {
        (Some(name), Ok(value)) => format!("{name}={}", escaped(value)),
        // Whatever has no short name, or no text, is told as it was written.
        (name, _) => format!("{}={}", name.unwrap_or(&oid), hex(attribute.attr_value())),
    }
}

/// The names of RFC 4514 section 3.
fn short_name(oid: &str) -> Option<&'static str> {
    Some(match oid {
        "2.5.4.3" => "CN",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "2.5.4.6" => "C",
        "2.5.4.9" => "STREET",
        "0.9.2342.19200300.100.1.25" => "DC",
        "0.9.2342.19200300.100.1.1" => "UID",
        _ => return None,
    })
}

/// Section 2.4, with all that is not printable ASCII in hex too.
fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    let last = value.len().saturating_sub(1);
    for (at, byte) in value.bytes().enumerate() {
        match byte {
            b'"' | b'+' | b',' | b';' | b'<' | b'>' | b'\\' => {
                text.extend(['\\', char::from(byte)])
            }
            b'#' if at == 0 => text.push_str("\\#"),
            b' ' if at == 0 || at == last => text.push_str("\\ "),
            b' '..=b'~' => text.push(char::from(byte)),
            _ => push_hex(&mut text, "\\", byte),
        }
    }
    text
}

fn hex(value: &x509_parser::der_parser::asn1_rs::Any<'_>) -> String {
    use x509_parser::der_parser::asn1_rs::ToDer;
    let mut text = "#".to_owned();
    for byte in value.to_der_vec().unwrap_or_default() {
        push_hex(&mut text, "", byte);
    }
    text
}

fn push_hex(text: &mut String, before: &str, byte: u8) {
    // Writing to a string does not fail.
    write!(text, "{before}{byte:02x}").unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_separates_names_is_escaped() {
        for (value, expected) in [
            ("Jane Doe", "Jane Doe"),
            ("a,b+c=d", "a\\,b\\+c=d"),
            (" # ", "\\ #\\ "),
            ("#1", "\\#1"),
            (" ", "\\ "),
            ("<\"x\";\\>", "\\<\\\"x\\\"\\;\\\\\\>"),
            ("Lučić\r\nX-Evil: 1\0", "Lu\\c4\\8di\\c4\\87\\0d\\0aX-Evil: 1\\00"),
        ] {
            assert_eq!(escaped(value), expected, "{value:?}");
        }
    }

    /// The other direction, naively.
    fn read_back(text: &str) -> Vec<u8> {
        let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
        while let [first, after @ ..] = rest {
            if *first != b'\\' {
                bytes.push(*first);
                rest = after;
                continue;
            }
            let two = after.get(..2).filter(|two| two.iter().all(u8::is_ascii_hexdigit));
            let digits = two.and_then(|two| std::str::from_utf8(two).ok());
            match digits.and_then(|two| u8::from_str_radix(two, 16).ok()) {
                Some(byte) => {
                    bytes.push(byte);
                    rest = &after[2..];
                }
                None => {
                    bytes.push(after[0]);
                    rest = &after[1..];
                }
            }
        }
        bytes
    }

    proptest! {
        #[test]
        fn every_name_can_be_read_back_and_fits_into_a_header(value in any::<String>()) {
            let text = escaped(&value);
            prop_assert_eq!(read_back(&text), value.as_bytes());
            prop_assert!(HeaderValue::try_from(text).is_ok());
        }
    }
}
