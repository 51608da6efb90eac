//! What is too old goes in time, and nothing else does, whatever a clock says meanwhile.

use std::sync::Arc;

use super::*;
use crate::testing::key_id;
use crate::usage::records::UsageRow;

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
const YEAR: u64 = 365 * DAY;
const NOW: u64 = 50 * YEAR;
const KEEP: Retention = Retention { minutes: 2 * HOUR, hours: 31 * DAY, days: 400 * DAY };
const AGE: Duration = Duration::from_secs(400 * 86_400);

struct Scene {
    db: Database,
    number: u64,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let db = super::super::open::open(&folder.path().join("keygate.db")).unwrap();
        Self { db, number: 0 }
    }

    fn batch(&self, source: u128, number: u64, minute: u64) -> UsageBatch {
        let counts = UsageCounts { requests: 1, ..UsageCounts::default() };
        let row = UsageRow { key: key_id(1), route: Arc::from("a"), counts, last: None };
        let minute = UnixMillis(minute);
        let source = SourceId(source);
        UsageBatch { source, number, after_loss: false, minute, rows: vec![row] }
    }

    /// One batch, so long after the one before.
    fn add(&mut self, minute: u64, elapsed: Duration) {
        self.number += 1;
        add(&self.db, &self.batch(1, self.number, minute), &KEEP, elapsed).unwrap();
    }

    fn has(&self, step: Step, at: u64) -> bool {
        let (from, to) = (step.start(UnixMillis(at)), UnixMillis(at + 1));
        let query = UsageQuery { of: vec![Spender::Everybody], route: None, step, from, to };
        !read(&self.db, &query).unwrap().is_empty()
    }

    fn all(&self, at: u64) -> [bool; 3] {
        Step::ALL.map(|step| self.has(step, at))
    }
}

#[test]
fn what_is_too_old_goes_as_time_passes() {
    let mut scene = Scene::new();
    scene.add(NOW, Duration::ZERO);
    for (after, left) in [
        (2 * HOUR, [true, true, true]),
        (3 * HOUR, [false, true, true]),
        (31 * DAY, [false, true, true]),
        (32 * DAY, [false, false, true]),
        (400 * DAY, [false, false, true]),
        (402 * DAY, [false, false, false]),
    ] {
        scene.add(NOW + after, AGE);
        assert_eq!(scene.all(NOW), left, "{after}");
    }
}

#[test]
fn a_clock_that_is_wrong_for_an_hour_takes_away_no_more_than_hours() {
    for wrong in [NOW + 3 * YEAR, 0] {
        let mut scene = Scene::new();
        scene.add(NOW - 399 * DAY, Duration::ZERO);
        scene.add(NOW - 30 * DAY, AGE);
        for minute in 0..60 {
            scene.add(wrong + minute * MINUTE, Duration::from_mins(1));
        }
        for minute in 0..30 {
            scene.add(NOW + minute * MINUTE, Duration::from_secs(1));
        }
        assert!(scene.has(Step::Day, NOW - 399 * DAY) && scene.has(Step::Hour, NOW - 30 * DAY));
        assert_eq!(scene.all(NOW), [true; 3]);
    }
}

#[test]
fn a_machine_that_is_off_for_most_of_the_day_forgets_in_time() {
    let mut scene = Scene::new();
    for day in 0..50 {
        for hour in 0..4 {
            let elapsed = Duration::from_hours(u64::from(hour > 0));
            scene.add(NOW + day * DAY + hour * HOUR, elapsed);
        }
    }
    assert!(!scene.has(Step::Hour, NOW + 16 * DAY) && scene.has(Step::Hour, NOW + 19 * DAY));
    assert!(!scene.has(Step::Minute, NOW + 48 * DAY));
}

#[test]
fn a_source_is_remembered_for_longer_than_what_it_has_sent() {
    let mut scene = Scene::new();
    add(&scene.db, &scene.batch(2, 1, NOW), &KEEP, Duration::ZERO).unwrap();
    for (days, after, is_known) in [(431, 3, true), (433, 4, false)] {
        scene.add(NOW + days * DAY, 2 * AGE);
        // A new source is what others are forgotten for.
        add(&scene.db, &scene.batch(after, 1, NOW + days * DAY), &KEEP, AGE).unwrap();
        assert_eq!(number(&scene.db, SourceId(2)).unwrap() == 1, is_known);
        assert!(!scene.has(Step::Day, NOW));
    }
}
