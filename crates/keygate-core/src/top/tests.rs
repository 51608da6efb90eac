use std::collections::HashMap;
use std::hash::{BuildHasherDefault, RandomState};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use proptest::prelude::*;

use super::slot::IdHasher;
use super::*;
use crate::id::{AccountId, AppId, KeyId};
use crate::key::{Environment, KeyKind};
use crate::problem::Code;
use crate::record::{KeyRecord, SlotHints, Standing};
use crate::scope::ScopeSet;
use crate::time::UnixMillis;

type Small = Sketch<u64, (), BuildHasherDefault<IdHasher>, 3>;
type Exact = HashMap<u64, [u64; 3]>;

fn small(capacity: usize) -> Small {
    Sketch::new(capacity, BuildHasherDefault::default())
}

/// All that a sketch promises, against counts that are exact.
fn check(sketch: &Small, exact: &Exact, capacity: usize) {
    assert!(sketch.followed().len() <= capacity);
    let total = exact.values().fold([0; 3], |sum, one| [0, 1, 2].map(|m| sum[m] + one[m]));
    assert_eq!(sketch.total(), total);
    let followed: HashMap<u64, _> = sketch.followed().iter().map(|one| (one.key, one)).collect();
    assert_eq!(followed.len(), sketch.followed().len(), "each is followed once");
    for measure in 0..3 {
        let missed_max = sketch.missed_max()[measure];
        assert!(missed_max as u128 * capacity as u128 <= total[measure] as u128 * 4, "the bound");
        for (key, counts) in exact {
            let count = counts[measure];
            match followed.get(key) {
                Some(one) => {
                    let (seen, missed) = (one.seen()[measure], sketch.missed(one)[measure]);
                    assert!(seen <= count, "never more than was: {seen} of {count}");
                    assert!(count <= seen + missed, "{count} is beyond {seen} + {missed}");
                    assert!(missed <= missed_max);
                }
                None => assert!(count <= missed_max, "{count} is lost, {missed_max} was said"),
            }
        }
        let top = sketch.top(measure, usize::MAX);
        assert!(top.is_sorted_by(|one, two| one.seen()[measure] >= two.seen()[measure]));
    }
}

fn counted(stream: &[(u64, [u64; 3])], capacity: usize) -> (Small, Exact) {
    let (mut sketch, mut exact) = (small(capacity), Exact::new());
    for (key, weights) in stream {
        sketch.add(*key, *weights, || ());
        let counts = exact.entry(*key).or_default();
        *counts = [0, 1, 2].map(|m| counts[m] + weights[m]);
    }
    (sketch, exact)
}

/// Few keys that come often and many that come seldom, with weights that differ widely.
fn stream() -> impl Strategy<Value = Vec<(u64, [u64; 3])>> {
    let key = prop_oneof![3 => 0..4_u64, 2 => 0..40_u64, 2 => any::<u64>()];
    let bytes = prop_oneof![0..10_u64, 0..100_000_u64];
    prop::collection::vec((key, (0..3_u64, 0..2_u64, bytes).prop_map(<[u64; 3]>::from)), 0..400)
}

proptest! {
    #[test]
    fn what_is_said_of_a_key_is_within_the_error_that_is_said(
        stream in stream(),
        capacity in 4..64_usize,
    ) {
        let (sketch, exact) = counted(&stream, capacity);
        check(&sketch, &exact, capacity);
    }

    #[test]
    fn the_same_holds_of_a_sum(
        streams in prop::collection::vec(stream(), 1..6),
        capacity in 4..64_usize,
    ) {
        let (mut sum, mut all) = (small(capacity), Exact::new());
        for stream in &streams {
            let (sketch, exact) = counted(stream, capacity);
            sum.merge(&sketch);
            for (key, weights) in exact {
                let counts = all.entry(key).or_default();
                *counts = [0, 1, 2].map(|m| counts[m] + weights[m]);
            }
        }
        check(&sum, &all, capacity);
    }

    #[test]
    fn few_keys_are_counted_exactly(stream in stream()) {
        let few: Vec<_> = stream.iter().map(|(key, weights)| (key % 50, *weights)).collect();
        let (sketch, exact) = counted(&few, 50);
        prop_assert_eq!(sketch.missed_max(), [0; 3]);
        for one in sketch.followed() {
            prop_assert_eq!(one.seen(), exact[&one.key]);
        }
    }
}

