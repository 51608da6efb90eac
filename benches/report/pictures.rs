//! What of a run is drawn, and how.

use std::path::Path;

use crate::chart::{Bars, Group, Row, Shares};
use crate::figures::{Figures, Timing, median, timings};

/// Draws whatever benches were run. Their names.
pub(crate) fn draw(folder: &Path) -> Vec<String> {
    let mut drawn = Vec::new();
    let mut save = |name: &str, svg: Option<String>| {
        if let Some(svg) = svg {
            std::fs::write(folder.join(format!("{name}.svg")), svg)
                .expect("the picture is written");
            drawn.push(name.to_owned());
        }
    };
    save("end_to_end", end_to_end(folder));
    save("throughput", throughput(folder));
    save("latency", latency(folder));
    save("scale", scale(folder));
    save("revocation", revocation(folder));
    save("fleet_limits", fleet_limits(folder));
    save("access_log", access_log(folder));
    save("tls", tls(folder));
    for name in ["decide", "lookup", "limits"] {
        save(name, timed(folder, name));
    }
    save("instructions", instructions(folder));
    drawn
}

fn end_to_end(folder: &Path) -> Option<String> {
    let figures = Figures::read(folder, "end_to_end")?;
    let group = |keys: String| {
        let row = |name: String| {
            let with = [("keys", keys.as_str()), ("contestant", name.as_str())];
            let user = figures.numbers("cpu_user_us", &with);
            let system = figures.numbers("cpu_system_us", &with);
            let dots = user.iter().zip(&system).map(|(user, system)| user + system).collect();
            Some(Row { parts: vec![median(user)?, median(system)?], dots, name: name.clone() })
        };
        let rows = figures.each("contestant").into_iter().filter_map(row).collect();
        Group { name: format!("{keys} keys"), rows }
    };
    let groups = figures.each("keys").into_iter().map(group).collect();
    let bars = Bars {
        title: "Processor time of a request, end to end, one core",
        axis: "µs of CPU a request: medians; dots are rounds",
        parts: &["user", "system"],
        groups,
    };
    Some(bars.draw())
}

fn throughput(folder: &Path) -> Option<String> {
    let figures = Figures::read(folder, "end_to_end")?;
    let groups = grouped(&figures, "keys", "contestant", "requests_per_second", |keys| {
        format!("{keys} keys")
    });
    let bars = Bars {
        title: "Requests a second, end to end, one core",
        axis: "requests/s: medians; dots are rounds",
        parts: &[],
        groups,
    };
    Some(bars.draw())
}

/// A group for each value of one column, a row for each of another.
fn grouped(
    figures: &Figures,
    group: &str,
    row: &str,
    value: &str,
    heading: impl Fn(&str) -> String,
) -> Vec<Group> {
    let of = |one: String| {
        let rows = figures.each(row).into_iter().filter_map(|name| {
            let dots = figures.numbers(value, &[(group, one.as_str()), (row, name.as_str())]);
            Some(Row { parts: vec![median(dots.clone())?], dots, name })
        });
        Group { rows: rows.collect(), name: heading(&one) }
    };
    figures.each(group).into_iter().map(of).collect()
}

fn latency(folder: &Path) -> Option<String> {
    let figures = Figures::read(folder, "latency")?;
    let mut groups = Vec::new();
    for keys in figures.each("keys") {
        for (column, name) in [("p50_us", "p50"), ("p99_us", "p99"), ("p999_us", "p99.9")] {
            let rows = figures.each("contestant").into_iter().filter_map(|contestant| {
                let with = [("keys", keys.as_str()), ("contestant", contestant.as_str())];
                let dots = figures.numbers(column, &with);
                Some(Row { parts: vec![median(dots.clone())?], dots, name: contestant })
            });
            groups.push(Group { rows: rows.collect(), name: format!("{name}, {keys} keys") });
        }
    }
    let bars = Bars {
        title: "Time of a request at 70 % of the proxy's own maximum rate",
        axis: "µs from when the request was due: medians; dots are rounds",
        parts: &[],
        groups,
    };
    Some(bars.draw())
}

fn scale(folder: &Path) -> Option<String> {
    let figures = Figures::read(folder, "scale")?;
    let groups = grouped(&figures, "group", "case", "requests_per_second", str::to_owned);
    let bars = Bars {
        title: "How throughput grows, one core for the gateway",
        axis: "requests/s: medians; dots are rounds",
        parts: &[],
        groups,
    };
    Some(bars.draw())
}

