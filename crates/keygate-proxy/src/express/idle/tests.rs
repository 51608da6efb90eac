use std::collections::BTreeSet;
use std::io::Write;

use keygate_telemetry::Metrics;
use proptest::prelude::*;

use super::*;

#[test]
fn what_was_used_last_is_used_next_and_the_oldest_of_the_most_goes() {
    let all = Shelves::new(4, 1);
    for one in 0..3 {
        assert_eq!(all.put(0, 1, one), None);
    }
    assert_eq!(all.put(0, 2, 10), None);
    assert_eq!(all.put(0, 3, 20), Some(0));
    assert_eq!(all.put(0, 3, 21), Some(1));
    let take = |peer| all.take(0, peer);
    assert_eq!((take(1), take(1)), (Some(2), None));
    assert_eq!((take(3), take(2), take(4)), (Some(21), Some(10), None));
    assert_eq!((take(3), take(3)), (Some(20), None));
}

#[test]
fn a_thread_has_its_own_first_and_then_the_others() {
    let all = Shelves::new(3, 4);
    for (thread, one) in [(1, 10), (2, 20), (7, 30)] {
        assert_eq!(all.put(thread, 1, one), None);
    }
    assert_eq!((all.take(2, 1), all.take(2, 1), all.take(2, 1)), (Some(20), Some(30), Some(10)));
    assert_eq!(all.take(2, 1), None);
    // None has room for more than all have, whoever it is that has them.
    for one in 0..3 {
        assert_eq!(all.put(0, 1, one), None);
    }
    assert_eq!(all.put(1, 1, 3), Some(0));
}

#[test]
fn where_there_is_no_room_nothing_is_kept() {
    let all = Shelves::new(0, 2);
    assert_eq!((all.put(0, 1, 5), all.take(0, 1)), (Some(5), None));
}

#[derive(Clone, Debug)]
enum Step {
    Put { thread: usize, peer: u64 },
    Take { thread: usize, peer: u64 },
    Tidy { shelf: usize, every: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let at = || (0..6_usize, 0..4_u64);
    let put = || at().prop_map(|(thread, peer)| Step::Put { thread, peer });
    let take = at().prop_map(|(thread, peer)| Step::Take { thread, peer });
    let tidy = (0..3_usize, 1..4_usize).prop_map(|(shelf, every)| Step::Tidy { shelf, every });
    prop::collection::vec(prop_oneof![put(), put(), take, tidy], 0..200)
}

proptest! {
    /// Each is in one place at a time, is given to whoever wants its peer and to nobody else, and there
    /// are never more than there may be, nor fewer than are counted.
    #[test]
    fn every_one_is_kept_once_or_let_go(steps in steps(), most in 0..9_usize) {
        let all = Shelves::new(most, 3);
        let mut kept = BTreeSet::new();
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Put { thread, peer } => {
                    let is_full = kept.len() == most;
                    kept.insert((peer, number));
                    let gone = all.put(thread, peer, (peer, number));
                    prop_assert_eq!(gone.is_some(), is_full);
                    prop_assert!(gone.is_none_or(|gone| kept.remove(&gone)));
                }
                Step::Take { thread, peer } => match all.take(thread, peer) {
                    Some(one) => prop_assert!(one.0 == peer && kept.remove(&one)),
                    None => prop_assert!(kept.iter().all(|(of, _)| *of != peer)),
                },
                Step::Tidy { shelf, every } => {
                    for gone in all.take_unless(shelf, |(_, number)| *number % every == 0) {
                        prop_assert!(gone.1 % every != 0 && kept.remove(&gone));
                    }
                }
            }
            prop_assert_eq!(all.count.load(Relaxed), kept.len());
            prop_assert!(kept.len() <= most);
        }
    }
}

#[test]
fn threads_lose_none_and_keep_no_more_than_they_may() {
    const MOST: usize = 5;
    let all = Shelves::new(MOST, 4);
    let (made, gone) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (all, made, gone) = (&all, &made, &gone);
            scope.spawn(move || {
                for turn in 0..20_000_u64 {
                    let peer = turn % 3;
                    let one = all.take(thread, peer).unwrap_or_else(|| {
                        made.fetch_add(1, Relaxed);
                        Box::new(turn)
                    });
                    gone.fetch_add(usize::from(all.put(thread, peer, one).is_some()), Relaxed);
                    assert!(all.count.load(Relaxed) <= MOST);
                }
            });
        }
    });
    let left: usize = (0..4).map(|shelf| all.take_unless(shelf, |_| false).len()).sum();
    assert_eq!(made.into_inner(), gone.into_inner() + left);
    assert_eq!(all.count.into_inner(), 0);
}

/// The runtime of such a test learns of nothing while the test does not wait.
#[tokio::test]
async fn a_connection_that_says_anything_is_not_used_again() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let idle = IdleConnections::new(2, Metrics::new("1").ways());
    let address = listener.local_addr().unwrap();
    let place = Place { terms: 1, address: Some(address) };
    let same_hash = Place { address: Some(SocketAddr::new(address.ip(), 1)), ..place };
    for word in [&b"more"[..], b""] {
        let stream = tokio::net::TcpStream::connect(listener.local_addr().unwrap());
        let stream = pingora::protocols::l4::stream::Stream::from(stream.await.unwrap());
        let (mut upstream, _) = listener.accept().unwrap();
        idle.put(place, Box::new(stream), None);
        assert!(idle.take(same_hash).is_none(), "another address with the same hash");
        let stream = idle.take(place).unwrap();
        idle.put(place, stream, None);
        upstream.write_all(word).unwrap();
        drop(upstream);
        assert!(idle.take(place).is_none());
        assert_eq!(idle.count(), 0);
    }
}
