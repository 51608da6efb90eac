//! Many requests of one key, spread over the gateways of a fleet, and what must be true of those
//! that were admitted.

use tokio::time::{MissedTickBehavior, interval};

use super::*;

/// How the clients of a key spread over the gateways.
#[derive(Clone, Copy, Debug)]
pub(super) enum Traffic {
    Even,
    /// Nine of ten at the first.
    Skewed,
    /// All at one, and at another the next second.
    Moving,
}

impl Traffic {
    fn gateway(self, n: u64, since: Duration, gateways: usize) -> usize {
        let gateways = gateways as u64;
        let gateway = match self {
            Self::Even => n % gateways,
            Self::Skewed if !n.is_multiple_of(10) => 0,
            Self::Skewed => 1 + n / 10 % (gateways - 1),
            Self::Moving => since.as_secs() % gateways,
        };
        usize::try_from(gateway).unwrap()
    }
}

/// When a request was sent and when it had its answer, since the beginning: in between it was charged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Admitted {
    sent: Duration,
    answered: Duration,
}

/// What a load came to.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) admitted: Vec<Admitted>,
    took: Duration,
    asked: u64,
}

/// So many requests a second, spread over the gateways, for so long.
pub(super) async fn load(
    members: &[Arc<Member>],
    limits: &Arc<Limits>,
    traffic: Traffic,
    per_second: u64,
    lasts: Duration,
) -> Outcome {
    let asked = || members.iter().map(|member| member.limiter.asked()[0]).sum::<u64>();
    let asked_before = asked();
    let began = Instant::now();
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let mut ticks = interval(Duration::from_millis(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut sent = 0;
    while began.elapsed() < lasts {
        ticks.tick().await;
        let due = u64::try_from(began.elapsed().as_micros()).unwrap() * per_second / 1_000_000;
        while sent < due {
            let member = &members[traffic.gateway(sent, began.elapsed(), members.len())];
            let (member, limits) = (Arc::clone(member), Arc::clone(limits));
            let sender = sender.clone();
            let sent_at = began.elapsed();
            tokio::spawn(async move {
                if member.admits(&limits).await {
                    sender.send(Admitted { sent: sent_at, answered: began.elapsed() }).unwrap();
                }
            });
            sent += 1;
        }
    }
    drop(sender);
    let took = began.elapsed();
    let mut admitted = Vec::new();
    while let Some(one) = receiver.recv().await {
        admitted.push(one);
    }
    Outcome { admitted, took, asked: asked() - asked_before }
}

/// In no span of time more than the burst and what comes back in it. Of a span only those count that
/// were both sent and answered in it, however late a busy machine noted them.
fn never_above(outcome: &Outcome, limit: &RateLimit) {
    let per_second = limit.rate().count as f64 / limit.rate().unit.duration().as_secs_f64();
    let mut latest_first = outcome.admitted.clone();
    latest_first.sort_unstable_by_key(|one| std::cmp::Reverse(one.sent));
    let mut answered: Vec<Duration> = Vec::new();
    // A span that begins with one that was sent, and ends with one that was answered: of many
    // thousands some beginnings must do.
    let stride = 1 + latest_first.len() / 5_000;
    for (n, one) in latest_first.iter().enumerate() {
        let place = answered.partition_point(|other| *other <= one.answered);
        answered.insert(place, one.answered);
        if n % stride > 0 {
            continue;
        }
        for (count, end) in (1_u32..).zip(&answered) {
            let most = limit.burst() as f64 + per_second * (*end - one.sent).as_secs_f64();
            assert!(f64::from(count) <= most + 1e-6, "{count} from {:?} to {end:?}", one.sent);
        }
    }
}

pub(super) fn check(gateways: usize, limit: &str, traffic: Traffic, seconds: u64) {
    run(async {
        let members = fleet(&Fixture::new(), gateways).await;
        let limits = Arc::new(rate(limit, None));
        let limit = limits.rate.unwrap();
        let demand = limit.rate().count * 2;
        let lasts = Duration::from_secs(seconds);
        let outcome = load(&members, &limits, traffic, demand, lasts).await;
        never_above(&outcome, &limit);
        let per_second = limit.rate().count as f64 / limit.rate().unit.duration().as_secs_f64();
        let possible = limit.burst() as f64 + per_second * outcome.took.as_secs_f64();
        let admitted = outcome.admitted.len();
        // The bucket is empty by then, and what comes back is all there is.
        let steady = Duration::from_secs(2);
        let late = outcome.admitted.iter().filter(|one| one.answered >= steady).count();
        let waste = 1.0 - late as f64 / (per_second * (outcome.took - steady).as_secs_f64());
        println!(
            "{gateways} gateways, {}, {traffic:?}: {admitted} admitted of {possible:.0} possible, \
             {:.2} % wasted after {steady:?}, {:.4} questions each",
            limit.rate(),
            100.0 * waste,
            outcome.asked as f64 / admitted as f64,
        );
        // Time enough for waste to show; how little there is, the bench says.
        assert!(admitted as f64 > possible * 0.25, "{admitted} of {possible}");
    });
}