fn revocation(folder: &Path) -> Option<String> {
    let figures = Figures::read(folder, "revocation")?;
    let sorted = |column: &str| {
        let mut values = figures.numbers(column, &[]);
        values.sort_by(f64::total_cmp);
        values
    };
    let lines = vec![
        ("acknowledged on A to refused on B".to_owned(), sorted("refused_after_us")),
        ("asked of A to acknowledged on A".to_owned(), sorted("change_us")),
    ];
    let shares = Shares {
        title: "Revocations over Redis: how many had come through after how long",
        axis: "µs",
        lines,
    };
    Some(shares.draw())
}

fn fleet_limits(folder: &Path) -> Option<String> {
    let figures = Figures::read(folder, "fleet_limits")?;
    let group = |keys: String| {
        let rows = figures.each("gateways").into_iter().filter_map(|gateways| {
            let with =
                [("what", "trips"), ("keys", keys.as_str()), ("gateways", gateways.as_str())];
            let calls = figures.median("redis_calls", &with)?;
            let requests = figures.median("requests", &with)?;
            let name = format!("{gateways} gateways");
            Some(Row { name, parts: vec![1e3 * calls / requests], dots: Vec::new() })
        });
        Group { rows: rows.collect(), name: format!("{keys} limited keys") }
    };
    let bars = Bars {
        title: "What limits of a fleet ask of Redis",
        axis: "calls to Redis per 1 000 requests",
        parts: &[],
        groups: figures.each("keys").into_iter().map(group).collect(),
    };
    Some(bars.draw())
}

fn access_log(folder: &Path) -> Option<String> {
    let figures = Figures::read(folder, "access_log")?;
    let rows = ["off", "on"].into_iter().filter_map(|name| {
        let with = [("access_log", name)];
        let user = figures.numbers("cpu_user_us", &with);
        let system = figures.numbers("cpu_system_us", &with);
        let dots = user.iter().zip(&system).map(|(user, system)| user + system).collect();
        Some(Row { name: name.to_owned(), parts: vec![median(user)?, median(system)?], dots })
    });
    let bars = Bars {
        title: "What the access log costs",
        axis: "µs of CPU a request: medians; dots are rounds",
        parts: &["user", "system"],
        groups: vec![Group { name: "access log".to_owned(), rows: rows.collect() }],
    };
    Some(bars.draw())
}

fn tls(folder: &Path) -> Option<String> {
    let figures = Figures::read(folder, "tls")?;
    let groups = grouped(&figures, "load", "contestant", "cpu_us", str::to_owned);
    let bars = Bars {
        title: "Processor time with TLS, against nginx without keys",
        axis: "µs of CPU a handshake or request: medians; dots are rounds",
        parts: &[],
        groups,
    };
    Some(bars.draw())
}

/// What divan measured: those with arguments under their names, the rest together.
fn timed(folder: &Path, name: &str) -> Option<String> {
    let timings = timings(folder, name);
    if timings.is_empty() {
        return None;
    }
    let mut groups: Vec<Group> = Vec::new();
    for Timing { name, median_ns, allocations } in timings {
        let (group, row) = name.split_once('/').unwrap_or(("steps", &name));
        let row =
            if allocations > 0.0 { format!("{row}, {allocations} alloc.") } else { row.into() };
        let row = Row { name: row, parts: vec![median_ns], dots: Vec::new() };
        match groups.iter_mut().find(|one| one.name == group) {
            Some(group) => group.rows.push(row),
            None => groups.push(Group { name: group.to_owned(), rows: vec![row] }),
        }
    }
    let title = format!("{name}: time of one call");
    Some(Bars { title: &title, axis: "ns: medians", parts: &[], groups }.draw())
}

fn instructions(folder: &Path) -> Option<String> {
    let figures = Figures::read(folder, "instructions")?;
    let rows = figures.each("step").into_iter().filter_map(|name| {
        let count = figures.median("instructions", &[("step", name.as_str())])?;
        Some(Row { parts: vec![count], dots: Vec::new(), name })
    });
    let bars = Bars {
        title: "Instructions of the decision and its steps, under callgrind",
        axis: "instructions of one call",
        parts: &[],
        groups: vec![Group { name: "decision".to_owned(), rows: rows.collect() }],
    };
    Some(bars.draw())
}
