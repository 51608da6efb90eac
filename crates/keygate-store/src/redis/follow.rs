//! How far the store's changes have been followed, and what each sign of them means. Decides; reads
//! and waits for nothing.

use std::sync::Arc;
use std::time::Duration;

use quanta::Instant;

use super::LinkObserver;
use super::change::{Change, Place};
use crate::coherence::Coherence;
use crate::keys::Subject;

/// A log further ahead than this is not worth reading: everything is forgotten instead, which costs
/// each key in use one look-up.
const READ_MAX: u64 = 10_000;

/// What a store says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    /// Made with the store: another id is another store.
    pub(super) id: String,
    /// The newest change.
    pub(super) newest: Place,
    /// The store's clock, in microseconds since 1970.
    pub(super) micros: u64,
}

/// Follows one store after another.
pub(super) struct Follower {
    coherence: Arc<Coherence>,
    observer: Arc<dyn LinkObserver>,
    following: Option<Following>,
    clock: Option<StoreClock>,
}

struct Following {
    id: String,
    place: Place,
}

/// When the store was asked where it is, and where we were then: what was heard while the question
/// was under way may be newer than its answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) at: Instant,
    place: Place,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Every change up to the newest that is known of has been applied.
    UpToDate,
    /// Read the log from this change on, which is known already and shows that it is the same log.
    ReadFrom(Place),
    /// Ask the store where it is.
    Ask,
}

impl Follower {
    pub(super) fn new(coherence: Arc<Coherence>, observer: Arc<dyn LinkObserver>) -> Self {
        Self { coherence, observer, following: None, clock: None }
    }

    /// How far the changes have been applied.
    pub(super) fn place(&self) -> Place {
        self.following.as_ref().map_or_else(Place::default, |following| following.place)
    }

    /// To be called before the store is asked where it is.
    pub(super) fn asking(&self) -> Asked {
        Asked { at: Instant::now(), place: self.place() }
    }

    /// The store has said where it is.
    pub(super) fn met(&mut self, meta: &Meta, asked: Asked) -> Next {
        self.clock = Some(StoreClock { micros: meta.micros, at: asked.at });
        let Some(following) = &self.following else {
            return self.start_over(meta);
        };
        if following.id != meta.id {
            tracing::error!(
                "the store is not the one that it was: it was emptied or replaced; forgetting all keys"
            );
            return self.start_over(meta);
        }
        let (newest, place) = (meta.newest, following.place);
        if newest == place {
            Next::UpToDate
        } else if newest.number.0 > place.number.0.saturating_add(READ_MAX) {
            tracing::warn!(
                from = place.number.0,
                to = newest.number.0,
                "too many changes to read them one by one: forgetting all keys"
            );
            self.start_over(meta)
        } else if newest.number > place.number {
            Next::ReadFrom(place)
        } else if newest.number < place.number && newest.number >= asked.place.number {
            // It answered before it made what we have heard of since.
            Next::UpToDate
        } else {
            tracing::error!(
                from = place.number.0,
                to = newest.number.0,
                "the store has gone back to an earlier state; forgetting all keys"
            );
            self.start_over(meta)
        }
    }

    /// Entries of the log came, in its order, from the one of [`Next::ReadFrom`] on; the last of
    /// them or others after them lead up to `meta`.
    pub(super) fn read(&mut self, entries: &[Change], meta: &Meta) -> Next {
        let place = self.place();
        let new = if place.number.0 == 0 {
            Some(entries)
        } else {
            let known = entries.split_first();
            known.filter(|(first, _)| first.place == place).map(|(_, new)| new)
        };
        let Some(new) = new else {
            tracing::warn!(
                from = place.number.0,
                "the store's log does not reach back to where we were; forgetting all keys"
            );
            return self.start_over(meta);
        };
        for change in new {
            if !self.follows(change) {
                tracing::error!(
                    number = change.place.number.0,
                    "the store's log has a gap; forgetting all keys"
                );
                return self.start_over(meta);
            }
            self.apply(change);
        }
        let place = self.place();
        if place.number >= meta.newest.number {
            Next::UpToDate
        } else if new.is_empty() {
            tracing::error!("the store's log ends too early; forgetting all keys");
            self.start_over(meta)
        } else {
            Next::ReadFrom(place)
        }
    }

