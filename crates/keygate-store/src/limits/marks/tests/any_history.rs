//! Any history of marks, ends of windows, resets and restarts against a plain map.

use proptest::prelude::*;

use super::*;

const PARTIES: u8 = 4;

#[derive(Clone, Debug)]
enum Step {
    Mark {
        party: u8,
        unit: usize,
        ends_in: u64,
        used: u64,
    },
    Forget {
        party: u8,
    },
    Tidy {
        after: u64,
    },
    /// The process is killed, and starts again after a while.
    Restart {
        after: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let mark = (0..PARTIES, 0..UNITS.len(), 0..60_u64, 0..5_u64)
        .prop_map(|(party, unit, ends_in, used)| Step::Mark { party, unit, ends_in, used });
    prop_oneof![
        8 => mark,
        1 => (0..PARTIES).prop_map(|party| Step::Forget { party }),
        3 => (0..30_u64).prop_map(|after| Step::Tidy { after }),
        2 => (0..30_u64).prop_map(|after| Step::Restart { after }),
    ]
}

#[derive(Default)]
struct Model {
    now: u64,
    known: HashMap<(u8, usize), (u64, u64)>,
}

impl Model {
    fn mark(&mut self, of: (u8, usize), ends_at: u64, used: u64) {
        let is_worth_it = used > 0 || self.known.contains_key(&of);
        if ends_at > self.now && is_worth_it {
            self.known.insert(of, (ends_at, used));
        }
    }

    fn tidy(&mut self, now: u64) {
        self.now = now;
        self.known.retain(|_, (ends_at, _)| *ends_at > now);
    }

    fn of(&self, party: u8) -> Vec<(Unit, UnixMillis, u64)> {
        let known = UNITS.iter().enumerate().filter_map(|(place, &unit)| {
            let &(ends_at, used) = self.known.get(&(party, place))?;
            Some((unit, at(ends_at), used))
        });
        known.collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_history_is_as_a_plain_map_has_it(steps in prop::collection::vec(step(), 1..120)) {
        let place = Place::new();
        let mut marks = place.open();
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Mark { party: n, unit, ends_in, used } => {
                    // Windows of the same party and unit do not end earlier than those before.
                    let before = model.known.get(&(n, unit)).map_or(0, |known| known.0);
                    let ends_at = (model.now + ends_in).max(before);
                    marks.mark(party(n), UNITS[unit], at(ends_at), used);
                    model.mark((n, unit), ends_at, used);
                }
                Step::Forget { party: n } => {
                    marks.forget(party(n)).unwrap();
                    model.known.retain(|&(known, _), _| known != n);
                }
                Step::Tidy { after } => {
                    model.tidy(model.now + after);
                    marks.tidy(at(model.now));
                }
                Step::Restart { after } => {
                    model.tidy(model.now + after);
                    marks = place.open_at(at(model.now));
                }
            }
            for n in 0..PARTIES {
                prop_assert_eq!(marks.of(party(n)), model.of(n));
            }
            prop_assert!(place.slots() <= usize::from(PARTIES) * UNITS.len());
        }
    }
}
