//! What the protocols' own documents ask of a server, case by case: what is sent, what may come of
//! it, and where this server does something else, what and why. A case is a line of a table; a line
//! that neither is allowed nor stands among the known deviations fails.

mod deviations;
mod h1;
mod h1_cases;
mod h1_gateway;
mod h2;
mod h2_cases;
mod h2_requests;
mod h2_streams;

use std::fmt::Write;

/// What a document says about one situation.
pub(crate) struct Case<What> {
    pub section: &'static str,
    pub name: &'static str,
    pub what: What,
    /// The outcomes that the document allows.
    pub allowed: &'static [&'static str],
}

/// Where this server does not do as it is told: the section, the case, what it does, and why.
type Deviation = (&'static str, &'static str, &'static str, &'static str);

/// Runs the cases, prints how each came out, and fails if one is neither right nor known.
fn hold<What>(
    title: &str,
    cases: &[Case<What>],
    deviations: &[Deviation],
    run: impl Fn(&What) -> String,
) {
    let (mut table, mut wrong) = (format!("{title}: {} cases\n", cases.len()), Vec::new());
    let mut used = vec![false; deviations.len()];
    for Case { section, name, what, allowed } in cases {
        let outcome = run(what);
        let known = deviations.iter().position(|known| (known.0, known.1) == (*section, *name));
        let verdict = match known {
            _ if allowed.contains(&&*outcome) => "ok",
            Some(at) if deviations[at].2 == outcome => {
                used[at] = true;
                "deviates"
            }
            _ => {
                wrong.push(format!("{section} {name}: {outcome}, allowed: {allowed:?}"));
                "WRONG"
            }
        };
        writeln!(table, "{verdict:8} {section:22} {name:75} {outcome}").unwrap();
    }
    println!("{table}");
    // A deviation that is none any more would hide the next one.
    for (at, known) in deviations.iter().enumerate().filter(|(at, _)| !used[*at]) {
        wrong.push(format!("no deviation any more ({at}): {} {}", known.0, known.1));
    }
    assert!(wrong.is_empty(), "{table}\n{}", wrong.join("\n"));
}