    /// A change was published.
    pub(super) fn heard(&mut self, change: &Change) -> Next {
        if self.follows(change) {
            self.apply(change);
            return Next::UpToDate;
        }
        let place = self.place();
        // From before the log was read, or that one itself.
        let is_old = change.place.number < place.number || change.place == place;
        if is_old { Next::UpToDate } else { Next::Ask }
    }

    /// The log could not be read in time.
    pub(super) fn give_up(&mut self, meta: &Meta) {
        tracing::warn!("the store's log cannot be read in time: forgetting all keys");
        self.start_over(meta);
    }

    fn follows(&self, change: &Change) -> bool {
        self.following.as_ref().is_some_and(|Following { place, .. }| {
            change.place.number.0 == place.number.0 + 1 && change.after == place.mark
        })
    }

    fn apply(&mut self, change: &Change) {
        self.coherence.invalidate(change.subject);
        if let Some(following) = &mut self.following {
            following.place = change.place;
        }
        if let Some(clock) = &self.clock {
            let lag = clock.now().saturating_sub(change.at_micros);
            self.observer.change_applied(Duration::from_micros(lag));
        }
    }

    /// From here on everything is read anew, and so reflects all up to `meta` and more.
    fn start_over(&mut self, meta: &Meta) -> Next {
        self.coherence.invalidate(Subject::All);
        self.following = Some(Following { id: meta.id.clone(), place: meta.newest });
        Next::UpToDate
    }
}

/// The store's clock, as it can be told from here: clocks of machines differ.
struct StoreClock {
    micros: u64,
    at: Instant,
}

impl StoreClock {
    fn now(&self) -> u64 {
        let since = u64::try_from(self.at.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.micros.saturating_add(since)
    }
}

#[cfg(test)]
mod tests {
    use super::super::change::Mark;
    use super::*;
    use crate::fleet::LinkState;
    use crate::keys::ChangeNumber;
    use crate::testing::digest;

    struct Deaf;

    impl LinkObserver for Deaf {
        fn link(&self, _: LinkState) {}
        fn change_applied(&self, _: Duration) {}
    }

    fn place(number: u64) -> Place {
        Place {
            number: ChangeNumber(number),
            mark: Mark(if number == 0 { 0 } else { number + 100 }),
        }
    }

    fn meta(number: u64) -> Meta {
        Meta { id: "one".into(), newest: place(number), micros: 0 }
    }

    fn change(number: u64) -> Change {
        let subject = Subject::Key(digest(number));
        Change { place: place(number), after: place(number - 1).mark, at_micros: 0, subject }
    }

    fn meet(follower: &mut Follower, meta: &Meta) -> Next {
        let asked = follower.asking();
        follower.met(meta, asked)
    }

    /// Follows a store that was at this number.
    struct Case {
        follower: Follower,
        coherence: Arc<Coherence>,
    }

    impl Case {
        fn at(number: u64) -> Self {
            let coherence = Arc::new(Coherence::followed(Duration::from_secs(600)));
            let mut follower = Follower::new(Arc::clone(&coherence), Arc::new(Deaf));
            assert_eq!(meet(&mut follower, &meta(number)), Next::UpToDate);
            Self { follower, coherence }
        }

        /// Which of these keys' entries, cached before `act`, are good no more after it.
        fn forgets(&mut self, act: impl FnOnce(&mut Follower) -> Next, next: Next) -> Vec<u64> {
            let read_at = self.coherence.epoch();
            assert_eq!(act(&mut self.follower), next);
            let forgotten = |n: &u64| !self.coherence.holds_unknown(&digest(*n), read_at);
            (1..=9).filter(forgotten).collect()
        }
    }

    const NOTHING: [u64; 0] = [];
    const ALL: [u64; 9] = [1, 2, 3, 4, 5, 6, 7, 8, 9];

    #[test]
    fn a_message_in_its_turn_is_applied_and_once() {
        let mut case = Case::at(4);
        assert_eq!(case.forgets(|f| f.heard(&change(5)), Next::UpToDate), [5]);
        assert_eq!(case.forgets(|f| f.heard(&change(5)), Next::UpToDate), NOTHING);
        assert_eq!(case.forgets(|f| f.heard(&change(3)), Next::UpToDate), NOTHING);
        assert_eq!(case.follower.place(), place(5));
    }

