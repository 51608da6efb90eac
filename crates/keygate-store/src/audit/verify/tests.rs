//! Whatever is done to a log, it shows.

use proptest::prelude::*;

use super::*;
use crate::testing::audit;

/// A log as a store writes it, from number 1 on.
fn log(length: u64) -> Vec<Logged> {
    let mut link = Link::START;
    let mut sealed = |number: ChangeNumber| {
        let entry = AuditEntry { subject: format!("key {}", number.0), ..audit("key.create") };
        let logged = seal(number, entry, link);
        link = logged.seal.as_ref().unwrap().link;
        logged
    };
    (1..=length).map(|number| sealed(ChangeNumber(number))).collect()
}

fn seal(number: ChangeNumber, entry: AuditEntry, before: Link) -> Logged {
    let bytes = entry.encode().unwrap();
    let link = before.next(number, &bytes);
    Logged { number, entry, seal: Some(Seal { link, bytes }) }
}

fn link(logged: &Logged) -> Link {
    logged.seal.as_ref().unwrap().link
}

/// Where the entry of this number is in a whole log.
fn place(number: u64) -> usize {
    usize::try_from(number).unwrap() - 1
}

fn at(number: u64) -> ChangeNumber {
    ChangeNumber(number)
}

/// What is found by somebody who knows that the log has entries up to `newest`.
fn findings(mut verifier: Verifier, log: &[Logged], newest: u64) -> Vec<Finding> {
    let mut found: Vec<_> = log.iter().flat_map(|logged| verifier.check(logged)).collect();
    found.extend(verifier.finish(at(newest)));
    found
}

#[track_caller]
fn check(log: &[Logged], newest: u64, expected: &[Finding]) {
    assert_eq!(findings(Verifier::from_start(), log, newest), expected);
}

fn edit(logged: &mut Logged) {
    logged.entry.actor = "nobody".to_owned();
    logged.seal.as_mut().unwrap().bytes = logged.entry.encode().unwrap();
}

#[test]
fn a_log_as_it_was_written_has_no_findings() {
    for length in [0, 1, 2, 9] {
        check(&log(length), length, &[]);
    }
    let log = log(9);
    let after = Verifier::after(at(4), link(&log[3]));
    assert_eq!(findings(after, &log[4..], 9), []);
    assert_eq!(findings(Verifier::from_first_kept(), &log[4..], 9), []);
    let mut verifier = Verifier::from_start().expecting(at(5), link(&log[4]));
    assert!(log.iter().all(|logged| verifier.check(logged).is_empty()));
    assert_eq!(verifier.newest(), Some((at(9), link(&log[8]))));
    assert_eq!((verifier.entries(), Verifier::from_start().newest()), (9, None));
}

#[test]
fn an_edited_entry_is_one_finding() {
    for number in 1..=9 {
        let mut log = log(9);
        edit(&mut log[place(number)]);
        check(&log, 9, &[Finding::Altered { number: at(number) }]);
    }
}

#[test]
fn an_edited_entry_with_a_fitting_link_shows_at_the_next() {
    let mut log = log(9);
    let entry = AuditEntry { actor: "nobody".to_owned(), ..log[3].entry.clone() };
    log[3] = seal(at(4), entry, link(&log[2]));
    check(&log, 9, &[Finding::Altered { number: at(5) }]);
}

#[test]
fn a_deleted_entry_is_one_finding_wherever_it_was() {
    for number in [1, 5, 9] {
        let mut log = log(9);
        log.remove(place(number));
        check(&log, 9, &[Finding::Missing { from: at(number), to: at(number) }]);
    }
    let mut log = log(9);
    log.drain(3..6);
    check(&log, 9, &[Finding::Missing { from: at(4), to: at(6) }]);
    check(&[], 9, &[Finding::Missing { from: at(1), to: at(9) }]);
}

#[test]
fn a_deleted_entry_whose_followers_were_numbered_anew_is_found() {
    let mut log = log(9);
    log.remove(4);
    for (logged, number) in log.iter_mut().zip(1..) {
        logged.number = at(number);
    }
    let found = findings(Verifier::from_start(), &log, 8);
    assert_eq!(found.first(), Some(&Finding::Altered { number: at(5) }));
}

#[test]
fn entries_in_another_order_are_found() {
    let mut log = log(9);
    log.swap(3, 4);
    let expected = [
        Finding::Missing { from: at(4), to: at(4) },
        Finding::OutOfOrder { number: at(4), before: at(5) },
    ];
    check(&log, 9, &expected);
}

#[test]
fn entries_whose_contents_are_swapped_are_found() {
    let mut swapped = log(9);
    swapped.swap(3, 6);
    (swapped[3].number, swapped[6].number) = (at(4), at(7));
    let found = findings(Verifier::from_start(), &swapped, 9);
    assert_eq!(found.first(), Some(&Finding::Altered { number: at(4) }));

    // The links stayed where they were.
    (swapped[3].seal.as_mut().unwrap().link, swapped[6].seal.as_mut().unwrap().link) =
        (link(&log(9)[3]), link(&log(9)[6]));
    let expected = [4, 7].map(|number| Finding::Altered { number: at(number) });
    check(&swapped, 9, &expected);
}

