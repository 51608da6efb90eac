//! What must hold whatever is in the store: run by the fuzz targets of `fuzz/`, and by every test run
//! over their corpus. Each panics where it does not.

use std::fmt::Debug;

use crate::codec::usage::{decode_counts, decode_last, encode_counts, encode_last};
use crate::codec::{DoneOnce, Record};
use crate::records::{Account, AdminToken, App, AuditEntry, Key};
pub use crate::redis::fuzzing::change;

/// A record, of a kind that the first byte tells: what can be read is written down and read again as
/// the same.
pub fn record(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else { return };
    match kind {
        b'a' => survives::<Account>(bytes),
        b'p' => survives::<App>(bytes),
        b'k' => survives::<Key>(bytes),
        b't' => survives::<AdminToken>(bytes),
        b'l' => survives::<AuditEntry>(bytes),
        b'o' => survives::<DoneOnce>(bytes),
        _ => {
            if let Ok(counts) = decode_counts(bytes) {
                let again = decode_counts(encode_counts(&counts).as_bytes()).ok();
                assert_eq!(again.as_ref(), Some(&counts));
            }
            if let Ok(last) = decode_last(bytes) {
                let again = decode_last(encode_last(&last).as_bytes()).ok();
                assert_eq!(again.as_ref(), Some(&last));
            }
        }
    }
}

fn survives<R: Record + PartialEq + Debug>(bytes: &[u8]) {
    let Ok(record) = R::decode(bytes) else { return };
    let written = record.encode().ok();
    let again = written.and_then(|bytes| R::decode(&bytes).ok());
    assert_eq!(again, Some(record), "a {} is another when it is read again", R::NAME);
}

#[cfg(test)]
#[path = "../../../fuzz/smoke.rs"]
mod smoke;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_being_written_down() {
        smoke::replay("record", 20_000, record);
    }

    #[test]
    fn whatever_is_published_is_a_change_or_none() {
        smoke::replay("change", 20_000, change);
    }
}
