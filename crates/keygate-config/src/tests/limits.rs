//! Guarantees about limits: tiers, a route's cost against them, and `[limits]`.

use std::time::Duration;

use keygate_core::limit::Unit;
use keygate_core::limit::terms::{Limits, Pool, Share};

use super::*;

/// The same for the keys of a tier, on line 5 and below.
fn check_tier(keys: &str, expect: &str) {
    check(&format!("[tiers.free]\n{keys}"), expect);
}

/// The same for a route's cost, on line 11, and these tables below it.
fn check_cost(cost: &str, tiers: &str, expect: &str) {
    check_route(&format!("path = \"/a\"\nauth = \"key\"\ncost = {cost}\n{tiers}"), expect);
}

fn tier(name: &str, keys: &str) -> String {
    format!("[tiers.{name}]\n{keys}\n")
}

#[test]
fn a_tiers_limits_arrive_under_its_name() {
    let config = settings_of(
        "[tiers.paid]\nrate = \"200/s\"\nburst = 500\nquotas = [\"20000/month\", \"1000/day\"]\n\
         concurrency = 5\nshare = \"account\"\n[tiers.free]\nrate = \"100/minute\"\n[tiers.open]\n",
    );
    let names: Vec<&str> = config.tiers.iter().map(|tier| &*tier.name).collect();
    assert_eq!(names, ["free", "open", "paid"]);
    let paid = config.tier("paid").unwrap();
    let rate = paid.rate.unwrap();
    assert_eq!((rate.rate().to_string(), rate.burst()), ("200/second".to_owned(), 500));
    let quotas: Vec<_> = paid.quotas.iter().map(|quota| (quota.unit, quota.count)).collect();
    assert_eq!(quotas, [(Unit::Day, 1_000), (Unit::Month, 20_000)], "the shortest first");
    assert_eq!((paid.concurrency, paid.share), (Some(5), Share::Account));
    let free = config.tier("free").unwrap();
    assert_eq!(free.rate.unwrap().burst(), 1, "one second's worth, at least 1");
    assert_eq!((free.quotas.len(), free.concurrency, free.share), (0, None, Share::Key));
    let open = Limits { pool: Pool::of_tier("open"), ..Limits::default() };
    assert_eq!(config.tier("open"), Some(&open));
    for none in ["", "fre", "freee", "Free", "zzz"] {
        assert_eq!(config.tier(none), None, "{none}");
    }
}

#[test]
fn a_tier_may_say_how_old_its_keys_may_get() {
    let config = settings_of("[tiers.short]\nmax_age = \"90d\"\n[tiers.open]\n");
    assert_eq!(config.tier_max_age("short"), Some(Duration::from_secs(90 * 86_400)));
    assert_eq!([config.tier_max_age("open"), config.tier_max_age("other")], [None; 2]);
    for wrong in ["\"999ms\"", "\"3651d\"", "\"0s\"", "90", "\"soon\""] {
        let text = format!("{HEAD}[tiers.short]\nmax_age = {wrong}\n");
        assert!(parsed(&text).is_err(), "{wrong}");
    }
}

#[test]
fn every_tier_is_found_however_many_there_are() {
    let tiers: String =
        (0..1_000).map(|n| tier(&format!("t{n}"), &format!("concurrency={}", n + 1))).collect();
    let config = settings_of(&tiers);
    for n in 0..1_000 {
        let limits = config.tier(&format!("t{n}")).unwrap();
        assert_eq!(limits.concurrency, Some(n + 1));
    }
    check(&format!("{tiers}[tiers.more]"), "4:2: there are more than 1000 of `[tiers.NAME]`");
}

