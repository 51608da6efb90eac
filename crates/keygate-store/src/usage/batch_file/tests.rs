//! What is read is what was written, or it is refused.

use keygate_core::problem::Code;
use proptest::prelude::*;

use super::*;

fn any_row() -> impl Strategy<Value = UsageRow> {
    let counts = (any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>());
    let refused = proptest::collection::vec((0..Code::ALL.len(), any::<u64>()), 0..4);
    let last = proptest::option::of((any::<u64>(), proptest::option::of(any::<IpAddr>())));
    (any::<u128>(), "[a-c\\n\"é]{0,3}", counts, refused, last).prop_map(
        |(key, route, counts, refused, last)| {
            let route: Arc<str> = route.into();
            UsageRow {
                key: wire::key_id(key),
                counts: UsageCounts {
                    requests: counts.0,
                    cost: counts.1,
                    bytes_in: counts.2,
                    bytes_out: counts.3,
                    refused: refused.into_iter().map(|(code, n)| (Code::ALL[code], n)).collect(),
                },
                last: last.map(|(at, address)| LastUse {
                    at: UnixMillis(at),
                    address: address.map(|address| address.to_canonical()),
                    route: Some(Arc::clone(&route)),
                }),
                route,
            }
        },
    )
}

fn any_sealed() -> impl Strategy<Value = Sealed> {
    let slot =
        (any::<u64>(), any::<u32>(), any::<[u64; 4]>()).prop_map(|(generation, number, of)| {
            let [requests, cost, bytes_in, bytes_out] = of;
            let totals = Totals { requests, cost, bytes_in, bytes_out };
            SealedSlot { generation, number, totals }
        });
    let (rows, slots) =
        (proptest::collection::vec(any_row(), 0..5), proptest::collection::vec(slot, 0..5));
    (any::<u64>(), rows, slots).prop_map(|(minute, rows, slots)| Sealed {
        minute: UnixMillis(minute),
        rows,
        slots,
    })
}

proptest! {
    #[test]
    fn a_batch_comes_back_as_it_went(sealed in any_sealed()) {
        prop_assert_eq!(decode(&encode(&sealed)), Ok(sealed));
    }

    #[test]
    fn a_batch_that_was_cut_or_changed_is_refused(
        sealed in any_sealed(),
        at in any::<prop::sample::Index>(),
        bit in 0..8u32,
    ) {
        let bytes = encode(&sealed);
        let at = at.index(bytes.len());
        prop_assert!(decode(&bytes[..at]).is_err());
        let mut changed = bytes;
        changed[at] ^= 1 << bit;
        prop_assert!(decode(&changed).is_err());
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in any::<Vec<u8>>()) {
        prop_assert!(decode(&bytes).is_err());
    }
}

#[test]
fn a_batch_of_a_newer_version_is_told_from_a_damaged_one() {
    let mut bytes = encode(&Sealed { minute: UnixMillis(1), rows: Vec::new(), slots: Vec::new() });
    bytes[8] = 2;
    assert_eq!(decode(&bytes), Err(Unreadable::Newer));
}
