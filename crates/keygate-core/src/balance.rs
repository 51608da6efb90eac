//! Which of several targets gets a request: shares by weight, the least busy one, or the one that a
//! caller always gets. Knows targets by their place in a list, and nothing of whether they are well.

use std::cmp::Reverse;

/// The most turns of one round, unless there are more targets than that.
pub const TURNS_MAX: usize = 2_048;

/// The golden ratio's part behind the point: its multiples spread evenly however many there are.
const GOLDEN: f64 = 0.618_033_988_749_894_9;

/// One round of turns in which each target has as many as its weight, evenly spread: the places of the
/// targets, in order. Worked out once, so that a request has to count only. Weights of a round that
/// would be too long are rounded; nobody is left out for being light. A weight of 0 counts as 1.
#[must_use]
pub fn turns(weights: &[u32]) -> Box<[u16]> {
    let shares = shares(weights);
    let mut round: Vec<(f64, u16)> = Vec::new();
    for (place, share) in (0_u16..=u16::MAX).zip(shares) {
        // Each begins elsewhere, so that targets of one weight do not come in a bunch.
        let offset = (f64::from(place) * GOLDEN).fract();
        round.extend((0..share).map(|nth| ((f64::from(nth) + offset) / f64::from(share), place)));
    }
    round.sort_by(|(one, _), (other, _)| one.total_cmp(other));
    round.into_iter().map(|(_, place)| place).collect()
}

/// How many turns each has: its weight in lowest terms, if that is not too many.
fn shares(weights: &[u32]) -> Vec<u32> {
    let divisor = weights.iter().copied().fold(0, greatest_common_divisor).max(1);
    let shares = weights.iter().map(|weight| (weight / divisor).max(1));
    let total: u64 = shares.clone().map(u64::from).sum();
    let most = TURNS_MAX as u64;
    if total <= most {
        return shares.collect();
    }
    let scaled = |share: u32| u32::try_from(u64::from(share) * most / total).unwrap_or(u32::MAX);
    shares.map(|share| scaled(share).max(1)).collect()
}

fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// The place of the target with the least to do for its weight. `loads` are running requests and
/// weights. Of several that are equal it is the first one from `turn` on, so that idle ones take turns.
#[must_use]
pub fn least_loaded(
    loads: impl ExactSizeIterator<Item = (usize, u32)>,
    turn: usize,
) -> Option<usize> {
    let count = loads.len();
    let from = turn.checked_rem(count)?;
    let mut best: Option<(usize, u64, u64)> = None;
    for (place, (running, weight)) in loads.enumerate() {
        let distance = (place + count - from) % count;
        // With the request that is to go there: a heavier one that is idle too is preferred.
        let (load, weight) = (running as u64 + 1, u64::from(weight.max(1)));
        let is_better = best.is_none_or(|(known, known_load, known_weight)| {
            let (ours, theirs) =
                (load.saturating_mul(known_weight), known_load.saturating_mul(weight));
            let known_distance = (known + count - from) % count;
            (ours, Reverse(known_distance)) < (theirs, Reverse(distance))
        });
        if is_better {
            best = Some((place, load, weight));
        }
    }
    best.map(|(place, ..)| place)
}

/// The place that a caller always gets (weighted rendezvous): each target draws for each caller, and the
/// best draw wins. One that goes away moves its own callers only, and to all others by their weights.
/// `targets` are the hashes of their names, and their weights.
#[must_use]
pub fn always_for(caller: u64, targets: impl Iterator<Item = (u64, u32)>) -> Option<usize> {
    let draws = targets.map(|(name, weight)| draw(caller, name) / f64::from(weight.max(1)));
    let best = draws.enumerate().min_by(|(_, one), (_, other)| one.total_cmp(other));
    best.map(|(place, _)| place)
}

/// Exponentially distributed, so that dividing it by a weight makes it win so many times more often.
fn draw(caller: u64, name: u64) -> f64 {
    const BITS: u32 = 53;
    let bits = mix(caller ^ name.rotate_left(32)) >> (u64::BITS - BITS);
    #[expect(clippy::cast_precision_loss, reason = "a float holds this many bits")]
    let uniform = (bits as f64 + 0.5) / (1_u64 << BITS) as f64;
    -uniform.ln()
}

/// A hash that is the same in every gateway and after every start.
#[must_use]
pub fn hash(bytes: &[u8]) -> u64 {
    // FNV-1a; what it lacks in its upper bits is made up for by mixing.
    let fnv = bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    mix(fnv)
}