#[test]
fn wrong_limits_say_what_is_right() {
    check_tier(
        "burst = 5",
        "5:1: `burst` means nothing without `rate`; write a `rate` too, such as `rate = \"100/s\"`",
    );
    check_tier("rate = 10", "5:8: a rate needs a unit; write a unit: `\"10/s\"`");
    check_tier("rate = \"1000000001/s\"", "5:8: a rate counts at most 1000000000");
    check_tier(
        "rate = \"0/s\"",
        "5:8: write a rate as `100/s`: a whole number above 0, then `/` and second, minute, hour, day or month",
    );
    for burst in ["0", "1_000_000_001", "99999999999999999999"] {
        check_tier(
            &format!("rate = \"1000000000/s\"\nburst = {burst}"),
            "6:9: `burst` is out of range: 1 to 1000000000",
        );
    }
    check_tier(
        "rate = \"1/month\"\nburst = 122",
        "6:9: a bucket of this `burst` takes more than ten years to fill at this `rate`; \
         write a smaller `burst`, or a higher `rate`",
    );
    for concurrency in ["0", "1_000_001"] {
        check_tier(
            &format!("concurrency = {concurrency}"),
            "5:15: `concurrency` is out of range: 1 to 1000000",
        );
    }
    check_tier(
        "share = \"ap\"",
        "5:9: not one of the words that are known here; did you mean `\"app\"`?",
    );
    check_tier(
        "share = \"team\"",
        "5:9: not one of the words that are known here; write `\"key\"` or `\"app\"` or `\"account\"`",
    );
    check_tier("cost = 5", "5:1: unknown key `cost` in `[tiers.NAME]`");
    check_tier(
        "quota = [\"5/day\"]",
        "5:1: unknown key `quota` in `[tiers.NAME]`; did you mean `quotas`?",
    );
}

#[test]
fn wrong_quotas_say_what_is_right() {
    const HELP: &str = "write it as `1000/day`: a whole number above 0, then `/` and second, minute, hour, day or month";
    for wrong in ["5/week", "5/", "/day", "0/day", "-5/day", "1.5/day", "lots", "5 / day"] {
        check_tier(&format!("quotas = [\"{wrong}\"]"), &format!("5:11: not a quota; {HELP}"));
    }
    check_tier("quotas = [\"1000\"]", "5:11: a quota needs a unit; write a unit: `\"1000/day\"`");
    check_tier(
        "quotas = \"1000/day\"",
        "5:10: expected a list of quotas, found a string; write `[\"1000/day\"]`",
    );
    check_tier("quotas = [\"1000000000001/month\"]", "5:11: a quota counts at most 1000000000000");
    check_tier("quotas = [\"18446744073709551616/month\"]", &format!("5:11: not a quota; {HELP}"));
    check_tier(
        "quotas = [\"5/day\", \"1/s\", \"6/d\"]",
        "5:27: a quota in this unit is in the list already; keep one of them",
    );
    check_tier(
        "quotas = [\"1/s\", \"1/m\", \"1/h\", \"1/d\", \"1/month\", \"2/s\"]",
        "5:10: `quotas` is out of range: 0 to 5 elements",
    );
    let config = settings_of(
        "[tiers.a]\nquotas = [\"5/month\", \"4/d\", \"3/h\", \"2/m\", \"1000000000000/s\"]",
    );
    let counts: Vec<u64> = config.tiers[0].limits.quotas.iter().map(|quota| quota.count).collect();
    assert_eq!(counts, [1_000_000_000_000, 2, 3, 4, 5]);
}

#[test]
fn the_settings_of_all_limits_are_checked() {
    let limits = settings_of("").limits;
    assert!(limits.headers && !limits.x_headers);
    assert_eq!(limits.lease.as_secs(), 2);
    let limits =
        settings_of("[limits]\nheaders = false\nx_headers = true\nlease = \"500ms\"").limits;
    assert!(!limits.headers && limits.x_headers);
    assert_eq!(limits.lease.as_millis(), 500);
    for lease in ["499ms", "61s"] {
        check(
            &format!("[limits]\nlease = \"{lease}\""),
            "5:9: `lease` is out of range: `500ms` to `1m`",
        );
    }
    check("[limits]\nlease = 2", "5:9: a duration needs a unit; write a unit: `\"2s\"`");
    check(
        "[limits]\nx-headers = true",
        "5:1: unknown key `x-headers` in `[limits]`; did you mean `x_headers`?",
    );
    check(
        "[limits]\nheaders = \"on\"",
        "5:11: expected a boolean, found a string; write `true` or `false`, without quotes",
    );
    check("[limit]", "4:2: unknown key `limit` in `gateway.toml`; did you mean `limits`?");
}