#[test]
fn a_sketch_that_was_cleared_counts_as_if_new() {
    let stream: Vec<_> = (0..5_000_u64).map(|n| (n * n % 977, [1, n % 2, n])).collect();
    let (mut sketch, exact) = counted(&stream, 100);
    check(&sketch, &exact, 100);
    sketch.clear();
    check(&sketch, &Exact::new(), 100);
    for (key, weights) in &stream {
        sketch.add(*key, *weights, || ());
    }
    check(&sketch, &exact, 100);
}

#[test]
fn millions_of_keys_take_no_more_memory_and_do_not_hide_the_loud_ones() {
    const KEYS: u64 = 2_000_000;
    const LOUD: u64 = 7;
    let mut sketch = small(KEYS_MAX);
    let mut memory = None;
    for n in 0..KEYS {
        // Each once, by a number that looks random, and one in a hundred is of a few.
        sketch.add(n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 << 63, [1, 0, 100], || ());
        if n % 100 == 0 {
            sketch.add(n / 100 % LOUD, [1, 1, 1], || ());
        }
        if n == 100_000 {
            memory = Some(sketch.memory());
        }
    }
    assert_eq!(Some(sketch.memory()), memory, "no growth");
    let each = KEYS / 100 / LOUD;
    for measure in [0, 1] {
        let mut top: Vec<u64> = sketch.top(measure, 7).iter().map(|one| one.key).collect();
        top.sort_unstable();
        assert_eq!(top, (0..LOUD).collect::<Vec<_>>());
        for one in sketch.top(measure, 7) {
            let (seen, missed) = (one.seen()[measure], sketch.missed(one)[measure]);
            assert!(seen <= each + 1 && each <= seen + missed, "{seen} + {missed} of {each}");
        }
    }
}

fn key(number: u8) -> KeyRecord {
    let now = UnixMillis(1_700_000_000_000);
    let id = KeyId::new(now, [number; 10]);
    let (app, account) = (AppId::new(now, [number; 10]), AccountId::new(now, [number; 10]));
    let scopes = ScopeSet::default();
    KeyRecord {
        id,
        app,
        account,
        kind: KeyKind::Secret,
        environment: Environment::Live,
        standing: Standing::Active,
        expires_at: None,
        scopes,
        bounds: None,
        tier: None,
        is_imported: false,
        meter: std::sync::OnceLock::new(),
        slots: SlotHints::default(),
        read_at: 0,
        hint: format!("sk_live_{number:04}").into(),
    }
}

fn admitted(key: &KeyRecord, bytes: u64) -> Ended<'_> {
    Ended { key: Some(key), client: None, refused: None, bytes }
}

/// A gateway's windows with the seconds that go by.
struct Running {
    windows: Windows,
    second: u64,
    hasher: RandomState,
}

impl Running {
    fn new() -> Self {
        let hasher = RandomState::new();
        Self { windows: Windows::new(hasher.clone()), second: 0, hasher }
    }