/// The last step of `MurmurHash3`: each bit of the result depends on all of the input.
fn mix(mut bits: u64) -> u64 {
    bits ^= bits >> 33;
    bits = bits.wrapping_mul(0xff51_afd7_ed55_8ccd);
    bits ^= bits >> 33;
    bits = bits.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    bits ^ bits >> 33
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counts(round: &[u16], targets: usize) -> Vec<u32> {
        let mut counts = vec![0; targets];
        round.iter().for_each(|place| counts[usize::from(*place)] += 1);
        counts
    }

    #[test]
    fn equal_targets_have_one_turn_each() {
        for targets in 1..20 {
            let round = turns(&vec![7; targets]);
            assert_eq!(counts(&round, targets), vec![1; targets]);
        }
        assert!(turns(&[]).is_empty());
    }

    #[test]
    fn a_round_that_would_be_too_long_is_rounded_and_leaves_nobody_out() {
        let weights: Vec<u32> = (0..300).map(|n| if n == 0 { 1 } else { 997 }).collect();
        let round = turns(&weights);
        assert!(round.len() <= TURNS_MAX + weights.len(), "{}", round.len());
        assert!(counts(&round, weights.len()).iter().all(|count| *count >= 1));
    }

    #[test]
    fn a_heavy_target_never_waits_until_all_light_ones_had_their_turn() {
        let mut weights = vec![1; 100];
        weights.push(100);
        let heavy: Vec<bool> = turns(&weights).iter().map(|place| *place == 100).collect();
        let longest = heavy.split(|is_heavy| *is_heavy).map(<[bool]>::len).max().unwrap();
        assert!(longest <= 4, "{longest} light ones in a row");
    }

    #[test]
    fn the_least_loaded_is_so_for_its_weight_and_equals_take_turns() {
        let pick = |loads: &[(usize, u32)], turn| least_loaded(loads.iter().copied(), turn);
        assert_eq!(pick(&[], 3), None);
        assert_eq!(pick(&[(3, 1), (2, 1), (4, 1)], 0), Some(1));
        assert_eq!(pick(&[(3, 1), (7, 4), (4, 1)], 0), Some(1), "two a unit of weight");
        let taken: Vec<_> = (0..6).filter_map(|turn| pick(&[(1, 2); 3], turn)).collect();
        assert_eq!(taken, [0, 1, 2, 0, 1, 2]);
    }

    /// A shared place for names that a test makes up.
    fn names(targets: &[u32]) -> Vec<(u64, u32)> {
        let name = |at: usize| hash(format!("10.0.0.{at}:80").as_bytes());
        targets.iter().enumerate().map(|(at, weight)| (name(at), *weight)).collect()
    }

    #[test]
    fn callers_spread_by_weight() {
        const CALLERS: u32 = 20_000;
        let targets = names(&[1, 2, 5]);
        let mut counts = [0_u32; 3];
        for caller in 0..CALLERS {
            let caller = hash(&caller.to_le_bytes());
            counts[always_for(caller, targets.iter().copied()).unwrap()] += 1;
        }
        for ((_, weight), count) in targets.iter().zip(counts) {
            let expected = CALLERS * weight / 8;
            assert!(count.abs_diff(expected) < expected / 10, "{counts:?}");
        }
    }

    proptest! {
        #[test]
        fn each_target_has_its_share_of_turns(weights in prop::collection::vec(1_u32..20, 1..12)) {
            let round = turns(&weights);
            let divisor = weights.iter().copied().fold(0, greatest_common_divisor);
            let expected: Vec<u32> = weights.iter().map(|weight| weight / divisor).collect();
            prop_assert_eq!(counts(&round, weights.len()), expected);
        }

        #[test]
        fn a_target_never_waits_much_longer_than_its_weight_says(
            weights in prop::collection::vec(1_u32..20, 2..12),
        ) {
            let round = turns(&weights);
            let total: u32 = weights.iter().sum();
            for (place, weight) in (0_u16..).zip(&weights) {
                // Twice around, so that the step from the end to the beginning counts too.
                let both = round.iter().chain(round.iter()).map(|turn| *turn == place);
                let both: Vec<bool> = both.collect();
                let longest = both.split(|is_ours| *is_ours).map(<[bool]>::len).max().unwrap_or(0);
                let fair = (total / weight) as usize + weights.len() + 1;
                prop_assert!(longest <= fair, "{longest} above {fair} in {round:?}");
            }
        }

        #[test]
        fn a_target_that_goes_moves_its_own_callers_only(
            weights in prop::collection::vec(1_u32..100, 2..10),
            gone in any::<prop::sample::Index>(),
            callers in prop::collection::vec(any::<u64>(), 1..200),
        ) {
            let targets = names(&weights);
            let gone = gone.index(targets.len());
            let mut left = targets.clone();
            left.remove(gone);
            for caller in callers {
                let before = always_for(caller, targets.iter().copied()).unwrap();
                let after = always_for(caller, left.iter().copied()).unwrap();
                if before != gone {
                    prop_assert_eq!(targets[before], left[after]);
                }
            }
        }

        #[test]
        fn nothing_is_less_loaded_than_the_least_loaded(
            loads in prop::collection::vec((0_usize..50, 1_u32..10), 1..10),
            turn in any::<usize>(),
        ) {
            let (running, weight) = loads[least_loaded(loads.iter().copied(), turn).unwrap()];
            let ours = (running as u64 + 1, u64::from(weight));
            for (running, weight) in loads {
                let theirs = (running as u64 + 1, u64::from(weight));
                prop_assert!(ours.0 * theirs.1 <= theirs.0 * ours.1);
            }
        }
    }
}
