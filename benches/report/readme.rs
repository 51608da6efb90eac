//! README's table: its rows from a run's figures, between two marks.

use std::path::Path;

use crate::chart::short;
use crate::figures::{Figures, Timing, median_ratio, timings};
use crate::machine;

const BEGIN: &str = "<!-- numbers: `make bench` writes them -->";
const END: &str = "<!-- end of numbers -->";

/// Puts the figures of a run into README. What was not measured has no row.
pub(crate) fn renew(readme: &Path, folder: &Path) {
    let text = std::fs::read_to_string(readme).expect("README is there");
    let begin = text.find(BEGIN).expect("README says where its numbers begin") + BEGIN.len();
    let end = text.find(END).expect("README says where its numbers end");
    let run = folder.file_name().unwrap_or_default().to_string_lossy();
    let commit = machine::commit(folder);
    // README is short: its heading says where all else is.
    let mut table = format!(
        "\n| [run of {run}](benches/runs/{run}), commit {commit} | measured | aim |\n|---|---|---|\n"
    );
    let rows = rows(folder);
    for (what, measured, aim) in &rows {
        table += &format!("| {what} | {measured} | {aim} |\n");
    }
    if rows.is_empty() {
        println!("nothing was measured that README shows: it stays as it is");
        return;
    }
    std::fs::write(readme, [&text[..begin], &table, &text[end..]].concat())
        .expect("README is written");
    println!("README shows {} rows of {}", rows.len(), folder.display());
}

type Line = (String, String, &'static str);

fn rows(folder: &Path) -> Vec<Line> {
    let decide = timings(folder, "decide");
    let rows =
        [decision(&decide), whole(folder), rivals(folder), growth(folder), revocation(folder)];
    rows.into_iter().flatten().collect()
}

fn decision(decide: &[Timing]) -> Option<Line> {
    let of = |name: &str| decide.iter().find(|timing| timing.name == name);
    let (few, many) = (of("whole_limited/1000")?, of("whole_limited/1000000")?);
    let measured = format!(
        "{} ns, {} ns; {} allocations",
        short(few.median_ns),
        short(many.median_ns),
        short(few.allocations.max(many.allocations))
    );
    let what =
        "decision of a cached key with limits: 1 000 keys, 1 000 000 in random order (medians)";
    Some((what.into(), measured, "400 ns, 1 µs; 0"))
}

/// Of two contestants, by rounds.
fn ratio(figures: &Figures, column: &str, keys: &str, one: &str, to: &str) -> Option<f64> {
    let of = |name: &str| figures.numbers(column, &[("keys", keys), ("contestant", name)]);
    median_ratio(&of(one), &of(to))
}

fn whole(folder: &Path) -> Option<Line> {
    let figures = Figures::read(folder, "end_to_end")?;
    let rate = ratio(&figures, "requests_per_second", "1000", "ours", "bare")?;
    let cpu = cpu(&figures, "1000", "ours")? / cpu(&figures, "1000", "bare")?;
    let late = Figures::read(folder, "latency");
    let late = late.and_then(|figures| ratio(&figures, "p999_us", "1000", "ours", "bare"))?;
    let what = "whole request, everything on, against a bare Pingora pass-through: requests/s; CPU; p99.9 at \
                70 % of its own rate";
    let measured = format!("× {rate:.2}; × {cpu:.2}; × {late:.2}");
    Some((what.into(), measured, "× 0.95; × 1.05; × 1.2"))
}

fn cpu(figures: &Figures, keys: &str, name: &str) -> Option<f64> {
    let with = [("keys", keys), ("contestant", name)];
    let user = figures.numbers("cpu_user_us", &with);
    let system = figures.numbers("cpu_system_us", &with);
    crate::figures::median(user.iter().zip(&system).map(|(user, system)| user + system).collect())
}

fn rivals(folder: &Path) -> Option<Line> {
    let figures = Figures::read(folder, "end_to_end")?;
    let names = ["ours", "ours-rate", "nginx-lua", "haproxy-keys"];
    let of = |keys: &str| {
        let each =
            names.map(|name| cpu(&figures, keys, name).map_or_else(|| "–".to_owned(), short));
        each.join(" / ")
    };
    let all: Vec<String> = figures.each("keys").iter().map(|keys| of(keys)).collect();
    let keys = figures.each("keys").join(", ");
    let what = format!(
        "CPU of a request in µs: with everything on / with a rate alone / nginx + Lua / HAProxy, with {keys} keys"
    );
    Some((what, all.join("; "), "–"))
}

fn growth(folder: &Path) -> Option<Line> {
    let figures = Figures::read(folder, "scale")?;
    let of =
        |case: &str| figures.numbers("requests_per_second", &[("group", "keys"), ("case", case)]);
    let ratio = median_ratio(&of("1000000 keys Uniform"), &of("1000 keys Uniform"))?;
    let memory = Figures::read(folder, "memory")?;
    let each = |what: &str| {
        memory.median("bytes_each", &[("what", what)]).map_or_else(|| "–".to_owned(), short)
    };
    let what =
        "requests/s with 1 000 000 keys against 1 000; memory of a key in use, of a connection";
    let measured = format!("× {ratio:.2}; {} B, {} B", each("key in use"), each("connection"));
    Some((what.into(), measured, "× 0.9; –"))
}

fn revocation(folder: &Path) -> Option<Line> {
    let figures = Figures::read(folder, "revocation")?;
    let mut took = figures.numbers("refused_after_us", &[]);
    took.sort_by(f64::total_cmp);
    let at = |share: f64| took.get((share * (took.len().max(1) - 1) as f64) as usize).copied();
    let what = "a revocation acknowledged on one gateway is in force on another: median, p99";
    let measured = format!("{} µs, {} µs", short(at(0.5)?), short(at(0.99)?));
    Some((what.into(), measured, "milliseconds"))
}