    /// A second in which these requests end. It is counted a little after its end, as in life.
    fn second(&mut self, requests: &[Ended<'_>]) {
        let mut slot = Slot::new(&self.hasher);
        for request in requests {
            slot.count(*request);
        }
        self.second += 1;
        let now = Duration::from_secs(self.second) + Duration::from_millis(self.second % 7);
        self.windows.add(&slot, now, UnixMillis(self.second * 1_000));
    }

    fn seconds(&mut self, count: u64, requests: &[Ended<'_>]) {
        for _ in 0..count {
            self.second(requests);
        }
    }

    fn list(&self, window: Window) -> TopList {
        self.windows.list(TopQuery { window, by: Measure::Requests, limit: 20 })
    }
}

#[test]
fn a_window_is_at_least_as_long_as_it_says_and_at_most_a_slot_longer() {
    let spans =
        [(Window::Minute, 60, 10), (Window::TenMinutes, 600, 60), (Window::Hour, 3_600, 300)];
    let one = key(1);
    let mut running = Running::new();
    for second in 1..9_000_u64 {
        running.second(&[admitted(&one, 10)]);
        if second % 37 != 0 && second % 600 > 3 {
            continue;
        }
        for (window, length, slot) in spans {
            let list = running.list(window);
            let covers = list.covers.as_secs();
            assert!(covers <= length + slot, "{window:?} at {second}: {covers}");
            assert!(covers >= length.min(second), "{window:?} at {second}: {covers}");
            // What is counted is what the window covers: one a second.
            assert_eq!(list.all.requests, covers, "{window:?} at {second}");
            assert_eq!(list.keys[0].counts.requests, covers);
            assert_eq!(list.as_of, UnixMillis(second * 1_000));
        }
    }
}

#[test]
fn what_was_is_forgotten_window_by_window() {
    let (early, late) = (key(1), key(2));
    let mut running = Running::new();
    running.seconds(30, &[admitted(&early, 10)]);
    running.seconds(80, &[admitted(&late, 1)]);
    let ids = |list: TopList| list.keys.iter().map(|key| key.id).collect::<Vec<_>>();
    assert_eq!(ids(running.list(Window::Minute)), [late.id]);
    assert_eq!(ids(running.list(Window::TenMinutes)), [late.id, early.id]);
    running.seconds(700, &[]);
    assert_eq!(running.list(Window::Minute).all, Counts::default());
    assert_eq!(ids(running.list(Window::TenMinutes)), []);
    assert_eq!(ids(running.list(Window::Hour)), [late.id, early.id]);
    running.seconds(4_000, &[]);
    let nothing = running.list(Window::Hour);
    assert!(nothing.keys.is_empty() && nothing.all == Counts::default());
    assert_eq!((running.windows.slots(), running.windows.series_length()), (0, 0));
}

#[test]
fn keys_are_ranked_by_what_is_asked_and_told_with_whose_they_are() {
    let (chatty, refused, heavy) = (key(1), key(2), key(3));
    let mut running = Running::new();
    let no = Some(Code::RateLimitExceeded);
    running.second(&[
        admitted(&chatty, 1),
        admitted(&chatty, 1),
        admitted(&chatty, 1),
        Ended { key: Some(&refused), client: None, refused: no, bytes: 0 },
        Ended { key: Some(&refused), client: None, refused: no, bytes: 0 },
        admitted(&heavy, 1_000),
    ]);
    running.second(&[admitted(&heavy, 500)]);
    let ask = |by| running.windows.list(TopQuery { window: Window::Minute, by, limit: 2 });
    let requests = ask(Measure::Requests);
    assert_eq!(requests.all, Counts { requests: 7, refusals: 2, bytes: 1_503 });
    assert_eq!(requests.keys.len(), 2);
    let first = &requests.keys[0];
    assert_eq!(
        (first.id, first.who.app, first.who.account),
        (chatty.id, chatty.app, chatty.account)
    );
    assert_eq!(first.who.hint.as_str(), "sk_live_0001");
    assert_eq!(first.counts, Counts { requests: 3, refusals: 0, bytes: 3 });
    assert_eq!(first.missed, Counts::default());
    let refusals = ask(Measure::Refusals);
    assert_eq!(refusals.keys.len(), 1, "who was never refused is not among the refused");
    assert_eq!((refusals.keys[0].id, refusals.keys[0].counts.refusals), (refused.id, 2));
    let bytes = ask(Measure::Bytes);
    assert_eq!((bytes.keys[0].id, bytes.keys[0].counts.bytes), (heavy.id, 1_500));
    assert_eq!(bytes.keys[0].series.len(), SERIES_SECONDS);
    assert_eq!(bytes.keys[0].series[SERIES_SECONDS - 2..], [1_000, 500]);
    assert!(bytes.keys[0].series[..SERIES_SECONDS - 2].iter().all(|bytes| *bytes == 0));
}

#[test]
fn clients_are_told_apart_by_network_and_only_for_what_is_their_fault() {
    let known = key(1);
    let from = |text: &str, code: Code| Ended {
        key: None,
        client: Some(text.parse().unwrap()),
        refused: Some(code),
        bytes: 0,
    };
    let mut running = Running::new();
    let client = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
    running.second(&[
        from("192.0.2.1", Code::ApiKeyInvalid),
        from("2001:db8::1", Code::ApiKeyMissing),
        from("2001:db8::ffff", Code::ApiKeyInvalid),
        from("192.0.2.9", Code::KeyStoreUnavailable),
        Ended { key: Some(&known), client, refused: Some(Code::QuotaExceeded), bytes: 0 },
        Ended { key: None, client, refused: None, bytes: 0 },
    ]);
    let list = running.list(Window::Minute);
    let shown = list.clients.iter().map(|client| (client.network.to_string(), client.refusals));
    let expected = [("2001:db8::/64".to_owned(), 2), ("192.0.2.1".to_owned(), 1)];
    assert_eq!(shown.collect::<Vec<_>>(), expected);
    assert_eq!(list.all.refusals, 5);
}

#[test]
fn a_hint_that_is_too_long_is_cut_between_characters() {
    assert_eq!(Hint::new("").as_str(), "");
    assert_eq!(Hint::new(&"é".repeat(40)).as_str(), "é".repeat(15));
}