#[test]
fn a_routes_cost_arrives_and_is_checked() {
    let cost = |key: &str| {
        let route = "[[routes]]\nname=\"a\"\npath=\"/a\"\nupstream=\"orders\"\nauth=\"key\"\n";
        let config = settings_of(&format!("{UPSTREAM}{route}{key}"));
        let Access::Key(access) = &config.routes.routes()[0].access else { panic!("public") };
        access.cost
    };
    assert_eq!((cost(""), cost("cost = 5"), cost("cost = 1_000_000")), (1, 5, 1_000_000));
    for wrong in ["0", "1_000_001"] {
        check_cost(wrong, "", "11:8: `cost` is out of range: 1 to 1000000");
    }
    check_cost("-1", "", "11:8: a number here cannot be below 0");
    check_cost("\"5\"", "", "11:8: expected a whole number, found a string");
}

#[test]
fn a_cost_that_can_pass_in_no_tier_is_refused() {
    let free = tier("free", "rate = \"10/s\"\nburst = 20");
    let paid = tier("paid", "rate = \"10/s\"\nquotas = [\"30/h\", \"40/day\"]\nburst = 50");
    check_cost("20", &free, "");
    check_cost(
        "21",
        &free,
        "11:8: a request of this cost can pass in no tier; \
         write `burst = 21` or more in `[tiers.free]`, or lower `cost`",
    );
    // A bucket that nobody has named is too small too.
    check_cost(
        "2",
        &tier("free", "rate = \"100/minute\""),
        "11:8: a request of this cost can pass in no tier; \
         write `burst = 2` or more in `[tiers.free]`, or lower `cost`",
    );
    // The tier that comes closest.
    check_cost(
        "31",
        &format!("{paid}{free}"),
        "11:8: a request of this cost can pass in no tier; \
         write `31/hour` or more in `quotas` of `[tiers.paid]`, or lower `cost`",
    );
}

#[test]
fn a_cost_that_can_pass_in_some_tiers_only_is_a_warning() {
    let free = tier("free", "rate = \"10/s\"\nburst = 20");
    let paid = tier("paid", "quotas = [\"30/day\"]");
    check_cost(
        "30",
        &format!("{free}{paid}"),
        "warning: 11:8: a request of this cost can never pass in tier `free`; \
         write `burst = 30` or more in `[tiers.free]`, if the keys in it are to use this route",
    );
    // No rate and no quota: any cost passes there.
    check_cost(
        "1_000_000",
        &format!("{paid}{}", tier("staff", "concurrency = 1")),
        "warning: 11:8: a request of this cost can never pass in tier `paid`; \
         write `1000000/day` or more in `quotas` of `[tiers.paid]`, if the keys in it are to use this route",
    );
    let many: String =
        (1..=5).map(|n| tier(&format!("t{n}"), &format!("quotas = [\"{n}/s\"]"))).collect();
    check_cost(
        "5",
        &many,
        "warning: 11:8: a request of this cost can never pass in tiers `t4`, `t3`, `t2`, 1 more; \
         write `5/second` or more in `quotas` of `[tiers.t4]`, if the keys in it are to use this route",
    );
    check_cost("1", &many, "");
}

#[test]
fn a_limit_from_the_environment_counts_and_is_not_told() {
    let keys = "rate = \"${DIGITS}/month\"\nquotas = [\"${DIGITS}/day\"]";
    let limits = &settings_of(&tier("free", keys)).tiers[0].limits;
    assert_eq!((limits.rate.unwrap().rate().count, limits.quotas[0].count), (7_357_073, 7_357_073));
    // Its bucket holds 2.
    check_cost(
        "3",
        &tier("free", keys),
        "11:8: a request of this cost can pass in no tier; \
         write `burst = 3` or more in `[tiers.free]`, or lower `cost`",
    );
    check_tier("rate = \"${DIGITS}000/s\"", "5:8: a rate counts at most 1000000000");
    check_tier("quotas = [\"${DIGITS}000000/s\"]", "5:11: a quota counts at most 1000000000000");
}
