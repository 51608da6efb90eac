//! The heavy hitters of a stream in bounded memory, by several measures at once.

use std::hash::{BuildHasher, Hash};

/// The fewest cells of an index; a power of two, as all sizes of it are.
const CELLS_MIN: usize = 64;

/// Follows at most `capacity` keys, and says of each what it saw and how much it may have missed.
///
/// The frequent items of Misra and Gries ("Finding repeated elements", 1982) with weights, where all that
/// are small are let go at one time (Anderson et al., "A high-performance algorithm for identifying
/// frequent items in data streams", IMC 2017), and the error is told per key as Space-Saving does
/// (Metwally, Agrawal, El Abbadi, ICDT 2005), to which this is isomorphic. Two of them add up, with the
/// same bound for the sum (Agarwal et al., "Mergeable summaries", PODS 2012).
///
/// One list is kept for all `N` measures: when it is full, only those stay that are among the first
/// `capacity / (N + 1)` by one of them. So for each measure, with W as the sum of all weights:
/// - a key's true count is between [`Followed::seen`] and that plus [`Sketch::missed`] of it;
/// - nobody has missed more than [`Sketch::missed_max`], which is at most W · (N + 1) / `capacity`;
/// - so whoever has more than that is followed.
///
/// Why: what letting go adds to `missed_max`, it takes from more than `capacity / (N + 1)` counters, and
/// no more can be taken from them than was put in.
#[derive(Clone, Debug)]
pub struct Sketch<K, T, S, const N: usize> {
    capacity: usize,
    followed: Vec<Followed<K, T, N>>,
    /// Finds a key: its place in `followed` plus one, at the first free cell from its hash on. Zero is free.
    cells: Vec<u32>,
    hasher: S,
    missed: [u64; N],
    total: [u64; N],
    /// For letting go without an allocation.
    ranks: Vec<u64>,
}

/// A key that is followed, with what goes along with it.
#[derive(Clone, Copy, Debug)]
pub struct Followed<K, T, const N: usize> {
    pub key: K,
    pub with: T,
    seen: [u64; N],
    /// Of what a key that is not followed may have missed, how much this one cannot have.
    spared: [u64; N],
}

impl<K, T, const N: usize> Followed<K, T, N> {
    /// What it has for certain.
    pub fn seen(&self) -> [u64; N] {
        self.seen
    }

    /// By how much it is ahead of one that is not followed.
    fn ranks(&self) -> [u64; N] {
        zip(self.seen, self.spared, u64::saturating_sub)
    }
}

