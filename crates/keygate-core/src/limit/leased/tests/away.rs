//! Shares of a limit while the store is away.

use proptest::prelude::*;

use super::*;

#[test]
fn a_share_begins_with_what_was_left() {
    let limits = limits(Some(("90/s", 90)), &["3000/day"], None);
    let mut leased = Leased::default();
    take(&mut leased, &limits, at(0));
    let ask = leased.ask(1, at(0), THREE);
    lend_both(&mut leased, &ask, 1, (30_000, 300), at(0));
    let mut admitted = 0;
    while leased.take_away(&terms(&limits), 1, at(0), THREE).is_ok() {
        admitted += 1;
    }
    // One was held; a third of 30 is the share.
    assert_eq!(admitted, 11);
    // Then a third of the rate: 30 a second.
    for ms in 1..=10_000 {
        admitted += u64::from(leased.take_away(&terms(&limits), 1, at(ms), THREE).is_ok());
    }
    // And no more than a third of what was left of the day.
    assert_eq!(admitted, 101);
    let Tick::Tell(ask) = leased.tick(at(10_001), THREE) else { panic!("the store is to know") };
    assert_eq!((ask.rate.unwrap().debt, ask.quotas[0].granted), (100, 101));
}

#[test]
fn an_outage_has_one_share_whatever_becomes_of_the_limits() {
    let one = limits(Some(("90/s", 90)), &["3000/day"], None);
    let other = limits(Some(("90/s", 90)), &["3000/day"], Some(1_000));
    let mut leased = Leased::default();
    take(&mut leased, &one, at(0));
    let ask = leased.ask(1, at(0), THREE);
    lend_both(&mut leased, &ask, 0, (30_000, 300), at(0));
    let mut admitted = 0;
    for n in 0..1_000 {
        let limits = if n % 2 == 0 { &one } else { &other };
        take(&mut leased, limits, at(1));
        if leased.take_away(&terms(limits), 1, at(1), THREE).is_ok() {
            admitted += 1;
            leased.end(&SOME);
        }
    }
    assert_eq!(admitted, 10);
}

proptest! {
    /// Whatever is left and however many gateways there are: their shares of a quota together are what
    /// is left, and less than one unit a gateway more.
    #[test]
    fn shares_of_a_quota_add_up(left in 0u64..200, gateways in 1u64..20) {
        let limits = limits(None, &["200/day"], None);
        let fleet = Fleet { gateways, lease: LEASE };
        let mut admitted = 0;
        for _ in 0..gateways {
            let mut leased = Leased::default();
            take(&mut leased, &limits, at(0));
            let ask = leased.ask(1, at(0), fleet);
            lend_quota(&mut leased, &ask, 0, left, at(0));
            while leased.take_away(&terms(&limits), 1, at(0), fleet).is_ok() {
                admitted += 1;
            }
        }
        prop_assert!(admitted >= left && admitted < left + gateways, "{admitted}");
    }

    /// While the store is away no gateway is above its share of the rate, and all have one.
    #[test]
    fn shares_of_a_rate_add_up(
        gateways in 1u64..9,
        level in 0u64..100,
        gaps in prop::collection::vec(0u64..50, 1..500),
    ) {
        let limits = limits(Some(("100/s", 100)), &[], None);
        let fleet = Fleet { gateways, lease: LEASE };
        let mut leased = Leased::default();
        take(&mut leased, &limits, at(0));
        let ask = leased.ask(1, at(0), fleet);
        lend(&mut leased, &ask, 0, level, at(0));
        let (mut ms, mut admitted) = (0, 0);
        for gap in gaps {
            ms += gap;
            admitted += u64::from(leased.take_away(&terms(&limits), 1, at(ms), fleet).is_ok());
            prop_assert!(admitted * gateways <= level + ms / 10 + gateways, "{admitted} at {ms} ms");
        }
    }
}