    #[test]
    fn a_gap_is_asked_about_and_read() {
        let mut case = Case::at(4);
        assert_eq!(case.forgets(|f| f.heard(&change(6)), Next::Ask), NOTHING);
        let met = |f: &mut Follower| meet(f, &meta(7));
        assert_eq!(case.forgets(met, Next::ReadFrom(place(4))), NOTHING);
        let part = [change(4), change(5)];
        assert_eq!(case.forgets(|f| f.read(&part, &meta(7)), Next::ReadFrom(place(5))), [5]);
        let part = [change(5), change(6), change(7)];
        assert_eq!(case.forgets(|f| f.read(&part, &meta(7)), Next::UpToDate), [6, 7]);
    }

    #[test]
    fn a_new_store_is_read_from_its_first_change() {
        let mut case = Case::at(0);
        let met = |f: &mut Follower| meet(f, &meta(2));
        assert_eq!(case.forgets(met, Next::ReadFrom(place(0))), NOTHING);
        let log = [change(1), change(2)];
        assert_eq!(case.forgets(|f| f.read(&log, &meta(2)), Next::UpToDate), [1, 2]);
    }

    #[test]
    fn a_log_that_does_not_reach_back_flushes() {
        let logs = [vec![], vec![change(5), change(6)], vec![change(6)]];
        for log in logs {
            let mut case = Case::at(4);
            assert_eq!(case.forgets(|f| f.read(&log, &meta(6)), Next::UpToDate), ALL);
            assert_eq!(case.follower.place(), place(6));
        }
        // The first change of a store that nobody was at, trimmed already.
        let mut case = Case::at(0);
        assert_eq!(case.forgets(|f| f.read(&[change(2)], &meta(2)), Next::UpToDate), ALL);
    }

    #[test]
    fn a_store_that_went_back_or_another_way_flushes() {
        let strange = |number| Place { number: ChangeNumber(number), mark: Mark(999) };
        for newest in [place(3), strange(4), place(0)] {
            let mut case = Case::at(4);
            let restored = Meta { newest, ..meta(4) };
            let met = |f: &mut Follower| meet(f, &restored);
            assert_eq!(case.forgets(met, Next::UpToDate), ALL);
            assert_eq!(case.follower.place(), newest);
        }
        // Further on by now: only the marks tell.
        let mut case = Case::at(4);
        let other = Change { place: strange(4), ..change(4) };
        assert_eq!(case.forgets(|f| f.read(&[other, change(5)], &meta(5)), Next::UpToDate), ALL);
        let mut case = Case::at(4);
        let next = Change { after: Mark(999), ..change(5) };
        assert_eq!(case.forgets(|f| f.heard(&next), Next::Ask), NOTHING);
    }

    #[test]
    fn an_answer_that_a_message_overtook_is_no_step_back() {
        let mut case = Case::at(4);
        let asked = case.follower.asking();
        case.follower.heard(&change(5));
        case.follower.heard(&change(6));
        for answer in [4, 5, 6] {
            assert_eq!(case.forgets(|f| f.met(&meta(answer), asked), Next::UpToDate), NOTHING);
            assert_eq!(case.follower.place(), place(6));
        }
        assert_eq!(case.forgets(|f| f.met(&meta(3), asked), Next::UpToDate), ALL);
    }

    #[test]
    fn another_store_flushes() {
        let mut case = Case::at(4);
        let other = Meta { id: "other".into(), ..meta(4) };
        assert_eq!(case.forgets(|f| meet(f, &other), Next::UpToDate), ALL);
    }

    #[test]
    fn a_log_with_a_gap_or_an_early_end_flushes() {
        let mut case = Case::at(4);
        let log = [change(4), change(6)];
        assert_eq!(case.forgets(|f| f.read(&log, &meta(6)), Next::UpToDate), ALL);
        let mut case = Case::at(4);
        assert_eq!(case.forgets(|f| f.read(&[change(4)], &meta(6)), Next::UpToDate), ALL);
    }

    #[test]
    fn too_long_a_log_flushes() {
        let mut case = Case::at(4);
        let met = |f: &mut Follower| meet(f, &meta(5 + READ_MAX));
        assert_eq!(case.forgets(met, Next::UpToDate), ALL);
    }
}
