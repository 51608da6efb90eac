//! How many instructions the decision and its steps take: counted by callgrind, so that a noisy machine
//! moves nothing. `cargo bench -p keygate-proxy --profile counted --bench instructions -- check` fails when
//! one is off what `benches/instructions.csv` says by more than a twentieth; `renew` writes it anew.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "a bench that cannot go on stops, and prints what it found"
)]

mod fixture;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::Path;
use std::pin::pin;
use std::process::{Command, ExitCode, Stdio};
use std::task::{Context, Poll, Waker};

use fixture::{KeyRing, PEER, config, gateway_of, head, peppers, real_clock, warm_cache};
use keygate_core::key::PresentedKey;
use keygate_core::path::normalize;
use keygate_core::scope::{RequiredScopes, ScopeSet};
use keygate_proxy::Gateway;
use keygate_store::limits::Limiter;

/// Of what is counted, how much may change without a word.
const TOLERANCE: f64 = 0.05;
const CALLS: usize = 500;
const KEYS: usize = 200;
const KNOWN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../benches/instructions.csv");

/// What callgrind looks at. Its name is what the count begins and ends by.
#[inline(never)]
fn counted_calls(work: &mut dyn FnMut(usize)) {
    for call in 0..CALLS {
        work(call);
    }
}

const STEPS: &[(&str, fn())] = &[
    ("whole", whole),
    ("whole_limited", whole_limited),
    ("whole_made_up", whole_made_up),
    ("parse_key", parse_key),
    ("identify", identify),
    ("normalize_path", normalize_path),
    ("find_route", find_route),
    ("check_scopes", check_scopes),
    ("cached", cached),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some(name) = args.iter().find_map(|arg| arg.strip_prefix("step=")) {
        let step = STEPS.iter().find(|step| step.0 == name).expect("a step of that name");
        step.1();
        return ExitCode::SUCCESS;
    }
    let valgrind = Command::new("valgrind").arg("--version").stdout(Stdio::null()).status();
    if valgrind.is_err() {
        println!("skipped: valgrind is not installed, so no instructions are counted");
        return ExitCode::SUCCESS;
    }
    let counts = count();
    let asked = |name: &str| args.iter().any(|arg| arg == name);
    if let Some(folder) = args.iter().find_map(|arg| arg.strip_prefix("out=")) {
        std::fs::write(Path::new(folder).join("instructions.csv"), text(&counts)).unwrap();
    }
    if asked("renew") {
        std::fs::write(KNOWN, text(&counts)).unwrap();
    }
    let fits = compare(&counts);
    if asked("check") && !fits {
        println!(
            "If that is meant, `make instructions RENEW=1` writes benches/instructions.csv anew: it goes \
             into the same commit."
        );
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Of each step, for one call.
fn count() -> BTreeMap<String, f64> {
    let folder = tempfile::tempdir().unwrap();
    let program = std::env::current_exe().unwrap();
    let mut counts = BTreeMap::new();
    for (name, _) in STEPS {
        let out = folder.path().join(name);
        let output = Command::new("valgrind")
            .args(["--tool=callgrind", "--toggle-collect=*counted_calls*"])
            .arg(format!("--callgrind-out-file={}", out.display()))
            .arg(&program)
            .arg(format!("step={name}"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = std::fs::read_to_string(out).unwrap();
        let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
        let total: f64 = total.expect("callgrind says how many").trim().parse().unwrap();
        assert!(total > 0.0, "callgrind saw no call of {name}");
        counts.insert((*name).to_owned(), (total / CALLS as f64).round());
    }
    counts
}

fn text(counts: &BTreeMap<String, f64>) -> String {
    let lines = counts.iter().map(|(name, count)| format!("{name},{count}\n"));
    ["step,instructions\n".to_owned()].into_iter().chain(lines).collect()
}

/// Whether all are near enough to what is known of them.
fn compare(counts: &BTreeMap<String, f64>) -> bool {
    let known = std::fs::read_to_string(KNOWN).unwrap_or_default();
    let known: BTreeMap<&str, f64> = known
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once(','))
        .filter_map(|(name, count)| Some((name, count.parse().ok()?)))
        .collect();
    let mut fits = true;
    println!("{:28} {:>9} {:>9}", "instructions of a call", "known", "now");
    for (name, now) in counts {
        let before = known.get(name.as_str());
        let off = before.map_or(f64::INFINITY, |before| now / before - 1.0);
        let is_off = off.abs() > TOLERANCE;
        let verdict = if is_off { "  OFF" } else { "" };
        let before = before.map_or_else(|| "–".to_owned(), |before| format!("{before:.0}"));
        println!("{name:28} {before:>9} {now:>9.0} {:>+7.1} %{verdict}", 100.0 * off);
        fits &= !is_off;
    }
    fits
}

// === the steps ===

fn gateway(ring: KeyRing) -> Gateway<KeyRing> {
    gateway_of(warm_cache(ring, &config().cache), Limiter::in_memory(real_clock))
}

fn decides(ring: KeyRing, texts: &[String], admits: bool) {
    let gateway = gateway(ring);
    let heads: Vec<_> = texts.iter().map(|text| head(text)).collect();
    let mut decide = |call: usize| {
        let decided = pin!(gateway.rehearse(black_box(&heads[call % heads.len()]), PEER));
        let Poll::Ready(decided) = decided.poll(&mut Context::from_waker(Waker::noop())) else {
            panic!("a cached key is decided on at once");
        };
        assert_eq!(decided.is_ok(), admits);
    };
    // What only a first request needs.
    (0..heads.len()).for_each(&mut decide);
    counted_calls(&mut decide);
}

fn whole() {
    let ring = KeyRing::new(KEYS);
    let texts = ring.texts.clone();
    decides(ring, &texts, true);
}

fn whole_limited() {
    let ring = KeyRing::limited(KEYS);
    let texts = ring.texts.clone();
    decides(ring, &texts, true);
}

fn whole_made_up() {
    let ring = KeyRing::new(1);
    let mut wrong = ring.texts[0].clone();
    wrong.replace_range(20..21, if &wrong[20..21] == "2" { "3" } else { "2" });
    decides(ring, &[wrong], false);
}

fn parse_key() {
    let ring = KeyRing::new(KEYS);
    counted_calls(&mut |call| {
        let text = black_box(&ring.texts[call % KEYS]);
        assert!(PresentedKey::parse(text.as_bytes(), None).is_ok());
    });
}

fn identify() {
    let ring = KeyRing::new(KEYS);
    let peppers = peppers();
    let keys: Vec<_> =
        ring.texts.iter().map(|text| PresentedKey::parse(text.as_bytes(), None).unwrap()).collect();
    counted_calls(&mut |call| assert!(peppers.identify(black_box(&keys[call % KEYS])).is_some()));
}

fn normalize_path() {
    counted_calls(&mut |_| assert!(normalize(black_box("/v1/orders/123")).is_ok()));
}

fn find_route() {
    let config = config();
    counted_calls(&mut |_| {
        let path = black_box("/v1/orders/123");
        assert!(config.routes.place("api.example.com", path, "GET").is_ok());
    });
}

fn check_scopes() {
    let held = ["write:orders", "admin:reports", "read:orders"].map(|name| name.parse().unwrap());
    let held = ScopeSet::new(&held);
    let required = RequiredScopes { all: vec!["read:orders".parse().unwrap()], any: vec![] };
    counted_calls(&mut |_| assert!(black_box(&required).are_met_by(black_box(&held))));
}

fn cached() {
    let ring = KeyRing::new(KEYS);
    let digests = ring.digests.clone();
    let cache = warm_cache(ring, &config().cache);
    counted_calls(&mut |call| assert!(cache.cached(black_box(&digests[call % KEYS])).is_some()));
}