#[test]
fn an_entry_that_is_not_what_its_text_says_is_found() {
    let mut shown = log(9);
    shown[3].entry.actor = "nobody".to_owned();
    check(&shown, 9, &[Finding::NotItsText { number: at(4) }]);

    let bytes = b"no entry".to_vec();
    let before = link(&shown[2]);
    let mut log = shown[..4].to_vec();
    log[3].seal = Some(Seal { link: before.next(at(4), &bytes), bytes });
    check(&log, 4, &[Finding::NotItsText { number: at(4) }]);
}

#[test]
fn an_entry_that_lost_its_link_is_found() {
    let mut log = log(9);
    log[3].seal = None;
    let expected = [Finding::Unsealed { number: at(4) }, Finding::Altered { number: at(5) }];
    check(&log, 9, &expected);
}

#[test]
fn what_an_older_version_wrote_is_passed_over_and_a_new_chain_follows_it() {
    let mut old = log(3);
    for logged in &mut old {
        logged.seal = None;
    }
    check(&old, 3, &[]);
    old.push(seal(at(4), audit("key.create"), Link::START));
    old.push(seal(at(5), audit("key.create"), link(&old[3])));
    check(&old, 5, &[]);
    assert_eq!(findings(Verifier::from_first_kept(), &old[1..], 5), []);
    // An older version ran once more.
    old.push(Logged { number: at(6), entry: audit("key.create"), seal: None });
    old.push(seal(at(7), audit("key.create"), Link::START));
    check(&old, 7, &[Finding::Unsealed { number: at(6) }]);
}

#[test]
fn a_chain_that_was_made_anew_is_told_by_a_link_that_was_kept() {
    let kept = link(&log(9)[8]);
    let mut made_anew = log(1);
    for number in 2..=12 {
        let before = link(&made_anew[place(number - 1)]);
        made_anew.push(seal(at(number), audit("another"), before));
    }
    check(&made_anew, 12, &[]);
    let verifier = Verifier::from_start().expecting(at(9), kept);
    assert_eq!(findings(verifier.clone(), &made_anew, 12), [Finding::NotAsKept { number: at(9) }]);
    // Nor does it help to cut it off before.
    let missing = Finding::Missing { from: at(9), to: at(9) };
    assert_eq!(findings(verifier, &made_anew[..8], 8), [missing]);
}

/// One thing that somebody does to the entry at `place`, or with another one.
#[derive(Clone, Debug)]
enum Tampering {
    Edit,
    EditWhatIsShown,
    FlipBit(prop::sample::Index),
    FlipBitOfLink(prop::sample::Index),
    Delete,
    Repeat,
    Unseal,
    Renumber(u64),
    Swap(prop::sample::Index),
    SwapContents(prop::sample::Index),
}

fn any_tampering() -> impl Strategy<Value = Tampering> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        Just(Tampering::Edit),
        Just(Tampering::EditWhatIsShown),
        index().prop_map(Tampering::FlipBit),
        index().prop_map(Tampering::FlipBitOfLink),
        Just(Tampering::Delete),
        Just(Tampering::Repeat),
        Just(Tampering::Unseal),
        (0u64..20).prop_map(Tampering::Renumber),
        index().prop_map(Tampering::Swap),
        index().prop_map(Tampering::SwapContents),
    ]
}

fn flip(bytes: &mut [u8], bit: prop::sample::Index) {
    let bit = bit.index(bytes.len() * 8);
    bytes[bit / 8] ^= 1 << (bit % 8);
}

fn tamper(log: &mut Vec<Logged>, place: usize, tampering: Tampering) {
    let length = log.len();
    let seal = |logged: &mut Logged| logged.seal.take().unwrap();
    match tampering {
        Tampering::Edit => edit(&mut log[place]),
        Tampering::EditWhatIsShown => log[place].entry.reason = Some("another".to_owned()),
        Tampering::FlipBit(bit) => flip(&mut log[place].seal.as_mut().unwrap().bytes, bit),
        Tampering::FlipBitOfLink(bit) => {
            flip(&mut log[place].seal.as_mut().unwrap().link.0, bit);
        }
        Tampering::Delete => drop(log.remove(place)),
        Tampering::Repeat => log.insert(place, log[place].clone()),
        Tampering::Unseal => drop(seal(&mut log[place])),
        Tampering::Renumber(number) => log[place].number = at(number),
        Tampering::Swap(other) => log.swap(place, other.index(length)),
        Tampering::SwapContents(other) => {
            let other = other.index(length);
            log.swap(place, other);
            let (here, there) = (log[place].number, log[other].number);
            (log[place].number, log[other].number) = (there, here);
        }
    }
}

proptest! {
    #[test]
    fn any_single_change_to_a_sealed_log_is_found(
        length in 1u64..12,
        which: prop::sample::Index,
        tampering in any_tampering(),
    ) {
        let written = log(length);
        let mut tampered = written.clone();
        tamper(&mut tampered, which.index(written.len()), tampering);
        // Its newest link was kept, as somebody does who wants to know about the newest entry too.
        let newest = link(&written[place(length)]);
        let verifier = Verifier::from_start().expecting(at(length), newest);
        let found = findings(verifier, &tampered, length);
        prop_assert_eq!(found.is_empty(), tampered == written, "{:?}", found);
    }
}