impl<K, T, S, const N: usize> Sketch<K, T, S, N>
where
    K: Copy + Eq + Hash + Ord,
    T: Copy,
    S: BuildHasher + Clone,
{
    /// Follows at most `capacity` keys. Takes memory only as keys come.
    ///
    /// # Panics
    /// If there is not a place for each measure, or there are more than can be numbered.
    #[must_use]
    pub fn new(capacity: usize, hasher: S) -> Self {
        assert!(capacity > N && u32::try_from(capacity).is_ok(), "a sensible capacity");
        let (followed, cells, ranks) = (Vec::new(), Vec::new(), Vec::new());
        let nothing = [0; N];
        Self { capacity, followed, cells, hasher, missed: nothing, total: nothing, ranks }
    }

    /// Counts. Allocates nothing once it has followed `capacity` keys.
    #[inline]
    pub fn add(&mut self, key: K, weights: [u64; N], with: impl FnOnce() -> T) {
        self.total = zip(self.total, weights, u64::saturating_add);
        match self.find(key) {
            Some(known) => known.seen = zip(known.seen, weights, u64::saturating_add),
            None => self.follow(Followed { key, with: with(), seen: weights, spared: [0; N] }),
        }
    }

    /// Adds all that `other` has counted.
    pub fn merge(&mut self, other: &Self) {
        self.total = zip(self.total, other.total, u64::saturating_add);
        // Whoever one of the two does not follow may have missed as much there.
        self.missed = zip(self.missed, other.missed, u64::saturating_add);
        for newer in &other.followed {
            match self.find(newer.key) {
                Some(known) => {
                    known.with = newer.with;
                    known.seen = zip(known.seen, newer.seen, u64::saturating_add);
                    known.spared = zip(known.spared, newer.spared, u64::saturating_add);
                }
                None => self.follow(*newer),
            }
        }
    }

    /// Forgets everything, and keeps its memory.
    pub fn clear(&mut self) {
        self.followed.clear();
        self.cells.fill(0);
        (self.missed, self.total) = ([0; N], [0; N]);
    }

    /// The sum of all weights.
    pub fn total(&self) -> [u64; N] {
        self.total
    }

    /// The most that a key has that is not followed; and the most that one that is has beside what was
    /// seen.
    pub fn missed_max(&self) -> [u64; N] {
        self.missed
    }

    /// The most that this key has beside what was seen.
    pub fn missed(&self, of: &Followed<K, T, N>) -> [u64; N] {
        zip(self.missed, of.spared, u64::saturating_sub)
    }

    /// All that are followed, in no order.
    pub fn followed(&self) -> &[Followed<K, T, N>] {
        &self.followed
    }

    /// Those of whom most was seen by one measure, most first; nobody of whom nothing was.
    pub fn top(&self, measure: usize, count: usize) -> Vec<&Followed<K, T, N>> {
        let seen = |key: &Followed<K, T, N>| key.seen.get(measure).copied().unwrap_or_default();
        let mut all: Vec<_> = self.followed.iter().filter(|key| seen(key) > 0).collect();
        // By key besides, so that equals do not change places each time one looks.
        all.sort_unstable_by(|one, two| seen(two).cmp(&seen(one)).then(one.key.cmp(&two.key)));
        all.truncate(count);
        all
    }

    #[inline]
    fn find(&mut self, key: K) -> Option<&mut Followed<K, T, N>> {
        let mask = self.cells.len().checked_sub(1)?;
        let mut at = self.first_cell(key, mask);
        // Half of the cells are free, so this ends.
        loop {
            let place = *self.cells.get(at)? as usize;
            let known = self.followed.get(place.checked_sub(1)?)?;
            if known.key == key {
                return self.followed.get_mut(place - 1);
            }
            at = (at + 1) & mask;
        }
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "of a hash, any bits will do")]
    fn first_cell(&self, key: K, mask: usize) -> usize {
        self.hasher.hash_one(key) as usize & mask
    }

    /// Follows a key that is not.
    fn follow(&mut self, key: Followed<K, T, N>) {
        if self.followed.len() >= self.capacity {
            self.let_go();
        }
        self.followed.push(key);
        if self.followed.len() * 2 > self.cells.len() {
            let cells = (self.cells.len() * 2).max(CELLS_MIN);
            self.cells.clear();
            self.cells.resize(cells, 0);
            self.index_all();
        } else {
            self.index(key.key, self.followed.len());
        }
    }

    /// Makes room: lets go of those that are small by every measure. What the largest of them had, all
    /// may have missed from now on that are not followed.
    #[cold]
    fn let_go(&mut self) {
        let stay = self.capacity / (N + 1);
        let mut bars = [0; N];
        for (measure, bar) in bars.iter_mut().enumerate() {
            self.ranks.clear();
            let ranks = self.followed.iter().filter_map(|key| key.ranks().get(measure).copied());
            self.ranks.extend(ranks);
            let (_, nth, _) = self.ranks.select_nth_unstable_by(stay, |one, two| two.cmp(one));
            *bar = *nth;
        }
        let mut lost = [0; N];
        // At most `stay` by each measure are above its bar, so somebody always goes.
        self.followed.retain(|key| {
            let ranks = key.ranks();
            let stays = ranks.iter().zip(bars).any(|(rank, bar)| *rank > bar);
            if !stays {
                lost = zip(lost, ranks, u64::max);
            }
            stays
        });
        self.missed = zip(self.missed, lost, u64::saturating_add);
        for key in &mut self.followed {
            key.spared = zip(key.spared, lost, u64::saturating_add);
        }
        self.cells.fill(0);
        self.index_all();
    }

    fn index_all(&mut self) {
        for place in 0..self.followed.len() {
            if let Some(key) = self.followed.get(place).map(|followed| followed.key) {
                self.index(key, place + 1);
            }
        }
    }

    fn index(&mut self, key: K, number: usize) {
        let Some(mask) = self.cells.len().checked_sub(1) else { return };
        let mut at = self.first_cell(key, mask);
        while let Some(cell) = self.cells.get_mut(at) {
            if *cell == 0 {
                *cell = u32::try_from(number).unwrap_or_default();
                return;
            }
            at = (at + 1) & mask;
        }
    }
}

fn zip<const N: usize>(one: [u64; N], two: [u64; N], with: fn(u64, u64) -> u64) -> [u64; N] {
    let mut two = two.into_iter();
    one.map(|one| with(one, two.next().unwrap_or_default()))
}

#[cfg(test)]
impl<K, T, S, const N: usize> Sketch<K, T, S, N> {
    /// The bytes that it holds.
    pub(super) fn memory(&self) -> usize {
        self.followed.capacity() * size_of::<Followed<K, T, N>>()
            + self.cells.capacity() * size_of::<u32>()
            + self.ranks.capacity() * size_of::<u64>()
    }
}
