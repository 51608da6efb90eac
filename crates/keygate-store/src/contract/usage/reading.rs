//! What every store promises to those who ask for use while more of it comes in.

use super::*;

const BATCHES: u64 = 150;

/// Each batch brings routes that nobody has heard of, as the first one after a reload may.
pub(crate) fn use_is_read_in_whole_batches_while_it_is_added<S: KeyStore>(
    make: impl AsyncFn() -> S,
) {
    run(async {
        let store = Arc::new(make().await);
        let adding = Arc::clone(&store);
        let adds = tokio::spawn(async move {
            for number in 1..=BATCHES {
                let routes = ["a", &format!("b {number}"), &format!("c {number}")];
                let rows = routes.map(|route| row(1, route, counts(1))).to_vec();
                adding.add_usage(batch(source(1), number, DAY, rows), KEEP).await.unwrap();
            }
        });
        let mut is_over = false;
        while !is_over {
            is_over = adds.is_finished();
            for of in [Spender::Everybody, Spender::Key(key_id(1))] {
                for (route, rows) in [(None, 3), (Some("a"), 1)] {
                    let before = store.usage_number(source(1)).await.unwrap();
                    let requests = requests_of(&*store, of, route).await;
                    let after = store.usage_number(source(1)).await.unwrap();
                    let batches = requests / rows;
                    assert_eq!(requests % rows, 0, "{of:?} {route:?}: a part of a batch");
                    assert!((before..=after).contains(&batches), "{before} {batches} {after}");
                }
            }
        }
        adds.await.unwrap();
        assert_eq!(requests_of(&*store, Spender::Everybody, None).await, 3 * BATCHES);
    });
}

async fn requests_of<S: KeyStore>(store: &S, of: Spender, route: Option<&str>) -> u64 {
    let (from, to) = (UnixMillis(DAY), UnixMillis(DAY + 1));
    let query =
        UsageQuery { of: vec![of], route: route.map(Into::into), step: Step::Day, from, to };
    let points = store.usage(query).await.unwrap();
    points.iter().map(|point| point.counts.requests).sum()
}
